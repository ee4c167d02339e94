"""From a path and what may become of it to a disk."""

from __future__ import annotations

import os
from typing import Literal, get_args

from ..errors import ConfigError
from . import Disk
from .overlay import OverlayDisk
from .raw import RawDisk

Mode = Literal["rw", "ro", "discard"]
"""What may become of an image: writes go to it, are refused, or are forgotten when the disk is closed."""


def open_disk(spec: str | os.PathLike[str], mode: Mode = "rw") -> Disk:
    """Open the raw image at `spec`; ConfigError says why it cannot be."""
    if mode not in get_args(Mode):
        raise ConfigError(f"{mode!r} is no way to open a disk: give one of {', '.join(get_args(Mode))}")
    if mode == "rw":
        return RawDisk(spec)
    base = RawDisk(spec, read_only=True)
    if mode == "ro":
        return base
    try:
        return OverlayDisk(base)
    except BaseException:
        base.close()
        raise
