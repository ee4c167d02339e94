"""INT 13h against the IBM PC/AT Technical Reference and the EDD specification 3.0."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from bios_calls import BOOT_SECTOR, CARRY, Pc
from hypothesis import given
from hypothesis import strategies as st

from pykvm.bios.disk import Drive, Geometry, floppy, guess_geometry, hard_disk
from pykvm.disk import Disk
from pykvm.disk.memory import MemoryDisk

BUFFER = 0x20000
SECTORS = 20 * 16 * 63


def numbered(sectors: int) -> bytes:
    """A disk whose sectors begin with their numbers, and the first of which can be started from."""
    disk = bytearray(512 * sectors)
    for number in range(sectors):
        struct.pack_into("<I", disk, 512 * number, number)
    disk[510:512] = b"\x55\xaa"
    return bytes(disk)


class ReadOnlyDisk(MemoryDisk):
    def write_at(self, offset: int, data: bytes) -> None:
        raise PermissionError


class BrokenDisk(MemoryDisk):
    def read_at(self, offset: int, length: int) -> bytes:
        raise OSError("the host's disk is full of sand")


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(numbered(SECTORS))


@pytest.fixture
def pc(disk: MemoryDisk) -> Pc:
    return Pc([hard_disk(0, disk)])


def chs(cylinder: int, head: int, sector: int, drive: int = 0x80) -> dict[str, int]:
    return {"ecx": (cylinder & 0xFF) << 8 | cylinder >> 8 << 6 | sector, "edx": head << 8 | drive}


def packet(pc: Pc, count: int, block: int, segment: int = 0x2000, offset: int = 0, size: int = 16) -> dict[str, int]:
    pc.memory.write(0x600, struct.pack("<HHHHQ", size, count, offset, segment, block))
    return {"ds": 0x50, "esi": 0x100, "edx": 0x80}


def test_read_by_chs(pc: Pc) -> None:
    call = pc.call(0x13, eax=0x0203, es=0x2000, ebx=0, **chs(19, 15, 61))
    assert (call.ah, call.al, call.carry) == (0, 3, False)
    first = (19 * 16 + 15) * 63 + 60
    assert [pc.memory.read_int(BUFFER + 512 * at, 4) for at in range(4)] == [first, first + 1, first + 2, 0]


def test_cylinder_has_ten_bits() -> None:
    pc = Pc([hard_disk(0, MemoryDisk(numbered(300 * 16 * 63)))])
    pc.call(0x13, eax=0x0201, es=0x2000, **chs(299, 0, 1))
    assert pc.memory.read_int(BUFFER, 4) == 299 * 16 * 63


@pytest.mark.parametrize(
    ("eax", "address", "status"),
    [
        (0x0201, chs(20, 0, 1), 0x04),
        (0x0201, chs(0, 16, 1), 0x04),
        (0x0201, chs(0, 0, 0), 0x04),
        (0x0200, chs(0, 0, 1), 0x01),
        (0x0281, chs(0, 0, 1), 0x01),
        (0x0201, chs(0, 0, 1, 0x81), 0x01),
        (0x0201, chs(0, 0, 1, 0x00), 0x80),
        (0x7F00, chs(0, 0, 1), 0x01),
        (0x0501, chs(0, 0, 1), 0x01),
    ],
)
def test_errors(pc: Pc, eax: int, address: dict[str, int], status: int) -> None:
    before = pc.memory.read(BUFFER, 0x11000)
    call = pc.call(0x13, eax=eax, es=0x2000, **address)
    assert (call.ah, call.carry) == (status, True)
    assert call.al == (0 if eax >> 8 == 2 and address["edx"] & 0xFF == 0x80 else eax & 0xFF)
    assert pc.memory.read(BUFFER, 0x11000) == before
    last = pc.call(0x13, eax=0x0100, edx=address["edx"])
    assert (last.ah, last.carry) == (status, True)


def test_reset_clears_the_status(pc: Pc) -> None:
    pc.call(0x13, eax=0x0201, **chs(0, 99, 1))
    assert not pc.call(0x13, eax=0, edx=0x80, flags=CARRY).carry
    assert pc.call(0x13, eax=0x0100, edx=0x80).ah == 0


def test_write_reaches_the_disk(pc: Pc, disk: MemoryDisk) -> None:
    pc.memory.write(BUFFER, b"\x5a" * 1024)
    call = pc.call(0x13, eax=0x0302, es=0x2000, **chs(1, 2, 3))
    assert (call.ah, call.al, call.carry) == (0, 2, False)
    at = ((1 * 16 + 2) * 63 + 2) * 512
    assert disk.read_at(at, 1024) == b"\x5a" * 1024
    assert disk.read_at(at + 1024, 4) != b"\x5a" * 4


def test_write_protected() -> None:
    pc = Pc([hard_disk(0, ReadOnlyDisk(numbered(1008)))])
    assert pc.call(0x13, eax=0x0301, **chs(0, 0, 1)).ah == 0x03
    assert pc.call(0x13, eax=0x4300, **packet(pc, 1, 0)).ah == 0x03


def test_host_error() -> None:
    pc = Pc([hard_disk(0, BrokenDisk(numbered(1008)))])
    assert pc.call(0x13, eax=0x0201, **chs(0, 0, 1)).ah == 0x20


def test_verify_moves_nothing(pc: Pc) -> None:
    assert pc.call(0x13, eax=0x0401, es=0x2000, **chs(0, 0, 2)).ah == 0
    assert pc.memory.read(BUFFER, 512) == bytes(512)
    assert pc.call(0x13, eax=0x0401, **chs(0, 99, 2)).ah == 4


def test_buffer_outside_memory() -> None:
    pc = Pc(memory="1M")
    call = pc.call(0x13, eax=0x0201, es=0xFFFF, ebx=0x0010, **chs(0, 0, 1))
    assert (call.ah, call.al, call.carry) == (0x09, 0, True)
    assert pc.call(0x13, eax=0x4200, **packet(pc, 1, 0, 0xFFFF, 0x10)).ah == 0x09


def test_parameters(pc: Pc) -> None:
    call = pc.call(0x13, eax=0x0800, edx=0x80)
    assert (call.ch, call.cl, call.dh, call.dl, call.ah, call.carry) == (19, 63, 15, 1, 0, False)


def test_parameters_of_a_large_disk_end_at_cylinder_1023() -> None:
    pc = Pc([Drive(0x80, MemoryDisk(BOOT_SECTOR), Geometry(1024, 255, 63))])
    call = pc.call(0x13, eax=0x0800, edx=0x80)
    assert (call.ch, call.cl, call.dh) == (0xFF, 0xC0 | 63, 254)


def test_kind_of_drive(pc: Pc) -> None:
    call = pc.call(0x13, eax=0x1500, edx=0x80)
    assert (call.ah, call.cx << 16 | call.dx, call.carry) == (3, SECTORS, False)
    assert pc.call(0x13, eax=0x1500, edx=0x81).ah == 0


def test_floppy() -> None:
    disk = MemoryDisk(numbered(2880))
    pc = Pc([floppy(0, disk)], boot=0)
    call = pc.call(0x13, eax=0x0800, edx=0x00)
    assert (call.ch, call.cl, call.dh, call.dl, call.bl) == (79, 18, 1, 1, 4)
    assert (call.es, call.di) == (0xF000, 0xEFC7)
    pc.call(0x13, eax=0x0201, es=0x2000, **chs(79, 1, 18, 0))
    assert pc.memory.read_int(BUFFER, 4) == 2879
    assert pc.call(0x13, eax=0x1500, edx=0).ah == 1
    assert pc.call(0x13, eax=0x4100, ebx=0x55AA, edx=0).carry, "a floppy has no extensions"
    assert pc.call(0x13, eax=0x0500, **chs(1, 0, 1, 0)).ah == 0
    assert disk.read_at(36 * 512, 18 * 512) == b"\xf6" * (18 * 512), "formatted"


@pytest.mark.parametrize(
    ("kib", "geometry"),
    [(360, (40, 2, 9)), (720, (80, 2, 9)), (1200, (80, 2, 15)), (1440, (80, 2, 18)), (2880, (80, 2, 36))],
)
def test_floppy_sizes(kib: int, geometry: tuple[int, int, int]) -> None:
    assert floppy(0, MemoryDisk(bytes(kib << 10))).geometry == geometry
    cylinders, heads, sectors = geometry
    assert cylinders * heads * sectors * 512 == kib << 10


def test_extensions_are_there(pc: Pc) -> None:
    call = pc.call(0x13, eax=0x4100, ebx=0x55AA, edx=0x80)
    assert (call.bx, call.cx & 1, call.ah, call.carry) == (0xAA55, 1, 0x30, False)
    assert pc.call(0x13, eax=0x4100, ebx=0, edx=0x80).carry


def test_extended_read_and_write(pc: Pc, disk: MemoryDisk) -> None:
    call = pc.call(0x13, eax=0x4200, **packet(pc, 2, SECTORS - 2))
    assert (call.ah, call.carry) == (0, False)
    assert pc.memory.read_int(BUFFER + 512, 4) == SECTORS - 1
    assert pc.call(0x13, eax=0x4300, **packet(pc, 1, 7)).ah == 0
    assert disk.read_at(7 * 512, 4) == struct.pack("<I", SECTORS - 2)
    assert pc.call(0x13, eax=0x4400, **packet(pc, 1, 7)).ah == 0


def test_flat_address(pc: Pc) -> None:
    registers = packet(pc, 1, 9, 0xFFFF, 0xFFFF, size=24)
    pc.memory.write_int(0x610, 8, 0x123400)
    assert pc.call(0x13, eax=0x4200, **registers).ah == 0
    assert pc.memory.read_int(0x123400, 4) == 9


@pytest.mark.parametrize(
    ("count", "block", "size", "status"),
    [
        (1, SECTORS, 16, 0x04),
        (1, (1 << 64) - 1, 16, 0x04),
        (128, 0, 16, 0x01),
        (0xFFFF, 0, 16, 0x01),
        (1, 0, 15, 0x01),
    ],
)
def test_packet_errors(pc: Pc, count: int, block: int, size: int, status: int) -> None:
    call = pc.call(0x13, eax=0x4200, **packet(pc, count, block, size=size))
    assert (call.ah, call.carry) == (status, True)
    if status == 0x04:
        assert pc.word(0x602) == 0, "the packet's count says how many sectors were moved"


def test_what_there_is_before_the_end_is_transferred_before_the_error(pc: Pc) -> None:
    """The geometry that the image has is smaller than the image: the end is the image's."""
    call = pc.call(0x13, eax=0x4200, **packet(pc, 3, SECTORS - 2, 0x2000))
    assert (call.ah, call.carry, pc.word(0x602)) == (0x04, True, 2)
    assert [pc.memory.read_int(BUFFER + 512 * at, 4) for at in range(3)] == [SECTORS - 2, SECTORS - 1, 0]
    call = pc.call(0x13, eax=0x4300, **packet(pc, 2, SECTORS - 1, 0x3000))
    assert (call.ah, pc.word(0x602)) == (0x04, 1)


