"""CDs of a BIOS: the boot catalog (El Torito 1.0, section 2), INT 13h by 2,048 bytes, emulation and its end."""

from __future__ import annotations

import struct

import pytest
from bios_calls import BOOT_SECTOR, Pc
from iso_writer import BLOCK, entry, iso, validation

from pykvm.bios.cd import cd_drive
from pykvm.bios.disk import floppy, hard_disk
from pykvm.bios.el_torito import BootEntry, NotBootable, boot_entry
from pykvm.boot import detect
from pykvm.disk.memory import MemoryDisk
from pykvm.disk.tray import Tray

SECTION = bytes((0x91, 0)) + bytes(30)
EFI_SECTION = bytes((0x91, 0xEF)) + bytes(30)
STARTED = b"".join(bytes((number,)) * 512 for number in range(1, 9))


def medium(*entries: bytes) -> MemoryDisk:
    return MemoryDisk(iso(STARTED, catalog=b"".join(entries)))


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([validation(), entry(0)], BootEntry(0, 0x7C0, 4, 20)),
        ([validation(), entry(0, segment=0x1000, sectors=0)], BootEntry(0, 0x1000, 1, 20)),
        ([validation(), entry(2, sectors=1), EFI_SECTION, entry(0)], BootEntry(2, 0x7C0, 1, 20)),
        ([validation(0xEF), entry(0), SECTION, entry(4)], BootEntry(4, 0x7C0, 4, 20)),
        ([validation(), entry(0, bootable=False), SECTION, entry(0, sectors=3)], BootEntry(0, 0x7C0, 3, 20)),
        ([validation()[:28] + b"\0\0\x55\xaa", entry(0)], BootEntry(0, 0x7C0, 4, 20)),
    ],
    ids=["default", "zeros", "hybrid", "efi-first", "not-bootable-first", "wrong-checksum"],
)
def test_the_first_entry_for_a_pc_is_started(entries: list[bytes], found: BootEntry) -> None:
    assert boot_entry(medium(*entries)) == found


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([b""], "does not begin with a validation entry"),
        ([validation(0xEF), entry(0)], "no entry for a PC with a BIOS"),
        ([validation(), entry(0, bootable=False)], "no entry for a PC"),
        ([validation(), entry(5)], "0x5 as the kind of disk"),
        ([validation(), entry(0, block=99)], "block 99, behind the end"),
        ([validation(), entry(0, segment=0x9000, sectors=0x80)], "65536 bytes loaded at 0x90000"),
    ],
)
def test_what_cannot_be_started(entries: list[bytes], message: str) -> None:
    with pytest.raises(NotBootable, match=message):
        boot_entry(medium(*entries))


def test_without_a_boot_record_or_with_a_catalog_nowhere() -> None:
    image = bytearray(iso(STARTED))
    image[17 * BLOCK + 0x47 : 17 * BLOCK + 0x4B] = b"\xff" * 4
    with pytest.raises(NotBootable, match="0x7fffffff800"):
        boot_entry(MemoryDisk(bytes(image)))
    image[17 * BLOCK] = 2
    with pytest.raises(NotBootable, match="no El Torito boot record"):
        boot_entry(MemoryDisk(bytes(image)))
    with pytest.raises(NotBootable, match="no El Torito"):
        boot_entry(MemoryDisk(b"short"))


def test_a_hybrid_image_is_a_cd() -> None:
    image = bytearray(iso(STARTED))
    image[510:512] = b"\x55\xaa"
    assert detect.recognise(bytes(image)) == "cd"
    assert detect.is_cd(bytes(image[: 64 << 10]))


def packet(pc: Pc, count: int, block: int, drive: int = 0xE0) -> dict[str, int]:
    pc.memory.write(0x600, struct.pack("<HHHHQ", 16, count, 0, 0x2000, block))
    return {"ds": 0x60, "esi": 0, "edx": drive}


@pytest.fixture
def tray() -> Tray:
    return Tray(MemoryDisk(iso(STARTED, blocks=40)))


def started(tray: Tray, *others: object) -> Pc:
    return Pc([*others, cd_drive(0, tray)], boot=0xE0)  # type: ignore[list-item]


def test_it_is_loaded_and_entered_where_seabios_enters_it(tray: Tray) -> None:
    pc = started(tray)
    assert (pc.started.cs, pc.started.ip, pc.started.dl) == (0, 0x7C00, 0xE0)
    assert pc.memory.read(0x7C00, 4 * 512) == STARTED[: 4 * 512]
    pc = started(Tray(MemoryDisk(iso(STARTED, segment=0x1234))))
    assert (pc.started.cs, pc.started.ip) == (0x1000, 0x2340)
    assert pc.memory.read_int(0x475, 1) == 0, "no hard disk"


