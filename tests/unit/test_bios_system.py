"""INT 11h, 12h, 14h, 15h, 17h, 1Ah, and the trace."""

from __future__ import annotations

import struct

import pytest
from bios_calls import CARRY, MEMORY_MAP, Pc
from device_rig import Line

from pykvm.bios.disk import hard_disk
from pykvm.devices.acpi_pm import AcpiPm
from pykvm.disk.memory import MemoryDisk

SMAP = 0x534D4150


@pytest.fixture
def pc() -> Pc:
    return Pc()


def test_equipment_and_memory(pc: Pc) -> None:
    assert pc.call(0x11).ax == pc.word(0x410)
    assert pc.call(0x12).ax == 639


def test_extended_memory() -> None:
    pc = Pc(memory="64M")
    call = pc.call(0x15, eax=0x8800, flags=CARRY)
    assert (call.ax, call.carry) == (63 * 1024, False)
    call = pc.call(0x15, eax=0xE801)
    assert (call.ax, call.bx, call.cx, call.dx) == (15 * 1024, 48 * 16, 15 * 1024, 48 * 16)
    call = pc.call(0x15, eax=0xE881)
    assert (call.eax, call.ebx, call.ecx, call.edx, call.carry) == (15 * 1024, 48 * 16, 15 * 1024, 48 * 16, False)


def test_small_machine_has_little_extended_memory(pc: Pc) -> None:
    call = pc.call(0x15, eax=0xE801)
    assert (call.ax, call.bx) == (1024, 0)


def test_memory_map(pc: Pc) -> None:
    found, follow = [], 0
    for _ in range(10):
        call = pc.call(0x15, eax=0xE820, ebx=follow, ecx=20, edx=SMAP, es=0x500, edi=0x10, flags=CARRY)
        assert (call.eax, call.ecx, call.carry) == (SMAP, 20, False)
        found.append(struct.unpack("<QQI", pc.memory.read(0x5010, 20)))
        follow = call.ebx
        if not follow:
            break
    assert tuple(found) == MEMORY_MAP


@pytest.mark.parametrize(
    "registers",
    [
        {"ebx": 3, "ecx": 20, "edx": SMAP},
        {"ebx": 0xFFFFFFFF, "ecx": 20, "edx": SMAP},
        {"ebx": 0, "ecx": 19, "edx": SMAP},
        {"ebx": 0, "ecx": 20, "edx": 0},
    ],
)
def test_memory_map_asked_wrongly(pc: Pc, registers: dict[str, int]) -> None:
    call = pc.call(0x15, eax=0xE820, es=0x500, **registers)
    assert (call.carry, call.ah) == (True, 0x86)


def test_move_block(pc: Pc) -> None:
    pc.memory.write(0x7000, b"moved up!!")
    table = bytearray(0x30)
    for at, base in ((0x10, 0x7000), (0x18, 0x123456)):
        table[at : at + 8] = struct.pack("<HHBBBB", 0xFFFF, base & 0xFFFF, base >> 16, 0x93, 0, base >> 24)
    pc.memory.write(0x5000, table)
    call = pc.call(0x15, eax=0x8700, ecx=5, es=0x500, flags=CARRY)
    assert (call.ah, call.carry, call.zero) == (0, False, True)
    assert pc.memory.read(0x123456, 10) == b"moved up!!"
    assert pc.call(0x15, eax=0x8700, ecx=0x8001, es=0x500).carry
    pc.memory.write(0x501F, b"\x80")  # above 2 GiB
    call = pc.call(0x15, eax=0x8700, ecx=5, es=0x500)
    assert (call.ah, call.carry) == (2, True)


def test_a20(pc: Pc) -> None:
    assert pc.call(0x15, eax=0x2402).al == 1
    assert not pc.call(0x15, eax=0x2400, flags=CARRY).carry
    assert pc.call(0x15, eax=0x2402).al == 0
    assert pc.bus.read(0x92, 1) & 2 == 0
    assert pc.call(0x15, eax=0x2401).ah == 0
    assert pc.call(0x15, eax=0x2402).al == 1
    assert pc.call(0x15, eax=0x2403).bx == 3
    assert pc.call(0x15, eax=0x2404).carry


def test_short_wait_watches_the_clock(pc: Pc) -> None:
    call = pc.call(0x15, eax=0x8600, ecx=0, edx=1000)
    assert call.wait == 2
    pc.time = 999_999
    assert pc.call(0x15, eax=0x8600, ecx=0, edx=1000, waited=2).wait == 2
    pc.time = 1_000_000
    call = pc.call(0x15, eax=0x8600, ecx=0, edx=1000, waited=2)
    assert (call.wait, call.carry) == (0, False)
    assert pc.call(0x15, eax=0x8600, ecx=0, edx=1000).wait == 2, "another call is another wait"


