"""ATA/ATAPI-6 section 9.1, 9.2, 9.10, 9.16: which devices are there, resets, and the signature."""

from __future__ import annotations

import pytest
from ata_rig import ALTERNATE, COMMAND, CONTROL, COUNT, DEVICE, ERROR, LOW, SRST, STATUS, MemoryDisk, Pc
from device_rig import bus_with

from pykvm.device import IrqLine
from pykvm.devices.ata import PRIMARY, SECONDARY, AtaChannel
from pykvm.errors import ConfigError


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