def test_reading_by_blocks(tray: Tray) -> None:
    pc = started(tray)
    call = pc.call(0x13, eax=0x4100, ebx=0x55AA, edx=0xE0)
    assert (call.carry, call.bx, call.cx & 1) == (False, 0xAA55, 1)
    assert not pc.call(0x13, eax=0x4200, **packet(pc, 2, 19)).carry
    assert pc.memory.read(0x20000, 2 * BLOCK) == validation() + entry(0) + bytes(BLOCK - 64) + STARTED[:BLOCK]
    assert pc.call(0x13, eax=0x4200, **packet(pc, 2, 39)).ah == 0x04
    assert pc.call(0x13, eax=0x4300, **packet(pc, 1, 0)).ah == 0x03
    pc.memory.write(0x600, struct.pack("<H", 26))
    assert not pc.call(0x13, eax=0x4800, ds=0x60, edx=0xE0).carry
    assert struct.unpack("<HHIIIQH", pc.memory.read(0x600, 26))[5:] == (40, BLOCK)
    for function in (0x0201, 0x0800):
        assert pc.call(0x13, eax=function, ecx=1, edx=0xE0).ah == 1
    assert pc.call(0x13, eax=0x1500, edx=0xE0).ah == 2
    tray.is_open = True
    assert pc.call(0x13, eax=0x4200, **packet(pc, 1, 19)).ah == 0x31


def test_status_without_emulation(tray: Tray) -> None:
    pc = started(tray)
    assert not pc.call(0x13, eax=0x4B01, ds=0x60, esi=0, edx=0xE0).carry
    assert pc.memory.read(0x600, 12) == bytes((19, 0, 0xE0, 0)) + struct.pack("<IHH", 20, 0, 0)
    assert struct.unpack("<HH", pc.memory.read(0x60C, 4)) == (0x7C0, 4)
    assert pc.call(0x13, eax=0x4B01, ds=0x60, edx=0x80).ah == 1
    assert pc.call(0x13, eax=0x4B02, ds=0x60, edx=0xE0).ah == 1


def test_an_emulated_floppy_disk_moves_the_others_up_until_it_ends() -> None:
    tray = Tray(MemoryDisk(iso(BOOT_SECTOR + b"\x22" * 512, 2, sectors=1)))
    pc = started(tray, floppy(0, MemoryDisk(b"\x11" * (1440 << 10))), hard_disk(0, MemoryDisk(BOOT_SECTOR)))
    assert pc.started.dl == 0
    assert pc.word(0x410) & 0xC1 == 0x41, "two floppy drives"

    def second_sector(drive: int) -> bytes:
        assert not pc.call(0x13, eax=0x0201, ecx=2, edx=drive, es=0x2000).carry
        return pc.memory.read(0x20000, 1)

    assert (second_sector(0), second_sector(1)) == (b"\x22", b"\x11")
    assert pc.call(0x13, eax=0x0301, ecx=2, edx=0, es=0x2000).ah == 0x03, "read-only"
    assert not pc.call(0x13, eax=0x0201, ecx=79 << 8 | 18, edx=0x100, es=0x2000).carry
    assert pc.memory.read(0x20000, 512) == bytes(512), "behind the end of the image"
    state = pc.bios.save()
    assert not pc.call(0x13, eax=0x4B00, ds=0x60, edx=0x7F).carry
    assert second_sector(0) == b"\x11"
    assert pc.word(0x410) & 0xC1 == 0x01
    pc.bios.restore(state)
    assert second_sector(0) == b"\x22"
    assert pc.bios.save() == state
    for change in (
        {"started": [0xE1, 2, 1, 1, 1]},
        {"started": [1]},
        {"emulating": 2},
        {"started": []},
        {"started": None},
    ):
        with pytest.raises(ValueError, match="BIOS"):
            pc.bios.restore({**state, **change})


def test_what_can_be_started_first_is() -> None:
    tray = Tray(MemoryDisk(iso(STARTED)))
    pc = Pc([hard_disk(0, MemoryDisk(bytes(1 << 20))), cd_drive(0, tray)])
    assert pc.started.ip != 0x7C00, "the disk alone is asked"
    tray.is_open = True
    assert "drive E0h cannot be started from: there is no CD in the drive" in started(tray).console.text
