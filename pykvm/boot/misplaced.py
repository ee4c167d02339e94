"""Headers of Multiboot that are there and do not count: at a wrong place, or with a wrong checksum.

Sources: Multiboot specification 0.6.96, 3.1; Multiboot specification 2.0, 3.1.1 and 3.1.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..typed import NamedTuple

_MOST = 64
"""Places that are looked at: an image may be full of a magic number."""


class _Kind(NamedTuple):
    name: str
    magic: bytes
    words: int
    """That have a sum of 0."""
    align: int
    limit: int
    flags: int
    """The second word's bits that mean something: others are rather code that happens to have the number."""


_KINDS = (
    _Kind("Multiboot 2", b"\xd6\x50\x52\xe8", 4, 8, 32768, 0x4),
    _Kind("Multiboot", b"\x02\xb0\xad\x1b", 3, 4, 8192, 0x10007),
)


def misplaced_header(image: bytes) -> str | None:
    """What is wrong with the image's Multiboot header, in a sentence; None if it has a good one, or none."""
    wrong = None
    for kind in _KINDS:
        for at in _places(image, kind.magic):
            found = _wrong(image, kind, at)
            if found == "":
                return None
            wrong = wrong or found
    return wrong


def _places(image: bytes, magic: bytes) -> Iterator[int]:
    at = -1
    for _ in range(_MOST):
        at = image.find(magic, at + 1)
        if at < 0:
            return
        yield at


def _wrong(image: bytes, kind: _Kind, at: int) -> str | None:
    """What is wrong with the header at a place: nothing (""), or None if this is no header at all."""
    size = 4 * kind.words
    if at + size > len(image):
        return None
    words = struct.unpack_from(f"<{kind.words}I", image, at)
    total = sum(words) % (1 << 32)
    placed = at % kind.align == 0 and at + size <= kind.limit
    where = f"the {kind.name} header at file offset {at:#x}"
    if total:
        if not placed or words[1] & ~kind.flags:
            return None
        right = (words[-1] - total) % (1 << 32)
        return f"{where} has a wrong checksum, {words[-1]:#x}, so no boot loader sees it: it must be {right:#x}"
    if placed:
        return ""
    rule = f"it must be in the file's first {kind.limit >> 10} KiB, on a multiple of {kind.align}"
    return (
        f"{where} is at a wrong place, so no boot loader sees it: {rule}. Have the linker script put its section "
        "first, as by KEEP(*(.multiboot)), and align it"
    )
