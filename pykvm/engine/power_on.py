"""What KVM keeps of a PC, as firmware leaves it to the program that it starts.

Sources: Intel SDM volume 3A, table 9-1 (state of a processor after RESET#); 8259A data sheet, ICW1 to OCW1; 8254 data
sheet, "Mode definitions"; IBM PC/AT technical reference, the BIOS's POST (8259s at vectors 08h and 70h, timer at
18.2 Hz). Firmware that is there itself programs all of it anew.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import ExitStack, closing

from ..kvm import VCPU, VM, System
from ..kvm.vm import IDENTITY_MAP_ADDRESS, TSS_ADDRESS
from ..x86 import lapic

SPURIOUS_VECTOR = 0xFF

_MASTER, _SLAVE = 0, 1
ELCR_AT = 8 + 14
"""Where struct kvm_irqchip has an 8259's register of edge and level."""
_NO_MODE = 0xFF


def _pic(chip: int, vector: int, mask: int) -> bytes:
    """struct kvm_irqchip: an 8259 that is set up, edge-triggered, with what its register of edge and level may have."""
    elcr_mask = 0xF8 if chip == _MASTER else 0xDE
    state = bytes((0, 0, mask, 0, 0, vector, *bytes(9), elcr_mask))
    return struct.pack("<II512s", chip, 0, state)


def _counter(mode: int, access: int, gate: int) -> bytes:
    """struct kvm_pit_channel_state: a counter that starts from 65536."""
    return struct.pack("<IHBBBBBBBBBBq", 65536, 0, 0, 0, 0, access, access, 0, access, mode, 0, gate, 0)


PICS = (_pic(_MASTER, 0x08, 0xB8), _pic(_SLAVE, 0x70, 0xFF))
"""Timer, keyboard, cascade and floppy are let through: who lets interrupts in before he has moved them gets IRQ 0 as
vector 8."""
PIT = _counter(3, 3, 1) + _counter(_NO_MODE, 0, 1) + _counter(_NO_MODE, 0, 0) + bytes(40)
"""struct kvm_pit_state2: counter 0 is a square wave of 18.2 Hz, the others are not programmed."""


def make_vm(
    system: System, stack: ExitStack, cpus: int, before_chips: Callable[[VM], object] | None = None
) -> tuple[VM, list[VCPU]]:
    """A VM with its chips and vCPUs as firmware leaves them; `stack` is to close them.

    It has no memory and no filter of MSRs but by `before_chips`, which is called first of all: once there are chips,
    KVM waits for all their users at each change of these, for milliseconds.
    """
    vm = stack.enter_context(closing(system.create_vm()))
    if before_chips is not None:
        before_chips(vm)
    if vm.check_extension("SET_TSS_ADDR"):
        vm.set_tss_address(TSS_ADDRESS)
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
    vm.create_irqchip()
    vm.create_pit()
    for pic in PICS:
        vm.set_irqchip(pic)
    vm.set_pit(PIT)
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
