"""What a fuzz target is, the one loop that all inputs go through, and what makes a failing sequence short.

An input is a literal (numbers, strings, bytes, None, tuples of these), so that a file of them can be read again. It is
drawn before anything runs, and what happens depends on the inputs alone.
"""

from __future__ import annotations

import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import length_hint
from pathlib import Path
from typing import Any, NamedTuple

Random = random.Random
Input = Any

PATIENCE = 1
"""Seconds of CPU time that no input may take."""
SHORTENING = 20.0
"""Seconds for making a sequence shorter."""

EXTREMES = (
    0, 1, 2, 3, 7, 8, 15, 16, 0x1F, 0x20, 0x7F, 0x80, 0xFF, 0x100, 0x1FF, 0x200, 0xFFF, 0x1000, 0x7FFF, 0x8000, 0xFFFF,
    0x10000, 0xFFFFF, 0x100000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, (1 << 47) - 1, 1 << 47, 1 << 52,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip


class Slow(BaseException):
    """An input took longer than it may. No code that catches every Exception catches it."""


class Target:
    """One thing that hostile inputs reach.

    A subclass says what is drawn and what is done with it. `run` starts from the same state each time, takes the inputs
    one by one, and lets out whatever no documented error is.
    """

    name = ""
    unit = "inputs"
    share = 1.0
    """Of the time, in proportion to that of other targets."""
    patience = PATIENCE
    alone = True
    """Whether an input that fails does so without those before it."""

    def draw(self, source: Random) -> list[Input]:
        """The inputs of a round, which takes about a tenth of a second."""
        raise NotImplementedError

    def run(self, inputs: Iterator[Input]) -> None:
        """Feed them all."""
        raise NotImplementedError


class Parser(Target):
    """A target without a state: each input goes to `feed`, and may end in one of `errors`."""

    errors: tuple[type[Exception], ...] = ()
    count = 300
    """Inputs in a round."""

    def one(self, source: Random) -> Input:
        """An input."""
        raise NotImplementedError

    def feed(self, given: Input) -> None:
        """What is done with it."""
        raise NotImplementedError

    def draw(self, source: Random) -> list[Input]:
        return [self.one(source) for _ in range(self.count)]

    def run(self, inputs: Iterator[Input]) -> None:
        feed, errors = self.feed, self.errors
        for given in inputs:
            try:
                feed(given)
            except errors:
                continue


# Drawing


def number(source: Random, bits: int) -> int:
    """An unsigned number: near a limit as often as anything else."""
    mask = (1 << bits) - 1
    match source.randrange(4):
        case 0:
            return source.getrandbits(bits)
        case 1:
            return source.choice(EXTREMES) & mask
        case 2:
            return (source.choice(EXTREMES) + source.randrange(-3, 4)) & mask
        case _:
            return source.getrandbits(source.randrange(1, bits + 1))


def mutate(source: Random, data: bytes, words: Sequence[bytes] = ()) -> bytes:
    """`data` with up to eight changes: bits, numbers, parts of it elsewhere, what is in `words`, its end cut off."""
    result = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        size = len(result)
        at = source.randrange(size + 1)
        match source.randrange(9):
            case 0 | 1 if at < size:
                result[at] ^= 1 << source.randrange(8)
            case 2 | 3 if size:
                width = source.choice((1, 2, 4, 8))
                at -= at % width
                result[at : at + width] = number(source, 8 * width).to_bytes(width, source.choice(("little", "big")))
            case 4 if size:
                other, length = source.randrange(size), source.choice((1, 2, 4, 8, 16, 40, 64))
                result[at : at + length] = result[other : other + length]
            case 5:
                del result[at : at + source.choice((1, 2, 4, 8, 64))]
            case 6:
                result[at:at] = source.choice((b"\0", b"\xff", b"\n", source.randbytes(4))) * source.randrange(1, 9)
            case 7 if words:
                word = source.choice(words)
                result[at : at + source.choice((0, len(word)))] = word
            case 8 if not source.randrange(4):
                del result[at:]
    return bytes(result)


# Running


class Failure(NamedTuple):
    """What went wrong, and the inputs up to the one that it went wrong at."""

    error: str
    where: tuple[str, str]
    """The exception's type, and the place that it came from."""
    inputs: list[Input]


def attempt(target: Target, inputs: Sequence[Input]) -> Failure | None:
    """Run `inputs`; None if all is well."""
    feed = iter(inputs)
    try:
        with watched(feed, target.patience):
            target.run(feed)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        done = len(inputs) - length_hint(feed)
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = type(error).__name__, "" if isinstance(error, Slow) else f"{Path(last.filename).name}:{last.lineno}"
        return Failure("".join(traceback.format_exception(error)), where, list(inputs[:done]))
    return None


@contextmanager
def watched(feed: Iterator[Input], patience: float) -> Iterator[None]:
    """Raise Slow in whoever takes `patience` seconds of CPU time and has not taken a next input."""
    before = -1

    def look(*_: object) -> None:
        nonlocal before
        left = length_hint(feed)
        if left == before:
            raise Slow(f"an input takes longer than {patience} s")
        before = left

    old = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, patience, patience)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def shorten(target: Target, failure: Failure) -> Failure:
    """The same failure from as few inputs as are found in time."""
    deadline = time.monotonic() + SHORTENING
    best = failure

    def fails(inputs: Sequence[Input]) -> bool:
        nonlocal best
        found = attempt(target, inputs)
        if found is None or found.where != failure.where:
            return False
        best = found
        return True

    inputs: list[Input] = failure.inputs
    if not fails(inputs):  # it does not come again
        return failure
    if target.alone and fails(inputs[-1:]):
        inputs = inputs[-1:]
    inputs = _without(inputs, fails, deadline)
    for at, given in enumerate(inputs):
        if isinstance(given, bytes):
            inputs[at] = _without(given, lambda part, at=at: fails([*inputs[:at], part, *inputs[at + 1 :]]), deadline)
    return best


def _without(whole: Any, fails: Callable[[Any], bool], deadline: float) -> Any:
    """`whole`, a list or bytes, without the parts that make no difference."""
    step = len(whole) // 2
    while step:
        at = 0
        while at < len(whole) and time.monotonic() < deadline:
            part = whole[:at] + whole[at + step :]
            if part and fails(part):
                whole = part
            else:
                at += step
        step //= 2
    return whole
