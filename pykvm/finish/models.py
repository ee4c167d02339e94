"""Instructions that are modelled: software interrupts and the return from one, flags and counters of ring 0.

Sources: Intel SDM volume 2, INT n/INTO/INT3, IRET, CLAC, STAC, XGETBV, RDTSCP, RDSSP; volume 3A, 6.4.4 and 6.12.
"""

from __future__ import annotations

from ..kvm import VCPU
from ..kvm.saved import MSR_TSC
from ..typed import Protocol
from ..x86.cpu import Cpu
from ..x86.delivery import deliver
from ..x86.descriptors import TASK_GATE
from ..x86.exceptions import BP, GP, OF, UD, Event, EventKind
from ..x86.instruction import decoder
from ..x86.registers import CR4_OSXSAVE, RFLAGS_AC, RFLAGS_RF, Registers
from ..x86.returning import interrupt_return
from .operand import Refused, Space

INTERRUPTS = frozenset({"int", "int3", "into", "iret", "iretd", "iretq"})
"""Those whose next instruction is not the one behind them."""
_MODELS = INTERRUPTS | {"clac", "stac", "xgetbv", "rdtscp", "rdsspd", "rdsspq"}
_WIDTHS = {"iret": 2, "iretd": 4, "iretq": 8}
MSR_TSC_AUX = 0xC0000103
_OF = 1 << 11
_32 = 0xFFFFFFFF


class Finisher(Protocol):
    """Whose instruction it is: see `finisher`."""

    @property
    def vcpu(self) -> VCPU:
        """The vCPU."""

    @property
    def space(self) -> Space:
        """Its physical addresses."""

    def has(self, feature: str) -> bool:
        """Whether it has a feature."""

    def set_registers(self, cpu: Cpu) -> None:
        """Give it registers."""


def recognize(code: bytes, bits: int) -> tuple[str, int]:
    """The mnemonic of an instruction that has a model here, and its length; "" for others."""
    insn = decoder(bits)(code, 0)
    if insn is None or insn.prefix[0] == 0xF0:
        return "", 0
    name = str(insn.mnemonic.split()[-1])
    return (name, int(insn.size)) if name in _MODELS else ("", 0)


def finish(finisher: Finisher, cpu: Cpu, name: str, length: int) -> bool:
    """Do what the instruction does; False if the model does not go so far. Raises Refused with its exception."""
    registers = cpu.registers
    behind = registers.copy(rip=registers.rip + length & cpu.width_mask, rflags=registers.rflags & ~RFLAGS_RF)
    if name in _WIDTHS:
        return _return(finisher, cpu, _WIDTHS[name])
    if name in ("int", "int3", "into"):
        if name == "into" and not registers.rflags & _OF:
            finisher.set_registers(Cpu(behind, cpu.system, cpu.read, cpu.physical_bits))
            return True
        vector = {"int3": BP, "into": OF}.get(name)
        if vector is None:
            vector = next(iter(reversed(cpu.peek(cpu.pc, length))), 0)
        return _interrupt(finisher, cpu, behind, vector)
    changed = _simple(finisher, cpu, name, behind)
    finisher.set_registers(Cpu(changed, cpu.system, cpu.read, cpu.physical_bits))
    return True


def _simple(finisher: Finisher, cpu: Cpu, name: str, behind: Registers) -> Registers:
    if name in ("clac", "stac"):
        if not finisher.has("SMAP") or (cpu.protected and cpu.cpl) or (not cpu.protected and cpu.system.cr0 & 1):
            raise Refused(Event(UD))
        return behind.copy(rflags=behind.rflags & ~RFLAGS_AC | (RFLAGS_AC if name == "stac" else 0))
    if name == "xgetbv":
        if not cpu.system.cr4 & CR4_OSXSAVE:
            raise Refused(Event(UD))
        if behind.rcx & _32:
            raise Refused(Event(GP, 0))
        value = finisher.vcpu.get_xcrs().get(0, 1)
        return behind.copy(rax=value & _32, rdx=value >> 32)
    if name == "rdtscp":
        if not finisher.has("RDTSCP"):
            raise Refused(Event(UD))
        values = finisher.vcpu.get_msrs((MSR_TSC, MSR_TSC_AUX))
        time = values.get(MSR_TSC, 0)
        return behind.copy(rax=time & _32, rdx=time >> 32, rcx=values.get(MSR_TSC_AUX, 0) & _32)
    return behind  # RDSSP without shadow stacks


def _interrupt(finisher: Finisher, cpu: Cpu, behind: Registers, vector: int) -> bool:
    there = Cpu(behind, cpu.system, cpu.read, cpu.physical_bits)
    delivery = deliver(there, Event(vector, None, kind=EventKind.SOFTWARE))
    if delivery.problem is not None:
        raise Refused(delivery.problem)
    if delivery.registers is None or delivery.system is None or (delivery.gate and delivery.gate.type == TASK_GATE):
        return False
    space, user = finisher.space, delivery.system.ss.dpl == 3 and cpu.protected
    reached = [space.reach(cpu, push.linear, push.size, write=True, user=user) for push in delivery.pushes]
    for pieces, push in zip(reached, delivery.pushes, strict=True):
        space.write(pieces, push.value.to_bytes(push.size, "little"))
    finisher.set_registers(Cpu(delivery.registers, delivery.system, cpu.read, cpu.physical_bits))
    return True


def _return(finisher: Finisher, cpu: Cpu, width: int) -> bool:
    def load(offset: int, size: int) -> int:
        return int.from_bytes(
            finisher.space.read(finisher.space.access(cpu, "ss", offset, size, write=False)), "little"
        )

    found = interrupt_return(cpu, width, load)
    if found is None:
        return False
    if isinstance(found, Event):
        raise Refused(found)
    registers, system = found
    finisher.set_registers(Cpu(registers, system, cpu.read, cpu.physical_bits))
    return True
