"""The PC around the CPUs: which devices there are, at which ports, on which interrupt lines.

Addresses and interrupts are the PC/AT's (IBM PC AT Technical Reference, 1985, "I/O address map"), where drivers look
for them without asking.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from .console.port import ConsolePort
from .device import Device, State
from .devices.acpi_pm import AcpiPm
from .devices.cmos import Cmos
from .devices.exit_ports import DebugConsole, DebugExit, ShutdownPort
from .devices.fw_cfg import FwCfg
from .devices.i8042 import I8042, Port92
from .devices.pci import HOST_BRIDGE, HOST_BRIDGE_AT_RESET, IDE, ISA_BRIDGE, POWER_MANAGEMENT, PciHost
from .devices.reset_control import ResetControl
from .devices.uart16550 import Uart16550
from .devices.vga import Vga
from .disk import Disk
from .errors import ConfigError
from .eventloop import EventLoop, Timer
from .typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .bios.service import Bios
    from .machine import Machine
    from .net import NetBackend

COM_PORTS = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))
"""COM1 to COM4: (port, IRQ)."""
ATA_CHANNELS = ((0x1F0, 0x3F6, 14), (0x170, 0x376, 15))
"""Primary and secondary: (command block, control block, IRQ)."""
NE2000_CARDS = ((0x300, 9), (0x320, 10), (0x340, 11), (0x280, 5))
"""Where the first to fourth NIC is: (port, IRQ)."""
KEYBOARD_IRQ, RTC_IRQ, MOUSE_IRQ = 1, 8, 12
SCI_IRQ = 9
"""The ACPI interrupt, which shares its line with the first NIC, as it does on real boards."""

PINTOS_EXIT = (0x501, 2)
"""A second exit port (first, number of ports), where Pintos and others have QEMU put its own."""
E820_RAM = 1
_E820_ENTRY = struct.Struct("<QQI")
"""As in fw_cfg's "etc/e820": address, size, type."""
FW_CFG_RAM_SIZE, FW_CFG_NB_CPUS, FW_CFG_MAX_CPUS = 0x03, 0x05, 0x0F


class Nic(NamedTuple):
    """A NIC: what its cable leads to, and its station address (None: one that depends on its end of the cable)."""

    backend: NetBackend
    mac: bytes | None = None


class Timed(Device):
    """A device that does something by itself at a time: has its `tick` called when its `next_event` is due.

    Stands before `device` on the bus, because any access may change when that is. `now` is the device's clock, of which
    a unit lasts `unit` seconds.
    """

    def __init__(self, device: Cmos | AcpiPm, loop: EventLoop, now: Callable[[], float], unit: float) -> None:
        self.name, self.ports, self.width = device.name, device.ports, device.width
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

    def __init__(self, lock: threading.RLock, controller: I8042) -> None:
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


def _keep_a20_open(level: bool) -> None:
    """Addresses never wrap at 1 MiB: no program of this century wants them to, and KVM has no gate."""


