"""The PC around the CPUs: which devices there are, at which ports, on which interrupt lines.

Addresses and interrupts are the PC/AT's (IBM PC AT Technical Reference, 1985, "I/O address map"), where drivers look
for them without asking.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from .boot.firmware import leave_bios
from .console.port import ConsolePort
from .device import Aside, Device, IrqLine, OnDemand, Range, State, at_once
from .device_options import device_options
from .device_options.nics import Nic as Nic
from .device_options.option import Bench
from .device_options.serial_ports import COM_PORTS
from .devices.acpi_pm import AcpiPm
from .devices.cmos import Cmos
from .devices.exit_ports import DebugConsole, DebugExit, ShutdownPort
from .devices.fw_cfg import FwCfg
from .devices.i8042 import I8042, Port92
from .devices.pci.chipset import DISPLAY, HOST_BRIDGE, HOST_BRIDGE_AT_RESET, IDE, ISA_BRIDGE, POWER_MANAGEMENT
from .devices.pci.host import PciHost
from .devices.reset_control import ResetControl
from .devices.vga import (
    Dispi,
    Vga,
    VgaWindow,
)
from .devices.vga_registers import (
    FRAME_BUFFER_PCI,
    MEMORY_SIZE,
)
from .disk import Disk
from .engine.board import Board
from .engine.eventloop import EventLoop, Timer
from .engine.gate import FairLock
from .errors import ConfigError
from .memory import LOW_LIMIT
from .typed import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .bios.call import Call
    from .bios.service import Bios
    from .boot import EntryState
    from .cdrom import CdRom
    from .devices.hpet import Hpet
    from .devices.vga_memory import VideoMemory
    from .disk.tray import Tray
    from .outcome import Outcome

ATA_CHANNELS = ((0x1F0, 0x3F6, 14), (0x170, 0x376, 15))
"""Primary and secondary: (command block, control block, IRQ)."""
CD_PLACES = (2, 3, 1, 0)
"""Where CD-ROM drives go, as far as no disk is there: secondary master, secondary slave, primary slave, primary
master."""
KEYBOARD_IRQ, RTC_IRQ, MOUSE_IRQ = 1, 8, 12
SCI_IRQ = 9
"""The ACPI interrupt, which shares its line with the first NIC, as it does on real boards."""

PINTOS_EXIT = (0x501, 2)
"""A second exit port (first, number of ports), where Pintos and others have QEMU put its own."""
BIOS_PORTS = (Range(0xB104, 1),)
"""Where the BIOS's stubs call."""
HPET_SPACE, HPET_ROUTES = (Range(0xFED00000, 0x400),), range(16, 24)
"""Of `devices.hpet`, which few guests need."""
EXTENDED = 1 << 20
"""Without RAM up to here there is no room for a BIOS."""
E820_RAM = 1
_E820_ENTRY = struct.Struct("<QQI")
"""As in fw_cfg's "etc/e820": address, size, type."""
FW_CFG_RAM_SIZE, FW_CFG_NB_CPUS, FW_CFG_MAX_CPUS = 0x03, 0x05, 0x0F


