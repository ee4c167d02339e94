"""The HPET as a driver meets it, by the IA-PC HPET specification 1.0a."""

from __future__ import annotations

import pytest
from device_rig import Line
from hypothesis import given
from hypothesis import strategies as st

from pykvm.bus import MmioBus
from pykvm.devices.hpet import CLOSEST, Hpet

BASE = 0xFED00000
CONF, STATUS, COUNTER = 0x10, 0x20, 0xF0
LEVEL, ENABLED, PERIODIC, SET, MODE_32 = 2, 4, 8, 0x40, 0x100
MS = 1_000_000


class Rig:
    """A bus with an HPET, a clock, and a machine that calls `tick` when it is due."""

    def __init__(self) -> None:
        self.time = 5_000_000_000
        self.legacy, self.routed = [Line(), Line()], [Line() for _ in range(8)]
        self.replaced: list[bool] = []
        self.device = Hpet(self.legacy, self.routed, self.replaced.append, lambda: self.time)
        self.bus = MmioBus()
        self.bus.attach(self.device)

    def read(self, register: int, size: int = 8) -> int:
        return self.bus.read(BASE + register, size)

    def write(self, register: int, value: int, size: int = 8) -> None:
        self.bus.write(BASE + register, size, value)

    def set_up(self, timer: int, configuration: int, comparator: int | None = None) -> None:
        self.write(0x100 + 0x20 * timer, configuration)
        if comparator is not None:
            self.write(0x108 + 0x20 * timer, comparator)

    def run(self, nanoseconds: int) -> int:
        """Let time pass; how many events there were."""
        end, events = self.time + nanoseconds, 0
        while (due := self.device.next_event()) is not None and due <= end:
            self.time = max(self.time, due)
            self.device.tick()
            events += 1
            assert events <= nanoseconds // CLOSEST + 2
        self.time = end
        return events


def rises(line: Line) -> int:
    return line.edges.count(True)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_capabilities_are_those_of_qemus(rig: Rig) -> None:
    """Intel, revision 1, three timers, 64 bits, legacy replacement; 10,000,000 fs."""
    assert rig.read(0) == 0x00989680_8086A201
    assert (rig.read(0, 4), rig.read(4, 4)) == (0x8086A201, 10_000_000)
    rig.write(0, 0)
    assert rig.read(0, 4) == 0x8086A201
    for timer in range(3):
        assert rig.read(0x100 + 0x20 * timer) == 0x00FF0000_00000030
    assert rig.read(0x160) == rig.read(0x3F8) == 0


def test_counter_runs_while_it_is_enabled(rig: Rig) -> None:
    rig.time += MS
    assert rig.read(COUNTER) == 0
    rig.write(COUNTER, 1000)
    rig.write(CONF, 1)
    rig.time += 1_000
    assert rig.read(COUNTER) == 1100
    rig.write(CONF, 0)
    rig.time += MS
    assert rig.read(COUNTER) == 1100
    rig.write(COUNTER, (1 << 64) - 1)
    rig.write(CONF, 1)
    rig.time += 10
    assert rig.read(COUNTER) == 0
    rig.write(COUNTER + 4, 3, 4)
    assert rig.read(COUNTER + 4, 4) == 3


def test_one_shot_by_a_route_of_its_own(rig: Rig) -> None:
    rig.set_up(2, ENABLED | 21 << 9, 100_000)
    rig.write(CONF, 1)
    assert rig.run(MS - 1) == 0
    assert rig.run(1) == 1
    assert [rises(line) for line in rig.routed] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert not rig.routed[5].level
    assert rig.run(100 * MS) == 0, "not before the counter has wrapped"


def test_comparator_of_32_bits_comes_again_when_the_counter_wraps(rig: Rig) -> None:
    rig.set_up(0, ENABLED | MODE_32 | 16 << 9, 50)
    rig.write(COUNTER, (1 << 32) - 50)
    rig.write(CONF, 1)
    assert rig.run(999) == 0
    assert rig.run(CLOSEST) == 1
    assert rig.run(42_949_672_960) == 1
    assert rises(rig.routed[0]) == 2


