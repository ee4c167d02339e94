"""The MC146818 clock and the PC's CMOS memory, against the data sheet and the AT's memory map."""

from __future__ import annotations

import calendar
import time
from typing import Any

import device_rig
import pytest
from device_rig import Line
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.cmos import Cmos

SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY = 0, 2, 4, 6, 7, 8, 9, 0x32
A, B, C, D = 10, 11, 12, 13
MIB = 1 << 20
GIB = 1 << 30

START = calendar.timegm((2024, 2, 29, 23, 59, 50))
"""A Thursday, ten seconds before the end of a leap day."""


class Rig(device_rig.Rig[Cmos]):
    def __init__(self, time: float = START, low_ram: int = 64 * MIB, high_ram: int = 0) -> None:
        self.time = float(time)
        irq = Line()
        super().__init__(Cmos(irq, lambda: self.time, low_ram, high_ram), irq)

    def get(self, index: int) -> int:
        self.outb(0x70, index)
        return self.inb(0x71)

    def put(self, index: int, value: int) -> None:
        self.outb(0x70, index)
        self.outb(0x71, value)

    def clock(self) -> tuple[int, ...]:
        """Century, year, month, day, hours, minutes, seconds as they stand in the registers."""
        return tuple(self.get(r) for r in (CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS))

    def set_clock(self, *fields: int) -> None:
        """As a BIOS or a kernel sets it: stop with SET, write all fields, let go."""
        reg_b = self.get(B)
        self.put(B, reg_b | 0x80)
        for register, value in zip((CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS), fields, strict=True):
            self.put(register, value)
        self.put(B, reg_b & 0x7F)

    def wait_for_event(self) -> float:
        """Let time pass to the next event, tick, and return how long that took."""
        due = self.device.next_event()
        assert due is not None
        waited, self.time = due - self.time, due
        self.device.tick()
        return waited


@pytest.fixture
def rig() -> Rig:
    return Rig()


# -- Memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "base", "extended", "above_16m", "above_4g"),
    [
        (256 << 10, 0, 256, 0, 0, 0),
        (1 * MIB, 0, 640, 0, 0, 0),
        (16 * MIB, 0, 640, 15 * 1024, 0, 0),
        (64 * MIB, 0, 640, 63 * 1024, 48 * 16, 0),
        (128 * MIB, 0, 640, 0xFFFF, 112 * 16, 0),
        (3 * GIB, 5 * GIB, 640, 0xFFFF, (3072 - 16) * 16, 5 * 16384),
        (3 * GIB, 2000 * GIB, 640, 0xFFFF, (3072 - 16) * 16, 0xFFFFFF),  # 24 bits hold 1 TiB
    ],
)
def test_memory_sizes(low: int, high: int, base: int, extended: int, above_16m: int, above_4g: int) -> None:
    rig = Rig(low_ram=low, high_ram=high)

    def number(*indexes: int) -> int:
        return sum(rig.get(index) << 8 * at for at, index in enumerate(indexes))

    assert number(0x15, 0x16) == base
    assert number(0x17, 0x18) == number(0x30, 0x31) == extended
    assert number(0x34, 0x35) == above_16m
    assert number(0x5B, 0x5C, 0x5D) == above_4g


def test_no_floppy_and_no_diagnostic_error(rig: Rig) -> None:
    assert (rig.get(0x10), rig.get(0x0E), rig.get(0x0F)) == (0, 0, 0)
    assert rig.get(0x14) & 0xC1 == 0


def test_memory_is_kept_through_a_reset_and_so_is_the_shutdown_byte(rig: Rig) -> None:
    rig.put(0x0F, 0x0A)
    rig.put(0x7F, 0x55)
    rig.device.reset()
    assert (rig.get(0x0F), rig.get(0x7F)) == (0x0A, 0x55)


def test_index_ignores_the_nmi_mask_and_cannot_be_read(rig: Rig) -> None:
    rig.put(0x80 | 0x40, 0x12)
    assert rig.get(0x40) == 0x12
    assert rig.inb(0x70) == 0xFF


# -- Reading and setting the time -------------------------------------------------------------------------------------


