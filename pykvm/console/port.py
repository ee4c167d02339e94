"""The host's side of a serial port: what the guest printed, waiting for a text in it, and typing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..errors import ConfigError, PykvmError
from ..typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import re

OUTPUT_LIMIT = 4 << 20
"""Bytes of output that are kept, the newest ones: a guest that floods its port must not fill the host's memory."""
OUTPUT_MOST = 2 * OUTPUT_LIMIT
"""Beyond so many bytes the oldest are dropped, down to `OUTPUT_LIMIT`."""

INPUT_LIMIT = 1 << 20
"""Bytes of input that may wait for the guest."""


State = dict[str, Any]


class WaitFailed(PykvmError):
    """The text that was waited for did not come before the time limit or the run's end. Shows the last output."""


def _nothing() -> None:
    pass


class ConsolePort:
    """A character backend that remembers. `changed` is a condition of the machine's lock.

    The methods of the guest's side are called with the lock held; those of the host's side take it.
    """

    def __init__(self, changed: threading.Condition, name: str = "serial") -> None:
        self.name = name
        self.ready = True
        self.sink: Callable[[bytes], None] | None = None
        """Is given each piece of output as it comes: the terminal."""
        self.drained: Callable[[], None] | None = None
        """Is called when all waiting input has gone to the guest."""
        self._changed = changed
        self._waiters = 0
        self._output = bytearray()
        self._dropped = 0
        self._cursor = 0
        self._input = bytearray()
        self._ended = ""
        self._on_input: Callable[[], None] = _nothing
        self._on_ready: Callable[[], None] = _nothing

    # The guest's side

    def connect(self, on_input: Callable[[], None], on_ready: Callable[[], None]) -> None:
        """Say whom to tell of input, and of the output's being able to flow again."""
        self._on_input, self._on_ready = on_input, on_ready

    def write(self, data: bytes) -> None:
        """What the guest sent."""
        output = self._output
        output += data
        if len(output) > OUTPUT_MOST:
            self._dropped += len(output) - OUTPUT_LIMIT
            del output[:-OUTPUT_LIMIT]
        if self._waiters:
            self._changed.notify_all()
        if self.sink is not None:
            self.sink(data)

    def read(self, limit: int) -> bytes:
        """At most `limit` bytes of waiting input."""
        if not self._input or not limit:
            return b""
        data = bytes(self._input[:limit])
        del self._input[:limit]
        if not self._input and self.drained is not None:
            self.drained()
        return data

    def set_ready(self, ready: bool) -> None:
        """The sink can take more, or cannot."""
        if ready != self.ready:
            self.ready = ready
            if ready:
                self._on_ready()

    def save(self) -> State:
        """What has been said in both directions, and how far it has been listened to."""
        return {
            "output": bytes(self._output),
            "dropped": self._dropped,
            "cursor": self._cursor,
            "input": bytes(self._input),
        }

    def restore(self, state: State) -> None:
        """Take back what `save` returned; ValueError if it is anything else."""
        output, waiting = state.get("output"), state.get("input")
        dropped, cursor = state.get("dropped"), state.get("cursor")
        if type(output) is not bytes or type(waiting) is not bytes:
            raise ValueError(f"{self.name}: output and input are not both bytes")
        if len(output) > OUTPUT_MOST or len(waiting) > INPUT_LIMIT:
            raise ValueError(f"{self.name}: more output or input than is ever kept")
        if type(dropped) is not int or type(cursor) is not int or dropped < 0 or cursor < 0:
            raise ValueError(f"{self.name}: the positions {dropped!r} and {cursor!r} cannot be")
        if len(self._output) < len(output) or self._dropped != dropped or not self._output.startswith(output):
            self._output[:] = output
        del self._output[len(output) :]
        self._input[:] = waiting
        self._dropped, self._cursor, self._ended = dropped, cursor, ""

    def is_still(self, state: State) -> bool:
        """Whether nothing has been said or listened to since `state` was saved or restored last."""
        return (
            len(self._output) == len(state["output"])  # it only ever grows, or has more dropped
            and self._dropped == state["dropped"]
            and self._cursor == state["cursor"]
            and self._input == state["input"]
            and not self._ended
        )

    def end(self, why: str) -> None:
        """Nothing more will come: whoever waits is told `why`."""
        self._ended = why
        self._changed.notify_all()

    # The host's side

    @property
    def output(self) -> bytes:
        """All that the guest sent so far; of a long output the end, at least `OUTPUT_LIMIT` bytes."""
        with self._changed:
            return bytes(self._output)

    @property
    def text(self) -> str:
        """The output as text: UTF-8, with what is none replaced, and line ends as "\\n"."""
        return self.output.decode("utf-8", "replace").replace("\r\n", "\n")

    @property
    def heard(self) -> int:
        """How far it has been listened to: bytes of all output up to the end of what `wait_for` found last."""
        return self._cursor

    @property
    def ended(self) -> str:
        """Why nothing more will come; "" as long as something may."""
        return self._ended

    def said(self, start: int, end: int | None = None) -> bytes:
        """The output from byte `start` of all output up to byte `end`, as far as it is kept."""
        with self._changed:
            first, last = start - self._dropped, None if end is None else max(end - self._dropped, 0)
            return bytes(self._output[max(first, 0) : last])

    @property
    def waiting(self) -> int:
        """Bytes of input that the guest has not taken yet."""
        return len(self._input)

    def send(self, data: str | bytes) -> None:
        """Type into the guest. PykvmError if more than `INPUT_LIMIT` bytes would wait for it."""
        raw = data.encode() if isinstance(data, str) else data
        with self._changed:
            if len(self._input) + len(raw) > INPUT_LIMIT:
                raise PykvmError(
                    f"{self.name}: {len(raw)} bytes of input are too much while {len(self._input)} still wait for the "
                    f"guest to read them; {INPUT_LIMIT} can wait"
                )
            self._input += raw
            self._on_input()

    def wait_for(self, pattern: str | bytes | re.Pattern[bytes], timeout: float | None = None) -> re.Match[bytes]:
        """Wait until the output holds `pattern` (a literal text, or a compiled regular expression on bytes).

        The search goes on behind the last match, so that the same prompt can be waited for again and again. `timeout`
        is in seconds. Raises WaitFailed if the time is up or the run ends without it, ConfigError for another pattern.
        """
        import re

        literal = pattern.encode() if isinstance(pattern, str) else pattern
        if isinstance(literal, re.Pattern) and not isinstance(literal.pattern, bytes):
            raise ConfigError(
                f"the output is bytes, and so is a pattern for it: write re.compile(b{literal.pattern!r})"
            )
        if not isinstance(literal, (bytes, re.Pattern)):
            raise ConfigError(f"{pattern!r} cannot be waited for: give text, bytes or a compiled pattern of bytes")
        compiled = re.compile(re.escape(literal)) if isinstance(literal, bytes) else literal
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            start = self._cursor
            while compiled.search(self._output, max(0, start - self._dropped)) is None:
                if isinstance(literal, bytes):
                    # What has been searched holds no match but perhaps the beginning of one.
                    start = max(start, self._dropped + len(self._output) - len(literal) + 1)
                left = None if deadline is None else deadline - time.monotonic()
                if self._ended or (left is not None and left <= 0):
                    why = self._ended or f"{timeout:g} s are over"
                    tail = bytes(self._output[-400:]).decode("utf-8", "replace")
                    raise WaitFailed(f"{self.name}: {compiled.pattern!r} did not come: {why}. The last output:\n{tail}")
                self._waiters += 1
                try:
                    self._changed.wait(left)
                finally:
                    self._waiters -= 1
            # The match is made again on a copy, which stays as it is while the output grows. The copy is of all the
            # output, since an expression may look at what is in front of the match.
            match = compiled.search(bytes(self._output), max(0, self._cursor - self._dropped))
            assert match is not None
            self._cursor = self._dropped + match.end()
            return match
