"""Every device under any accesses: a call does a bounded amount of work, no state grows, and each comes back whole."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from device_rig import Line, bus_with
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.bios.call import FRAME_SIZE
from pykvm.bios.disk import hard_disk
from pykvm.bios.rom import EXCEPTIONS, SERVICES
from pykvm.bios.service import Bios
from pykvm.bus import Bus, PortBus
from pykvm.console.port import ConsolePort
from pykvm.device import Device, State
from pykvm.devices.acpi_pm import AcpiPm
from pykvm.devices.ata import AtaChannel
from pykvm.devices.cmos import Cmos
from pykvm.devices.exit_ports import DebugConsole, DebugExit, ShutdownPort
from pykvm.devices.fw_cfg import FwCfg
from pykvm.devices.i8042 import I8042, Port92
from pykvm.devices.ne2000 import Ne2000
from pykvm.devices.pci.host import PciHost
from pykvm.devices.reset_control import ResetControl
from pykvm.devices.uart16550 import Uart16550
from pykvm.devices.vga import Vga
from pykvm.disk.memory import MemoryDisk
from pykvm.memory import GuestMemory
from pykvm.net.loopback import Loopback

LONG = 1.0
"""Seconds. What a call may do takes milliseconds; what was unbounded took many times as long."""
BLOCK = 4096
"""Bytes: the longest string access that KVM hands out at once."""
STATE_LIMIT = 64 << 10
"""Items and bytes of a device's state."""
RAM = 2 << 20


class Pc:
    """A device under test on a bus, with RAM for those that have a way to it, and a clock that the test moves."""

    def __init__(self, name: str) -> None:
        self.time = 1_000_000_000
        self.memory = GuestMemory(RAM)
        self.console = ConsolePort(threading.RLock())
        self.device: Device = getattr(self, f"_{name}")()
        self.bus: Bus = bus_with(self.device)
        self.places = [place for span in self.device.ports for place in range(span.base, span.end)]

    def close(self) -> None:
        self.memory.close()

    def _uart(self) -> Device:
        return Uart16550("COM1", 0x3F8, Line(), self.console)

    def _ata(self) -> Device:
        disks = (MemoryDisk(bytes(range(256)) * 256), MemoryDisk(bytes(40 << 20)))
        return AtaChannel("ATA0", 0x1F0, 0x3F6, Line(), *disks)

    def _cmos(self) -> Device:
        return Cmos(Line(), lambda: self.time / 1e9, RAM)

    def _i8042(self) -> Device:
        return I8042(Line(), Line(), lambda: None, lambda on: None)

    def _port92(self) -> Device:
        return Port92(lambda: None, lambda on: None)

    def _ne2000(self) -> Device:
        return Ne2000("NIC0", irq=Line(), backend=Loopback(), mac=b"\x02\0\0\0\0\1")

    def _pci(self) -> Device:
        return PciHost()

    def _fw_cfg(self) -> Device:
        device = FwCfg(self.memory.read, self.memory.write)
        device.add_file("etc/large", bytes(1 << 20))
        return device

    def _acpi(self) -> Device:
        return AcpiPm(Line(), lambda: None, lambda: self.time)

    def _reset(self) -> Device:
        return ResetControl(lambda why: None)

    def _exit(self) -> Device:
        return DebugExit(lambda value: None)

    def _debug_console(self) -> Device:
        return DebugConsole(self.console.write)

    def _shutdown(self) -> Device:
        return ShutdownPort(lambda: None)

    def _vga(self) -> Device:
        return Vga(lambda: self.time)

    def _bios(self) -> Device:
        ports = PortBus()
        for device in (
            self._vga(), self._cmos(), self._i8042(), Port92(lambda: None, lambda on: None),
            Uart16550("COM1", 0x3F8, Line(), self.console),
        ):  # fmt: skip
            ports.attach(device)
        return Bios(
            self.memory,
            ports,
            drives=[hard_disk(0, MemoryDisk(bytes(1 << 20)))],
            memory_map=((0, 0x9FC00, 1), (0x100000, RAM - 0x100000, 1)),
            output=self.console.write,
            on_reset=lambda why: None,
            on_exception=lambda call: None,
            now=lambda: self.time,
        )


NAMES = (
    "uart", "ata", "cmos", "i8042", "port92", "ne2000", "pci", "fw_cfg", "acpi", "reset", "exit", "debug_console",
    "shutdown", "vga", "bios",
)  # fmt: skip


@pytest.fixture(params=NAMES)
def pc(request: pytest.FixtureRequest) -> Iterator[Pc]:
    pc = Pc(request.param)
    yield pc
    pc.close()


