"""Writes CD images: ISO 9660's volume descriptors and an El Torito boot catalog, without a file system."""

from __future__ import annotations

import struct

BLOCK = 2048
CATALOG, FIRST = 19, 20
"""The blocks of the catalog and of what is started."""


def descriptor(kind: int, content: bytes = b"") -> bytes:
    return (bytes((kind,)) + b"CD001\x01" + content).ljust(BLOCK, b"\0")


def validation(platform: int = 0) -> bytes:
    """With the checksum that makes the sum of its words 0."""
    entry = struct.pack("<BBHx23sHBB", 1, platform, 0, b"somebody", 0, 0x55, 0xAA)
    total = sum(struct.unpack("<16H", entry))
    return entry[:28] + struct.pack("<H", -total & 0xFFFF) + entry[30:]


def entry(media: int, *, sectors: int = 4, segment: int = 0, block: int = FIRST, bootable: bool = True) -> bytes:
    return struct.pack("<BBHBxHI20x", 0x88 if bootable else 0, media, segment, 0, sectors, block)


def iso(started: bytes, media: int = 0, *, catalog: bytes | None = None, blocks: int = 0, **options: int) -> bytes:
    """An image of at least `blocks` blocks that starts from `started`, which has `media` as its kind of emulation."""
    record = descriptor(0, b"EL TORITO SPECIFICATION".ljust(64, b"\0") + CATALOG.to_bytes(4, "little"))
    head = bytes(16 * BLOCK) + descriptor(1) + record + descriptor(255)
    if catalog is None:
        catalog = validation() + entry(media, **options)
    image = head + catalog.ljust(BLOCK, b"\0") + started
    return image.ljust(max(blocks, -(-len(image) // BLOCK)) * BLOCK, b"\0")
