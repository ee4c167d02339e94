"""RAM as it was at one moment, kept so that many machines can begin with it and a machine can go back to it.

An image is a root, which is never written once it is there (a memfd: a file that others can cut would be no ground to
stand on), and the pages in which it differs from the root. Its `map` shows the whole: a copy-on-write mapping of the
root with those pages written into it, so that only they take up memory, and the root's are shared by all images and
machines that come from it.

A set of pages is a Python integer with bit N for the page at offset N * 4096 of the RAM.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterable, Iterator

from ..kvm.saved import copy_pages
from ..memory import PAGE_SIZE, GuestMemory, map_copy

FEW = 64
"""So many pages each machine may have of its own rather than share them."""


class Root:
    """`size` bytes behind the descriptor `fd`, which the root owns. Nobody writes them any more."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._finalizer = weakref.finalize(self, os.close, fd)

    def data(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each part that is not a hole: whole pages."""
        return extents(self.fd, self.size)


class RamImage:
    """The content of `root` with the pages `changed` taken from `source`, a buffer of the same size."""

    def __init__(self, root: Root, changed: int = 0, source: mmap.mmap | None = None) -> None:
        self.root = root
        self.changed = changed
        """The pages that may differ from the root's."""
        self._whole = root
        """All of the content, to begin machines with."""
        self.map = map_copy(root.fd, root.size)
        if changed and source is not None:
            copy_pages(self.map, source, bitmap(changed, root.size))

    def memory(self) -> GuestMemory:
        """RAM that begins as this image, copy-on-write."""
        if self._whole is self.root and self.changed.bit_count() > FEW:
            self._whole = new_root(self.root.size)
            copy_extents(self.map, self._whole.fd, self.data())
        memory = GuestMemory(self.root.size, self._whole.fd)
        if self._whole is self.root and self.changed:
            copy_pages(memory.map, self.map, bitmap(self.changed, self.root.size))
        return memory

    def data(self) -> Iterator[tuple[int, int]]:
        """Offset and length of parts outside which there are only zeros."""
        return runs(self.changed | pages_in(self.root.data(), self.root.size))


def freeze(memory: GuestMemory) -> Root:
    """A root with a copy of the RAM, which holds still: what was never touched is not copied, and takes no room."""
    root = new_root(memory.size)
    copy_extents(memory.map, root.fd, [(0, memory.size)] if memory.private else extents(memory.fd, memory.size))
    return root


def new_root(size: int) -> Root:
    """A root of zeros, to be filled."""
    root = Root(os.memfd_create("pykvm-snapshot", os.MFD_CLOEXEC), size)
    os.ftruncate(root.fd, size)
    return root


def copy_extents(source: mmap.mmap, fd: int, parts: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> None:
    """Write these parts (offset, length) of `source` to the same offsets of the file."""
    with memoryview(source) as view:
        for offset, length in parts:
            done = 0
            while done < length:
                with view[offset + done : offset + length] as rest:
                    done += os.pwrite(fd, rest, offset + done)


def fill(memory: GuestMemory, image: RamImage) -> None:
    """Make the RAM, whatever is in it, what the image is."""
    for region in memory.regions:
        memory.zero(region.gpa, region.size)
    with memoryview(memory.map) as target, memoryview(image.map) as source:
        for offset, length in image.data():
            target[offset : offset + length] = source[offset : offset + length]


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of each part of the file, up to `size`, that is not a hole; widened to whole pages."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        if start >= size:
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        start = max(start // PAGE_SIZE * PAGE_SIZE, at)
        at = min(-(-end // PAGE_SIZE) * PAGE_SIZE, size)
        yield start, at - start


def bitmap(pages: int, size: int) -> bytes:
    """The set as `copy_pages` takes it, for RAM of `size` bytes."""
    return pages.to_bytes(-(-size // (64 * PAGE_SIZE)) * 8, "little")


def pages_in(parts: Iterable[tuple[int, int]], size: int) -> int:
    """The set of the pages in these parts (offset, length; whole pages) of `size` bytes."""
    table = bytearray(-(-size // (8 * PAGE_SIZE)))
    for offset, length in parts:
        first, end = offset // PAGE_SIZE, (offset + length) // PAGE_SIZE
        whole, whole_end = -(-first // 8), end // 8
        if whole < whole_end:
            table[whole:whole_end] = b"\xff" * (whole_end - whole)
        for page in (*range(first, min(8 * whole, end)), *range(max(8 * whole_end, first), end)):
            table[page >> 3] |= 1 << (page & 7)
    return int.from_bytes(table, "little")


def pages_of(numbers: set[int] | list[int]) -> int:
    """The set of the pages with these numbers."""
    table = bytearray(max(numbers, default=0) // 8 + 1)
    for number in numbers:
        table[number >> 3] |= 1 << (number & 7)
    return int.from_bytes(table, "little")


def runs(pages: int) -> Iterator[tuple[int, int]]:
    """Offset and length in bytes of each run of neighbours in the set, in rising order."""
    at = 0
    while pages:
        skip = (pages & -pages).bit_length() - 1
        pages >>= skip
        length = (~pages & pages + 1).bit_length() - 1
        yield (at + skip) * PAGE_SIZE, length * PAGE_SIZE
        pages >>= length
        at += skip + length
