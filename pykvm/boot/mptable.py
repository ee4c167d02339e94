"""The MP tables: which CPUs and which IOAPIC there are, and which interrupt goes to which of its inputs.

Source: Intel MultiProcessor Specification 1.4, chapter 4: 4.1 (floating pointer), 4.2 (header), 4.3 (entries). ACPI has
replaced these tables on real machines; teaching kernels such as xv6 still read them.
"""

from __future__ import annotations

import struct
from functools import cache

from . import acpi_pci
from .acpi import IOAPIC_ADDRESS, IOAPIC_ID, LAPIC_ADDRESS

MAX_CPUS = 255
"""More have no place in a table whose APIC IDs have 8 bits."""

_PCI_BUS, _ISA_BUS = 0, 1
"""A PCI bus has its own number (4.3.2)."""
_LAPIC_VERSION, _IOAPIC_VERSION = 0x14, 0x11
_ENABLED, _BOOTSTRAP = 1, 2
_CPU_SIGNATURE = 0x600
"""Family 6; nothing decides by it, since every such CPU has CPUID."""
_FEATURES = 1 << 9 | 1 << 0
"""As in EDX of CPUID leaf 1: APIC, FPU."""
_INT, _NMI, _EXTINT = 0, 1, 3
_ALL_LAPICS = 0xFF


def floating_pointer(table: int) -> bytes:
    """The 16 bytes, to be found at a multiple of 16, that lead to the configuration `table`."""
    return _with_checksum(struct.pack("<4sIBBB5x", b"_MP_", table, 1, 4, 0), 10)


@cache
def configuration(cpus: int) -> bytes:
    """The configuration table. It has `cpus` CPUs, or the first 255 of them."""
    entries = [
        struct.pack(
            "<BBBBII8x",
            0,
            cpu,
            _LAPIC_VERSION,
            _ENABLED | (0 if cpu else _BOOTSTRAP),
            _CPU_SIGNATURE,
            _FEATURES,
        )
        for cpu in range(min(cpus, MAX_CPUS))
    ]
    entries.append(struct.pack("<BB6s", 1, _PCI_BUS, b"PCI   "))
    entries.append(struct.pack("<BB6s", 1, _ISA_BUS, b"ISA   "))
    entries.append(struct.pack("<BBBBI", 2, IOAPIC_ID, _IOAPIC_VERSION, _ENABLED, IOAPIC_ADDRESS))
    for irq in range(16):
        if irq != 2:  # the second 8259's output, which is no interrupt to an IOAPIC; its input 2 is the timer's
            entries.append(_interrupt(3, _INT, irq, IOAPIC_ID, irq or 2))
    for slot in range(acpi_pci.SLOTS):
        for pin in range(acpi_pci.PINS):
            # Its source is device and pin (appendix D.3).
            target = acpi_pci.PIRQ_INPUT + acpi_pci.pirq(slot, pin)
            entries.append(_interrupt(3, _INT, slot << 2 | pin, IOAPIC_ID, target, _PCI_BUS))
    entries.append(_interrupt(4, _EXTINT, 0, 0, 0))
    entries.append(_interrupt(4, _NMI, 0, _ALL_LAPICS, 1))
    body = b"".join(entries)
    header = struct.pack(
        "<4sHBB8s12sIHHIHBx",
        b"PCMP",
        44 + len(body),
        4,
        0,
        b"PYKVM   ",
        b"PC          ",
        0,
        0,
        len(entries),
        LAPIC_ADDRESS,
        0,
        0,
    )
    return _with_checksum(header + body, 7)


def _interrupt(entry: int, kind: int, irq: int, chip: int, pin: int, bus: int = _ISA_BUS) -> bytes:
    """An interrupt of a bus at an IOAPIC (entry 3) or a local APIC (4); edge and polarity are the bus's."""
    return struct.pack("<BBHBBBB", entry, kind, 0, bus, irq, chip, pin)


def _with_checksum(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([-sum(data) & 0xFF]) + data[at + 1 :]
