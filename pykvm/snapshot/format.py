"""The directory that a snapshot is saved to. docs/snapshots.md describes it for people.

    state.json          everything but contents, as named plain data (`plain` has how bytes are written)
    state.json.sha256   its checksum, as sha256sum writes and checks it
    memory              RAM at its own offsets, sparse; with a parent only the pages that differ from the parent's
    disk0 ... disk4     what was written to a copy-on-write disk, at its own offsets, sparse
    console0 ...        the output of the debug console and of COM1 onwards, where there is any
    firmware, vga_bios  the images, if the machine has them

Everything in there may be hostile: each number is checked before it is used, sizes are limited, and what is wrong is
told by one SnapshotError. The limits hold for saving, too: what is saved can be loaded. A directory is written beside
its place and renamed into it when all of it is on the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

FORMAT = 2
STATE, CHECKSUM, MEMORY = "state.json", "state.json.sha256", "memory"
FIRMWARE = {"firmware": "rom", "vga_bios": "vga_bios"}
"""Files with the parts of a `Firmware`."""
STATE_LIMIT = 16 << 20
"""Bytes of the longest state.json. The input that waits on five consoles takes up 10 MiB of it at most."""
CHUNK = 1 << 20
"""Bytes at most that share a checksum."""
WRITTEN_LIMIT = 4 << 30
"""Bytes at most that were written to one copy-on-write disk."""
RAM_LIMIT = 1 << 40
"""Bytes of the largest machine that is saved: a set of its pages takes up 32 MiB."""
EXTENTS = 1 << 16
"""Extents that RAM is saved in at most: all 64 GiB of a machine, or parts of a larger one."""
SCREEN_LIMIT = 1 << 16
"""Characters of the text screen: twice what all of the text buffer can show."""
GENERATIONS = 64
"""Parents of parents at most."""


class Extent(NamedTuple):
    """A part of a file that has content, with its CRC-32 (as zlib computes it, and isal in a third of the time)."""

    offset: int
    length: int
    crc: int


def chunks(parts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """These parts (offset, length) in pieces of at most `CHUNK` bytes."""
    for offset, length in parts:
        for at in range(offset, offset + length, CHUNK):
            yield at, min(CHUNK, offset + length - at)