@pytest.mark.parametrize("make", [floppy, hard_disk])
def test_a_short_image_is_followed_by_zeros_up_to_the_end_of_its_geometry(make: Callable[[int, Disk], Drive]) -> None:
    drive = make(0, MemoryDisk(numbered(3)))
    pc = Pc([drive], boot=drive.number)
    cylinders, heads, sectors = drive.geometry
    pc.memory.write(BUFFER, b"x" * 512 * 4)
    call = pc.call(0x13, eax=0x0204, es=0x2000, **chs(0, 0, 2, drive.number))
    assert (call.ah, call.al, call.carry) == (0, 4, False)
    assert [pc.memory.read_int(BUFFER + 512 * at, 4) for at in range(4)] == [1, 2, 0, 0]
    assert pc.memory.read(BUFFER + 1024, 1024) == bytes(1024)
    last = chs(cylinders - 1, heads - 1, sectors, drive.number)
    assert pc.call(0x13, eax=0x0201, es=0x2000, **last).ah == 0
    call = pc.call(0x13, eax=0x0202, es=0x2000, **last)
    assert (call.ah, call.al, call.carry) == (0x04, 1, True)
    call = pc.call(0x13, eax=0x0302, es=0x2000, **chs(0, 0, 3, drive.number))
    assert (call.ah, call.al) == (0x04, 1), "an image does not grow"


