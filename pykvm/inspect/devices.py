"""The registers of all devices, and of the interrupt controllers and timers that are KVM's own.

Sources: Intel 8259A data sheet; Intel 82093AA (IOAPIC) data sheet, 3.2.4; Intel SDM volume 3A, table 10-1 (local APIC);
Intel 8254 data sheet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..kvm import VCPU, chips
from ..machine import Machine

Value = int | str | bytes | bool | float | None

LONG_LIST = 8
VALUES_LIMIT = 512
"""Values of one device that are listed."""

NOT_SET_UP = 0xFF
"""The mode of a counter that the guest has not touched."""
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
        for device in machine.engine.board.devices:
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
    master, slave = chips.pics(machine.engine.board.vm)
    return [
        DeviceState("PIC1", [(0x20, 0x21)], dict(master._asdict())),
        DeviceState("PIC2", [(0xA0, 0xA1)], dict(slave._asdict())),
        _ioapic(chips.ioapic(machine.engine.board.vm)),
        _pit(chips.pit_counters(machine.engine.board.vm)),
        *map(_lapic, machine.engine.board.vcpus),
    ]


def _ioapic(state: chips.Ioapic) -> DeviceState:
    registers: dict[str, Value] = {"id": state.id, "ioregsel": state.ioregsel, "irr": state.irr}
    registers.update((f"input {pin}", _redirection(entry)) for pin, entry in enumerate(state.redirections))
    return DeviceState("IOAPIC", [(state.base_address, state.base_address + 0xFFF)], registers)


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


def _pit(counters: list[chips.PitCounter]) -> DeviceState:
    registers: dict[str, Value] = {}
    for number, counter in enumerate(counters):
        words = f"mode {counter.mode}, reload {counter.reload}" if counter.mode != NOT_SET_UP else "not set up"
        words += (", BCD" if counter.bcd else "") + ("" if counter.gate else ", gate off")
        registers[f"counter {number}"] = words
    return DeviceState("PIT", [(0x40, 0x43)], registers)


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
