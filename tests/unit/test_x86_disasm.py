"""The face on capstone: widths, limits, and bytes that are no instruction."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.x86.disasm import Instruction, disassemble


@pytest.mark.parametrize(
    ("bits", "code", "text"),
    [
        (16, "b83412", "mov ax, 0x1234"),
        (32, "b878563412", "mov eax, 0x12345678"),
        (64, "48b8efcdab8967452301", "movabs rax, 0x123456789abcdef"),
        (64, "f4", "hlt"),
        (64, "ee", "out dx, al"),
    ],
)
def test_text_of_an_instruction(bits: int, code: str, text: str) -> None:
    raw = bytes.fromhex(code)
    assert disassemble(raw, 0x7C00, bits) == [Instruction(0x7C00, raw, text)]


def test_relative_targets_count_from_the_address() -> None:
    assert disassemble(bytes.fromhex("ebfe"), 0x7C00, 16)[0].text == "jmp 0x7c00"


def test_bytes_that_are_no_instruction_come_one_by_one() -> None:
    # FF /7 does not exist; the last FF lacks its ModR/M byte
    assert disassemble(bytes.fromhex("90ffff"), 0x100, 64) == [
        Instruction(0x100, b"\x90", "nop"),
        Instruction(0x101, b"\xff", ".byte 0xff"),
        Instruction(0x102, b"\xff", ".byte 0xff"),
    ]


@pytest.mark.parametrize(("count", "expected"), [(None, 4), (0, 0), (1, 1), (3, 3), (9, 4)])
def test_count_limits_the_list(count: int | None, expected: int) -> None:
    assert len(disassemble(b"\x90" * 4, 0, 64, count)) == expected


def test_width_must_be_one_of_x86() -> None:
    with pytest.raises(ValueError, match="not 8"):
        disassemble(b"\x90", 0, 8)


def test_line_of_a_listing() -> None:
    assert str(Instruction(0x7C00, b"\xb8\x34\x12", "mov ax, 0x1234")) == (
        "0x7c00: b8 34 12                 mov ax, 0x1234"
    )


@given(st.binary(max_size=64), st.integers(0, (1 << 64) - 1), st.sampled_from([16, 32, 64]))
def test_any_bytes_are_covered_without_gap(code: bytes, address: int, bits: int) -> None:
    instructions = disassemble(code, address, bits)
    assert b"".join(instruction.code for instruction in instructions) == code
    at = address
    for instruction in instructions:
        assert instruction.address == at % (1 << 64)
        assert 1 <= len(instruction.code) <= 15
        at += len(instruction.code)


def test_importing_the_x86_and_boot_packages_loads_nothing_heavy() -> None:
    program = (
        "import sys, pykvm.x86.disasm, pykvm.x86.symbols, pykvm.boot.detect, pykvm.boot.elf\n"
        "print([name for name in ('capstone', 'elftools', 'ctypes') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
