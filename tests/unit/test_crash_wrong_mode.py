"""Code that runs in another mode than it was made for, and address spaces without tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from x86_machine import CODE, GDT, TABLES, change, long_cpu, protected_cpu

from pykvm.crash.wrong_mode import wrong_mode
from pykvm.x86.cpu import Cpu
from pykvm.x86.faults import next_event
from pykvm.x86.registers import CR0_PG, CR4_PAE, EFER_LMA

MOV_IMM64 = bytes.fromhex("48 b8 88 77 66 55 44 33 22 11 0f 0b")
FAR_JUMP = bytes.fromhex("ea 00 80 00 00 08 00")


def told(cpu: Cpu) -> str:
    return wrong_mode(cpu, next_event(cpu))


def compatibility(code: bytes, offset: int = 0) -> Cpu:
    cpu, _ = long_cpu(code)
    cpu = change(cpu, cs=replace(cpu.system.cs, l=0, db=1, limit=0xFFFFFFFF))
    return replace(cpu, registers=replace(cpu.registers, rip=CODE + offset))


def test_what_is_as_it_should_be_is_not_accused() -> None:
    for make in (long_cpu, protected_cpu):
        for code in (b"\x0f\x0b", b"\x8b\x03", b"\x50", b"\xff\xd0"):
            assert told(make(code, rbx=1 << 30)[0]) == ""
    assert told(compatibility(b"\x0f\x0b")) == ""
    assert told(compatibility(FAR_JUMP + MOV_IMM64)) == ""  # on the way to the 64-bit segment


def test_64_bit_code_in_compatibility_mode() -> None:
    sentence = told(compatibility(MOV_IMM64, 10))
    assert sentence.startswith(
        "EFER.LMA is 1 and CS has L=0: 64-bit code runs as 32-bit code (CS is 0x8); in the end `ud2`"
    )


@pytest.mark.parametrize(
    ("paging", "why"),
    [
        (0, "paging is not on (CR0.PG is 0)"),
        (CR0_PG, "EFER.LME was not set before paging was turned on"),
    ],
)
def test_64_bit_code_outside_of_long_mode(paging: int, why: str) -> None:
    cpu, _ = protected_cpu()
    cpu = change(cpu, cs=replace(cpu.system.cs, l=1, db=0), cr0=cpu.system.cr0 | paging)
    assert told(cpu) == (f"EFER.LMA is 0 and CS has L=1: 64-bit code runs outside of long mode, as 16-bit code; {why}")


def test_both_l_and_d() -> None:
    cpu, _ = long_cpu()
    cpu = change(cpu, cs=replace(cpu.system.cs, l=1, db=1))
    assert told(cpu).startswith("CS 0x8 has both L and D set")


@pytest.mark.parametrize(("code", "text"), [("60", "pushal"), ("06", "push es"), (FAR_JUMP.hex(), "ljmp 8:0x8000")])
def test_32_bit_code_in_64_bit_mode(code: str, text: str) -> None:
    cpu, _ = long_cpu(bytes.fromhex(code))
    assert told(cpu) == (
        f"32-bit code runs as 64-bit code: EFER.LMA is 1 and CS has L=1, and 64-bit mode has no `{text}`"
    )


def test_an_absolute_address_that_became_relative() -> None:
    cpu, _ = long_cpu(bytes.fromhex("8b 05 00 00 00 3f"))  # both are mapped
    assert told(cpu) == ""
    cpu, _ = long_cpu(bytes.fromhex("8b 05 00 f0 ff 3f"))
    assert told(cpu).startswith("Probably 32-bit code runs as 64-bit code")


def test_a_code_segment_whose_d_was_forgotten() -> None:
    cpu, ram = protected_cpu()
    cpu = change(cpu, cs=replace(cpu.system.cs, db=0))
    assert told(cpu) == ""  # the GDT has it otherwise: the segment is of real mode, or was changed
    ram.data[GDT + 8 + 6] &= ~0x40
    assert told(cpu) == "CS 0x8 has D=0, so it is 16-bit code: probably 32-bit code runs as 16-bit code"


@pytest.mark.parametrize(
    ("cr3", "what"),
    [
        (0x20000, "all entries there are zero"),
        (CODE, "these are no page tables for the code that runs"),
        (0xC0100000, "there is no RAM there, and CR3 takes a physical address"),
    ],
)
def test_a_cr3_without_page_tables(cr3: int, what: str) -> None:
    cpu, _ = long_cpu(b"\x90")
    sentence = told(change(cpu, cr3=cr3))
    assert sentence.startswith(f"CR3 is {cr3:#x}, and {what}: the code at {CODE:#x} is not mapped")


def test_paging_is_turned_on_without_lme() -> None:
    cpu, ram = protected_cpu(bytes.fromhex("0f 22 c0"), rax=0x80000011)
    cpu = change(cpu, cr4=CR4_PAE, cr3=TABLES)
    ram.write_int(TABLES, 8, TABLES + 0x1003)
    event = next_event(cpu)
    assert event is not None
    assert event.certain
    assert event.why.endswith("EFER.LME is 0: this is PAE paging, but CR3 leads to tables of long mode, probably meant")
    ram.write_int(TABLES, 8, TABLES + 0x1001)  # as PAE paging has it
    event = next_event(cpu)
    assert event is not None
    assert not event.certain


def test_nx_without_nxe() -> None:
    cpu, ram = long_cpu(b"\x8b\x03", rbx=0x5000)
    assert cpu.system.efer & EFER_LMA
    ram.data[TABLES + 0x2000 + 7] |= 0x80
    event = next_event(cpu)
    assert event is not None
    assert "has bit 63 (NX) set, which is reserved while EFER.NXE is 0" in event.why
