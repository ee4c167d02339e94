"""Where the CPUs are, in a few words: for a run that has not come to an end by itself."""

from __future__ import annotations

from ..kvm import VCPU, MpState
from ..x86.disasm import MAX_INSTRUCTION, disassemble
from ..x86.exceptions import EventKind
from ..x86.faults import next_event
from ..x86.registers import RFLAGS_IF
from .interrupts import interrupts
from .places import Places
from .post_mortem import PostMortem
from .storm import explain_storm, find_storm
from .stray import is_astray
from .wrong_return import left_by_ret

MOST = 4
"""CPUs that are told of."""


def cpu_locations(end: PostMortem) -> str:
    """The place of each CPU that has been started."""
    started = [vcpu for vcpu in end.vcpus if vcpu.get_mp_state() in (MpState.RUNNABLE, MpState.HALTED)]
    places = Places(end.symbols)
    told = ["; ".join((_tell(end, vcpu, places), *interrupt_state(end, vcpu))) for vcpu in started[:MOST]]
    more = [f"{len(started) - MOST} more CPUs"] if len(started) > MOST else []
    return ", ".join(told + more)


def interrupt_state(end: PostMortem, vcpu: VCPU) -> list[str]:
    """What keeps the CPU from being interrupted, in clauses."""
    enabled = bool(vcpu.get_registers().rflags & RFLAGS_IF)
    words = interrupts(end, vcpu.id).state(enabled=enabled)
    return [*words, *filter(None, [left_by_ret(end.cpu_now(vcpu.id))])]


def _tell(end: PostMortem, vcpu: VCPU, places: Places) -> str:
    cpu = end.cpu_now(vcpu.id)
    where = places.place(cpu.pc)
    if vcpu.get_mp_state() == MpState.HALTED:
        return f"CPU {vcpu.id} slept in the hlt before {where}"
    lines = disassemble(cpu.peek(cpu.pc, MAX_INSTRUCTION), cpu.pc, cpu.mode.bits, 1)
    again = next_event(cpu)
    raises = ", in memory that is all zeros: it has gone astray" if is_astray(cpu) else ""
    storm = find_storm(cpu, places.code)
    if storm is not None and places.code(storm.rip, MAX_INSTRUCTION) not in (b"", cpu.peek(storm.rip, MAX_INSTRUCTION)):
        told = explain_storm(cpu, storm, str(places.place(storm.rip)))
        raises = f"; {told[:1].lower()}{told[1:]}"
    elif again is not None and again.certain and again.kind is EventKind.EXCEPTION:
        raises = f", which raises {again.name} again and again: its handler comes back to it"
    return f"CPU {vcpu.id} was at {where}" + (f" ({lines[0].text})" if lines else "") + raises