def amount(state: object) -> int:
    """How many items and bytes there are in a state."""
    if isinstance(state, dict):
        return sum(map(amount, state.values()))
    if isinstance(state, list):
        return sum(map(amount, state))
    return len(state) if isinstance(state, (bytes, str)) else 1


def calls(pc: Pc, random: random.Random) -> Iterator[Callable[[], object]]:
    """Accesses without end: to any register, of any size, alone and as the longest strings; and the time goes on."""
    bus = pc.bus
    while True:
        place, size = random.choice(pc.places), random.choice((1, 1, 1, 2, 4))
        pc.time += random.choice((0, 0, 1000, 10**7, 10**10))
        match random.randrange(8):
            case 0 | 1 | 2:
                value = random.choice((0, (1 << 8 * size) - 1, random.getrandbits(8 * size), random.getrandbits(8)))
                yield partial(bus.write, place, size, value)
            case 3 | 4:
                yield partial(bus.read, place, size)
            case 5:
                yield partial(bus.read_block, place, size, BLOCK // size)
            case 6:
                data = random.choice((bytes(BLOCK), b"\xff" * BLOCK, random.randbytes(BLOCK)))
                yield partial(bus.write_block, place, size, data)
            case 7:
                yield pc.device.save


def bios_calls(pc: Pc, random: random.Random) -> Iterator[Callable[[], object]]:
    """Any function of any service with any registers, among them the extreme ones, over memory of any content."""
    memory, frame = pc.memory, 0x90000
    for at in range(0, RAM, 0x10000):
        memory.write(at, random.choice((b"\n" * 0x10000, random.randbytes(0x10000))))
    while True:
        vector = random.choice((*SERVICES, *EXCEPTIONS, 0x09, 0x10, 0x13, 0x16, random.randrange(0x100)))
        content = bytearray(random.choice((bytes(FRAME_SIZE), b"\xff" * FRAME_SIZE, random.randbytes(FRAME_SIZE))))
        content[32] = random.choice((content[32], 0, 1))  # AL
        content[33] = random.choice((content[33], random.randrange(0x1B)))  # AH
        content[36:38] = bytes((vector, random.choice((0, 0, 1, 2))))
        memory.write(frame, content)
        memory.write(
            0x449, random.choice((memory.read(0x449, 0x20), b"\x03\x84\x00\x00\x10", b"\xff" * 0x20, bytes(4)))
        )
        memory.write_int(0x484, 1, random.choice((24, 59, 255, 0)))
        pc.time += random.choice((0, 10**7))
        yield partial(pc.device.write, 0, 4, frame)


def worst_call(steps: Iterator[Callable[[], object]], count: int) -> float:
    """The longest of `count` calls, in seconds of this thread's own time: others on the CPU do not count."""
    worst = 0.0
    for _, call in zip(range(count), steps, strict=False):
        began = time.thread_time()
        call()
        worst = max(worst, time.thread_time() - began)
    return worst


@pytest.mark.parametrize("seed", range(2))
def test_no_call_takes_long_and_no_state_grows(pc: Pc, seed: int) -> None:
    source = random.Random(seed)
    assert worst_call(calls(pc, source), 150) < LONG
    if isinstance(pc.device, Bios):
        assert worst_call(bios_calls(pc, source), 150) < LONG
    assert amount(pc.device.save()) < STATE_LIMIT


def _registers(pc: Pc, accesses: list[tuple[int, int, int]]) -> None:
    for port, size, value in accesses:
        pc.bus.write(port, size, value)


def verify_all(pc: Pc) -> None:
    """READ VERIFY EXT of 65,536 sectors of the second disk."""
    _registers(pc, [(0x1F6, 1, 0x50)] + [(0x1F2 + at, 1, 0) for at in range(4) for _ in range(2)] + [(0x1F7, 1, 0x42)])


def read_multiple(pc: Pc) -> None:
    """READ MULTIPLE of 256 sectors, to be taken by strings."""
    _registers(pc, [(0x1F6, 1, 0xF0), (0x1F2, 1, 16), (0x1F7, 1, 0xC6)])
    _registers(pc, [(0x1F2 + at, 1, 0) for at in range(4)] + [(0x1F7, 1, 0xC4)])


def dma(control: int, length: int) -> Callable[[Pc], None]:
    """An fw_cfg operation on the largest file."""

    def start(pc: Pc) -> None:
        words = (0x20 << 16 | 8 | control, length, 0, 0x1000)
        pc.memory.write(0x800, b"".join(word.to_bytes(4, "big") for word in words))
        _registers(pc, [(0x514, 4, 0), (0x518, 4, int.from_bytes((0x800).to_bytes(4, "big"), "little"))])

    return start


def transmit(tcr: int) -> Callable[[Pc], None]:
    """The longest frame there can be, out of the whole of the chip's memory."""

    def start(pc: Pc) -> None:
        _registers(pc, [(0x300, 1, 0x21), (0x30D, 1, tcr), (0x304, 1, 0x40), (0x305, 1, 0xFF), (0x306, 1, 0xFF)])
        pc.bus.write_block(0x300, 1, b"\x26" * BLOCK)

    return start


def service(vector: int, **registers: int) -> Callable[[Pc], None]:
    """A call of the BIOS on the largest screen, with line feeds in memory."""

    def start(pc: Pc) -> None:
        order = ("es", "ds", "edi", "esi", "ebp", "esp", "ebx", "edx", "ecx", "eax")
        frame = b"".join(registers.get(name, 0).to_bytes(2 if name in ("es", "ds") else 4, "little") for name in order)
        pc.memory.write(0x20000, b"\n" * 0x20000)
        pc.memory.write(0x90000, frame + bytes((vector, 0)) + bytes(6))
        pc.memory.write_int(0x484, 1, 59)
        pc.memory.write_int(0x44A, 2, 132)
        pc.memory.write_int(0x475, 1, 1)
        pc.device.write(0, 4, 0x90000)

    return start


HEAVY: dict[str, tuple[str, Callable[[Pc], None]]] = {
    "verify": ("ata", verify_all),
    "read multiple": ("ata", lambda pc: (read_multiple(pc), pc.bus.read_block(0x1F0, 2, 0x8000))[0]),
    "identify": ("ata", lambda pc: _registers(pc, [(0x1F7, 1, 0xEC)])),
    "skip": ("fw_cfg", dma(4, 0xFFFF_FFFF)),
    "read": ("fw_cfg", dma(2, 0xFFFF_FFFF)),
    "read all": ("fw_cfg", dma(2, 0xFF000)),
    "write": ("fw_cfg", dma(16, 0xFFFF_FFFF)),
    "transmit": ("ne2000", transmit(0)),
    "transmit with an FCS": ("ne2000", transmit(1)),
    "loop back": ("ne2000", transmit(2)),
    "colours": ("vga", lambda pc: pc.bus.write_block(0x3C9, 1, bytes(BLOCK))),
    "retrace": ("vga", lambda pc: (pc.bus.read_block(0x3DA, 1, BLOCK), None)[1]),
    "clock": ("cmos", lambda pc: (pc.bus.read_block(0x71, 1, BLOCK), None)[1]),
    "string": ("bios", service(0x10, eax=0x1301, ebx=7, ecx=0xFFFF, edx=0x3B00, es=0x2000)),
    "scroll": ("bios", service(0x10, eax=0x0701, ecx=1, edx=0xFFFE)),
    "fill": ("bios", service(0x10, eax=0x0941, ecx=0xFFFF)),
    "mode": ("bios", service(0x10, eax=0x0013)),
    "extended read": ("bios", service(0x13, eax=0x0280, ecx=1, edx=0x80, es=0x3000)),
    "move": ("bios", service(0x15, eax=0x8700, ecx=0xFFFF, es=0x2000)),
}
"""The heaviest call of each kind."""


@pytest.mark.parametrize("name", HEAVY)
def test_the_heaviest_calls_are_bounded(name: str) -> None:
    device, start = HEAVY[name]
    pc = Pc(device)
    assert worst_call(iter([lambda: start(pc)]), 1) < LONG
    pc.close()


def test_a_text_that_is_too_long_is_refused_before_work_is_done_for_it() -> None:
    pc = Pc("i8042")
    assert isinstance(pc.device, I8042)
    idle = pc.device.save()
    text = "a" * (64 << 20)
    keyboard = pc.device
    began = time.thread_time()
    with pytest.raises(ValueError, match="wait for the guest"):
        keyboard.type_text(text)
    assert time.thread_time() - began < LONG
    assert pc.device.save() == idle
    pc.close()


@settings(max_examples=8)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(0, 40))
@pytest.mark.parametrize("name", NAMES)
def test_a_state_comes_back_at_any_point(name: str, seed: int, steps: int) -> None:
    pc, other = Pc(name), Pc(name)
    source = random.Random(seed)
    for _, call in zip(range(steps), calls(pc, source), strict=False):
        call()
    other.time = pc.time
    if isinstance(pc.device, Bios):
        other.memory.write(0, pc.memory.read(0, RAM))
    state: State = pc.device.save()
    for each in (other, pc):
        each.device.restore(state)
        assert each.device.save() == state
    pc.close()
    other.close()
