"""The PS/2 mouse alone: its commands, its packets, and that none of what the host does is lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.devices.ps2_mouse import BUTTONS, COUNTS_MOST, QUEUE_LIMIT, Mouse

ACK = 0xFA


def said(mouse: Mouse) -> list[int]:
    got = []
    while (byte := mouse.next_byte()) is not None:
        got.append(byte)
    return got


def told(mouse: Mouse, *commands: int) -> list[int]:
    got = []
    for command in commands:
        mouse.receive(command)
        got += said(mouse)
    return got


@pytest.fixture
def mouse() -> Mouse:
    made = Mouse()
    assert told(made, 0xF4) == [ACK]
    return made


def test_a_reset_tells_that_it_works_and_what_it_is(mouse: Mouse) -> None:
    assert told(mouse, 0xFF) == [ACK, 0xAA, 0x00]
    mouse.move(1, 0, 0)
    assert said(mouse) == [], "it does not report before it is told to"
    assert told(mouse, 0xE9) == [ACK, 0x00, 2, 100]


def test_a_packet_has_signs_buttons_and_a_fixed_bit(mouse: Mouse) -> None:
    mouse.move(-1, 2, 0)
    assert said(mouse) == [0x18, 0xFF, 2]
    mouse.move(3, -4, 0)
    assert said(mouse) == [0x28, 3, 0xFC]
    for button, bits in (("left", 0x09), ("middle", 0x0D), ("right", 0x0F), ("side", 0x0F)):
        mouse.hold(button, True)
        assert said(mouse) == [bits, 0, 0]


def test_more_than_a_packet_holds_goes_on_in_the_next(mouse: Mouse) -> None:
    mouse.move(600, 0, 0)
    assert said(mouse) == [0x08, 255, 0, 0x08, 255, 0, 0x08, 90, 0]


def test_a_wheel_is_told_of_after_the_knock(mouse: Mouse) -> None:
    mouse.move(0, 0, 1)
    assert said(mouse) == [0x08, 0, 0]
    told(mouse, 0xF3, 200, 0xF3, 100, 0xF3, 80)
    assert told(mouse, 0xF2) == [ACK, 3]
    mouse.move(0, 0, -1)
    assert said(mouse) == [0x08, 0, 0, 0xFF]
    mouse.move(0, 0, 20)
    assert said(mouse) == [0x08, 0, 0, 7, 0x08, 0, 0, 7, 0x08, 0, 0, 6]
    told(mouse, 0xFF)
    assert told(mouse, 0xF2) == [ACK, 0]


def test_scaling_is_for_the_stream(mouse: Mouse) -> None:
    assert told(mouse, 0xE7) == [ACK]
    for counts, scaled in ((1, 1), (2, 1), (3, 3), (4, 6), (5, 9), (6, 12), (-5, -9)):
        mouse.move(counts, 0, 0)
        assert said(mouse)[1] == scaled & 0xFF
    told(mouse, 0xF0)
    mouse.move(5, 0, 0)
    assert said(mouse) == []
    assert told(mouse, 0xEB) == [ACK, 0x08, 5, 0]
    assert told(mouse, 0xEB) == [ACK, 0x08, 0, 0]


def test_wrap_mode_echoes_all_but_its_end_and_a_reset(mouse: Mouse) -> None:
    assert told(mouse, 0xEE, 0xF4, 0x00, 0xE9) == [ACK, 0xF4, 0x00, 0xE9]
    mouse.move(1, 0, 0)
    assert said(mouse) == []
    assert told(mouse, 0xEC) == [ACK, 0x08, 1, 0]


def test_what_it_does_not_know_it_wants_again(mouse: Mouse) -> None:
    assert told(mouse, 0x00) == [0xFE]
    assert told(mouse, 0xF3, 123, 40) == [ACK, 0xFE, ACK]
    assert told(mouse, 0xE8, 4, 1) == [ACK, 0xFE, ACK]
    assert told(mouse, 0xE9) == [ACK, 0x20, 1, 40]
    assert told(mouse, 0xFE) == [40]


def test_names_and_counts_that_cannot_be(mouse: Mouse) -> None:
    with pytest.raises(ValueError, match="no mouse button 'middel'"):
        mouse.hold("middel", True)
    with pytest.raises(ValueError, match="at most 32768 counts"):
        mouse.move(COUNTS_MOST + 1, 0, 0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.integers(-700, 700), st.integers(-700, 700)), st.tuples(st.sampled_from(sorted(BUTTONS)), st.booleans())
    ),
    max_size=60,
)  # fmt: skip


@given(ACTIONS, st.integers(0, 60))
def test_nothing_that_the_host_does_is_lost(actions: list[tuple[object, object]], read_at: int) -> None:
    mouse, read = Mouse(), []
    told(mouse, 0xF4)
    right = up = held = 0
    holds = [0]
    for number, (one, other) in enumerate(actions):
        if isinstance(one, str):
            mouse.hold(one, bool(other))
            held = held | BUTTONS[one] if other else held & ~BUTTONS[one]
            holds.append(held & 7)
        else:
            assert isinstance(one, int)
            assert isinstance(other, int)
            mouse.move(one, other, 0)
            right, up = right + one, up + other
        if number == read_at:
            read += said(mouse)
    read += said(mouse)
    packets = [read[at : at + 3] for at in range(0, len(read), 3)]
    assert sum(packet[1] - (packet[0] << 4 & 0x100) for packet in packets) == right
    assert sum(packet[2] - (packet[0] << 3 & 0x100) for packet in packets) == up
    seen = [packet[0] & 7 for packet in packets]
    assert [new for old, new in pairwise([0, *seen]) if new != old] == [
        new for old, new in pairwise(holds) if new != old
    ]


def test_what_waits_has_a_bound() -> None:
    mouse = Mouse()
    for number in range(3 * QUEUE_LIMIT):
        mouse.hold("left", number % 2 == 0)
        mouse.move(COUNTS_MOST, 0, 0)
    assert len(mouse.save()["changes"]) <= QUEUE_LIMIT
    mouse.restore(mouse.save())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("held", 32), ("identifier", 2), ("rate", 50), ("rates", b"\1"), ("scaling", 0), ("argument_of", 1),
        ("packet", b"12345"), ("responses", None), ("changes", [[0, 0, 0]]), ("changes", [[0, 0, 0, 32]]),
        ("changes", [[1 << 20, 0, 0, 0]]), ("changes", [[0, 0, 0, 0]] * (QUEUE_LIMIT + 1)), ("wrapping", 2),
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_is_refused(mouse: Mouse, name: str, value: object) -> None:
    with pytest.raises(ValueError, match="mouse: "):
        mouse.restore({**mouse.save(), name: value})
