"""What a machine starts from, at first and after each reset: a kernel, a disk, or a firmware of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from .boot import EntryState, Options, detect
from .boot.rom import Rom
from .disk import SECTOR, Disk
from .errors import ConfigError
from .memory import GuestMemory

Image = str | os.PathLike[str] | bytes
"""The path of an image, or its content."""
IMAGE_LIMIT = 1 << 30
"""Bytes of the largest image file that is read."""
VGA_BIOSES = ("vgabios-isavga.bin", "vgabios.bin")

Loader = Callable[[], EntryState]


def read_image(image: Image) -> bytes:
    """The whole image; ConfigError if its file cannot be read or is absurdly large."""
    if isinstance(image, bytes):
        return image
    try:
        with open(image, "rb") as file:
            content = file.read(IMAGE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"{os.fspath(image)}: {error.strerror}") from error
    if len(content) > IMAGE_LIMIT:
        raise ConfigError(f"{os.fspath(image)} is larger than {IMAGE_LIMIT >> 30} GiB: no kernel image is")
    return content


def find_vga_bios(firmware: Image) -> bytes | None:
    """The VGA BIOS that stands beside a firmware's file: without one, firmware shows nothing."""
    if not isinstance(firmware, bytes):
        home = os.path.dirname(os.fspath(firmware))
        for name in VGA_BIOSES:
            if os.path.exists(path := os.path.join(home, name)):
                return read_image(path)
    return None


class Start:
    """What `image` is, as `format` or as it looks; and what starts it: nothing, pykvm's BIOS, or `rom`.

    ConfigError if the options, or the firmware, are not for such an image.
    """

    def __init__(self, image: Image | None, options: Options, format: str | None, rom: Rom | None) -> None:
        self._image, self._options, self._rom = image, options, rom
        self._content = None if image is None else read_image(image)
        self.kind = format if self._content is None else detect.choose(self._content, options, format)
        """The format, a key of `detect.FORMATS`; None for a machine with empty RAM, or with a firmware alone."""
        if rom is not None and self.kind is not None and self.kind not in detect.FROM_DISK:
            raise ConfigError(f"a firmware starts from disks, and the image is {self.kind!r}")

    @property
    def has_bios(self) -> bool:
        """Whether pykvm's BIOS starts it."""
        return self.kind in detect.FROM_DISK and self._rom is None

    def open_disk(self) -> Disk | None:
        """The image as a disk, if it is one. What the guest writes to it is forgotten when it is closed."""
        if self.kind not in detect.FROM_DISK or self._image is None or self._content is None:
            return None
        from .disk.image import open_disk
        from .disk.memory import MemoryDisk
        from .disk.overlay import OverlayDisk

        if isinstance(self._image, bytes) or len(self._content) % SECTOR:
            return OverlayDisk(MemoryDisk(self._content))
        return open_disk(self._image, "discard")

    def loader(self, memory: GuestMemory, disks: Sequence[Disk | None]) -> Loader | None:
        """What puts it into memory, as often as it is called; None if there is nothing to start.

        `disks` are the machine's, the floppy disk first: the first one there is, is started. ConfigError without any.
        """
        if self._rom is not None:
            return partial(self._rom.load, memory)
        if self.has_bios:
            present = [disk for disk in disks if disk is not None]
            if not present:
                raise ConfigError("there is no disk to start from")
            return partial(detect.load, present[0].read_at(0, SECTOR), memory, self._options, detect.DISK)
        return None if self._content is None else partial(detect.load, self._content, memory, self._options, self.kind)
