"""A thread for what a device has done aside: what may take long on the host, such as a flush, and needs no lock.

The contract is `device.Aside`. A machine has at most one such thread, from the first thing that is set aside on; all is
done in the order in which it was set aside.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from ..errors import PykvmError, refused_by_host
from ..typed import Any

LIMIT = 64
"""How much may wait. A device sets one thing aside at a time, so that there are never as many."""


class Worker:
    """Does what `aside` is given. `lock` is the machine's; `failed` is told, with it held, of an exception in that."""

    def __init__(
        self, lock: AbstractContextManager[object], failed: Callable[[BaseException], None], name: str
    ) -> None:
        self._lock, self._failed, self._name = lock, failed, name
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self._closed = False
        self._thread: threading.Thread | None = None

    def aside(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Have `work` called in the thread, then `done` with its result and the lock held; returns at once.

        PykvmError if too much waits already. With the lock held.
        """
        with self._changed:
            if self._closed:
                return
            if len(self._waiting) >= LIMIT:
                raise PykvmError(f"{self._name}: {LIMIT} things wait already for the host: set one aside at a time")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise refused_by_host(error) or error from error
                self._thread = thread
            self._waiting.append((work, done))
            self._changed.notify()

    def close(self) -> None:
        """Wait for the end of what has been set aside, whose `done` is not called any more. Without the lock."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                work, done = self._waiting.popleft()
            self._do(work, done)

    def _do(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        try:
            result = work()
            with self._lock:
                if not self._closed:
                    done(result)
        except BaseException as error:
            with self._lock:
                if not self._closed:
                    self._failed(error)
