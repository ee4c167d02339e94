"""Taking a snapshot at a chosen moment of a run: when a text has come on the serial port, or at the N-th exit.

The vCPUs come out of the guest right after the access that completed the text, or right after that exit was served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..machine import Machine
    from ..runner import WayIn

Use = Callable[[Snapshot], object]


@dataclass(frozen=True, slots=True)
class Moment:
    """`text` on the serial port, or, if that is None, the exit number `exits`, of all CPUs together."""

    text: bytes | None = None
    exits: int = 0

    @classmethod
    def parse(cls, spec: str) -> Moment:
        """From `exits:N`, or any other text; ConfigError if it is neither."""
        kind, colon, number = spec.partition(":")
        if kind == "exits" and colon:
            if not number.isascii() or not number.isdigit() or not 0 < int(number) < 1 << 63:
                raise ConfigError(f"{spec!r}: give exits:N with a positive number")
            return cls(exits=int(number))
        if not spec:
            raise ConfigError("an empty text is on the serial port at any time: give some of it, or exits:N")
        return cls(text=spec.encode())


def snapshot_at(machine: Machine, moment: Moment, use: Use) -> None:
    """Have `use` called with a snapshot at that moment of the run, once. Before the start, with the lock held.

    `use` is called with the lock held and all vCPUs out of the guest: it may save the snapshot or end the run. What it
    raises ends the run.
    """
    call_at(machine, moment, lambda: use(machine.timeline.take("warn")))


def call_at(machine: Machine, moment: Moment, callback: Callable[[], object]) -> None:
    """The same without a snapshot."""

    def call() -> None:
        for runner in machine.runners:
            if isinstance(runner.way_in, _CountingWayIn):
                runner.way_in = runner.way_in.inner
        callback()

    reached = partial(machine.at_rest, call)
    if moment.text is None:
        counter = _Counter(moment.exits, machine, reached)
        for runner in machine.runners:
            runner.way_in = _CountingWayIn(runner.way_in, counter)
    else:
        _Listener(machine, moment.text, reached)


class _Listener:
    """Between the serial port and whoever shows its output, until the text has come."""

    def __init__(self, machine: Machine, text: bytes, reached: Callable[[], None]) -> None:
        self._port = machine.serial
        self._text = text
        self._reached = reached
        self._next = self._port.sink
        self._seen = b""
        self._port.sink = self._hear

    def _hear(self, data: bytes) -> None:
        if self._next is not None:
            self._next(data)
        self._seen += data
        if self._text in self._seen:
            self._port.sink = self._next
            self._reached()
        else:
            self._seen = self._seen[-len(self._text) :]


class _Counter:
    """Counts down the exits of all CPUs."""

    def __init__(self, left: int, machine: Machine, reached: Callable[[], None]) -> None:
        self._left = left
        self._machine = machine
        self._reached = reached

    def count(self, result: int) -> int:
        if result >= 0:
            with self._machine.lock:
                self._left -= 1
                if self._left == 0:
                    self._reached()
        return result


class _CountingWayIn:
    """Enters the guest as `way_in` does, and counts the exits."""

    def __init__(self, way_in: WayIn, counter: _Counter) -> None:
        self.inner = way_in
        enter, answering, count = way_in.enter, way_in.enter_answering, counter.count
        self.enter: Callable[[], int] = lambda: count(enter())
        self.enter_answering: Callable[[int], int] = lambda value: count(answering(value))