def test_long_wait_sleeps_while_there_are_ticks(pc: Pc) -> None:
    assert pc.call(0x15, eax=0x8600, ecx=0xF, edx=0x4240).wait == 2  # a second
    pc.time = 200_000_000
    assert pc.call(0x15, eax=0x8600, ecx=0xF, edx=0x4240, waited=2).wait == 2
    pc.memory.write_int(0x46C, 4, pc.memory.read_int(0x46C, 4) + 1)
    assert pc.call(0x15, eax=0x8600, ecx=0xF, edx=0x4240, waited=2).wait == 1
    pc.time = 950_000_000
    assert pc.call(0x15, eax=0x8600, ecx=0xF, edx=0x4240, waited=1).wait == 2
    pc.time = 1_000_000_000
    assert pc.call(0x15, eax=0x8600, ecx=0xF, edx=0x4240, waited=2).wait == 0


def test_no_wait(pc: Pc) -> None:
    assert pc.call(0x15, eax=0x8600).wait == 0


def test_configuration(pc: Pc) -> None:
    call = pc.call(0x15, eax=0xC000, flags=CARRY)
    assert (call.es, call.bx, call.ah, call.carry) == (0xF000, 0xE6F5, 0, False)
    assert pc.call(0x15, eax=0xC100).es == 0x9FC0


@pytest.mark.parametrize("ax", [0x0000, 0x8900, 0xC200, 0xD800, 0xE8FF])
def test_what_there_is_not(pc: Pc, ax: int) -> None:
    call = pc.call(0x15, eax=ax)
    assert (call.carry, call.ah) == (True, 0x86)


def test_ticks(pc: Pc) -> None:
    pc.call(0x1A, eax=0x0100, ecx=0x12, edx=0x3456)
    pc.memory.write(0x470, b"\x01")
    call = pc.call(0x1A, eax=0x0000)
    assert (call.cx, call.dx, call.al) == (0x12, 0x3456, 1)
    assert pc.call(0x1A, eax=0x0000).al == 0, "midnight is told once"


def test_clock(pc: Pc) -> None:
    call = pc.call(0x1A, eax=0x0200, flags=CARRY)
    assert (call.ch, call.cl, call.dh, call.dl, call.carry) == (0x01, 0x46, 0x40, 0, False)
    call = pc.call(0x1A, eax=0x0400)
    assert (call.ch, call.cl, call.dh, call.dl) == (0x20, 0x01, 0x09, 0x09)
    pc.call(0x1A, eax=0x0300, ecx=0x2359, edx=0x5800)
    pc.call(0x1A, eax=0x0500, ecx=0x1999, edx=0x1231)
    call = pc.call(0x1A, eax=0x0200)
    assert (call.ch, call.cl, call.dh) == (0x23, 0x59, 0x58)
    call = pc.call(0x1A, eax=0x0400)
    assert (call.ch, call.cl, call.dh, call.dl) == (0x19, 0x99, 0x12, 0x31)


@pytest.mark.parametrize("ax", [0x0600, 0xB101, 0xB108])
def test_no_alarm_and_no_pci(pc: Pc, ax: int) -> None:
    assert pc.call(0x1A, eax=ax).carry


def test_no_clock(pc: Pc) -> None:
    pc.bus.detach(pc.cmos)
    assert pc.call(0x1A, eax=0x0200).carry
    assert not pc.bus.unclaimed


def test_serial_port(pc: Pc) -> None:
    call = pc.call(0x14, eax=0x00E3)  # 9600 baud, 8N1
    assert call.ah & 0x60 == 0x60
    assert pc.bus.read(0x3FB, 1) == 0x03
    pc.bus.write(0x3FB, 1, 0x83)
    assert (pc.bus.read(0x3F8, 1), pc.bus.read(0x3F9, 1)) == (12, 0)
    pc.bus.write(0x3FB, 1, 0x03)
    assert pc.call(0x14, eax=0x0141).ah & 0x80 == 0
    assert pc.console.output == b"A"
    pc.call(0x10, eax=0x0E42)
    assert pc.console.output == b"A", "who prints on both would print twice"
    assert pc.call(0x14, eax=0x0200).ah & 0x80, "nothing to receive"
    pc.console.send(b"z")
    assert pc.call(0x14, eax=0x0300).ah & 1
    call = pc.call(0x14, eax=0x0200)
    assert (call.al, call.ah & 0x80) == (ord("z"), 0)


@pytest.mark.parametrize("port", [1, 3, 4, 0xFFFF])
def test_no_serial_port(pc: Pc, port: int) -> None:
    assert pc.call(0x14, eax=0x0300, edx=port).ah & 0x80
    pc.call(0x10, eax=0x0E42)
    assert pc.console.output == b"B"


def test_no_printer(pc: Pc) -> None:
    assert pc.call(0x17, eax=0x0200).ah & 1