def test_time_in_bcd_and_24_hours_after_reset(rig: Rig) -> None:
    assert rig.get(A) & 0x7F == 0x26
    assert rig.get(B) == 0x02
    assert rig.get(D) == 0x80
    assert rig.clock() == (0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x50)
    assert rig.get(WEEKDAY) == 5


def test_time_goes_on_into_the_next_month(rig: Rig) -> None:
    rig.time += 10
    assert rig.clock() == (0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00)
    assert rig.get(WEEKDAY) == 6


def test_binary_mode(rig: Rig) -> None:
    rig.put(B, 0x06)
    assert rig.clock() == (20, 24, 2, 29, 23, 59, 50)


@pytest.mark.parametrize(
    ("hour", "bcd", "binary"),
    [(0, 0x12, 12), (1, 0x01, 1), (11, 0x11, 11), (12, 0x92, 0x8C), (13, 0x81, 0x81), (23, 0x91, 0x8B)],
)
def test_12_hour_mode(hour: int, bcd: int, binary: int) -> None:
    rig = Rig(calendar.timegm((2024, 1, 1, hour, 0, 0)))
    rig.put(B, 0x00)
    assert rig.get(HOURS) == bcd
    rig.put(B, 0x04)
    assert rig.get(HOURS) == binary
    rig.set_clock(20, 24, 1, 1, binary, 0, 0)
    rig.put(B, 0x06)
    assert rig.get(HOURS) == hour


def test_setting_the_clock_lasts_and_survives_a_reset(rig: Rig) -> None:
    rig.set_clock(0x19, 0x69, 0x07, 0x20, 0x20, 0x17, 0x40)
    rig.time += 61
    assert rig.clock() == (0x19, 0x69, 0x07, 0x20, 0x20, 0x18, 0x41)
    assert rig.get(WEEKDAY) == 1
    rig.device.reset()
    rig.time += 3600
    assert rig.clock() == (0x19, 0x69, 0x07, 0x20, 0x21, 0x18, 0x41)


def test_set_bit_stops_the_clock_and_reads_back_what_was_written(rig: Rig) -> None:
    rig.put(B, 0x82)
    rig.time += 100
    assert rig.get(SECONDS) == 0x50
    rig.put(SECONDS, 0x77)
    assert rig.get(SECONDS) == 0x77
    rig.put(SECONDS, 0x30)
    rig.put(B, 0x02)
    rig.time += 5
    assert rig.get(SECONDS) == 0x35


def test_a_reset_while_the_clock_is_stopped_starts_it_in_the_format_it_was_set_in(rig: Rig) -> None:
    rig.put(B, 0x06)
    rig.put(B, 0x86)
    rig.put(MINUTES, 33)
    rig.device.reset()
    assert rig.get(B) == 0x02
    assert rig.clock() == (0x20, 0x24, 0x02, 0x29, 0x23, 0x33, 0x50)


def test_one_field_written_into_the_running_clock(rig: Rig) -> None:
    rig.put(MINUTES, 0x05)
    assert rig.clock() == (0x20, 0x24, 0x02, 0x29, 0x23, 0x05, 0x50)
    rig.time += 1
    assert rig.get(SECONDS) == 0x51


def test_the_host_setting_its_clock_back_takes_the_guest_along(rig: Rig) -> None:
    rig.time -= 20
    assert rig.get(SECONDS) == 0x30
    assert rig.device.next_event() is None


def test_first_update_is_half_a_second_after_the_divider_is_let_go(rig: Rig) -> None:
    """Linux sets the clock this way, so as to hit the second exactly."""
    rig.put(B, 0x82)
    rig.put(A, 0x76)
    rig.time += 0.3
    rig.put(SECONDS, 0x00)
    rig.put(A, 0x26)
    rig.put(B, 0x02)
    rig.time += 0.49
    assert rig.get(SECONDS) == 0x00
    rig.time += 0.02
    assert rig.get(SECONDS) == 0x01


def test_update_in_progress_is_set_before_the_second_changes(rig: Rig) -> None:
    rig.time += 0.9975
    assert not rig.get(A) & 0x80
    rig.time = START + 0.998
    assert rig.get(A) & 0x80
    assert rig.get(SECONDS) == 0x50
    rig.time = START + 1.0
    assert not rig.get(A) & 0x80
    assert rig.get(SECONDS) == 0x51


