"""The MP tables, found and read as xv6 and other kernels do."""

from __future__ import annotations

import struct

import pytest

from pykvm.boot import firmware
from pykvm.memory import GuestMemory

SIZES = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}
"""Bytes of each kind of entry (MP specification 1.4, table 4-3)."""


def find_pointer(memory: GuestMemory) -> int:
    """In the EBDA's first KiB or, without EBDA, in the last of base memory; else in the BIOS (4, "the order")."""
    ebda = memory.read_int(0x40E, 2) << 4
    last_kib = (memory.read_int(0x413, 2) << 10) - 1024
    for start, size in ((ebda or last_kib, 1024), (0xF0000, 0x10000)):
        for at in range(start, start + size, 16):
            if memory.read(at, 4) == b"_MP_" and sum(memory.read(at, 16)) % 256 == 0:
                return at
    raise LookupError("there is no MP floating pointer")


def entries(memory: GuestMemory) -> list[bytes]:
    pointer = memory.read(find_pointer(memory), 16)
    table, length, revision, _, feature_1, feature_2 = struct.unpack_from("<IBBBBB", pointer, 4)
    assert (length, revision, feature_1, feature_2) == (1, 4, 0, 0)
    size = memory.read_int(table + 4, 2)
    data = memory.read(table, size)
    assert (data[:4], data[6]) == (b"PCMP", 4)
    assert sum(data) % 256 == 0
    assert struct.unpack_from("<I", data, 36) == (0xFEE00000,)
    found, at = [], 44
    while at < size:
        found.append(data[at : at + SIZES[data[at]]])
        at += SIZES[data[at]]
    assert at == size
    assert struct.unpack_from("<H", data, 34) == (len(found),)
    return found


@pytest.mark.parametrize(("cpus", "listed"), [(1, 1), (2, 2), (8, 8), (255, 255), (300, 255)])
def test_processors(cpus: int, listed: int) -> None:
    ram = GuestMemory("1M")
    firmware.install(ram, cpus)
    processors = [entry for entry in entries(ram) if entry[0] == 0]
    assert [entry[1] for entry in processors] == list(range(listed))
    # Enabled, and the first one is the bootstrap processor.
    assert [entry[3] for entry in processors] == [3] + [1] * (listed - 1)
    ram.close()


def test_bus_ioapic_and_interrupts() -> None:
    ram = GuestMemory("1M")
    firmware.install(ram, 1)
    pci, isa, ioapic, *interrupts = entries(ram)[1:]
    assert (pci, isa) == (b"\1\0PCI   ", b"\1\1ISA   ")
    # xv6 compares the ID with the one that the IOAPIC itself tells: 0.
    assert ioapic == bytes.fromhex("02 00 11 01 0000c0fe")
    at_ioapic = {entry[5]: entry[7] for entry in interrupts if entry[0] == 3 and entry[4] == 1}
    assert at_ioapic == {0: 2, 1: 1, **{irq: irq for irq in range(3, 16)}}
    assert all(entry[1:4] == bytes(3) and entry[6] == 0 for entry in interrupts if entry[0] == 3)
    # A PCI interrupt's source is device << 2 | pin. The pins of a slot are rotated against those of the one before.
    of_pci = {entry[5]: entry[7] for entry in interrupts if entry[0] == 3 and entry[4] == 0}
    assert of_pci == {slot << 2 | pin: 16 + (slot + pin + 3) % 4 for slot in range(32) for pin in range(4)}
    # At the local APICs: ExtINT to LINT0 of the first, NMI to LINT1 of all.
    assert interrupts[-2:] == [bytes.fromhex("04 03 0000 01 00 00 00"), bytes.fromhex("04 01 0000 01 00 ff 01")]
    ram.close()


def test_bios_data_area_tells_of_the_ebda() -> None:
    ram = GuestMemory("1M")
    firmware.install(ram, 1)
    assert ram.read_int(0x40E, 2) == 0x9FC0
    assert ram.read_int(0x413, 2) == 639
    assert ram.read_int(0x9FC00, 1) == 1  # its size in KiB
    ram.close()
