"""The ATA channel against ATA/ATAPI-6 (T13/1410D), and against what drivers in the wild do, step by step."""

from __future__ import annotations

import errno
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from device_rig import Line, Rig, bus_with
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.device import IrqLine
from pykvm.devices.ata import PRIMARY, SECONDARY, AtaChannel
from pykvm.disk.raw import RawDisk
from pykvm.errors import ConfigError

SECTOR = 512
DATA, ERROR, FEATURES, COUNT, LOW, MID, HIGH, DEVICE, STATUS, COMMAND = (
    0x1F0, 0x1F1, 0x1F1, 0x1F2, 0x1F3, 0x1F4, 0x1F5, 0x1F6, 0x1F7, 0x1F7,
)  # fmt: skip
CONTROL = ALTERNATE = 0x3F6
NIEN, SRST, HOB = 0x02, 0x04, 0x80


def pattern(sector: int) -> bytes:
    """512 bytes that tell which sector they are."""
    return sector.to_bytes(8, "little") * 64


class MemoryDisk:
    """A backend in memory: what is not in `sectors` holds `pattern`, sectors in `bad` fail, `log` has all calls."""

    def __init__(self, count: int, read_only: bool = False) -> None:
        self.size = count * SECTOR
        self.read_only = read_only
        self.sectors: dict[int, bytes] = {}
        self.bad: set[int] = set()
        self.flush_fails = False
        self.log: list[tuple[str, int, int]] = []

    def _span(self, offset: int, length: int) -> range:
        assert offset % SECTOR == 0
        assert length % SECTOR == 0
        assert 0 <= offset <= offset + length <= self.size
        span = range(offset // SECTOR, (offset + length) // SECTOR)
        if any(sector in self.bad for sector in span):
            raise OSError(errno.EIO, "bad sector")
        return span

    def read_at(self, offset: int, length: int) -> bytes:
        self.log.append(("read", offset // SECTOR, length // SECTOR))
        return b"".join(self.sectors.get(sector, pattern(sector)) for sector in self._span(offset, length))

    def write_at(self, offset: int, data: bytes) -> None:
        self.log.append(("write", offset // SECTOR, len(data) // SECTOR))
        assert not self.read_only
        for at, sector in enumerate(self._span(offset, len(data))):
            self.sectors[sector] = data[at * SECTOR : (at + 1) * SECTOR]

    def flush(self) -> None:
        self.log.append(("flush", 0, 0))
        if self.flush_fails:
            raise OSError(errno.ENOSPC, "full")

    def close(self) -> None:
        pass


class Pc(Rig[AtaChannel]):
    """A bus with the primary channel on it."""

    def __init__(self, master: MemoryDisk | None, slave: MemoryDisk | None = None) -> None:
        irq = Line()
        super().__init__(AtaChannel("ide0", *PRIMARY, irq, master, slave), irq)

    def insw(self, words: int) -> bytes:
        return self.ins(DATA, words, 2)

    def outsw(self, data: bytes) -> None:
        self.outs(DATA, data, 2)

    def address28(self, lba: int, count: int, unit: int = 0) -> None:
        self.outb(DEVICE, 0xE0 | unit << 4 | lba >> 24)
        self.outb(COUNT, count & 0xFF)
        self.outb(LOW, lba & 0xFF)
        self.outb(MID, lba >> 8 & 0xFF)
        self.outb(HIGH, lba >> 16 & 0xFF)

    def address48(self, lba: int, count: int, unit: int = 0) -> None:
        self.outb(DEVICE, 0x40 | unit << 4)
        for shift in (True, False):  # the high halves first, then the low ones
            self.outb(COUNT, count >> 8 * shift & 0xFF)
            self.outb(LOW, lba >> 24 * shift & 0xFF)
            self.outb(MID, lba >> 24 * shift + 8 & 0xFF)
            self.outb(HIGH, lba >> 24 * shift + 16 & 0xFF)

    def chs(self, cylinder: int, head: int, sector: int, count: int) -> None:
        self.outb(DEVICE, 0xA0 | head)
        self.outb(COUNT, count & 0xFF)
        self.outb(LOW, sector)
        self.outb(MID, cylinder & 0xFF)
        self.outb(HIGH, cylinder >> 8)

    def run(self, command: int, features: int | None = None, count: int | None = None) -> int:
        """Give a command and return the Status register, which takes the interrupt back."""
        if features is not None:
            self.outb(FEATURES, features)
        if count is not None:
            self.outb(COUNT, count)
        self.outb(COMMAND, command)
        return self.inb(STATUS)

    def registers(self) -> tuple[int, ...]:
        """Count, LBA low, mid, high."""
        return tuple(self.inb(port) for port in (COUNT, LOW, MID, HIGH))

    def identify(self) -> list[int]:
        assert self.run(0xEC) == 0x58
        data = self.insw(256)
        assert self.inb(STATUS) == 0x50
        return [int.from_bytes(data[at : at + 2], "little") for at in range(0, 512, 2)]


# Who is there.


def test_empty_channel_reads_zeros_and_takes_nothing() -> None:
    pc = Pc(None)
    for unit in (0xA0, 0xB0):
        pc.outb(DEVICE, unit)
        pc.outb(COUNT, 0x55)
        pc.outb(LOW, 0xAA)
        pc.outb(COMMAND, 0xEC)
        assert [pc.inb(port) for port in range(0x1F0, 0x1F8)] == [0] * 8
        assert pc.inb(ALTERNATE) == 0
    pc.outb(COMMAND, 0x90)
    pc.outb(CONTROL, SRST)
    assert pc.inb(STATUS) == 0
    assert pc.edges == []


def test_device_0_answers_for_a_missing_device_1_with_status_0() -> None:
    pc = Pc(MemoryDisk(100))
    pc.outb(DEVICE, 0xB0)
    pc.outb(COUNT, 0x55)
    pc.outb(LOW, 0xAA)
    assert (pc.inb(COUNT), pc.inb(LOW), pc.inb(DEVICE)) == (0x55, 0xAA, 0xB0)
    pc.outb(COMMAND, 0xEC)
    assert (pc.inb(STATUS), pc.inb(ALTERNATE), pc.insw(4), pc.edges) == (0, 0, bytes(8), [])
    pc.outb(DEVICE, 0xA0)
    assert pc.inb(STATUS) == 0x50


def test_nobody_answers_for_a_missing_device_0() -> None:
    pc = Pc(None, MemoryDisk(100))
    pc.outb(COUNT, 0x55)
    assert (pc.inb(COUNT), pc.inb(STATUS)) == (0, 0)
    pc.outb(DEVICE, 0xB0)
    assert pc.inb(STATUS) == 0x50
    assert pc.identify()[60] == 100


def test_registers_are_heard_by_both_and_each_executes_its_own_commands() -> None:
    master, slave = MemoryDisk(100), MemoryDisk(200)
    slave.sectors[7] = b"S" * 512
    pc = Pc(master, slave)
    pc.address28(7, 1, unit=0)
    pc.outb(DEVICE, 0xF0)  # only now choose: the address written before is there as well
    assert pc.registers() == (1, 7, 0, 0)
    assert pc.run(0x20) == 0x58
    assert pc.insw(256) == b"S" * 512
    assert (master.log, slave.log) == ([], [("read", 7, 1)])


@pytest.mark.parametrize("how", ["power", "srst", "diagnostic", "reset"])
def test_signature(how: str) -> None:
    pc = Pc(MemoryDisk(100), MemoryDisk(100))
    if how != "power":
        pc.address28(0x123456, 9, unit=1)
        pc.run(0x20)
    if how == "srst":
        pc.outb(CONTROL, SRST)
        assert (pc.inb(STATUS), pc.inb(ALTERNATE)) == (0x80, 0x80)
        pc.outb(COMMAND, 0xEC)  # not heard
        pc.outb(CONTROL, 0)
    elif how == "diagnostic":
        pc.outb(COMMAND, 0x90)
    elif how == "reset":
        pc.device.reset()
    assert pc.irq.level == (how == "diagnostic")  # SRST does not interrupt
    for unit in (0xA0, 0xB0):
        assert pc.inb(DEVICE) == 0xA0 or unit == 0xB0
        pc.outb(DEVICE, unit)
        assert pc.registers() == (1, 1, 0, 0)
        assert (pc.inb(ERROR), pc.inb(STATUS)) == (1, 0x50)
    assert not pc.irq.level


def test_two_channels_do_not_meet() -> None:
    edges: list[tuple[int, bool]] = []
    bus = bus_with(
        AtaChannel("ide0", *PRIMARY, IrqLine(lambda level: edges.append((14, level))), MemoryDisk(10)),
        AtaChannel("ide1", *SECONDARY, IrqLine(lambda level: edges.append((15, level))), MemoryDisk(20)),
    )
    bus.write(0x177, 1, 0xEC)
    assert edges == [(15, True)]
    assert bus.read(0x376, 1) == 0x58
    assert bus.read_block(0x170, 2, 256)[120:124] == (20).to_bytes(4, "little")
    assert bus.read(0x1F7, 1) == 0x50


@pytest.mark.parametrize("size", [0, 511, 513, 1 << 57])
def test_impossible_disk(size: int) -> None:
    disk = MemoryDisk(1)
    disk.size = size
    with pytest.raises(ConfigError, match=str(size)):
        Pc(disk)


# IDENTIFY DEVICE.


def test_identify_words_of_a_small_disk() -> None:
    words = Pc(MemoryDisk(20480)).identify()  # 10 MiB: 20 cylinders of 16 * 63 = 1008 sectors, 20160 in all
    expected = {
        0: 0x0040, 1: 20, 3: 16, 6: 63, 47: 0x8010, 49: 0x0A00, 50: 0x4000, 53: 3, 54: 20, 55: 16, 56: 63,
        57: 20160, 58: 0, 59: 0x0110, 60: 20480, 61: 0, 62: 0, 63: 0, 64: 3, 65: 0, 66: 0, 67: 120, 68: 120, 75: 0,
        76: 0, 80: 0x0078, 82: 0x4068, 83: 0x7400, 84: 0x4000, 85: 0x4068, 86: 0x3400, 87: 0x4000, 88: 0, 93: 0x404B,
        100: 20480, 101: 0, 102: 0, 103: 0, 106: 0x4000,
    }  # fmt: skip
    assert {word: words[word] for word in expected} == expected
    data = b"".join(word.to_bytes(2, "big") for word in words)  # big-endian: the order of ATA strings
    assert data[20:40] == b"PYKVM-1F0-0".ljust(20)
    assert data[46:54] == b"1.0".ljust(8)
    assert data[54:94] == b"PYKVM HARDDISK".ljust(40)
    assert words[255] & 0xFF == 0xA5
    assert sum(data) % 256 == 0


def test_identify_of_a_disk_beyond_28_bits() -> None:
    words = Pc(MemoryDisk(0x1_2345_6789)).identify()
    assert (words[1], words[3], words[6]) == (16383, 16, 63)
    assert (words[60], words[61]) == (0xFFFF, 0x0FFF)
    assert words[100:104] == [0x6789, 0x2345, 0x0001, 0]


@pytest.mark.parametrize(("total", "chs"), [(1, (1, 1, 1)), (62, (1, 1, 62)), (200, (1, 3, 63)), (1008, (1, 16, 63))])
def test_geometry_of_tiny_disks(total: int, chs: tuple[int, int, int]) -> None:
    words = Pc(MemoryDisk(total)).identify()
    assert (words[1], words[3], words[6]) == chs


def test_word_93_tells_the_cable() -> None:
    pc = Pc(MemoryDisk(9), MemoryDisk(9))
    assert pc.identify()[93] == 0x403B
    pc.outb(DEVICE, 0xB0)
    assert pc.identify()[93] == 0x4B00


# PIO data-in: INTRQ before each DRQ block, none after the last.


def test_read_sectors_interrupt_protocol() -> None:
    pc = Pc(MemoryDisk(100))
    pc.address28(5, 2)
    assert pc.edges == []
    pc.outb(COMMAND, 0x20)
    assert pc.edges == [True]
    assert pc.inb(ALTERNATE) == 0x58
    assert pc.irq.level, "the Alternate Status does not take the interrupt back"
    assert pc.inb(STATUS) == 0x58
    assert pc.edges == [True, False]
    assert pc.insw(255) == pattern(5)[:510]
    assert pc.edges == [True, False]
    assert pc.insw(1) == pattern(5)[510:]
    assert pc.edges == [True, False, True]
    assert pc.inb(STATUS) == 0x58
    assert pc.insw(256) == pattern(6)
    assert pc.edges == [True, False, True, False]
    assert pc.inb(STATUS) == 0x50
    assert pc.insw(2) == bytes(4), "there is nothing more"


def test_write_sectors_interrupt_protocol() -> None:
    disk = MemoryDisk(100)
    pc = Pc(disk)
    pc.address28(5, 2)
    pc.outb(COMMAND, 0x30)
    assert (pc.inb(ALTERNATE), pc.edges) == (0x58, []), "the first block is asked for without an interrupt"
    pc.outsw(b"A" * 512)
    assert pc.edges == [True]
    assert disk.sectors == {5: b"A" * 512}
    assert pc.inb(STATUS) == 0x58
    pc.outsw(b"B" * 510)
    assert (pc.edges, disk.log) == ([True, False], [("write", 5, 1)])
    pc.outsw(b"BB")
    assert pc.edges == [True, False, True]
    assert pc.inb(STATUS) == 0x50
    assert disk.sectors == {5: b"A" * 512, 6: b"B" * 512}
    pc.outsw(b"CC")
    assert disk.log == [("write", 5, 1), ("write", 6, 1)], "what nobody asked for is dropped"


def test_writing_the_command_register_takes_the_interrupt_back() -> None:
    pc = Pc(MemoryDisk(100))
    pc.outb(COMMAND, 0xEC)
    pc.outb(COMMAND, 0xEC)
    assert pc.edges == [True, False, True]
    pc.address28(0, 1)
    pc.outb(COMMAND, 0x30)
    assert pc.edges == [True, False, True, False]


def test_nien_gates_the_line_and_keeps_what_is_pending() -> None:
    pc = Pc(MemoryDisk(100))
    pc.outb(CONTROL, NIEN)
    pc.outb(COMMAND, 0xEC)
    assert pc.edges == []
    pc.outb(CONTROL, 0)
    assert pc.edges == [True]
    pc.outb(CONTROL, NIEN)
    assert pc.edges == [True, False]
    assert pc.inb(STATUS) == 0x58
    pc.outb(CONTROL, 0)
    assert pc.edges == [True, False]


def test_only_the_selected_device_drives_the_line() -> None:
    pc = Pc(MemoryDisk(100), MemoryDisk(100))
    pc.outb(COMMAND, 0xE5)
    pc.outb(DEVICE, 0xB0)
    assert not pc.irq.level
    assert pc.inb(STATUS) == 0x50, "reading the other's status leaves it pending"
    pc.outb(DEVICE, 0xA0)
    assert pc.irq.level


@pytest.mark.parametrize(("command", "long"), [(0xC4, False), (0x29, True)])
def test_read_multiple_moves_blocks_and_a_rest(command: int, long: bool) -> None:
    disk = MemoryDisk(100)
    pc = Pc(disk)
    assert pc.run(0xC6, count=4) == 0x50
    assert pc.identify()[59] == 0x0104
    del pc.edges[:]
    (pc.address48 if long else pc.address28)(10, 6)
    assert pc.run(command) == 0x58
    assert pc.insw(1024) == b"".join(map(pattern, range(10, 14)))
    assert pc.edges == [True, False, True]
    assert pc.inb(STATUS) == 0x58
    assert pc.insw(512) == pattern(14) + pattern(15)
    assert pc.edges == [True, False, True, False]
    assert pc.inb(STATUS) == 0x50
    assert disk.log == [("read", 10, 4), ("read", 14, 2)]


@pytest.mark.parametrize(("command", "long"), [(0xC5, False), (0x39, True)])
def test_write_multiple_moves_blocks_and_a_rest(command: int, long: bool) -> None:
    disk = MemoryDisk(100)
    pc = Pc(disk)
    pc.run(0xC6, count=2)
    del pc.edges[:]
    (pc.address48 if long else pc.address28)(10, 3)
    assert pc.run(command) == 0x58
    assert pc.edges == []
    pc.outsw(b"1" * 1024)
    assert pc.edges == [True]
    assert pc.inb(STATUS) == 0x58
    pc.outsw(b"2" * 512)
    assert pc.edges == [True, False, True]
    assert pc.inb(STATUS) == 0x50
    assert disk.log == [("write", 10, 2), ("write", 12, 1)]


def test_multiple_mode_is_on_after_power_on_and_off_after_0_or_nonsense() -> None:
    pc = Pc(MemoryDisk(100))
    pc.address28(0, 16)
    assert pc.run(0xC4) == 0x58
    assert len(pc.insw(16 * 256)) == 8192
    assert pc.inb(STATUS) == 0x50
    for count, status in ((0, 0x50), (3, 0x51), (32, 0x51), (255, 0x51)):
        assert pc.run(0xC6, count=16) == 0x50
        assert pc.run(0xC6, count=count) == status
        assert pc.identify()[59] == 0
        for command in (0xC4, 0x29, 0xC5, 0x39):
            assert (pc.run(command), pc.inb(ERROR)) == (0x51, 0x04)


def test_count_0_is_256_sectors_or_65536() -> None:
    disk = MemoryDisk(70000)
    pc = Pc(disk)
    pc.address28(1, 0)
    assert pc.run(0x21) == 0x58
    for sector in range(1, 257):
        assert pc.insw(256) == pattern(sector)
    assert pc.inb(STATUS) == 0x50
    pc.address48(1, 0)
    assert pc.run(0x29) == 0x58
    for first in range(1, 65537, 16):
        assert pc.insw(16 * 256)[-512:] == pattern(first + 15)
    assert (pc.inb(STATUS), pc.insw(1)) == (0x50, bytes(2))


# Widths of access.


def test_data_port_takes_all_widths() -> None:
    disk = MemoryDisk(10)
    pc = Pc(disk)
    content = bytes(range(256)) * 2
    disk.sectors[3] = content
    for size in (1, 2, 4):
        pc.address28(3, 1)
        pc.run(0x20)
        got = b"".join(pc.bus.read(DATA, size).to_bytes(size, "little") for _ in range(512 // size))
        assert (got, pc.inb(STATUS)) == (content, 0x50)
        pc.address28(size, 1)
        pc.run(0x30)
        for at in range(0, 512, size):
            pc.bus.write(DATA, size, int.from_bytes(content[at : at + size], "little"))
        assert (disk.sectors[size], pc.inb(STATUS)) == (content, 0x50)
        pc.address28(3, 1)
        pc.run(0x20)
        assert (pc.bus.read_block(DATA, size, 512 // size), pc.inb(STATUS)) == (content, 0x50)


def test_a_transfer_may_run_over_the_ends_of_blocks() -> None:
    disk = MemoryDisk(10)
    pc = Pc(disk)
    pc.address28(0, 3)
    pc.run(0x20)
    assert pc.insw(1) == pattern(0)[:2]  # from here on a 4-byte access straddles the blocks
    rest = pc.bus.read_block(DATA, 4, 384)
    assert rest == b"".join(map(pattern, range(3)))[2:] + bytes(2)
    pc.address28(0, 2)
    pc.run(0x30)
    pc.outsw(b"xy" * 513)
    assert disk.sectors == {0: b"xy" * 256, 1: b"xy" * 256}
    assert pc.inb(STATUS) == 0x50


def test_a_wide_access_to_registers_is_one_access_to_each() -> None:
    pc = Pc(MemoryDisk(100))
    pc.bus.write(COUNT, 4, 0x00000701)  # count 1, LBA 7
    assert pc.bus.read(COUNT, 4) == 0x00000701
    pc.bus.write(DEVICE, 2, 0x20E0)  # LBA, READ SECTORS
    assert pc.irq.level
    assert pc.bus.read(DEVICE, 2) == 0x58E0
    assert not pc.irq.level
    assert pc.insw(256) == pattern(7)
    assert pc.bus.read(STATUS, 2) == 0xFF50, "behind the last register is nothing"
    assert pc.bus.read(ALTERNATE, 2) == 0xFF50
    assert pc.bus.read_block(COUNT, 1, 2) == b"\x01\x01"


# Addresses.


def test_chs_follows_the_translation() -> None:
    disk = MemoryDisk(20480)
    pc = Pc(disk)
    pc.chs(3, 5, 7, 1)  # (3 * 16 + 5) * 63 + 6 = 3345
    assert pc.run(0x20) == 0x58
    assert pc.insw(256) == pattern(3345)
    pc.outb(DEVICE, 0xA0 | 3)  # 4 heads
    assert pc.run(0x91, count=17) == 0x50
    words = pc.identify()
    assert words[54:59] == [301, 4, 17, 20468, 0]  # 20480 / 68 = 301.2
    assert (words[1], words[3], words[6]) == (20, 16, 63), "the default does not change"
    pc.chs(3, 2, 7, 1)  # (3 * 4 + 2) * 17 + 6 = 244
    assert pc.run(0x20) == 0x58
    assert pc.insw(256) == pattern(244)


@pytest.mark.parametrize(
    ("cylinder", "head", "sector"),
    [(0, 0, 0), (0, 0, 64), (20, 0, 1), (65535, 15, 63)],
)
def test_chs_address_that_is_not_there(cylinder: int, head: int, sector: int) -> None:
    pc = Pc(MemoryDisk(20480))
    for command in (0x20, 0x30, 0x40, 0x70):
        pc.chs(cylinder, head, sector, 1)
        assert (pc.run(command), pc.inb(ERROR)) == (0x51, 0x10)
        assert pc.registers() == (1, sector, cylinder & 0xFF, cylinder >> 8)
        assert pc.inb(DEVICE) == 0xA0 | head


def test_chs_error_address() -> None:
    disk = MemoryDisk(20480)
    disk.bad = {3345}
    pc = Pc(disk)
    pc.chs(3, 5, 6, 4)
    assert pc.run(0x20) == 0x58
    pc.insw(256)
    assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x51, 0x40)
    assert pc.registers()[1:] == (7, 3, 0)
    assert pc.inb(DEVICE) == 0xA5


def test_initialize_device_parameters_refuses_what_cannot_be() -> None:
    pc = Pc(MemoryDisk(500))
    for heads, sectors in ((1, 0), (16, 63)):
        pc.outb(DEVICE, 0xA0 | heads - 1)
        assert (pc.run(0x91, count=sectors), pc.inb(ERROR)) == (0x51, 0x04)


def test_the_end_of_the_disk() -> None:
    disk = MemoryDisk(0x12345)
    pc = Pc(disk)
    for command in (0x20, 0x30):
        del pc.edges[:]
        pc.address28(0x12344, 2)
        assert pc.run(command) == 0x58, "the sectors that are there come first"
        (pc.insw(256) if command == 0x20 else pc.outsw(bytes(512)))
        assert pc.irq.level
        assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x51, 0x10)
        assert pc.registers()[1:] == (0x45, 0x23, 0x01)
        pc.address28(0xABCDEF0, 1)
        pc.outb(COMMAND, command)
        assert pc.irq.level
        assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x51, 0x10)
        assert pc.registers()[1:] == (0xF0, 0xDE, 0xBC)
        assert pc.inb(DEVICE) == 0xEA
    assert disk.log == [("read", 0x12344, 1), ("write", 0x12344, 1)]


def test_a_multiple_block_with_a_missing_sector_is_not_transferred() -> None:
    disk = MemoryDisk(100)
    pc = Pc(disk)
    for command in (0xC4, 0xC5):
        pc.address28(90, 16)
        assert (pc.run(command), pc.inb(ERROR)) == (0x51, 0x10)
        assert pc.registers()[1:] == (100, 0, 0)
    assert disk.log == []


def test_48_bit_address_and_hob() -> None:
    total = 0x8765_4321_9ABC
    disk = MemoryDisk(total)
    pc = Pc(disk)
    pc.address48(0x1234_5678_9ABC, 0x0102)
    assert pc.registers() == (0x02, 0xBC, 0x9A, 0x78)
    pc.outb(CONTROL, HOB)
    assert pc.registers() == (0x01, 0x56, 0x34, 0x12)
    assert pc.run(0x24) == 0x58  # writing a Command Block register clears HOB
    assert pc.registers() == (0x02, 0xBC, 0x9A, 0x78)
    assert pc.insw(256) == pattern(0x1234_5678_9ABC)
    pc.address48(total - 1, 2)
    assert pc.run(0x34) == 0x58
    pc.outsw(b"Z" * 512)
    assert disk.sectors == {total - 1: b"Z" * 512}
    assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x51, 0x10)
    assert pc.registers()[1:] == (0xBC, 0x9A, 0x21)
    pc.outb(CONTROL, HOB)
    assert pc.registers()[1:] == (0x43, 0x65, 0x87)


def test_28_bit_commands_end_where_word_60_says() -> None:
    disk = MemoryDisk(1 << 30)
    pc = Pc(disk)
    pc.address28(0x0FFFFFFE, 2)
    assert pc.run(0x20) == 0x58
    assert pc.insw(256) == pattern(0x0FFFFFFE)
    assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x51, 0x10)
    assert (*pc.registers()[1:], pc.inb(DEVICE)) == (0xFF, 0xFF, 0xFF, 0xEF)
    pc.address48(0x0FFFFFFF, 1)
    assert pc.run(0x24) == 0x58


def test_read_native_max() -> None:
    pc = Pc(MemoryDisk(0x1_2345_6789))
    pc.outb(DEVICE, 0xE0)
    assert pc.run(0xF8) == 0x50
    assert (*pc.registers()[1:], pc.inb(DEVICE)) == (0xFE, 0xFF, 0xFF, 0xEF)
    pc.outb(DEVICE, 0xE0)
    assert pc.run(0x27) == 0x50
    assert pc.registers()[1:] == (0x88, 0x67, 0x45)
    pc.outb(CONTROL, HOB)
    assert pc.registers()[1:] == (0x23, 0x01, 0x00)


def test_changing_the_device_register_in_the_middle_of_a_transfer() -> None:
    """The address that does not fit CHS is cut to the registers."""
    pc = Pc(MemoryDisk(1 << 30))
    pc.address28(0x0FFFFFFE, 2)
    assert pc.run(0x30) == 0x58
    pc.outb(DEVICE, 0xA0)
    pc.outsw(bytes(512))
    assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x51, 0x10)
    # 0xFFFFFFF = (266305 * 16 + 0) * 63 + 15, and 266305 is 0x41041
    assert (*pc.registers()[1:], pc.inb(DEVICE)) == (16, 0x41, 0x10, 0xA0)


# Errors of the host.


def test_unreadable_sector() -> None:
    disk = MemoryDisk(100)
    disk.bad = {11}
    pc = Pc(disk)
    pc.address28(10, 4)
    assert pc.run(0x20) == 0x58
    assert pc.insw(256) == pattern(10)
    assert pc.irq.level
    assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x51, 0x40)
    assert pc.registers()[1:] == (11, 0, 0)
    assert pc.insw(1) == bytes(2)
    pc.address28(12, 1)
    assert (pc.run(0x20), pc.inb(ERROR)) == (0x58, 0)


def test_unwritable_sector() -> None:
    disk = MemoryDisk(100)
    disk.bad = {11}
    pc = Pc(disk)
    pc.address28(10, 4)
    assert pc.run(0x30) == 0x58
    pc.outsw(bytes(1024))
    assert pc.irq.level
    assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x71, 0x04)
    assert pc.registers()[1:] == (11, 0, 0)
    assert pc.run(0xE5) == 0x50


def test_read_only_disk() -> None:
    disk = MemoryDisk(100, read_only=True)
    pc = Pc(disk)
    for command in (0x30, 0x31, 0x34, 0xC5, 0x39):
        pc.address28(1, 1)
        pc.outb(COMMAND, command)
        assert pc.irq.level
        assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x51, 0x44)
        pc.outsw(bytes(512))
    assert disk.log == []
    pc.address28(1, 1)
    assert pc.run(0x20) == 0x58


