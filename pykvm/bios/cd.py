"""CD-ROM drives of INT 13h: the drives E0h onwards, and the disk that one is taken for (El Torito's emulation).

Sources: "El Torito" Bootable CD-ROM Format Specification 1.0, section 4 (INT 13h, functions 4Ah to 4Dh; figure 6
"specification packet"); Phoenix Enhanced Disk Drive specification 3.0 for reading by blocks. The numbers of the drives,
and the canonical CS:IP at the start, are those of SeaBIOS. An emulated floppy disk is drive 00h and an emulated hard
disk 80h; the machine's own ones have numbers one higher as long.
"""

from __future__ import annotations

import struct

from ..disk import SECTOR
from ..disk.tray import CD_SECTOR, Tray, read_bytes
from ..memory import GuestMemory
from ..typed import Any, NamedTuple
from .call import Call, linear
from .disk import CD, HARD_DISK, INVALID, OK, Disks, Drive, Geometry, floppy, hard_disk
from .el_torito import FLOPPY_SIZES, NO_EMULATION, BootEntry, NotBootable, boot_entry

_PACKET = struct.Struct("<BBBBIHHHHBBB")
"""Size, media, drive, controller, first block, device, buffer, segment, sectors; cylinders, sectors, heads as INT 13h
AH=08h gives them."""
_ALL_DRIVES = 0x7F


class Medium:
    """What lies in a drive, as a disk that nobody writes. See `Disk` for the methods; without a medium its size is
    0."""

    read_only = True

    def __init__(self, tray: Tray) -> None:
        self.tray = tray

    @property
    def size(self) -> int:
        """Bytes, in whole blocks."""
        return 0 if self.tray.readable is None else self.tray.blocks * CD_SECTOR

    def read_at(self, offset: int, length: int) -> bytes:
        medium = self.tray.readable
        if medium is None:
            raise OSError("there is no CD in the drive")
        return read_bytes(medium, offset, length)

    def write_at(self, offset: int, data: bytes) -> None:
        raise PermissionError("a CD is read-only")

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """The machine closes what is in the drive."""


class Part:
    """`size` bytes of a CD from its byte `start` on, as a disk that nobody writes; behind the CD's end there are
    zeros."""

    read_only = True

    def __init__(self, medium: Medium, start: int, size: int) -> None:
        self._medium, self._start, self.size = medium, start, size
        self.write_at, self.flush, self.close = medium.write_at, medium.flush, medium.close

    def read_at(self, offset: int, length: int) -> bytes:
        return self._medium.read_at(self._start + offset, length)


def cd_drive(number: int, tray: Tray) -> Drive:
    """CD-ROM drive `number` (0 for drive E0h)."""
    return Drive(CD + number, Medium(tray), Geometry(0, 0, 0), block_size=CD_SECTOR)


class Started(NamedTuple):
    """What a program was started from: drive `number`, by the entry of its CD, and whether that is a disk's image which
    is taken for one."""

    number: int
    entry: BootEntry
    emulating: bool


