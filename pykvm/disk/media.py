"""Media for the trays of CD-ROM drives, from what names them."""

from __future__ import annotations

import os

from ..errors import ConfigError
from ..typed import Any
from . import Disk
from .image import open_disk
from .tray import Tray


def open_trays(given: Any) -> list[Tray]:
    """Trays with what was given: a medium, the path of one, None or a tray each; or one of these alone.

    ConfigError for what cannot be: what has been opened by then is closed.
    """
    trays: list[Tray] = []
    try:
        for each in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(each, bytes):
                raise ConfigError("a CD is given as the path of its image, or as a disk: MemoryDisk(b'...') for bytes")
            trays.append(each if isinstance(each, Tray) else Tray(_medium(each)))
    except BaseException:
        for tray in trays:
            tray.close()
        raise
    return trays


def _medium(given: Any) -> Disk | None:
    return open_medium(given) if isinstance(given, (str, os.PathLike)) else given


def open_medium(path: str | os.PathLike[str]) -> Disk:
    """The image of a CD, which is never written; ConfigError says why it cannot be opened."""
    return open_disk(path, "ro")
