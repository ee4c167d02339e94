"""The thread for what is set aside: order, the lock, errors told, and an end that waits and then is silent."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from pykvm.engine.worker import LIMIT as MOST
from pykvm.engine.worker import Worker
from pykvm.errors import PykvmError

LIMIT = 30.0


class Harness:
    """A worker, and what it was told of."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.owned = threading.Condition(self.lock)
        """Its `notify` raises RuntimeError in a thread that has not the lock."""
        self.failures: queue.Queue[Exception] = queue.Queue()
        self.results: queue.Queue[object] = queue.Queue()
        self.worker = Worker(self.lock, self._failed, "test worker")

    def _failed(self, error: Exception) -> None:
        self.owned.notify()
        self.failures.put(error)

    def done(self, result: object) -> None:
        self.owned.notify()
        self.results.put(result)


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    yield harness
    harness.worker.close()
    assert harness.failures.empty()


def test_work_is_done_in_order_without_the_lock_and_told_with_it(harness: Harness) -> None:
    began, go_on = threading.Event(), threading.Event()

    def first() -> str:
        began.set()
        assert go_on.wait(LIMIT)
        return threading.current_thread().name

    with harness.lock:
        harness.worker.aside(first, harness.done)
        harness.worker.aside(lambda: 2, harness.done)
        assert began.wait(LIMIT), "it is under way though the lock is held here"
        go_on.set()
    assert [harness.results.get(timeout=LIMIT) for _ in range(2)] == ["test worker", 2]


def test_what_is_done_may_set_the_next_aside(harness: Harness) -> None:
    def again(left: int) -> None:
        if left:
            harness.worker.aside(lambda: left - 1, again)
        else:
            harness.done("end")

    with harness.lock:
        again(100)
    assert harness.results.get(timeout=LIMIT) == "end"


def test_no_thread_without_work() -> None:
    before = threading.active_count()
    harness = Harness()
    assert threading.active_count() == before
    harness.worker.close()
    harness.worker.close()


def test_an_exception_is_told_and_the_next_is_done(harness: Harness) -> None:
    def fail(*_: object) -> None:
        raise LookupError("no such thing")

    with harness.lock:
        harness.worker.aside(fail, harness.done)
        harness.worker.aside(lambda: 1, fail)
        harness.worker.aside(lambda: 2, harness.done)
    assert harness.results.get(timeout=LIMIT) == 2
    assert [str(harness.failures.get(timeout=LIMIT)) for _ in range(2)] == ["no such thing"] * 2


def test_too_much_is_refused(harness: Harness) -> None:
    began, go_on = threading.Event(), threading.Event()

    def first() -> bool:
        began.set()
        return go_on.wait(LIMIT)

    with harness.lock:
        harness.worker.aside(first, harness.done)
        assert began.wait(LIMIT)
        for _ in range(MOST):
            harness.worker.aside(lambda: None, harness.done)
        with pytest.raises(PykvmError, match="one aside at a time"):
            harness.worker.aside(lambda: None, harness.done)
    go_on.set()
    for _ in range(MOST + 1):
        harness.results.get(timeout=LIMIT)


def test_closing_waits_for_the_work() -> None:
    harness = Harness()
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert go_on.wait(LIMIT)
        ended.set()

    harness.worker.aside(work, harness.done)
    assert began.wait(LIMIT)
    closer = threading.Thread(target=harness.worker.close)
    closer.start()
    go_on.set()
    closer.join(LIMIT)
    assert ended.is_set()
    assert not closer.is_alive()
    assert "test worker" not in [thread.name for thread in threading.enumerate()]
    harness.worker.aside(work, harness.done)  # too late, and harmless