def test_read_verify() -> None:
    disk = MemoryDisk(70000)
    disk.bad = {300}
    pc = Pc(disk)
    for command, lba, count, expected in (
        (0x40, 0, 0, (0x50, 0)),
        (0x41, 200, 101, (0x51, 0x40)),
        (0x40, 69999, 2, (0x51, 0x10)),
        (0x40, 69999, 1, (0x50, 0)),
    ):
        pc.address28(lba, count)
        pc.outb(COMMAND, command)
        assert pc.irq.level
        assert (pc.inb(STATUS), pc.inb(ERROR)) == expected
    disk.bad = set()
    pc.address48(4464, 0)
    assert pc.run(0x42) == 0x50
    pc.address48(4465, 0)
    assert (pc.run(0x42), pc.inb(ERROR)) == (0x51, 0x10)
    assert pc.registers()[1:] == (70000 & 0xFF, 70000 >> 8 & 0xFF, 70000 >> 16)


# Commands without data.


def test_flush_reaches_the_backend_before_the_command_completes() -> None:
    disk = MemoryDisk(100)
    pc = Pc(disk)
    order: list[str] = []
    pc.irq._sink = lambda level: order.append(f"{'irq' if level else 'ack'} after {[name for name, _, _ in disk.log]}")
    pc.address28(1, 1)
    pc.run(0x30)
    pc.outsw(bytes(512))
    assert pc.inb(STATUS) == 0x50
    assert pc.run(0xE7) == 0x50
    assert pc.run(0xEA) == 0x50
    assert order[0::2] == [
        "irq after ['write']",
        "irq after ['write', 'flush']",
        "irq after ['write', 'flush', 'flush']",
    ]
    disk.flush_fails = True
    assert (pc.run(0xE7), pc.inb(ERROR)) == (0x51, 0x04)


