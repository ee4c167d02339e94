"""INT 13h: disks, by cylinder, head and sector or, with the extensions, by block number.

Sources: IBM PC/AT Technical Reference (INT 13h); Phoenix Enhanced Disk Drive specification 3.0 (41h-48h: sections 3.1
"device address packet", 4.1-4.9); Ralf Brown's Interrupt List for the status codes. What is about CDs alone is in `cd`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..disk import SECTOR, Disk
from ..memory import GuestMemory, GuestMemoryError
from . import data
from .call import Call, linear
from .rom import FLOPPY_PARAMETERS, SEGMENT

MOST_SECTORS = 127
"""A call transfers no more: as the EDD specification has it, and so that no call takes long."""
HARD_DISK, CD = 0x80, 0xE0
"""The numbers of the first hard disk and of the first CD-ROM drive."""

OK, INVALID, WRITE_PROTECTED, NOT_FOUND, BOUNDARY, FAILED, NO_MEDIUM, NO_DRIVE = (
    0x00, 0x01, 0x03, 0x04, 0x09, 0x20, 0x31, 0x80,
)  # fmt: skip
STATUS = {
    INVALID: "no such function or parameter",
    WRITE_PROTECTED: "write-protected",
    NOT_FOUND: "sector not found",
    BOUNDARY: "buffer outside memory",
    FAILED: "controller failure",
    NO_MEDIUM: "no medium in the drive",
    NO_DRIVE: "no such drive",
}

EDD_VERSION = 0x30
EDD_PACKETS = 1 << 0
"""What of the extensions there is: the packet functions 42h-44h, 47h and 48h."""
DRIVE_GEOMETRY_VALID, DRIVE_REMOVABLE = 1 << 1, 1 << 2


class Geometry(NamedTuple):
    """How many cylinders, heads, and sectors a track."""

    cylinders: int
    heads: int
    sectors: int


_FLOPPIES = {
    160: (Geometry(40, 1, 8), 1),
    180: (Geometry(40, 1, 9), 1),
    320: (Geometry(40, 2, 8), 1),
    360: (Geometry(40, 2, 9), 1),
    720: (Geometry(80, 2, 9), 3),
    1200: (Geometry(80, 2, 15), 2),
    1440: (Geometry(80, 2, 18), 4),
    1680: (Geometry(80, 2, 21), 4),
    1722: (Geometry(82, 2, 21), 4),
    2880: (Geometry(80, 2, 36), 6),
}
"""By size in KiB: the geometry, and the drive's type as INT 13h AH=08h gives it."""


