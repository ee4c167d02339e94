"""The memory map of the machine, as every boot protocol and the BIOS tell it to a guest.

Source: ACPI specification 6.5, section 15.1 (INT 15h, E820h) and table 15.1 (address range types). Multiboot, PVH and
Linux took over these types with their numbers.

All of RAM is usable save three areas of the first MiB, laid out as on every PC. Addresses that are not RAM (the chips
below 4 GiB) are not listed: whatever is in no range is no memory.
"""

from __future__ import annotations

from ..memory import GuestMemory
from ..typed import IntEnum, NamedTuple


class Kind(IntEnum):
    """What a range may be used for."""

    USABLE = 1
    RESERVED = 2
    ACPI = 3
    """Tables: usable once the guest has read them."""


class Range(NamedTuple):
    """A range of guest physical addresses: `size` bytes from `base` on."""

    base: int
    size: int
    kind: Kind


EBDA = Range(0x9FC00, 0x400, Kind.RESERVED)
"""The extended BIOS data area, the last KiB of conventional memory."""
TABLES = Range(0xE0000, 0x10000, Kind.ACPI)
"""The ACPI and MP tables."""
BIOS = Range(0xF0000, 0x10000, Kind.RESERVED)
"""Where a PC has its BIOS."""
EXTENDED = 1 << 20
"""Extended memory begins here."""

RESERVED_AREAS = (EBDA, TABLES, BIOS)


def memory_map(memory: GuestMemory) -> list[Range]:
    """The ranges, by address and without overlap. Between 0xA0000 and 0xE0000, a PC's video memory, there is none."""
    low, *high = memory.regions
    ranges = [Range(0, min(low.size, EBDA.base), Kind.USABLE)]
    ranges += [area for area in RESERVED_AREAS if area.base + area.size <= low.size]
    if low.size > EXTENDED:
        ranges.append(Range(EXTENDED, low.size - EXTENDED, Kind.USABLE))
    return ranges + [Range(region.gpa, region.size, Kind.USABLE) for region in high]


def lower_kib(memory: GuestMemory) -> int:
    """KiB of usable memory from address 0 on: at most 639."""
    return min(memory.size, EBDA.base) >> 10


def upper_kib(memory: GuestMemory) -> int:
    """KiB of usable memory from 1 MiB to the first hole."""
    return max(memory.regions[0].size - EXTENDED, 0) >> 10