def test_without_the_write_cache_a_write_command_is_durable_when_it_completes() -> None:
    disk = MemoryDisk(100)
    pc = Pc(disk)
    assert pc.run(0xEF, features=0x82) == 0x50
    assert pc.identify()[85] == 0x4048
    assert disk.log == [("flush", 0, 0)]
    pc.address28(1, 2)
    pc.run(0x30)
    pc.outsw(bytes(1024))
    assert disk.log[1:] == [("write", 1, 1), ("write", 2, 1), ("flush", 0, 0)]
    disk.flush_fails = True
    pc.address28(1, 1)
    pc.run(0x30)
    pc.outsw(bytes(512))
    assert pc.inb(STATUS) == 0x71
    assert pc.run(0xEF, features=0x02) == 0x50
    assert pc.identify()[85] == 0x4068


def test_set_features() -> None:
    pc = Pc(MemoryDisk(100))
    for mode, status in (
        (0x00, 0x50),
        (0x01, 0x50),
        (0x08, 0x50),
        (0x0C, 0x50),
        (0x0D, 0x51),
        (0x22, 0x51),
        (0x45, 0x51),
    ):
        assert pc.run(0xEF, features=0x03, count=mode) == status
    assert pc.run(0xEF, features=0x55) == 0x50
    assert pc.identify()[85] == 0x4028
    assert pc.run(0xEF, features=0xAA) == 0x50
    assert pc.identify()[85] == 0x4068
    for unknown in (0x00, 0x05, 0x42, 0x5D, 0x90, 0xFF):
        assert (pc.run(0xEF, features=unknown), pc.inb(ERROR)) == (0x51, 0x04)


