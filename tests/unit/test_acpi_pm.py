"""The ACPI fixed hardware against sections 4.8.3.1 to 4.8.3.3 of the ACPI specification."""

from __future__ import annotations

from typing import Any

import device_rig
import pytest
from device_rig import Line
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.acpi_pm import AcpiPm

STATUS, ENABLE, CONTROL, TIMER = 0x600, 0x602, 0x604, 0x608
TMR, PWRBTN, RTC = 1 << 0, 1 << 8, 1 << 10
SECOND = 1_000_000_000


class Rig(device_rig.Rig[AcpiPm]):
    def __init__(self, time: int = 5 * SECOND) -> None:
        self.time = time
        self.poweroffs = 0
        sci = Line()
        super().__init__(AcpiPm(sci, self.power_off, lambda: self.time), sci)

    def power_off(self) -> None:
        self.poweroffs += 1

    def read(self, port: int, size: int = 2) -> int:
        return self.bus.read(port, size)

    def write(self, port: int, value: int, size: int = 2) -> None:
        self.bus.write(port, size, value)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_after_reset_acpi_mode_is_on_and_nothing_is_pending(rig: Rig) -> None:
    assert [rig.read(port) for port in (STATUS, ENABLE, CONTROL)] == [0, 0, 1]
    assert rig.read(TIMER, 4) == 0
    assert not rig.irq.level


# -- Power ------------------------------------------------------------------------------------------------------------


def test_the_well_known_word_powers_off(rig: Rig) -> None:
    rig.write(CONTROL, 0x2000)
    assert rig.poweroffs == 1
    assert rig.read(CONTROL) == 0x0001  # SLP_EN reads as 0


def test_power_off_as_a_byte_or_a_double_word() -> None:
    for port, value, size in ((CONTROL + 1, 0x20, 1), (CONTROL, 0x2001, 4), (ENABLE, 0x2000_0000, 4)):
        rig = Rig()
        rig.write(port, value, size)
        assert rig.poweroffs == 1, hex(port)


def test_other_sleep_types_and_a_word_without_slp_en_do_not_power_off(rig: Rig) -> None:
    for value in [0x0000, 0x1FFF, *(0x2000 | kind << 10 for kind in range(8) if kind not in (0, 2))]:
        rig.write(CONTROL, value)
    assert rig.poweroffs == 0


def test_suspend_to_disk_powers_off(rig: Rig) -> None:
    """S4 of QEMU's PC is SLP_TYP 2."""
    rig.write(CONTROL, 0x2800)
    assert rig.poweroffs == 1


def test_who_asks_for_another_sleep_state_is_awake_at_once(rig: Rig) -> None:
    rig.write(CONTROL, 0x0400)
    assert rig.read(STATUS) == 0
    rig.write(CONTROL, 0x2400)
    assert rig.read(STATUS) == 1 << 15
    rig.write(STATUS, 1 << 15)
    assert rig.read(STATUS) == 0


def test_control_keeps_sleep_type_and_sci_en_cannot_be_cleared(rig: Rig) -> None:
    rig.write(CONTROL, 0x1402)
    assert rig.read(CONTROL) == 0x1403
    rig.write(CONTROL, 0x0000)
    assert rig.read(CONTROL) == 0x0001


def test_power_button_raises_sci_until_its_status_is_cleared(rig: Rig) -> None:
    rig.write(ENABLE, PWRBTN)
    rig.device.press_power_button()
    assert rig.irq.level
    assert rig.read(STATUS) == PWRBTN
    rig.write(STATUS, RTC)  # another bit: no effect
    assert rig.irq.level
    rig.write(STATUS, PWRBTN)
    assert rig.read(STATUS) == 0
    assert not rig.irq.level


def test_power_button_pressed_before_it_is_enabled_is_remembered(rig: Rig) -> None:
    rig.device.press_power_button()
    assert not rig.irq.level
    rig.write(ENABLE, PWRBTN)
    assert rig.irq.level
    rig.write(ENABLE, 0)
    assert not rig.irq.level


def test_status_cleared_by_a_byte_write(rig: Rig) -> None:
    rig.device.press_power_button()
    rig.write(STATUS, 0xFF, 1)
    assert rig.read(STATUS) == PWRBTN
    rig.write(STATUS + 1, 0x01, 1)
    assert rig.read(STATUS) == 0


def test_enable_and_status_as_one_double_word(rig: Rig) -> None:
    rig.device.press_power_button()
    rig.write(STATUS, 0x0121_0000, 4)
    assert rig.read(STATUS, 4) == 0x0121_0100


def test_enable_written_by_bytes(rig: Rig) -> None:
    rig.write(ENABLE, 0x0521)
    rig.write(ENABLE, 0x00, 1)
    assert rig.read(ENABLE) == 0x0500
    rig.write(ENABLE, 0x21, 1)
    rig.write(ENABLE + 1, 0x01, 1)
    assert rig.read(ENABLE) == 0x0121


