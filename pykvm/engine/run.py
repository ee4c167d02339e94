"""One run, from a start to its end: how long it may take, and how it ended. To forget a run is to drop this object."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import HostError, PykvmError
from ..outcome import Ending, Outcome
from ..typed import TYPE_CHECKING
from .halt_watch import HaltWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..crash.event import Crash
    from .eventloop import EventLoop, Timer
    from .gate import Gate
    from .runner import Runner


class DeviceError(PykvmError):
    """A device or a handler raised an exception, which is this one's `__cause__`, and the run was ended for it."""


class Run:
    """A run of `runners` that begins now, to be ended after `limit` seconds of wall-clock time, if that is not None.

    `stopped_time` tells the seconds that do not count for the limit. `halted` is called when all CPUs sleep for ever,
    `ended` once, when the run has ended. Everything here is called with the lock held.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        gate: Gate,
        loop: EventLoop,
        limit: float | None,
        *,
        stopped_time: Callable[[], float],
        halted: Callable[[], None],
        ended: Callable[[Outcome], None],
    ) -> None:
        self.outcome: Outcome | None = None
        """How it ended; None while it has not."""
        self.error: BaseException | None = None
        """What `Engine.wait` is to raise: a DeviceError, a HostError, or what a handler raised to end the program."""
        self.crash: Crash | None = None
        self.explained = False
        """The outcome is complete, with its report."""
        self._runners, self._gate, self._loop = runners, gate, loop
        self._stopped_time, self._ended = stopped_time, ended
        self._began = time.monotonic()
        self._limit: Timer | None = None
        self.limit_from_now(limit)
        self._halts = HaltWatch(runners, gate, loop, halted)

    def limit_from_now(self, limit: float | None) -> None:
        """Let it go on for at most `limit` seconds from now, or as long as it likes."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if limit is not None and self.outcome is None:
            since = time.monotonic() - self._stopped_time()
            self._limit = self._loop.call_at(time.monotonic() + limit, lambda: self._time_is_up(limit, since))

    def _time_is_up(self, limit: float, since: float) -> None:
        due = since + limit + self._stopped_time()
        if due > time.monotonic():
            self._limit = self._loop.call_at(due, lambda: self._time_is_up(limit, since))
        else:
            self.end(Ending.TIMED_OUT, f"the time limit of {limit:g} s is over")

    def end(self, ending: Ending, reason: str, *, code: int | None = None, value: int | None = None) -> None:
        """The first to call it decides how the run ended."""
        if self.outcome is None:
            self.outcome = Outcome(ending, reason, code, value, elapsed=time.monotonic() - self._began)
            self._halts.stop()
            if self._limit is not None:
                self._limit.cancel()
            self._gate.shut()
            self._ended(self.outcome)

    def crashed(self, crash: Crash) -> None:
        """A CPU cannot go on."""
        if self.outcome is None:
            self.crash = crash
            self.end(Ending.CRASHED, f"{crash.cause}, CPU {crash.cpu}")

    def failed(self, error: BaseException, who: str) -> None:
        """`who` raised `error` while it served the guest or the host."""
        words = f"{who} raised {type(error).__name__}: {error}"
        if self.error is None:
            self.error = error
            if isinstance(error, Exception) and not isinstance(error, HostError):
                self.error = DeviceError(words)
                self.error.__cause__ = error
        self.end(Ending.STOPPED, words)
