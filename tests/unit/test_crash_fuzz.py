"""A report never makes things worse: whatever a guest has left behind, there is one, in plain values, in good time."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from x86_machine import CODE, GDT, IDT, STACK, TABLES, TSS, Ram, cpu_of, long_cpu, protected_cpu, real_cpu

from pykvm.crash.context import CrashContext
from pykvm.crash.event import Crash, CrashKind
from pykvm.crash.examine import examine
from pykvm.crash.findings import Place
from pykvm.crash.handler import find_interrupted
from pykvm.crash.report import CrashReport
from pykvm.crash.source import SourceLines
from pykvm.crash.text import render
from pykvm.x86.cpu import Cpu
from pykvm.x86.registers import Registers, Segment, SystemRegisters, Table
from pykvm.x86.symbols import SymbolTable

Guest = Callable[[str], Path]

PATIENCE = 20.0
"""Seconds that no report takes, even on a busy machine: it is a matter of milliseconds, and of no unbounded loops."""

PLACES = [0, 1, CODE, CODE - 1, STACK, GDT, IDT, TSS, TABLES, 0xFFFF0, 0xFFFFF, 0x100000, 0xFFFFFFFF, 1 << 47, (1 << 47) - 1,
          1 << 63, (1 << 64) - 1, (1 << 64) - 16, 0xFFFF800000000000]  # fmt: skip
number = st.sampled_from(PLACES) | st.integers(0, (1 << 64) - 1)
bit = st.integers(0, 1)
segment = st.builds(
    Segment, base=number, limit=st.integers(0, 0xFFFFFFFF), selector=st.integers(0, 0xFFFF), type=st.integers(0, 15),
    present=bit, dpl=st.integers(0, 3), db=bit, s=bit, l=bit, g=bit, avl=bit, unusable=bit,
)  # fmt: skip
table = st.builds(Table, base=number, limit=st.sampled_from([0, 7, 0x7F, 0xFFF, 0xFFFF]) | st.integers(0, 0xFFFF))
registers = st.builds(Registers, **{field.name: number for field in fields(Registers)})
system = st.builds(
    SystemRegisters,
    **dict.fromkeys(("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"), segment),
    gdt=table,
    idt=table,
    cr0=st.sampled_from([0x11, 0x80000011, 0x80010033, 0x10]) | number,
    cr2=number,
    cr3=st.sampled_from([TABLES, 0, 0xFFFFF000]) | number,
    cr4=st.sampled_from([0x20, 0, 0x10, 0x1020]) | number,
    efer=st.sampled_from([0x500, 0, 0xD00]) | number,
)
memory = st.lists(st.tuples(st.integers(0, (1 << 20) - 64), st.binary(min_size=1, max_size=64)), max_size=30)
kinds = st.sampled_from(list(CrashKind))


def filled(cpu: Cpu, ram: Ram, parts: list[tuple[int, bytes]]) -> Cpu:
    for at, data in parts:
        ram.write(at, data)
    return cpu


def check(cpu: Cpu, kind: CrashKind, symbols: SymbolTable | None = None) -> CrashReport:
    """A report of that, whole, in all its forms."""
    started = time.monotonic()
    interrupted = find_interrupted(cpu, Place)
    crash = Crash(0, kind)
    context = CrashContext(cpu, crash, symbols=symbols, interrupted=interrupted, is_memory=lambda gpa: gpa < 1 << 20)
    report = examine(context)
    assert str(report)
    assert render(report, lambda role, text: f"{role}({text})")
    assert json.loads(json.dumps(report.as_dict()))["cause"] == kind.value
    assert report.summary
    assert not [note for note in report.notes if "cannot be told" in note], report.notes
    assert time.monotonic() - started < PATIENCE
    return report


SETTINGS = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(registers, system, memory, kinds)
def test_any_registers_and_any_memory(
    r: Registers, s: SystemRegisters, parts: list[tuple[int, bytes]], kind: CrashKind
) -> None:
    ram = Ram()
    check(filled(cpu_of(ram, r, s), ram, parts), kind)


@SETTINGS
@given(
    st.sampled_from([long_cpu, protected_cpu, real_cpu]), st.binary(max_size=15), registers, memory, st.data(), kinds
)
def test_any_code_in_a_sound_machine(
    make: Callable[[bytes], tuple[Cpu, Ram]],
    code: bytes,
    r: Registers,
    parts: list[tuple[int, bytes]],
    data: st.DataObject,
    kind: CrashKind,
) -> None:
    cpu, ram = make(code)
    kept = data.draw(st.sets(st.sampled_from([field.name for field in fields(Registers)])))
    kept |= {"rip", "rflags"}
    mixed = replace(r, **{name: getattr(cpu.registers, name) for name in kept})
    check(filled(replace(cpu, registers=mixed), ram, parts), kind)


@SETTINGS
@given(st.lists(number, min_size=1, max_size=40), registers)
def test_page_tables_that_lead_anywhere(entries: list[int], r: Registers) -> None:
    cpu, ram = long_cpu()
    for at, entry in enumerate(entries):
        ram.write(TABLES + 8 * at, struct.pack("<Q", entry | 1))
    check(replace(cpu, registers=r), CrashKind.TRIPLE_FAULT)


def test_a_page_table_that_contains_itself() -> None:
    cpu, ram = long_cpu(rip=0x1000)
    for at in range(512):
        ram.write(TABLES + 8 * at, struct.pack("<Q", TABLES | 3))
    report = check(cpu, CrashKind.TRIPLE_FAULT)
    assert report.mode.startswith("64-bit")


def test_a_stack_of_frame_pointers_in_a_circle() -> None:
    cpu, ram = long_cpu(rsp=STACK, rbp=STACK)
    ram.write(CODE, bytes.fromhex("e8 00 00 00 00 0f 0b"))
    ram.write(STACK, struct.pack("<QQQQ", STACK + 16, CODE + 5, STACK, CODE + 5))
    report = check(replace(cpu, registers=replace(cpu.registers, rip=CODE + 5)), CrashKind.TRIPLE_FAULT)
    assert len(report.backtrace) <= 3


# Images


@pytest.fixture(scope="session")
def image(guest: Guest) -> bytes:
    return guest("crash-divide").read_bytes()


@SETTINGS
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=20), cut=st.floats(0, 1)
)
def test_debug_information_that_is_damaged(image: bytes, changes: list[tuple[float, bytes]], cut: float) -> None:
    damaged = bytearray(image[: int(len(image) * cut)] if cut < 0.3 else image)
    for at, data in changes:
        start = int(at * len(damaged))
        damaged[start : start + len(data)] = data
    started = time.monotonic()
    lines = SourceLines(bytes(damaged))
    for address in (0x100020, 0x100026, 0, 1 << 63):
        assert lines.lookup(address).isprintable()
    assert time.monotonic() - started < PATIENCE
    cpu, _ = long_cpu()
    report = examine(CrashContext(cpu, Crash(0, CrashKind.TRIPLE_FAULT), symbols=SymbolTable(bytes(damaged))))
    assert str(report)


def test_lines_of_an_image(image: bytes) -> None:
    lines = SourceLines(image)
    address = SymbolTable(image).address("average")
    assert address is not None
    assert lines.lookup(address).startswith("guests/crash.c:")
    assert SourceLines(image, 0x1000).lookup(address + 0x1000) == lines.lookup(address)
    assert SourceLines(b"no ELF file").lookup(address) == ""
    assert SourceLines(image[:100]).lookup(address) == ""
