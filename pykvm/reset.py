"""The reset of a machine: everything as it is after power-on, save RAM, and the image loaded anew.

Source: Intel SDM volume 3A, table 9-1 (state of a processor after RESET#). What KVM keeps, a machine that has just been
made has in that state: one is made for it, and its state is put onto the old one. RAM keeps its content, as on a PC
that is not switched off, where no part of the image is.
"""

from __future__ import annotations

from contextlib import ExitStack

from .kvm.saved import SavedState, state_msrs
from .typed import TYPE_CHECKING
from .x86 import cpuid

if TYPE_CHECKING:
    from .machine import Machine


def reset(machine: Machine) -> None:
    """Put `machine` back to its power-on state. With its lock held, and no vCPU in the guest."""
    for device in (*machine.ports.devices, *machine.mmio.devices):
        device.reset()
    with ExitStack() as stack:
        vm, vcpus = machine.make_vm(stack, len(machine.vcpus))
        for vcpu in vcpus:
            vcpu.set_cpuid(cpuid.for_cpu(machine.cpuid_in_use, vcpu.id, len(vcpus)))
        state = SavedState.capture(vm, vcpus, state_msrs(machine.system, vcpus[0]))
        state.apply(machine.vm, machine.vcpus)
    # A line that a device holds up even now is a new edge to the new chips.
    for number, lines in machine.lines.items():
        if any(line.level for line in lines):
            machine.vm.irq_line(number, False)
            machine.vm.irq_line(number, True)
