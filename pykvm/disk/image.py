"""From a path and what may become of it to a disk."""

from __future__ import annotations

import os
from typing import Literal, get_args

from ..errors import ConfigError
from . import SECTOR, Disk
from .overlay import OverlayDisk
from .raw import RawDisk

Mode = Literal["rw", "ro", "discard"]
"""What may become of an image: writes go to it, are refused, or are forgotten when the disk is closed."""


def open_disk(spec: str | os.PathLike[str], mode: Mode = "rw", format: str | None = None) -> Disk:
    """Open the image at `spec`; ConfigError says why it cannot be.

    `format` is "raw", or None: then an image that looks like another format (see `formats`) is refused, before anything
    is written to it.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"{mode!r} is no way to open a disk: give one of {', '.join(get_args(Mode))}")
    if format not in (None, "raw"):
        raise ConfigError(f"{format!r} is no format of disk images that can be opened: only raw is")
    disk = RawDisk(spec, read_only=mode != "rw")
    try:
        if format is None:
            _check_raw(disk)
        return OverlayDisk(disk) if mode == "discard" else disk
    except BaseException:
        disk.close()
        raise


def _check_raw(disk: RawDisk) -> None:
    from .formats import container

    try:
        found = container(disk.read_at(0, SECTOR), disk.read_at(disk.size - SECTOR, SECTOR))
    except OSError as error:
        raise ConfigError(f"disk image {disk.path!r} cannot be read: {error.strerror}") from error
    if found is not None:
        raise ConfigError(
            f"disk image {disk.path!r} has the format {found}, and only raw ones can be opened: convert it, as by: "
            f"qemu-img convert -O raw {disk.path} disk.img; or say format=raw if it is a raw image all the same"
        )
