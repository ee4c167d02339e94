"""The keyboard as guests of a few instructions drive it: by polling and by interrupt, in both scan code sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import LIMIT, assembled, flat

from pykvm import Ending, Machine

pytestmark = pytest.mark.needs("gcc")

ROUTINES = """
send:   # Sends AL to the keyboard, and shows its answer.
        mov     %al, %ah
1:      in      $0x64, %al
        test    $2, %al
        jnz     1b
        mov     %ah, %al
        out     %al, $0x60
take:   # Waits for a byte and shows it.
1:      in      $0x64, %al
        test    $1, %al
        jz      1b
        in      $0x60, %al
        out     %al, $0xE9
        ret
"""

LISTEN = """
        # Shows each byte, up to Escape's release.
        mov     $'>', %al
        out     %al, $0xE9
        xor     %bl, %bl
2:      mov     %al, %bl
        call    take
        cmp     ${last}, %al
        jne     2b
        cmp     ${before}, %bl
        jne     2b
        out     %al, $0xF4
"""

TRANSLATED = f"mov $0x80000, %esp\n{LISTEN.format(last=0x81, before=0x01)}{ROUTINES}"
SET_2 = f"""
        mov     $0x80000, %esp
        mov     $0x60, %al                      # the command byte: no translation
        out     %al, $0x64
        mov     $0x04, %al
        out     %al, $0x60
        mov     $0xF0, %al                      # scan code set 2
        call    send
        mov     $2, %al
        call    send
        {LISTEN.format(last=0x76, before=0xF0)}{ROUTINES}"""


@pytest.mark.parametrize(
    ("code", "greeting", "shift", "a", "b", "end"),
    [
        (TRANSLATED, b">", (b"\x2a", b"\xaa"), b"\x1e\x9e", b"\x30\xb0", b"\x01\x81"),
        (SET_2, b"\xfa\xfa>", (b"\x12", b"\xf0\x12"), b"\x1c\xf0\x1c", b"\x32\xf0\x32", b"\x76\xf0\x76"),
    ],
    ids=["set 1", "set 2"],
)
def test_text_comes_in_the_guest_s_scan_code_set(
    tmp_path: Path, code: str, greeting: bytes, shift: tuple[bytes, bytes], a: bytes, b: bytes, end: bytes
) -> None:
    with flat(assembled(code, tmp_path, 0x100000, 32), 32) as machine:
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for(">", LIMIT)
        machine.keyboard.type("Ab\x1b")
        assert machine.wait().ending is Ending.EXITED
        assert machine.pc.debug_console.output == greeting + shift[0] + a + shift[1] + b + end


def test_more_text_than_the_keyboard_s_buffer_holds(tmp_path: Path) -> None:
    """The keyboard keeps 16 bytes, and this is 2,002."""
    with flat(assembled(TRANSLATED, tmp_path, 0x100000, 32), 32) as machine:
        machine.start(LIMIT)
        machine.keyboard.type("ab" * 500 + "\x1b")
        assert machine.wait().ending is Ending.EXITED
        assert machine.pc.debug_console.output.replace(b">", b"") == b"\x1e\x9e\x30\xb0" * 500 + b"\x01\x81"


def test_keys_that_are_pressed_too_fast_are_lost_and_the_guest_is_told(tmp_path: Path) -> None:
    """Unlike text: nobody holds back a person. 0xFF says so, in the set that the controller makes."""
    with flat(assembled(TRANSLATED, tmp_path, 0x100000, 32), 32) as machine:
        for _ in range(20):
            machine.keyboard.press("a")
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for(b"\xff", LIMIT)
        assert machine.pc.debug_console.output.replace(b">", b"") == b"\x1e" * 17 + b"\xff"
        machine.keyboard.type("\x1b")
        assert machine.wait().ending is Ending.EXITED


def test_leds(tmp_path: Path) -> None:
    code = f"""
        mov     $0x80000, %esp
        mov     $0xED, %al
        call    send
        mov     $5, %al                         # scroll lock and caps lock
        call    send
        xor     %al, %al
        out     %al, $0xF4
        {ROUTINES}"""
    with flat(assembled(code, tmp_path, 0x100000, 32), 32) as machine:
        assert machine.run(LIMIT).ending is Ending.EXITED
        assert machine.pc.debug_console.output == b"\xfa\xfa"
        assert machine.pc.keyboard.keyboard.leds == 5


def test_each_byte_is_an_interrupt(tmp_path: Path) -> None:
    code = """
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7C00, %sp
        cli
        movw    $mine, 9 * 4
        movw    $0, 9 * 4 + 2
        mov     $'>', %al
        out     %al, $0xE9
        sti
1:      hlt
        jmp     1b
mine:   push    %ax
        in      $0x60, %al
        out     %al, $0xE9
        cmp     $0x81, %al
        jne     2f
        out     %al, $0xF4
2:      mov     $0x20, %al
        out     %al, $0x20
        pop     %ax
        iret
        .org    510
        .word   0xAA55
    """
    with Machine(assembled(code, tmp_path, 0x7C00, 16), memory="4M") as machine:
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for(">", LIMIT)
        machine.keyboard.type("a" * 100 + "\x1b")
        assert machine.wait().ending is Ending.EXITED
        assert machine.pc.debug_console.output == b">" + b"\x1e\x9e" * 100 + b"\x01\x81"


def test_the_mouse_goes_along_in_a_snapshot(tmp_path: Path) -> None:
    """A guest that has switched the mouse on shows each byte that it sends, until the middle button is pressed."""
    code = f"""
        mov     $0x80000, %esp
        mov     $0xD4, %al                      # the next byte is for the mouse
        out     %al, $0x64
        mov     $0xF4, %al
        call    send
        mov     $'>', %al
        out     %al, $0xE9
2:      call    take                            # a packet: its first byte has the buttons
        mov     %al, %bl
        call    take
        call    take
        test    $4, %bl
        jz      2b
        out     %al, $0xF4
        {ROUTINES}"""
    with flat(assembled(code, tmp_path, 0x100000, 32), 32) as machine:
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for(b">", LIMIT)
        machine.mouse.move(right=5, down=3)
        machine.pc.debug_console.wait_for(b"\x28\x05\xfd", LIMIT)
        machine.pause()
        machine.mouse.press("left")
        with machine.snapshot().fork() as fork:
            fork.mouse.click("middle")
            assert fork.run(LIMIT).ending is Ending.EXITED
            assert fork.pc.debug_console.output == b"\xfa>\x28\x05\xfd" + b"\x09\0\0" + b"\x0d\0\0"
