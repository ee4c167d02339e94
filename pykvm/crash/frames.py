"""What looks like an exception's frame on a stack, as the CPU pushes it (Intel SDM volume 3A, 6.12.1 and 6.14.2)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from ..x86.cpu import Cpu
from ..x86.descriptors import NULL_SELECTORS, RPL, Descriptor
from ..x86.exceptions import PF
from ..x86.registers import RFLAGS_RESERVED
from .stack_scan import FLAGS_ZERO

MAX_WORDS = 512
"""Words of the stack that are searched for a frame."""


class ExceptionFrame(NamedTuple):
    """What the CPU pushed, without the error code, at linear `address`."""

    address: int
    rip: int
    selector: int
    rflags: int
    rsp: int
    fetch: int | None = None
    """The vector of what a fetch at `rip` raises, if it does: the frame is that exception's then, and no other's."""


def frames(cpu: Cpu) -> Iterator[ExceptionFrame]:
    """All that looks like an exception's frame on the stack, from the stack pointer on."""
    if not cpu.protected or cpu.mode.bits == 16:
        return
    width = 8 if cpu.long else 4
    raw = cpu.peek(cpu.stack, MAX_WORDS * width)
    words = array("Q" if cpu.long else "I", raw[: len(raw) // width * width])
    count = 5 if cpu.long else 3
    for at, selector in enumerate(words[1 : len(words) - count + 2]):
        if not 3 < selector < 1 << 16:
            continue
        rip, rflags = words[at], words[at + 2]
        address = cpu.stack + at * width
        if not rflags & RFLAGS_RESERVED or rflags & FLAGS_ZERO:
            continue
        if cpu.long and ((address + 5 * width) % 16 or not _stack_segment(cpu, words[at + 4])):
            continue
        code = cpu.descriptor(selector)
        if not isinstance(code, Descriptor) or not code.is_code or not code.present:
            continue
        event = cpu.check_linear(rip, 1, fetch=True, user=selector & RPL == 3)
        if event is not None and event.vector == PF and cpu.system.cr2 != rip:
            continue
        rsp = words[at + 3] if cpu.long else address + 3 * width
        yield ExceptionFrame(address, rip, selector, rflags, rsp, event.vector if event is not None else None)


def _stack_segment(cpu: Cpu, selector: int) -> bool:
    if selector in NULL_SELECTORS:
        return True
    found = cpu.descriptor(selector) if selector < 1 << 16 else None
    return isinstance(found, Descriptor) and found.is_writable_data