def test_no_update_in_progress_while_stopped(rig: Rig) -> None:
    rig.put(B, 0x82)
    rig.time += 0.999
    assert rig.get(A) == 0x26
    rig.put(A, 0xFF)
    assert rig.get(A) == 0x7F


# -- Interrupts -------------------------------------------------------------------------------------------------------


def test_nothing_is_due_with_all_interrupts_off(rig: Rig) -> None:
    assert rig.device.next_event() is None


def test_flags_are_set_without_any_interrupt_enabled(rig: Rig) -> None:
    rig.time += 1
    assert rig.get(C) == 0x50  # UF, and PF at rate 6
    assert rig.get(C) == 0x00
    assert not rig.irq.level


@pytest.mark.parametrize(
    ("rate", "period"), [(1, 1 / 256), (2, 1 / 128), (3, 1 / 8192), (6, 1 / 1024), (8, 1 / 256), (15, 1 / 2)]
)
def test_periodic_interrupt_rates(rig: Rig, rate: int, period: float) -> None:
    rig.put(A, 0x20 | rate)
    rig.put(B, 0x42)
    for _ in range(5):
        assert rig.wait_for_event() == pytest.approx(period, abs=3e-6)
        assert rig.irq.level
        assert rig.device.next_event() is None
        assert rig.get(C) & 0xC0 == 0xC0
        assert not rig.irq.level


def test_rate_0_makes_no_periodic_interrupt(rig: Rig) -> None:
    rig.put(A, 0x20)
    rig.put(B, 0x42)
    assert rig.device.next_event() is None
    rig.time += 10
    assert not rig.get(C) & 0x40


def test_update_ended_interrupt_comes_once_a_second(rig: Rig) -> None:
    rig.time += 0.25
    rig.put(B, 0x12)
    assert rig.wait_for_event() == pytest.approx(0.75, abs=1e-5)
    assert rig.get(SECONDS) == 0x51
    assert rig.get(C) & 0x90 == 0x90
    assert rig.wait_for_event() == pytest.approx(1.0, abs=1e-5)


def test_setting_set_clears_the_update_interrupt_enable(rig: Rig) -> None:
    rig.put(B, 0x92)
    assert rig.get(B) == 0x82


@pytest.mark.parametrize(
    ("alarm", "after"),
    [
        ((0x23, 0x59, 0x55), 5),
        ((0x23, 0x59, 0x50), 86400),  # it is that second now: tomorrow
        ((0x00, 0x00, 0x00), 10),
        ((0xFF, 0xFF, 0xFF), 1),
        ((0xFF, 0xFF, 0x50), 60),
        ((0xFF, 0x59, 0x51), 1),
        ((0xFF, 0x58, 0x51), 59 * 60 + 1),
        ((0x23, 0xFF, 0x50), 86400 - 59 * 60),
        ((0x01, 0xFF, 0xC0), 10 + 3600),
        ((0x22, 0x59, 0xFF), 86400 - 3600 - 50),
        ((0x24, 0x00, 0x00), None),
        ((0x00, 0x60, 0x00), None),
    ],
)
def test_alarm(rig: Rig, alarm: tuple[int, int, int], after: int | None) -> None:
    for register, value in zip((5, 3, 1), alarm, strict=True):
        rig.put(register, value)
        assert rig.get(register) == value
    rig.put(B, 0x22)
    if after is None:
        assert rig.device.next_event() is None
        return
    assert rig.wait_for_event() == pytest.approx(after, abs=1e-5)
    assert rig.irq.level
    assert rig.get(C) & 0xA0 == 0xA0


@pytest.mark.parametrize(
    ("alarm", "after"),
    [
        ((0x10, 0x45, 0x05), 24 * 60 + 35),
        ((0xFF, 0x45, 0x05), 24 * 60 + 35),
        ((0xFF, 0xFF, 0x05), 35),
        ((0x10, 0x20, 0xFF), 1),
        ((0x10, 0x21, 0xFF), 30),
        ((0x12, 0x05, 0x10), 6280),
        ((0xFF, 0x10, 0x20), 49 * 60 + 50),
    ],
)
def test_alarm_in_the_middle_of_a_day(alarm: tuple[int, int, int], after: int) -> None:
    rig = Rig(calendar.timegm((2024, 1, 1, 10, 20, 30)))
    for register, value in zip((5, 3, 1), alarm, strict=True):
        rig.put(register, value)
    rig.put(B, 0x22)
    assert rig.wait_for_event() == pytest.approx(after, abs=1e-5)
    assert rig.get(C) & 0xA0 == 0xA0