def test_periodic_timer_in_place_of_the_8254(rig: Rig) -> None:
    """2.3.9.2.2: the first value with VAL_SET, then the period."""
    rig.write(CONF, 2)
    assert rig.replaced == [True]
    rig.write(0x100, ENABLED | PERIODIC | SET | MODE_32, 4)
    rig.write(0x108, 300_000, 4)
    rig.write(0x108, 100_000, 4)
    assert not rig.read(0x100) & SET
    rig.write(CONF, 3)
    assert rig.run(3 * MS) == 1
    assert rig.run(5 * MS) == 5
    assert rises(rig.legacy[0]) == 6
    assert rig.read(0x108) == 900_000
    rig.set_up(1, ENABLED, 900_000)
    rig.run(MS)
    assert rises(rig.legacy[1]) == 1
    rig.device.reset()
    assert rig.replaced == [True, False]


def test_periods_that_nobody_could_serve_are_joined(rig: Rig) -> None:
    rig.write(0x100, ENABLED | PERIODIC | SET | 16 << 9)
    rig.write(0x108, 1)
    rig.write(CONF, 1)
    assert 0 < rig.run(10 * MS) <= 10 * MS // CLOSEST + 2
    for period in (0, 1 << 63):
        rig.write(0x108, period)
        rig.run(MS)


def test_level_holds_its_line_until_its_status_is_cleared(rig: Rig) -> None:
    rig.set_up(0, ENABLED | LEVEL | 17 << 9, 1000)
    rig.set_up(1, LEVEL | 18 << 9, 1000)
    rig.write(CONF, 1)
    rig.run(MS)
    assert rig.read(STATUS) == 3, "a status needs no enabled interrupt"
    assert [line.level for line in rig.routed[:3]] == [False, True, False]
    rig.write(STATUS, 2)
    assert (rig.read(STATUS), rig.routed[1].level) == (1, True)
    rig.write(STATUS, 1)
    assert (rig.read(STATUS), rig.routed[1].level) == (0, False)


def test_timer_without_interrupt_or_route_asks_nobody(rig: Rig) -> None:
    rig.set_up(0, 16 << 9, 1000)
    rig.set_up(1, ENABLED | 3 << 9, 1000)
    rig.write(CONF, 1)
    rig.run(MS)
    assert not any(line.edges for line in (*rig.legacy, *rig.routed))
    rig.set_up(1, 0)
    assert rig.device.next_event() is None


def test_state_goes_to_another_one_with_its_lines(rig: Rig) -> None:
    rig.write(CONF, 2)
    rig.set_up(0, ENABLED | PERIODIC | SET, 200_000)
    rig.set_up(2, ENABLED | LEVEL | 19 << 9, 1000)
    rig.write(CONF, 3)
    rig.run(MS)
    state = rig.device.save()
    other = Rig()
    other.device.restore(state)
    assert other.device.save() == state
    assert other.replaced == [True]
    assert [line.level for line in other.routed] == [line.level for line in rig.routed]
    assert other.run(10 * MS) == rig.run(10 * MS) > 0
    assert other.device.save() == rig.device.save()


@pytest.mark.parametrize(
    "change",
    [
        {"configuration": 4},
        {"configuration": None},
        {"status": 8},
        {"counter": 1 << 64},
        {"timers": []},
        {"timers": [[0, 0, False]] * 3},
        {"timers": [[0, 0, 0, 1]] * 3},
        {"timers": [[1, 0, 0, False]] * 3},
        {"timers": [[0, -1, 0, False]] * 3},
        {"timers": [[0, 0, "0", False]] * 3},
    ],
)
def test_what_no_state_is(rig: Rig, change: dict[str, object]) -> None:
    before = rig.device.save()
    with pytest.raises(ValueError, match="HPET"):
        rig.device.restore({**before, **change})
    assert rig.device.save() == before


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x10, 0x20, 0xF0, 0xF4, 0x100, 0x108, 0x10C, 0x120, 0x128, 0x140, 0x148]),
            st.sampled_from([1, 2, 4, 8]),
            st.integers(0, (1 << 64) - 1) | st.integers(0, 0x14F),
            st.integers(0, MS),
        ),
        max_size=30,
    )
)
def test_no_writes_make_it_run_without_bound(writes: list[tuple[int, int, int, int]]) -> None:
    rig = Rig()
    for register, size, value, wait in writes:
        rig.write(register, value & (1 << 8 * size) - 1, size)
        rig.run(wait)
        assert 0 <= rig.read(register, size) < 1 << 8 * size
    state = rig.device.save()
    rig.device.restore(state)
    assert rig.device.save() == state
