"""Puts a machine together: RAM and ROM, disks and cables, board and engine, the PC on it, and the image in RAM."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from . import boot
from .arguments import require_list, require_number, require_size
from .boot import detect
from .boot.rom import Rom
from .boot.source import BootSource, ImageSource, find_vga_bios, read_image
from .device_options import device_options as all_device_options
from .device_options.option import Closeable
from .disk import Disk
from .engine.board import Board, open_system
from .engine.engine import Engine
from .engine.gate import Gate
from .errors import ConfigError, refused_by_host
from .memory import GuestMemory
from .pc import Pc
from .typed import Any, TypeVar

DiskSource = Disk | str | os.PathLike[str] | None
"""A disk, the path of its image, or an empty place."""
Resource = TypeVar("Resource", bound=Closeable | None)


class Assembly:
    """The parts of one machine. What the arguments mean, `Machine` says; `close` gives all of it back to the host.

    ConfigError for a machine that cannot be, boot.ImageError for a bad image, kvm.KvmUnavailable without KVM, HostError
    where the host has no more to give: then everything is given back already, the back ends included.
    """

    def __init__(
        self,
        image: ImageSource | None,
        options: boot.Options,
        format: str | None,
        *,
        memory: str | int | GuestMemory,
        disks: Sequence[DiskSource],
        floppy: DiskSource,
        device_options: Mapping[str, Any],
        firmware: ImageSource | None,
    ) -> None:
        self._resources = ExitStack()  # closed in reverse order: the VM before the RAM that it maps
        self._engine: Engine | None = None
        try:
            require_number("cpus", options.cpus)
            for name, several in (("disks", disks), ("modules", options.modules)):
                require_list(name, several)
            require_size(memory)
            system = open_system()
            ram = self._own(memory if isinstance(memory, GuestMemory) else GuestMemory(memory))
            rom = None if firmware is None else self._own(Rom(read_image(firmware)))
            values = {}
            for option in all_device_options():
                values[option.name] = value = option.opened(device_options.get(option.name, option.default))
                for backend in option.owned(value):
                    self._own(backend)
            self.disks = [self._own_disk(disk) for disk in disks]
            """The hard disks, by their places."""
            self.floppy = self._own_disk(floppy)
            source = BootSource(image, options, format, rom)
            self._insert(source, values)
            self.board = Board(system, ram, rom, options.cpus, self._resources)
            self.engine = self._engine = Engine(self.board, Gate())
            self.pc = Pc(
                self.board,
                self.engine.gate.lock,
                self.engine.loop,
                self.engine,
                self.engine.aside,
                disks=[self._for_device(disk) for disk in self.disks],
                floppy=self._for_device(self.floppy),
                options=values,
                has_bios=source.has_bios,
                cds_first=source.kind == detect.CD,
            )
            self.engine.before_load.append(self.pc.before_load)
            self.engine.on_load.append(self.pc.show_mode)
            self.engine.on_end.append(self.pc.end_consoles)
            if firmware is not None:
                self.pc.vga_bios = find_vga_bios(firmware)
            loader = self.engine.loader = source.loader(ram, (self.floppy, *self.disks), self.pc.trays)
            if loader is not None and not ram.private:  # RAM that begins as an image has it all
                self.engine.load(loader)
        except BaseException as error:
            self.close()
            refused = refused_by_host(error)
            if refused is None:
                raise
            raise refused from error

    def _own(self, resource: Resource) -> Resource:
        if resource is not None:
            self._resources.callback(resource.close)
        return resource

    def _own_disk(self, disk: DiskSource) -> Disk | None:
        if isinstance(disk, (str, os.PathLike)):
            from .disk.image import open_disk

            disk = open_disk(disk)
        return self._own(disk)

    def _for_device(self, disk: Disk | None) -> Disk | None:
        if disk is None:
            return None
        from .disk.policy import for_device

        return for_device(disk)

    def _insert(self, source: BootSource, values: dict[str, Any]) -> None:
        """Attach the image that is a disk or a CD to start from."""
        disk = self._own(source.open_disk())
        if disk is not None and source.kind == detect.CD:
            from .disk.tray import Tray

            values["cdrom"] = [self._own(Tray(disk)), *values["cdrom"]]
        elif disk is not None and source.kind == detect.DISK:
            self.disks.insert(0, disk)
        elif disk is not None:
            if self.floppy is not None:
                raise ConfigError("the image is a floppy disk, and there is one already")
            self.floppy = disk
        if self.floppy is not None and not source.has_bios:
            raise ConfigError("only pykvm's own BIOS knows a floppy disk: neither kernel nor firmware sees it")

    def close(self) -> bool:
        """End the run and give everything back; False if that was done before."""
        if self._engine is not None and not self._engine.close():
            return False
        self._resources.close()
        return True