def test_extended_parameters(pc: Pc) -> None:
    pc.memory.write_int(0x600, 2, 26)
    call = pc.call(0x13, eax=0x4800, ds=0x60, esi=0, edx=0x80)
    assert (call.ah, call.carry) == (0, False)
    assert struct.unpack("<HHIIIQH", pc.memory.read(0x600, 26)) == (26, 2, 20, 16, 63, SECTORS, 512)
    pc.memory.write_int(0x600, 2, 25)
    assert pc.call(0x13, eax=0x4800, ds=0x60, esi=0, edx=0x80).ah == 1


def with_partition(end_head: int, end_sector: int) -> bytes:
    disk = bytearray(numbered(40960))
    entry = struct.pack("<8BII", 0x80, 1, 1, 0, 6, end_head, end_sector | 0xC0, 19, 63, 4000)
    disk[446:462] = entry
    return bytes(disk)


def with_fat(sectors: int, heads: int) -> bytes:
    disk = bytearray(numbered(40960))
    disk[0:3] = b"\xeb\x3c\x90"
    struct.pack_into("<H", disk, 11, 512)
    disk[21] = 0xF8
    struct.pack_into("<HH", disk, 24, sectors, heads)
    return bytes(disk)


@pytest.mark.parametrize(
    ("content", "heads_and_sectors"),
    [
        (numbered(40960), (16, 63)),
        (with_partition(7, 32), (8, 32)),
        (with_partition(254, 63), (255, 63)),
        (with_partition(7, 0), (16, 63)),
        (with_fat(32, 64), (64, 32)),
        (with_fat(64, 64), (16, 63)),
        (with_fat(32, 0), (16, 63)),
    ],
)
def test_geometry_is_what_the_disk_was_made_for(content: bytes, heads_and_sectors: tuple[int, int]) -> None:
    geometry = guess_geometry(MemoryDisk(content))
    assert geometry[1:] == heads_and_sectors
    assert geometry.cylinders == max(1, min(40960 // (geometry.heads * geometry.sectors), 1024))


class HugeDisk(MemoryDisk):
    """Says that it is larger than it is."""

    def __init__(self, size: int) -> None:
        super().__init__(bytes(512))
        self.size = size


@pytest.mark.parametrize(
    ("size", "geometry"),
    [
        (1024 * 16 * 63 * 512, (1024, 16, 63)),
        (1024 * 16 * 63 * 512 + 512, (512, 32, 63)),
        (1 << 33, (1024, 255, 63)),
        (1 << 40, (1024, 255, 63)),
    ],
)
def test_large_disks(size: int, geometry: tuple[int, int, int]) -> None:
    assert guess_geometry(HugeDisk(size)) == geometry


@given(st.binary(min_size=512, max_size=512))
def test_any_first_sector_gives_a_geometry(sector: bytes) -> None:
    cylinders, heads, sectors = guess_geometry(MemoryDisk(sector))
    assert 1 <= cylinders <= 1024
    assert 1 <= heads <= 255
    assert 1 <= sectors <= 63


def test_memory_disk() -> None:
    disk = MemoryDisk(b"abc")
    assert disk.size == 512
    assert disk.read_at(0, 4) == b"abc\0"
    for offset, length in ((-1, 1), (512, 1), (0, 513), (0, -1)):
        with pytest.raises(ValueError, match="not within"):
            disk.read_at(offset, length)
    with pytest.raises(ValueError, match="not within"):
        disk.write_at(511, b"xx")
