"""ATA/ATAPI-6 sections 8 and 9.4: commands without data."""

from __future__ import annotations

import pytest
from ata_rig import COMMAND, CONTROL, COUNT, ERROR, IMPLEMENTED, SRST, STATUS, MemoryDisk, Pc


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


def test_all_other_commands_abort() -> None:
    pc = Pc(MemoryDisk(100))
    for command in set(range(256)) - IMPLEMENTED:
        pc.outb(COMMAND, command)
        assert pc.irq.level, hex(command)
        assert (pc.inb(STATUS), pc.inb(ERROR)) == (0x51, 0x04), hex(command)
    # NOP, DEVICE RESET, PACKET, IDENTIFY PACKET DEVICE, READ DMA, READ DMA EXT, WRITE DMA, SET MAX, SMART
    assert not {0x00, 0x08, 0xA0, 0xA1, 0xC8, 0x25, 0xCA, 0xF9, 0xB0} & IMPLEMENTED