@pytest.mark.parametrize(("keep", "multiple"), [(0x66, 4), (0xCC, 16)])
def test_software_reset_reverts_settings_unless_told_not_to(keep: int, multiple: int) -> None:
    pc = Pc(MemoryDisk(100))
    pc.run(0xC6, count=4)
    assert pc.run(0xEF, features=0x66) == 0x50
    assert pc.run(0xEF, features=keep) == 0x50
    pc.outb(CONTROL, SRST)
    pc.outb(CONTROL, 0)
    assert pc.identify()[59] == 0x100 | multiple
    pc.device.reset()
    assert pc.identify()[59] == 0x110


def test_power_modes() -> None:
    pc = Pc(MemoryDisk(100))

    def mode() -> int:
        assert pc.run(0xE5) == 0x50
        return pc.inb(COUNT)

    assert mode() == 0xFF
    for command, expected in ((0xE0, 0x00), (0xE1, 0x80), (0xE2, 0x00), (0xE3, 0x80), (0x94, 0x00), (0x97, 0x80)):
        assert pc.run(command) == 0x50
        assert mode() == expected
    pc.address28(1, 1)
    pc.run(0x40)
    assert mode() == 0xFF
    assert pc.run(0xE6) == 0x50
    pc.outb(COMMAND, 0xE5)
    assert not pc.irq.level, "asleep: only a reset wakes it"
    pc.outb(CONTROL, SRST)
    pc.outb(CONTROL, 0)
    assert mode() == 0xFF


