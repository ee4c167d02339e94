"""INT 9 and INT 16h against the tables of the IBM PC/AT Technical Reference and its 101-key continuation."""

from __future__ import annotations

import pytest
from bios_calls import Pc
from hypothesis import given
from hypothesis import strategies as st

from pykvm.bios.keyboard import WAITING_LIMIT
from pykvm.bios.rom import POST_CALL

SHIFT, CTRL, ALT = 0x2A, 0x1D, 0x38


@pytest.fixture
def pc() -> Pc:
    return Pc()


def press(pc: Pc, *codes: int) -> None:
    """Keys down in this order and up in the other; a code above 0xFF is an extended one."""
    for code in codes:
        pc.key_codes(*((0xE0, code & 0xFF) if code > 0xFF else (code,)))
    for code in reversed(codes):
        pc.key_codes(*((0xE0, code & 0xFF | 0x80) if code > 0xFF else (code | 0x80,)))


def keys(pc: Pc, function: int = 0x10) -> list[int]:
    found = []
    while not pc.call(0x16, eax=function + 1 << 8).zero:
        found.append(pc.call(0x16, eax=function << 8).ax)
    return found


@pytest.mark.parametrize(
    ("codes", "key"),
    [
        ([0x1E], 0x1E61),
        ([SHIFT, 0x1E], 0x1E41),
        ([0x36, 0x1E], 0x1E41),
        ([CTRL, 0x1E], 0x1E01),
        ([ALT, 0x1E], 0x1E00),
        ([0x02], 0x0231),
        ([SHIFT, 0x02], 0x0221),
        ([ALT, 0x02], 0x7800),
        ([ALT, 0x0D], 0x8300),
        ([CTRL, 0x03], 0x0300),
        ([CTRL, 0x07], 0x071E),
        ([0x0F], 0x0F09),
        ([SHIFT, 0x0F], 0x0F00),
        ([CTRL, 0x0E], 0x0E7F),
        ([0x1C], 0x1C0D),
        ([CTRL, 0x1C], 0x1C0A),
        ([0x39], 0x3920),
        ([0x3B], 0x3B00),
        ([SHIFT, 0x3B], 0x5400),
        ([CTRL, 0x44], 0x6700),
        ([ALT, 0x44], 0x7100),
        ([0x57], 0x8500),
        ([ALT, 0x58], 0x8C00),
        ([0x48], 0x4800),
        ([SHIFT, 0x48], 0x4838),
        ([CTRL, 0x47], 0x7700),
        ([0x14A - 0x100], 0x4A2D),
        ([0x148], 0x48E0),
        ([CTRL, 0x14D], 0x74E0),
        ([ALT, 0x150], 0xA000),
        ([0x11C], 0xE00D),
        ([0x135], 0xE02F),
        ([0x11D, 0x2E], 0x2E03),
        ([0x2B], 0x2B5C),
        ([SHIFT, 0x35], 0x353F),
    ],
)
def test_key(pc: Pc, codes: list[int], key: int) -> None:
    press(pc, *codes)
    assert keys(pc) == [key]


@pytest.mark.parametrize("codes", [[SHIFT], [CTRL], [ALT], [0x3A], [0x45], [0x46], [CTRL, 0x02], [ALT, 0x48], [0x15B]])
def test_no_key(pc: Pc, codes: list[int]) -> None:
    press(pc, *codes)
    assert keys(pc) == []


def test_locks(pc: Pc) -> None:
    press(pc, 0x3A)
    press(pc, 0x1E)
    press(pc, SHIFT, 0x1E)
    press(pc, 0x02)
    press(pc, 0x45)
    press(pc, 0x47)
    press(pc, SHIFT, 0x47)
    assert keys(pc) == [0x1E41, 0x1E61, 0x0231, 0x4737, 0x4700]
    assert pc.call(0x16, eax=0x0200).al == 0x60


def test_shift_flags(pc: Pc) -> None:
    for code, flags in ((SHIFT, 2), (0x36, 3), (CTRL, 7), (ALT, 15), (0xAA, 13), (0x9D, 9), (0xB6, 8), (0xB8, 0)):
        pc.key_codes(code)
        assert pc.call(0x16, eax=0x0200).al == flags


def test_grey_keys_own_shifts_are_none(pc: Pc) -> None:
    """Print Screen and the grey cursor keys with Num Lock come with E0 2A."""
    pc.key_codes(0xE0, 0x2A, 0xE0, 0x48, 0xE0, 0xC8, 0xE0, 0xAA)
    assert keys(pc) == [0x48E0]


def test_pause_is_no_key(pc: Pc) -> None:
    pc.key_codes(0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5, 0x1E)
    assert keys(pc) == [0x1E61]
    assert pc.call(0x16, eax=0x0200).al == 0


def test_old_functions_do_not_see_new_keys(pc: Pc) -> None:
    press(pc, 0x57)
    press(pc, 0x148)
    press(pc, 0x11C)
    press(pc, 0x135)
    press(pc, ALT, 0x150)
    assert keys(pc, 0x00) == [0x4800, 0x1C0D, 0x352F]


def test_waits_for_a_key(pc: Pc) -> None:
    call = pc.call(0x16, eax=0x0000)
    assert call.wait == 1
    assert call.ax == 0
    press(pc, 0x1E)
    call = pc.call(0x16, eax=0x0000, waited=1)
    assert (call.ax, call.wait) == (0x1E61, 0)


