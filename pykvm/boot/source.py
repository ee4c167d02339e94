"""Where the image comes from, and what a machine starts, at first and after each reset: kernel, disk or firmware."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from functools import partial

from ..disk import SECTOR, Disk
from ..errors import ConfigError
from ..memory import GuestMemory
from ..typed import TYPE_CHECKING
from . import EntryState, Options, detect
from .format import Format
from .rom import Rom

if TYPE_CHECKING:
    from ..disk.tray import Tray

ImageSource = str | os.PathLike[str] | bytes
"""The path of an image, or its content."""
IMAGE_LIMIT = 1 << 30
"""Bytes of the largest image file that is read."""
FIFO_PATIENCE = 10.0
"""Seconds for which a FIFO may have nothing to read."""
_PART = 1 << 20
"""Bytes that are read of a file at a time."""
_KINDS = {
    stat.S_IFBLK: "a block device: give it as a disk, by --disk",
    stat.S_IFCHR: "a character device: an image is a regular file",
}
VGA_BIOSES = ("vgabios-isavga.bin", "vgabios.bin")

Loader = Callable[[], EntryState]


def file_name(source: ImageSource) -> str | None:
    """The file's name, by which `detect.recognise` tells text from code; None for mere bytes."""
    return None if isinstance(source, bytes) else os.path.basename(os.fspath(source))


def read_image(source: ImageSource, *, cd_head: bool = False) -> bytes:
    """The whole image, read and not mapped: whoever changes the file later changes nothing here.

    With `cd_head`, of a CD's image file only the beginning, by which it is recognised: it may be larger than memory.

    ConfigError if it cannot be read, is absurdly large, or is neither a regular file nor a FIFO that is written to.
    """
    if isinstance(source, bytes):
        return source
    path = os.fspath(source)
    if "\0" in path:
        raise ConfigError(f"{path!r}: no file's name has a NUL in it")
    try:
        with open(path, "rb", opener=_open) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
                raise ConfigError(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'no regular file')}")
            content = _read_in_parts(path, file.fileno(), cd_head and stat.S_ISREG(mode))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(content) > IMAGE_LIMIT:
        raise ConfigError(f"{path} is larger than {IMAGE_LIMIT >> 30} GiB: no kernel is, and a disk is given by --disk")
    return content


def _open(path: str, flags: int) -> int:
    # O_NONBLOCK: to open a FIFO must not wait for its other end.
    return os.open(path, flags | os.O_NOCTTY | os.O_NONBLOCK)


def _read_in_parts(path: str, fd: int, cd_head: bool) -> bytes:
    """All of a file; of a FIFO what is written until its writers close it, as after `pykvm run <(zcat vmlinux.gz)`.

    To ask for all that there may be at once would take that much address space first.
    """
    import select

    ready = select.poll()
    ready.register(fd, select.POLLIN)
    content = bytearray()
    while len(content) <= IMAGE_LIMIT:
        if not ready.poll(1000 * FIFO_PATIENCE):
            raise ConfigError(f"{path} is a FIFO, and nobody has written to it for {FIFO_PATIENCE:g} seconds")
        data = os.read(fd, _PART)
        if not data:
            break
        content += data
        if cd_head and len(content) == len(data) and detect.is_cd(data):
            break
    return bytes(content)


def find_vga_bios(firmware: ImageSource) -> bytes | None:
    """The VGA BIOS that stands beside a firmware's file: without one, firmware shows nothing."""
    if not isinstance(firmware, bytes):
        home = os.path.dirname(os.fspath(firmware))
        for name in VGA_BIOSES:
            if os.path.exists(path := os.path.join(home, name)):
                return read_image(path)
    return None


class BootSource:
    """What `source` is, as `format` or as it looks; and what starts it: nothing, pykvm's BIOS, or `rom`.

    ConfigError if the options, or the firmware, are not for such an image; ImageError if it is no image to start.
    """

    def __init__(self, source: ImageSource | None, options: Options, format: str | None, rom: Rom | None) -> None:
        if source is not None and not isinstance(source, bytes):
            options = options.copy(name=os.fspath(source))
        self._source, self._options, self._rom = source, options, rom
        self._content: bytes | None = None
        self._unpacked = False
        self._format: Format | None = None
        if source is not None:
            packed = read_image(source, cd_head=format in (None, detect.CD))
            self._content = detect.unpacked(packed, format)
            self._unpacked = self._content is not packed
            self._format = detect.get(detect.choose(self._content, options, format, file_name(source)))
        elif format is not None:
            self._format = detect.get(format)
        if rom is not None and self._format is not None and not self._format.from_disk:
            raise ConfigError(f"a firmware starts from disks, and the image is {self._format.name!r}")

    @property
    def kind(self) -> str | None:
        """The format, a key of `detect.FORMATS`; None for a machine with empty RAM, or with a firmware alone."""
        return None if self._format is None else self._format.name

    @property
    def has_bios(self) -> bool:
        """Whether pykvm's BIOS starts it."""
        return self._from_disk and self._rom is None

    @property
    def _from_disk(self) -> bool:
        return self._format is not None and self._format.from_disk

    def open_disk(self) -> Disk | None:
        """The image as a disk, if it is one. What the guest writes to it is forgotten when it is closed."""
        if not self._from_disk or self._source is None or self._content is None:
            return None
        from ..disk.image import open_disk
        from ..disk.memory import MemoryDisk
        from ..disk.overlay import OverlayDisk

        is_cd = self.kind == detect.CD
        if isinstance(self._source, bytes) or self._unpacked or not os.path.isfile(self._source):
            return MemoryDisk(self._content) if is_cd else OverlayDisk(MemoryDisk(self._content))
        if is_cd:
            return open_disk(self._source, "ro", format="raw")
        if len(self._content) % SECTOR:
            return OverlayDisk(MemoryDisk(self._content))
        # It has a boot sector where a raw image has one.
        return open_disk(self._source, "discard", format="raw")

    def loader(self, memory: GuestMemory, disks: Sequence[Disk | None], trays: Sequence[Tray] = ()) -> Loader | None:
        """What puts it into memory, as often as it is called; None if there is nothing to start.

        `disks` are the machine's, the floppy disk first: the first one there is, is started, or else the first CD in
        one of `trays`. A CD as the image goes before all. ConfigError without any.
        """
        if self._rom is not None:
            return partial(self._rom.load, memory)
        if self.has_bios:
            present = [disk for disk in disks if disk is not None]
            first = present[0].read_at(0, SECTOR) if present else b""
            media = [tray.medium for tray in trays if tray.medium is not None]
            if media and (self.kind == detect.CD or not detect.has_boot_sector(first)):
                from . import cd

                return partial(cd.load_from, media[0], memory, self._options.cpus)
            if not present:
                raise ConfigError("there is no disk to start from")
            return partial(detect.load, first, memory, self._options, detect.DISK)
        return None if self._content is None else partial(detect.load, self._content, memory, self._options, self.kind)
