"""CD-ROM drives (see `devices.atapi_drive`) on the ATA channels, where no disks are."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import ConfigError
from ..typed import TYPE_CHECKING, Any
from .option import Bench, DeviceOption

if TYPE_CHECKING:
    from ..disk.tray import Tray

MOST = 4


class Cdroms(DeviceOption):
    """CD-ROM drives: each the path of an image, a `Disk` that is read, or None for an empty drive; or one image
    alone."""

    name = "cdrom"
    default = ()
    absent = 0
    has_media = True
    flags = ("--cdrom",)
    multiple = True
    metavar = "FILE[,ro]"
    help = "CD-ROM drive with this image, secondary master if there is no disk; 'none' for an empty drive. Up to 4."

    def parse(self, text: str) -> Tray:
        from ..disk.media import open_medium
        from ..disk.tray import Tray

        if text == "none":
            return Tray()
        return Tray(open_medium(text if os.path.exists(text) else text.removesuffix(",ro")))

    def opened(self, value: Any) -> list[Tray]:
        if not value and not isinstance(value, (str, bytes)):
            return []
        from ..disk.media import open_trays

        return open_trays(value)

    def owned(self, value: Any) -> Iterable[Tray]:
        trays: list[Tray] = value
        return trays

    def build(self, value: Any, bench: Bench) -> int:
        if len(value) > MOST:
            raise ConfigError(f"{len(value)} CD-ROM drives are not possible: a PC has 0 to {MOST}")
        bench.trays = list(value)
        return len(value)

    def from_snapshot(self, plain: Any) -> list[None]:
        if type(plain) is not int or not 0 <= plain <= MOST:
            raise ValueError(f"there are {plain!r:.20} CD-ROM drives")
        return [None] * plain


OPTION = Cdroms()
