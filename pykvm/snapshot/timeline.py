"""The snapshots of one machine: taking one, going back to one, and knowing which pages lie between.

Invariant: `_base` is a snapshot from which the RAM differs at most in the pages that were written since; who wrote them
is told by KVM's dirty log (the guest), GuestMemory (the host), or, as long as nobody has asked for the log, by the page
tables (RAM that began as an image). Everything here is called with the machine's lock held and no vCPU in the guest.

Going back keeps an order: devices first, then the levels of their interrupt lines, which reach the chips in the kernel
like any other edge; then RAM; at last the chips and vCPUs themselves, whose saved state says what of it had arrived.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ..device import Device
from ..disk import Disk
from ..disk.overlay import OverlayDisk
from ..kvm.dirty import DirtyLog, LoggedSlot, address_of
from ..kvm.rewind import Rewinder
from ..kvm.saved import SavedState, copy_pages, state_msrs
from ..memory import PAGE_SIZE, GuestMemoryError
from .disks import check_disks, restore_disk, save_disk, written_through
from .errors import SnapshotError
from .features import Features, both, check, features
from .image import Image, bitmap, fill, freeze, pages_of
from .snapshot import Firmware, Shape, Snapshot

if TYPE_CHECKING:
    from ..machine import Machine

WrittenDisks = Literal["refuse", "warn"]
"""What becomes of a snapshot of a machine with a disk that is written through."""


class Timeline:
    """The snapshots of `machine`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._base: Snapshot | None = None
        self._log: DirtyLog | None = None
        self._msrs: list[int] | None = None
        self._shortcut: _Shortcut | None = None  # to `_base`, once the machine has been put back to it

    # Taking one

    def take(self, written_disks: WrittenDisks) -> Snapshot:
        """A snapshot of the machine as it is."""
        if names := written_through(self._disks()):
            text = f"{' and '.join(names)}: writes go to the image, and going back would not undo them"
            if written_disks != "warn":
                raise SnapshotError(f"{text}; attach it with its writes discarded, or choose written_disks='warn'")
            warnings.warn(text, stacklevel=3)
        return self._take()

    @property
    def base(self) -> Snapshot | None:
        """The snapshot that was taken, or gone back to, last."""
        return self._base

    def take_aside(self) -> Snapshot:
        """A snapshot for forks alone: the machine does not prepare to go back to it, and runs on as before."""
        return self._make(Image(freeze(self._machine.memory)))

    def _take(self) -> Snapshot:
        snapshot = self._make(self._image())
        self._base, self._shortcut = snapshot, None
        return snapshot

    def _make(self, image: Image) -> Snapshot:
        machine = self._machine
        machine.settle_cpuid()
        state = SavedState.capture(machine.vm, machine.vcpus, self._state_msrs())
        return Snapshot(
            shape=self._shape,
            state=state,
            cpuid=list(machine.cpuid_in_use),
            features=both(features(machine.cpuid_in_use), self._host_features),
            devices={key: device.save() for key, device in self._devices().items()},
            lines={number: [line.level for line in lines] for number, lines in machine.lines.items()},
            consoles=[console.save() for console in machine.pc.all_consoles],
            disks=[save_disk(disk) for disk in self._disks()],
            image=image,
            firmware=self._firmware,
            no_reboot=machine.no_reboot,
            parent_id=self._base.id if self._base is not None else None,
            screen=self._screen(),
            exits=sum(runner.exits for runner in machine.runners),
            entry=machine.entry,
        )

    def _state_msrs(self) -> list[int]:
        if self._msrs is None:
            self._msrs = state_msrs(self._machine.system, self._machine.vcpus[0])
        return self._msrs

    @cached_property
    def _host_features(self) -> Features:
        return features(self._machine.system.supported_cpuid())

    @cached_property
    def _firmware(self) -> Firmware | None:
        rom = self._machine.rom
        return None if rom is None else Firmware(rom.map[:], self._machine.vga_bios)

    @cached_property
    def _shape(self) -> Shape:
        machine, firmware, digest = self._machine, self._firmware, ""
        if firmware is not None:
            from hashlib import sha256

            digest = sha256(firmware.rom).hexdigest()
        return Shape(
            machine.memory.size,
            len(machine.vcpus),
            len(machine.pc.consoles),
            tuple(machine.pc.station_addresses),
            machine.pc.bios is not None,
            digest,
        )

    def _disks(self) -> list[Disk | None]:
        return [*self._machine.disks, self._machine.floppy]

    def _devices(self) -> dict[str, Device]:
        machine = self._machine
        devices = {}
        for device in (*machine.ports.devices, *machine.mmio.devices):
            base = (device.ports or device.mmio)[0].base
            devices[f"{device.name or type(device).__name__} at {base:#x}"] = device
        return devices

    def _screen(self) -> str:
        """The text screen, where RAM has room for one."""
        try:
            return self._machine.screen.text
        except GuestMemoryError:
            return ""

    def _image(self) -> Image:
        memory = self._machine.memory
        written = self._written()
        if written is None or self._base is None:
            return Image(freeze(memory))
        base = self._base.image
        return Image(base.root, base.changed | written, memory.map)

    def _written(self) -> int | None:
        """The pages written since `_base`; None if all may have been. Begins anew, with the log turned on."""
        memory, written = self._machine.memory, None
        if self._log is not None and memory.written is not None:
            written = int.from_bytes(self._log.fetch(), "little")
            if memory.written:
                written |= pages_of(memory.written)
                memory.written.clear()
            return written
        if self._base is not None and memory.private:
            written = pages_of(memory.own_pages())
        self._turn_log_on()
        return written

    def _turn_log_on(self) -> None:
        machine = self._machine
        slots = []
        for slot, region in enumerate(machine.memory.regions):
            machine.vm.set_memory(slot, region.gpa, region.size, machine.memory.map, region.offset, log=True)
            slots.append(LoggedSlot(slot, region.offset, region.size))
        self._log = DirtyLog(machine.vm, slots)
        machine.memory.written = set()

    # Going back

    def begin(self, snapshot: Snapshot) -> None:
        """Start from `snapshot`: for a new machine whose RAM is its image already. SnapshotError if that cannot be."""
        machine = self._machine
        check(snapshot.features, self._host_features)
        self._check(snapshot)
        try:
            if machine.cpuid_in_use != snapshot.cpuid:
                machine.set_cpuid(snapshot.cpuid)
            self._put_devices(snapshot)
            snapshot.state.apply(machine.vm, machine.vcpus)
        except Exception as error:  # a device of somebody's own may raise anything for a state that is none
            raise _refused(error) from error
        machine.entry = snapshot.entry
        self._base = snapshot

    def go_back(self, snapshot: Snapshot) -> None:
        """Put the machine back to `snapshot`; SnapshotError, and no change, if that does not fit this machine."""
        if self._shortcut is not None and snapshot is self._base and self._shortcut.go(self._log):
            return
        self._check(snapshot)
        if self._machine.cpuid_in_use != snapshot.cpuid:
            raise SnapshotError("the snapshot is of a machine with another CPUID: fork it instead")
        before = None if snapshot.trusted else self._take()
        try:
            self._put_back(snapshot)
        except Exception as error:
            if before is not None:
                self._put_back(before)
            raise _refused(error) from error

    def _check(self, snapshot: Snapshot) -> None:
        machine = self._machine
        machine.settle_cpuid()
        if snapshot.shape != self._shape:
            raise SnapshotError(f"the snapshot is of another machine: {snapshot.shape}, this one is {self._shape}")
        check_disks(snapshot.disks, self._disks())
        if difference := snapshot.devices.keys() ^ self._devices().keys():
            raise SnapshotError(
                f"the snapshot is of a machine with other devices: {', '.join(sorted(difference))}; "
                "add, by `prepare` of a fork, what the machine had besides"
            )
        if {number: len(levels) for number, levels in snapshot.lines.items()} != {
            number: len(lines) for number, lines in machine.lines.items()
        }:
            raise SnapshotError("the snapshot is of a machine with other interrupt lines")

    def _put_back(self, snapshot: Snapshot) -> None:
        self._put_devices(snapshot)
        self._put_memory(snapshot)
        snapshot.state.apply(self._machine.vm, self._machine.vcpus)
        self._shortcut = _Shortcut(self._machine, snapshot, self._devices(), self._disks())

    def _put_devices(self, snapshot: Snapshot) -> None:
        machine = self._machine
        for saved, disk in zip(snapshot.disks, self._disks(), strict=True):
            restore_disk(saved, disk)
        # The consoles before the UARTs, which at once take what waits for them.
        for console, state in zip(machine.pc.all_consoles, snapshot.consoles, strict=True):
            console.restore(state)
        for key, device in self._devices().items():
            device.restore(snapshot.devices[key])
        for number, lines in machine.lines.items():
            for line, level in zip(lines, snapshot.lines[number], strict=True):
                line.set(level)

    def _put_memory(self, snapshot: Snapshot) -> None:
        memory, base, image = self._machine.memory, self._base, snapshot.image
        written = self._written()
        if written is not None and base is not None and base.image.root is image.root:
            if image is not base.image:
                written |= base.image.changed | image.changed
            copy_pages(memory.map, image.map, bitmap(written, memory.size))
        else:
            fill(memory, image)
            memory.written = set()
        self._base, self._shortcut = snapshot, None


