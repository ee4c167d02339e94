"""PCI configuration space against the PCI specification and the chips' data sheets, through the ports."""

from __future__ import annotations

from typing import Any

import device_rig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.pci.chipset import IDE, PC_FUNCTIONS, Function
from pykvm.devices.pci.host import PciHost

ADDRESS, DATA = 0xCF8, 0xCFC
HOST, ISA, PM = (0, 0), (1, 0), (1, 3)


class Rig(device_rig.Rig[PciHost]):
    def __init__(self, *functions: Function) -> None:
        super().__init__(PciHost(functions or PC_FUNCTIONS))

    def select(self, place: tuple[int, int], register: int, bus: int = 0) -> int:
        """Set the address as drivers do; the data port of the register's byte."""
        device, function = place
        self.bus.write(ADDRESS, 4, 1 << 31 | bus << 16 | device << 11 | function << 8 | register & 0xFC)
        return DATA + (register & 3)

    def read(self, place: tuple[int, int], register: int, size: int, bus: int = 0) -> int:
        return self.bus.read(self.select(place, register, bus), size)

    def write(self, place: tuple[int, int], register: int, size: int, value: int) -> None:
        self.bus.write(self.select(place, register), size, value)

    def scan(self) -> dict[tuple[int, int], int]:
        """Find all functions of bus 0 as Linux' early scan does: function 0 says whether there are more."""
        found = {}
        for device in range(32):
            for function in range(8):
                ids = self.read((device, function), 0x00, 4)
                if ids == 0xFFFF_FFFF:
                    if function == 0:
                        break
                    continue
                found[device, function] = ids
                if function == 0 and not self.read((device, 0), 0x0E, 1) & 0x80:
                    break
        return found


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_linux_finds_mechanism_1_and_not_mechanism_2(rig: Rig) -> None:
    rig.bus.write(0xCFB, 1, 0x01)
    rig.bus.write(ADDRESS, 4, 0x8000_0000)
    assert rig.bus.read(ADDRESS, 4) == 0x8000_0000
    # Mechanism 2 is believed in if these two ports read back the zero.
    for port in (0xCFB, 0xCF8, 0xCFA):
        rig.bus.write(port, 1, 0)
    assert (rig.bus.read(0xCF8, 1), rig.bus.read(0xCFA, 1)) != (0, 0)
    assert rig.bus.read(ADDRESS, 4) == 0x8000_0000


def test_a_scan_finds_the_chip_set(rig: Rig) -> None:
    assert rig.scan() == {HOST: 0x1237_8086, ISA: 0x7000_8086, PM: 0x7113_8086}


def test_a_machine_with_disks_has_an_ide_controller() -> None:
    rig = Rig(*PC_FUNCTIONS, IDE)
    assert rig.scan()[1, 1] == 0x7010_8086
    assert rig.read((1, 1), 0x0A, 2) == 0x0101
    assert rig.read((1, 1), 0x09, 1) & 0x85 == 0  # both channels in compatibility mode, no bus mastering
    assert rig.read((1, 1), 0x41, 1) & rig.read((1, 1), 0x43, 1) & 0x80  # both channels are decoded


@pytest.mark.parametrize(("place", "code"), [(HOST, 0x0600), (ISA, 0x0601), (PM, 0x0680)])
def test_class_codes(rig: Rig, place: tuple[int, int], code: int) -> None:
    assert rig.read(place, 0x0A, 2) == code


def test_firmware_recognises_the_board(rig: Rig) -> None:
    assert rig.read(HOST, 0x2C, 4) == 0x1100_1AF4


def test_the_header_types_are_of_ordinary_devices(rig: Rig) -> None:
    assert [rig.read(place, 0x0E, 1) for place in (HOST, ISA, PM)] == [0x00, 0x80, 0x00]


def test_sizing_base_addresses_finds_none(rig: Rig) -> None:
    for place in (HOST, ISA, PM):
        for register in (*range(0x10, 0x28, 4), 0x30):
            rig.write(place, register, 4, 0xFFFF_FFFF)
            assert rig.read(place, register, 4) == 0


def test_other_places_read_all_ones_and_swallow_writes(rig: Rig) -> None:
    before = rig.device.save()["spaces"]
    for place, bus in (((2, 0), 0), ((0, 1), 0), ((31, 7), 0), (HOST, 1), (ISA, 255)):
        for size in (1, 2, 4):
            assert rig.read(place, 0, size, bus) == (1 << 8 * size) - 1
            rig.bus.write(rig.select(place, 4, bus), size, 0)
    assert rig.device.save()["spaces"] == before


def test_without_the_enable_bit_nothing_answers(rig: Rig) -> None:
    rig.bus.write(ADDRESS, 4, 0x0000_0058)
    rig.bus.write(DATA, 4, 0)
    assert rig.bus.read(DATA, 4) == 0xFFFF_FFFF
    assert rig.read(HOST, 0x58, 4) == 0x3333_3000


@pytest.mark.parametrize(("port", "size"), [(0xCF8, 1), (0xCF8, 2), (0xCFA, 1), (0xCFA, 2), (0xCFB, 1)])
def test_only_double_words_reach_the_address(rig: Rig, port: int, size: int) -> None:
    rig.select(ISA, 0)
    rig.bus.write(port, size, 0)
    assert rig.bus.read(ADDRESS, 4) == 0x8000_0800
    assert rig.bus.read(port, size) == (1 << 8 * size) - 1


def test_the_address_keeps_only_its_own_bits(rig: Rig) -> None:
    rig.bus.write(ADDRESS, 4, 0xFFFF_FFFF)
    assert rig.bus.read(ADDRESS, 4) == 0x80FF_FFFC


