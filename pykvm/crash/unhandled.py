"""An exception in real mode that the BIOS took because the program has no handler of its own."""

from __future__ import annotations

from dataclasses import replace

from ..bios.call import FRAME_SIZE, Call
from ..bios.rom import BASE
from ..kvm import VCPU
from ..x86.registers import CR0_PE


def back_to_caller(vcpu: VCPU, frame: Call) -> bool:
    """Put the vCPU, which has just left the guest in a stub of the BIOS, back to where it came in.

    Whoever looks at it then sees the moment of the exception, and if it goes on, the exception comes again. False, and
    nothing has changed, if it is in no stub: any program can write to the stubs' port.
    """
    vcpu.complete_access()
    registers, system = vcpu.get_registers(), vcpu.get_system_registers()
    if system.cr0 & CR0_PE or system.cs.base != BASE:
        return False
    sp = frame.address + FRAME_SIZE - system.ss.base
    vcpu.set_system_registers(replace(system, cs=replace(system.cs, selector=frame.cs, base=frame.cs << 4)))
    vcpu.set_registers(
        replace(
            registers, rax=frame.eax, rbx=frame.ebx, rcx=frame.ecx, rdx=frame.edx, rsi=frame.esi, rdi=frame.edi,
            rbp=frame.ebp, rsp=frame.esp & 0xFFFF0000 | sp & 0xFFFF, rip=frame.ip,
            rflags=registers.rflags & 0xFFFF0000 | frame.flags,
        )
    )  # fmt: skip
    return True
