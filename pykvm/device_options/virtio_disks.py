"""Disks on virtio cards (see `devices.virtio.block`), beside those on the ATA channels."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..arguments import require_list
from ..disk import Disk
from ..errors import ConfigError
from ..typed import Any
from .option import Bench, DeviceOption

MOST = 16


class VirtioDisks(DeviceOption):
    """Disks, or the paths of their images, each on a virtio card: systems with a driver for it read them fastest.

    On the command line they are `--disk FILE,bus=virtio`.
    """

    name = "virtio_disks"
    default = ()
    absent = 0

    def opened(self, value: Any) -> list[Disk]:
        require_list(self.name, value)
        return [_opened(each) for each in value]

    def owned(self, value: Any) -> Iterable[Disk]:
        disks: list[Disk] = value
        return disks

    def build(self, value: Any, bench: Bench) -> int:
        if len(value) > MOST:
            raise ConfigError(f"{len(value)} virtio disks are not possible: there may be {MOST}")
        bench.virtio_disks = list(value)
        for number, disk in enumerate(value):
            from ..devices.virtio.block import VirtioBlock
            from ..disk.policy import for_device

            queues = min(len(bench.board.vcpus), 4)
            bench.devices.append(VirtioBlock(f"virtio disk {number}", for_device(disk), bench.aside, queues))
        return len(value)

    def from_snapshot(self, plain: Any) -> list[None]:
        if type(plain) is not int or not 0 <= plain <= MOST:
            raise ValueError(f"there are {plain!r:.20} virtio disks")
        return [None] * plain


def _opened(disk: Any) -> Disk:
    if isinstance(disk, (str, os.PathLike)):
        from ..disk.image import open_disk

        return open_disk(disk)
    if disk is None:
        raise ConfigError("a virtio disk is there or not: None is no disk")
    opened: Disk = disk
    return opened


OPTION = VirtioDisks()