class Timed(Device):
    """A device that does something by itself at a time: has its `tick` called when its `next_event` is due.

    Stands before `device` on the bus, because any access may change when that is. `now` is the device's clock, of which
    a unit lasts `unit` seconds.
    """

    def __init__(self, device: Cmos | AcpiPm | Hpet, loop: EventLoop, now: Callable[[], float], unit: float) -> None:
        self.name, self.ports, self.mmio, self.width = device.name, device.ports, device.mmio, device.width
        self._device, self._loop, self._now, self._unit = device, loop, now, unit
        self._timer: Timer | None = None
        self._due: float | None = None

    def _arm(self) -> None:
        due = self._device.next_event()
        if self._timer is not None:
            if due == self._due:
                return
            self._timer.cancel()
            self._timer = None
        self._due = due
        if due is not None:
            delay = max(0.0, (due - self._now()) * self._unit)
            self._timer = self._loop.call_at(time.monotonic() + delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.moved_by_host = True
        self._device.tick()
        self._arm()

    def read(self, offset: int, size: int) -> int:
        value = self._device.read(offset, size)
        self._arm()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        self._device.write(offset, size, value)
        self._arm()

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        return self._device.register_name(offset, size, value)

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return self._device.explain(register, value, is_write)

    def reset(self) -> None:
        self._device.reset()
        self._arm()

    def save(self) -> State:
        return self._device.save()

    def restore(self, state: State) -> None:
        self._device.restore(state)
        self.moved_by_host = self._device.moved_by_host
        self._arm()


class Keyboard:
    """A person's side of the keyboard; with the machine's lock, so that any thread may type."""

    def __init__(self, lock: FairLock, controller: I8042) -> None:
        self._lock, self._controller = lock, controller

    def type(self, text: str) -> None:
        """Type on a US keyboard, as fast as the guest reads. ValueError, and nothing is typed, for what it has not."""
        with self._lock:
            self._controller.type_text(text)

    def press(self, key: str) -> None:
        """Press a key of `devices.ps2_keyboard.KEYS`, such as "a", "enter" or "f1"; ValueError for any other name."""
        with self._lock:
            self._controller.press(key)

    def release(self, key: str) -> None:
        """Let go of a key."""
        with self._lock:
            self._controller.release(key)


class Mouse:
    """A person's side of the mouse; with the machine's lock, so that any thread may move it.

    Movements are counts, of which a guest makes dots as it likes. None is lost: what the guest has not read waits.
    """

    def __init__(self, lock: FairLock, controller: I8042) -> None:
        self._lock, self._controller = lock, controller

    def move(self, right: int, down: int) -> None:
        """Move it by so many counts, -32768 to 32768; ValueError beyond."""
        with self._lock:
            self._controller.move_mouse(right, -down, 0)

    def scroll(self, down: int) -> None:
        """Turn the wheel by so many notches, up if negative. A guest that has not asked for a wheel sees nothing."""
        with self._lock:
            self._controller.move_mouse(0, 0, down)

    def press(self, button: str = "left") -> None:
        """Press "left", "right", "middle", "side" or "extra"; ValueError for any other name."""
        with self._lock:
            self._controller.hold_button(button, True)

    def release(self, button: str = "left") -> None:
        """Let go of it."""
        with self._lock:
            self._controller.hold_button(button, False)

    def click(self, button: str = "left") -> None:
        """Press it and let go."""
        with self._lock:
            self._controller.hold_button(button, True)
            self._controller.hold_button(button, False)


def _keep_a20_open(level: bool) -> None:
    """Addresses never wrap at 1 MiB: no program of this century wants them to, and KVM has no gate."""


class Signals(Protocol):
    """What a PC tells the world. With the machine's lock held."""

    def exited(self, value: int) -> None:
        """The guest wrote `value` to the exit port."""

    def powered_off(self) -> None:
        """The guest switched the machine off."""

    def rebooted(self, reason: str) -> None:
        """The guest reset the machine, in the way that `reason` says."""

    def unhandled(self, call: Call) -> None:
        """The guest left an exception to the BIOS."""


class Pc(Bench):
    """The devices of one machine, which stand on `board` and speak to `signals`; `aside` does what takes long.

    `disks` are up to four, those on the left of CD-ROM drives' places included. `floppy` is known to the BIOS alone,
    which is there with `has_bios` and starts from CDs before disks with `cds_first`. `options` are values of
    `device_options` by name. ConfigError for what cannot be.
    """

    def __init__(
        self,
        board: Board,
        lock: FairLock,
        loop: EventLoop,
        signals: Signals,
        aside: Aside = at_once,
        *,
        disks: Sequence[Disk | None] = (),
        floppy: Disk | None = None,
        options: Mapping[str, Any] = {},
        has_bios: bool = False,
        cds_first: bool = False,
    ) -> None:
        super().__init__(board, lock, loop, aside)
        self.debug_console = ConsolePort(lock.condition(), "debug console")
        """What the guest writes to port 0xE9."""
        if len(disks) > 2 * len(ATA_CHANNELS):
            raise ConfigError(f"{len(disks)} disks are not possible: a PC has 0 to {2 * len(ATA_CHANNELS)}")
        self.options = {
            option.name: option.build(options.get(option.name, option.default), self) for option in device_options()
        }
        """The device options in the form in which a snapshot has them."""
        self.cdroms: list[CdRom] = []
        """The host's sides of the CD-ROM drives."""
        self._hard_disks = len(list(filter(None, disks)))
        self._add_disks(disks)
        self._add_board(signals, has_disks=bool(any(disks) or self.trays))
        board.add(DebugExit(signals.exited))
        board.add(DebugExit(signals.exited, *PINTOS_EXIT))
        board.add(DebugConsole(self.debug_console.write))
        board.add(ShutdownPort(signals.powered_off))
        for device in self.devices:
            board.add(device)
        self._vga_bios: bytes | None = None
        self.has_bios = has_bios
        """Whether the BIOS starts what runs here, and not a loader."""
        self._bios: Bios | OnDemand | None = None
        make = partial(self._make_bios, signals, disks, floppy, cds_first=cds_first)
        if has_bios:
            self._bios = make()
        elif board.rom is None and board.memory.regions[0].size >= EXTENDED:
            self._bios = OnDemand("BIOS", make, ports=BIOS_PORTS, width=4)
        if self._bios is not None:
            board.add(self._bios)

    @property
    def bios(self) -> Bios | None:
        """The BIOS; None where a firmware is in its place, or there is no room."""
        return self._bios.device if isinstance(self._bios, OnDemand) else self._bios

    def before_load(self) -> None:
        """Leave in memory what firmware does, for a kernel that is about to be loaded."""
        if isinstance(self._bios, OnDemand):
            ports = [base for base, _ in COM_PORTS[: len(self.consoles)]]
            leave_bios(self.board.memory, ports, self._hard_disks)

    @property
    def all_consoles(self) -> list[ConsolePort]:
        """The debug console, then COM1 onwards."""
        return [self.debug_console, *self.consoles]

    def _add_board(self, signals: Signals, *, has_disks: bool) -> None:
        board, loop = self.board, self.loop
        low, *high = (region.size for region in board.memory.regions)
        self._rtc_line, self._rtc_replaced = board.irq(RTC_IRQ), False
        self._rtc_asks = IrqLine(self._move_rtc)
        self.cmos = Cmos(self._rtc_asks, time.time, low, sum(high))
        self.acpi = AcpiPm(board.irq(SCI_IRQ), signals.powered_off, time.monotonic_ns)
        board.add(Timed(self.cmos, loop, time.time, 1))
        board.add(Timed(self.acpi, loop, time.monotonic_ns, 1e-9))
        reset = partial(signals.rebooted, "reset by the keyboard controller")
        self.keyboard = I8042(board.irq(KEYBOARD_IRQ), board.irq(MOUSE_IRQ), reset, _keep_a20_open)
        board.add(self.keyboard)
        board.add(Port92(partial(signals.rebooted, "reset by port 0x92"), _keep_a20_open))
        bridge = HOST_BRIDGE if board.rom is None else HOST_BRIDGE_AT_RESET
        self.vga = Vga(time.monotonic_ns, self._video_memory)
        functions = [bridge, ISA_BRIDGE, POWER_MANAGEMENT, *([IDE] if has_disks else [])]
        if board.rom is None:  # the VGA BIOS that firmware has is that of a card without PCI
            functions.append(DISPLAY)
            self.vga.frame_buffer = FRAME_BUFFER_PCI
        host = PciHost(functions, self._move_frame_buffer, board, firmware=board.rom is not None)
        board.add(host)
        board.slots = host
        board.add(self.vga)
        board.add(Dispi(self.vga, self._write_dispi))
        board.mmio.attach(VgaWindow(self.vga))  # at RAM, which answers all accesses that do not need it
        board.add(ResetControl(signals.rebooted))
        self._legacy_timers = (board.irq(0), board.irq(RTC_IRQ))
        self._hpet_lines = [board.irq(number) for number in HPET_ROUTES]
        board.add(OnDemand("HPET", self._make_hpet, mmio=HPET_SPACE, width=8))
        self.fw_cfg = FwCfg(board.memory.read, board.memory.write)
        self.fw_cfg.add_item(FW_CFG_RAM_SIZE, board.memory.size.to_bytes(8, "little"))
        for key in (FW_CFG_NB_CPUS, FW_CFG_MAX_CPUS):
            self.fw_cfg.add_item(key, len(board.vcpus).to_bytes(2, "little"))
        ram = b"".join(_E820_ENTRY.pack(region.gpa, region.size, E820_RAM) for region in board.memory.regions)
        self.fw_cfg.add_file("etc/e820", ram)
        board.add(self.fw_cfg)

    def _make_hpet(self) -> Timed:
        from .devices.hpet import Hpet

        hpet = Hpet(self._legacy_timers, self._hpet_lines, self._replace_timers, time.monotonic_ns)
        return Timed(hpet, self.loop, time.monotonic_ns, 1e-9)

    def _replace_timers(self, on: bool) -> None:
        """The HPET takes the place of the 8254's and the RTC's interrupts, or gives it back."""
        from .kvm.chips import connect_pit

        connect_pit(self.board.vm, not on)
        self._rtc_replaced = on
        self._move_rtc(self._rtc_asks.level)

    def _move_rtc(self, level: bool) -> None:
        self._rtc_line.set(level and not self._rtc_replaced)

    def _video_memory(self, sequencer: bytearray, graphics: bytearray) -> VideoMemory:
        from .devices.vga_memory import VideoMemory
        from .engine.video_slots import VideoSlots

        return VideoMemory(sequencer, graphics, VideoSlots(self.board, MEMORY_SIZE), self.board.memory)

    def _write_dispi(self, index: int, value: int) -> None:
        from .devices.vga_dispi import write

        write(self.vga, index, value)

    def show_mode(self, entry: EntryState) -> None:
        """Show the mode that a loaded kernel has been promised."""
        if entry.video is not None:
            from .bios.vbe import set_linear

            set_linear(self.vga, *entry.video)

    def _move_frame_buffer(self, registers: Sequence[int]) -> None:
        """The guest has written to the display's PCI registers."""
        base = registers[0x10 // 4] & ~0xF
        usable = registers[1] & 2 and LOW_LIMIT <= base <= FRAME_BUFFER_PCI
        self.vga.move_frame_buffer(base if usable else 0)

    @property
    def vga_bios(self) -> bytes | None:
        """The VGA BIOS that the firmware finds where SeaBIOS looks for it."""
        return self._vga_bios

    @vga_bios.setter
    def vga_bios(self, image: bytes | None) -> None:
        self._vga_bios = image
        if image is not None:
            self.fw_cfg.add_file("vgaroms/vgabios.bin", image)

    def end_consoles(self, outcome: Outcome) -> None:
        """The run has ended: nothing more will come."""
        for console in self.all_consoles:
            console.end(f"the run has ended ({outcome})")

    def _add_disks(self, present: Sequence[Disk | None]) -> None:
        if not any(present) and not self.trays:
            return
        from .devices.ata import AtaChannel

        disks = [*present, *[None] * (2 * len(ATA_CHANNELS) - len(present))]
        places = self._places(disks)
        for number, (base, control, irq) in enumerate(ATA_CHANNELS):
            master, slave = disks[2 * number : 2 * number + 2]
            line = self.board.irq(irq)
            trays = {place % 2: tray for place, tray in places.items() if place // 2 == number}
            channel = AtaChannel(f"ATA{number}", base, control, line, master, slave, self.aside, trays)
            self.board.add(channel)
            for drive in channel.cd_drives:
                from .cdrom import CdRom

                self.cdroms.append(CdRom(self.lock, drive))
        self.cdroms.sort(key=lambda cdrom: self.trays.index(cdrom.tray))

    def _places(self, disks: Sequence[Disk | None]) -> dict[int, Tray]:
        """Which tray is in which place: the second channel's first, as PCs have had it."""
        free = [place for place in CD_PLACES if disks[place] is None]
        if len(self.trays) > len(free):
            raise ConfigError(
                f"{len(self.trays)} CD-ROM drives and {len(disks) - len(free)} disks are not possible: "
                f"a PC has places for {len(disks)}"
            )
        return dict(zip(free, self.trays, strict=False))

    def _make_bios(
        self, signals: Signals, disks: Sequence[Disk | None], floppy: Disk | None, *, cds_first: bool
    ) -> Bios:
        from .bios.disk import floppy as floppy_drive
        from .bios.disk import hard_disk
        from .bios.service import Bios
        from .boot.e820 import memory_map

        board = self.board
        drives = [] if floppy is None else [floppy_drive(0, floppy)]
        drives += [hard_disk(number, disk) for number, disk in enumerate(filter(None, disks))]
        boot = [drive.number for drive in drives[:1]]
        if self.trays:
            from .bios.cd import cd_drive

            cds = [cd_drive(number, tray) for number, tray in enumerate(self.trays)]
            drives += cds
            numbers = [drive.number for drive in cds]
            boot = [*numbers, *boot] if cds_first else [*boot, *numbers]
        return Bios(
            board.memory,
            board.ports,
            drives=drives,
            boot=boot,
            memory_map=memory_map(board.memory),
            output=(self.consoles or [self.debug_console])[0].write,
            on_reset=signals.rebooted,
            on_exception=signals.unhandled,
        )
