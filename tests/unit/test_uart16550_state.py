"""The 16550A's state: saved, restored, hostile."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uart16550_rig import FCR, IER, IIR, LSR, MCR, RBR, THR, Rig, Wire, fifo_rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


OPERATION = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 7)),
    st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 255)),
    st.tuples(st.just("block"), st.integers(0, 7), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("type"), st.binary(max_size=20)),
    st.tuples(st.just("break")),
    st.tuples(st.just("stop")),
    st.tuples(st.just("unblock")),
)


def perform(rig: Rig, operation: tuple[Any, ...]) -> object:
    match operation:
        case ("read", register):
            return rig.inb(register)
        case ("write", register, value):
            rig.outb(register, value)
        case ("block", register, data):
            rig.outs(register, data)
        case ("type", data):
            rig.wire.type(data)
        case ("break",):
            rig.device.receive_break()
        case ("stop",):
            rig.wire.ready = False
        case ("unblock",):
            rig.wire.unblock()
    return None


@settings(max_examples=150)
@given(before=st.lists(OPERATION, max_size=40), after=st.lists(OPERATION, max_size=40))
def test_a_restored_uart_behaves_as_the_saved_one(before: list[Any], after: list[Any]) -> None:
    rig = Rig()
    for operation in before:
        perform(rig, operation)
    wire = Wire()
    wire.ready, wire.waiting = rig.wire.ready, rig.wire.waiting
    twin = Rig(wire)
    wire.waiting = rig.wire.waiting
    state = rig.save_into(twin)
    rig.wire.sent.clear()
    for operation in after:
        assert perform(twin, operation) == perform(rig, operation), operation
        assert twin.irq.level == rig.irq.level
    assert twin.wire.text == rig.wire.text
    assert len(state["rx"]) <= 16
    assert len(state["tx"]) <= 16


def test_output_held_when_saved_goes_out_through_a_ready_backend_when_restored() -> None:
    rig = fifo_rig()
    rig.wire.ready = False
    rig.outb(IER, 0x02)
    rig.outb(THR, 0x41)
    twin = Rig()
    twin.device.restore(rig.device.save())
    assert twin.wire.text == b"A"
    assert twin.irq.level
    assert twin.inb(IIR) == 0xC2


def test_input_that_waits_when_a_state_is_restored_is_pulled() -> None:
    rig = fifo_rig()
    rig.outb(IER, 0x01)
    wire = Wire()
    wire.waiting = b"abc"
    twin = Rig(wire)
    twin.device.restore(rig.device.save())
    assert twin.irq.level
    assert bytes(twin.inb(RBR) for _ in range(2)) == b"ab"


@pytest.mark.parametrize("how", ["LSR", "RBR", "IIR", "interrupt"])
def test_input_is_not_lost_when_the_guest_clears_the_fifos_before_it_looks(how: str) -> None:
    rig = Rig()
    assert rig.inb(LSR) == 0x60
    rig.wire.type(b"early")
    rig.outb(FCR, 0x07)
    rig.outb(MCR, 0x0B)
    assert rig.wire.waiting == b"early"
    if how == "interrupt":
        rig.outb(IER, 0x01)
        assert rig.irq.level
    elif how == "LSR":
        assert rig.inb(LSR) == 0x61
    elif how == "IIR":
        assert rig.inb(IIR) == 0xC1
    else:
        assert rig.inb(RBR) == ord("e")
    assert rig.wire.waiting == b""


@pytest.mark.parametrize(
    "change",
    [
        {"ier": 0x10},
        {"ier": -1},
        {"ier": True},
        {"lcr": "3"},
        {"msr": None},
        {"divisor": 0x10000},
        {"fcr": 0xC0},
        {"thre_pending": 1},
        {"rx": [0x100]},
        {"rx": [1, 2]},
        {"rx": b"a"},
        {"tx": b"ab"},
        {"tx": [1]},
        {"stalled": 0},
    ],
)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(change: dict[str, object]) -> None:
    rig = Rig()
    rig.refuses({**rig.device.save(), "scr": 0x77, **change}, "COM1")


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(sorted(Rig().device.save())),
        st.one_of(st.none(), st.just("3"), st.integers(), st.binary(max_size=20), st.lists(st.integers(), max_size=20)),
    )
)
def test_a_hostile_state_raises_value_error_only(damage: dict[str, Any]) -> None:
    rig = Rig()
    if not rig.takes({**rig.device.save(), **damage}):
        return
    for register in range(8):
        rig.inb(register)
    rig.outb(THR, 0x41)
