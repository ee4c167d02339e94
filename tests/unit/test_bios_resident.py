"""What a kernel that was loaded directly finds of the BIOS: the same as after POST."""

from __future__ import annotations

import bios_calls
import pytest

from pykvm import pc
from pykvm.bios.data import BDA, TICKS
from pykvm.bios.rom import BASE, SIZE, TRAP_PORT, rom
from pykvm.bios.service import Bios
from pykvm.boot.firmware import leave_bios
from pykvm.device import Range
from pykvm.memory import GuestMemory


@pytest.fixture
def memory() -> GuestMemory:
    ram = GuestMemory("1M")
    leave_bios(ram, [0x3F8], 1)
    return ram


def test_the_rom_is_the_one_that_is_assembled(memory: GuestMemory) -> None:
    assert memory.read(BASE, SIZE) == rom().image
    assert pc.BIOS_PORTS == Bios.ports == (Range(TRAP_PORT, 1),)


def test_vectors_and_data_are_those_that_post_leaves(memory: GuestMemory) -> None:
    left = bytearray(bios_calls.Pc().memory.read(0, BDA + 0x100))
    left[TICKS : TICKS + 4] = bytes(4)  # since midnight
    assert memory.read(0, BDA + 0x100) == left


def test_com_ports_and_disks_are_told() -> None:
    ram = GuestMemory("1M")
    leave_bios(ram, [0x3F8, 0x2F8], 3)
    assert [ram.read_int(0x400 + 2 * number, 2) for number in range(4)] == [0x3F8, 0x2F8, 0, 0]
    assert ram.read_int(0x410, 2) >> 9 & 7 == 2
    assert ram.read_int(0x475, 1) == 3