def test_seek_and_recalibrate() -> None:
    pc = Pc(MemoryDisk(100))
    for command in (0x10, 0x1F):
        assert pc.run(command) == 0x50
    pc.address28(99, 0)
    assert pc.run(0x70) == 0x50
    pc.address28(100, 0)
    assert (pc.run(0x70), pc.inb(ERROR)) == (0x51, 0x10)


IMPLEMENTED = {
    0x20, 0x21, 0x24, 0x27, 0x29, 0x30, 0x31, 0x34, 0x39, 0x40, 0x41, 0x42, 0x70, 0x90, 0x91, 0xC4, 0xC5, 0xC6, 0xE5,
    0xE7, 0xEA, 0xEC, 0xEF, 0xF8, *range(0x10, 0x20), *range(0xE0, 0xE4), 0xE6, *range(0x94, 0x9A),
}  # fmt: skip


def test_all_other_commands_abort() -> None:
    pc = Pc(MemoryDisk(100))
    for command in set(range(256)) - IMPLEMENTED:
        pc.outb(COMMAND, command)
        assert pc.irq.level, hex(command)
        assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x51, 0x04), hex(command)
    # NOP, DEVICE RESET, PACKET, IDENTIFY PACKET DEVICE, READ DMA, READ DMA EXT, WRITE DMA, SET MAX, SMART
    assert not {0x00, 0x08, 0xA0, 0xA1, 0xC8, 0x25, 0xCA, 0xF9, 0xB0} & IMPLEMENTED


