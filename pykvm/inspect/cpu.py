"""One CPU: what it is doing, and its registers."""

from __future__ import annotations

from dataclasses import dataclass

from ..machine import Machine
from ..x86.cpu import Cpu
from ..x86.disasm import MAX_INSTRUCTION, disassemble
from ..x86.registers import Registers, SystemRegisters


@dataclass(frozen=True, slots=True)
class CpuState:
    """A CPU. `linear` is the address of its next instruction, `instruction` its text, "" if it is not mapped."""

    number: int
    activity: str
    """ "runnable", "halted", "uninitialized", ... (api.rst, KVM_GET_MP_STATE)."""
    mode: str
    linear: int
    symbol: str
    instruction: str
    registers: Registers
    system: SystemRegisters


def cpu_state(machine: Machine, cpu: int = 0) -> CpuState:
    """The state of CPU number `cpu`."""
    vcpu = machine.engine.board.vcpus[cpu]
    registers, system = vcpu.get_registers(), vcpu.get_system_registers()
    # The walk is ours: KVM's own would set accessed bits in the guest's page tables.
    seen = Cpu(registers, system, machine.memory.read)
    mode, linear = seen.mode, seen.pc
    symbols = machine.symbols
    found = symbols.lookup(linear) if symbols is not None else None
    symbol = "" if found is None else found[0] + (f"+{found[1]:#x}" if found[1] else "")
    code = seen.peek(linear, MAX_INSTRUCTION)
    instruction = next(iter(disassemble(code, linear, mode.bits, 1)), None)
    return CpuState(
        cpu,
        vcpu.get_mp_state().name.lower(),
        mode.words,
        linear,
        symbol,
        instruction.text if instruction is not None else "",
        registers,
        system,
    )
