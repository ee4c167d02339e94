"""What a handler that never returned had interrupted: which exception or IRQ it was, and why it came.

What the frame and the error code say is read; the instruction's own reason is found by going through its checks again,
with the registers that the handler has left. Source: Intel SDM volume 3A, 6.12 to 6.15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..x86.cpu import Cpu
from ..x86.delivery import Delivery, deliver
from ..x86.descriptors import RPL, Descriptor
from ..x86.exceptions import (
    BP,
    DB,
    DF,
    EXT,
    GP,
    IDT,
    NP,
    PF,
    WITH_ERROR_CODE,
    Event,
    EventKind,
    error_code_words,
    vector_name,
)
from ..x86.registers import RFLAGS_TF
from .findings import Interrupted, Place
from .frames import ExceptionFrame
from .interrupts import EXCEPTIONS, Interrupts

_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{number}" for number in range(8, 16)))


def describe(
    cpu: Cpu,
    frame: ExceptionFrame,
    vectors: list[int],
    as_irqs: list[int],
    place: Callable[[int], Place],
    irqs: Interrupts,
) -> Interrupted:
    """What had pushed `frame`: one of the exceptions `vectors`, or of the interrupts `as_irqs`."""
    from ..x86.disasm import MAX_INSTRUCTION, disassemble
    from ..x86.faults import next_event

    before = interrupted_cpu(cpu, frame)
    lines = disassemble(before.peek(before.pc, MAX_INSTRUCTION), before.pc, before.mode.bits, 1)
    vector = vectors[0] if len(vectors) == 1 else None
    event = next_event(before)
    raises = event is not None and event.certain and event.vector in vectors
    as_irqs = [] if raises else [number for number in as_irqs if number in irqs.in_service or not vectors]
    came = irqs.came(as_irqs[0]) if as_irqs else ""
    if vector is None:  # one handler for all: the instruction, with the registers of now, may say which it was
        if event is not None and event.vector in vectors:
            vector = event.vector
        elif (event is None or not event.certain) and _names_gate(cpu, frame, vectors, irqs):
            vector = GP
        elif BP in vectors and cpu.peek(before.pc - 1, 1) == b"\xcc":
            vector = BP
        elif DB in vectors and frame.rflags & RFLAGS_TF:
            vector = DB
    error_code = None
    if as_irqs:
        vector = as_irqs[0]
    elif vector in WITH_ERROR_CODE:
        error_code = _error_code(cpu, frame)
    gate = _by_error_code(before, error_code, irqs, event)
    if gate is None and event is not None and event.kind is EventKind.SOFTWARE:
        gate = deliver(before, event)
    if vector is not None and (gate is None or gate.problem is None):
        gate = refused(cpu, frame, irqs, vector, event if raises else None, interrupt=bool(as_irqs))
    why = ""
    if gate is not None and gate.problem is not None:
        name = (
            "" if gate.event.kind is not EventKind.EXCEPTION or gate.event.name in gate.event.why else gate.event.name
        )
        why = f"{gate.event.why}{f' ({name})' if name else ''}, and {gate.problem.why}"
    reason = ""
    if not came and not why and vector is not None:
        reason = _reason(before, event, vector)
        if vector == DB and frame.rflags & RFLAGS_TF:
            reason = "RFLAGS.TF is set, so each instruction ends in a debug exception"
        if " most likely " in reason:
            why = reason
    return Interrupted(
        name="an exception" if vector is None else irqs.name(vector) if came else vector_name(vector),
        vector=vector,
        error_code=error_code,
        error_words=error_code_words(vector, error_code) if vector is not None and error_code is not None else "",
        place=place(before.pc),
        instruction=lines[0].text if lines else "",
        stack=frame.rsp,
        frame=frame.address,
        why=why,
        reason=reason,
        came=came,
    )


def interrupted_cpu(cpu: Cpu, frame: ExceptionFrame) -> Cpu:
    """The CPU as it was when it pushed the frame, but for the registers that the handler has changed since."""
    code = cpu.descriptor(frame.selector)
    segment = cpu.system.cs
    if isinstance(code, Descriptor):
        segment = replace(
            segment, selector=frame.selector, base=code.base, limit=code.limit, dpl=code.dpl, l=code.l, db=code.db
        )
    system = replace(cpu.system, cs=segment, ss=replace(cpu.system.ss, dpl=frame.selector & RPL))
    return replace(
        cpu, registers=replace(cpu.registers, rip=frame.rip, rsp=frame.rsp, rflags=frame.rflags), system=system
    )


def refused(
    cpu: Cpu,
    frame: ExceptionFrame,
    irqs: Interrupts,
    vector: int,
    event: Event | None = None,
    *,
    interrupt: bool = True,
) -> Delivery | None:
    """The delivery of `vector` at that frame, if the architecture refuses its gate: some KVMs enter the handler."""
    if event is None and (interrupt or vector >= EXCEPTIONS):
        event = Event(vector, None, irqs.came(vector), kind=EventKind.INTERRUPT)
    code = 0 if vector in WITH_ERROR_CODE else None
    found = deliver(interrupted_cpu(cpu, frame), event or Event(vector, code, f"{vector_name(vector)} was raised"))
    return found if found.problem is not None and not found.pushing else None


def _reason(before: Cpu, event: Event | None, vector: int) -> str:
    """Why the instruction raised `vector`, as far as the handler has left what it takes to tell that."""
    from ..x86.faults import next_event

    if event is None or (event.vector != vector and vector != DF):
        return ""
    if event.address is not None and event.address == before.system.cr2:
        return event.why
    others = next_event(replace(before, registers=replace(before.registers, **dict.fromkeys(_GENERAL, 0x5A5A5A5A))))
    if others is not None and others.why == event.why:
        return event.why
    return "" if event.vector == PF else f"{event.why}, if its registers are still the same"


def _error_code(cpu: Cpu, frame: ExceptionFrame) -> int | None:
    width = 8 if cpu.long else 4
    return cpu.peek_int(frame.address - width, width)


def _names_gate(cpu: Cpu, frame: ExceptionFrame, vectors: list[int], irqs: Interrupts) -> bool:
    """Whether the word below the frame is an error code that names a gate, or the code segment of an interrupt's gate,
    and the handler is of some that have one."""
    code = _error_code(cpu, frame)
    if code is None or GP not in vectors or NP not in vectors:
        return False
    if not code & ~0xFFB and code & IDT:
        return True
    return _of_interrupt(interrupted_cpu(cpu, frame), code, irqs) is not None


def _by_error_code(before: Cpu, error_code: int | None, irqs: Interrupts, event: Event | None) -> Delivery | None:
    """The delivery of an event that an error code names as the one which its gate refused.

    `event` is what the instruction raises, as far as that is known.
    """
    if error_code is None:
        return None
    if error_code & ~0xFFB or not error_code & IDT:
        return _of_interrupt(before, error_code, irqs) if event is None or not event.certain else None
    vector = error_code >> 3
    known = (*irqs.in_service, *([event.vector] if event is not None and event.certain else []))
    if before.long and vector not in known and vector % 2 == 0 and vector // 2 in known:
        vector //= 2  # QEMU's emulated CPUs count in long mode's gates of 16 bytes (7.2: seg_helper.c)
    if event is None or not event.certain or event.vector != vector:
        words = irqs.came(vector) if irqs.irq(vector) is not None or vector >= EXCEPTIONS else vector_name(vector)
        event = Event(vector, None, words, kind=EventKind.INTERRUPT)
    return deliver(before, event)


def _of_interrupt(before: Cpu, error_code: int, irqs: Interrupts) -> Delivery | None:
    """The delivery of an interrupt in service whose gate names the segment that an error code does."""
    for event in irqs.events() if error_code else ():
        found = deliver(before, event)
        code = found.problem.error_code if found.problem is not None else None
        if code is not None and code in (error_code, error_code | EXT):  # QEMU's emulated CPUs leave out EXT
            return found
    return None
