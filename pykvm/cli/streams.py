"""The process's standard streams: there even if they were closed, and never waited for beyond a run's time limit."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..errors import PykvmError
from ..typed import TYPE_CHECKING, signal

if TYPE_CHECKING:
    from types import FrameType

GRACE = 0.5
"""Seconds beyond its time limit that a run's output may still take."""

NOBODY_READS_STATUS = 124
"""Exit status: that of a run whose time limit is over."""

_NAMES = {1: "standard output", 2: "standard error"}
_given_up: list[object] = []
"""Streams that take nothing: kept, since Python would write what they hold when it frees them."""


def open_missing() -> None:
    """Put /dev/null where descriptor 0, 1 or 2 is closed.

    Nothing may be opened before: the next file, such as a disk image, would be the standard output.
    """
    for number, (name, flags, mode) in enumerate(
        (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w"))
    ):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # the lowest that is free: `number`
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


@contextmanager
def patience(deadline: float | None) -> Iterator[None]:
    """Let what is written inside wait for a reader until `deadline` (of time.monotonic) and GRACE, or for ever.

    What cannot be written is given up, with a word on standard error: the status is the outcome's all the same. Only
    for the main thread.
    """
    try:
        with _limited(deadline):
            yield
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        _give_up("stdout")
    except OSError as error:
        _give_up("stdout")
        with suppress(OSError), _limited(deadline):
            print(f"pykvm: {_NAMES[1]}: {error.strerror or error}", file=sys.stderr, flush=True)


class NobodyReads(PykvmError):
    """The output has waited for a reader up to the time limit."""

    def __init__(self) -> None:
        super().__init__(f"{_NAMES[1]}: nobody reads it, and the time limit is over")


@contextmanager
def bounded(deadline: float | None) -> Iterator[None]:
    """As `patience`, for output that is all there is of a command: what cannot be written is raised.

    NobodyReads after the deadline, OSError for anything else. Only for the main thread.
    """
    try:
        with _limited(deadline):
            yield
            sys.stdout.flush()
    except TimeoutError:
        _give_up("stdout")
        raise NobodyReads from None


def bounded_writer(deadline: float | None) -> Callable[[str], object]:
    """Writes to standard output from any thread; TimeoutError if it must wait for a reader beyond `deadline`."""
    try:
        fd = sys.stdout.fileno()
    except OSError:  # no stream of the process
        return sys.stdout.write
    if deadline is None:
        return sys.stdout.write
    import select
    import time

    poll = select.poll()
    poll.register(fd, select.POLLOUT)

    def write(text: str) -> None:
        data = text.encode(sys.stdout.encoding, "replace")
        while data:
            if not poll.poll(max(deadline + GRACE - time.monotonic(), 0) * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")
            # A pipe that can be written to has room for so much: a larger piece would wait inside write(2).
            data = data[os.write(fd, data[: select.PIPE_BUF]) :]

    return write


@contextmanager
def _limited(deadline: float | None) -> Iterator[None]:
    if deadline is None:
        yield
        return
    import time

    before = signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0) + GRACE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _too_late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("nobody reads it")


def _give_up(name: str) -> None:
    _given_up.append(getattr(sys, name))
    setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def flush() -> None:
    """Write what is left at the process's end, as far as it goes."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
