"""Delivery of exceptions: expectations from the Intel SDM, volume 3A, chapter 6, and volume 2A, "INT n"."""

from __future__ import annotations

from dataclasses import replace

import pytest
from x86_machine import (
    CODE,
    IDT,
    STACK,
    TSS,
    USER_CODE,
    USER_DATA,
    change,
    cpu_of,
    gate32,
    gate64,
    in_ring_3,
    long_cpu,
    map_page,
    protected_cpu,
    real_cpu,
)

from pykvm.x86.delivery import Push, deliver, deliver_all
from pykvm.x86.exceptions import (
    DE,
    DF,
    GP,
    NP,
    PF,
    SS,
    TS,
    UD,
    Event,
    EventKind,
    doubles,
    error_code_words,
    vector_name,
    vector_title,
)
from pykvm.x86.registers import RFLAGS_IF, RFLAGS_RF, RFLAGS_TF, Table

HANDLER = 0xA000


def refused(cpu, event):
    """Vector, error code and words of what came in an event's way."""
    problem = deliver(cpu, event).problem
    assert problem is not None
    return problem.vector, problem.error_code, problem.why


# What two exceptions make: SDM table 6-5

BENIGN, CONTRIBUTORY = [UD, 1, 3, 7, 16], [DE, TS, NP, SS, GP]


@pytest.mark.parametrize("second", [*CONTRIBUTORY, PF])
@pytest.mark.parametrize("first", [*BENIGN, *CONTRIBUTORY, PF])
def test_what_makes_a_double_fault(first, second):
    expected = first == PF or (first in CONTRIBUTORY and second in CONTRIBUTORY)
    assert doubles(first, second) is expected


@pytest.mark.parametrize(
    ("vector", "code", "words"),
    [
        (PF, 0b00000, "ring 0 read; the page is not present"),
        (PF, 0b00111, "ring 3 wrote; the page is present, but its rights forbid it"),
        (PF, 0b10001, "ring 0 fetched an instruction; the page is present, but its rights forbid it"),
        (PF, 0b01001, "ring 0 read; reserved bits are set in the page tables"),
        (GP, 0, "no descriptor"),
        (GP, 1, "no descriptor, while another event was delivered"),
        (GP, 0x10, "GDT entry 0x10"),
        (NP, 0x14, "LDT entry 0x10"),
        (GP, 14 * 8 + 2, "IDT entry 14 (#PF)"),
        (GP, 0x80 * 8 + 3, "IDT entry 0x80, while another event was delivered"),
        (DF, 0, ""),
    ],
)
def test_error_codes_in_words(vector, code, words):
    assert error_code_words(vector, code) == words


def test_names():
    assert (vector_name(PF), vector_title(PF)) == ("#PF", "page fault")
    assert (vector_name(15), vector_title(15)) == ("vector 15", "reserved")
    assert Event(0x20, kind=EventKind.INTERRUPT).name == "interrupt 0x20"


# Long mode

PAGE_FAULT = Event(PF, 2, "", 0x123000)


def test_a_handler_is_entered():
    cpu, ram = long_cpu(rflags=2 | RFLAGS_IF | RFLAGS_TF, rsp=STACK + 4)
    gate64(ram, PF, HANDLER)
    done = deliver(cpu, PAGE_FAULT)
    assert done.problem is None
    assert done.handler == HANDLER
    # RSP is aligned to 16, then six words go down: SS, RSP, RFLAGS with RF, CS, RIP, error code (SDM 6.14.2).
    assert done.pushes == tuple(
        Push(STACK - 8 * (number + 1), 8, value)
        for number, value in enumerate([0x10, STACK + 4, 2 | RFLAGS_IF | RFLAGS_TF | RFLAGS_RF, 8, CODE, 2])
    )
    assert done.registers.rip == HANDLER
    assert done.registers.rsp == STACK - 48
    assert done.registers.rflags == 2
    assert done.system.cr2 == 0x123000


