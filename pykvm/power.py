"""Power-on and reset: what KVM keeps of a PC, as it is before the first instruction.

Source: Intel SDM volume 3A, table 9-1 (state of a processor after RESET#). For a reset, a second virtual machine is
made, and its state put onto the first. RAM keeps its content, as on a PC that is not switched off, where no part of the
image is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing

from .kvm import VCPU, VM, System
from .memory import PAGE_SIZE
from .typed import TYPE_CHECKING
from .x86 import cpuid

if TYPE_CHECKING:
    from .machine import Machine

IDENTITY_MAP_ADDRESS = 0xFEFFC000
TSS_ADDRESS = IDENTITY_MAP_ADDRESS + PAGE_SIZE
"""One page and three for Intel CPUs without unrestricted guest mode, just below the largest firmware."""
LAPIC_SVR = 0xF0


def make_vm(
    system: System, stack: ExitStack, cpus: int, map_memory: Callable[[VM], object] | None = None
) -> tuple[VM, list[VCPU]]:
    """A VM with its chips and vCPUs as they are after power-on; `stack` is to close them.

    It has no memory but by `map_memory`, which is called first of all: once there are chips, KVM waits for all
    their users at each change of a slot, for milliseconds.
    """
    vm = stack.enter_context(closing(system.create_vm()))
    if map_memory is not None:
        map_memory(vm)
    if vm.check_extension("SET_TSS_ADDR"):
        vm.set_tss_address(TSS_ADDRESS)
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
    vm.create_irqchip()
    vm.create_pit()
    # As the MADT and the MP table say: the PIT is on input 2 of the IOAPIC.
    vm.set_gsi_routing(
        [(irq, irq // 8, irq % 8) for irq in range(16)] + [(irq, 2, irq or 2) for irq in range(24) if irq != 2]
    )
    vcpus = [stack.enter_context(closing(vm.create_vcpu(number))) for number in range(cpus)]
    # Firmware leaves the first CPU's local APIC enabled (SVR bit 8): without it, its INIT and SIPI go nowhere.
    lapic = bytearray(vcpus[0].get_lapic())
    lapic[LAPIC_SVR : LAPIC_SVR + 4] = (0x1FF).to_bytes(4, "little")
    vcpus[0].set_lapic(bytes(lapic))
    return vm, vcpus


def reset(machine: Machine) -> None:
    """Put `machine` back to its power-on state. With its lock held, and no vCPU in the guest."""
    from .kvm.saved import SavedState, state_msrs

    for device in (*machine.ports.devices, *machine.mmio.devices):
        try:
            device.reset()
        except Exception as error:
            machine.failed(error, device.name or type(device).__name__)
            return
    with ExitStack() as stack:
        vm, vcpus = make_vm(machine.system, stack, len(machine.vcpus))
        for vcpu in vcpus:
            vcpu.set_cpuid(cpuid.for_cpu(machine.cpuid_in_use, vcpu.id, len(vcpus)))
        state = SavedState.capture(vm, vcpus, state_msrs(machine.system, vcpus[0]))
        state.apply(machine.vm, machine.vcpus)
    # A line that a device holds up even now is a new edge to the new chips.
    for number, lines in machine.lines.items():
        if any(line.level for line in lines):
            machine.vm.irq_line(number, False)
            machine.vm.irq_line(number, True)