def test_only_defined_enable_bits_stay(rig: Rig) -> None:
    rig.write(ENABLE, 0xFFFF)
    assert rig.read(ENABLE) == 0x0721  # RTC, sleep button, power button, global lock, timer


# -- Timer ------------------------------------------------------------------------------------------------------------


def test_timer_counts_at_3579545_hz(rig: Rig) -> None:
    rig.time += SECOND
    assert rig.read(TIMER, 4) == 3_579_545
    rig.time += 280  # one tick is about 279.4 ns
    assert rig.read(TIMER, 4) == 3_579_546


def test_timer_is_24_bits_wide(rig: Rig) -> None:
    rig.time += 10 * SECOND
    assert rig.read(TIMER, 4) == 35_795_450 - 2 * (1 << 24)


def test_timer_can_be_read_in_parts(rig: Rig) -> None:
    rig.time += 10 * SECOND
    whole = rig.read(TIMER, 4)
    assert rig.read(TIMER, 2) | rig.read(TIMER + 2, 2) << 16 == whole
    assert [rig.read(TIMER + at, 1) for at in range(4)] == list(whole.to_bytes(4, "little"))


def test_timer_status_is_set_when_the_top_bit_changes(rig: Rig) -> None:
    half = -(-(1 << 23) * SECOND // 3_579_545)
    start = rig.time
    rig.time = start + half - 1
    assert rig.read(STATUS) == 0
    rig.time = start + half
    assert rig.read(STATUS) == TMR
    rig.write(STATUS, TMR)
    assert rig.read(STATUS) == 0
    rig.time = start + 2 * half
    assert rig.read(STATUS) == TMR


def test_timer_interrupt_comes_at_the_time_announced(rig: Rig) -> None:
    assert rig.device.next_event() is None
    rig.write(ENABLE, TMR)
    due = rig.device.next_event()
    assert due is not None
    rig.time = due - 1
    rig.device.tick()
    assert not rig.irq.level
    rig.time = due
    rig.device.tick()
    assert rig.irq.level
    assert rig.device.next_event() is None  # nothing new can happen until the guest clears the status
    rig.write(STATUS, TMR)
    assert not rig.irq.level
    later = rig.device.next_event()
    assert later is not None
    assert abs(later - due - (1 << 23) * SECOND / 3_579_545) <= 1


def test_reset_restarts_the_timer_and_drops_the_interrupt(rig: Rig) -> None:
    rig.write(ENABLE, PWRBTN)
    rig.device.press_power_button()
    rig.time += SECOND
    rig.device.reset()
    assert not rig.irq.level
    assert rig.read(TIMER, 4) == 0


# -- State ------------------------------------------------------------------------------------------------------------

OPERATION = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 11), st.sampled_from([1, 2, 4])),
    st.tuples(st.just("write"), st.integers(0, 11), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFFFFFF)),
    st.tuples(st.just("press")),
    st.tuples(st.just("tick")),
    st.tuples(st.just("wait"), st.integers(0, 5 * SECOND)),
)


def perform(rig: Rig, operation: tuple[Any, ...]) -> object:
    match operation:
        case ("read", offset, size):
            value = rig.device.read(offset, size)
            assert 0 <= value < 1 << 8 * size
            return value
        case ("write", offset, size, value):
            rig.device.write(offset, size, value & (1 << 8 * size) - 1)
        case ("press",):
            rig.device.press_power_button()
        case ("tick",):
            rig.device.tick()
        case ("wait", time):
            rig.time += time
    return None


@settings(max_examples=100)
@given(st.lists(OPERATION, max_size=25), st.lists(OPERATION, max_size=25), st.integers(0, 1 << 50))
def test_a_restored_device_behaves_as_the_saved_one(before: list[Any], after: list[Any], other_clock: int) -> None:
    rig = Rig()
    for operation in before:
        perform(rig, operation)
    twin = Rig(other_clock)
    twin.device.restore(rig.device.save())
    assert twin.irq.level == rig.irq.level
    rig.poweroffs = 0
    for operation in after:
        assert perform(twin, operation) == perform(rig, operation), operation
        assert twin.irq.level == rig.irq.level
    assert twin.poweroffs == rig.poweroffs
    assert twin.device.save() == rig.device.save()


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(sorted(Rig().device.save())),
        st.one_of(st.none(), st.just("1"), st.booleans(), st.floats(), st.integers(), st.integers(0, 0xFFFF)),
    )
)
def test_a_hostile_state_raises_value_error_only(damage: dict[str, Any]) -> None:
    rig = Rig()
    if not rig.takes({**rig.device.save(), **damage}):
        return
    for offset in range(12):
        rig.device.read(offset, 1)
    rig.device.next_event()


@pytest.mark.parametrize(
    "change", [{"status": 2}, {"enable": 0x8000}, {"control": 0}, {"elapsed": -1}, {"elapsed": 1.0}]
)
def test_a_state_that_cannot_be_is_refused(rig: Rig, change: dict[str, Any]) -> None:
    rig.refuses({**rig.device.save(), **change}, "ACPI PM")