def test_alarm_that_passed_while_nobody_looked(rig: Rig) -> None:
    rig.put(5, 0x00)
    rig.put(3, 0x00)
    rig.put(1, 0x05)
    rig.time += 14
    assert not rig.get(C) & 0x20
    rig.time += 100
    assert rig.get(C) & 0x20


def test_alarm_set_long_after_the_start(rig: Rig) -> None:
    rig.time += 100_000
    for register in (5, 3, 1):
        rig.put(register, 0xFF)
    rig.put(B, 0x22)
    rig.get(C)
    assert rig.wait_for_event() == pytest.approx(1, abs=1e-5)


def test_alarm_in_12_hour_binary_mode(rig: Rig) -> None:
    rig.put(B, 0x24)
    rig.put(5, 0x80 | 11)
    rig.put(3, 59)
    rig.put(1, 59)
    assert rig.wait_for_event() == pytest.approx(9, abs=1e-5)


@given(
    second=st.integers(0, 86399),
    alarm=st.tuples(
        st.sampled_from([0xFF, *range(24)]), st.sampled_from([0xFF, *range(60)]), st.sampled_from([0xFF, *range(60)])
    ),
)
@settings(max_examples=20)
def test_next_alarm_is_the_first_match_found_by_counting(second: int, alarm: tuple[int, int, int]) -> None:
    rig = Rig(START // 86400 * 86400 + second)
    rig.put(B, 0x26)
    for register, value in zip((5, 3, 1), alarm, strict=True):
        rig.put(register, value)
    at = second + 1
    while not all(
        want in (0xFF, have) for want, have in zip(alarm, (at // 3600 % 24, at // 60 % 60, at % 60), strict=True)
    ):
        at += 1
    assert rig.wait_for_event() == pytest.approx(at - second, abs=1e-5)


def test_reset_clears_enables_and_flags(rig: Rig) -> None:
    rig.put(B, 0x72)
    rig.time += 1
    rig.device.tick()
    assert rig.irq.level
    rig.device.reset()
    assert not rig.irq.level
    assert rig.get(C) == 0
    assert rig.get(B) == 0x02


# -- What kernels do --------------------------------------------------------------------------------------------------


def test_linux_reads_the_time(rig: Rig) -> None:
    """mc146818_get_time: not in an update, read all, then seconds again to see that none came between."""
    assert not rig.get(A) & 0x80
    reg_d = rig.get(D)
    assert reg_d == 0x80  # more bits would mean that there is no RTC
    seconds = rig.get(SECONDS)
    fields = rig.clock()
    assert not rig.get(A) & 0x80
    assert rig.get(SECONDS) == seconds
    assert not rig.get(B) & 0x04
    century, year, month, day, hours, minutes, seconds = (int(f"{field:x}") for field in fields)
    assert calendar.timegm((century * 100 + year, month, day, hours, minutes, seconds)) == START


def test_a_kernel_counts_time_with_the_periodic_interrupt(rig: Rig) -> None:
    rig.put(A, rig.get(A) & 0xF0 | 0x0F)
    rig.put(B, rig.get(B) | 0x40)
    rig.get(C)
    ticks = 0
    begin = rig.time
    while rig.time < begin + 9.9:
        rig.wait_for_event()
        ticks += 1
        rig.get(C)
    assert ticks == 20


# -- State ------------------------------------------------------------------------------------------------------------

OPERATION = st.one_of(
    st.tuples(st.just("get"), st.integers(0, 127)),
    st.tuples(st.just("get"), st.integers(0, 13)),
    st.tuples(st.just("put"), st.integers(0, 13), st.integers(0, 255)),
    st.tuples(st.just("put"), st.integers(0, 127), st.integers(0, 255)),
    st.tuples(st.just("tick")),
    st.tuples(st.just("wait"), st.floats(0, 100_000)),
    st.tuples(st.just("raw"), st.integers(0, 1), st.integers(0, 255)),
)


def perform(rig: Rig, operation: tuple[Any, ...]) -> object:
    match operation:
        case ("get", index):
            value = rig.get(index)
            assert 0 <= value <= 255
            return value
        case ("put", index, value):
            rig.put(index, value)
        case ("raw", offset, value):
            rig.device.write(offset, 1, value)
            return rig.device.read(offset, 1)
        case ("tick",):
            rig.device.tick()
        case ("wait", duration):
            rig.time += duration
    return rig.device.next_event()


@settings(max_examples=150)
@given(st.lists(OPERATION, max_size=30), st.lists(OPERATION, max_size=30))
def test_a_restored_clock_behaves_as_the_saved_one(before: list[Any], after: list[Any]) -> None:
    rig = Rig()
    for operation in before:
        perform(rig, operation)
    twin = Rig(rig.time, low_ram=1 * GIB)
    rig.save_into(twin)
    for operation in after:
        assert perform(twin, operation) == perform(rig, operation), operation
        assert twin.irq.level == rig.irq.level


@settings(max_examples=60)
@given(st.lists(st.integers(0, 99), min_size=7, max_size=7), st.sampled_from([0x02, 0x06]))
def test_any_valid_date_reads_back_as_set(digits: list[int], mode: int) -> None:
    """Any time that a calendar has, set in either encoding, is the time that is read."""
    moment = time.gmtime(sum(digit * 100**at for at, digit in enumerate(digits)) % (8000 * 31_556_952))
    rig = Rig()
    rig.put(B, mode)
    fields = [moment.tm_year // 100, moment.tm_year % 100, *moment[1:6]]
    encoded = tuple(field if mode & 4 else int(str(field), 16) for field in fields)
    rig.set_clock(*encoded)
    assert rig.clock() == encoded
    assert rig.get(WEEKDAY) == (moment.tm_wday + 1) % 7 + 1


def test_a_restored_clock_follows_the_host_that_went_on(rig: Rig) -> None:
    rig.set_clock(0x19, 0x69, 0x07, 0x20, 0x20, 0x17, 0x40)
    state = rig.device.save()
    later = Rig(START + 5)
    later.device.restore(state)
    assert later.get(SECONDS) == 0x45


VALUE = st.one_of(
    st.none(), st.just("1"), st.integers(), st.floats(), st.binary(min_size=128, max_size=128), st.integers(-1, 128)
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted(Rig().device.save())), VALUE), st.booleans(), st.booleans())
def test_a_hostile_state_raises_value_error_only(damage: dict[str, Any], repair: bool, run: bool) -> None:
    rig = Rig()
    state = {**rig.device.save(), **damage}
    if repair and isinstance(state["nvram"], bytes):
        registers = bytes((0x26 if run else 0x66, state["nvram"][B], state["nvram"][C] & 0x70, 0x80))
        state["nvram"] = state["nvram"][:A] + registers + state["nvram"][D + 1 :]
    if not rig.takes(state):
        return
    for index in range(128):
        rig.get(index)
    rig.put(B, 0x80)
    rig.put(B, 0x00)
    rig.device.next_event()
    rig.device.save()


@pytest.mark.parametrize("far", [10.0**12, -(10.0**12)])
def test_the_farthest_clock_that_can_be_restored_still_runs(far: float) -> None:
    rig = Rig()
    state = rig.device.save()
    rig.device.restore({**state, "base": -far, "epoch": int(far)})
    rig.put(B, 0x72)
    assert all(0 <= rig.get(index) <= 255 for index in range(14))
    rig.set_clock(*rig.clock())
    rig.device.next_event()


@pytest.mark.parametrize(
    "change",
    [
        {"index": 128},
        {"index": True},
        {"nvram": bytes(127)},
        {"nvram": bytes(128)},
        {"base": 0},
        {"base": float("nan")},
        {"base": float("inf")},
        {"epoch": 1 << 64},
        {"cycles": 1.0},
    ],
)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(rig: Rig, change: dict[str, Any]) -> None:
    rig.refuses({**rig.device.save(), **change}, "RTC")
