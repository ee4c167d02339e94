"""A CPU and its memory, both full of anything: page tables, descriptor tables, code, events, and reports of a crash."""

from __future__ import annotations

import json
import struct
from dataclasses import fields, replace
from typing import Any

from x86_machine import CODE, GDT, IDT, RAM, STACK, TABLES, TSS, Ram, cpu_of, long_cpu, protected_cpu, real_cpu

from pykvm.crash.context import CrashContext
from pykvm.crash.event import Crash, CrashKind
from pykvm.crash.examine import examine
from pykvm.crash.findings import Place
from pykvm.crash.handler import find_interrupted
from pykvm.crash.interrupts import Interrupts
from pykvm.crash.text import render
from pykvm.x86 import tables
from pykvm.x86.cpu import Cpu
from pykvm.x86.delivery import deliver_all
from pykvm.x86.descriptors import Descriptor, Gate
from pykvm.x86.disasm import disassemble
from pykvm.x86.exceptions import Event, EventKind, error_code_words, vector_name, vector_title
from pykvm.x86.faults import next_event
from pykvm.x86.pagemap import page_map
from pykvm.x86.paging import paging_mode, translate, walk
from pykvm.x86.registers import Registers, Segment, SystemRegisters, Table

from .target import Input, Parser, Random, Target, number

PLACES = (
    0, 1, CODE, CODE - 1, STACK, GDT, IDT, TSS, TABLES, 0xFFFF0, RAM - 1, RAM, 0xFFFFFFFF, 1 << 47, (1 << 47) - 1,
    1 << 63, (1 << 64) - 1, (1 << 64) - 16, 0xFFFF800000000000,
)  # fmt: skip
REGISTERS = [field.name for field in fields(Registers)]
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
KINDS = list(CrashKind)
MAKERS = (long_cpu, protected_cpu, real_cpu)
OPCODES = (
    b"\x0f\x0b", b"\xcd\x80", b"\xcc", b"\xf4", b"\xcf", b"\x48\xcf", b"\xcb", b"\xc3", b"\x0f\x22\xc0", b"\x0f\x30",
    b"\x0f\x01\x18", b"\x0f\x00\xd8", b"\xea", b"\xff\x28", b"\xf7\xf1", b"\x8e\xd0", b"\xe6\xf4", b"\xf3\xa4", b"\x0f\xae",
    b"\x66\x0f\x28\x00", b"\xc5\xf8", b"\x62", b"\xf0", b"\xe8", b"\x68", b"\x9d", b"\xec",
)  # fmt: skip


def address(source: Random) -> int:
    """A number of 64 bits, often one that leads somewhere."""
    return (
        source.choice(PLACES) + source.choice((0, 0, 0, 8, -8, 1)) & (1 << 64) - 1
        if source.randrange(3)
        else number(source, 64)
    )


def segment(source: Random) -> Segment:
    bit = source.getrandbits
    return Segment(
        address(source), number(source, 32), number(source, 16), bit(4), bit(1), bit(2), bit(1), bit(1), bit(1), bit(1),
        bit(1), int(not bit(3)),
    )  # fmt: skip


def system(source: Random) -> SystemRegisters:
    made = SystemRegisters(**{name: segment(source) for name in SEGMENTS})
    made.gdt, made.idt = (Table(address(source), number(source, 16)) for _ in range(2))
    _control(source, made)
    return made


def _control(source: Random, made: SystemRegisters) -> None:
    made.cr0 = source.choice((0x11, 0x80000011, 0x80010033, 0x10, number(source, 64)))
    made.cr2 = address(source)
    made.cr3 = source.choice((TABLES, 0, 0xFFFFF000, RAM - 4096, number(source, 64)))
    made.cr4 = source.choice((0x20, 0, 0x10, 0x1020, 0x300020, number(source, 64)))
    made.efer = source.choice((0x500, 0, 0xD00, number(source, 64)))


def fill(source: Random, ram: Ram) -> None:
    """Put words that may be entries of tables, and code, at places where a CPU looks."""
    for _ in range(source.randrange(12)):
        at = source.choice(
            (TABLES, TABLES + 0x1000, TABLES + 0x2000, GDT, IDT, TSS, CODE, STACK, source.randrange(RAM - 512))
        )
        at += 8 * source.choice((0, 0, 1, 2, 8, 14, 13, 28))
        match source.randrange(3):
            case 0:
                entries = [
                    source.choice((TABLES, RAM - 4096, 0x9000, number(source, 52))) & ~0xFFF | number(source, 12) | 1
                    for _ in range(source.choice((1, 2, 8)))
                ]
                data = struct.pack(f"<{len(entries)}Q", *entries)
            case 1:
                data = source.randbytes(source.choice((8, 16, 64)))
            case _:
                data = source.choice(OPCODES) + source.randbytes(source.randrange(14))
        ram.write(at, data)


def any_cpu(source: Random) -> Cpu:
    """A sound CPU with some registers changed, or one with nothing sound about it."""
    if source.randrange(3):
        made, ram = source.choice(MAKERS)(source.choice(OPCODES) + source.randbytes(13))
        changes: dict[str, Any] = {name: address(source) for name in source.sample(REGISTERS, source.randrange(8))}
        made = replace(made, registers=replace(made.registers, **changes))
        if not source.randrange(3):
            parts: dict[str, Any] = {name: segment(source) for name in source.sample(SEGMENTS, source.randrange(4))}
            made = replace(made, system=replace(made.system, **parts))
    else:
        ram = Ram()
        made = cpu_of(ram, Registers(**{name: address(source) for name in REGISTERS}), system(source))
    fill(source, ram)
    return made


class FromNumber(Parser):
    """A parser whose input is a number that everything is made from."""

    def one(self, source: Random) -> Input:
        return source.getrandbits(64)


