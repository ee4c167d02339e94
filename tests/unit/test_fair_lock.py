"""The lock of a machine, where a signal's handler wants it in the midst of the main thread's waiting for it."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pykvm.engine.gate import FairLock

LIMIT = 20


def test_a_signals_handler_has_the_lock_while_the_main_thread_waits_for_it() -> None:
    lock, taken, came = FairLock(), threading.Event(), threading.Event()
    served = []

    def handle(number: int, frame: object) -> None:
        came.set()
        with lock:
            served.append(number)

    def hold() -> None:
        with lock:
            taken.set()
            while lock.queue.acquire(False):  # until the main thread waits
                lock.queue.release()
            os.kill(os.getpid(), signal.SIGUSR2)
            came.wait(LIMIT)

    before = signal.signal(signal.SIGUSR2, handle)
    holder = threading.Thread(target=hold)
    try:
        holder.start()
        taken.wait(LIMIT)
        with lock:
            assert served == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)
        holder.join(LIMIT)
    with pytest.raises(RuntimeError):
        lock.release()
