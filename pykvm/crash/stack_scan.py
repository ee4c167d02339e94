"""A quick look at the stacks of CPUs that have halted: is there anything that may be an exception's frame?

A stack without a saved CS and RFLAGS side by side is no exception handler's; `frames` looks more closely. It is asked
at the end of each such run, so it imports little.
"""

from __future__ import annotations

from array import array
from itertools import pairwise

from ..typed import TYPE_CHECKING
from ..x86.registers import CR0_PE, EFER_LMA, RFLAGS_RESERVED

if TYPE_CHECKING:
    from .post_mortem import PostMortem

STACK = 4096
"""Bytes of a stack that are looked at."""
FLAGS_ZERO = ~0x3F7FD7
"""Bits of RFLAGS that are never set."""


def may_have_frames(end: PostMortem) -> bool:
    """Whether a CPU that sleeps may have an exception's frame on its stack: most have not."""
    for vcpu in end.halted:
        system = vcpu.get_system_registers()
        if not system.cr0 & CR0_PE:
            continue
        width, base = (8, 0) if system.efer & EFER_LMA else (4, system.ss.base)
        raw = end.memory.read_linear(base + vcpu.get_registers().rsp, STACK, vcpu.physical)
        words = array("Q" if width == 8 else "I", raw[: len(raw) // width * width])
        for selector, rflags in pairwise(words):
            if 3 < selector < 1 << 16 and rflags & RFLAGS_RESERVED and not rflags & FLAGS_ZERO:
                return True
    return False
