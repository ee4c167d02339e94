"""Whether a CPU went astray because `ret` took what an interrupt or exception had pushed, where `iret` belongs.

A handler that ends in `ret` goes back to the interrupted code, but with all of the frame except RIP still on the stack
(Intel SDM volume 3A, 6.12.1 and 6.14.2). The next `ret` there then takes CS, RFLAGS or RSP for its return address. What
is left of such a frame is told by its shape, and in long mode by where it was pushed: RSP, aligned to 16.
"""

from __future__ import annotations

from typing import NamedTuple

from ..x86.cpu import Cpu
from ..x86.delivery import deliver
from ..x86.descriptors import NULL_SELECTORS, Descriptor
from ..x86.disasm import disassemble
from ..x86.exceptions import Event, EventKind
from ..x86.registers import RFLAGS_IF, RFLAGS_RESERVED
from .interrupts import Interrupts
from .stack_scan import FLAGS_ZERO

MAX_HANDLER = 512
"""Bytes of a handler that are read."""
STRAY = 0x1000
"""Bytes that a CPU may have executed from the wrong address on."""


class Taken(NamedTuple):
    """`what` was taken for a return address; `error_code` says that this was an exception's error code."""

    what: str
    error_code: bool = False


def taken_by_ret(cpu: Cpu) -> Taken | None:
    """What `ret` has taken from an interrupt's frame, if that is how the CPU came to where it is."""
    if not cpu.protected or cpu.mode.bits == 16 or (cpu.long and cpu.mode.bits != 64):
        return None
    width = 8 if cpu.long else 4
    popped = cpu.peek_int(cpu.stack - width, width)
    if popped is None or not popped <= cpu.pc < popped + STRAY:
        return None
    for number, what in enumerate(("CS", "RFLAGS", "RSP") if cpu.long else ("CS", "EFLAGS")):
        if _is_frame(cpu, cpu.stack - (number + 1) * width, width):
            return Taken(what)
    if popped < 1 << 16 and _is_frame(cpu, cpu.stack + width, width):
        return Taken(f"the error code {popped:#x}", error_code=True)
    return None


def left_by_ret(cpu: Cpu) -> str:
    """A clause, if on top of the stack is what a handler has left there that ended in `ret`: its IF is still 0, too."""
    if not cpu.protected or cpu.mode.bits == 16 or cpu.registers.rflags & RFLAGS_IF:
        return ""
    width = 8 if cpu.long else 4
    flags = cpu.peek_int(cpu.stack + width, width)
    if flags is None or not flags & RFLAGS_IF or not _is_frame(cpu, cpu.stack, width):
        return ""
    frame = "CS and RFLAGS of an interrupt are still on the stack"
    return f"{frame}: probably its handler ended in `ret`, and must end in `{_iret(cpu)}`"


def explain_taken(cpu: Cpu, taken: Taken, irqs: Interrupts) -> str:
    """The sentence for it, and which handler it was if that is known."""
    if taken.error_code:
        who = f"the handler of an exception must remove its error code and end in `{_iret(cpu)}`"
        return f"`ret` took {taken.what} that an exception had pushed: {who}"
    vector = irqs.only()
    handler = (
        f"the handler of {irqs.name(vector)}" if vector is not None else "the handler of the interrupt or exception"
    )
    only = (
        f"; {irqs.name(vector)} is the only one that is not masked"
        if vector is not None and not irqs.in_service
        else ""
    )
    how = f"{taken.what} was taken for a return address{only}"
    return f"`ret` took what an interrupt had pushed: {handler} must end in `{_iret(cpu)}` ({how})"


def explain_unseen(cpu: Cpu, irqs: Interrupts) -> str:
    """The sentence where an interrupt came whose handler a second run could not be stepped through; "" if none can."""
    vector = irqs.only()
    if not cpu.registers.rflags & RFLAGS_IF or vector is None:
        return ""
    entered = deliver(cpu, Event(vector, None, "", kind=EventKind.INTERRUPT))
    if entered.problem is not None or entered.registers is None:
        return f"Probably {irqs.came(vector)}" + (f", and {entered.problem.why}" if entered.problem is not None else "")
    if _ends_in_ret(cpu, entered.registers.rip):
        taken = "Probably `ret` took what an interrupt had pushed"
        how = f"that at {entered.registers.rip:#x} ends in `ret`"
        return f"{taken}: the handler of {irqs.name(vector)} must end in `{_iret(cpu)}` ({how})"
    return f"Probably {irqs.came(vector)}, and its handler at {entered.registers.rip:#x} led to the fault"


def _ends_in_ret(cpu: Cpu, address: int) -> bool:
    """Whether a function's first way out, read from its start on, is a near return."""
    for line in disassemble(cpu.peek(address, MAX_HANDLER), address, cpu.mode.bits):
        name = line.text.partition(" ")[0]
        if name == "ret" or name.startswith((".byte", "jmp", "ljmp", "iret", "hlt", "ud2")):
            return name == "ret"
    return False


def _iret(cpu: Cpu) -> str:
    return "iretq" if cpu.long else "iret"


def _is_frame(cpu: Cpu, at: int, width: int) -> bool:
    """Whether CS, RFLAGS and in long mode RSP and SS are at linear address `at`, as the CPU pushes them."""
    words = [cpu.peek_int(at + width * number, width) for number in range(4 if cpu.long else 2)]
    known = [word for word in words if word is not None]
    if len(known) < len(words):
        return False
    selector, flags = known[:2]
    if not 3 < selector < 1 << 16 or not flags & RFLAGS_RESERVED or flags & FLAGS_ZERO:
        return False
    code = cpu.descriptor(selector)
    if not isinstance(code, Descriptor) or not code.is_code or not code.present:
        return False
    if not cpu.long:
        return True
    rsp, stack = known[2:]
    found = cpu.descriptor(stack) if stack < 1 << 16 else None
    return rsp & ~15 == at + 4 * width and (
        stack in NULL_SELECTORS or (isinstance(found, Descriptor) and found.is_writable_data)
    )
