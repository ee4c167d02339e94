"""Backtraces: frame pointers, functions without a frame, and guesses."""

from __future__ import annotations

import struct
from dataclasses import replace

from x86_machine import CODE, STACK, Ram, long_cpu

from pykvm.crash.backtrace import after_call, backtrace
from pykvm.crash.findings import Place, StackFrame
from pykvm.x86.cpu import Cpu

# main calls middle, which calls leaf; each function has 0x40 bytes, a call at its 0x10 (5 bytes), and ends at 0x3f.
MAIN, MIDDLE, LEAF = CODE, CODE + 0x40, CODE + 0x80
NAMES = {MAIN: "main", MIDDLE: "middle", LEAF: "leaf"}
IN_MAIN, IN_MIDDLE = MAIN + 0x15, MIDDLE + 0x15
"""The return addresses."""
SP = STACK - 0x200


def function(address: int) -> tuple[str, int] | None:
    start = address & ~0x3F
    return (NAMES[start], address - start) if start in NAMES else None


def place(address: int) -> Place:
    found = function(address)
    return Place(address, f"{found[0]}+{found[1]:#x}" if found else "")


def standing(address: int, frames: bool, stack: list[int], rbp: int = 0) -> Cpu:
    """A CPU at an address, with these words from the stack pointer on."""
    cpu, ram = long_cpu()
    _write_functions(ram, frames)
    ram.write(SP, struct.pack(f"<{len(stack)}Q", *stack))
    return replace(cpu, registers=replace(cpu.registers, rip=address, rsp=SP, rbp=rbp))


def _write_functions(ram: Ram, frames: bool) -> None:
    for start, target in ((MAIN, MIDDLE), (MIDDLE, LEAF), (LEAF, LEAF)):
        ram.write(start, b"\x90" * 0x40)
        if frames:
            ram.write(start, b"\x55\x48\x89\xe5")
        ram.write(start + 0x10, b"\xe8" + struct.pack("<i", target - start - 0x15))


def names(cpu: Cpu) -> list[str]:
    return [_name(frame) for frame in backtrace(cpu, place, function)]


def _name(frame: StackFrame) -> str:
    return frame.place.symbol.split("+")[0] + ("?" if frame.guess else "")


def test_frame_pointers() -> None:
    stack = [0, SP + 32, IN_MIDDLE, 0, 0, IN_MAIN]
    # leaf's frame is at SP + 8, middle's at SP + 32; main has none above it.
    assert names(standing(LEAF + 0x20, True, stack, rbp=SP + 8)) == ["leaf", "middle", "main"]


def test_before_the_frame_is_made() -> None:
    middle = [SP + 16, IN_MIDDLE]
    at_start = standing(LEAF, True, [IN_MIDDLE, 0, 0, IN_MAIN], rbp=SP + 16)
    assert names(at_start) == ["leaf", "middle", "main"]
    after_push = standing(LEAF + 1, True, [*middle, 0, IN_MAIN], rbp=SP + 16)
    assert names(after_push) == ["leaf", "middle", "main"]


def test_after_the_frame_is_gone() -> None:
    # Behind POP RBP: the return address is on top, and the frame pointer is the caller's again.
    assert names(standing(LEAF + 0x3F, True, [IN_MIDDLE, 0, 0, IN_MAIN], rbp=SP + 16)) == ["leaf", "middle", "main"]


def test_without_frame_pointers_all_but_the_first_is_guessed() -> None:
    cpu = standing(LEAF + 0x20, False, [0, IN_MIDDLE, 5, IN_MAIN, MAIN + 0x14, 7])
    assert names(cpu) == ["leaf", "middle?", "main?"]
    cpu = standing(LEAF + 0x20, False, [IN_MIDDLE, 5, IN_MAIN])
    # A return address on top of the stack whose call leads to this very function is no guess.
    assert names(cpu) == ["leaf", "middle", "main?"]


def test_a_function_without_a_frame_among_others() -> None:
    cpu = standing(LEAF + 0x20, True, [0, IN_MIDDLE, 0, 0, IN_MAIN], rbp=SP + 24)
    assert names(cpu) == ["leaf", "main"]  # it begins by making one, so the chain is believed
    cpu = standing(LEAF + 0x20, False, [0, IN_MIDDLE, 0, 0, IN_MAIN], rbp=SP + 24)
    assert names(cpu) == ["leaf", "middle?", "main"]


def test_a_jump_into_nowhere() -> None:
    cpu = standing(1 << 40, True, [IN_MIDDLE, 0, 0, IN_MAIN], rbp=SP + 16)
    assert names(cpu) == ["", "middle", "main"]


def test_calls() -> None:
    cpu = standing(LEAF, False, [])
    assert after_call(cpu, IN_MAIN)
    assert not after_call(cpu, IN_MAIN + 1)
    assert not after_call(cpu, 0)
    assert not after_call(cpu, 1 << 63)
    assert not after_call(cpu, 1 << 40)


def test_an_end_to_recursion() -> None:
    words = [word for number in range(100) for word in (SP + 16 * (number + 1), IN_MIDDLE)]
    assert len(backtrace(standing(LEAF + 0x20, True, words, rbp=SP), place, function)) == 24
