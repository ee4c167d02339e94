"""The keyboard behind the controller: its commands, scan codes and buffer."""

from __future__ import annotations

import pytest
from i8042_rig import Rig

from pykvm.devices.ps2_keyboard import KEYS


@pytest.fixture
def rig() -> Rig:
    return Rig()


# -- Keyboard commands ------------------------------------------------------------------------------------------------


def test_keyboard_reset_passes_its_self_test(rig: Rig) -> None:
    assert rig.keyboard(0xFF) == [0xFA, 0xAA]


def test_keyboard_commands(rig: Rig) -> None:
    rig.command(0x60, 0x25)  # translation off
    assert rig.keyboard(0xEE) == [0xEE]
    assert rig.keyboard(0xF2) == [0xFA, 0xAB, 0x83]
    assert rig.keyboard(0xED, 0x05) == [0xFA, 0xFA]
    assert rig.device.keyboard.leds == 5
    assert rig.keyboard(0xF3, 0x20) == [0xFA, 0xFA]
    assert rig.keyboard(0xF0, 0x00) == [0xFA, 0xFA, 0x02]
    assert rig.keyboard(0xF0, 0x01) == [0xFA, 0xFA]
    assert rig.keyboard(0xF0, 0x00) == [0xFA, 0xFA, 0x01]
    assert rig.keyboard(0xF0, 0x03) == [0xFA, 0xFE]  # there is no set 3
    assert rig.keyboard(0xF6) == [0xFA]
    assert rig.keyboard(0xF0, 0x00) == [0xFA, 0xFA, 0x02]
    assert rig.device.keyboard.leds == 0
    assert rig.keyboard(0x00) == [0xFE]


def test_defaults_and_reset_forget_keys_leds_and_scan_set(rig: Rig) -> None:
    for command, answer in ((0xF5, [0xFA]), (0xF6, [0xFA]), (0xFF, [0xFA, 0xAA])):
        rig.command(0x60, 0x25)
        rig.keyboard(0xF4, 0xED, 0x07, 0xF0, 0x01)
        rig.command(0xAD)
        rig.device.press("a")
        assert rig.keyboard(command) == answer
        assert rig.device.keyboard.leds == 0
        assert rig.codes("a") == ([] if command == 0xF5 else [0x1C, 0xF0, 0x1C])


def test_enabling_scanning_forgets_keys_pressed_before(rig: Rig) -> None:
    rig.command(0xAD)
    rig.device.press("a")
    assert rig.keyboard(0xF4) == [0xFA]


@pytest.mark.parametrize("command", [0xF7, 0xF8, 0xF9, 0xFA])
def test_how_keys_repeat_in_set_3_is_taken_note_of(rig: Rig, command: int) -> None:
    assert rig.keyboard(command) == [0xFA]


def test_identity_and_scan_set_arrive_translated(rig: Rig) -> None:
    assert rig.keyboard(0xF2) == [0xFA, 0xAB, 0x41]
    assert rig.keyboard(0xF0, 0x00) == [0xFA, 0xFA, 0x41]


def test_a_command_in_place_of_an_argument_is_obeyed(rig: Rig) -> None:
    assert rig.keyboard(0xED, 0xEE) == [0xFA, 0xEE]
    assert rig.keyboard(0x02) == [0xFE]
    assert rig.device.keyboard.leds == 0


def test_resend(rig: Rig) -> None:
    rig.command(0x60, 0x25)
    assert rig.codes("a")[-1] == 0x1C
    assert rig.keyboard(0xFE) == [0x1C]


def test_disabled_scanning_sends_nothing_and_answers_still(rig: Rig) -> None:
    assert rig.keyboard(0xF5) == [0xFA]
    assert rig.codes("a") == []
    assert rig.keyboard(0xEE, 0xF4) == [0xEE, 0xFA]
    assert rig.codes("a") == [0x1E, 0x9E]


def test_an_answer_comes_before_keys_already_pressed(rig: Rig) -> None:
    rig.command(0xAD)
    rig.device.press("a")
    assert not rig.status() & 1
    assert rig.keyboard(0xEE) == [0xEE, 0x1E]  # data for the keyboard enables its port again
    assert not rig.ask(0x20) & 0x10


# -- Scan codes -------------------------------------------------------------------------------------------------------


