"""The registers of all devices, and of the interrupt controllers and timers that are KVM's own.

Sources: Intel 8259A data sheet; Intel 82093AA (IOAPIC) data sheet, 3.2.4; Intel SDM volume 3A, table 10-1 (local APIC);
Intel 8254 data sheet; the structures' layout is <asm/kvm.h>'s (kvm_pic_state, kvm_ioapic_state, kvm_pit_state2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..kvm import VCPU
from ..machine import Machine

Value = int | str | bytes | bool | float | None

LONG_LIST = 8
VALUES_LIMIT = 512
"""Values of one device that are listed."""

PIC_MASTER, PIC_SLAVE, IOAPIC = 0, 1, 2
_CHIP_HEADER = 8
_PIC = (
    "last_irr irr imr isr priority_add irq_base read_reg_select poll special_mask init_state auto_eoi "
    "rotate_on_auto_eoi special_fully_nested_mode init4 elcr elcr_mask"
)
_PIC_SHOWN = ("irr", "imr", "isr", "irq_base", "init_state", "auto_eoi", "elcr")
_PIT_CHANNEL = struct.Struct("<IH10B8x")
_PIT_CHANNELS = 3
_LAPIC = {
    0x20: "id", 0x30: "version", 0x80: "tpr", 0xA0: "ppr", 0xD0: "ldr", 0xE0: "dfr", 0xF0: "svr", 0x280: "esr",
    0x300: "icr_low", 0x310: "icr_high", 0x320: "lvt_timer", 0x330: "lvt_thermal", 0x340: "lvt_perf",
    0x350: "lvt_lint0", 0x360: "lvt_lint1", 0x370: "lvt_error", 0x380: "initial_count", 0x390: "current_count",
    0x3E0: "divide",
}  # fmt: skip
_LAPIC_SETS = {"isr": 0x100, "tmr": 0x180, "irr": 0x200}
_DELIVERY = ("fixed", "lowest priority", "SMI", "reserved", "NMI", "INIT", "reserved", "ExtINT")


@dataclass(slots=True)
class DeviceState:
    """A device: where it answers, and its state under the names that it gives it."""

    name: str
    ranges: list[tuple[int, int]]
    """(first, last) port or physical address."""
    registers: dict[str, Value] = field(default_factory=dict)
    """The parts of a structured state have names with dots between: "chip.isr". Zeros in long lists are left out."""
    complete: bool = True
    """Whether these are all."""


def device_states(machine: Machine) -> list[DeviceState]:
    """All devices of the machine, in the order in which they were added."""
    result = []
    with machine.lock:
        for device in (*machine.ports.devices, *machine.mmio.devices):
            spans = device.ports or device.mmio
            state = DeviceState(device.name or type(device).__name__, [(span.base, span.end - 1) for span in spans])
            for name, value in _flat(device.save()):
                if len(state.registers) >= VALUES_LIMIT:
                    state.complete = False
                    break
                state.registers[name] = value
            result.append(state)
    return result


def _flat(state: Any, name: str = "") -> Iterator[tuple[str, Value]]:
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, list | tuple):
        for number, value in enumerate(state):
            if value != 0 or len(state) <= LONG_LIST:
                yield from _flat(value, f"{name}[{number:#x}]")
    else:
        yield name, state


def chip_states(machine: Machine) -> list[DeviceState]:
    """The two 8259A, the IOAPIC, the 8254 and each CPU's local APIC, which are in the kernel."""
    chips = [
        DeviceState("PIC1", [(0x20, 0x21)], _pic(machine.vm.get_irqchip(PIC_MASTER))),
        DeviceState("PIC2", [(0xA0, 0xA1)], _pic(machine.vm.get_irqchip(PIC_SLAVE))),
        _ioapic(machine.vm.get_irqchip(IOAPIC)),
        DeviceState("PIT", [(0x40, 0x43)], _pit(machine.vm.get_pit())),
    ]
    return [*chips, *map(_lapic, machine.vcpus)]


def _pic(raw: bytes) -> dict[str, Value]:
    values = dict(zip(_PIC.split(), raw[_CHIP_HEADER:], strict=False))
    return {name: values[name] for name in _PIC_SHOWN}


def _ioapic(raw: bytes) -> DeviceState:
    base, select, number, irr = struct.unpack_from("<QIII", raw, _CHIP_HEADER)
    entries = struct.unpack_from("<24Q", raw, _CHIP_HEADER + 24)
    registers: dict[str, Value] = {"id": number, "ioregsel": select, "irr": irr}
    registers.update((f"input {pin}", _redirection(entry)) for pin, entry in enumerate(entries))
    return DeviceState("IOAPIC", [(base, base + 0xFFF)], registers)


def _redirection(entry: int) -> str:
    """A redirection table entry in words."""
    words = [
        f"vector {entry & 0xFF:#04x}",
        _DELIVERY[entry >> 8 & 7],
        f"to {'logical' if entry >> 11 & 1 else 'CPU'} {entry >> 56:#x}",
        "level" if entry >> 15 & 1 else "edge",
        "low" if entry >> 13 & 1 else "high",
    ]
    if entry >> 16 & 1:
        words.append("masked")
    return ", ".join(words)


def _pit(raw: bytes) -> dict[str, Value]:
    registers: dict[str, Value] = {}
    for number in range(_PIT_CHANNELS):
        count, _, _, _, _, _, _, _, _, mode, bcd, gate = _PIT_CHANNEL.unpack_from(raw, number * _PIT_CHANNEL.size)
        registers[f"counter {number}"] = (
            f"mode {mode}, reload {count}{', BCD' if bcd else ''}{'' if gate else ', gate off'}"
        )
    return registers


def _lapic(vcpu: VCPU) -> DeviceState:
    raw = vcpu.get_lapic()

    def register(offset: int) -> int:
        return int.from_bytes(raw[offset : offset + 4], "little")

    registers: dict[str, Value] = {name: register(offset) for offset, name in _LAPIC.items()}
    for name, start in _LAPIC_SETS.items():
        bits = sum(register(start + 0x10 * word) << 32 * word for word in range(8))
        registers[name] = " ".join(f"{vector:#04x}" for vector in range(256) if bits >> vector & 1) or "none"
    base = vcpu.get_system_registers().apic_base & ~0xFFF & (1 << 52) - 1
    return DeviceState(f"local APIC {vcpu.id}", [(base, base + 0xFFF)], registers)