def test_bytes_and_words_of_a_register(rig: Rig) -> None:
    assert [rig.read(HOST, at, 1) for at in range(4)] == [0x86, 0x80, 0x37, 0x12]
    assert [rig.read(HOST, at, 2) for at in (0, 1, 2)] == [0x8086, 0x3780, 0x1237]
    assert rig.read(HOST, 2, 4) == 0xFFFF_1237  # past the last data port is nobody


def test_a_byte_write_leaves_its_neighbours(rig: Rig) -> None:
    rig.write(ISA, 0x62, 1, 0x0B)
    assert rig.read(ISA, 0x60, 4) == 0x800B_8080


def test_seabios_opens_and_closes_the_shadow_ram(rig: Rig) -> None:
    assert rig.read(HOST, 0x59, 1) & 0x10  # reads of the BIOS segment go to RAM already: nothing is to be copied
    for register in range(0x5A, 0x60):
        rig.write(HOST, register, 1, 0x33)
    rig.write(HOST, 0x59, 1, 0x30)
    assert rig.read(HOST, 0x5C, 4) == 0x3333_3333
    rig.write(HOST, 0x59, 1, 0x10)
    rig.write(HOST, 0x5A, 1, 0x11)
    assert rig.read(HOST, 0x58, 4) == 0x3311_1000


def test_pirq_routing_is_kept(rig: Rig) -> None:
    assert rig.read(ISA, 0x60, 4) == 0x8080_8080
    for at, irq in enumerate((10, 10, 11, 11)):
        rig.write(ISA, 0x60 + at, 1, irq)
    assert rig.read(ISA, 0x60, 4) == 0x0B0B_0A0A


def test_the_acpi_registers_are_where_the_base_says_and_stay_there(rig: Rig) -> None:
    rig.write(PM, 0x40, 4, 0xB001)
    assert rig.read(PM, 0x40, 4) == 0x0601
    assert rig.read(PM, 0x80, 1) & 1


def test_firmware_takes_system_management_mode_for_set_up(rig: Rig) -> None:
    rig.write(PM, 0x58, 4, 0)
    assert rig.read(PM, 0x58, 4) & 1 << 25


def test_identity_and_status_cannot_be_written(rig: Rig) -> None:
    for place in (HOST, ISA, PM):
        before = [rig.read(place, at, 4) for at in (0x00, 0x08, 0x2C)], rig.read(place, 0x06, 2)
        for at in (0x00, 0x04, 0x08, 0x2C):
            rig.write(place, at, 4, 0xFFFF_FFFF)
        assert ([rig.read(place, at, 4) for at in (0x00, 0x08, 0x2C)], rig.read(place, 0x06, 2)) == before


def test_the_host_bridge_cannot_be_switched_off(rig: Rig) -> None:
    rig.write(HOST, 0x04, 2, 0x0000)
    assert rig.read(HOST, 0x04, 2) == 0x0006


def test_reset_forgets_what_was_written(rig: Rig) -> None:
    before = rig.device.save()
    rig.write(HOST, 0x5C, 4, 0)
    rig.write(PM, 0x3C, 1, 9)
    rig.device.reset()
    assert rig.device.save() == before


# -- State ------------------------------------------------------------------------------------------------------------

ACCESS = st.tuples(
    st.sampled_from([0, *range(2, 8)]),
    st.sampled_from([1, 2, 4]),
    st.one_of(
        st.integers(0, 0xFFFF_FFFF),
        st.builds(lambda place, register: 1 << 31 | place << 8 | register, st.integers(0, 15), st.integers(0, 255)),
    ),
    st.booleans(),
)


def perform(host: PciHost, offset: int, size: int, value: int, is_write: bool) -> int | None:
    if is_write:
        host.write(offset, size, value & (1 << 8 * size) - 1)
        return None
    got = host.read(offset, size)
    assert 0 <= got < 1 << 8 * size
    return got


@settings(max_examples=100)
@given(st.lists(ACCESS, max_size=30), st.lists(ACCESS, max_size=30))
def test_a_restored_host_behaves_as_the_saved_one(before: list[Any], after: list[Any]) -> None:
    one, two = PciHost(), PciHost()
    for access in before:
        perform(one, *access)
    two.restore(one.save())
    for access in after:
        assert perform(one, *access) == perform(two, *access)
    assert one.save() == two.save()


def test_a_saved_state_does_not_change_with_the_host(rig: Rig) -> None:
    state = rig.device.save()
    twin = PciHost()
    twin.restore(state)
    rig.write(HOST, 0x5C, 4, 0)
    assert twin.save() == state != rig.device.save()


GARBAGE = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.floats(), st.lists(st.lists(st.integers())))


@settings(max_examples=50)
@given(st.sampled_from(["address", "spaces"]), GARBAGE)
def test_a_hostile_state_raises_value_error_only(name: str, value: Any) -> None:
    host = PciHost()
    before = host.save()
    try:
        host.restore({**before, name: value})
    except ValueError:
        assert host.save() == before
        return
    assert host.save() == {**before, name: value}


def test_a_state_with_another_identity_or_of_another_machine_is_refused(rig: Rig) -> None:
    state = rig.device.save()
    state["spaces"][0][0] = 0x1234_5678
    with pytest.raises(ValueError, match="cannot have"):
        rig.device.restore(state)
    with pytest.raises(ValueError, match="3 functions"):
        rig.device.restore(PciHost((*PC_FUNCTIONS, IDE)).save())