CODES = [
    ("a", "1e 9e", "1c f0 1c"),
    ("7", "08 88", "3d f0 3d"),
    ("f7", "41 c1", "83 f0 83"),
    ("f9", "43 c3", "01 f0 01"),
    ("f12", "58 d8", "07 f0 07"),
    ("space", "39 b9", "29 f0 29"),
    ("enter", "1c 9c", "5a f0 5a"),
    ("right_shift", "36 b6", "59 f0 59"),
    ("kp_5", "4c cc", "73 f0 73"),
    ("kp_*", "37 b7", "7c f0 7c"),
    ("iso", "56 d6", "61 f0 61"),
    ("up", "e0 48 e0 c8", "e0 75 e0 f0 75"),
    ("delete", "e0 53 e0 d3", "e0 71 e0 f0 71"),
    ("right_ctrl", "e0 1d e0 9d", "e0 14 e0 f0 14"),
    ("kp_/", "e0 35 e0 b5", "e0 4a e0 f0 4a"),
    ("menu", "e0 5d e0 dd", "e0 2f e0 f0 2f"),
    ("print_screen", "e0 2a e0 37 e0 b7 e0 aa", "e0 12 e0 7c e0 f0 7c e0 f0 12"),
    ("pause", "e1 1d 45 e1 9d c5", "e1 14 77 e1 f0 14 f0 77"),
]


@pytest.mark.parametrize(("key", "set_1", "set_2"), CODES)
def test_scan_codes(rig: Rig, key: str, set_1: str, set_2: str) -> None:
    assert bytes(rig.codes(key)).hex(" ") == set_1  # set 2 translated
    rig.command(0x60, 0x25)
    assert bytes(rig.codes(key)).hex(" ") == set_2
    rig.keyboard(0xF0, 0x01)
    assert bytes(rig.codes(key)).hex(" ") == set_1


def test_all_keys_have_their_own_code(rig: Rig) -> None:
    rig.command(0x60, 0x25)
    assert len({tuple(rig.codes(key)) for key in KEYS}) == len(KEYS) == 104 + 1


def test_unknown_keys_and_characters_are_refused(rig: Rig) -> None:
    for call in (rig.device.press, rig.device.release):
        with pytest.raises(ValueError, match="no key 'any'"):
            call("any")
    with pytest.raises(ValueError, match="é"):
        rig.device.type_text("café")
    assert list(rig.drain()) == []


# -- Buffer and interrupts --------------------------------------------------------------------------------------------


def test_each_byte_makes_an_edge(rig: Rig) -> None:
    rig.device.press("up")
    assert rig.rises == 1
    assert rig.data() == 0xE0
    assert rig.rises == 2
    assert rig.data() == 0x48
    assert rig.rises == 2
    assert not rig.irq1.level


def test_interrupt_needs_its_enable_bit_and_the_port(rig: Rig) -> None:
    rig.command(0x60, 0x64)
    rig.device.press("a")
    assert rig.status() & 1
    assert not rig.irq1.level
    rig.command(0x60, 0x65)
    assert rig.irq1.level
    rig.command(0xAD)
    assert not rig.irq1.level


def test_keys_wait_in_the_keyboard_while_its_port_is_off(rig: Rig) -> None:
    rig.command(0xAD)
    rig.device.press("a")
    assert not rig.status() & 1
    rig.command(0xAE)
    assert rig.irq1.level
    assert rig.data() == 0x1E


def test_a_full_keyboard_sends_an_overrun_code_in_place_of_lost_keys(rig: Rig) -> None:
    rig.command(0xAD)
    for _ in range(40):
        rig.device.press("a")
    rig.command(0xAE)
    assert list(rig.drain()) == [0x1E] * 16 + [0xFF]
    rig.command(0x60, 0x35)  # no translation
    for _ in range(40):
        rig.device.press("a")
    rig.command(0xAE)
    assert list(rig.drain()) == [0x1C] * 16 + [0x00]
    rig.keyboard(0xF0, 0x01)
    rig.command(0xAD)
    for _ in range(40):
        rig.device.press("a")
    rig.command(0xAE)
    assert list(rig.drain()) == [0x1E] * 16 + [0xFF]


def test_a_sequence_is_never_cut_short(rig: Rig) -> None:
    rig.command(0x60, 0x35)
    for _ in range(5):
        rig.device.press("a")
        rig.device.release("a")  # 15 bytes now
    rig.device.press("up")
    rig.command(0xAE)
    assert list(rig.drain()) == [0x1C, 0xF0, 0x1C] * 5 + [0x00]


def test_controller_answers_overtake_keys_but_not_one_in_the_output_buffer(rig: Rig) -> None:
    rig.device.press("a")
    rig.device.press("b")
    rig.command(0xAA)
    assert list(rig.drain()) == [0x1E, 0x55, 0x30]
