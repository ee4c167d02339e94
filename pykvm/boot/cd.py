"""CD images: ISO 9660 with an El Torito boot record, which pykvm's BIOS starts from a CD-ROM drive.

Sources: ECMA-119 (ISO 9660), 8.1; "El Torito" Bootable CD-ROM Format Specification 1.0, section 2. A hybrid image,
which has a boot sector for disks, too, is taken for a CD; given as a disk (`--disk`) it starts from that sector.
"""

from __future__ import annotations

from ..bios.el_torito import DESCRIPTORS, MOST_DESCRIPTORS, NotBootable, boot_entry, catalog_block
from ..disk import Disk
from ..disk.memory import MemoryDisk
from ..disk.tray import CD_SECTOR
from ..memory import GuestMemory
from . import EntryState, ImageError, Options, firmware
from .bios import put_bios
from .format import Format

HEAD = (DESCRIPTORS + MOST_DESCRIPTORS) * CD_SECTOR
"""Bytes at the beginning of an image in which `is_cd` sees what it is."""


def is_cd(image: bytes) -> bool:
    """Whether the image, or its first HEAD bytes, are of a CD that has something to start."""
    return catalog_block(image[DESCRIPTORS * CD_SECTOR : HEAD]) is not None


def load(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
    """Put the BIOS into memory, for a machine that has the image in a CD-ROM drive.

    ImageError if it cannot be started, or if the machine has less than 1 MiB of memory.
    """
    return _start(MemoryDisk(image), memory)


def load_from(medium: Disk, memory: GuestMemory, cpus: int) -> EntryState:
    """The same, with the machine's tables (see `firmware`), for a medium that may be larger than memory."""
    firmware.install(memory, cpus)
    return _start(medium, memory)


def _start(medium: Disk, memory: GuestMemory) -> EntryState:
    try:
        boot_entry(medium)
    except NotBootable as error:
        raise ImageError(str(error)) from error
    return put_bios(memory, "cd")


FORMATS = (Format("cd", "ISO 9660 with an El Torito boot record", is_cd, load, from_disk=True),)