class PageTables(FromNumber):
    """`walk` and `page_map`: they agree with each other."""

    name = "paging"
    count = 60
    patience = 3

    def feed(self, given: Input) -> None:
        source = Random(given)
        ram, made = Ram(), SystemRegisters()
        _control(source, made)
        if source.randrange(4):
            made.cr3 = TABLES | source.choice((0, 0, 8, 0xFFF))
        for _ in range(source.choice((1, 4, 16, 64))):
            where = (
                TABLES
                + 0x1000 * source.randrange(6)
                + 8 * source.choice((0, 1, 2, 255, 256, 511, source.randrange(512)))
            )
            target = source.choice((TABLES + 0x1000 * source.randrange(6), number(source, 52) & ~0xFFF))
            ram.write(
                where,
                struct.pack(
                    "<Q",
                    target
                    | source.choice((1, 3, 7, 0x83, 0x87, 0xE7, number(source, 12)))
                    | source.getrandbits(1) << 63,
                ),
            )
        bits = source.choice((32, 36, 40, 52))
        for _ in range(30):
            linear = source.choice((address(source), source.randrange(1 << 22), source.randrange(512) << 39))
            found = walk(ram.read, made, linear, bits)
            assert str(found)
            assert translate(ram.read, made, linear) is None or found.physical is not None or bits != 52
        assert paging_mode(made)
        found_map = page_map(ram.read, made, bits)
        before = -1
        for mapping in found_map.mappings:
            assert mapping.linear > before, "the ranges overlap"
            before = mapping.linear + mapping.size - 1
            there = walk(ram.read, made, mapping.linear, bits)
            assert there.physical == mapping.physical, (mapping, there)
            assert mapping.rights


class DescriptorTables(Parser):
    """GDT, IDT, interrupt vectors, TSS and I/O permission bitmap of any bytes."""

    name = "tables"
    count = 300

    def one(self, source: Random) -> Input:
        size = source.choice((0, 1, 7, 8, 16, 16, 44, 104, 104, 300))
        return source.randbytes(size), number(source, 16), address(source), source.getrandbits(1)

    def feed(self, given: Input) -> None:
        raw, limit, base, long_mode = given
        long = bool(long_mode)

        def read(linear: int, size: int) -> bytes:
            return raw[:size]

        for entries in (tables.read_segments(read, base, limit, long), tables.read_idt(read, Table(base, limit), long)):
            for entry in entries.entries:
                assert str(entry.descriptor)
        tables.read_vectors(read, Table(base, limit))
        for bits in (16, 32, 64):
            tables.decode_tss(raw, bits)
        assert all(0 <= first <= last < 0x10000 for first, last in tables.open_ports(raw))
        if len(raw) >= 16:
            assert Descriptor.parse(raw).words
            assert Gate.parse(raw, long).words
        tables.decode(raw, long)


class Code(Parser):
    """The disassembly of any bytes has each byte once."""

    name = "disasm"
    count = 1500

    def one(self, source: Random) -> Input:
        code = b"".join(
            source.choice(OPCODES) + source.randbytes(source.randrange(6)) for _ in range(source.randrange(5))
        )
        return code, address(source), source.choice((16, 32, 64)), source.choice((None, None, 1, 3, 0))

    def feed(self, given: Input) -> None:
        code, at, bits, count = given
        found = disassemble(code, at, bits, count)
        joined = b"".join(instruction.code for instruction in found)
        assert joined == code[: len(joined)]
        assert count is not None or joined == code
        assert all(str(instruction).isprintable() for instruction in found)


class Events(FromNumber):
    """`next_event` and `deliver_all` end, for any CPU and event."""

    name = "delivery"
    count = 40

    def feed(self, given: Input) -> None:
        source = Random(given)
        cpu = any_cpu(source)
        vector, code = source.randrange(256), source.choice((None, 0, number(source, 32)))
        event = Event(vector, code, kind=source.choice(list(EventKind)))
        found = next_event(cpu)
        for first in (event, found):
            if first is not None:
                chain = deliver_all(cpu, first)
                assert 0 < len(chain) < 5
        assert vector_name(vector)
        assert vector_title(vector)
        error_code_words(vector, code or 0)


def any_interrupts(source: Random) -> Interrupts:
    """Interrupt controllers in any state."""

    def some(limit: int) -> tuple[int, ...]:
        return tuple(source.randrange(limit) for _ in range(source.randrange(3)))

    bases = source.choice(((), (8, 0x70), (0x20, 0x28)))
    irqs = some(16) if bases else ()
    return Interrupts(some(256), bases, irqs, some(16), irqs[:1], tuple(zip(some(256), some(16), strict=False)))


class Crashes(FromNumber):
    """A report of any CPU that cannot go on, whole, in all its forms."""

    name = "crash"
    count = 8
    share = 0.5
    patience = 2

    def feed(self, given: Input) -> None:
        source = Random(given)
        cpu, kind = any_cpu(source), source.choice(KINDS)
        report = examine(
            CrashContext(
                cpu, Crash(0, kind), interrupted=find_interrupted(cpu, Place), is_memory=lambda gpa: gpa < RAM,
                irqs=any_interrupts(source), unclaimed=[("port", 0x80, 3)] * source.getrandbits(1), last=[(CODE, b"\x90", 64)] * source.getrandbits(1),
            )
        )  # fmt: skip
        assert str(report)
        assert report.summary
        assert render(report, lambda role, text: f"{role}({text})")
        assert json.loads(json.dumps(report.as_dict()))["cause"] == kind.value
        assert not [text for text in report.notes if "cannot be told" in text], report.notes


def targets() -> list[Target]:
    return [PageTables(), DescriptorTables(), Code(), Events(), Crashes()]