def test_trace() -> None:
    pc = Pc([hard_disk(0, MemoryDisk(b"\xf4".ljust(510, b"\0") + b"\x55\xaa"))])
    lines: list[str] = []
    pc.bios.log.emit = lines.append
    for character in b"Hi\r\n> ":
        pc.call(0x10, eax=0x0E00 | character)
    pc.call(0x16, eax=0x0000)
    assert lines == ["INT 10h AH=0E print Hi\\x0d\\x0a", "INT 10h AH=0E print > "], "a wait is told when it is over"
    pc.console.send(b"k")
    pc.call(0x16, eax=0x0000, waited=1)
    for _ in range(3):
        pc.call(0x16, eax=0x0100)
    pc.call(0x13, eax=0x0201, ecx=0x0102, edx=0x0180, es=0x1000, ebx=0x20)
    pc.memory.write(0x600, struct.pack("<HHHHQ", 16, 1, 0, 0x2000, 0))
    pc.call(0x13, eax=0x4200, ds=0x60, esi=0, edx=0x80)
    pc.call(0x15, eax=0xE820, ecx=20, edx=SMAP, es=0x500)
    pc.call(0x12)
    pc.call(0x10, eax=0x1234, ebx=1, ecx=2, edx=3)
    pc.call(0x10, eax=0x0E21)
    pc.bios.log.flush()
    assert lines[2:] == [
        "INT 16h AH=00 wait for a key -> scan code 25h, character 'k'",
        "INT 16h AH=01 key waiting? -> no",
        "INT 16h AH=01 key waiting? -> no (2 more)",
        "INT 13h AH=02 read 1 sectors at C/H/S 1/1/2, drive 80h, buffer 1000:0020 -> error 04h sector not found",
        "INT 13h AH=42 extended read 1 sectors at 0, drive 80h, buffer 2000:0000 -> ok",
        "INT 15h AX=E820 memory map entry 0 -> 0x0+0x9fc00 type 1, next 1",
        "INT 12h conventional memory -> 639 KiB",
        "INT 10h AX=1234 BX=0001 CX=0002 DX=0003 -> no such function here, and nothing done",
        "INT 10h AH=0E print !",
    ]
    lines.clear()
    for _ in range(3):
        pc.call(0x12)
    pc.bios.log.flush()
    assert lines == ["INT 12h conventional memory -> 639 KiB", "INT 12h conventional memory -> 639 KiB (2 more)"]


def test_trace_of_a_packet_outside_memory() -> None:
    pc = Pc(memory="1M")
    lines: list[str] = []
    pc.bios.log.emit = lines.append
    pc.call(0x13, eax=0x4200, ds=0xFFFF, esi=0xFFFF, edx=0x80)
    assert "is not in RAM -> error 09h" in lines[0]


# APM


def test_apm_is_there_with_its_real_mode_interface(pc: Pc) -> None:
    call = pc.call(0x15, eax=0x5300)
    assert (call.carry, call.ax, call.bx, call.cx) == (False, 0x0102, 0x504D, 0)
    assert pc.call(0x15, eax=0x5300, ebx=1).ah == 0x09
    assert not pc.call(0x15, eax=0x5301).carry
    assert [pc.call(0x15, eax=eax).ah for eax in (0x5302, 0x5303)] == [0x06, 0x08]
    assert pc.call(0x15, eax=0x530E, ecx=0x0102).ax == 0x0102
    assert pc.call(0x15, eax=0x530E, ecx=0x0101).ax == 0x0101
    assert not pc.call(0x15, eax=0x5308, ebx=1, ecx=1).carry
    assert not pc.call(0x15, eax=0x5305).carry
    status = pc.call(0x15, eax=0x530A, ebx=1)
    assert (status.bh, status.bl, status.ch, status.cl) == (1, 0xFF, 0x80, 0xFF)
    event = pc.call(0x15, eax=0x530B)
    assert (event.carry, event.ah) == (True, 0x80)
    unknown = pc.call(0x15, eax=0x5380)
    assert (unknown.carry, unknown.ah) == (True, 0x86)


def test_apm_switches_the_machine_off(pc: Pc) -> None:
    off: list[str] = []
    pc.bus.attach(AcpiPm(Line(), lambda: off.append("off"), lambda: 0))
    for ebx, ecx, error in ((0, 3, 0x09), (1, 4, 0x0A), (1, 1, 0), (1, 2, 0)):
        call = pc.call(0x15, eax=0x5307, ebx=ebx, ecx=ecx)
        assert (call.carry, call.ah if error else 0) == (error != 0, error)
    assert off == []
    pc.call(0x15, eax=0x5307, ebx=1, ecx=3)
    assert off == ["off"]


def test_the_keyboard_intercept_leaves_the_code_as_it_is(pc: Pc) -> None:
    call = pc.call(0x15, eax=0x4F1E)
    assert (call.carry, call.al) == (True, 0x1E)
