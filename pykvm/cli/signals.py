"""What signals mean to the command line: an end in order, or a stop that leaves the terminal as it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ..typed import TYPE_CHECKING, signal

if TYPE_CHECKING:
    from types import FrameType

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def end_in_order() -> None:
    """Have the signals that end a process raise SystemExit, so that all is closed and the terminal given back."""
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    for each in ENDING_SIGNALS:  # what is being put in order is not left half-way
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


@contextmanager
def job_control(
    lock: AbstractContextManager[object],
    suspend: Callable[[], None],
    resume: Callable[[], None],
    resized: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Call `suspend` before SIGTSTP stops the process, `resume` after SIGCONT, and `resized` after SIGWINCH.

    All are called in the main thread, with the machine's lock held.
    """

    continued = 0  # how often

    def stop(number: int, frame: FrameType | None) -> None:
        before = continued
        with lock:
            suspend()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        if continued == before:
            os.kill(os.getpid(), signal.SIGTSTP)
        else:  # SIGCONT came in the midst of that
            with lock:
                resume()
        signal.signal(signal.SIGTSTP, stop)

    def go_on(number: int, frame: FrameType | None) -> None:
        nonlocal continued
        continued += 1
        with lock:
            resume()

    def resize(number: int, frame: FrameType | None) -> None:
        with lock:
            if resized is not None:
                resized()

    handlers = {signal.SIGTSTP: stop, signal.SIGCONT: go_on, signal.SIGWINCH: resize}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
