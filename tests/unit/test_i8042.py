"""The keyboard controller and its keyboard: the PS/2 reference's commands, and kernels' ways with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import device_rig
import pytest
from device_rig import Line
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.i8042 import I8042, Port92
from pykvm.devices.ps2_keyboard import KEYS, TYPING_LIMIT

NORMAL = "\0\x1b1234567890-=\b\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 "
SHIFTED = '\0\x1b!@#$%^&*()_+\b\tQWERTYUIOP{}\n\0ASDFGHJKL:"~\0|ZXCVBNM<>?\0*\0 '
"""What set 1 codes 0x00 to 0x39 mean on a US keyboard, with and without shift."""


class Rig(device_rig.Rig[I8042]):
    def __init__(self) -> None:
        self.resets = 0
        self.a20: list[bool] = []
        self.irq1, self.irq12 = Line(), Line()
        super().__init__(I8042(self.irq1, self.irq12, self.on_reset, self.a20.append), self.irq1)

    def on_reset(self) -> None:
        self.resets += 1

    def status(self) -> int:
        return self.inb(0x64)

    def data(self) -> int:
        return self.inb(0x60)

    def command(self, command: int, *arguments: int) -> None:
        self.outb(0x64, command)
        for argument in arguments:
            self.outb(0x60, argument)

    def ask(self, command: int, *arguments: int) -> int:
        """A controller command that is answered."""
        self.command(command, *arguments)
        assert self.status() & 1
        return self.data()

    def drain(self) -> Iterator[int]:
        while self.status() & 1:
            yield self.data()

    def keyboard(self, *data: int) -> list[int]:
        """Send bytes to the keyboard, each after the answers to the one before; all answers."""
        answers: list[int] = []
        for byte in data:
            self.outb(0x60, byte)
            answers += self.drain()
        return answers

    def codes(self, *keys: str) -> list[int]:
        """What arrives when the keys are pressed and let go in turn."""
        got: list[int] = []
        for key in keys:
            self.device.press(key)
            got += self.drain()
            self.device.release(key)
            got += self.drain()
        return got


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


def test_nothing_is_plugged_into_the_mouse_port(rig: Rig) -> None:
    rig.command(0xD4, 0xFF)
    assert rig.status() & 0x61 == 0x61  # timeout, mouse data, output buffer full
    assert rig.data() == 0xFE
    assert not rig.status() & 0x61


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


# -- Typing -----------------------------------------------------------------------------------------------------------


def test_typing_presses_shift_and_control(rig: Rig) -> None:
    rig.device.type_text("aA\x03")
    assert bytes(rig.drain()).hex(" ") == "1e 9e 2a 1e 9e aa 1d 2e ae 9d"


def test_keys_pressed_while_text_is_typed_come_after_it(rig: Rig) -> None:
    rig.device.type_text("ls")
    rig.device.press("enter")
    assert bytes(rig.drain()).hex(" ") == "26 a6 1f 9f 1c"


def test_text_waits_for_scanning_to_be_enabled(rig: Rig) -> None:
    rig.keyboard(0xF5)
    rig.device.type_text("x" * 50)
    assert list(rig.drain()) == []
    assert rig.keyboard(0xF4) == [0xFA] + [0x2D, 0xAD] * 50


def test_typing_is_bounded(rig: Rig) -> None:
    rig.device.type_text("x" * (TYPING_LIMIT // 2))
    with pytest.raises(ValueError, match="wait for the guest"):
        rig.device.type_text("xx")
    for _ in range(20):
        rig.device.press("a")
    assert len(rig.device.save()["keyboard"]["typed"]) == TYPING_LIMIT
    assert sum(1 for _ in rig.drain()) == TYPING_LIMIT + 1  # one press found the room that the first key left


class Xv6Console:
    """kbd.c of xv6: an interrupt reads until the output buffer is empty; shift state and the E0 escape are kept."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.shift = False
        self.extended = False
        self.text = ""

    def run(self) -> None:
        seen = 0
        while self.rig.rises != seen:
            seen = self.rig.rises
            while self.rig.bus.read(0x64, 1) & 0x01:
                self.scan(self.rig.bus.read(0x60, 1))

    def scan(self, code: int) -> None:
        if code == 0xE0:
            self.extended = True
        elif code & 0x7F in (0x2A, 0x36) and not self.extended:
            self.shift = not code & 0x80
        elif code & 0x80:
            self.extended = False
        else:
            self.text += (SHIFTED if self.shift else NORMAL)[code]
            self.extended = False


