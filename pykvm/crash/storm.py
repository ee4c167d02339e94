"""Whether a CPU died because an exception's handler raised one itself, again and again, until its stack had run over
all that is below it: page tables and descriptor tables no longer say what they said, but the frames are still there.

Frames as the CPU pushes them: Intel SDM volume 3A, 6.12.1 and 6.14.2.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import NamedTuple

from ..errors import PykvmError
from ..x86.cpu import Cpu
from ..x86.disasm import MAX_INSTRUCTION, disassemble
from ..x86.registers import RFLAGS_RESERVED
from .stack_scan import FLAGS_ZERO

FRAMES = 8
"""As many frames of one instruction, one behind the other, are no accident."""
MAX_STRIDE = 64
"""Words between two of them."""
MAX_STACK = 1 << 20
"""Bytes of a stack whose frames are counted."""
MAX_ERROR_CODE = 1 << 16


class Storm(NamedTuple):
    """The instruction that faulted again and again."""

    rip: int
    text: str
    error_code: int | None
    selector: int
    top: int
    """Where the last of the frames ends."""


def find_storm(cpu: Cpu, loaded: Callable[[int, int], bytes] = lambda address, size: b"") -> Storm | None:
    """The storm that the stack is full of, if it is. What is not mapped any more is taken for mapped as it is.

    `loaded` tells what the image has at an address: the stack may have run over the code, too.
    """
    if not cpu.protected:
        return None
    width = 8 if cpu.long else 4
    start = cpu.registers.rsp if cpu.long else cpu.stack  # CS and SS may be none of the guest's any more
    raw = _read(cpu, start, (FRAMES + 2) * MAX_STRIDE * width)
    words = array("Q" if width == 8 else "I", raw[: len(raw) // width * width])
    for at in range(min(MAX_STRIDE, len(words) - 3)):
        rip, selector, flags = words[at : at + 3]
        if not 3 < selector < 1 << 16 or not flags & RFLAGS_RESERVED or flags & FLAGS_ZERO:
            continue
        for stride in range(3, MAX_STRIDE):
            if words[at : at + FRAMES * stride : stride].tolist() != [rip] * FRAMES:
                continue
            if words[at + 1 : at + FRAMES * stride : stride].tolist() != [selector] * FRAMES:
                continue
            code = words[at + stride - 1] if stride > (5 if width == 8 else 3) else None
            lines = disassemble(loaded(rip, MAX_INSTRUCTION) or _code(cpu, rip), rip, 64 if width == 8 else 32, 1)
            text = lines[0].text if lines else ""
            top = start + at * width
            while top < start + MAX_STACK and _read(cpu, top, width) == rip.to_bytes(width, "little"):
                top += stride * width
            return Storm(rip, text, code if code is not None and code < MAX_ERROR_CODE else None, selector, top)
    return None


def explain_storm(cpu: Cpu, storm: Storm, where: str) -> str:
    """The sentence for it; `where` is the place in words."""
    if storm.text.startswith("iret") and storm.error_code is not None:
        what = (
            f"`{storm.text}` takes {storm.error_code:#x} for RIP, most likely an error code that is still on the stack"
        )
    elif cpu.system.gdt.base >= storm.top and not any(_read(cpu, cpu.system.gdt.base + (storm.selector & ~7), 8)):
        what = (
            f"nothing can be executed: CS is {storm.selector:#x}, and that GDT entry is empty: the GDT is at "
            f"{cpu.system.gdt.base:#x}, limit {cpu.system.gdt.limit:#x}"
        )
    elif storm.text:
        what = f"`{storm.text}` raises an exception, whose handler leads there again"
    else:
        what = "there is no memory, and an exception's handler leads there again"
    return f"At {where} {what}: each exception led to the next, until the stack had run over all below it"


def _code(cpu: Cpu, rip: int) -> bytes:
    """The instruction: the page tables may lead elsewhere by now, so the address itself is tried first."""
    try:
        return cpu.read(rip, MAX_INSTRUCTION)
    except PykvmError:
        return cpu.peek(rip, MAX_INSTRUCTION)


def _read(cpu: Cpu, linear: int, size: int) -> bytes:
    found = cpu.peek(linear, size)
    if found:
        return found
    try:
        return cpu.read(linear, size)
    except PykvmError:
        return b""
