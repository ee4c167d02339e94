"""What a machine is made of, as far as a snapshot has to do with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..console.port import ConsolePort
from ..device import Device
from ..disk import Disk
from ..disk.tray import Tray
from ..engine.board import Board
from ..engine.engine import Engine
from ..pc import Pc
from .contents import Firmware, Shape


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts whose state a snapshot has."""

    engine: Engine
    consoles: Sequence[ConsolePort]
    """The debug console, then COM1 onwards."""
    disks: Sequence[Disk | None]
    """The hard disks, those on virtio cards, then the floppy disk."""
    trays: Sequence[Tray]
    """The CD-ROM drives'."""
    shape: Shape
    firmware: Firmware | None
    screen: Callable[[], str]
    """What the text screen shows; "" without one."""

    @property
    def board(self) -> Board:
        """RAM, CPUs, chips, buses and lines."""
        return self.engine.board

    def devices(self) -> dict[str, Device]:
        """The devices that are there now, by name and place."""
        devices = {}
        for device in self.board.devices:
            if not device.has_state:
                continue
            devices[f"{device.display_name} at {device.place}"] = device
        return devices


def parts_of(
    engine: Engine, pc: Pc, disks: Sequence[Disk | None], floppy: Disk | None, screen: Callable[[], str]
) -> Parts:
    """The parts of a machine with those disks."""
    board, firmware, digest = engine.board, None, ""
    if board.rom is not None:
        from hashlib import sha256

        firmware = Firmware(board.rom.map[:], pc.vga_bios)
        digest = sha256(firmware.rom).hexdigest()
    shape = Shape(
        board.memory.size,
        len(board.vcpus),
        pc.options,
        pc.has_bios,
        digest,
    )
    return Parts(engine, pc.all_consoles, [*disks, *pc.virtio_disks, floppy], pc.trays, shape, firmware, screen)
