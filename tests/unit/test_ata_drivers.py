"""What ATA drivers in the wild do, step by step."""

from __future__ import annotations

import random

import pytest
from ata_rig import (
    ALTERNATE,
    COMMAND,
    CONTROL,
    COUNT,
    DATA,
    DEVICE,
    ERROR,
    HIGH,
    LOW,
    MID,
    NIEN,
    SRST,
    STATUS,
    MemoryDisk,
    Pc,
    pattern,
)


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
