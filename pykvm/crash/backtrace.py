"""Who called whom: the chain of frame pointers, and where there is none, what on the stack looks like a return address.

Sources: System V ABI for x86-64, section 3.2.2 (the stack frame), and for i386, the same; Intel SDM volume 2A, CALL.
"""

from __future__ import annotations

from collections.abc import Callable

from ..x86.cpu import Cpu
from .findings import Interrupted, Place, StackFrame

MAX_FRAMES = 24
MAX_CHAIN = 64
"""Frame pointers that are followed."""
MAX_SCAN = 256
"""Words of the stack that are looked at for return addresses."""

MAX_FRAMELESS = 32
"""Words above the stack pointer among which the return address of a function without a frame is searched."""

_PUSH_FRAME_POINTER = 0x55


def backtrace(
    cpu: Cpu,
    place: Callable[[int], Place],
    function: Callable[[int], tuple[str, int] | None],
    interrupted: Interrupted | None = None,
) -> list[StackFrame]:
    """The calls that led to where the CPU stands, the innermost first; if there is one, across the exception.

    `place` tells what is known of an address, `function` (name, offset) of the symbol that it is in.
    """
    frames = [StackFrame(place(cpu.pc), "now")]
    width = cpu.mode.bits // 8
    stack, address = cpu.stack, cpu.pc
    chain = _chain(cpu, width)
    if interrupted is not None:
        words = (interrupted.frame - stack) // width
        frames += _guesses(cpu, place, function, stack, min(words, MAX_SCAN))
        frames.append(StackFrame(interrupted.place, "exception"))
        chain = [link for link in chain if link[0] > interrupted.frame]
        stack, address = interrupted.stack, interrupted.place.address
    top = _return_on_top(cpu, function(address), address, stack, width)
    if top is not None:
        frames.append(StackFrame(_caller(top, place), "frame pointer"))
    if not chain and cpu.mode.bits > 16:
        found = _guesses(cpu, place, function, stack, MAX_SCAN)
        frames += found[1:] if found and found[0].place.address == top else found
    elif chain and top is None and _makes_no_frame(cpu, function(address), address):
        words = (chain[0][0] - stack) // width
        frames += _guesses(cpu, place, function, stack, min(words, MAX_FRAMELESS))[:1]
    frames += [StackFrame(_caller(link[1], place), "frame pointer") for link in chain]
    return frames[:MAX_FRAMES]


def _makes_no_frame(cpu: Cpu, where: tuple[str, int] | None, address: int) -> bool:
    """Whether the function at an address does not begin by saving the frame pointer: its caller is not in the chain."""
    return where is not None and cpu.peek(address - where[1], 1) != bytes([_PUSH_FRAME_POINTER])


def _caller(address: int, place: Callable[[int], Place]) -> Place:
    """What is known of a return address: the call before it counts, which may be the last instruction of a function."""
    found = place(address - 1)
    symbol = found.symbol
    if symbol:
        name, _, offset = symbol.partition("+")
        symbol = f"{name}+{int(offset or '0', 16) + 1:#x}"
    return Place(address, symbol, found.source)


def _return_on_top(cpu: Cpu, where: tuple[str, int] | None, address: int, stack: int, width: int) -> int | None:
    """The return address that is still on top of the stack, because the frame is not made yet; None if it is."""
    at = stack
    value = cpu.peek_int(at, width)
    if value is not None and where is not None and _called(cpu, value) == address - where[1]:
        return value  # before the prologue, after the epilogue
    if cpu.canonical(address) and cpu.check_page(address, fetch=True) is None:
        if where is None or where[1] > 1 or (where[1] == 1 and _makes_no_frame(cpu, where, address)):
            return None
        at += where[1] * width  # after one byte of the function, its PUSH is done
    value = cpu.peek_int(at, width)
    return value if value is not None and after_call(cpu, value) else None


def _chain(cpu: Cpu, width: int) -> list[tuple[int, int]]:
    """Where each saved frame pointer is, and the return address behind it."""
    links: list[tuple[int, int]] = []
    at = cpu.linear("ss", cpu.registers.rbp)
    lowest = cpu.stack - 2 * width
    while at > lowest and at % width == 0 and len(links) < MAX_CHAIN:
        following, address = cpu.peek_int(at, width), cpu.peek_int(at + width, width)
        if following is None or address is None or not after_call(cpu, address):
            break
        links.append((at, address))
        lowest, at = at, following
    return links


def _guesses(
    cpu: Cpu,
    place: Callable[[int], Place],
    function: Callable[[int], tuple[str, int] | None],
    stack: int,
    words: int,
) -> list[StackFrame]:
    """What looks like return addresses among the words from `stack` on."""
    width = cpu.mode.bits // 8
    raw = cpu.peek(stack, max(words, 0) * width)
    frames: list[StackFrame] = []
    for at in range(0, len(raw) - width + 1, width):
        value = int.from_bytes(raw[at : at + width], "little")
        if function(value - 1) is not None and after_call(cpu, value):
            frames.append(StackFrame(_caller(value, place), "stack"))
            if len(frames) == MAX_FRAMES:
                break
    return frames


def _called(cpu: Cpu, address: int) -> int | None:
    """The target of the direct call (E8, rel32) before a return address; None if there is none."""
    if not after_call(cpu, address):
        return None
    code = cpu.peek(address - 5 & cpu.width_mask, 5)
    if len(code) < 5 or code[0] != 0xE8:
        return None
    return address + int.from_bytes(code[1:], "little", signed=True) & cpu.width_mask


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
