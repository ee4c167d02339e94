"""ATA/ATAPI-6 sections 9.5 and 9.6: the PIO protocols, interrupts, DRQ blocks and widths of access."""

from __future__ import annotations

import pytest
from ata_rig import ALTERNATE, COMMAND, CONTROL, COUNT, DATA, DEVICE, ERROR, NIEN, STATUS, MemoryDisk, Pc, pattern

# -- PIO data-in: INTRQ before each DRQ block, none after the last ----------------------------------------------------


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


# -- Widths of access -------------------------------------------------------------------------------------------------


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
