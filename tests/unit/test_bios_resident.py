"""What a kernel that was loaded directly finds of the BIOS: the same as after POST."""

from __future__ import annotations

import bios_calls
import pytest

from pykvm import pc
from pykvm.bios.data import BDA, TICKS
from pykvm.bios.rom import BASE, SIZE, TRAP_PORT, rom
from pykvm.bios.service import Bios
from pykvm.boot.firmware import leave_bios
from pykvm.memory import GuestMemory


@pytest.fixture
def memory() -> GuestMemory:
    ram = GuestMemory("1M")
    leave_bios(ram, [0x3F8], 1)
    return ram


def test_the_rom_is_the_one_that_is_assembled(memory: GuestMemory) -> None:
    assert memory.read(BASE, SIZE) == rom().image
    assert pc.BIOS_PORT == TRAP_PORT


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


def resident_bios() -> tuple[pc.ResidentBios, list[Bios]]:
    made: list[Bios] = []

    def make() -> Bios:
        made.append(bios_calls.Pc().bios)
        return made[-1]

    return pc.ResidentBios(make), made


def test_services_are_made_by_the_first_call_and_have_no_state_before() -> None:
    device, made = resident_bios()
    assert (device.save(), made) == ({}, [])
    device.restore({})
    device.reset()
    assert made == []
    device.write(0, 4, 0x7000)
    assert len(made) == 1
    assert device.save() == made[0].save()


def test_state_goes_back_to_what_it_was_before_the_first_call() -> None:
    device, made = resident_bios()
    fresh = device.bios.save()
    device.restore(fresh | {"row": 7, "keys": [0x1E61]})
    assert device.save()["row"] == 7
    device.restore({})
    assert device.save() == fresh
    device.restore(fresh | {"row": 7})
    device.reset()
    assert device.save() == fresh
    other, _ = resident_bios()
    other.restore(fresh | {"row": 7})
    assert other.save() == fresh | {"row": 7}
    with pytest.raises(ValueError, match="row"):
        other.restore(fresh | {"row": -1})
    assert len(made) == 1
