"""The NE2000 under hostile guests, and its state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ne2000_rig import (
    BASE,
    BNRY,
    BROADCAST,
    CR,
    CURR,
    DATA,
    DCR,
    IMR,
    MAC,
    OTHER,
    PSTART,
    PSTOP,
    RBCR1,
    RCR,
    TBCR1,
    TCR,
    Rig,
    frame_to,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def running(rig: Rig) -> Rig:
    rig.start()
    return rig


# -- Hostile guests ---------------------------------------------------------------------------------------------------


ACCESS = st.tuples(st.integers(0, 0x1F), st.sampled_from((1, 2, 4)), st.integers(0, 0xFFFFFFFF))
LIKELY = st.tuples(
    st.sampled_from((CR, CR, CR, PSTART, PSTOP, BNRY, CURR, RBCR1, TBCR1, RCR, TCR, DCR, IMR)),
    st.just(1),
    st.sampled_from((0x00, 0x0A, 0x12, 0x1A, 0x22, 0x26, 0x62, 0x40, 0x4C, 0x7F, 0x80, 0xFF, 0x04, 0x1F)),
)


@settings(max_examples=200)
@given(st.lists(st.one_of(ACCESS, LIKELY, st.integers(0, 1600)), max_size=60), st.booleans())
def test_no_access_raises(steps: list[tuple[int, int, int] | int], started: bool) -> None:
    rig = Rig()
    if started:
        rig.start(0x1C)
    for step in steps:
        if isinstance(step, int):
            rig.wire.arrive(frame_to(BROADCAST, 60)[:step] + bytes(max(0, step - 60)))
            continue
        offset, size, value = step
        rig.bus.write(BASE + offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= rig.bus.read(BASE + offset, size) < 1 << 8 * size
        assert len(rig.bus.read_block(BASE + offset, size, 3)) == 3 * size
        rig.bus.write_block(BASE + offset, size, bytes(3 * size))
    assert all(14 <= len(frame) <= 1514 for frame in rig.wire.sent)
    assert rig.irq.level == (rig.device.chip.isr & rig.device.chip.imr != 0)
    rig.device.restore(rig.device.save())
    rig.device.reset()
    assert rig.inb(CR) == 0x21


# -- Snapshots --------------------------------------------------------------------------------------------------------


def test_save_and_restore_in_the_middle_of_a_transfer(running: Rig) -> None:
    frame = frame_to(MAC, 200, 9)
    running.wire.arrive(frame)
    running.remote(0x4C04, 200, 0x0A)
    head = running.ins(DATA, 10, 2)

    other = Rig()
    state = running.save_into(other)
    assert other.irq.level
    assert head + other.ins(DATA, 90, 2) == frame
    assert other.device.save()["ram"] == state["ram"]
    other.transmit(frame_to(OTHER))
    other.wire.arrive(frame)
    assert other.wire.sent == [frame_to(OTHER)]
    assert other.receive() == [frame, frame]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: None,
        lambda state: {},
        lambda state: state | {"more": 1},
        lambda state: state | {"ram": b""},
        lambda state: state | {"mac": "525400"},
        lambda state: state | {"chip": None},
        lambda state: state | {"chip": state["chip"] | {"current": 256}},
        lambda state: state | {"chip": state["chip"] | {"fifo_at": 8}},
        lambda state: state | {"chip": state["chip"] | {"isr": True}},
        lambda state: state | {"chip": state["chip"] | {"remote_count": -1}},
        lambda state: state | {"chip": state["chip"] | {"physical": bytes(7)}},
        lambda state: state | {"chip": {"command": 1}},
    ],
)
def test_a_hostile_state_is_refused_and_changes_nothing(running: Rig, spoil: Any) -> None:
    running.refuses(spoil(running.device.save()), "ne0")
