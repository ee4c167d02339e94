"""Disk images: what a PC's BIOS starts by loading the first sector to 0000:7C00, with the drive's number in DL.

Source: IBM PC/AT Technical Reference (INT 19h); the 55AA at the sector's end as every BIOS since wants it. What is put
into memory here is the BIOS; the sector itself it gets from the drive, as it does when the guest calls INT 19h.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..bios.disk import is_floppy_size
from ..bios.rom import BASE, POST, ROM_START, SEGMENT, rom
from ..disk import SECTOR
from ..memory import GuestMemory
from ..x86 import start
from . import EntryState, ImageError, Options, Span
from .format import Format

BOOT_SECTOR = 0x7C00
NEEDED = 1 << 20
"""Bytes of RAM: the ROM ends there."""


def is_disk(image: bytes) -> bool:
    """Whether the image looks like a disk to start from. A kernel of Linux has the same mark, and an ELF file may."""
    return has_boot_sector(image) and image[:4] != b"\x7fELF" and image[0x202:0x206] != b"HdrS"


def is_floppy(image: bytes) -> bool:
    """Whether the disk is a floppy disk, by its size."""
    return is_disk(image) and is_floppy_size(len(image))


def has_boot_sector(image: bytes) -> bool:
    """Whether the first sector ends as a boot sector does."""
    return len(image) >= SECTOR and image[SECTOR - 2 : SECTOR] == b"\x55\xaa"


def load(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
    """Put the BIOS into memory, to be started where its power-on self-test begins.

    The machine must have a `bios.service.Bios` with the image as the drive to start from. ImageError if the image
    has no boot sector, or the machine less than 1 MiB of memory.
    """
    if not has_boot_sector(image):
        raise ImageError(
            "the first sector (file offset 0) is no boot sector: 55AA (file offset 0x1fe) is missing at its end"
        )
    return put_bios(memory, "disk", [Span(BOOT_SECTOR, BOOT_SECTOR, SECTOR)])


def put_bios(memory: GuestMemory, kind: str, spans: Sequence[Span] = ()) -> EntryState:
    """Put the BIOS into memory, to be started where its power-on self-test begins; it loads the program's `spans`.

    ImageError if the machine has less than 1 MiB of memory.
    """
    if memory.size < NEEDED:
        raise ImageError(f"a {kind} needs a BIOS, and that 1M of memory, not {memory.size >> 10}K")
    memory.write(BASE + ROM_START, rom().image[ROM_START:])
    registers, system = start.real_mode(BASE + POST, BOOT_SECTOR)
    system.cs.selector, system.cs.base = SEGMENT, BASE
    registers.rip = POST
    return EntryState(registers, system, kind, spans=list(spans))


FORMATS = (
    Format(
        "floppy",
        "55AA at the end of the first sector, and the size of a floppy disk (160K to 2880K)",
        is_floppy,
        load,
        from_disk=True,
    ),
    Format("disk", "55AA at the end of the first sector", is_disk, load, from_disk=True),
)
