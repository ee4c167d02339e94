"""Finishes instructions that KVM cannot emulate, so that the guest goes on: `Finisher`, one for each vCPU.

KVM interprets guest code where the CPU does not run it: MMIO on every host, all of ring 0 on some. What its interpreter
does not know ends in KVM_INTERNAL_ERROR_EMULATION (Linux Documentation/virt/kvm/api.rst, section 5). Here

- `allowed` and `form` choose what may be executed on the host's CPU, and in which bytes;
- `operand` reads and writes its operand in memory, with all the checks that the guest's CPU would make;
- `models` does what is no business of the host's CPU: interrupts, returns from them, flags of ring 0.

Nothing of this is imported before the first failure.
"""

from .finisher import Finisher

__all__ = ["Finisher"]
