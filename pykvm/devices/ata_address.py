"""From the task file to a sector, and back: 28-bit, 48-bit and CHS addresses (ATA/ATAPI-6 6.2, ATA/ATAPI-5 6.2).

`current` and `previous` are the bytes of the Command Block registers by their offset, as they are and, for the 48-bit
commands, as they were before the last write.
"""

from __future__ import annotations

from typing import NamedTuple

from .ata_identify import LBA28_SECTORS, Geometry
from .ata_registers import DEVICE, DEVICE_LBA, LBA_HIGH, LBA_LOW


class Place(NamedTuple):
    """What a command is about: the first sector, how many, and the first sector that its kind of address has not."""

    lba: int
    sectors: int
    limit: int


def locate(current: list[int], previous: list[int], geometry: Geometry, total: int, extended: bool) -> Place | None:
    """What the task file says, on a disk of `total` sectors; None for a head or a sector that no track has."""
    _, _, count, low, mid, high, device = current
    if extended:
        _, _, count_before, *before = previous[:6]
        lba = int.from_bytes(bytes((low, mid, high, *before)), "little")
        return Place(lba, count_before << 8 | count or 0x10000, total)
    count = count or 256
    if device & DEVICE_LBA:
        return Place((device & 0x0F) << 24 | high << 16 | mid << 8 | low, count, min(total, LBA28_SECTORS))
    head = device & 0x0F
    if head >= geometry.heads or not 1 <= low <= geometry.sectors:
        return None
    lba = ((high << 8 | mid) * geometry.heads + head) * geometry.sectors + low - 1
    return Place(lba, count, geometry.capacity)


def put_address(current: list[int], previous: list[int], geometry: Geometry, lba: int, extended: bool) -> None:
    """Leave a sector's address in the task file.

    A guest that changed the Device register in the middle of a transfer gets as much of it as fits that form.
    """
    if extended:
        low, mid, high, *before = lba.to_bytes(6, "little")
        previous[LBA_LOW : LBA_HIGH + 1] = before
        top = current[DEVICE] & 0x0F
    elif current[DEVICE] & DEVICE_LBA:
        low, mid, high, top = (lba & 0x0FFF_FFFF).to_bytes(4, "little")
    else:
        track, sector = divmod(lba, geometry.sectors)
        cylinder, top = divmod(track, geometry.heads)
        low, mid, high = sector + 1, cylinder & 0xFF, cylinder >> 8 & 0xFF
    current[LBA_LOW:] = low, mid, high, current[DEVICE] & 0xF0 | top
