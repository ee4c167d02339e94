"""Typing at the keyboard, and kernels' ways with it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from i8042_rig import NORMAL, SHIFTED, Rig

from pykvm.devices.ps2_keyboard import TYPING_LIMIT


@pytest.fixture
def rig() -> Rig:
    return Rig()


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

    # Reboot: several pulses of the reset line.
    rig.command(0xFE)
    assert rig.resets == 1


def test_linux_finds_a_mouse_with_wheel_and_five_buttons(rig: Rig) -> None:
    """drivers/input/mouse/psmouse-base.c: the probe, the IntelliMouse's knocks, and what becomes of its packets."""
    rig.command(0x60, 0x47)
    assert rig.mouse(0xF2) == [0xFA, 0x00]
    assert rig.mouse(0xF5) == [0xFA]
    assert rig.mouse(0xFF) == [0xFA, 0xAA, 0x00]
    assert rig.mouse(0xF3, 200, 0xF3, 100, 0xF3, 80) == [0xFA] * 6
    assert rig.mouse(0xF2) == [0xFA, 3]
    assert rig.mouse(0xF3, 200, 0xF3, 200, 0xF3, 80) == [0xFA] * 6
    assert rig.mouse(0xF2) == [0xFA, 4]
    assert rig.mouse(0xF3, 100, 0xE8, 3, 0xE6, 0xF4) == [0xFA] * 6

    def event() -> tuple[int, int, int, list[str]]:
        """As psmouse_process_byte reads a packet of an ImExPS/2."""
        packet = [rig.data() for _ in range(4)]
        wheel = packet[3] & 0xF
        names = [name for bit, name in enumerate(("left", "right", "middle")) if packet[0] >> bit & 1]
        names += [name for bit, name in ((4, "side"), (5, "extra")) if packet[3] >> bit & 1]
        right = packet[1] - (packet[0] << 4 & 0x100) if packet[1] else 0
        down = (packet[0] << 3 & 0x100) - packet[2] if packet[2] else 0
        return right, down, (wheel & 7) - (wheel & 8), names

    rig.device.move_mouse(300, -20, -1)
    rig.device.hold_button("left", True)
    rig.device.hold_button("extra", True)
    rig.device.hold_button("left", False)
    assert rig.irq12.level
    events = []
    while rig.status() & 1:
        events.append(event())
    assert events == [
        (255, 20, -1, []),
        (45, 0, 0, []),
        (0, 0, 0, ["left"]),
        (0, 0, 0, ["left", "extra"]),
        (0, 0, 0, ["extra"]),
    ]


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
