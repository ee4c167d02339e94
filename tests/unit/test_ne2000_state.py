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
    ne2000 = Rig()
    if started:
        ne2000.start(0x1C)
    for step in steps:
        if isinstance(step, int):
            ne2000.wire.arrive(frame_to(BROADCAST, 60)[:step] + bytes(max(0, step - 60)))
            continue
        offset, size, value = step
        ne2000.bus.write(BASE + offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= ne2000.bus.read(BASE + offset, size) < 1 << 8 * size
        assert len(ne2000.bus.read_block(BASE + offset, size, 3)) == 3 * size
        ne2000.bus.write_block(BASE + offset, size, bytes(3 * size))
    assert all(14 <= len(frame) <= 1514 for frame in ne2000.wire.sent)
    assert ne2000.irq.level == (ne2000.device.chip.isr & ne2000.device.chip.imr != 0)
    ne2000.device.restore(ne2000.device.save())
    ne2000.device.reset()
    assert ne2000.inb(CR) == 0x21


# -- Snapshots --------------------------------------------------------------------------------------------------------


def test_save_and_restore_in_the_middle_of_a_transfer(running_ne2000: Rig) -> None:
    frame = frame_to(MAC, 200, 9)
    running_ne2000.wire.arrive(frame)
    running_ne2000.remote(0x4C04, 200, 0x0A)
    head = running_ne2000.ins(DATA, 10, 2)

    other = Rig()
    state = running_ne2000.save_into(other)
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
def test_a_hostile_state_is_refused_and_changes_nothing(running_ne2000: Rig, spoil: Any) -> None:
    running_ne2000.refuses(spoil(running_ne2000.device.save()), "ne0")