# Drivers, step by step.


def test_xv6() -> None:
    """Interrupts on, disk 1, and with blocks of two sectors READ/WRITE MULTIPLE with no SET MULTIPLE MODE before."""
    disk = MemoryDisk(1000)
    pc = Pc(MemoryDisk(100), disk)

    def wait() -> int:
        status = pc.inb(STATUS)
        assert status & 0xC0 == 0x40
        return status

    wait()
    pc.outb(DEVICE, 0xE0 | 1 << 4)
    assert pc.inb(STATUS) != 0, "have disk 1"
    pc.outb(DEVICE, 0xE0)

    def start(read: int, write: int, sector: int, count: int, data: bytes | None) -> None:
        wait()
        pc.outb(CONTROL, 0)
        pc.outb(COUNT, count)
        for port, shift in ((LOW, 0), (MID, 8), (HIGH, 16)):
            pc.outb(port, sector >> shift & 0xFF)
        pc.outb(DEVICE, 0xE0 | 1 << 4 | sector >> 24 & 0x0F)
        pc.outb(COMMAND, read if data is None else write)
        if data is not None:
            pc.bus.write_block(DATA, 4, data)

    for read, write, count in ((0x20, 0x30, 1), (0xC4, 0xC5, 2)):
        del pc.edges[:]
        content = random.Random(count).randbytes(512 * count)
        start(read, write, 40, count, content)
        assert pc.edges == [True]
        assert wait() & 0x21 == 0
        start(read, write, 40, count, None)
        assert pc.edges == [True, False, True]
        assert wait() & 0x21 == 0
        assert pc.bus.read_block(DATA, 4, 128 * count) == content
        assert pc.edges == [True, False, True, False]


def test_xv6_without_disk_1() -> None:
    pc = Pc(MemoryDisk(100))
    pc.outb(DEVICE, 0xF0)
    assert all(pc.inb(STATUS) == 0 for _ in range(1000))


def test_jos() -> None:
    """Polling with interrupts left on, several sectors a command."""
    disk = MemoryDisk(1000)
    pc = Pc(MemoryDisk(100), disk)

    def wait_ready() -> None:
        status = pc.inb(STATUS)
        assert status & 0xC0 == 0x40
        assert status & 0x21 == 0

    content = random.Random(1).randbytes(4096)
    for command in (0x30, 0x20):
        wait_ready()
        pc.address28(80, 8, unit=1)
        pc.outb(COMMAND, command)
        for at in range(0, 4096, 512):
            wait_ready()
            if command == 0x30:
                pc.bus.write_block(DATA, 4, content[at : at + 512])
            else:
                assert pc.bus.read_block(DATA, 4, 128) == content[at : at + 512]
    wait_ready()


@pytest.mark.parametrize("present", [(True, True), (True, False), (False, False)])
def test_pintos(present: tuple[bool, bool]) -> None:
    """Detection by register echo and signature, every command ended by exactly one expected interrupt."""
    disks = [MemoryDisk(50) if here else None for here in present]
    pc = Pc(*disks)
    expecting = False
    got = 0

    def serve() -> None:
        """What the interrupt handler does, once for each rising edge."""
        nonlocal got
        rising = pc.edges.count(True)
        del pc.edges[:]
        for _ in range(rising):
            assert expecting, "unexpected interrupt"
            pc.inb(STATUS)
            got += 1

    def select(unit: int) -> None:
        pc.outb(DEVICE, 0xA0 | unit << 4)
        pc.inb(ALTERNATE)

    echo = []
    for unit in (0, 1):
        select(unit)
        for first, second in ((0x55, 0xAA), (0xAA, 0x55), (0x55, 0xAA)):
            pc.outb(COUNT, first)
            pc.outb(LOW, second)
        echo.append((pc.inb(COUNT), pc.inb(LOW)) == (0x55, 0xAA))
    assert echo == [present[0], present[0]], "device 0 echoes for a missing device 1"
    for value in (0, SRST, 0):
        pc.outb(CONTROL, value)
    for unit in (0, 1):
        if echo[unit]:
            select(unit)
            assert (pc.inb(COUNT), pc.inb(LOW)) == (1, 1), "the wait for device 1 ends at once"
            assert not pc.inb(ALTERNATE) & 0x80
    found = []
    for unit in (0, 1):
        select(unit)
        error, mid, high, status = (pc.inb(port) for port in (ERROR, MID, HIGH, STATUS))
        found.append(error == 1 and bool(status & 0x40) and not status & 0x80 and (mid, high) == (0, 0))
    assert found == list(present)
    serve()
    for unit in (unit for unit in (0, 1) if present[unit]):
        got = 0
        select(unit)
        expecting = True
        pc.outb(COMMAND, 0xEC)
        serve()
        assert (got, pc.inb(ALTERNATE) & 0x88) == (1, 0x08)
        assert pc.insw(256)[120:124] == (50).to_bytes(4, "little")
        pc.address28(9, 1, unit)
        pc.outb(COMMAND, 0x30)
        assert pc.inb(ALTERNATE) & 0x88 == 0x08
        serve()
        assert got == 1, "no interrupt before the data"
        pc.outsw(b"pintos!!" * 64)
        serve()
        assert got == 2
        pc.address28(9, 1, unit)
        pc.outb(COMMAND, 0x20)
        serve()
        assert (got, pc.inb(ALTERNATE) & 0x88) == (3, 0x08)
        assert pc.insw(256) == b"pintos!!" * 64
        expecting = False
        serve()


def test_seabios() -> None:
    """Detection by echo and Device register, IDENTIFY PACKET first, polled transfers with nIEN set."""
    disk = MemoryDisk(5000)
    pc = Pc(disk)

    def await_not_busy() -> int:
        pc.inb(ALTERNATE)
        status = pc.inb(STATUS)
        assert not status & 0x80
        return status

    def detected(device: int) -> bool:
        await_not_busy()
        pc.outb(DEVICE, device)
        await_not_busy()
        pc.outb(DEVICE, device)
        read_back = pc.inb(DEVICE)
        pc.outb(COUNT, 0x55)
        pc.outb(LOW, 0xAA)
        return (pc.inb(COUNT), pc.inb(LOW), read_back) == (0x55, 0xAA, device)

    assert detected(0xA0)
    pc.outb(CONTROL, 0x08 | NIEN | SRST)
    pc.outb(CONTROL, 0x08 | NIEN)
    await_not_busy()
    pc.outb(DEVICE, 0xA0)
    pc.outb(CONTROL, 0x08)

    def pio(command: int, data: bytes | None, count: int) -> bytes | None:
        pc.outb(CONTROL, 0x08 | NIEN)
        pc.outb(COMMAND, command)
        status = await_not_busy()
        if status & 0x01 or not status & 0x08:
            pc.outb(CONTROL, 0x08)
            return None
        got = b""
        for at in range(count):
            if data is None:
                got += pc.insw(256)
            else:
                pc.outsw(data[at * 512 : at * 512 + 512])
            if at < count - 1:
                assert await_not_busy() & 0x89 == 0x08
        assert await_not_busy() & 0xA9 == 0
        pc.outb(CONTROL, 0x08)
        return got

    assert pio(0xA1, None, 1) is None
    assert pc.inb(STATUS) != 0, "no ATAPI drive, but a drive"
    assert pio(0xEC, None, 1) is not None
    assert detected(0xB0), "device 0 echoes"
    assert pio(0xA1, None, 1) is None
    assert pc.inb(STATUS) == 0, "no drive"
    content = random.Random(2).randbytes(3 * 512)
    pc.address28(4000, 3)
    assert pio(0x30, content, 3) == b""
    pc.address28(4000, 3)
    assert pio(0x20, None, 3) == content
    assert pc.edges == [], "the BIOS never sees an interrupt"


