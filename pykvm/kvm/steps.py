"""A vCPU that executes instruction by instruction, with its registers kept (api.rst, KVM_SET_GUEST_DEBUG)."""

from __future__ import annotations

from ..x86.registers import Registers, SystemRegisters
from ._kvm import ffi, lib
from .vcpu import VCPU, registers_of, system_registers_of


class Steps:
    """Steps `vcpu`, and keeps the registers before each of the last `keep` instructions."""

    def __init__(self, vcpu: VCPU, keep: int) -> None:
        self._vcpu = vcpu
        self._ring = ffi.new("struct pykvm_step[]", keep)
        self._keep = keep
        self._count = ffi.new("uint64_t *")

    @property
    def count(self) -> int:
        """How many instructions were executed."""
        return int(self._count[0])

    def run(self, most: int) -> int:
        """Execute at most `most` instructions: the result is as of `VCPU.enter`, `Exit.DEBUG` if they are done.

        An instruction that ends in another way does not count until `finished`.
        """
        self._vcpu.flush()
        result: int = lib.pykvm_steps(
            self._vcpu.fd, self._vcpu.run, self._ring, self._keep, self._count, self.count + most
        )
        return result

    def note(self) -> tuple[Registers, SystemRegisters]:
        """Keep the registers before the next instruction, which somebody else executes, and return them."""
        slot = self._ring[self.count % self._keep]
        self._vcpu.ioctl("KVM_GET_REGS", ffi.addressof(slot, "regs"))
        self._vcpu.ioctl("KVM_GET_SREGS", ffi.addressof(slot, "sregs"))
        return registers_of(slot.regs), system_registers_of(slot.sregs)

    def finished(self) -> None:
        """The instruction that left the guest half-way is done: it counts."""
        self._count[0] += 1

    def states(self) -> list[tuple[Registers, SystemRegisters]]:
        """The registers before each of the last instructions, the oldest first; the last one may not be done."""
        first = max(self.count - self._keep + 1, 0)
        slots = [self._ring[number % self._keep] for number in range(first, self.count + 1)]
        return [(registers_of(slot.regs), system_registers_of(slot.sregs)) for slot in slots]
