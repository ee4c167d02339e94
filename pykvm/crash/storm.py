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
from ..x86.descriptors import short_gates
from ..x86.disasm import MAX_INSTRUCTION, disassemble
from ..x86.registers import RFLAGS_IF, RFLAGS_RESERVED
from .stack_scan import FLAGS_ZERO

FRAMES = 8
"""As many frames of one instruction, one behind the other, are no accident."""
MAX_STRIDE = 64
"""Words between two of them."""
MAX_STACK = 1 << 20
"""Bytes of a stack whose frames are counted."""
MAX_HANDLER = 512
"""Bytes of a handler within which it is interrupted."""
MAX_ERROR_CODE = 1 << 16
MAX_STORMS = 8
"""One after the other, that are followed to the first."""


class Storm(NamedTuple):
    """The instruction that faulted again and again."""

    rip: int
    text: str
    error_code: int | None
    selector: int
    top: int
    """Where the last of the frames ends."""


def find_storm(
    cpu: Cpu, loaded: Callable[[int, int], bytes] = lambda address, size: b"", *, began: bool = False
) -> Storm | None:
    """The storm that the stack is full of, if it is. What is not mapped any more is taken for mapped as it is.

    `loaded` tells what the image has at an address: the stack may have run over the code, too. The CPU is as the storm
    has left it, or as it was when it `began`.
    """
    if not cpu.protected:
        return None
    width = 8 if cpu.long else 4
    now = cpu.registers.rsp if cpu.long else cpu.stack  # CS and SS may be none of the guest's any more
    if began:
        return _before(cpu, now, width, loaded)
    storm = _behind(cpu, now, width, loaded)
    for _ in range(MAX_STORMS):
        if storm is None:
            break
        older = _behind(cpu, storm.top, width, loaded)  # where code was overwritten, another storm followed
        if older is None:
            break
        storm = older
    return storm


def _behind(cpu: Cpu, start: int, width: int, loaded: Callable[[int, int], bytes]) -> Storm | None:
    """The storm whose last frame is the next one from `start` upwards."""
    words = _words(cpu, start, width)
    for at in range(min(MAX_STRIDE, len(words) - 3)):
        for stride in range(3, MAX_STRIDE) if _is_frame(words, at) else ():
            if _repeats(words, at, stride):
                return _storm(cpu, start, words, at, stride, width, loaded)
    return None


def _before(cpu: Cpu, end: int, width: int, loaded: Callable[[int, int], bytes]) -> Storm | None:
    """The storm whose first frame is the next one from `end` downwards."""
    start = end - (FRAMES + 2) * MAX_STRIDE * width
    words = _words(cpu, start, width)
    for last in range(len(words) - 3, max(len(words) - MAX_STRIDE, 0), -1):
        for stride in range(3, MAX_STRIDE) if _is_frame(words, last) else ():
            at = last - (FRAMES - 1) * stride
            if at > 0 and _repeats(words, at, stride):
                return _storm(cpu, start, words, at, stride, width, loaded)
    return None


def nested(cpu: Cpu) -> bool:
    """Whether handlers of interrupts were interrupted, again and again, since the CPU was in this state."""
    if not cpu.protected:
        return False
    width = 8 if cpu.long else 4
    words = _words(cpu, cpu.stack - (FRAMES + 2) * MAX_STRIDE * width, width)
    for last in range(len(words) - 3, max(len(words) - MAX_STRIDE, 0), -1):
        for stride in range(3, MAX_STRIDE) if _is_frame(words, last) else ():
            at = range(last - stride, max(last - FRAMES * stride, 0), -stride)  # the first is of what was interrupted
            if len(at) < FRAMES - 1 or not all(_is_frame(words, frame) for frame in at):
                continue
            near = max(words[frame] for frame in at) - min(words[frame] for frame in at) < MAX_HANDLER
            if near and all(words[frame + 2] & RFLAGS_IF for frame in at):
                return True
    return False


def _words(cpu: Cpu, start: int, width: int) -> array[int]:
    raw = _read(cpu, start, (FRAMES + 2) * MAX_STRIDE * width)
    return array("Q" if width == 8 else "I", raw[: len(raw) // width * width])


def _is_frame(words: array[int], at: int) -> bool:
    _, selector, flags = words[at : at + 3]
    return 3 < selector < 1 << 16 and bool(flags & RFLAGS_RESERVED) and not flags & FLAGS_ZERO


def _repeats(words: array[int], at: int, stride: int) -> bool:
    """Whether RIP and CS are the same in so many words, one stride behind the other."""
    end = at + FRAMES * stride
    return all(words[at + first : end : stride].tolist() == [words[at + first]] * FRAMES for first in (0, 1))


def _storm(
    cpu: Cpu, start: int, words: array[int], at: int, stride: int, width: int, loaded: Callable[[int, int], bytes]
) -> Storm:
    rip, selector = words[at], words[at + 1]
    code = words[at + stride - 1] if stride > (5 if width == 8 else 3) else None
    image = loaded(rip, MAX_INSTRUCTION)
    lines = disassemble(image or _code(cpu, rip), rip, 64 if width == 8 else 32, 1)
    top = start + at * width
    while top < start + MAX_STACK and _read(cpu, top, width) == rip.to_bytes(width, "little"):
        top += stride * width
    error_code = code if code is not None and code < MAX_ERROR_CODE else None
    return Storm(rip, lines[0].text if lines else "", error_code, selector, top)


def explain_storm(cpu: Cpu, storm: Storm, where: str, *, code: bool = True) -> str:
    """The sentence for it; `where` is the place in words, and `code` whether any is there, for all that is known."""
    short = short_gates(storm.rip, storm.selector)
    if storm.text.startswith("iret") and storm.error_code is not None:
        what = (
            f"`{storm.text}` takes {storm.error_code:#x} for RIP, most likely an error code that is still on the stack"
        )
    elif cpu.system.gdt.base >= storm.top and not any(_read(cpu, cpu.system.gdt.base + (storm.selector & ~7), 8)):
        what = (
            f"nothing can be executed: CS is {storm.selector:#x}, and that GDT entry is empty: the GDT is at "
            f"{cpu.system.gdt.base:#x}, limit {cpu.system.gdt.limit:#x}"
        )
    elif short:
        what = f"there is no code, and a gate of the IDT leads there: {short}"
    elif storm.text and code:
        what = f"`{storm.text}` raises an exception, whose handler leads there again"
    else:
        what = "there is no code, and an exception's handler leads there again"
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
