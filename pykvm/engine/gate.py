"""The gate between host and guest: keeps the vCPUs out while somebody looks, and the lock that goes with it.

Who may call what: `hold`, `release`, `at_rest` and `wait_held` are called with the lock held, by any thread, but
`wait_held` by none that serves an exit: it would wait for itself. `came_out` and `left` are the vCPUs' own, and are
called without the lock. A function given to `at_rest` is called with the lock held and every vCPU out of the guest, all
accesses finished; so is whatever stands between `wait_held` and `release`.

A vCPU is *held* when it must not enter the guest, *parked* when it waits here for the last hold to go, and all vCPUs
together are *at rest* when each one is parked or its thread has ended.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..kvm.vcpu import lull
from ..typed import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import TracebackType


class FairLock:
    """A re-entrant lock that a vCPU which leaves the guest again and again cannot keep from others.

    A vCPU takes `inner` for every exit, and would often have it again before a thread that waits is awake. So a thread
    that finds the lock taken has `ask` called, which makes all vCPUs come out of the guest, and they `step_aside` until
    that thread has the lock.
    """

    def __init__(self) -> None:
        self.inner = threading.RLock()
        """For the vCPUs' threads, which never wait in the queue."""
        self.queue = threading.RLock()
        """Held by the thread that is to have `inner` next. Nobody who has `inner` waits for it. Re-entrant, for the
        handler of a signal runs in the midst of the main thread's waiting, and wants the lock, too."""
        self.ask: Callable[[], None] = lambda: None
        """Called with `queue` held and without `inner`."""

    def acquire(self, blocking: bool = True) -> bool:
        """As `threading.RLock.acquire`."""
        if self.inner.acquire(False):
            return True
        if not blocking:
            return False
        try:
            with self.queue:
                self.ask()
                return self.inner.acquire()
        except BaseException:  # Ctrl-C, just when it had been got
            if self._is_owned():
                self.inner.release()
            raise

    def release(self) -> None:
        """As `threading.RLock.release`."""
        self.inner.release()

    def step_aside(self) -> None:
        """Let the thread that waits for the lock have it first. Without the lock."""
        with self.queue:
            pass

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.inner.release()

    def condition(self) -> threading.Condition:
        """A condition that goes with this lock."""
        return threading.Condition(self)  # type: ignore[arg-type]  # it has all that a condition asks of a lock

    # What threading.Condition asks of a lock that can be taken several times

    def _is_owned(self) -> bool:
        return self.inner._is_owned()  # type: ignore[attr-defined,no-any-return]

    def _release_save(self) -> tuple[int, int]:
        return self.inner._release_save()  # type: ignore[attr-defined,no-any-return]

    def _acquire_restore(self, state: tuple[int, int]) -> None:
        count, _ = state
        for _ in range(count):
            self.acquire()


class Passer(Protocol):
    """A vCPU's thread, as the gate sees it."""

    held: bool

    def ask_out(self) -> None:
        """Have the vCPU come out of the guest at its next exit. Any thread may, as long as the vCPU has a thread."""

    def call_out(self) -> None:
        """Take the vCPU out of the guest for a moment: it goes in again if nothing keeps it. The same."""

    def interrupt(self) -> None:
        """Have the vCPU come out of the guest now, if it has a thread. With the lock held."""


LULL, LULLS = 0.05, 2.0
"""Seconds that a lull lasts, and that one after the other may last, before there is none for as long."""


