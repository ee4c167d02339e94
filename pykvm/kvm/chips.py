"""The interrupt controllers and the timer that KVM keeps in the kernel, as plain data.

Source: api.rst, KVM_GET_IRQCHIP and KVM_GET_PIT2; what the fields mean: Intel 8259A, 82093AA and 8254 data sheets.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from ._kvm import ffi, lib
from .vm import VM

PIT_COUNTERS = 3
IOAPIC_PINS = 24
_PIT_FLAGS_AT, _HPET_LEGACY = 72, 1
"""struct kvm_pit_state2: `flags` behind three channels, and KVM_PIT_FLAGS_HPET_LEGACY."""


class Pic(NamedTuple):
    """An 8259A. `irq_base` is the vector of its input 0; `elcr` has the inputs that are level-triggered."""

    irr: int
    imr: int
    isr: int
    irq_base: int
    init_state: int
    auto_eoi: int
    elcr: int


class Ioapic(NamedTuple):
    """The IOAPIC; `redirections` are the 64-bit entries of its inputs."""

    base_address: int
    ioregsel: int
    id: int
    irr: int
    redirections: tuple[int, ...]


class PitCounter(NamedTuple):
    """A counter of the 8254; `reload` is what it starts from, 1 to 65536. `mode` is 255 until one is set."""

    reload: int
    mode: int
    bcd: int
    gate: int


def pics(vm: VM) -> tuple[Pic, Pic]:
    """The master and the slave."""
    return _pic(vm, lib.KVM_IRQCHIP_PIC_MASTER), _pic(vm, lib.KVM_IRQCHIP_PIC_SLAVE)


def ioapic(vm: VM) -> Ioapic:
    """The IOAPIC."""
    chip = _chip(vm, lib.KVM_IRQCHIP_IOAPIC)
    state = lib.pykvm_ioapic(chip)
    redirections = tuple(lib.pykvm_redirection(chip, pin) for pin in range(IOAPIC_PINS))
    return Ioapic(state.base_address, state.ioregsel, state.id, state.irr, redirections)


def pit_counters(vm: VM) -> list[PitCounter]:
    """The three counters."""
    box = ffi.new("struct kvm_pit_state2 *")
    vm.ioctl("KVM_GET_PIT2", box)
    counters = [lib.pykvm_pit_channel(box, number) for number in range(PIT_COUNTERS)]
    return [PitCounter(state.count, state.mode, state.bcd, state.gate) for state in counters]


def _pic(vm: VM, number: int) -> Pic:
    chip = _chip(vm, number)
    state = lib.pykvm_pic(chip)  # a part of `chip`
    return Pic(*[getattr(state, name) for name in Pic._fields])


def _chip(vm: VM, number: int) -> Any:
    box = ffi.new("struct kvm_irqchip *", {"chip_id": number})
    vm.ioctl("KVM_GET_IRQCHIP", box)
    return box


def connect_pit(vm: VM, on: bool) -> None:
    """Have the i8254's counter 0 interrupt, or, where an HPET stands in for it, not."""
    state = bytearray(vm.get_pit())
    vm.set_pit(bytes(state))  # begins its period anew, and drops the interrupts that KVM keeps for it
    (flags,) = struct.unpack_from("<I", state, _PIT_FLAGS_AT)
    flags = flags & ~_HPET_LEGACY if on else flags | _HPET_LEGACY
    struct.pack_into("<I", state, _PIT_FLAGS_AT, flags)
    vm.set_pit(bytes(state))
