"""ATA/ATAPI-6 section 8.15: what IDENTIFY DEVICE says."""

from __future__ import annotations

import pytest
from ata_rig import DEVICE, MemoryDisk, Pc


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
