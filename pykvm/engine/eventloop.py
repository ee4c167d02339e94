"""The I/O thread: one epoll over all the host's file descriptors, and the timers of the machine and its devices.

Everything that it calls is called with the machine's lock held, so that a device never sees two threads at once.
"""

from __future__ import annotations

import heapq
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import count

from ..typed import NamedTuple

Callback = Callable[[], None]

CANCELLED_MOST = 64
"""Cancelled timers are taken out of the heap once there are more than so many, and than others."""


class Timer:
    """A call that is due at `when` (time.monotonic(), seconds). `cancel()` keeps it from happening."""

    __slots__ = ("_cancelled", "callback", "when")

    def __init__(self, when: float, callback: Callback, cancelled: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback
        self._cancelled = cancelled

    def cancel(self) -> None:
        """Nothing happens at `when` any more; harmless if it has happened. With the machine's lock held."""
        if self.callback is not None:
            self.callback = None
            self._cancelled()


class _Due(NamedTuple):
    when: float
    order: int
    timer: Timer


class EventLoop:
    """Waits on descriptors and timers in a thread of its own from `start` to `stop`.

    `lock` is the machine's; `failed` is told of an exception that a callback raised, and by which callback.
    """

    def __init__(
        self, lock: AbstractContextManager[object], failed: Callable[[BaseException, Callback], None], name: str
    ) -> None:
        self._lock = lock
        self._failed = failed
        self._poll: select.epoll | None = None
        """There, with `_wake`, while the thread runs or a descriptor is registered."""
        self._wake = -1
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._timers: list[_Due] = []
        self._cancelled = 0
        """How many of `_timers` have been cancelled: a guest may move a timer a million times."""
        self._order = count()
        self._next = float("inf")
        """When the thread will wake by itself: an earlier timer must wake it."""
        self._running = False
        self._name = name
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the thread has been started, and not been stopped since."""
        return self._running

    def start(self) -> None:
        """Start the thread. What is registered and due stays so from one start to the next. With the lock held."""
        poll = self._open()
        self._thread = threading.Thread(target=self._run, args=(poll,), name=self._name, daemon=True)
        self._running = True
        try:
            self._thread.start()
        except Exception:
            self._running = False
            raise

    def stop(self) -> None:
        """End the thread and wait for it. Not with the lock held."""
        with self._lock:
            was_running, self._running = self._running, False
            if was_running:
                self.wake()
        if was_running and self._thread is not None and self._thread.is_alive():
            self._thread.join()
            self._close_unused()

    def close(self) -> None:
        """Stop, and free the descriptors; may be called twice."""
        self.stop()
        self._readers.clear()
        self._writers.clear()
        self._close_unused()

    def wake(self) -> None:
        """Have the thread look at its descriptors and timers anew. With the lock held, while it runs."""
        os.eventfd_write(self._wake, 1)

    def _open(self) -> select.epoll:
        if self._poll is None:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                self._poll = select.epoll()
                self._poll.register(self._wake, select.EPOLLIN)
            except BaseException:
                self._close_unused()
                raise
        return self._poll

    def _close_unused(self) -> None:
        """Give back the two descriptors if nothing is registered: a machine that does not run has no use for them."""
        with self._lock:
            if self._running or self._readers or self._writers:
                return
            if self._poll is not None:
                self._poll.close()
                self._poll = None
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    # The following are called with the lock held.

    def on_readable(self, fd: int, callback: Callback | None) -> None:
        """Call `callback` whenever `fd` is readable or hung up; None to stop. PermissionError for a regular file."""
        self._register(fd, self._readers, callback)

    def on_writable(self, fd: int, callback: Callback | None) -> None:
        """Call `callback` whenever `fd` can be written to; None to stop."""
        self._register(fd, self._writers, callback)

    def _register(self, fd: int, table: dict[int, Callback], callback: Callback | None) -> None:
        known = fd in self._readers or fd in self._writers
        if callback is None:
            table.pop(fd, None)
        else:
            table[fd] = callback
        mask = (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)
        if not mask:
            if known and self._poll is not None:
                self._poll.unregister(fd)
                self._close_unused()
        elif known:
            self._open().modify(fd, mask)
        else:
            try:
                self._open().register(fd, mask)
            except OSError:
                table.pop(fd, None)
                raise

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Call `callback` once `time.monotonic()` has reached `when`."""
        timer = Timer(when, callback, self._count_cancelled)
        heapq.heappush(self._timers, _Due(when, next(self._order), timer))
        if when < self._next and self._running:
            self.wake()
        return timer

    def call_soon(self, callback: Callback) -> Timer:
        """Call `callback` at the thread's next turn."""
        return self.call_at(0, callback)

    @property
    def timers(self) -> int:
        """How many timers are kept, those cancelled among them: at most `CANCELLED_MOST` more than twice the others."""
        return len(self._timers)

    def _count_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled > CANCELLED_MOST and 2 * self._cancelled > len(self._timers):
            self._timers = [due for due in self._timers if due.timer.callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def _take_first(self) -> Callback | None:
        """Take the first timer out: what it is to call, None if it has been cancelled."""
        timer = heapq.heappop(self._timers).timer
        callback, timer.callback = timer.callback, None
        if callback is None:
            self._cancelled -= 1
        return callback

    def _run(self, poll: select.epoll) -> None:
        while self._running:
            try:
                events = poll.poll(self._timeout())
            except InterruptedError:
                continue
            with self._lock:
                self._next = 0
                for fd, mask in events:
                    if fd == self._wake:
                        os.eventfd_read(fd)
                        continue
                    if mask & ~select.EPOLLOUT:
                        self._call(self._readers.get(fd))
                    if mask & ~select.EPOLLIN:
                        self._call(self._writers.get(fd))
                self._run_timers()

    def _timeout(self) -> float | None:
        with self._lock:
            while self._timers and self._timers[0].timer.callback is None:
                self._take_first()
            if not self._timers:
                self._next = float("inf")
                return None
            self._next = self._timers[0].when
            return max(0.0, self._next - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        # Bounded by what is due now: a callback that sets a timer in the past has its turn in the next round.
        for _ in range(len(self._timers)):
            if not self._timers or self._timers[0].when > now:
                break
            self._call(self._take_first())

    def _call(self, callback: Callback | None) -> None:
        if callback is not None:
            try:
                callback()
            except BaseException as error:
                self._failed(error, callback)