class Lull:
    """When the vCPUs of this process stay out of the guest, for a thread that has something to do."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may come back to it
        self._began = self._end = 0.0

    def extend(self) -> bool:
        """Have it last from now on; False if there have been too many."""
        with self._lock:
            now = time.monotonic()
            if now > self._end + LULLS:
                self._began = now
            elif now > self._began + LULLS:
                return False
            self._end = now + LULL
            lull(self._end)
            return True


_lull = Lull()
_open: list[Gate] = []
"""The gates of machines with vCPUs that have a thread."""


class Gate:
    """The gate of one machine. `lock` covers all device state and everything that changes while the machine runs."""

    def __init__(self) -> None:
        self.lock = FairLock()
        self.changed = self.lock.condition()
        """Notified whenever a vCPU parks or leaves, a hold goes, or the run ends."""
        self._left = self.lock.condition()  # for those who wait for the end alone: no pause wakes them
        self._passers: Sequence[Passer] = ()
        self._inside: list[Passer] = []  # those with a thread: changed with the queue held, for `_ask`
        self._live: set[Passer] = set()  # the same, changed with the lock held
        self._holds = 0
        self._parked = 0
        self._at_rest: list[Callable[[], None]] = []
        self._shut = False
        self.lock.ask = self._ask

    def _ask(self) -> None:
        for passer in self._inside:
            passer.ask_out()

    def lull_elsewhere(self) -> None:
        """For `LULL` seconds, have the vCPUs of other machines in this process stay out of the guest.

        For somebody who is about to wait for threads of this machine, if not for long. Where many more vCPUs run than
        there are host CPUs, a thread that is to do something has its turn only after all others have had theirs, of
        some milliseconds each; unless those have nothing to do. Where there are few, nothing happens.
        """
        others = [gate for gate in _open[:] if gate is not self]
        if others and self._inside and len(others) >= (os.cpu_count() or 1) and _lull.extend():
            for gate in others:
                if gate.lock.queue.acquire(False):
                    try:
                        for passer in gate._inside:
                            passer.call_out()
                    finally:
                        gate.lock.queue.release()

    # A run, from its start to its end

    def open(self, passers: Sequence[Passer]) -> None:
        """The threads of `passers` are about to start. With the lock held."""
        self._passers = passers
        _open.append(self)
        self._inside = list(passers)  # nobody asks for the lock as a thread that has none: it is held here
        self._live = set(passers)
        self._shut = False

    def shut(self) -> None:
        """The run has ended: every vCPU is to leave, held or not. With the lock held."""
        self._shut = True
        self.kick()
        self.changed.notify_all()

    def forget(self) -> None:
        """After the run, be as before it: what was to be called at rest is not called any more. With the lock held."""
        self._shut = False
        self._holds -= len(self._at_rest)
        self._at_rest.clear()

    def wait_left(self, timeout: float | None = None) -> bool:
        """Wait until all threads have ended, at most `timeout` seconds; whether they have. With the lock held."""
        return self._left.wait_for(lambda: not self._live, timeout)

    # What the vCPUs say, without the lock

    def came_out(self, passer: Passer) -> bool:
        """A vCPU was taken out of the guest: wait here while it must stay out; False if its thread must end."""
        self.lock.step_aside()
        with self.lock.inner:
            while (self._holds or passer.held) and not self._shut:
                self._parked += 1
                self.changed.notify_all()
                try:
                    if self._parked == len(self._live):
                        self._call_at_rest()
                    while (self._holds or passer.held) and not self._shut:
                        self.changed.wait()
                finally:
                    self._parked -= 1
            return not self._shut

    def left(self, passer: Passer) -> None:
        """A vCPU's thread is about to end, and touches nothing of the machine's any more."""
        with self.lock.queue:
            # A signal's handler may have raised in the midst of `open`: then not all may be there.
            if passer in self._inside:
                self._inside.remove(passer)
            if not self._inside and self in _open:
                _open.remove(self)
        with self.lock.inner:
            self._live.discard(passer)
            self.changed.notify_all()
            self._left.notify_all()

    # Holding, with the lock held

    @property
    def is_held(self) -> bool:
        """Whether the vCPUs are to stay out of the guest."""
        return self._holds > 0

    @property
    def is_at_rest(self) -> bool:
        """Whether no vCPU is in the guest, or on its way there."""
        return self._parked == len(self._live)

    def kick(self) -> None:
        """Have all vCPUs come out of the guest, and look whether they may go in again."""
        for passer in self._passers:
            passer.interrupt()

    def hold(self) -> None:
        """Have all vCPUs come out of the guest and stay out, without waiting for it. Calls nest."""
        self._holds += 1
        if not self.is_at_rest:  # those that are out look again before they go in
            self.kick()

    def wait_held(self) -> None:
        """After `hold`, wait until all vCPUs are out."""
        if not self.is_at_rest:
            self.lull_elsewhere()
            self.changed.wait_for(lambda: self.is_at_rest)

    def release(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1
        self.changed.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While it is entered, all vCPUs are out of the guest."""
        self.hold()
        try:
            self.wait_held()
            yield
        finally:
            self.release()

    def at_rest(self, callback: Callable[[], None]) -> None:
        """Take all CPUs out of the guest, have `callback` called, and let them go on.

        Does not wait, so devices, handlers and the I/O thread may use it. Nothing is called if the run ends first.
        """
        self._at_rest.append(callback)
        self.hold()
        if self.is_at_rest:
            self._call_at_rest()

    def when_at_rest(self, callback: Callable[[], None]) -> None:
        """Have `callback` called now if all vCPUs are out, else once, before one of them goes on in the guest."""
        if self.is_at_rest:
            callback()
        elif not self.is_expected(callback):
            self.at_rest(callback)

    def is_expected(self, callback: Callable[[], None]) -> bool:
        """Whether `callback` waits to be called at rest."""
        return callback in self._at_rest

    def _call_at_rest(self) -> None:
        while self._at_rest and not self._shut:
            callback = self._at_rest.pop(0)
            try:
                callback()
            finally:
                self.release()
