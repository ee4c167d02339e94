"""What KVM keeps of a PC, as it is after power-on, before the first instruction.

Source: Intel SDM volume 3A, table 9-1 (state of a processor after RESET#).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing

from ..kvm import VCPU, VM, System
from ..kvm.vm import IDENTITY_MAP_ADDRESS, TSS_ADDRESS
from ..x86 import lapic

SPURIOUS_VECTOR = 0xFF


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
    page = bytearray(vcpus[0].get_lapic())
    lapic.set_register(page, lapic.SVR, lapic.SVR_ENABLED | SPURIOUS_VECTOR)
    vcpus[0].set_lapic(bytes(page))
    return vm, vcpus
