"""The keyboard controller: the PS/2 reference's commands, A20, reset, and its state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from i8042_rig import Rig

from pykvm.devices.i8042 import Port92
from pykvm.devices.ps2_keyboard import KEYS, TYPING_LIMIT
from pykvm.devices.ps2_mouse import BUTTONS, Mouse


@pytest.fixture
def rig() -> Rig:
    return Rig()


# -- Controller -------------------------------------------------------------------------------------------------------


def test_as_a_bios_leaves_it(rig: Rig) -> None:
    assert rig.status() == 0x14  # not locked, system flag
    assert rig.ask(0x20) == 0x65  # translation, mouse off, system flag, keyboard interrupt
    assert not rig.irq1.level


def test_reset_forgets_everything(rig: Rig) -> None:
    rig.command(0x60, 0x30)
    rig.keyboard(0xF5, 0xED, 0x07)
    rig.command(0xDD)
    rig.device.type_text("abc")
    rig.command(0xD3, 0x11)
    fresh = Rig()
    rig.device.reset()
    assert rig.device.save() == fresh.device.save()
    assert rig.a20 == [False, True]
    assert not rig.irq1.level
    assert not rig.irq12.level
    rig.device.type_text("a")
    rig.device.press("b")
    rig.device.reset()
    assert list(rig.drain()) == []


def test_ports_between_are_not_claimed(rig: Rig) -> None:
    assert [port for port in range(0x5F, 0x66) if rig.bus.find(port)] == [0x60, 0x64]


@pytest.mark.parametrize(("command", "answer"), [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x00), (0xA4, 0xF1), (0xC0, 0x80)])
def test_commands_that_answer(rig: Rig, command: int, answer: int) -> None:
    assert rig.ask(command) == answer
    assert not rig.status() & 1


def test_status_tells_commands_from_data(rig: Rig) -> None:
    rig.outb(0x64, 0x60)
    assert rig.status() & 8
    rig.outb(0x60, 0x45)
    assert not rig.status() & 8
    assert rig.ask(0x20) == 0x45


def test_command_byte_bits_follow_the_enable_commands(rig: Rig) -> None:
    rig.command(0xAD)
    assert rig.ask(0x20) & 0x10
    rig.command(0xAE)
    assert not rig.ask(0x20) & 0x10
    rig.command(0xA8)
    assert not rig.ask(0x20) & 0x20
    rig.command(0xA7)
    assert rig.ask(0x20) & 0x20


def test_system_flag_of_the_command_byte_shows_in_status(rig: Rig) -> None:
    rig.command(0x60, 0x61)
    assert not rig.status() & 4
    assert rig.ask(0xAA) == 0x55
    assert rig.status() & 4


def test_controller_memory(rig: Rig) -> None:
    rig.command(0x7F, 0xAB)
    assert rig.ask(0x3F) == 0xAB
    assert rig.ask(0x20) == 0x65


def test_a_command_cancels_one_that_waits_for_its_argument(rig: Rig) -> None:
    rig.command(0x60)
    assert rig.ask(0xAA) == 0x55
    rig.outb(0x60, 0xEE)  # to the keyboard, not to the command byte
    assert rig.data() == 0xEE
    assert rig.ask(0x20) == 0x65


def test_empty_output_buffer_reads_its_last_byte(rig: Rig) -> None:
    rig.ask(0xAA)
    assert rig.data() == 0x55
    assert not rig.status() & 1


def test_loops_to_the_output_buffer(rig: Rig) -> None:
    rig.command(0xD2, 0x5A)
    assert rig.status() & 0x21 == 0x01
    assert rig.irq1.level
    assert rig.data() == 0x5A
    rig.command(0x60, 0x45)
    rig.command(0xD3, 0xA5)
    assert not rig.irq12.level
    rig.command(0x60, 0x47)
    assert rig.status() & 0x21 == 0x21
    assert rig.irq12.level
    assert not rig.irq1.level
    assert rig.data() == 0xA5
    assert not rig.irq12.level
    assert not rig.status() & 0x21


def test_the_mouse_answers_at_its_own_port(rig: Rig) -> None:
    rig.command(0x60, 0x47 | 0x20)  # both interrupts; the mouse port off
    rig.device.press("a")
    rig.command(0xD4, 0xFF)  # which switches it on
    answers = []
    while rig.status() & 0x20 or not answers:
        if rig.status() & 0x20:
            assert (rig.irq12.level, rig.irq1.level) == (True, False)
            answers.append(rig.data())
        else:
            assert rig.data() == 0x1E  # the key was in the output buffer already
    assert answers == [0xFA, 0xAA, 0x00]
    assert not rig.irq12.level
    rig.command(0xA7)
    rig.mouse(0xF4)
    rig.command(0xA7)
    rig.device.move_mouse(1, 1, 0)
    assert not rig.status() & 1
    rig.command(0xA8)
    assert list(rig.drain()) == [0x08, 1, 1]


# -- A20 and reset ----------------------------------------------------------------------------------------------------


def test_a20_by_output_port(rig: Rig) -> None:
    assert rig.ask(0xD0) & 0x03 == 0x03
    rig.command(0xD1, 0xDD)
    assert rig.a20 == [False]
    assert rig.ask(0xD0) & 0x03 == 0x01
    rig.command(0xD1, 0xDF)
    assert rig.a20 == [False, True]
    assert rig.resets == 0


def test_a20_by_command(rig: Rig) -> None:
    rig.command(0xDD)
    rig.command(0xDF)
    rig.command(0xDF)
    assert rig.a20 == [False, True]


def test_output_port_shows_the_interrupt_lines(rig: Rig) -> None:
    rig.device.press("a")
    rig.command(0xD0)
    assert rig.data() == 0x1E
    assert rig.data() & 0x30 == 0x10
    rig.command(0x60, 0x47)
    rig.command(0xD3, 0x00)
    rig.command(0xD0)
    assert rig.data() == 0x00
    assert rig.data() & 0x30 == 0x20
    rig.command(0xAD)
    assert not rig.ask(0xD0) & 0x30


@pytest.mark.parametrize(("command", "resets"), [(0xFE, 1), (0xF0, 1), (0xFC, 1), (0xFF, 0), (0xF1, 0), (0xFD, 0)])
def test_pulse_commands(rig: Rig, command: int, resets: int) -> None:
    rig.command(command)
    assert rig.resets == resets


def test_output_port_bit_0_low_resets(rig: Rig) -> None:
    rig.command(0xD1, 0x02)
    assert rig.resets == 1


def test_port_92() -> None:
    resets: list[bool] = []
    a20: list[bool] = []
    port = Port92(lambda: resets.append(True), a20.append)
    assert port.read(0, 1) == 0x02
    port.write(0, 1, 0x00)
    port.write(0, 1, 0xFE)
    assert a20 == [False, True]
    assert port.read(0, 1) == 0x02
    assert resets == []
    port.write(0, 1, 0x02)
    port.restore(port.save())
    assert a20 == [False, True]
    port.write(0, 1, 0x03)
    port.write(0, 1, 0x03)
    assert resets == [True]
    port.write(0, 1, 0x00)
    state = port.save()
    port.reset()
    assert a20 == [False, True, False, True]
    assert port.read(0, 1) == 0x02
    port.restore(state)
    assert port.read(0, 1) == 0x00
    assert a20[-1] is False
    for bad in ({}, {"value": 4}, {"value": None}, {"value": -1}):
        with pytest.raises(ValueError, match="port 92"):
            port.restore(bad)


# -- State ------------------------------------------------------------------------------------------------------------


COMMANDS = st.one_of(
    st.integers(0, 255),
    st.sampled_from([0x20, 0x60, 0xA7, 0xA8, 0xAA, 0xAD, 0xAE, 0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xDD, 0xDF]),
)
DATA = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 2, 0xED, 0xF0, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xFE, 0xFF]))
OPERATION = st.one_of(
    st.tuples(st.just("status")),
    st.tuples(st.just("data")),
    st.tuples(st.just("command"), COMMANDS),
    st.tuples(st.just("write"), DATA),
    st.tuples(st.sampled_from(["press", "release"]), st.sampled_from(sorted(KEYS))),
    st.tuples(st.just("type"), st.text("aZ#\n\x01", max_size=12)),
    st.tuples(st.just("mouse"), st.sampled_from([*range(0xE6, 0x100), 3, 80, 100, 200])),
    st.tuples(st.just("move"), *[st.integers(-300, 300)] * 3),
    st.tuples(st.just("hold"), st.sampled_from(sorted(BUTTONS)), st.booleans()),
)


def perform(rig: Rig, operation: tuple[Any, ...]) -> object:
    match operation:
        case ("status",):
            return rig.status()
        case ("data",):
            return rig.data()
        case ("command", value):
            rig.outb(0x64, value)
        case ("write", value):
            rig.outb(0x60, value)
        case ("press", key):
            rig.device.press(key)
        case ("release", key):
            rig.device.release(key)
        case ("type", text):
            rig.device.type_text(text)
        case ("mouse", value):
            rig.command(0xD4, value)
        case ("move", right, up, wheel):
            rig.device.move_mouse(right, up, wheel)
        case ("hold", button, down):
            rig.device.hold_button(button, down)
    return None


@settings(max_examples=150)
@given(st.lists(OPERATION, max_size=40), st.lists(OPERATION, max_size=40))
def test_a_restored_controller_behaves_as_the_saved_one(before: list[Any], after: list[Any]) -> None:
    rig = Rig()
    for operation in before:
        perform(rig, operation)
    twin = Rig()
    rig.save_into(twin)
    for moves in (rig.a20, twin.a20, rig.edges, twin.edges):
        moves.clear()
    rig.resets = 0
    for operation in after:
        assert perform(twin, operation) == perform(rig, operation), operation
        assert (twin.irq1.level, twin.irq12.level) == (rig.irq1.level, rig.irq12.level)
    assert (twin.edges, twin.resets, twin.a20) == (rig.edges, rig.resets, rig.a20)
    keyboard = rig.device.save()["keyboard"]
    assert len(keyboard["buffer"]) <= 17
    assert len(keyboard["responses"]) <= 3


def test_state_is_plain_data(rig: Rig) -> None:
    rig.device.type_text("Hello")
    rig.command(0xD3, 0x77)
    assert json.loads(json.dumps(rig.device.save(), default=list))["reply"] == 0x2077


VALUE = st.one_of(
    st.none(),
    st.just("1"),
    st.booleans(),
    st.integers(-1, 0x400),
    st.binary(max_size=32),
    st.lists(st.integers(0, 0x1E0FF), max_size=4),
    st.just({}),
)


@settings(max_examples=200)
@example({"mouse": {}}, {})
@example({"mouse": Mouse().save()}, {"leds": 9})
@given(
    st.dictionaries(st.sampled_from(sorted(Rig().device.save())), VALUE, max_size=2),
    st.dictionaries(st.sampled_from(sorted(Rig().device.keyboard.save())), VALUE, max_size=2),
)
def test_a_hostile_state_raises_value_error_only(damage: dict[str, Any], keyboard: dict[str, Any]) -> None:
    rig = Rig()
    before = rig.device.save()
    if not rig.takes({**before, "keyboard": {**before["keyboard"], **keyboard}, **damage}):
        return
    rig.codes("a", "pause")
    rig.keyboard(0xFF, 0xF2)
    rig.command(0xAA)


@pytest.mark.parametrize(
    "change",
    [
        {"ram": bytes(31)},
        {"reply": 0x1000},
        {"reply": -1},
        {"status": 0x04},
        {"status": 0x12},
        {"argument_of": 0xAA},
        {"a20": 2},
        {"keyboard": None},
        {"keyboard": {}},
    ],
)
def test_a_state_that_cannot_be_is_refused(rig: Rig, change: dict[str, Any]) -> None:
    rig.refuses({**rig.device.save(), **change}, "state field")


@pytest.mark.parametrize(
    "change",
    [
        {"buffer": bytes(18)},
        {"responses": bytes(4)},
        {"typed": [0x60]},
        {"typed": [True]},
        {"typed": [0x1E] * (TYPING_LIMIT + 1)},
        {"scan_set": 0},
        {"scan_set": 3},
        {"argument_of": 0xEE},
    ],
)
def test_a_keyboard_state_that_cannot_be_is_refused(rig: Rig, change: dict[str, Any]) -> None:
    state = rig.device.save()
    rig.refuses({**state, "keyboard": {**state["keyboard"], **change}}, "state field")
