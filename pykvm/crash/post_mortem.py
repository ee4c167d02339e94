"""What is left of a guest that has come to its end, for those who find out why: none of its CPUs runs any more."""

from __future__ import annotations

from ..data import Data
from ..kvm import MpState
from ..typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..boot.rom import Rom
    from ..kvm import VCPU, VM
    from ..memory import GuestMemory
    from ..x86.cpu import Cpu
    from ..x86.cpuid import CpuidEntry
    from ..x86.registers import Registers, SystemRegisters
    from ..x86.symbols import SymbolTable


class PostMortem(Data):
    """A guest after its end."""

    vm: VM
    vcpus: Sequence[VCPU]
    memory: GuestMemory
    cpuid: list[CpuidEntry]
    """What CPUID told the guest."""
    symbols: SymbolTable | None
    """The image's."""
    exits: Sequence[int]
    """How often each vCPU had left the guest."""
    rom: Rom | None = None
    """The firmware, if the guest began in one."""
    unclaimed: Sequence[tuple[str, int, int]] = ()
    """(kind of bus, address, count) of the last accesses that nobody answered, the last first."""

    def read(self, gpa: int, size: int) -> bytes:
        """What a CPU reads at a guest physical address, from RAM or ROM; GuestMemoryError if neither is there."""
        rom = self.rom
        if rom is not None and rom.gpa <= gpa and gpa + size <= rom.gpa + rom.size:
            return rom.map[gpa - rom.gpa : gpa - rom.gpa + size]
        return self.memory.read(gpa, size)

    def cpu(self, registers: Registers, system: SystemRegisters) -> Cpu:
        """A CPU in that state, with the guest's memory and the width of its physical addresses."""
        from ..x86.cpu import Cpu
        from ..x86.cpuid import find

        leaf = find(self.cpuid, 0x80000008)
        bits = leaf.eax & 0xFF if leaf is not None else 36
        return Cpu(registers, system, self.read, min(max(bits, 32), 52))

    def cpu_now(self, number: int) -> Cpu:
        """CPU `number` as it is."""
        vcpu = self.vcpus[number]
        return self.cpu(vcpu.get_registers(), vcpu.get_system_registers())

    @property
    def halted(self) -> list[VCPU]:
        """The vCPUs that sleep in HLT."""
        return [vcpu for vcpu in self.vcpus if vcpu.get_mp_state() == MpState.HALTED]