class Cds:
    """Starts from the CDs among the drives of `disks`, and serves function 4Bh of INT 13h."""

    def __init__(self, memory: GuestMemory, disks: Disks) -> None:
        self._memory, self._disks = memory, disks
        self._media = {number: drive.disk for number, drive in disks.drives.items() if isinstance(drive.disk, Medium)}
        self._entry: BootEntry | None = None
        self._drive = CD
        disks.about_emulation = self.serve

    def start(self, number: int) -> tuple[int, int]:
        """Load what drive `number` has to start: its address, and the number of the drive that it finds in DL.

        NotBootable if the CD cannot be started; OSError if it cannot be read.
        """
        medium = self._media[number]
        if not medium.size:
            raise NotBootable("there is no CD in the drive")
        entry = boot_entry(medium)
        content = medium.read_at(entry.block * CD_SECTOR, entry.sectors * SECTOR)
        self._memory.write(entry.segment << 4, content)
        self._begin(Started(number, entry, entry.media != NO_EMULATION))
        return entry.segment << 4, self._started

    @property
    def _started(self) -> int:
        """The drive that the program was started from, as it knows it."""
        entry = self._entry
        return self._drive if entry is None or entry.media == NO_EMULATION else _drive_of(entry.media)

    def _begin(self, started: Started) -> None:
        self._drive, self._entry, emulating = started
        self._disks.emulated = None
        if emulating:
            entry = started.entry
            medium, start = self._media[started.number], entry.block * CD_SECTOR
            if entry.media in FLOPPY_SIZES:
                self._disks.emulated = floppy(0, Part(medium, start, FLOPPY_SIZES[entry.media]))
            else:
                self._disks.emulated = hard_disk(0, Part(medium, start, _hard_disk_size(medium, start)))

    def forget(self) -> None:
        """Nothing has been started from a CD."""
        self._entry, self._disks.emulated = None, None

    def serve(self, call: Call) -> int:
        """INT 13h AH=4Bh: tell what was started (AL=01h), or end the emulation as well (AL=00h)."""
        entry = self._entry
        if call.al > 1 or entry is None or not (call.dl == self._started or (call.dl == _ALL_DRIVES and not call.al)):
            return INVALID
        emulated = self._disks.emulated
        cylinders, heads, sectors = (1, 1, 0) if emulated is None else emulated.geometry
        last = cylinders - 1
        packet = _PACKET.pack(
            _PACKET.size, entry.media, self._started, self._drive - CD, entry.block, 0, 0, entry.segment,
            entry.sectors, last & 0xFF, last >> 8 << 6 | sectors, heads - 1,
        )  # fmt: skip
        self._memory.write(linear(call.ds, call.si), packet)
        if call.al == 0:
            self._disks.emulated = None
            self._disks.tell_counts()
        return OK

    def save(self) -> dict[str, Any]:
        """What was started, and whether it is still emulated."""
        started = [] if self._entry is None else [self._drive, *self._entry]
        return {"started": started, "emulating": int(self._disks.emulated is not None)}

    def checked(self, state: dict[str, Any]) -> Started | None:
        """What a saved state says; ValueError if it cannot be."""
        started, emulating = state.get("started"), state.get("emulating")
        if type(emulating) is not int or emulating not in (0, 1):
            raise ValueError(f"BIOS: state field 'emulating' is {emulating!r:.20}, neither 0 nor 1")
        if not isinstance(started, list) or not all(type(value) is int for value in started):
            raise ValueError("BIOS: state field 'started' is no list of numbers")
        if not started and not emulating:
            return None
        if len(started) != 5 or started[0] not in self._media:
            raise ValueError("BIOS: state field 'started' names no CD-ROM drive")
        entry = BootEntry(*started[1:])
        if not entry.is_possible or (emulating and entry.media == NO_EMULATION):
            raise ValueError("BIOS: state field 'started' is no entry of a boot catalog")
        return Started(started[0], entry, bool(emulating))

    def restore(self, started: Started | None) -> None:
        """Take back what `checked` returned."""
        if started is None:
            self.forget()
        else:
            self._begin(started)


def _drive_of(media: int) -> int:
    return 0 if media in FLOPPY_SIZES else HARD_DISK


def _hard_disk_size(medium: Medium, start: int) -> int:
    """Bytes of a hard disk's image: up to the end of its partition (section 1.5), or the rest of the CD without one."""
    try:
        first = medium.read_at(start, SECTOR)
    except OSError:
        return SECTOR
    ends = [0]
    if first[510:] == b"\x55\xaa":
        entries = (struct.unpack_from("<4xB3xII", first, at) for at in range(446, 510, 16))
        ends = [begin + count for kind, begin, count in entries if kind]
    return max(ends, default=0) * SECTOR or max(medium.size - start, SECTOR)
