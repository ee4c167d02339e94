"""Where the CPUs are, in a few words: for a run that has not come to an end by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kvm import MpState
from ..x86.disasm import MAX_INSTRUCTION, disassemble
from .frames import cpu_of
from .scene import Places

if TYPE_CHECKING:
    from ..kvm import VCPU
    from ..machine import Machine

MOST = 4
"""CPUs that are told of."""


def whereabouts(machine: Machine) -> str:
    """The place of each CPU that has been started. All vCPU threads have ended."""
    started = [vcpu for vcpu in machine.vcpus if vcpu.get_mp_state() in (MpState.RUNNABLE, MpState.HALTED)]
    places = Places(machine.symbols)
    told = [_tell(machine, vcpu, places) for vcpu in started[:MOST]]
    more = [f"{len(started) - MOST} more CPUs"] if len(started) > MOST else []
    return ", ".join(told + more)


def _tell(machine: Machine, vcpu: VCPU, places: Places) -> str:
    cpu = cpu_of(machine, vcpu.get_registers(), vcpu.get_system_registers())
    where = places.place(cpu.pc)
    if vcpu.get_mp_state() == MpState.HALTED:
        return f"CPU {vcpu.id} slept in the hlt before {where}"
    lines = disassemble(cpu.peek(cpu.pc, MAX_INSTRUCTION), cpu.pc, cpu.mode.bits, 1)
    return f"CPU {vcpu.id} was at {where}" + (f" ({lines[0].text})" if lines else "")