def test_linux_libata() -> None:
    """pata_legacy: soft reset and classification, PIO mode, SET MULTIPLE, then interrupt-driven 48-bit transfers."""
    disk = MemoryDisk(5000)
    pc = Pc(disk)
    for value in (0x08, 0x08 | SRST, 0x08):
        pc.outb(CONTROL, value)
    classes = []
    for device in (0xA0, 0xB0):
        pc.outb(DEVICE, device)
        pc.inb(ALTERNATE)
        ready = (pc.inb(COUNT), pc.inb(LOW)) == (1, 1)
        signature = (pc.inb(ERROR), pc.inb(MID), pc.inb(HIGH)) == (1, 0, 0)
        classes.append(ready and signature and pc.inb(STATUS) != 0)
    assert classes == [True, False]
    pc.outb(DEVICE, 0xA0)
    words = pc.identify()
    assert not words[49] & 0x0100, "no DMA"
    assert not words[0] & 0x8000
    assert pc.run(0xEF, features=0x03, count=0x0C) == 0x50
    assert pc.run(0xC6, count=words[47] & 0xFF) == 0x50
    content = random.Random(3).randbytes(40 * 512)
    pc.address48(123, 40)
    pc.outb(COMMAND, 0x39)
    assert pc.inb(ALTERNATE) == 0x58
    at = 0
    for sectors in (16, 16, 8):
        pc.outsw(content[at : at + sectors * 512])
        at += sectors * 512
        assert pc.irq.level
        assert pc.inb(ALTERNATE) == (0x58 if at < len(content) else 0x50)
        pc.inb(STATUS)
        assert not pc.irq.level
    pc.address48(123, 40)
    pc.outb(COMMAND, 0x29)
    got = b""
    for sectors in (16, 16, 8):
        assert pc.irq.level
        assert pc.inb(ALTERNATE) == 0x58
        assert pc.inb(STATUS) == 0x58
        got += pc.insw(sectors * 256)
    assert got == content
    assert not pc.irq.level
    assert pc.inb(ALTERNATE) == 0x50


def test_hobby_driver_polling_the_alternate_status() -> None:
    pc = Pc(MemoryDisk(100))
    pc.outb(DEVICE, 0xA0)
    for port in (COUNT, LOW, MID, HIGH):
        pc.outb(port, 0)
    pc.outb(COMMAND, 0xEC)
    assert pc.inb(STATUS) not in (0, 0xFF)
    assert (pc.inb(MID), pc.inb(HIGH)) == (0, 0), "not ATAPI"
    pc.insw(256)
    pc.address28(3, 2)
    pc.outb(COMMAND, 0x20)
    got = b""
    for _ in range(2):
        assert pc.inb(ALTERNATE) & 0x89 == 0x08
        got += pc.insw(256)
    assert got == pattern(3) + pattern(4)


# State.


def test_save_and_restore_in_the_middle_of_a_read() -> None:
    first = Pc(MemoryDisk(5000), MemoryDisk(100))
    first.run(0xC6, count=4)
    first.address48(1000, 6)
    first.outb(COMMAND, 0x29)
    first.insw(3)
    second = Pc(MemoryDisk(5000), MemoryDisk(100))
    first.save_into(second)
    assert second.irq.level
    assert second.inb(STATUS) == 0x58
    assert second.insw(6 * 256) == b"".join(map(pattern, range(1000, 1006)))[6:] + bytes(6)
    assert second.inb(STATUS) == 0x50


def test_save_and_restore_in_the_middle_of_a_write() -> None:
    first = Pc(None, MemoryDisk(5000))
    first.address28(7, 2, unit=1)
    first.run(0x30)
    first.outsw(b"a" * 700)
    first.outb(CONTROL, NIEN | HOB)
    disk = MemoryDisk(5000)
    second = Pc(None, disk)
    second.device.restore(first.device.save())
    first.outsw(b"c" * 512)
    second.outsw(b"b" * 324)
    assert disk.sectors == {8: b"a" * 188 + b"b" * 324}
    assert second.edges == [], "nIEN is part of the state"
    assert second.inb(STATUS) == 0x50


def test_restore_refuses_another_channels_state() -> None:
    one, two = Pc(MemoryDisk(10)), Pc(MemoryDisk(10), MemoryDisk(10))
    for target, state in ((one, two.device.save()), (two, one.device.save()), (one, {})):
        target.refuses(state, "ide0")
    one.refuses(Pc(MemoryDisk(11)).device.save(), "11 sectors")


@pytest.mark.parametrize(
    "change",
    [
        {"reading": b""}, {"reading": bytes(511)}, {"reading": bytes(17 * 512)}, {"reading": bytearray(512)},
        {"writing": bytes(512)}, {"writing": None}, {"current": bytes(6)}, {"previous": [0] * 7}, {"position": 512},
        {"status": 0x50}, {"status": 0xD0}, {"lba": 5001}, {"limit": 5001}, {"limit": 100}, {"remaining": 65537},
        {"block": 0}, {"block": 17}, {"multiple": 3}, {"multiple": 32}, {"heads": 0}, {"sectors": 0}, {"cylinders": 5},
        {"power": 7}, {"pending": 2}, {"pending": True}, {"error": 256}, {"extended": -1}, {"total": 4999},
        {"reading": b"", "writing": bytes(512), "lba": 0}, {"reading": b"", "position": 1, "status": 0x50},
    ],
)  # fmt: skip
def test_restore_refuses_contradictions(change: dict[str, object]) -> None:
    pc = Pc(MemoryDisk(5000))  # 4 cylinders of 16 heads and 63 sectors
    pc.address28(100, 3)
    pc.outb(COMMAND, 0x20)
    state = pc.device.save()
    state["drives"][0].update(change)
    pc.refuses(state, "ATA")


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 1 << 64),
    st.sampled_from([0, 1, 16, 255, 256, 511, 512, 0x50, 0x51, 0x58, 0x71, 4999, 5000]),
    st.binary(max_size=8),
    st.sampled_from([b"", bytes(7), bytes(512), bytes(1024), bytes(8192)]),
    st.lists(st.integers(), max_size=2),
)
ACCESSES = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(st.sampled_from([*range(0x1F0, 0x1F8), 0x3F6]), st.just(0x1F7)),
        st.sampled_from([1, 2, 4, 8]),
        st.one_of(st.integers(0, 255), st.sampled_from(sorted(IMPLEMENTED)), st.integers(0, (1 << 64) - 1)),
        st.sampled_from([0, 0, 0, 1, 300, 5000]),
    ),
    max_size=40,
)


