"""Each device of a PC: any accesses, alone and in blocks, with resets, time, what comes from the host, and states.

What must hold: no access raises, what is read fits its size, a state that was saved comes back the same, a state that
somebody changed is refused by ValueError or taken, and no state grows.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pykvm.bus import MmioBus, PortBus
from pykvm.console.port import ConsolePort
from pykvm.device import Aside, Device, IrqLine
from pykvm.devices.acpi_pm import AcpiPm
from pykvm.devices.ata import AtaChannel
from pykvm.devices.cmos import Cmos
from pykvm.devices.exit_ports import DebugConsole, DebugExit, ShutdownPort
from pykvm.devices.fw_cfg import FwCfg
from pykvm.devices.hpet import Hpet
from pykvm.devices.i8042 import I8042, Port92
from pykvm.devices.ne2000 import Ne2000
from pykvm.devices.pci.chipset import HOST_BRIDGE, IDE, ISA_BRIDGE, POWER_MANAGEMENT
from pykvm.devices.pci.host import PciHost
from pykvm.devices.ps2_keyboard import KEYS
from pykvm.devices.ps2_mouse import BUTTONS
from pykvm.devices.reset_control import ResetControl
from pykvm.devices.uart16550 import Uart16550
from pykvm.devices.vga import Vga, VgaWindow
from pykvm.devices.vga_dispi import write as write_dispi
from pykvm.devices.vga_memory import SIZE, VideoMemory
from pykvm.devices.vga_picture import text_screen
from pykvm.disk.memory import MemoryDisk
from pykvm.disk.overlay import OverlayDisk
from pykvm.disk.tray import Tray
from pykvm.memory import GuestMemory
from pykvm.net.loopback import Loopback
from pykvm.snapshot import plain

from .state import changed
from .target import Input, Random, Target, number

WORDS, OPERATIONS = 600, 24_000
"""Operations that are drawn for a round, and how many a round is made of."""
STATE_LIMIT = 64 << 10
"""Items and bytes of a state."""
RAM = 1 << 20
READ, WRITE, READ_BLOCK, WRITE_BLOCK, OTHER = range(5)
KEY_NAMES = sorted(KEYS)
BUTTON_NAMES = sorted(BUTTONS)
PACKETS = (
    0x00,
    0x03,
    0x12,
    0x1A,
    0x1B,
    0x1E,
    0x25,
    0x28,
    0x28,
    0x28,
    0x2B,
    0x43,
    0x46,
    0x4A,
    0x51,
    0x5A,
    0xA8,
    0xBD,
    0xFF,
)
"""Commands of a CD-ROM drive."""


def nothing(*_: object) -> None:
    """For what the device tells the machine."""


def line() -> IrqLine:
    return IrqLine(nothing)


def amount(state: object) -> int:
    """How many items and bytes there are in a state."""
    if isinstance(state, dict):
        return sum(map(amount, state.values()))
    if isinstance(state, list):
        return sum(map(amount, state))
    return len(state) if isinstance(state, (bytes, str)) else 1


class Bench:
    """A device on a bus. `hosts` are the things that happen to it from outside, each given a number."""

    def __init__(self, make: Callable[[Bench], Device]) -> None:
        self.time = 1_000_000_000_000
        self.waiting: list[Callable[[], None]] = []
        self.closing: list[Callable[[], None]] = []
        self.hosts: dict[str, Callable[[int], object]] = {
            "reset": self._reset, "pass": self._pass, "save": self._save, "damage": self._damage, "tell": self._tell,
        }  # fmt: skip
        self.device = make(self)
        self.bus = MmioBus() if self.device.mmio else PortBus()
        self.bus.attach(self.device)
        spans = self.device.ports or self.device.mmio
        self.ports = [port for span in spans for port in range(span.base, span.end)]
        """Or addresses."""

    def close(self) -> None:
        for close in reversed(self.closing):
            close()

    def memory(self) -> GuestMemory:
        memory = GuestMemory(RAM)
        self.closing.append(memory.close)
        return memory

    def aside(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """An `Aside` that is over when the operation "finish" says so."""
        self.waiting.append(lambda: done(work()))

    def finish(self, _: int) -> None:
        for each in self.waiting[:]:
            self.waiting.remove(each)
            each()

    def _reset(self, _: int) -> None:
        self.device.reset()

    def _pass(self, nanoseconds: int) -> None:
        self.time += nanoseconds
        tick = getattr(self.device, "tick", None)
        if tick is not None:
            self.device.next_event()  # type: ignore[attr-defined]
            tick()
            self.device.next_event()  # type: ignore[attr-defined]

    def _save(self, _: int) -> None:
        state = self.device.save()
        assert amount(state) < STATE_LIMIT, "the state grows"
        self.device.restore(plain.loads(plain.dumps(state)))
        again = self.device.save()
        assert again == state, (state, again)

    def _damage(self, seed: int) -> None:
        good = self.device.save()
        try:
            self.device.restore(changed(Random(seed), good))
        except ValueError:
            self.device.restore(good)
        else:
            self._save(0)

    def _tell(self, value: int) -> None:
        port, size = self.ports[value % len(self.ports)], 1 << (value >> 10 & 1)
        offset = port - self.ports[0]
        for given in (None, value >> 16 & (1 << 8 * size) - 1):
            name = self.device.register_name(offset, size, given)
            if name:
                self.device.explain(name, value >> 16 & 0xFF, given is not None)


def _uart(bench: Bench) -> Device:
    console = ConsolePort(threading.Condition(threading.RLock()))
    bench.hosts["type"] = lambda value: console.waiting < 4096 and console.send(value.to_bytes(8, "little"))
    bench.hosts["ready"] = lambda value: console.set_ready(bool(value & 1))
    return Uart16550("COM1", 0x3F8, line(), console)


def _ata(bench: Bench, aside: Aside | None = None) -> Device:
    disks = [OverlayDisk(MemoryDisk(bytes(range(256)) * 256)), OverlayDisk(MemoryDisk(bytes(3 << 20)))]
    bench.closing += [disk.close for disk in disks]
    bench.hosts["discard"] = lambda value: disks[value & 1].discard()
    if aside is None:
        return AtaChannel("ATA0", 0x1F0, 0x3F6, line(), *disks)
    bench.hosts["finish"] = bench.finish
    return AtaChannel("ATA0", 0x1F0, 0x3F6, line(), *disks, aside)


def _atapi(bench: Bench) -> Device:
    """A CD-ROM drive with a medium that somebody changes, and a disk beside it; packets that mean something come often."""
    tray = Tray(MemoryDisk(bytes(range(256)) * 800))
    device = AtaChannel("ATA0", 0x1F0, 0x3F6, line(), None, MemoryDisk(bytes(1 << 16)), trays={0: tray})
    (drive,) = device.cd_drives

    def change(value: int) -> None:
        tray.put((None, MemoryDisk(bytes(3000)), _BadDisk(bytes(1 << 16)), MemoryDisk(bytes(1 << 16)))[value & 3])
        drive.changed()

    def packet(value: int) -> None:
        opcode, limit = PACKETS[value % len(PACKETS)], (0xFFFE, 0, 7, 2048)[value >> 8 & 3]
        rest = (value >> 16).to_bytes(8, "big")
        fields = bytes(
            (opcode, rest[0] & 3, 0 if rest[1] & 1 else rest[1], 0, rest[2], rest[3] & 31, 0, 0, rest[4], 0, 0, 0)
        )
        for port, content in ((0x1F6, 0xA0), (0x1F1, 0), (0x1F4, limit & 0xFF), (0x1F5, limit >> 8), (0x1F7, 0xA0)):
            bench.bus.write(port, 1, content)
        bench.bus.write_block(0x1F0, 2, fields)

    bench.hosts["change"], bench.hosts["packet"] = change, packet
    bench.hosts["button"] = lambda value: drive.ask_to_eject()
    return device


class _BadDisk(MemoryDisk):
    """A disk of which every other sector cannot be used."""

    def read_at(self, offset: int, length: int) -> bytes:
        if offset >> 9 & 1:
            raise OSError(5, "it is scratched")
        return super().read_at(offset, length)

    def write_at(self, offset: int, data: bytes) -> None:
        if offset >> 9 & 1:
            raise OSError(28, "it is full")
        super().write_at(offset, data)

    def flush(self) -> None:
        raise OSError(5, "it is gone")


def _bad_ata(bench: Bench) -> Device:
    bench.hosts["finish"] = bench.finish
    locked = MemoryDisk(bytes(1 << 16))
    locked.read_only = True
    return AtaChannel("ATA0", 0x1F0, 0x3F6, line(), _BadDisk(bytes(1 << 16)), locked, bench.aside)


def _keyboard(bench: Bench) -> Device:
    device = I8042(line(), line(), nothing, nothing)

    def key(value: int) -> None:
        move = device.press if value & 1 else device.release
        move(KEY_NAMES[(value >> 1) % len(KEY_NAMES)])

    def text(value: int) -> None:
        with contextlib.suppress(ValueError):
            device.type_text(chr(value % 0x130) * (value >> 16 & 63))

    def mouse(value: int) -> None:
        device.move_mouse(value & 0x3FF, -(value >> 10 & 0x3FF), value >> 20 & 15)
        device.hold_button(BUTTON_NAMES[value % len(BUTTON_NAMES)], bool(value & 8))

    bench.hosts["key"], bench.hosts["text"], bench.hosts["mouse"] = key, text, mouse
    return device


def _ne2000(bench: Bench) -> Device:
    cable = Loopback()
    device = Ne2000("NIC0", irq=line(), backend=cable, mac=b"\x02\0\0\0\0\1")
    targets = (b"\xff" * 6, b"\x02\0\0\0\0\1", b"\x01\0\x5e\0\0\1", b"\x02\0\0\0\0\2")

    def receive(value: int) -> None:
        if cable.deliver is not None:
            cable.deliver((targets[value & 3] + value.to_bytes(8, "little") * 200)[: value >> 8 & 0x7FF])

    bench.hosts["receive"] = receive
    return device


def _fw_cfg(bench: Bench) -> Device:
    memory = bench.memory()
    device = FwCfg(memory.read, memory.write)
    for size in (0, 1, 300, 100_000):
        device.add_file(f"etc/of-{size}", bytes(size))

    def request(value: int) -> None:
        control = (value & 0xFFFF) << 16 | value >> 16 & 0x1F
        place = value >> 21 & 0xFFFFF
        length = value >> 41 & 0x3FFFF
        memory.write(0x800, b"".join(word.to_bytes(4, "big") for word in (control, length, 0, place)))
        bench.bus.write(0x518, 4, 0x00080000)

    bench.hosts["request"] = request
    return device


def _acpi(bench: Bench) -> Device:
    device = AcpiPm(line(), nothing, lambda: bench.time)
    bench.hosts["button"] = lambda value: device.press_power_button()
    return device


def _vga(bench: Bench) -> Device:
    memory, slots = bench.memory(), _Slots()
    device = Vga(lambda: bench.time, lambda sequencer, graphics: VideoMemory(sequencer, graphics, slots, memory))
    window = VgaWindow(device)

    def look(value: int) -> None:
        screen = text_screen(device, memory.read)
        assert len(screen.text) < 1 << 16
        if screen.picture is not None:
            line = screen.picture.line(value % screen.picture.height)
            assert len(line) == 3 * screen.picture.width

    def access(value: int) -> None:
        window.write(value & 0x1FFFF, 1, value >> 32 & 0xFF)
        assert 0 <= window.read(value >> 40 & 0x1FFFF, 1) <= 0xFF
        if not slots.trapped:
            memory.write(0xA0000 + (value & 0x1FFFF), bytes((value >> 32 & 0xFF,)))

    bench.hosts["look"], bench.hosts["access"] = look, access
    bench.hosts["dispi"] = lambda value: write_dispi(
        device, value & 15, (640, 0x41, 0x01, 0x00, 32, 16, 4, value >> 8 & 0xFFFF)[value >> 4 & 7]
    )
    return device


class _Slots:
    """Where the guest would see the memory."""

    def __init__(self) -> None:
        self.memory = bytearray(SIZE)
        self.trapped = False

    def later(self, callback: Callable[[], None]) -> None:
        callback()

    def trap(self, on: bool) -> None:
        self.trapped = on

    def place(self, gpa: int | None) -> None:
        """It is nowhere."""

    def written(self) -> list[int] | None:
        return None


def _pci(bench: Bench) -> Device:
    return PciHost((HOST_BRIDGE, ISA_BRIDGE, POWER_MANAGEMENT, IDE))


def _hpet(bench: Bench) -> Device:
    device = Hpet([line(), line()], [line() for _ in range(8)], nothing, lambda: bench.time)

    def set_up(value: int) -> None:
        bench.bus.write(0xFED00100 + 0x20 * (value % 3), 8, value >> 8)
        bench.bus.write(0xFED00108 + 0x20 * (value % 3), 8, value >> 32 & 0xFFFF)
        bench.bus.write(0xFED00010, 8, value >> 2 & 3)

    bench.hosts["set up"] = set_up
    return device


MAKERS: dict[str, Callable[[Bench], Device]] = {
    "uart": _uart,
    "ata": _ata,
    "ata-aside": lambda bench: _ata(bench, bench.aside),
    "ata-failing": _bad_ata,
    "atapi": _atapi,
    "hpet": _hpet,
    "cmos": lambda bench: Cmos(line(), lambda: bench.time / 1e9, RAM),
    "i8042": _keyboard,
    "port92": lambda bench: Port92(nothing, nothing),
    "ne2000": _ne2000,
    "pci": _pci,
    "fw_cfg": _fw_cfg,
    "acpi_pm": _acpi,
    "reset": lambda bench: ResetControl(nothing),
    "exit": lambda bench: DebugExit(nothing),
    "debug_console": lambda bench: DebugConsole(nothing),
    "shutdown": lambda bench: ShutdownPort(nothing),
    "vga": _vga,
}
COMMON = {
    "i8042": (0x60, 0x20, 0xD1, 0xD2, 0xD4, 0xAA, 0xED, 0xF0, 0xF3, 0xFF, 0xF2, 0xF5, 0xF4, 0xAD, 0xAE, 0xA7, 0xA8),
    "ata": (
        0x20, 0x24, 0x29, 0x30, 0x34, 0x39, 0x40, 0x42, 0x70, 0x90, 0x91, 0xC4, 0xC5, 0xC6, 0xE7, 0xEA, 0xEC, 0xEF,
        0xF8, 0xA0, 0xB0, 0xE0, 0xF0, 0x08, 0x10, 0x27,
    ),
    "atapi": (0xA0, 0xA1, 0xEC, 0x08, 0x90, 0xEF, 0xB0, 0x28, 0x43, 0x10, 0x04, 0),
    "ne2000": (0x21, 0x22, 0x0A, 0x12, 0x26, 0x61, 0x62, 0xA1, 0x40, 0x46, 0x4C, 0x60, 0x80, 0x1E),
}  # fmt: skip
"""Bytes that mean much to a device: its commands."""


class DeviceTarget(Target):
    """Operations (READ, port, size, 0), (WRITE, port, size, value), blocks, and (OTHER, what happens, 0, number)."""

    unit = "operations"
    alone = False

    def __init__(self, name: str) -> None:
        self.name = f"device-{name}"
        self._make = MAKERS[name]
        self._common = COMMON.get(name.partition("-")[0], (0, 1, 0x80, 0xFF))
        bench = Bench(self._make)
        self._ports = bench.ports
        self._hosts = sorted(bench.hosts)
        bench.close()

    def draw(self, source: Random) -> list[Input]:
        # Ports in favour change from round to round, so that long conversations with one register happen.
        favoured = source.choices(self._ports, k=3)
        return source.choices([self._operation(source, favoured) for _ in range(WORDS)], k=OPERATIONS)

    def _operation(self, source: Random, favoured: list[int]) -> Input:
        port = source.choice(favoured if source.randrange(2) else self._ports)
        size = source.choice((1, 1, 1, 1, 2, 4))
        kind = source.randrange(400)
        if kind < 196:
            return READ, port, size, 0
        if kind < 392:
            value = source.choice(self._common) if source.randrange(2) else number(source, 8 * size)
            return WRITE, port, size, value & (1 << 8 * size) - 1
        if kind == 392:
            return READ_BLOCK, port, size, source.choice((0, 1, 7, 64, 512 // size))
        if kind == 393:
            filling = source.choice((b"\0", b"\xff", source.randbytes(1), source.randbytes(16)))
            return WRITE_BLOCK, port, size, (filling * 512)[: source.choice((1, 7, 128, 512)) // size * size]
        name = source.choice(self._hosts)
        if name in ("damage", "reset", "save") and source.randrange(3):
            name = "pass"
        value = source.choice((0, 1000, 10**6, 10**9, 10**11)) if name == "pass" else number(source, 64)
        return OTHER, name, 0, value

    def run(self, inputs: Iterator[Input]) -> None:
        bench = Bench(self._make)
        read, write, hosts = bench.bus.read, bench.bus.write, bench.hosts
        try:
            for kind, port, size, value in inputs:
                if kind == READ:
                    if read(port, size) >> 8 * size:
                        raise AssertionError(f"what was read from {port:#x} has more than {size} bytes")
                elif kind == WRITE:
                    write(port, size, value)
                elif kind == OTHER:
                    hosts[port](value)
                elif kind == READ_BLOCK:
                    assert len(bench.bus.read_block(port, size, value)) == size * value
                else:
                    bench.bus.write_block(port, size, value)
            bench.hosts["save"](0)
        finally:
            bench.close()


def targets() -> list[Target]:
    return [DeviceTarget(name) for name in MAKERS]
