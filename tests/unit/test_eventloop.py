"""The I/O thread: timers in order and not too early, descriptors, errors told, and an end that leaves nothing."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.engine.eventloop import CANCELLED_MOST, EventLoop, Timer

LIMIT = 30.0


class Harness:
    """A running loop, and what it was told of."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.failures: queue.Queue[tuple[Exception, Callable[[], None]]] = queue.Queue()
        self.loop = EventLoop(self.lock, lambda error, callback: self.failures.put((error, callback)), "test I/O")


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    harness.loop.start()
    yield harness
    harness.loop.close()
    assert harness.failures.empty()


def test_callbacks_run_in_the_loops_thread_with_the_lock_held(harness: Harness) -> None:
    seen: queue.Queue[tuple[str, bool]] = queue.Queue()
    # RLock has no public way to ask who owns it; Condition's notify needs the owner.
    owned = threading.Condition(harness.lock)

    def callback() -> None:
        owned.notify()  # RuntimeError without the lock
        seen.put((threading.current_thread().name, True))

    with harness.lock:
        harness.loop.call_soon(callback)
    assert seen.get(timeout=LIMIT) == ("test I/O", True)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_timers_come_in_order_and_not_too_early(delays: list[int]) -> None:
    harness = Harness()
    done: queue.Queue[tuple[int, int, float]] = queue.Queue()
    start = time.monotonic()
    for number, delay in enumerate(delays):
        when = start + delay / 2000

        def ring(number: int = number, delay: int = delay, when: float = when) -> None:
            done.put((delay, number, time.monotonic() - when))

        harness.loop.call_at(when, ring)
    harness.loop.start()
    got = [done.get(timeout=LIMIT) for _ in delays]
    harness.loop.close()
    assert [(delay, number) for delay, number, _ in got] == sorted((delay, n) for n, delay in enumerate(delays))
    assert all(late >= 0 for _, _, late in got)


def test_an_earlier_timer_wakes_a_loop_that_waits_for_a_later_one(harness: Harness) -> None:
    done: queue.Queue[str] = queue.Queue()
    with harness.lock:
        harness.loop.call_at(time.monotonic() + 10_000, lambda: done.put("late"))
    with harness.lock:
        harness.loop.call_soon(lambda: done.put("soon"))
    assert done.get(timeout=LIMIT) == "soon"
    with harness.lock:
        harness.loop.call_at(time.monotonic() + 0.01, lambda: done.put("early"))
    assert done.get(timeout=LIMIT) == "early"
    assert done.empty()


def test_a_cancelled_timer_does_nothing(harness: Harness) -> None:
    done: queue.Queue[str] = queue.Queue()
    with harness.lock:
        timer = harness.loop.call_at(time.monotonic() + 0.01, lambda: done.put("cancelled"))
        timer.cancel()
        timer.cancel()
        harness.loop.call_at(time.monotonic() + 0.02, lambda: done.put("kept"))
    assert done.get(timeout=LIMIT) == "kept"


def test_a_timer_that_sets_itself_again_leaves_time_for_others(harness: Harness) -> None:
    done: queue.Queue[str] = queue.Queue()
    running = True

    def again() -> None:
        if running:
            harness.loop.call_soon(again)

    with harness.lock:
        harness.loop.call_soon(again)
    near, far = socket.socketpair()
    with harness.lock:
        harness.loop.on_readable(near.fileno(), lambda: done.put(near.recv(1).decode()))
    far.send(b"x")
    assert done.get(timeout=LIMIT) == "x"
    with harness.lock:
        running = False
        harness.loop.on_readable(near.fileno(), None)
    near.close()
    far.close()


def test_readable_again_and_again_until_it_is_taken_off(harness: Harness) -> None:
    done: queue.Queue[bytes] = queue.Queue()
    read, write = os.pipe()
    with harness.lock:
        harness.loop.on_readable(read, lambda: done.put(os.read(read, 1)))
    os.write(write, b"abc")
    assert b"".join(done.get(timeout=LIMIT) for _ in range(3)) == b"abc"
    with harness.lock:
        harness.loop.on_readable(read, None)
        harness.loop.on_readable(read, None)
    os.write(write, b"d")
    with harness.lock:
        harness.loop.call_soon(lambda: done.put(b"after"))
    assert done.get(timeout=LIMIT) == b"after"
    os.close(read)
    os.close(write)


