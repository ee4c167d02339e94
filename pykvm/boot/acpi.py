"""The ACPI tables: which CPUs and interrupt controllers there are, where the fixed hardware is, how to power off.

Source: ACPI specification 6.5: 5.2.5 (RSDP), 5.2.7 (RSDT), 5.2.8 (XSDT), 5.2.9 (FADT, here in its revision 3 of 244
bytes), 5.2.10 (FACS), 5.2.12 (MADT). The DSDT is `dsdt`'s.

The tables describe what is always the same in this machine's PC, at the addresses and interrupts of QEMU's.
"""

from __future__ import annotations

import struct
from functools import cache

from .dsdt import DSDT
from .layout import Block

RSDP_SIZE = 36
RSDP_V1_SIZE = 20
"""The part of the RSDP that ACPI 1.0 knew and that has a checksum of its own."""

LAPIC_ADDRESS, IOAPIC_ADDRESS = 0xFEE00000, 0xFEC00000
IOAPIC_ID = 0
HPET_ADDRESS, HPET_ID = 0xFED00000, 0x8086A201
SCI_IRQ = 9
PM_BASE = 0x600
"""PM1a event block; the control block and the timer follow at 4 and 8."""
RESET_PORT, RESET_VALUE = 0xCF9, 6
CENTURY = 0x32
"""The century's place in the CMOS."""


@cache
def tables(base: int, cpus: int) -> bytes:
    """All tables of a machine with `cpus` CPUs, to be written to `base` (a multiple of 64), where the RSDP then is."""
    block = Block(base)
    block.add(bytes(RSDP_SIZE), 64)
    facs = block.add(_facs(), 64)
    dsdt = block.add(_table(b"DSDT", 2, DSDT))
    entries = [block.add(_table(b"FACP", 3, _fadt(facs, dsdt))), block.add(_table(b"APIC", 3, _madt(cpus)))]
    entries.append(block.add(_table(b"HPET", 1, _hpet())))
    rsdt = block.add(_table(b"RSDT", 1, struct.pack(f"<{len(entries)}I", *entries)))
    xsdt = block.add(_table(b"XSDT", 1, struct.pack(f"<{len(entries)}Q", *entries)))
    block.data[:RSDP_SIZE] = _rsdp(rsdt, xsdt)
    return bytes(block.data)


def _with_checksum(data: bytes, at: int) -> bytes:
    """`data` with its byte at `at`, which is 0, set so that all bytes sum up to 0."""
    return data[:at] + bytes([-sum(data) & 0xFF]) + data[at + 1 :]


def _rsdp(rsdt: int, xsdt: int) -> bytes:
    version_1 = _with_checksum(struct.pack("<8sB6sBI", b"RSD PTR ", 0, b"PYKVM ", 2, rsdt), 8)
    return _with_checksum(version_1 + struct.pack("<IQ4x", RSDP_SIZE, xsdt), 32)


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A table with its header (5.2.6)."""
    header = struct.pack(
        "<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, b"PYKVM ", b"PYKVMPC ", 1, b"PYKV", 1
    )
    return _with_checksum(header + body, 9)


def _facs() -> bytes:
    return struct.pack("<4sI", b"FACS", 64).ljust(32, b"\0") + b"\1".ljust(32, b"\0")  # version 1


_WBINVD, _PROC_C1, _SLP_BUTTON, _FIX_RTC, _RESET_REG_SUP = 1 << 0, 1 << 2, 1 << 5, 1 << 6, 1 << 10
"""Fixed feature flags. The last but two say what is *not* in the fixed registers: a sleep button, RTC wake-up."""
_LEGACY_DEVICES, _8042 = 1 << 0, 1 << 1


def _fadt(facs: int, dsdt: int) -> bytes:
    event, control, timer = PM_BASE, PM_BASE + 4, PM_BASE + 8
    no_c2, no_c3 = 0x65, 0x3E9  # latencies in microseconds, just over what is still taken for one
    return b"".join(
        (
            struct.pack("<IIxBH", facs, dsdt, 1, SCI_IRQ),  # profile: desktop
            struct.pack("<I4x", 0),  # no SMI command port: the machine is always in ACPI mode
            struct.pack("<8I", event, 0, control, 0, 0, timer, 0, 0),
            struct.pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0),  # the blocks' lengths
            struct.pack("<HH4x2x", no_c2, no_c3),
            struct.pack("<BBBHx", 0, 0, CENTURY, _LEGACY_DEVICES | _8042),
            struct.pack("<I", _WBINVD | _PROC_C1 | _SLP_BUTTON | _FIX_RTC | _RESET_REG_SUP),
            _io_register(RESET_PORT, 8) + bytes([RESET_VALUE, 0, 0, 0]),
            struct.pack("<QQ", 0, dsdt),  # the FACS is where the 32-bit field above says
            _io_register(event, 32, access=16) + bytes(12),
            _io_register(control, 16) + bytes(12) + bytes(12),
            _io_register(timer, 32) + bytes(12) + bytes(12),
        )
    )


def _io_register(port: int, bits: int, access: int | None = None) -> bytes:
    """A generic address structure (5.2.3.2) for a register of the I/O space."""
    return struct.pack("<BBBBQ", 1, bits, 0, {8: 1, 16: 2, 32: 3}[access or bits], port)


_PCAT_COMPAT = 1
"""There is a pair of 8259s, too."""
_ENABLED = 1
_ACTIVE_HIGH, _LEVEL = 1 << 0, 3 << 2


def _madt(cpus: int) -> bytes:
    parts = [struct.pack("<II", LAPIC_ADDRESS, _PCAT_COMPAT)]
    for cpu in range(cpus):
        if cpu < 255:
            parts.append(struct.pack("<BBBBI", 0, 8, cpu, cpu, _ENABLED))
        else:  # an ID that needs the x2APIC
            parts.append(struct.pack("<BBxxIII", 9, 16, cpu, _ENABLED, cpu))
    parts.append(struct.pack("<BBBxII", 1, 12, IOAPIC_ID, IOAPIC_ADDRESS, 0))
    parts.append(_override(0, 2, 0))  # the timer is on the IOAPIC's input 2
    parts.append(_override(SCI_IRQ, SCI_IRQ, _ACTIVE_HIGH | _LEVEL))
    parts.append(struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1))  # NMI: LINT1 of every CPU
    if cpus > 255:
        parts.append(struct.pack("<BBHIB3x", 10, 12, 0, 0xFFFFFFFF, 1))
    return b"".join(parts)


def _hpet() -> bytes:
    """IA-PC HPET specification 1.0a, 3.2.4: its capabilities, and where it is."""
    return struct.pack("<I4xQBHB", HPET_ID, HPET_ADDRESS, 0, 0, 0)


def _override(irq: int, gsi: int, flags: int) -> bytes:
    return struct.pack("<BBBBIH", 2, 10, 0, irq, gsi, flags)
