"""Who called whom: the chain of frame pointers, and where there is none, what on the stack looks like a return address.

Sources: System V ABI for x86-64, section 3.2.2 (the stack frame), and for i386, the same; Intel SDM volume 2A, CALL.
"""

from __future__ import annotations

from collections.abc import Callable

from ..x86.cpu import Cpu
from .report import Frame, Place

MAX_FRAMES = 24
MAX_SCAN = 256
"""Words of the stack that are looked at for return addresses."""

_PUSH_FRAME_POINTER = 0x55


def backtrace(
    cpu: Cpu, place: Callable[[int], Place], function: Callable[[int], tuple[str, int] | None]
) -> list[Frame]:
    """The calls that led to where the CPU stands, the innermost first.

    `place` tells what is known of an address, `function` (name, offset) of the symbol that it is in.
    """
    frames = [Frame(place(cpu.pc), "now")]
    width = cpu.mode.bits // 8
    stack = cpu.stack
    top = _return_on_top(cpu, function(cpu.pc), stack, width)
    if top is not None:
        frames.append(Frame(_caller(top, place), "frame pointer"))
    chain = list(_chain(cpu, place, width))
    if chain or top is not None or cpu.mode.bits == 16:
        return (frames + chain)[:MAX_FRAMES]
    return frames + _guesses(cpu, place, function, width)


def _caller(address: int, place: Callable[[int], Place]) -> Place:
    """What is known of a return address: the call before it counts, which may be the last instruction of a function."""
    found = place(address - 1)
    symbol = found.symbol
    if symbol:
        name, _, offset = symbol.partition("+")
        symbol = f"{name}+{int(offset or '0', 16) + 1:#x}"
    return Place(address, symbol, found.source)


def _return_on_top(cpu: Cpu, where: tuple[str, int] | None, stack: int, width: int) -> int | None:
    """The return address that is still on top of the stack, because the frame is not made yet; None if it is."""
    executable = cpu.check_page(cpu.pc, fetch=True) is None and cpu.canonical(cpu.pc)
    if executable and where is None:
        return None
    at = stack
    if executable and where is not None:
        start = cpu.peek(cpu.pc - where[1], 4)
        prologue = start[:1] == bytes([_PUSH_FRAME_POINTER])
        if not prologue and where[1]:
            return None
        if where[1] == 1:
            at += width
        elif where[1]:
            return None
    value = cpu.peek_int(at, width)
    return value if value is not None and after_call(cpu, value) else None


def _chain(cpu: Cpu, place: Callable[[int], Place], width: int) -> list[Frame]:
    frames: list[Frame] = []
    at = cpu.linear("ss", cpu.registers.rbp)
    lowest = cpu.stack - 2 * width
    while len(frames) < MAX_FRAMES and at > lowest and at % width == 0:
        following, address = cpu.peek_int(at, width), cpu.peek_int(at + width, width)
        if following is None or address is None or not after_call(cpu, address):
            break
        frames.append(Frame(_caller(address, place), "frame pointer"))
        if following <= at:
            break
        lowest, at = at, following
    return frames


def _guesses(
    cpu: Cpu, place: Callable[[int], Place], function: Callable[[int], tuple[str, int] | None], width: int
) -> list[Frame]:
    raw = cpu.peek(cpu.stack, MAX_SCAN * width)
    frames: list[Frame] = []
    for at in range(0, len(raw) - width + 1, width):
        value = int.from_bytes(raw[at : at + width], "little")
        if function(value - 1) is not None and after_call(cpu, value):
            frames.append(Frame(_caller(value, place), "stack"))
            if len(frames) == MAX_FRAMES:
                break
    return frames


def after_call(cpu: Cpu, address: int) -> bool:
    """Whether the instruction before that address may be a near call, and the address can be executed."""
    if not address or not cpu.canonical(address) or cpu.check_page(address, fetch=True) is not None:
        return False
    before = cpu.peek(address - 7 & cpu.width_mask, 7).rjust(7, b"\0")
    if len(before) < 7:
        return False
    if before[-5] == 0xE8 or (cpu.mode.bits == 16 and before[-3] == 0xE8):
        return True
    return any(before[-size] == 0xFF and before[-size + 1] >> 3 & 7 == 2 for size in (2, 3, 4, 6, 7))