def test_a_trap_gate_leaves_interrupts_on():
    cpu, ram = long_cpu(rflags=2 | RFLAGS_IF)
    gate64(ram, UD, HANDLER, kind=15)
    assert deliver(cpu, Event(UD)).registers.rflags == 2 | RFLAGS_IF


def test_no_idt():
    cpu, _ = long_cpu()
    vector, code, why = refused(change(cpu, idt=Table(0, 0)), PAGE_FAULT)
    assert (vector, code) == (GP, 14 * 8 + 2 + 1)
    assert why == "the IDT's limit is 0: no handler could be found"


def test_an_idt_that_ends_before():
    cpu, _ = long_cpu()
    assert refused(change(cpu, idt=Table(IDT, 16 * 14 - 1)), PAGE_FAULT) == (
        GP, 14 * 8 + 3, "IDT entry 14 (#PF) is beyond the IDT's limit 0xdf",
    )  # fmt: skip
    cpu, ram = long_cpu()
    gate64(ram, PF, HANDLER)
    assert deliver(change(cpu, idt=Table(IDT, 16 * 15 - 1)), PAGE_FAULT).problem is None


@pytest.mark.parametrize(
    ("gate", "vector", "code", "why"),
    [
        ({"present": 0}, NP, 14 * 8 + 3, "IDT entry 14 (#PF) is marked not present"),
        ({"kind": 12}, GP, 14 * 8 + 3, "is a descriptor of type 12, which is no gate of long mode"),
        ({"kind": 5}, GP, 14 * 8 + 3, "is a task gate, which is no gate of long mode"),
        ({"kind": 6}, GP, 14 * 8 + 3, "is a 16-bit interrupt gate, which is no gate of long mode"),
        ({"selector": 0}, GP, 1, "names the null selector as its code segment"),
        ({"selector": 0x10}, GP, 0x11, "which is data, ring 0: no code"),
        ({"selector": 0x48}, GP, 0x49, "0x48, which is beyond the GDT, whose limit is 0x37"),
        ({"selector": 0x0C}, GP, 0x0D, "0xc, which is beyond the LDT, of which there is none"),
        ({"selector": 0x23}, GP, 0x21, "of ring 3, less privileged than the interrupted code"),
        ({"ist": 1}, PF, 2, "no TSS is loaded (TR is 0), and IDT entry 14 (#PF) needs its IST 1"),
    ],
)
def test_a_gate_that_leads_nowhere(gate, vector, code, why):
    cpu, ram = long_cpu()
    gate64(ram, PF, HANDLER, **gate)
    cpu = change(cpu, ldt=replace(cpu.system.ldt, unusable=1), tr=replace(cpu.system.tr, base=TSS))
    # An all but empty address space at the top: IST 1 is 0, and the first word goes to -8.
    found_vector, found_code, found_why = refused(cpu, PAGE_FAULT)
    assert (found_vector, found_code) == (vector, code)
    assert why in found_why


def test_an_empty_gate():
    cpu, _ = long_cpu()
    assert refused(cpu, Event(UD)) == (GP, 6 * 8 + 3, "IDT entry 6 (#UD) is empty: nobody has set a handler")


def test_the_code_segment_has_to_be_64_bit_code():
    cpu, ram = long_cpu()
    gate64(ram, UD, HANDLER)
    ram.write_int(0x1008, 8, 0x00CF9B000000FFFF)
    vector, code, why = refused(cpu, Event(UD))
    assert (vector, code) == (GP, 9)
    assert "32-bit code" in why
    ram.write_int(0x1008, 8, 0x00AF1B000000FFFF)
    vector, code, why = refused(cpu, Event(UD))
    assert (vector, code, why.rpartition(", ")[2]) == (NP, 9, "which is marked not present")


def test_a_handler_at_an_address_that_is_none():
    cpu, ram = long_cpu()
    gate64(ram, UD, 1 << 47)
    assert refused(cpu, Event(UD)) == (
        GP, 1, "IDT entry 6 (#UD) leads to 0x800000000000, which is not a canonical address",
    )  # fmt: skip


