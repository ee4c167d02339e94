"""Port 0xCF9 against the PIIX3 data sheet, beside the PCI host whose address register surrounds it."""

from __future__ import annotations

from typing import Any

import device_rig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.pci.host import PciHost
from pykvm.devices.reset_control import ResetControl

PORT = 0xCF9


class Rig(device_rig.Rig[ResetControl]):
    def __init__(self) -> None:
        self.resets: list[str] = []
        super().__init__(ResetControl(self.resets.append), beside=(PciHost(),))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_hard_reset_as_firmware_and_systems_do_it(rig: Rig) -> None:
    rig.outb(PORT, 0x02)
    assert rig.inb(PORT) == 0x02
    assert rig.resets == []
    rig.outb(PORT, 0x06)
    assert len(rig.resets) == 1
    assert rig.resets[0].startswith("hard reset")


@pytest.mark.parametrize("value", [0x0E, 0x06, 0xFE])
def test_one_write_is_enough_and_other_bits_do_not_matter(rig: Rig, value: int) -> None:
    rig.outb(PORT, value)
    assert [reason.split()[0] for reason in rig.resets] == ["hard"]
    assert rig.inb(PORT) == 0x06


def test_without_srst_the_reset_is_a_soft_one(rig: Rig) -> None:
    rig.outb(PORT, 0x04)
    assert [reason.split()[0] for reason in rig.resets] == ["soft"]


def test_only_the_rising_edge_of_rcpu_resets(rig: Rig) -> None:
    for value in (0x04, 0x06, 0x04, 0x00, 0x02, 0x00):
        rig.outb(PORT, value)
    assert len(rig.resets) == 1
    rig.outb(PORT, 0x04)
    assert len(rig.resets) == 2


def test_the_reset_itself_clears_the_register(rig: Rig) -> None:
    rig.outb(PORT, 0x06)
    rig.device.reset()
    assert rig.inb(PORT) == 0
    rig.outb(PORT, 0x06)
    assert len(rig.resets) == 2


def test_a_double_word_at_cf8_is_not_for_the_reset_register(rig: Rig) -> None:
    rig.bus.write(0xCF8, 4, 0x8000_0600 | 0xFFFF_FF00)
    assert rig.resets == []
    assert rig.inb(PORT) == 0


def test_a_byte_at_cf9_is_not_for_the_address_register(rig: Rig) -> None:
    rig.bus.write(0xCF8, 4, 0x8000_0840)
    rig.outb(PORT, 0x02)
    assert rig.bus.read(0xCF8, 4) == 0x8000_0840


def test_a_word_at_cf9_is_a_byte_to_each_of_two_ports(rig: Rig) -> None:
    rig.bus.write(PORT, 2, 0xFF06)
    assert len(rig.resets) == 1
    assert rig.bus.read(PORT, 2) == 0xFF06  # nothing is at 0xCFA


@settings(max_examples=50)
@given(st.lists(st.integers(0, 255), max_size=20), st.lists(st.integers(0, 255), max_size=20))
def test_a_restored_register_behaves_as_the_saved_one(before: list[int], after: list[int]) -> None:
    one, two = Rig(), Rig()
    for value in before:
        one.device.write(0, 1, value)
    one.resets.clear()
    two.device.restore(one.device.save())
    for value in after:
        one.device.write(0, 1, value)
        two.device.write(0, 1, value)
        assert one.device.read(0, 1) == two.device.read(0, 1)
    assert one.resets == two.resets


@pytest.mark.parametrize("state", [{}, {"value": 1}, {"value": 8}, {"value": -2}, {"value": True}, {"value": "6"}])
def test_a_state_that_cannot_be_is_refused(rig: Rig, state: dict[str, Any]) -> None:
    rig.refuses(state, "reset control")