def test_a_hang_up_is_told_to_the_reader(harness: Harness) -> None:
    done: queue.Queue[bytes] = queue.Queue()
    read, write = os.pipe()

    def on_readable() -> None:
        data = os.read(read, 10)
        if not data:
            harness.loop.on_readable(read, None)
        done.put(data)

    with harness.lock:
        harness.loop.on_readable(read, on_readable)
    os.close(write)
    assert done.get(timeout=LIMIT) == b""
    os.close(read)


def test_one_descriptor_may_be_read_and_written(harness: Harness) -> None:
    done: queue.Queue[str] = queue.Queue()
    near, far = socket.socketpair()

    def on_writable() -> None:
        harness.loop.on_writable(near.fileno(), None)
        done.put("writable")

    with harness.lock:
        harness.loop.on_readable(near.fileno(), lambda: done.put(near.recv(1).decode()))
        harness.loop.on_writable(near.fileno(), on_writable)
    assert done.get(timeout=LIMIT) == "writable"
    far.send(b"r")
    assert done.get(timeout=LIMIT) == "r"
    with harness.lock:
        harness.loop.on_readable(near.fileno(), None)
    near.close()
    far.close()


def test_a_regular_file_is_refused_and_leaves_no_trace(harness: Harness, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "file")
    with open(path, "w") as file, harness.lock:
        for _ in range(2):
            with pytest.raises(PermissionError):
                harness.loop.on_readable(file.fileno(), lambda: None)
        harness.loop.on_readable(file.fileno(), None)


def test_an_exception_is_told_with_its_callback_and_the_loop_goes_on() -> None:
    harness = Harness()

    def fails() -> None:
        raise RuntimeError("as it must")

    with harness.lock:
        harness.loop.call_soon(fails)
    harness.loop.start()
    error, callback = harness.failures.get(timeout=LIMIT)
    assert (str(error), callback) == ("as it must", fails)
    done = threading.Event()
    with harness.lock:
        harness.loop.call_soon(done.set)
    assert done.wait(LIMIT)
    harness.loop.close()


def test_a_callback_may_take_a_descriptor_off_that_is_ready_too(harness: Harness) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    done: queue.Queue[int] = queue.Queue()

    def take_both_off(number: int) -> None:
        for near, _ in pairs:
            harness.loop.on_readable(near.fileno(), None)
        done.put(number)

    with harness.lock:
        for number, (near, far) in enumerate(pairs):
            far.send(b"x")
            harness.loop.on_readable(near.fileno(), lambda number=number: take_both_off(number))
    done.get(timeout=LIMIT)
    flushed = threading.Event()
    with harness.lock:
        harness.loop.call_soon(flushed.set)
    assert flushed.wait(LIMIT)
    assert done.empty()
    for pair in pairs:
        for end in pair:
            end.close()


def test_it_leaves_no_thread_and_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for started in (True, False):
        harness = Harness()
        if started:
            harness.loop.start()
        with harness.lock:
            harness.loop.call_at(time.monotonic() + 10_000, lambda: None)
        harness.loop.close()
        harness.loop.close()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=400))
def test_a_cancelled_timer_is_gone(steps: list[tuple[int, bool]]) -> None:
    """Ten timers that are moved, cancelled and cancelled again: the heap holds little more than those that are due."""
    harness = Harness()
    waiting: dict[int, Timer] = {}
    far = time.monotonic() + 10_000
    for number, again in steps * 5:
        old = waiting.pop(number, None)
        if old is not None:
            old.cancel()
            old.cancel()
        if again:
            waiting[number] = harness.loop.call_at(far + number, lambda: None)
        assert len(waiting) <= harness.loop.timers <= 2 * len(waiting) + CANCELLED_MOST + 1
    harness.loop.close()


def test_those_that_are_left_ring_after_many_were_cancelled(harness: Harness) -> None:
    done: queue.Queue[int] = queue.Queue()
    with harness.lock:
        start = time.monotonic()
        for number in range(500):
            timer = harness.loop.call_at(start + number / 10_000, lambda number=number: done.put(number))
            if number % 7:
                timer.cancel()
        assert harness.loop.timers < 250
    assert [done.get(timeout=LIMIT) for _ in range(0, 500, 7)] == [*range(0, 500, 7)]