def exercise(pc: Pc, accesses: list[tuple[bool, int, int, int, int]]) -> None:
    """Do whatever accesses; a block where `count` is not 0. All values must fit their width."""
    for write, port, size, number, count in accesses:
        value = number & (1 << 8 * size) - 1
        if write and count:
            pc.bus.write_block(port, size, value.to_bytes(size, "little") * count)
        elif write:
            pc.bus.write(port, size, value)
        elif count:
            assert len(pc.bus.read_block(port, size, count)) == size * count
        else:
            assert 0 <= pc.bus.read(port, size) < 1 << 8 * size
    state = pc.device.save()
    level = pc.irq.level
    pc.device.restore(state)
    assert pc.device.save() == state
    assert pc.irq.level == level


@given(ACCESSES, st.sampled_from([(5000, None), (5000, 3), (None, 5000), (None, None)]), st.booleans())
@settings(max_examples=150)
def test_no_sequence_of_accesses_raises(
    accesses: list[tuple[bool, int, int, int, int]], sizes: tuple[int | None, int | None], read_only: bool
) -> None:
    disks = [None if size is None else MemoryDisk(size, read_only) for size in sizes]
    for disk in disks:
        if disk is not None:
            disk.bad = {2, 77}
    exercise(Pc(*disks), accesses)


@given(
    st.dictionaries(st.sampled_from(sorted(Pc(MemoryDisk(1)).device.save()["drives"][0])), JUNK, max_size=3), ACCESSES
)
@settings(max_examples=150)
def test_restore_of_a_hostile_state_raises_value_error_or_is_harmless(
    junk: dict[str, object], accesses: list[tuple[bool, int, int, int, int]]
) -> None:
    for command in (0x20, 0x30):
        pc = Pc(MemoryDisk(5000))
        pc.address28(100, 3)
        pc.outb(COMMAND, command)
        state = pc.device.save()
        state["drives"][0].update(junk)
        if pc.takes(state):
            exercise(pc, accesses)


@pytest.mark.parametrize("junk", [None, -1, 2, 0x08, "0", [], [None, None], [{}], [{}, {}], [{}, None]])
@pytest.mark.parametrize("field", ["control", "unit", "drives"])
def test_restore_of_a_hostile_channel_state(field: str, junk: object) -> None:
    pc = Pc(MemoryDisk(10))
    state = pc.device.save()
    state[field] = junk
    if (field, junk) == ("control", 2):
        pc.device.restore(state)  # nIEN
        return
    pc.refuses(state, r"ide0|ATA state")


# The whole protocol against an array.

COMMANDS = {  # (write, addressing): commands
    (False, 28): (0x20, 0x21, 0xC4), (False, 48): (0x24, 0x29), (False, 0): (0x20, 0xC4),
    (True, 28): (0x30, 0x31, 0xC5), (True, 48): (0x34, 0x39), (True, 0): (0x30, 0xC5),
}  # fmt: skip


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 4, 8, 16]))
@settings(max_examples=20)
def test_model(seed: int, multiple: int) -> None:
    choose = random.Random(seed)
    total = 1008  # one cylinder of 16 heads and 63 sectors, so that each sector has a CHS address
    disks = MemoryDisk(total), MemoryDisk(total)
    models = [bytearray(b"".join(map(pattern, range(total)))) for _ in disks]
    pc = Pc(*disks)
    for unit in (0, 1):
        pc.outb(DEVICE, unit << 4)
        assert pc.run(0xC6, count=multiple) == 0x50
    for _ in range(20):
        unit, write, kind = choose.randrange(2), choose.random() < 0.5, choose.choice((0, 28, 48))
        command = choose.choice(COMMANDS[write, kind])
        count = choose.choice((1, 1, 2, 7, 33, 256))
        lba = choose.randrange(total - count + 1)
        if kind == 48:
            pc.address48(lba, count, unit)
        elif kind == 28:
            pc.address28(lba, count, unit)
        else:
            pc.chs(0, lba // 63, lba % 63 + 1, count)
            pc.outb(DEVICE, 0xA0 | unit << 4 | lba // 63)
        assert pc.run(command) == 0x58
        span = slice(lba * SECTOR, (lba + count) * SECTOR)
        size = choose.choice((1, 2, 4))
        left = count * SECTOR
        if write:
            models[unit][span] = data = choose.randbytes(left)
        got = b""
        while left:
            some = min(left, choose.randrange(size, 6000, size))
            if write:
                pc.bus.write_block(DATA, size, data[-left:][:some])
            else:
                got += pc.bus.read_block(DATA, size, some // size)
            left -= some
            assert pc.inb(STATUS) == (0x58 if left else 0x50)
        if not write:
            assert got == models[unit][span]
    for disk, model in zip(disks, models, strict=True):
        assert disk.read_at(0, disk.size) == model


# The whole way to a file.

WRITER = """
import sys
from pykvm.device import IrqLine
from pykvm.devices.ata import PRIMARY, AtaChannel
from pykvm.disk.raw import RawDisk

channel = AtaChannel("ide0", *PRIMARY, IrqLine(lambda level: None), RawDisk(sys.argv[1]))
for sector in range(20):
    for offset, value in (6, 0xE0), (2, 1), (3, sector), (4, 0), (5, 0), (7, 0x30):
        channel.write(offset, 1, value)
    channel.write_block(0, 2, bytes([sector + 1]) * 512)
channel.write(7, 1, 0xE7)
print(channel.read(7, 1), flush=True)
sys.stdin.read()
"""


def test_what_was_flushed_survives_sigkill(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(20 * SECTOR))
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        status = child.stdout.readline()
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert int(status) == 0x50
    assert image.read_bytes() == b"".join(bytes([sector + 1]) * 512 for sector in range(20))
    RawDisk(image).close()  # the lock went with the process


def test_image_that_shrinks_under_the_guest(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"x" * (10 * SECTOR))
    disk = RawDisk(image)
    channel = AtaChannel("ide0", *PRIMARY, Line(), disk)
    image.write_bytes(b"x" * (5 * SECTOR))
    for offset, value in (6, 0xE0), (2, 2), (3, 4), (4, 0), (5, 0), (7, 0x20):
        channel.write(offset, 1, value)
    assert channel.read_block(0, 2, 256) == b"x" * 512
    assert (channel.read(7, 1), channel.read(1, 1), channel.read(3, 1)) == (0x51, 0x40, 5)
    disk.close()