class _Shortcut:
    """The way back to the snapshot that a machine was put back to last, for loops that go it thousands of times.

    It does the same as `Timeline._put_back`, with all that stays the same from one time to the next made beforehand,
    and leaves out the disks that were not written since, and the devices that neither guest nor host has moved.
    """

    def __init__(
        self, machine: Machine, snapshot: Snapshot, devices: dict[str, Device], disks: Sequence[Disk | None]
    ) -> None:
        self._machine = machine
        self._resets = machine.resets
        self._ports, self._mmio = list(machine.ports.devices), list(machine.mmio.devices)
        pairs = zip(snapshot.disks, disks, strict=True)
        self._disks = [(disk, saved) for saved, disk in pairs if isinstance(disk, OverlayDisk)]
        self._writes = [disk.writes for disk, _ in self._disks]
        self._consoles = list(zip(machine.pc.all_consoles, snapshot.consoles, strict=True))
        states = [(device, snapshot.devices[key]) for key, device in devices.items()]
        self._states = [(device, state) for device, state in states if type(device).restore is not Device.restore]
        self._lines = [
            (line, level)
            for number, lines in machine.lines.items()
            for line, level in zip(lines, snapshot.lines[number], strict=True)
        ]
        self._image = snapshot.image.map
        self._target, self._source = address_of(machine.memory.map), address_of(self._image)
        self._rewind = Rewinder(snapshot.state, machine.vm, machine.vcpus)
        self._forget_accesses()

    def _forget_accesses(self) -> None:
        machine = self._machine
        machine.port_routes.clear()  # the next access of each port asks the bus again, which takes note of the device
        machine.ports.asked.clear()
        machine.mmio.asked.clear()

    def go(self, log: DirtyLog | None) -> bool:
        """Put the machine back; False, and nothing has changed, if it is no longer what it was when this was made."""
        machine, memory = self._machine, self._machine.memory
        if log is None or memory.written is None or machine.ports.devices != self._ports:
            return False
        if machine.resets != self._resets:  # which has moved all devices
            return False
        if machine.mmio.devices != self._mmio or len(self._lines) != sum(map(len, machine.lines.values())):
            return False
        for number, (disk, saved) in enumerate(self._disks):
            if disk.writes != self._writes[number]:
                restore_disk(saved, disk)
                self._writes[number] = disk.writes
        for console, console_state in self._consoles:
            if not console.is_still(console_state):
                console.restore(console_state)
        by_guest, by_guest_too = machine.ports.asked, machine.mmio.asked
        for device, state in self._states:
            if device.moved_by_host or device in by_guest or device in by_guest_too:
                device.restore(state)
        for line, level in self._lines:
            if line.level != level:
                line.set(level)
        for page in memory.written:
            at = page * PAGE_SIZE
            memory.map[at : at + PAGE_SIZE] = self._image[at : at + PAGE_SIZE]
        memory.written.clear()
        log.undo(self._target, self._source)
        self._rewind()
        self._forget_accesses()
        return True


def _refused(error: Exception) -> SnapshotError:
    return SnapshotError(f"the snapshot cannot be put back: {type(error).__name__}: {error}")
