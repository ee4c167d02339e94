"""The local APIC's registers, as the page of 1 KiB that KVM_GET_LAPIC gives: offsets, bits, and what they say.

Source: Intel SDM volume 3A, table 10-1 (register address map), 10.4.7.1 (state after power-up), 10.5.1 (local vector
table), 10.5.4 (timer), 10.8.4 (IRR, ISR and TMR).
"""

from __future__ import annotations

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR = 0x100, 0x180, 0x200
"""Sets of 256 vectors: eight registers each."""
ESR, ICR_LOW, ICR_HIGH = 0x280, 0x300, 0x310
LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR = 0x320, 0x330, 0x340, 0x350, 0x360, 0x370
LVT = (LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR)
"""The local vector table."""
TIMER_INITIAL, TIMER_CURRENT, TIMER_DIVIDE = 0x380, 0x390, 0x3E0

SVR_ENABLED = 1 << 8
"""SVR: the APIC is enabled by software."""
LVT_DELIVERY, LVT_NMI, LVT_MASKED = 7 << 8, 4 << 8, 1 << 16
"""An entry's delivery mode, that of an NMI, and its mask."""
LVT_MODE, LVT_ONE_SHOT, LVT_TSC_DEADLINE = 3 << 17, 0 << 17, 2 << 17
"""The timer's mode, in its entry."""

_STEP = 0x10
"""Bytes from one 32-bit register to the next."""


def register(page: bytes | bytearray | memoryview, offset: int) -> int:
    """The 32-bit register at `offset`."""
    return int.from_bytes(page[offset : offset + 4], "little")


def set_register(page: bytearray | memoryview, offset: int, value: int) -> None:
    """Set the 32-bit register at `offset`."""
    page[offset : offset + 4] = value.to_bytes(4, "little")


def vectors(page: bytes | bytearray | memoryview, start: int) -> list[int]:
    """The vectors in one of the sets `ISR` (in service), `TMR` (level-triggered) and `IRR` (requested), ascending."""
    words = [register(page, start + _STEP * number) for number in range(8)]
    return [vector for vector in range(256) if words[vector // 32] >> vector % 32 & 1]


def lvt_entries(page: bytes | bytearray | memoryview) -> list[int]:
    """The local vector table's entries in the order of `LVT`."""
    return [register(page, offset) for offset in LVT]
