"""El Torito: which part of a CD a BIOS starts.

Implements: "El Torito" Bootable CD-ROM Format Specification 1.0 (Phoenix and IBM, 1995), sections 2.0 to 2.5 (booting
catalog) and 3.0 (boot record volume descriptor); ECMA-119 (ISO 9660), 8.1 to 8.3 (volume descriptors). The checksum of
the validation entry is not asked for: no BIOS in use does, and images have wrong ones.
"""

from __future__ import annotations

import struct

from ..disk import SECTOR, Disk
from ..disk.tray import CD_SECTOR, read_bytes
from ..errors import PykvmError
from ..typed import NamedTuple

DESCRIPTORS = 16
"""Block of the first volume descriptor."""
MOST_DESCRIPTORS, CATALOG_BLOCKS = 16, 4
"""So many blocks of descriptors, and of the catalog, are looked at."""
_SYSTEM = b"EL TORITO SPECIFICATION".ljust(32, b"\0")
_CATALOG_AT = 0x47

NO_EMULATION, FLOPPY_1200, FLOPPY_1440, FLOPPY_2880, HARD_DISK = range(5)
FLOPPY_SIZES = {FLOPPY_1200: 1200 << 10, FLOPPY_1440: 1440 << 10, FLOPPY_2880: 2880 << 10}
"""Bytes of the floppy disks that an image can be taken for."""
WORDS = (
    "no emulation",
    "a floppy disk of 1.2 MB",
    "a floppy disk of 1.44 MB",
    "a floppy disk of 2.88 MB",
    "a hard disk",
)

BOOT_SEGMENT = 0x7C0
LOAD_END = 0x9FC00
"""End of what is loaded at the start: the extended BIOS data area is there."""
_X86, _BOOTABLE, _SECTION, _LAST_SECTION, _EXTENSION = 0x00, 0x88, 0x90, 0x91, 0x44
_ENTRY = struct.Struct("<BBHBxHI20x")
"""Boot indicator, media type, load segment, system type, sector count, first block (section 2.2)."""


class NotBootable(PykvmError):
    """A CD that a BIOS cannot start: the message says what it lacks."""


class BootEntry(NamedTuple):
    """An entry of the boot catalog: what is loaded where, and as what kind of disk it is then seen."""

    media: int
    """NO_EMULATION, a floppy disk or HARD_DISK."""
    segment: int
    """Where it is loaded, as a segment of real mode."""
    sectors: int
    """How much of it is loaded, in 512 bytes."""
    block: int
    """Its first block on the CD, of 2,048 bytes."""

    @property
    def is_possible(self) -> bool:
        """Whether its numbers are in range, and what it loads fits into memory."""
        return (
            0 <= self.media <= HARD_DISK
            and 0 <= self.block < 1 << 32
            and 0 < self.segment < 1 << 16
            and 0 < self.sectors < 1 << 16
            and (self.segment << 4) + self.sectors * SECTOR <= LOAD_END
        )


def catalog_block(descriptors: bytes) -> int | None:
    """Where the boot catalog is, as the volume descriptors (a CD's content from block 16 on) say; None if nowhere."""
    for at in range(0, min(len(descriptors), MOST_DESCRIPTORS * CD_SECTOR) - CD_SECTOR + 1, CD_SECTOR):
        kind, name = descriptors[at], descriptors[at + 1 : at + 6]
        if name != b"CD001" or kind == 255:
            return None
        if kind == 0 and descriptors[at + 7 : at + 39] == _SYSTEM:
            return int.from_bytes(descriptors[at + _CATALOG_AT : at + _CATALOG_AT + 4], "little")
    return None


def boot_entry(medium: Disk) -> BootEntry:
    """What a BIOS starts of this CD: the catalog's first bootable entry for x86 PCs. NotBootable if there is none."""
    try:
        at = catalog_block(read_bytes(medium, DESCRIPTORS * CD_SECTOR, MOST_DESCRIPTORS * CD_SECTOR))
        if at is None:
            raise NotBootable("the CD has no El Torito boot record: only its files can be read")
        catalog = read_bytes(medium, at * CD_SECTOR, CATALOG_BLOCKS * CD_SECTOR)
    except OSError as error:
        raise NotBootable(f"the CD cannot be read: {error.strerror or error}") from error
    where = f"(file offset {at * CD_SECTOR:#x})"
    if catalog[0] != 1 or catalog[30:32] != b"\x55\xaa":
        raise NotBootable(f"the CD's boot catalog {where} does not begin with a validation entry")
    found = _first_bootable(catalog)
    if found is None:
        raise NotBootable(
            f"the CD's boot catalog {where} has no entry for a PC with a BIOS, as one for UEFI alone has not"
        )
    return _checked(found, medium, where)


def _first_bootable(catalog: bytes) -> BootEntry | None:
    platform = catalog[1]
    for at in range(32, len(catalog), _ENTRY.size):
        indicator, media, segment, _, sectors, block = _ENTRY.unpack_from(catalog, at)
        if indicator in (_SECTION, _LAST_SECTION):
            platform = media
        elif indicator == _BOOTABLE and platform == _X86:
            return BootEntry(media & 0x0F, segment or BOOT_SEGMENT, max(sectors, 1), block)
        elif indicator not in (_BOOTABLE, 0, _EXTENSION):
            return None
    return None


def _checked(entry: BootEntry, medium: Disk, where: str) -> BootEntry:
    if entry.media > HARD_DISK:
        raise NotBootable(
            f"the CD's boot catalog {where} names {entry.media:#x} as the kind of disk to emulate: 0 to 4 are"
        )
    if entry.block * CD_SECTOR >= medium.size:
        raise NotBootable(f"the CD's boot catalog {where} names block {entry.block}, behind the end of the image")
    if not entry.is_possible:
        raise NotBootable(
            f"the CD's boot catalog {where} wants {entry.sectors * SECTOR} bytes loaded at {entry.segment << 4:#x}: "
            f"a PC's memory for that ends at {LOAD_END:#x}"
        )
    return entry