class Pc:
    """The devices of one machine. `consoles` are the host's sides of COM1 onwards."""

    def __init__(self, machine: Machine, serial_ports: int, nics: Sequence[Nic], *, has_bios: bool) -> None:
        self._machine = machine
        disks = machine.disks
        self.debug_console = ConsolePort(machine.lock, "debug console")
        """What the guest writes to port 0xE9."""
        self.consoles: list[ConsolePort] = []
        self.station_addresses: list[bytes] = []
        """Of the NICs."""
        for what, given, most in (
            ("serial ports", serial_ports, len(COM_PORTS)),
            ("disks", len(disks), 2 * len(ATA_CHANNELS)),
            ("NICs", len(nics), len(NE2000_CARDS)),
        ):
            if not 0 <= given <= most:
                raise ConfigError(f"{given} {what} are not possible: a PC has 0 to {most}")
        for number in range(serial_ports):
            self._add_uart(number)
        self._add_disks(disks)
        for number, nic in enumerate(nics):
            self._add_nic(number, nic)
        self._add_board(machine)
        machine.add(DebugExit(machine.exited))
        machine.add(DebugExit(machine.exited, *PINTOS_EXIT))
        machine.add(DebugConsole(self.debug_console.write))
        machine.add(ShutdownPort(machine.powered_off))
        self.bios: Bios | None = None
        if has_bios:
            self._add_bios()

    @property
    def all_consoles(self) -> list[ConsolePort]:
        """The debug console, then COM1 onwards."""
        return [self.debug_console, *self.consoles]

    def _add_board(self, machine: Machine) -> None:
        low, *high = (region.size for region in machine.memory.regions)
        self.cmos = Cmos(machine.irq(RTC_IRQ), time.time, low, sum(high))
        self.acpi = AcpiPm(machine.irq(SCI_IRQ), machine.powered_off, time.monotonic_ns)
        machine.add(Timed(self.cmos, machine.loop, time.time, 1))
        machine.add(Timed(self.acpi, machine.loop, time.monotonic_ns, 1e-9))
        reset = partial(machine.rebooted, "reset by the keyboard controller")
        self.keyboard = I8042(machine.irq(KEYBOARD_IRQ), machine.irq(MOUSE_IRQ), reset, _keep_a20_open)
        machine.add(self.keyboard)
        machine.add(Port92(partial(machine.rebooted, "reset by port 0x92"), _keep_a20_open))
        bridge = HOST_BRIDGE if machine.rom is None else HOST_BRIDGE_AT_RESET
        machine.add(PciHost((bridge, ISA_BRIDGE, POWER_MANAGEMENT, *([IDE] if any(machine.disks) else []))))
        self.vga = Vga(time.monotonic_ns)
        machine.add(self.vga)
        machine.add(ResetControl(machine.rebooted))
        self.fw_cfg = FwCfg(machine.memory.read, machine.memory.write)
        self.fw_cfg.add_item(FW_CFG_RAM_SIZE, machine.memory.size.to_bytes(8, "little"))
        for key in (FW_CFG_NB_CPUS, FW_CFG_MAX_CPUS):
            self.fw_cfg.add_item(key, len(machine.vcpus).to_bytes(2, "little"))
        ram = b"".join(_E820_ENTRY.pack(region.gpa, region.size, E820_RAM) for region in machine.memory.regions)
        self.fw_cfg.add_file("etc/e820", ram)
        if machine.vga_bios is not None:
            self.add_vga_bios(machine.vga_bios)
        machine.add(self.fw_cfg)

    def add_vga_bios(self, image: bytes) -> None:
        """Have the firmware find the VGA BIOS where SeaBIOS looks for it."""
        self.fw_cfg.add_file("vgaroms/vgabios.bin", image)

    def _add_uart(self, number: int) -> None:
        base, irq = COM_PORTS[number]
        console = ConsolePort(self._machine.lock, f"COM{number + 1}")
        self.consoles.append(console)
        self._machine.add(Uart16550(console.name, base, self._machine.irq(irq), console))

    def _add_disks(self, present: Sequence[Disk | None]) -> None:
        if not any(present):
            return
        from .devices.ata import AtaChannel

        disks = [*present, *[None] * (2 * len(ATA_CHANNELS) - len(present))]
        for number, (base, control, irq) in enumerate(ATA_CHANNELS):
            master, slave = disks[2 * number : 2 * number + 2]
            line = self._machine.irq(irq)
            aside = self._machine.worker.aside
            self._machine.add(AtaChannel(f"ATA{number}", base, control, line, master, slave, aside))

    def _add_bios(self) -> None:
        from .bios.disk import floppy, hard_disk
        from .bios.service import Bios
        from .boot.e820 import memory_map

        machine = self._machine
        drives = [] if machine.floppy is None else [floppy(0, machine.floppy)]
        drives += [hard_disk(number, disk) for number, disk in enumerate(filter(None, machine.disks))]
        self.bios = Bios(
            machine.memory,
            machine.ports,
            drives=drives,
            boot=drives[0].number if drives else 0,
            memory_map=memory_map(machine.memory),
            output=(self.consoles or [self.debug_console])[0].write,
            on_reset=machine.rebooted,
            on_exception=machine.unhandled,
        )
        machine.add(self.bios)

    def _add_nic(self, number: int, nic: Nic) -> None:
        from .devices.ne2000 import Ne2000
        from .net.mac import stable_mac

        base, irq = NE2000_CARDS[number]
        backend, name = nic.backend, f"NIC{number}"
        mac = nic.mac or stable_mac(f"{backend.station}/{name}")
        self.station_addresses.append(mac)
        self._machine.add(Ne2000(name, base, irq=self._machine.irq(irq), backend=backend, mac=mac))
        fd = backend.fileno()
        if fd is not None:
            self._machine.loop.on_readable(fd, partial(self._poll, backend, fd))

    def _poll(self, backend: NetBackend, fd: int) -> None:
        backend.poll()
        if backend.fileno() is None:  # it is dead, and its descriptor would be "readable" for ever
            self._machine.loop.on_readable(fd, None)