def test_a_look_leaves_the_key(pc: Pc) -> None:
    assert pc.call(0x16, eax=0x01FF).zero
    press(pc, 0x1E)
    for _ in range(2):
        call = pc.call(0x16, eax=0x0100)
        assert (call.zero, call.ax) == (False, 0x1E61)


def test_buffer_takes_fifteen_keys(pc: Pc) -> None:
    for number in range(15):
        assert pc.call(0x16, eax=0x0500, ecx=number + 1).al == 0
    assert pc.call(0x16, eax=0x0500, ecx=0x1234).al == 1
    press(pc, 0x1E)
    assert keys(pc) == [*range(1, 16), 0x1E61], "what is typed waits for room"
    # And once round the ring.
    press(pc, 0x30)
    assert keys(pc) == [0x3062]
    assert 0x1E <= pc.word(0x41A) < 0x3E


def test_ctrl_alt_delete(pc: Pc) -> None:
    press(pc, CTRL, ALT, 0x53)
    assert pc.resets == ["Ctrl-Alt-Del was pressed"]


def test_scan_code_that_a_program_took_before_passing_the_interrupt_on(pc: Pc) -> None:
    pc.keyboard.press("a")
    assert pc.bus.read(0x60, 1) == 0x1E
    pc.call(0x09)
    assert keys(pc) == [0x1E61]


@given(st.lists(st.integers(0, 0xFF), max_size=40))
def test_any_scan_codes_do(codes: list[int]) -> None:
    pc = Pc()
    pc.key_codes(*codes)
    assert len(keys(pc)) <= len(codes)


def typed(pc: Pc, text: str) -> None:
    """Type, with an interrupt for each scan code, while no program takes a key."""
    pc.keyboard.type_text(text)
    while pc.key_irq.level:
        pc.call(0x09)


LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def test_keys_wait_for_room_in_the_buffer(pc: Pc) -> None:
    """In order, with those typed while others wait behind them, and over a snapshot."""
    typed(pc, LETTERS)
    assert bytes(pc.call(0x16, eax=0x0000).al for _ in range(7)).decode() == LETTERS[:7]
    typed(pc, "+-")
    state, memory = pc.bios.save(), pc.memory.read(0, 0x1000)
    assert bytes(key & 0xFF for key in keys(pc)).decode() == LETTERS[7:] + "+-"
    other = Pc()
    other.bios.restore(state)
    other.memory.write(0, memory)
    assert bytes(key & 0xFF for key in keys(other)).decode() == LETTERS[7:] + "+-"


def test_keys_that_wait_come_though_the_program_empties_the_buffer_itself(pc: Pc) -> None:
    typed(pc, LETTERS)
    pc.memory.write_int(0x41C, 2, pc.word(0x41A))
    assert bytes(key & 0xFF for key in keys(pc)).decode() == LETTERS[15:]


def test_keys_that_wait_are_bounded(pc: Pc) -> None:
    for _ in range(15):
        pc.call(0x16, eax=0x0500, ecx=0x1E61)
    waiting = pc.bios.save()["keys"]
    assert waiting == []
    pc.bios.restore({**pc.bios.save(), "keys": [0x3062] * WAITING_LIMIT})
    press(pc, 0x1E)
    assert pc.bios.save()["keys"] == [0x3062] * WAITING_LIMIT


def test_a_self_test_forgets_the_keys_that_wait(pc: Pc) -> None:
    typed(pc, LETTERS)
    pc.call(POST_CALL)
    assert keys(pc) == []


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (b"aZ5!", [0x1E61, 0x2C5A, 0x0635, 0x0221]),
        (b"\r\n", [0x1C0D, 0x1C0D]),
        (b"\x7f\x08\t", [0x0E08, 0x0E08, 0x0F09]),
        (b"\x03", [0x2E03]),
        (b"\x1b", [0x011B]),
        (b"\x1b[A\x1bOD", [0x48E0, 0x4BE0]),
        (b"\x1b[1;5Hx", [0x47E0, 0x2D78]),
        (b"\x1bx", [0x011B, 0x2D78]),
        ("é".encode(), []),
        (b" -\\", [0x3920, 0x0C2D, 0x2B5C]),
    ],
)
def test_typed_at_the_terminal(pc: Pc, typed: bytes, expected: list[int]) -> None:
    pc.console.send(typed)
    assert keys(pc) == expected


def test_all_that_is_typed_comes(pc: Pc) -> None:
    text = bytes(range(0x20, 0x7F)) * 3
    pc.console.send(text)
    assert bytes(key & 0xFF for key in keys(pc)) == text


def test_terminal_is_the_guests_once_it_uses_the_port(pc: Pc) -> None:
    pc.bus.write(0x3F9, 1, 0x01)  # the guest's own driver waits for interrupts
    pc.console.send(b"a")
    assert keys(pc) == []
    pc.bus.write(0x3F9, 1, 0x00)
    assert keys(pc) == [0x1E61]
    pc.call(0x14, eax=0x00E3)
    pc.console.send(b"b")
    assert keys(pc) == []
    assert pc.call(0x14, eax=0x0200).ax == ord("b")