def is_floppy_size(size: int) -> bool:
    """Whether an image of `size` bytes is that of a floppy disk."""
    return size % 1024 == 0 and size // 1024 in _FLOPPIES


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk with the number under which INT 13h knows it. `floppy_type` is 0 for a hard disk or CD; a CD has no
    geometry and a `block_size` of its own, in bytes."""

    number: int
    disk: Disk
    geometry: Geometry
    floppy_type: int = 0
    block_size: int = SECTOR

    @property
    def sectors(self) -> int:
        """How many blocks there are in all."""
        return self.disk.size // self.block_size

    @property
    def end(self) -> int:
        """How many blocks the medium has, by its geometry if that is more: what an image is short of reads as zeros."""
        cylinders, heads, sectors = self.geometry
        return max(self.sectors, cylinders * heads * sectors)

    @property
    def is_cd(self) -> bool:
        """Whether it can be read by blocks alone."""
        return self.block_size != SECTOR


def floppy(number: int, disk: Disk) -> Drive:
    """Floppy drive `number` (0 for A:) with `disk` in it. A disk of no floppy's size counts as one of 1.44 MB."""
    geometry, kind = _FLOPPIES.get(disk.size // 1024, _FLOPPIES[1440])
    return Drive(number, disk, geometry, kind)


def hard_disk(number: int, disk: Disk) -> Drive:
    """Hard disk `number` (0 for drive 80h), with the geometry that its first sector was made for."""
    return Drive(HARD_DISK + number, disk, guess_geometry(disk))


def guess_geometry(disk: Disk) -> Geometry:
    """Heads and sectors as the partition table or the FAT file system on the disk assumes them, else by its size."""
    total = disk.size // SECTOR
    try:
        first = disk.read_at(0, SECTOR)
    except OSError:
        first = bytes(SECTOR)
    heads, sectors = _from_partitions(first) or _from_fat(first) or _by_size(total)
    return Geometry(max(1, min(total // (heads * sectors), 1024)), heads, sectors)


def _from_partitions(first: bytes) -> tuple[int, int] | None:
    """Partitions end with a cylinder: the CHS address of an end is that of a last head and a last sector."""
    if first[510:] != b"\x55\xaa":
        return None
    for at in range(446, 510, 16):
        boot, _, _, _, kind, end_head, end_sector, _, start, count = struct.unpack_from("<8BII", first, at)
        end_sector &= 0x3F
        if boot & 0x7F == 0 and kind and end_head and end_sector and end_head < 255 and start and count:
            return end_head + 1, end_sector
    return None


def _from_fat(first: bytes) -> tuple[int, int] | None:
    sector_size, media, sectors, heads = struct.unpack_from("<H8xB2xHH", first, 11)
    if first[0] in (0xEB, 0xE9) and sector_size == SECTOR and media >= 0xF0 and 0 < sectors <= 63 and 0 < heads <= 255:
        return heads, sectors
    return None


def _by_size(total: int) -> tuple[int, int]:
    """The fewest heads with which 1024 cylinders reach the end: "LBA assist"."""
    return next((heads for heads in (16, 32, 64, 128) if heads * 63 * 1024 >= total), 255), 63


class Disks:
    """Serves INT 13h for `drives`."""

    def __init__(self, memory: GuestMemory, drives: Sequence[Drive]) -> None:
        self._memory = memory
        self.drives = {drive.number: drive for drive in drives}
        self.emulated: Drive | None = None
        """What a CD is taken for: the first floppy drive or the first hard disk."""
        self.about_emulation: Callable[[Call], int] | None = None
        """Serves the function 4Bh, if there are CDs."""

    @property
    def _all(self) -> list[Drive]:
        return [*self.drives.values(), *([] if self.emulated is None else [self.emulated])]

    @property
    def floppies(self) -> int:
        """How many floppy drives there are."""
        return sum(drive.number < HARD_DISK for drive in self._all)

    @property
    def hard_disks(self) -> int:
        """How many hard disks there are."""
        return sum(HARD_DISK <= drive.number < CD for drive in self._all)

    def tell_counts(self) -> None:
        """Bring the BIOS data area up to how many drives there are."""
        data.write_drives(self._memory, self.floppies, self.hard_disks)

    def find(self, number: int) -> Drive | None:
        """The drive that a program calls by this number."""
        emulated = self.emulated
        if emulated is None or number >= CD or (number < HARD_DISK) != (emulated.number < HARD_DISK):
            return self.drives.get(number)
        return emulated if number == emulated.number else self.drives.get(number - 1)

    def serve(self, call: Call) -> None:
        function = call.ah
        status_at = data.DISK_STATUS if call.dl >= HARD_DISK else data.FLOPPY_STATUS
        if function == 0x01:
            status = self._memory.read_int(status_at, 1)
        else:
            status = self._serve(call)
            self._memory.write_int(status_at, 1, status)
            if function == 0x15 or (function == 0x41 and status == OK):
                return  # AH is a result there
        call.ah = status
        call.carry = status != OK

    def _serve(self, call: Call) -> int:
        drive = self.find(call.dl)
        function = call.ah
        if function == 0x15:
            return self._type(call, drive)
        if function == 0x4B and self.about_emulation is not None:
            return self.about_emulation(call)
        if drive is None:
            return INVALID if call.dl >= HARD_DISK else NO_DRIVE
        match function:
            case 0x00 | 0x0C | 0x0D | 0x10 | 0x11 | 0x14 | 0x47:
                return OK
            case 0x02 | 0x03 | 0x04 if not drive.is_cd:
                return self._by_chs(call, drive)
            case 0x05 if drive.floppy_type:
                return self._format(call, drive)
            case 0x08 if not drive.is_cd:
                return self._parameters(call, drive)
            case 0x16 | 0x17 | 0x18 if drive.floppy_type:
                if function == 0x18:
                    call.es, call.di = SEGMENT, FLOPPY_PARAMETERS
                return OK
            case 0x41 | 0x42 | 0x43 | 0x44 | 0x48 if not drive.floppy_type:
                return self._extension(call, drive)
        return INVALID

    # Cylinder, head, sector

    def _chs(self, call: Call, drive: Drive) -> int:
        """The block number that CX and DH name, or -1."""
        cylinder, sector = call.ch | (call.cl & 0xC0) << 2, call.cl & 0x3F
        cylinders, heads, sectors = drive.geometry
        if not (cylinder < cylinders and call.dh < heads and 0 < sector <= sectors):
            return -1
        return (cylinder * heads + call.dh) * sectors + sector - 1

    def _by_chs(self, call: Call, drive: Drive) -> int:
        count, first = call.al, self._chs(call, drive)
        call.al = 0
        if not 0 < count <= MOST_SECTORS + 1:
            return INVALID
        if first < 0:
            return NOT_FOUND
        status, call.al = self._transfer(drive, call.ah - 0x02, first, count, linear(call.es, call.bx))
        return status

    def _format(self, call: Call, drive: Drive) -> int:
        call.cl = 1
        first = self._chs(call, drive)
        return NOT_FOUND if first < 0 else self._write(drive, first, b"\xf6" * (SECTOR * drive.geometry.sectors))

    def _parameters(self, call: Call, drive: Drive) -> int:
        cylinders, heads, sectors = drive.geometry
        last = cylinders - 1
        call.ax = 0
        call.ch, call.cl = last, last >> 8 << 6 | sectors
        call.dh, call.dl = heads - 1, self.floppies if drive.floppy_type else self.hard_disks
        if drive.floppy_type:
            call.bx = drive.floppy_type
            call.es, call.di = SEGMENT, FLOPPY_PARAMETERS
        return OK

    def _type(self, call: Call, drive: Drive | None) -> int:
        """AH=15h: 0 no drive, 1 floppy without change line, 2 removable, 3 hard disk of CX:DX sectors."""
        call.carry = False
        call.ah = 0
        if drive is not None and drive.floppy_type:
            call.ah = 1
        elif drive is not None and drive.is_cd:
            call.ah = 2
        elif drive is not None:
            call.ah = 3
            total = min(drive.sectors, 0xFFFFFFFF)
            call.cx, call.dx = total >> 16, total
        return OK

    # Extensions

    def _extension(self, call: Call, drive: Drive) -> int:
        if call.ah == 0x41:
            if call.bx != 0x55AA:
                return INVALID
            call.bx, call.cx, call.ah = 0xAA55, EDD_PACKETS, EDD_VERSION
            call.carry = False
            return OK
        packet = linear(call.ds, call.si)
        try:
            size, count, offset, segment, first = struct.unpack("<HHHHQ", self._memory.read(packet, 16))
            if call.ah == 0x48:
                return self._edd_parameters(call, drive, packet, size)
            size &= 0xFF
            if size < 16 or count > MOST_SECTORS:
                return INVALID
            buffer = linear(segment, offset)
            if (segment, offset) == (0xFFFF, 0xFFFF) and size >= 24:
                buffer = self._memory.read_int(packet + 16, 8)
            status, done = self._transfer(drive, call.ah - 0x42, first, count, buffer)
            if status != OK:
                self._memory.write_int(packet + 2, 2, done)
            return status
        except GuestMemoryError:
            return BOUNDARY

    def _edd_parameters(self, call: Call, drive: Drive, buffer: int, size: int) -> int:
        if size < 26:
            return INVALID
        cylinders, heads, sectors = drive.geometry
        flags = DRIVE_REMOVABLE if drive.is_cd else DRIVE_GEOMETRY_VALID
        fields = (26, flags, cylinders, heads, sectors, drive.sectors, drive.block_size)
        self._memory.write(buffer, struct.pack("<HHIIIQH", *fields))
        return OK

    # Transfer

    def _transfer(self, drive: Drive, direction: int, first: int, count: int, buffer: int) -> tuple[int, int]:
        """Read (`direction` 0), write (1) or verify (2) `count` sectors from number `first` on; status, sectors done.

        Those that there are before the medium's end are transferred before the error.
        """
        if drive.is_cd and not drive.sectors:
            return NO_MEDIUM, 0
        there = min(count, max(drive.end - first, 0))
        size = there * drive.block_size
        try:
            if direction == 1:
                if drive.disk.read_only:
                    return WRITE_PROTECTED, 0
                there = min(count, max(drive.sectors - first, 0))
                status = self._write(drive, first, self._memory.read(buffer, there * SECTOR)) if there else OK
            else:
                status = OK
                if direction == 0:
                    self._memory.write(buffer, self._read(drive, first * drive.block_size, size, buffer))
        except GuestMemoryError:
            return BOUNDARY, 0
        except OSError:
            return FAILED, 0
        if status != OK:
            return status, 0
        return (OK if there == count else NOT_FOUND), there

    def _read(self, drive: Drive, offset: int, size: int, buffer: int) -> bytes:
        """`size` bytes of the medium, zeros where the image has ended; GuestMemoryError if they do not fit at
        `buffer`."""
        self._memory.offset(buffer, size)
        stored = min(size, max(drive.sectors * drive.block_size - offset, 0))
        content = drive.disk.read_at(offset, stored) if stored else b""
        return content + bytes(size - stored)

    def _write(self, drive: Drive, first: int, content: bytes) -> int:
        if first * SECTOR + len(content) > drive.disk.size:
            return NOT_FOUND
        try:
            drive.disk.write_at(first * SECTOR, content)
        except PermissionError:
            return WRITE_PROTECTED
        except OSError:
            return FAILED
        return OK

    def boot_sector(self, number: int) -> bytes:
        """The first sector of drive `number`. OSError if it cannot be read, or is none to start from."""
        drive = self.drives.get(number)
        if drive is None or not drive.sectors:
            raise OSError("there is no such drive")
        sector = drive.disk.read_at(0, SECTOR)
        if sector[510:] != b"\x55\xaa":
            raise OSError("no 55AA at the end of its first sector")
        return sector
