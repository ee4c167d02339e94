"""ATA/ATAPI-6 section 6.2: addresses, and where a transfer stops that leaves the disk or meets a bad sector."""

from __future__ import annotations

import pytest
from ata_rig import COMMAND, CONTROL, DEVICE, ERROR, HOB, STATUS, MemoryDisk, Pc, pattern

# -- Addresses --------------------------------------------------------------------------------------------------------


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


# -- Errors of the host -----------------------------------------------------------------------------------------------


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