def test_a_stack_that_is_not_there():
    cpu, ram = long_cpu(rsp=0x7F0000000000)
    gate64(ram, UD, HANDLER)
    vector, code, why = refused(cpu, Event(UD))
    assert (vector, code) == (PF, 2)
    assert why == (
        "the stack pointer is 0x7f0000000000: the frame cannot be pushed to 0x7efffffffff8, which is not mapped"
    )
    cpu = replace(cpu, registers=replace(cpu.registers, rsp=1 << 63))
    assert refused(cpu, Event(UD)) == (
        SS,
        1,
        "the stack pointer is 0x8000000000000000, which is not a canonical address",
    )


def test_a_stack_that_is_read_only():
    cpu, ram = long_cpu()
    map_page(ram, STACK - 0x1000, STACK - 0x1000 | 1)
    gate64(ram, UD, HANDLER)
    assert deliver(cpu, Event(UD)).problem is None
    vector, code, why = refused(change(cpu, cr0=cpu.system.cr0 | 1 << 16), Event(UD))
    assert (vector, code) == (PF, 3)
    assert "which is read-only: its PTE has RW=0" in why


def test_ring_3_comes_in_on_the_stack_of_the_tss():
    cpu, ram = long_cpu()
    gate64(ram, UD, HANDLER)
    ram.write_int(TSS + 4, 8, 0x7000)
    done = deliver(in_ring_3(cpu), Event(UD))
    assert done.problem is None
    assert done.stack == "RSP0 of the TSS"
    assert [push.value for push in done.pushes] == [USER_DATA | 3, STACK, 2 | RFLAGS_RF, USER_CODE | 3, CODE]
    assert done.pushes[0].linear == 0x6FF8
    # SS becomes null with the new privilege level as its RPL (SDM 6.14.2).
    assert (done.system.cs.selector, done.system.ss.selector, done.system.ss.dpl) == (8, 0, 0)


def test_a_tss_that_ends_before():
    cpu, ram = long_cpu()
    gate64(ram, UD, HANDLER)
    cpu = in_ring_3(cpu)
    cpu = change(cpu, tr=replace(cpu.system.tr, limit=10))
    assert refused(cpu, Event(UD)) == (
        TS, 0x29, "RSP0 is to come from the TSS, which ends before it (limit 0xa, base 0x4000)",
    )  # fmt: skip


def test_the_dpl_counts_for_software_interrupts():
    cpu, ram = long_cpu()
    gate64(ram, 0x1F, HANDLER)
    ram.write_int(TSS + 4, 8, 0x7000)
    event = Event(0x1F, kind=EventKind.SOFTWARE)
    # EXT is clear: the program itself asked for it.
    assert refused(in_ring_3(cpu), event) == (
        GP, 0x1F * 8 + 2, "IDT entry 31 (vector 31) has DPL 0: ring 3 must not call it",
    )  # fmt: skip
    assert deliver(in_ring_3(cpu), Event(0x1F)).problem is None
    gate64(ram, 0x1F, HANDLER, dpl=3)
    assert deliver(in_ring_3(cpu), event).problem is None


# Protected and real mode


def test_protected_mode_pushes_three_words():
    cpu, ram = protected_cpu(rsp=STACK)
    gate32(ram, GP, HANDLER)
    done = deliver(cpu, Event(GP, 0x10))
    assert done.pushes == (
        Push(STACK - 4, 4, 2 | RFLAGS_RF), Push(STACK - 8, 4, 8), Push(STACK - 12, 4, CODE), Push(STACK - 16, 4, 0x10),
    )  # fmt: skip
    assert (done.registers.rip, done.registers.rsp, done.handler) == (HANDLER, STACK - 16, HANDLER)


