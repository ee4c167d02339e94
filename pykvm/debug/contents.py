"""What a debugger may look at and change of a machine that is stopped: registers and memory."""

from __future__ import annotations

from ..engine.board import Board
from ..engine.gate import FairLock
from ..errors import PykvmError
from ..kvm import VCPU
from ..kvm.state import MpState
from ..memory import PAGE_SIZE
from ..x86.paging import Walk, walk
from ..x86.registers import Registers, SystemRegisters, linear_pc


class DebugError(PykvmError):
    """What was asked of a debugger cannot be done now."""


class Contents:
    """The contents of the machine of `board`. Whoever stops it is a subclass, and has `require_stopped`."""

    def __init__(self, board: Board, lock: FairLock) -> None:
        self._board, self._lock = board, lock
        self._touched = False  # something was changed since the stop

    def require_stopped(self) -> object:
        """Return once all CPUs are out of the guest; DebugError if the machine is not stopped. With the lock held."""
        raise NotImplementedError

    def _stopped(self, cpu: int) -> VCPU:
        """A CPU whose state holds still: KVM would make whoever asks a running one wait until it comes out."""
        with self._lock:
            self.require_stopped()
        return self._board.vcpus[cpu]

    def registers(self, cpu: int) -> Registers:
        """General registers, RIP and RFLAGS."""
        return self._stopped(cpu).get_registers()

    def set_registers(self, cpu: int, registers: Registers) -> None:
        """Set them. A CPU that sleeps in HLT wakes up if RIP changes."""
        with self._lock:
            vcpu = self._stopped(cpu)
            if vcpu.get_registers().rip != registers.rip and vcpu.get_mp_state() == MpState.HALTED:
                vcpu.set_mp_state(MpState.RUNNABLE)
            vcpu.set_registers(registers)
            self._touched = True

    def system_registers(self, cpu: int) -> SystemRegisters:
        """Segments, tables, control registers."""
        return self._stopped(cpu).get_system_registers()

    def set_system_registers(self, cpu: int, system: SystemRegisters) -> None:
        """Set them; KvmError for a state that cannot be."""
        with self._lock:
            self._stopped(cpu).set_system_registers(system)
            self._touched = True

    def xsave(self, cpu: int) -> bytes:
        """The XSAVE area: x87, SSE and whatever else the CPU has."""
        return self._stopped(cpu).get_xsave(self._board.vm.check_extension("XSAVE2"))

    def set_xsave(self, cpu: int, area: bytes) -> None:
        """Set it; KvmError for a state that cannot be."""
        with self._lock:
            self._stopped(cpu).set_xsave(area)
            self._touched = True

    def msr(self, cpu: int, index: int) -> int | None:
        """A model-specific register; None if KVM does not give it."""
        return self._stopped(cpu).get_msrs([index]).get(index)

    def set_msr(self, cpu: int, index: int, value: int) -> None:
        """Set it; KvmError for a value that cannot be."""
        with self._lock:
            self._stopped(cpu).set_msrs({index: value})
            self._touched = True

    def pc(self, cpu: int) -> int:
        """The linear address of the next instruction."""
        return pc_of(self._stopped(cpu))

    def walk(self, cpu: int, linear: int) -> Walk:
        """How that CPU translates a linear address, step by step."""
        return walk(self._board.memory.read, self.system_registers(cpu), linear)

    def read(self, cpu: int, linear: int, size: int) -> bytes:
        """At most `size` bytes as that CPU maps them; fewer, or none, where RAM or the mapping ends."""
        with self._lock:
            self.require_stopped()
            return self._board.read_linear(linear, size, cpu)

    def write(self, cpu: int, linear: int, data: bytes) -> None:
        """Write through that CPU's page tables, even to read-only pages; nothing is written if any byte cannot be."""
        with self._lock:
            self.require_stopped()
            parts, at = [], 0
            while at < len(data):
                address = linear + at & (1 << 64) - 1
                size = min(len(data) - at, PAGE_SIZE - address % PAGE_SIZE)
                page = self._board.vcpus[cpu].translate(address)
                if not page.valid:
                    raise DebugError(f"linear {address:#x} is not mapped")
                self._board.memory.offset(page.physical, size)
                parts.append((page.physical, data[at : at + size]))
                at += size
            for gpa, part in parts:
                self._board.memory.write(gpa, part)
            self._touched = True

    def read_physical(self, gpa: int, size: int) -> bytes:
        """At most `size` bytes of RAM from a guest physical address on; fewer, or none, where RAM ends."""
        with self._lock:
            self.require_stopped()
            for region in self._board.memory.regions:
                if region.gpa <= gpa < region.gpa + region.size:
                    return self._board.memory.read(gpa, min(size, region.gpa + region.size - gpa))
            return b""

    def write_physical(self, gpa: int, data: bytes) -> None:
        """Write to RAM; memory.GuestMemoryError if that is not RAM."""
        with self._lock:
            self.require_stopped()
            self._board.memory.write(gpa, data)
            self._touched = True


def pc_of(vcpu: VCPU) -> int:
    """The linear address of a CPU's next instruction."""
    return linear_pc(vcpu.get_registers(), vcpu.get_system_registers())
