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
from ..x86 import lapic

Value = int | str | bytes | bool | float | None

LONG_LIST = 8
VALUES_LIMIT = 512
"""Values of one device that are listed."""

NOT_SET_UP = 0xFF
"""The mode of a counter that the guest has not touched."""
_LAPIC = {
    "id": lapic.ID, "version": lapic.VERSION, "tpr": lapic.TPR, "ppr": lapic.PPR, "ldr": lapic.LDR, "dfr": lapic.DFR,
    "svr": lapic.SVR, "esr": lapic.ESR, "icr_low": lapic.ICR_LOW, "icr_high": lapic.ICR_HIGH,
    "lvt_timer": lapic.LVT_TIMER, "lvt_thermal": lapic.LVT_THERMAL, "lvt_perf": lapic.LVT_PERFORMANCE,
    "lvt_lint0": lapic.LVT_LINT0, "lvt_lint1": lapic.LVT_LINT1, "lvt_error": lapic.LVT_ERROR,
    "initial_count": lapic.TIMER_INITIAL, "current_count": lapic.TIMER_CURRENT, "divide": lapic.TIMER_DIVIDE,
}  # fmt: skip
_LAPIC_SETS = {"isr": lapic.ISR, "tmr": lapic.TMR, "irr": lapic.IRR}
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
            spans = device.spans
            state = DeviceState(device.display_name, [(span.base, span.end - 1) for span in spans])
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
    page = vcpu.get_lapic()
    registers: dict[str, Value] = {name: lapic.register(page, offset) for name, offset in _LAPIC.items()}
    for name, start in _LAPIC_SETS.items():
        registers[name] = " ".join(f"{vector:#04x}" for vector in lapic.vectors(page, start)) or "none"
    base = vcpu.get_system_registers().apic_base & ~0xFFF & (1 << 52) - 1
    return DeviceState(f"local APIC {vcpu.id}", [(base, base + 0xFFF)], registers)
