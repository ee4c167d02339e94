"""A CPU with some RAM, without KVM: what the tests of exceptions and of crash reports are made of."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from pykvm.errors import PykvmError
from pykvm.x86.cpu import Cpu
from pykvm.x86.paging import identity_map
from pykvm.x86.registers import Registers, Segment, SystemRegisters, Table
from pykvm.x86.start import flat_gdt, long_mode, protected_mode, real_mode

RAM = 1 << 20
TABLES, GDT, IDT, TSS = 0x10000, 0x1000, 0x2000, 0x4000
CODE, STACK = 0x8000, 0x9000
USER_DATA, USER_CODE, TSS_SELECTOR = 0x18, 0x20, 0x28
"""Behind the null, code and data descriptors that `flat_gdt` makes."""

RING_3_DATA, RING_3_CODE_64, RING_3_CODE_32 = 0x00CFF3000000FFFF, 0x00AFFB000000FFFF, 0x00CFFB000000FFFF


class Ram:
    """RAM from 0 on; outside it is nothing."""

    def __init__(self, size: int = RAM) -> None:
        self.data = bytearray(size)

    def read(self, gpa: int, size: int) -> bytes:
        if not 0 <= gpa <= gpa + size <= len(self.data):
            raise PykvmError(f"{gpa:#x}+{size:#x} is not in RAM")
        return bytes(self.data[gpa : gpa + size])

    def write(self, gpa: int, data: bytes) -> None:
        self.data[gpa : gpa + len(data)] = data

    def write_int(self, gpa: int, size: int, value: int) -> None:
        self.write(gpa, value.to_bytes(size, "little"))


def cpu_of(ram: Ram, registers: Registers, system: SystemRegisters) -> Cpu:
    return Cpu(registers, system, ram.read, 40)


def long_cpu(code: bytes = b"\x0f\x0b", **registers: int) -> tuple[Cpu, Ram]:
    """64-bit mode, ring 0, RAM mapped at its own addresses, the IDT empty with room for 32 gates."""
    ram = Ram()
    ram.write(TABLES, identity_map(TABLES, 1 << 30))
    ram.write(GDT, flat_gdt(64) + struct.pack("<QQ", RING_3_DATA, RING_3_CODE_64))
    ram.write(CODE, code)
    start, system = long_mode(CODE, STACK, GDT, TABLES)
    system.gdt, system.idt = Table(GDT, 0x37), Table(IDT, 16 * 32 - 1)
    return cpu_of(ram, replace(start, **registers), system), ram


def protected_cpu(code: bytes = b"\x0f\x0b", **registers: int) -> tuple[Cpu, Ram]:
    """32-bit protected mode, ring 0, flat, no paging."""
    ram = Ram()
    ram.write(GDT, flat_gdt(32) + struct.pack("<QQ", RING_3_DATA, RING_3_CODE_32))
    ram.write(CODE, code)
    start, system = protected_mode(CODE, STACK, GDT)
    system.gdt, system.idt = Table(GDT, 0x37), Table(IDT, 8 * 32 - 1)
    return cpu_of(ram, replace(start, **registers), system), ram


def real_cpu(code: bytes = b"\x0f\x0b", **registers: int) -> tuple[Cpu, Ram]:
    ram = Ram()
    ram.write(CODE, code)
    start, system = real_mode(CODE)
    return cpu_of(ram, replace(start, **registers), system), ram


def change(cpu: Cpu, **system: Any) -> Cpu:
    """The CPU with other system registers."""
    return replace(cpu, system=replace(cpu.system, **system))


def in_ring_3(cpu: Cpu) -> Cpu:
    """The CPU in ring 3, all RAM mapped for it."""
    dpl = {"dpl": 3, "selector": USER_CODE | 3}
    return change(
        cpu, cs=replace(cpu.system.cs, **dpl), ss=replace(cpu.system.ss, dpl=3, selector=USER_DATA | 3),
        tr=Segment(base=TSS, limit=0x67, selector=TSS_SELECTOR, type=11, s=0),
    )  # fmt: skip


def gate64(
    ram: Ram,
    vector: int,
    offset: int,
    *,
    selector: int = 8,
    kind: int = 14,
    present: int = 1,
    dpl: int = 0,
    ist: int = 0,
) -> None:
    """An entry of a long-mode IDT."""
    access = kind | dpl << 5 | present << 7
    low = struct.pack("<HHBBH", offset & 0xFFFF, selector, ist, access, offset >> 16 & 0xFFFF)
    ram.write(IDT + 16 * vector, low + struct.pack("<Q", offset >> 32))


def gate32(
    ram: Ram, vector: int, offset: int, *, selector: int = 8, kind: int = 14, present: int = 1, dpl: int = 0
) -> None:
    """An entry of a protected-mode IDT."""
    access = kind | dpl << 5 | present << 7
    ram.write(IDT + 8 * vector, struct.pack("<HHBBH", offset & 0xFFFF, selector, 0, access, offset >> 16))


def map_page(ram: Ram, linear: int, entry: int) -> None:
    """Give the 4 KiB page at `linear`, below 2 MiB, that entry in long mode's tables; the rest stays as it is."""
    table = TABLES + 0x8000
    directory = TABLES + 0x2000
    if ram.data[directory] & 0x80:  # a page of 2 MiB until now
        ram.write(table, b"".join(struct.pack("<Q", page << 12 | 3) for page in range(512)))
        ram.write_int(directory, 8, table | 7)
        for upper in (TABLES, TABLES + 0x1000):
            ram.data[upper] |= 7
    ram.write_int(table + 8 * (linear >> 12), 8, entry)
