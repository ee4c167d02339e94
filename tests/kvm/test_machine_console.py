"""The serial port from the host's side: waiting for a text, typing, long input and output, several ports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import BRIEF, DEBUG_PORT, EXIT_AL, HALT, LIMIT, SPIN, flat, hexcode

from pykvm import Ending, Machine, PykvmError, WaitFailed

Guest = Callable[[str], Path]


@pytest.fixture
def echo(guest: Guest) -> Iterator[Machine]:
    """A running echo.elf that has said "ready"."""
    with Machine(guest("echo")) as machine:
        machine.start(2 * LIMIT)
        machine.serial.wait_for("ready\n", LIMIT)
        yield machine


def test_wait_for_a_literal_bytes_or_an_expression(echo: Machine) -> None:
    serial = echo.serial
    serial.send("one\n")
    assert serial.wait_for("echo: one", LIMIT)[0] == b"echo: one"
    serial.send(b"two 42\n")
    assert serial.wait_for(re.compile(rb"two (\d+)\n"), LIMIT)[1] == b"42"
    serial.send("a.c\n")
    assert serial.wait_for(b"a.c\n", LIMIT)[0] == b"a.c\n"


def test_a_literal_is_no_expression(echo: Machine) -> None:
    echo.serial.send("abc\n")
    echo.serial.wait_for("abc", LIMIT)
    echo.serial.send("a.c\n")
    assert echo.serial.wait_for("a.c", LIMIT)[0] == b"a.c"


def test_the_same_prompt_can_be_waited_for_again_and_again(echo: Machine) -> None:
    for number in range(20):
        echo.serial.send(f"line {number}\n")
        match = echo.serial.wait_for(re.compile(rb"echo: (.*)\n"), LIMIT)
        assert match[1] == f"line {number}".encode()


def test_matches_in_one_piece_of_output_come_one_by_one(echo: Machine) -> None:
    echo.serial.send("x1 x2 x3\nlast\n")
    echo.serial.wait_for("echo: ", LIMIT)
    found = [echo.serial.wait_for(re.compile(rb"x(\d)"), LIMIT)[1] for _ in range(3)]
    assert found == [b"1", b"2", b"3"]


def test_a_time_limit_shows_what_came_instead(echo: Machine) -> None:
    with pytest.raises(WaitFailed, match=r"(?s)COM1.*never.*0\.01 s are over.*ready"):
        echo.serial.wait_for("never", 0.01)
    echo.serial.send("on it goes\n")
    echo.serial.wait_for("on it goes", LIMIT)


def test_the_end_of_the_run_ends_the_waiting(echo: Machine) -> None:
    echo.serial.send("quit\n")
    with pytest.raises(WaitFailed, match=r"(?s)run has ended.*powered.*ready"):
        echo.serial.wait_for("never")


def test_what_came_before_the_end_is_found_after_it(guest: Guest) -> None:
    with Machine(guest("hello64")) as machine:
        machine.run(LIMIT)
        machine.serial.wait_for("Hello")
        machine.serial.wait_for("long mode!\n")
        with pytest.raises(WaitFailed, match="Hello from 64-bit"):
            machine.serial.wait_for("Hello")


def test_waiting_in_one_thread_while_the_guest_floods(guest: Guest) -> None:
    with Machine(guest("flood")) as machine:
        machine.start(2 * LIMIT)
        for _ in range(50):
            machine.serial.wait_for("xyz\n", LIMIT)


def test_typing_ahead_of_the_start_is_kept(guest: Guest) -> None:
    with Machine(guest("echo")) as machine:
        machine.serial.send("early\nexit 7\n")
        outcome = machine.run(LIMIT)
        assert "echo: early\n" in machine.serial.text
    assert (outcome.value, outcome.code) == (7, 15)


def test_nothing_of_a_long_paste_is_lost(guest: Guest) -> None:
    lines = [f"{number:05} " + chr(ord("a") + number % 26) * 90 for number in range(170)]  # 16 KiB
    with Machine(guest("echo")) as machine:
        machine.start(LIMIT)
        machine.serial.wait_for("ready\n", LIMIT)
        machine.serial.send("".join(line + "\n" for line in lines) + "quit\n")
        assert machine.wait().ending is Ending.EXITED
        got = machine.serial.text.splitlines()
        assert machine.serial.waiting == 0
    assert got == ["ready", *(f"echo: {line}" for line in lines)]


def test_more_input_than_can_wait_is_refused_in_words_and_whole(guest: Guest) -> None:
    with Machine(guest("echo")) as machine:
        machine.serial.send(b"x" * 1_000_000)
        with pytest.raises(PykvmError, match="COM1"):
            machine.serial.send(b"y" * 100_000)
        assert 1_000_000 - machine.serial.waiting <= 1  # the UART holds a character


def test_text_is_utf_8_with_plain_line_ends() -> None:
    letters = "é\r\n".encode() + b"\xff\n"
    code = b"".join(bytes([0xB0, letter, 0xE6, DEBUG_PORT]) for letter in letters)  # mov al, letter; out 0xe9, al
    with flat(code + HALT) as machine:
        machine.run(LIMIT)
        assert machine.pc.debug_console.output == letters
        assert machine.pc.debug_console.text == "é\n\N{REPLACEMENT CHARACTER}\n"


def test_string_output_to_the_debug_console_arrives_whole() -> None:
    code = hexcode(
        """
        be 00 00 20 00 ; mov esi, 0x200000
        b9 00 10 00 00 ; mov ecx, 0x1000
        66 ba e9 00    ; mov dx, 0xe9
        f3 6e          ; rep outsb
        """
    )
    text = bytes(range(256)) * 16
    with flat(code + HALT) as machine:
        machine.memory.write(0x200000, text)
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert machine.pc.debug_console.output == text


COM_HELLO = hexcode(
    "66 ba f8 03\n b0 31\n ee\n 66 ba f8 02\n b0 32\n ee\n 66 ba e8 03\n b0 33\n ee\n 66 ba e8 02\n b0 34\n ee"
)
"""mov dx, COMn; mov al, 'n'; out dx, al for COM1 to COM4."""


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_each_of_several_serial_ports_is_its_own(number: int) -> None:
    with flat(COM_HELLO + HALT, serial_ports=number) as machine:
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert [console.output for console in machine.pc.consoles] == [b"1", b"2", b"3", b"4"][:number]
        assert machine.serial is machine.pc.consoles[0]
        # What is not there is nobody's.
        assert sorted(machine.ports.unclaimed) == sorted([0x3F8, 0x2F8, 0x3E8, 0x2E8][number:])


def test_input_reaches_the_port_that_it_is_typed_into() -> None:
    # again: mov dx, 0x2fd; in al, dx; test al, 1; je again; mov dx, 0x2f8; in al, dx; out 0xf4, al
    code = hexcode("66 ba fd 02\n ec\n a8 01\n 74 f7\n 66 ba f8 02\n ec") + EXIT_AL + SPIN
    with flat(code, serial_ports=2) as machine:
        machine.serial.send("A")
        machine.pc.consoles[1].send("B")
        assert machine.run(LIMIT).value == ord("B")


def test_a_waiter_on_a_silent_port_waits_its_time(guest: Guest) -> None:
    with Machine(guest("spin"), serial_ports=2) as machine:
        machine.start(2 * LIMIT)
        with pytest.raises(WaitFailed, match="COM2"):
            machine.pc.consoles[1].wait_for("x", BRIEF)
        assert machine.outcome is None
