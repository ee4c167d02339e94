"""Taking a snapshot at a chosen moment of a run: when a text has come on the serial port, or at the N-th exit.

The vCPUs come out of the guest right after the access that completed the text, or right after that exit was served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ..console.port import ConsolePort
from ..engine.engine import Engine
from ..engine.entry import Link, Rank
from ..errors import ConfigError
from .snapshot import Snapshot
from .timeline import Timeline

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


class Guest(Protocol):
    """What is watched: a machine."""

    @property
    def engine(self) -> Engine:
        """What runs it."""

    @property
    def serial(self) -> ConsolePort:
        """COM1."""

    @property
    def timeline(self) -> Timeline:
        """Its snapshots."""


def snapshot_at(machine: Guest, moment: Moment, use: Use) -> None:
    """Have `use` called with a snapshot at that moment of the run, once. Before the start, with the lock held.

    `use` is called with the lock held and all vCPUs out of the guest: it may save the snapshot or end the run. What it
    raises ends the run.
    """

    def take() -> None:
        use(machine.timeline.take("warn"))

    call_at(machine, moment, take)


def call_at(machine: Guest, moment: Moment, callback: Callable[[], None]) -> None:
    """The same without a snapshot."""
    if moment.text is None:
        _Countdown(machine.engine, moment.exits, callback)
    else:
        _Listener(machine.serial, moment.text, partial(machine.engine.gate.at_rest, callback))


class _Listener:
    """Between the serial port and whoever shows its output, until the text has come."""

    def __init__(self, port: ConsolePort, text: bytes, reached: Callable[[], None]) -> None:
        self._port = port
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


class _Countdown:
    """Counts down the exits of all CPUs."""

    def __init__(self, engine: Engine, exits: int, callback: Callable[[], None]) -> None:
        self._left = exits
        self._lock, self._gate = engine.gate.lock.inner, engine.gate
        self._callback = callback
        self._counters = [(runner.entry, _Counter(self.count)) for runner in engine.runners]
        for entry, counter in self._counters:
            entry.push(counter)

    def count(self) -> None:
        """One more exit, in the thread of its vCPU."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._gate.at_rest(self._reached)

    def _reached(self) -> None:
        for entry, counter in self._counters:
            entry.remove(counter)
        self._callback()


class _Counter(Link):
    """Counts the exits of one vCPU."""

    rank = Rank.COUNT

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count

    def enter(self) -> int:
        result = self.inner.enter()
        if result >= 0:
            self._count()
        return result

    def enter_answering(self, value: int) -> int:
        result = self.inner.enter_answering(value)
        if result >= 0:
            self._count()
        return result
