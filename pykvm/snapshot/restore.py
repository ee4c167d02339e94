"""The way back to a snapshot: one ordered list of steps, for a machine that may be anywhere and for one that was there.

The order: devices first, then the levels of their interrupt lines, which reach the chips in the kernel like any other
edge; then RAM; at last the chips and vCPUs themselves, whose saved state says what of it had arrived. The disks come
before the devices, and the consoles before the UARTs, which at once take what waits for them.
"""

from __future__ import annotations

from collections.abc import Callable

from ..device import Device
from ..disk.overlay import OverlayDisk
from ..kvm.dirty import DirtyLog, address_of
from ..kvm.rewind import Rewinder
from ..memory import PAGE_SIZE
from .disks import restore_disk, restore_medium
from .parts import Parts
from .snapshot import Snapshot


class Restore:
    """Puts the machine of `parts` back to `snapshot`, again and again.

    With `everything` all of it is put back, and RAM by `fill_memory`. Without, the machine has been put back by this
    object before, and is still what it was made of (`still_fits`): what neither guest nor host has moved since is left
    out, and of RAM the pages are copied that were written, as `log` has them.

    Called with the lock held and no vCPU in the guest.
    """

    def __init__(self, parts: Parts, snapshot: Snapshot, fill_memory: Callable[[Snapshot], None]) -> None:
        board = parts.board
        self._engine, self._board, self._memory = parts.engine, board, board.memory
        self._snapshot, self._fill_memory = snapshot, fill_memory
        self._resets = 0
        self._devices = board.devices
        self._disks = list(zip(parts.disks, snapshot.disks, strict=True))
        self._overlays = [(disk, saved) for disk, saved in self._disks if isinstance(disk, OverlayDisk)]
        self._writes: list[int] = []
        self._trays = list(zip(parts.trays, snapshot.media, strict=True))
        self._changes: list[int] = []
        self._consoles = list(zip(parts.consoles, snapshot.consoles, strict=True))
        states = [(device, snapshot.devices[key]) for key, device in parts.devices().items()]
        self._states = [(device, state) for device, state in states if type(device).restore is not Device.restore]
        self._lines = [
            (line, level)
            for number, lines in board.lines.items()
            for line, level in zip(lines, snapshot.lines[number], strict=True)
        ]
        self._image = snapshot.image.map
        self._target, self._source = address_of(board.memory.map), address_of(self._image)
        self._log: Callable[[], DirtyLog] | None = None
        self._rewind: Rewinder | None = None
        self._steps = (
            self._restore_disks,
            self._restore_consoles,
            self._restore_devices,
            self._restore_lines,
            self._restore_memory,
            self._restore_processors,
        )

    def __call__(self, log: Callable[[], DirtyLog] | None = None) -> None:
        """Put the machine back; everything if there is no `log`. Whatever a part raises comes out."""
        self._log = log
        everything = log is None
        for step in self._steps:
            step(everything)
        if everything:
            self._resets = self._engine.resets
        board = self._board
        board.port_routes.clear()  # the next access of each port asks the bus again, which takes note of the device
        board.ports.asked.clear()
        board.mmio.asked.clear()

    def still_fits(self) -> bool:
        """Whether the machine has the devices and lines that it had, and was not reset, which moves all devices."""
        board = self._board
        return (
            board.memory.written is not None
            and self._engine.resets == self._resets
            and board.devices == self._devices
            and len(self._lines) == sum(map(len, board.lines.values()))
        )

    def _restore_disks(self, everything: bool) -> None:
        if everything or [tray.changes for tray, _ in self._trays] != self._changes:
            for tray, medium in self._trays:
                restore_medium(medium, tray, self._snapshot.within)
            self._changes = [tray.changes for tray, _ in self._trays]
        if everything:
            for disk, saved in self._disks:
                restore_disk(saved, disk)
            self._writes = [disk.writes for disk, _ in self._overlays]
            return
        for number, (disk, saved) in enumerate(self._overlays):
            if disk.writes != self._writes[number]:
                restore_disk(saved, disk)
                self._writes[number] = disk.writes

    def _restore_consoles(self, everything: bool) -> None:
        for console, state in self._consoles:
            if everything or not console.is_still(state):
                console.restore(state)

    def _restore_devices(self, everything: bool) -> None:
        by_guest, by_guest_too = self._board.ports.asked, self._board.mmio.asked
        for device, state in self._states:
            if everything or device.moved_by_host or device in by_guest or device in by_guest_too:
                device.restore(state)

    def _restore_lines(self, everything: bool) -> None:
        for line, level in self._lines:
            if line.level != level:
                line.set(level)

    def _restore_memory(self, everything: bool) -> None:
        if self._log is None:
            self._fill_memory(self._snapshot)
            return
        memory = self._memory
        log = self._log()  # not before: devices that were put back may have moved RAM to other slots
        if memory.written:
            for page in memory.written:
                at = page * PAGE_SIZE
                memory.map[at : at + PAGE_SIZE] = self._image[at : at + PAGE_SIZE]
            memory.written.clear()
        log.undo(self._target, self._source)

    def _restore_processors(self, everything: bool) -> None:
        board = self._board
        if everything:
            self._snapshot.state.apply(board.vm, board.vcpus)
            return
        if self._rewind is None:
            self._rewind = Rewinder(self._snapshot.state, board.vm, board.vcpus)
        self._rewind()