def test_protected_mode_from_ring_3():
    cpu, ram = protected_cpu()
    gate32(ram, UD, HANDLER)
    ram.write_int(TSS + 4, 4, 0x7000)
    cpu = in_ring_3(cpu)
    assert refused(cpu, Event(UD)) == (TS, 1, "the TSS's stack segment for ring 0 is 0x0, the null selector")
    ram.write_int(TSS + 8, 2, 0x18)
    assert refused(cpu, Event(UD)) == (
        TS, 0x19, "the TSS's stack segment for ring 0 is 0x18 (data, ring 3): no stack for ring 0",
    )  # fmt: skip
    ram.write_int(TSS + 8, 2, 0x10)
    done = deliver(cpu, Event(UD))
    assert [push.value for push in done.pushes] == [USER_DATA | 3, STACK, 2 | RFLAGS_RF, USER_CODE | 3, CODE]
    assert (done.pushes[0].linear, done.system.ss.selector) == (0x6FFC, 0x10)


def test_a_stack_segment_has_a_limit():
    cpu, ram = protected_cpu(rsp=STACK)
    gate32(ram, UD, HANDLER)
    cpu = change(cpu, ss=replace(cpu.system.ss, limit=STACK - 8))
    assert refused(cpu, Event(UD)) == (
        SS, 1, f"the stack pointer is {STACK:#x}, beyond the stack segment's limit {STACK - 8:#x}",
    )  # fmt: skip


def test_the_table_of_real_mode_is_no_idt():
    cpu, _ = protected_cpu()
    vector, code, why = refused(change(cpu, idt=Table(0, 0x3FF)), Event(GP, 0))
    assert (vector, code) == (GP, 13 * 8 + 3)
    assert why == "no IDT was loaded: IDTR still leads to real mode's interrupt table"


def test_task_gates_are_not_followed():
    cpu, ram = protected_cpu()
    gate32(ram, DF, 0, kind=5, selector=0x30)
    done = deliver(cpu, Event(DF, 0))
    assert done.problem is done.registers is None


def test_real_mode():
    cpu, ram = real_cpu(rsp=2)
    ram.write_int(4 * UD, 4, 0x1234 << 16 | 0x5678)
    done = deliver(cpu, Event(UD))
    # SP wraps around within its 64 KiB.
    assert [push.linear for push in done.pushes] == [0, 0xFFFE, 0xFFFC]
    assert [push.value for push in done.pushes] == [2, 0, CODE]
    assert (done.handler, done.registers.rip, done.system.cs.base) == (0x12340 + 0x5678, 0x5678, 0x12340)
    vector, code, why = refused(change(cpu, idt=Table(0, 0x17)), Event(UD))
    assert (vector, code) == (GP, None)
    assert why == "the interrupt table's limit is 0x17: IDT entry 6 (#UD) is beyond it"


# Chains


def test_a_chain_of_a_benign_exception():
    cpu, _ = long_cpu()
    chain = deliver_all(change(cpu, idt=Table(0, 0)), Event(UD))
    assert [(item.event.vector, item.event.error_code) for item in chain] == [(UD, None), (GP, 6 * 8 + 3), (DF, 0)]
    assert all(item.problem for item in chain)


def test_a_double_fault_that_is_handled():
    cpu, ram = long_cpu()
    gate64(ram, DF, HANDLER)
    chain = deliver_all(cpu, PAGE_FAULT)
    assert [item.event.vector for item in chain] == [PF, DF]
    assert chain[-1].problem is None
    assert chain[-1].handler == HANDLER


def test_interrupts_are_benign():
    cpu, ram = long_cpu()
    gate64(ram, GP, HANDLER)
    chain = deliver_all(cpu, Event(0x1E, kind=EventKind.INTERRUPT))
    assert [item.event.vector for item in chain] == [0x1E, GP]
    assert chain[-1].problem is None
    # What the #GP's handler finds on its stack names the gate of the interrupt.
    assert chain[-1].pushes[-1].value == 0x1E * 8 + 3


def test_physical_address_bits_above_the_cpus_are_reserved():
    cpu, ram = long_cpu()
    map_page(ram, STACK - 0x1000, 1 << 41 | 3)
    gate64(ram, UD, HANDLER)
    vector, code, why = refused(cpu, Event(UD))
    assert (vector, code) == (PF, 0b1011)
    assert why.endswith("whose PTE has reserved bits set")
    assert cpu_of(ram, cpu.registers, cpu.system).physical_bits == 40
