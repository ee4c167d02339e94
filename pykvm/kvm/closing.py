"""Closing virtual machines behind the caller's back: the kernel takes 10 to 20 ms for one, most of it waiting.

A few threads, which are there only as long as there is something to close, make the `close` calls. What waits is
bounded: who closes one too many waits for another. The interpreter's end waits for all of them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque

MAX_THREADS = 2
"""The kernel's waits for several virtual machines overlap."""
MAX_PENDING = 16
"""Descriptors that may wait to be closed."""


class Closer:
    """Closes descriptors."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: deque[int] = deque()
        self._started: list[threading.Thread] = []
        self._working = 0

    def close(self, fd: int) -> None:
        """Have `fd` closed soon. Waits only if there are `MAX_PENDING` before it."""
        if sys.is_finalizing():  # no thread begins any more, and who starts one waits for ever
            os.close(fd)
            return
        with self._changed:
            self._pending.append(fd)
            if self._working < MAX_THREADS:
                thread = threading.Thread(target=self._work, name="pykvm closing")
                self._working += 1
                try:
                    thread.start()
                except RuntimeError:  # the host gives no thread, or the interpreter ends
                    self._working -= 1
                    os.close(self._pending.pop())
                else:
                    self._started = [*filter(threading.Thread.is_alive, self._started), thread]
            while len(self._pending) > MAX_PENDING:
                self._changed.wait()

    def wait(self) -> None:
        """Wait until all is closed that was to be, and the threads are gone."""
        with self._changed:
            started = list(self._started)
        for thread in started:
            thread.join()

    def forget(self) -> None:
        """In a forked child, which has none of the threads: what waited stays open until the child ends."""
        self._changed, self._started, self._working = threading.Condition(), [], 0
        self._pending.clear()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._pending:
                    self._working -= 1
                    return
                fd = self._pending.popleft()
                self._changed.notify_all()
            os.close(fd)


_closer = Closer()
close_behind, wait_closed = _closer.close, _closer.wait
os.register_at_fork(after_in_child=_closer.forget)
