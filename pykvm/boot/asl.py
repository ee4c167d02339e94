"""What the DSDT says, in the terms of ASL: how to switch off, the devices of the ISA bus, and PCI.

Source: ACPI specification 6.5, chapters 7 (_S5) and 19; the bytecode is `aml`'s, and what is said of PCI `acpi_pci`'s.
No machine runs this: `dsdt` has what it makes.
"""

from __future__ import annotations

from . import acpi_pci
from .aml import crs, device, hid, integer, io, irq, name, package, sized


def dsdt() -> bytes:
    """The content of the table, without its header."""
    off = acpi_pci.interrupt_model() + name(b"_S5_", package([0, 0, 0, 0]))  # SLP_TYP 0 for PM1a and PM1b
    isa_devices = [
        device(b"COM1", hid("PNP0501"), name(b"_UID", integer(1)), crs(io(0x3F8, 8), irq(4))),
        device(b"KBD_", hid("PNP0303"), crs(io(0x60, 1), io(0x64, 1), irq(1))),
        device(b"MOU_", hid("PNP0F13"), crs(irq(12))),
        device(b"RTC_", hid("PNP0B00"), crs(io(0x70, 2), irq(8))),
    ]
    isa = device(b"ISA_", name(b"_ADR", integer(1 << 16)), acpi_pci.pirq_registers(), *isa_devices)  # PCI device 1
    pci = device(b"PCI0", hid("PNP0A03"), crs(*acpi_pci.RESOURCES), isa, acpi_pci.routing())
    return off + b"\x10" + sized(b"\\_SB_" + pci)
