"""Reading the files of a snapshot, which anybody may have made, and may change while they are read.

What is checked is always a copy of our own. Where a file has a hole nothing is read, and what is allocated is in
proportion to what the files really hold.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

from isal.isal_zlib import crc32

from .fields import items
from .format import CHUNK, Extent

_NO_MORE = (1 << 64, 0)


def open_file(stack: ExitStack, home: int, name: str) -> int:
    """The file of that name in the directory `home`, closed with `stack`; ValueError if it is not a regular one."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=home)
    stack.callback(os.close, fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ValueError(f"{name} is not a regular file")
    return fd


def read(fd: int, offset: int, length: int) -> bytes:
    """These bytes of a file; ValueError if it ends before."""
    parts = []
    while length:
        part = os.pread(fd, length, offset)
        if not part:
            raise ValueError("a file is shorter than it was")
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)


def copy(source: int, target: int, offset: int, length: int) -> None:
    """Copy these bytes of a file to the same place of another, in the kernel; ValueError if it ends before."""
    os.lseek(target, offset, os.SEEK_SET)
    while length:
        done = os.sendfile(target, source, offset, length)
        if not done:
            raise ValueError("a file is shorter than it was")
        offset, length = offset + done, length - done


def holds_data(fd: int, part: Extent) -> bool:
    """Whether any of it is not a hole. Where the next hole is, is not asked: some file systems look page by page."""
    try:
        return os.lseek(fd, part.offset, os.SEEK_DATA) < part.offset + part.length
    except OSError:  # ENXIO: only a hole is left
        return False


def check(content: bytes | bytearray | memoryview, part: Extent, name: str) -> None:
    """ValueError unless the content has the checksum of the part."""
    if crc32(content) != part.crc:
        raise ValueError(f"{name} has other content at {part.offset:#x} than was saved")


def content(fd: int, part: Extent, name: str) -> bytes:
    """The part of a file, checked. Holes of the same length are one object."""
    found = read(fd, part.offset, part.length) if holds_data(fd, part) else zeros(part.length)
    check(found, part, name)
    return found


@lru_cache(maxsize=16)
def zeros(length: int) -> bytes:
    """So many zeros."""
    return bytes(length)


@lru_cache(maxsize=256)
def zeros_crc(length: int) -> int:
    """The checksum of so many zeros."""
    return crc32(bytes(length))


def extents_of(state: dict[str, Any], name: str, size: int, unit: int) -> list[Extent]:
    """Extents of a file of `size` bytes: in rising order, apart, whole units but for the file's end."""
    made, end = [], 0
    for entry in items(state, name):
        if not isinstance(entry, list) or len(entry) != 3 or not all(type(part) is int for part in entry):
            raise ValueError(f"{name}: an extent is not three numbers")
        part = Extent(*entry)
        after = part.offset + part.length
        if part.offset < end or part.offset % unit or not 0 < part.length <= CHUNK or after > size:
            raise ValueError(f"the extent {part.offset:#x}+{part.length:#x} is not within the file, or not in order")
        if after % unit and after != size:
            raise ValueError(f"the extent {part.offset:#x}+{part.length:#x} is not made of units of {unit}")
        made.append(part)
        end = after
    return made


def whole(home: int, name: str, state: dict[str, Any], field: str, most: int) -> bytes:
    """All of a file that has no holes, of at most `most` bytes; nothing if it has no extents."""
    parts = extents_of(state, field, most, 1)
    if not parts:
        return b""
    with ExitStack() as stack:
        fd = open_file(stack, home, name)
        return b"".join(content(fd, part, name) for part in parts)


def common(some: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Offset and length of what is in both of two lists of parts, each in rising order."""
    rest = iter(others)
    at, length = next(rest, _NO_MORE)
    for offset, size in some:
        end = offset + size
        while at < end:
            start, stop = max(at, offset), min(at + length, end)
            if start < stop:
                yield start, stop - start
            if at + length >= end:
                break
            at, length = next(rest, _NO_MORE)


def gaps(parts: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what is between the parts of a file, and behind them."""
    at = 0
    for offset, length in parts:
        if offset > at:
            yield at, offset - at
        at = offset + length
    if size > at:
        yield at, size - at


def joined(parts: list[Extent]) -> Iterator[tuple[int, int]]:
    """Offset and length of these parts, neighbours as one."""
    start = end = 0
    for part in parts:
        if part.offset != end:
            if end > start:
                yield start, end - start
            start = part.offset
        end = part.offset + part.length
    if end > start:
        yield start, end - start
