"""A CD-ROM drive against ATA/ATAPI-6, SFF-8020i and MMC-4: signature, PACKET protocol, answers, sense, tray, state."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from ata_rig import COMMAND, CONTROL, COUNT, DATA, DEVICE, ERROR, FEATURES, HIGH, MID, SRST, STATUS, Pc
from ata_rig import MemoryDisk as AtaDisk
from device_rig import Line, Rig
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.cdrom import CdRom
from pykvm.devices.ata import PRIMARY, AtaChannel
from pykvm.disk.memory import MemoryDisk
from pykvm.disk.tray import Tray
from pykvm.errors import ConfigError

BLOCK = 2048


def disc(blocks: int) -> MemoryDisk:
    """A medium whose blocks tell their numbers."""
    return MemoryDisk(b"".join(number.to_bytes(4, "big") * 512 for number in range(blocks)))


class Drive(Pc):
    """A bus with a CD-ROM drive as device 0 of the primary channel, alone unless there is a disk as device 1."""

    def __init__(self, medium: MemoryDisk | None, slave: AtaDisk | None = None) -> None:
        irq = Line()
        self.tray = Tray(medium)
        Rig.__init__(self, AtaChannel("ide0", *PRIMARY, irq, None, slave, trays={0: self.tray}), irq)
        (self.drive,) = self.device.cd_drives

    def begin(self, packet: bytes, limit: int = 0xFFFE) -> None:
        """PACKET and its 12 bytes."""
        self.outb(FEATURES, 0)
        self.outb(MID, limit & 0xFF)
        self.outb(HIGH, limit >> 8)
        self.outb(COMMAND, 0xA0)
        assert (self.inb(STATUS), self.inb(COUNT)) == (0x58, 1), "it wants the packet"
        self.outs(DATA, packet.ljust(12, b"\0"), 2)

    def packet(self, *packet: int, limit: int = 0xFFFE) -> bytes:
        """What a command answers, block by block."""
        self.begin(bytes(packet), limit)
        data = b""
        while self.inb(STATUS) == 0x58:
            assert self.inb(COUNT) == 2, "data for the host"
            size = self.inb(MID) | self.inb(HIGH) << 8
            assert 0 < size <= limit
            data += self.ins(DATA, (size + 1) // 2, 2)[:size]
        assert self.inb(COUNT) == 3
        return data

    def sense(self) -> tuple[int, int, int]:
        """What REQUEST SENSE tells."""
        data = self.packet(3, 0, 0, 0, 18)
        assert (len(data), data[0], data[7]) == (18, 0x70, 10)
        return data[2], data[12], data[13]

    def fails(self, *packet: int) -> tuple[int, int, int]:
        """The sense of a command that ends in CHECK CONDITION."""
        assert self.packet(*packet) == b""
        assert self.inb(STATUS) == 0x51
        key = self.inb(ERROR) >> 4
        sense = self.sense()
        assert sense[0] == key
        assert self.sense() == (0, 0, 0), "it is told once"
        return sense

    def read(self, block: int, count: int, limit: int = 0xFFFE) -> bytes:
        return self.packet(0x28, 0, *block.to_bytes(4, "big"), 0, *count.to_bytes(2, "big"), limit=limit)


@pytest.fixture
def drive() -> Drive:
    return Drive(disc(100))


SIGNATURE = (1, 1, 0x14, 0xEB)


def test_signature_after_power_on_reset_and_identify_device(drive: Drive) -> None:
    assert (drive.registers(), drive.inb(STATUS), drive.inb(DEVICE)) == (SIGNATURE, 0, 0)
    drive.read(3, 1)
    drive.outb(CONTROL, SRST)
    drive.outb(CONTROL, 0)
    assert (drive.registers(), drive.inb(STATUS), drive.inb(ERROR)) == (SIGNATURE, 0, 1)
    for code in (0xEC, 0x20):
        drive.outb(MID, 0)
        drive.outb(HIGH, 0)
        assert (drive.run(code), drive.inb(ERROR)) == (0x51, 4)
        assert drive.registers() == SIGNATURE
    drive.outb(MID, 7)
    assert drive.run(0x08) == 0, "DEVICE RESET"
    assert drive.registers() == SIGNATURE
    rises = drive.rises
    drive.outb(COMMAND, 0x90)
    assert drive.rises == rises + 1
    assert (drive.registers(), drive.inb(STATUS), drive.inb(ERROR)) == (SIGNATURE, 0, 1)


def test_a_missing_device_1_has_no_signature(drive: Drive) -> None:
    drive.outb(DEVICE, 0x10)
    assert [drive.inb(port) for port in range(ERROR, STATUS + 1)] == [0] * 7


def test_a_disk_beside_it() -> None:
    drive = Drive(disc(10), AtaDisk(100))
    drive.outb(DEVICE, 0xB0)
    assert drive.identify()[93] == 0x4B00
    drive.outb(DEVICE, 0xA0)
    assert drive.read(9, 1) == (9).to_bytes(4, "big") * 512


def test_identify_packet_device(drive: Drive) -> None:
    rises = drive.rises
    assert drive.run(0xA1) == 0x58
    data = drive.insw(256)
    assert drive.inb(STATUS) == 0x50
    assert drive.rises == rises + 1, "none at the end"
    words = struct.unpack("<256H", data)
    assert (words[0], words[49] & 0x0300, words[125]) == (0x85C0, 0x0200, 0)
    assert b"".join(struct.pack(">H", word) for word in words[27:47]).rstrip() == b"PYKVM CD-ROM"
    assert sum(data) & 0xFF == 0
    assert drive.run(0xEF, features=0x03, count=0x0C) == 0x50
    assert drive.run(0xEF, features=0x03, count=0x20) == 0x51, "no DMA"
    assert drive.run(0xC8) == 0x51


@pytest.mark.parametrize("limit", [0xFFFF, 0xFFFE, 4096, 2048, 2000, 600, 2])
def test_read_in_blocks_of_the_byte_count_limit(drive: Drive, limit: int) -> None:
    rises = drive.rises
    assert drive.read(10, 3, limit) == b"".join(number.to_bytes(4, "big") * 512 for number in (10, 11, 12))
    assert drive.inb(STATUS) == 0x50
    assert drive.rises - rises == -(-3 * BLOCK // min(limit, 0xFFFE)) + 1, "one a block, and one at the end"


def test_an_odd_limit_is_rounded_down_and_none_is_refused(drive: Drive) -> None:
    drive.begin(bytes((0x28, 0, 0, 0, 0, 1, 0, 0, 1)), 2047)
    assert drive.registers()[2:] == (2046 & 0xFF, 2046 >> 8)
    drive.begin(bytes((0x28, 0, 0, 0, 0, 1, 0, 0, 1)), 0)
    assert (drive.inb(STATUS), drive.inb(ERROR)) == (0x51, 4)
    drive.begin(bytes(12), 0)
    assert drive.inb(STATUS) == 0x50, "TEST UNIT READY has no data"


def test_dma_and_overlap_are_refused(drive: Drive) -> None:
    for features in (1, 2):
        assert (drive.run(0xA0, features=features), drive.inb(ERROR)) == (0x51, 4)


def test_read_12_seek_capacity_and_the_end(drive: Drive) -> None:
    assert drive.packet(0x25) == struct.pack(">II", 99, BLOCK)
    assert drive.packet(0xA8, 0, 0, 0, 0, 99, 0, 0, 0, 1)[:4] == bytes((0, 0, 0, 99))
    assert drive.read(99, 0) == b""
    assert drive.inb(STATUS) == 0x50
    assert drive.fails(0x28, 0, 0, 0, 0, 99, 0, 0, 2) == (5, 0x21, 0)
    assert drive.fails(0xA8, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF) == (5, 0x21, 0)
    assert drive.packet(0x2B, 0, 0, 0, 0, 99) == b""
    assert drive.fails(0x2B, 0, 0, 0, 0, 100) == (5, 0x21, 0)
    assert Drive(MemoryDisk(bytes(2048) + b"x" * 512)).read(1, 1) == b"x" * 512 + bytes(1536), "a short last block"


def test_a_bad_medium() -> None:
    class Scratched(MemoryDisk):
        def read_at(self, offset: int, length: int) -> bytes:
            if offset + length > 3 * BLOCK:
                raise OSError("it is scratched")
            return super().read_at(offset, length)

    drive = Drive(Scratched(bytes(9 * BLOCK)))
    drive.begin(bytes((0x28, 0, 0, 0, 0, 2, 0, 0, 2)), BLOCK)
    assert drive.insw(BLOCK // 2) == bytes(BLOCK)
    assert (drive.inb(STATUS), drive.inb(ERROR)) == (0x51, 0x30)
    assert drive.sense() == (3, 0x11, 0)


def test_inquiry_and_what_is_not_there(drive: Drive) -> None:
    data = drive.packet(0x12, 0, 0, 0, 96)
    assert (len(data), data[:5]) == (36, bytes((5, 0x80, 0, 0x21, 31)))
    assert drive.packet(0x12, 0, 0, 0, 5) == data[:5], "an odd number of bytes"
    assert drive.packet(0x12) == b""
    assert drive.fails(0x12, 1, 0, 0, 96) == (5, 0x24, 0)
    assert drive.fails(0x2A) == (5, 0x20, 0), "WRITE (10)"


def test_table_of_contents(drive: Drive) -> None:
    track, end = bytes((0, 0x14, 1, 0)), bytes((0, 0x14, 0xAA, 0))
    head = bytes((0, 18, 1, 1))
    assert drive.packet(0x43, 0, 0, 0, 0, 0, 0, 0, 99) == head + track + bytes(4) + end + bytes((0, 0, 0, 100))
    msf = bytes((0, 0, 2, 0)), bytes((0, 0, 3, 25))  # 150 and 250 frames
    assert drive.packet(0x43, 2, 0, 0, 0, 0, 1, 0, 99) == head + track + msf[0] + end + msf[1]
    assert drive.packet(0x43, 2, 0, 0, 0, 0, 0xAA, 0, 99) == bytes((0, 10, 1, 1)) + end + msf[1]
    assert drive.packet(0x43, 0, 1, 0, 0, 0, 0, 0, 99) == bytes((0, 10, 1, 1)) + track + bytes(4)
    assert drive.packet(0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40) == bytes((0, 10, 1, 1)) + track + bytes(4)
    whole = drive.packet(0x43, 2, 2, 0, 0, 0, 0, 0, 99)
    assert (whole[:4], len(whole)) == (bytes((0, 46, 1, 1)), 48)
    assert [whole[at + 3] for at in range(4, 48, 11)] == [0xA0, 0xA1, 0xA2, 1]
    assert drive.fails(0x43, 0, 0, 0, 0, 0, 2, 0, 99) == (5, 0x24, 0)
    assert drive.fails(0x43, 0, 5, 0, 0, 0, 0, 0, 99) == (5, 0x24, 0)


def test_mode_sense(drive: Drive) -> None:
    page = drive.packet(0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 99)
    assert (page[:3], page[8:10], len(page)) == (bytes((0, 26, 1)), bytes((0x2A, 18)), 28)
    assert page[8 + 6] == 0x29
    drive.packet(0x1E, 0, 0, 0, 1)
    assert drive.packet(0x1A, 0, 0x2A, 0, 99)[4 + 6] == 0x2B, "locked"
    assert len(drive.packet(0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 99)) == 8 + 8 + 20
    assert drive.fails(0x5A, 0, 0x0E, 0, 0, 0, 0, 0, 99) == (5, 0x24, 0)
    assert drive.fails(0x5A, 0, 0xEA, 0, 0, 0, 0, 0, 99) == (5, 0x39, 0)


def test_configuration_and_disc_information(drive: Drive) -> None:
    data = drive.packet(0x46, 0, 0, 0, 0, 0, 0, 1, 0)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert data[6:8] == bytes((0, 8)), "a CD-ROM"
    assert drive.packet(0x46, 2, 0, 0x1E, 0, 0, 0, 1, 0)[8:12] == bytes((0, 0x1E, 0x09, 4)), "the one, current"
    assert Drive(None).packet(0x46, 0, 0, 0, 0, 0, 0, 1, 0)[6:8] == bytes(2)
    assert drive.fails(0x46, 3, 0, 0, 0, 0, 0, 1, 0) == (5, 0x24, 0)
    data = drive.packet(0x51, 0, 0, 0, 0, 0, 0, 0, 99)
    assert (len(data), data[:7]) == (34, bytes((0, 32, 0x0E, 1, 1, 1, 1)))
    assert drive.packet(0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8) == bytes(8)


# The tray


class Lock:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def host(drive: Drive) -> CdRom:
    return CdRom(Lock(), drive.drive)  # type: ignore[arg-type]


EVENT = (0x4A, 1, 0, 0, 0x10, 0, 0, 0, 99)


def test_change_of_the_medium_by_the_host(drive: Drive) -> None:
    cdrom = host(drive)
    assert drive.packet(*EVENT) == bytes((0, 6, 4, 0x10, 0, 2, 0, 0))
    cdrom.eject()
    assert cdrom.is_open
    assert cdrom.medium is None
    assert drive.packet(*EVENT) == bytes((0, 6, 4, 0x10, 3, 1, 0, 0)), "removal"
    assert drive.fails(0) == (2, 0x3A, 2)
    assert drive.fails(0x28, 0, 0, 0, 0, 0, 0, 0, 1) == (2, 0x3A, 2)
    cdrom.insert(disc(7))
    assert drive.packet(*EVENT) == bytes((0, 6, 4, 0x10, 2, 2, 0, 0)), "a new medium"
    assert len(drive.packet(0x12, 0, 0, 0, 96)) == 36, "INQUIRY is not held up"
    assert drive.fails(0) == (6, 0x28, 0)
    assert drive.packet(0) == b""
    assert drive.inb(STATUS) == 0x50
    assert drive.packet(0x25)[:4] == bytes((0, 0, 0, 6))
    cdrom.insert(disc(8))
    assert drive.sense() == (6, 0x28, 0), "told by REQUEST SENSE as well"
    assert drive.packet(0x25)[:4] == bytes((0, 0, 0, 7))


def test_the_guest_ejects_loads_and_locks(drive: Drive) -> None:
    cdrom = host(drive)
    drive.packet(0x1E, 0, 0, 0, 1)
    assert drive.fails(0x1B, 0, 0, 0, 2) == (5, 0x53, 2)
    with pytest.raises(ConfigError, match="locked"):
        cdrom.eject()
    with pytest.raises(ConfigError, match="locked"):
        cdrom.insert(disc(3))
    assert drive.packet(*EVENT)[4] == 1, "somebody pressed the button"
    drive.packet(0x1E)
    drive.packet(0x1B, 0, 0, 0, 2)
    assert cdrom.is_open
    assert drive.fails(0) == (2, 0x3A, 2)
    drive.packet(0x1B, 0, 0, 0, 3)
    assert not cdrom.is_open
    assert drive.fails(0) == (6, 0x28, 0)
    drive.packet(0x1E, 0, 0, 0, 1)
    cdrom.eject(force=True)
    assert cdrom.medium is None
    drive.packet(0x1B, 0, 0, 0, 3)
    assert drive.fails(0) == (2, 0x3A, 1)


def test_events_are_polled(drive: Drive) -> None:
    assert drive.fails(0x4A, 0, 0, 0, 0x10, 0, 0, 0, 99) == (5, 0x24, 0)
    assert drive.packet(0x4A, 1, 0, 0, 0x40, 0, 0, 0, 99) == bytes((0, 2, 0x80, 0x10))


# State


BEGINNINGS: dict[str, Callable[[Drive], object]] = {
    "idle": lambda drive: None,
    "packet": lambda drive: (drive.outb(COMMAND, 0xA0), drive.outs(DATA, b"\x28\0\0\0\0", 1)),
    "read": lambda drive: (drive.begin(bytes((0x28, 0, 0, 0, 0, 1, 0, 0, 5)), 3000), drive.insw(99)),
    "answer": lambda drive: (drive.begin(bytes((0x12, 0, 0, 0, 96)), 10), drive.insw(3)),
    "identify": lambda drive: (drive.run(0xA1), drive.insw(3)),
    "sense": lambda drive: drive.packet(0x2A),
    "changed": lambda drive: host(drive).insert(disc(100)),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_save_and_restore_in_the_middle(drive: Drive, name: str) -> None:
    BEGINNINGS[name](drive)
    other = Drive(disc(100))
    drive.save_into(other)
    for each in (drive, other):
        if name == "packet":
            each.outs(DATA, bytes((1, 0, 0, 1, 0, 0, 0)), 1)
    assert [drive.insw(600) for _ in range(20)] == [other.insw(600) for _ in range(20)]
    assert [drive.inb(port) for port in range(ERROR, STATUS + 1)] == [
        other.inb(port) for port in range(ERROR, STATUS + 1)
    ]
    assert drive.sense() == other.sense()


def test_a_state_of_another_medium_is_refused(drive: Drive) -> None:
    Drive(disc(99)).refuses(drive.device.save(), "100 blocks")
    Drive(None).refuses(drive.device.save(), "100 blocks")
    Pc(AtaDisk(10)).refuses(drive.device.save(), "ATA")


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 1 << 44), st.sampled_from([0, 1, 0x50, 0x58, 0xFFFE, 100, 100 * BLOCK]),
    st.binary(max_size=13), st.sampled_from([b"", bytes(7), bytes(3000)]), st.lists(st.integers(0, 6), max_size=3),
)  # fmt: skip


@given(
    st.sampled_from(sorted(BEGINNINGS)),
    st.dictionaries(st.sampled_from(sorted(Drive(None).drive.save())), JUNK, max_size=3),
    st.lists(st.sampled_from([0x25, 0x28, 0x03, 0x43, 0x1B, 0xFF]), max_size=3),
)
@settings(max_examples=150)
def test_a_hostile_state_is_refused_or_harmless(name: str, junk: dict[str, object], commands: list[int]) -> None:
    drive = Drive(disc(100))
    BEGINNINGS[name](drive)
    state = drive.device.save()
    state["drives"][0].update(junk)
    if drive.takes(state):
        assert drive.device.save() == state
        for _ in range(10):
            drive.insw(5000)
        for command in commands:
            drive.packet(command, 2, 0, 0, 0, 1, 0, 0, 40)