@settings(max_examples=40)
@given(st.text("".join(chr(code) for code in range(0x20, 0x7F)) + "\n\t\b\x1b", max_size=200))
def test_xv6_reads_what_is_typed(text: str) -> None:
    rig = Rig()
    console = Xv6Console(rig)
    rig.device.type_text(text)
    console.run()
    assert console.text == text


def test_pintos_reads_one_scan_code_an_interrupt(rig: Rig) -> None:
    """devices/kbd.c of Pintos never looks at the status port: an interrupt is one byte, or two with the E0 prefix."""
    rig.device.press("a")
    rig.device.press("right")
    rig.device.release("a")
    codes = []
    handled = 0
    while handled < rig.rises:
        handled = rig.rises
        code = rig.bus.read(0x60, 1)
        if code == 0xE0:
            code = 0xE000 | rig.bus.read(0x60, 1)
        codes.append(code)
    assert codes == [0x1E, 0xE04D, 0x9E]


def test_linux_finds_controller_and_keyboard(rig: Rig) -> None:
    """drivers/input: the steps of i8042.c (flush, self test, command byte, mouse port tests) and atkbd.c (probe)."""
    rig.device.press("esc")
    flushed = list(rig.drain())
    assert len(flushed) <= 16
    assert rig.ask(0xAA) == 0x55

    control = rig.ask(0x20)
    assert rig.ask(0x20) == control
    assert rig.status() & 0x10  # key lock open
    assert control & 0x40  # translated
    control = (control | 0x10) & ~0x01
    rig.command(0x60, control)
    assert list(rig.drain()) == []
    assert rig.ask(0x20) == control

    # Mouse port: loopback, then the enable bit must follow the commands, then the multiplexer's magic must fail.
    rig.command(0xD3, 0x5A)
    assert rig.status() & 0x20
    assert rig.data() == 0x5A
    rig.command(0xA7)
    assert rig.ask(0x20) & 0x20
    rig.command(0xA8)
    assert not rig.ask(0x20) & 0x20
    assert [rig.ask(0xD3, byte) for byte in (0xF0, 0x56, 0xA4)] == [0xF0, 0x56, 0xA4]
    control = (control & ~0x20) | 0x02
    rig.command(0x60, control)
    rig.command(0xD3, 0xA5)
    assert rig.irq12.level
    assert rig.data() == 0xA5

    # Keyboard: enabled with its interrupt; every answer comes with an edge.
    control = (control & ~0x10) | 0x01
    rig.command(0x60, control)
    rises = rig.rises
    assert rig.keyboard(0xF2) == [0xFA, 0xAB, 0x41]
    assert rig.rises - rises == 3
    assert rig.keyboard(0xF5) == [0xFA]
    assert rig.keyboard(0xED, 0x00) == [0xFA, 0xFA]
    assert rig.keyboard(0xF3, 0x00) == [0xFA, 0xFA]
    assert rig.keyboard(0xF4) == [0xFA]
    assert rig.codes("q") == [0x10, 0x90]

    # Mouse: psmouse's reset finds nobody.
    rig.command(0xD4, 0xF2)
    assert rig.status() & 0x40
    assert rig.data() == 0xFE

    # Reboot: several pulses of the reset line.
    rig.command(0xFE)
    assert rig.resets == 1


def test_boot_sector_opens_a20(rig: Rig) -> None:
    """The common routine: keyboard off, read the output port, write it back with bit 1 set, keyboard on."""
    rig.command(0xDD)
    rig.command(0xAD)
    value = rig.ask(0xD0)
    rig.command(0xD1, value | 2)
    rig.command(0xAE)
    assert rig.a20[-1] is True
    assert rig.resets == 0
    assert not rig.ask(0x20) & 0x10


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
