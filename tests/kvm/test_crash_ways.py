"""Ways to die where the mistake lies before the instruction that dies: each KVM must name it.

The sentences are written down by hand. In them ADDRESS stands for a number that the compiler chose, and ... for what
differs between KVMs: how the exception was delivered, or whether a handler was entered that no CPU enters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LIMIT, flat, hexcode

from pykvm import Ending, Machine

Guest = Callable[[str], Path]

STORM = "each exception led to the next, until the stack had run over all below it"

SENTENCES = {
    "apic-no-gate": "...nterrupt 0x40 came (the local APIC's timer), and IDT entry 0x40 is empty: nobody has set a handler",
    "handler-faults": "At ADDRESS <faults_again+0x1> `movabs rax, qword ptr [0x700000000000]` raises an exception, whose "
    f"handler leads there again: {STORM}",
    "idt-8-bytes": "...two gates of 8 bytes, as protected mode has them, were taken for one of 16...",
    "gate-data": "`ud2` is the instruction that is invalid on purpose (#UD), and IDT entry 6 (#UD) names the code segment "
    "GDT selector 0x10, which is data, ring 0: no code...",
    "irq-gate-data": "IRQ 0 came as interrupt 0x20, and IDT entry 0x20 names the code segment GDT selector 0x10, which is "
    "data, ring 0: no code (at ADDRESS <irq_gate_data+ADDRESS>...); the handler halted",
    "cr3-virtual": "CR3 is 0xc0100000, and there is no RAM there, and CR3 takes a physical address: the code at ADDRESS is "
    "not mapped, nor are the stack and the GDT",
    "cr3-virtual64": "`mov cr3, rax` loads cr3 with 0xffff800000100000: this CPU has not so many address bits, and CR3 "
    "takes a physical address...",
    "pte-shifted": "CR3 is ADDRESS, and these are no page tables for the code that runs: the code at ADDRESS is not mapped, "
    "nor are the stack and the GDT; the PML4E is ADDRESS, the PDPTE is 0x0",
    "null-call-halts": "The CPU halted in the handler of #PF, which came at 0x0, for 0x0: ring 0 read; the page is not "
    "present; the CPU is to execute at 0x0, which is not mapped",
    "smashed": "The CPU halted in the handler of #GP, which came at ... 0x4141414141414141, which is not a canonical address",
    "iret-no-ring": "The CPU halted in the handler of #GP, which came at ADDRESS <iret_no_ring+ADDRESS> (`iretq`): it "
    "returns to code segment 0x20 (64-bit code, ring 3), which ring 0 must not go to",
    "user-page-kernels": "The CPU halted in the handler of #PF, which came at ADDRESS <user_page> (`ud2`), for ADDRESS: ring 3 "
    "...; the CPU is to execute at ADDRESS, which is the kernel's: its PTE has US=0",
    "syscall-no-lstar": "The CPU is to execute at 0x0, which is not mapped (#PF), and the IDT's limit is 0: no handler "
    "could be found; the `syscall` at ADDRESS leads there: MSR 0xc0000082 (LSTAR) is 0x0",
    "swapgs-missing": "The CPU halted in the handler of #PF, which came at ADDRESS <swapgs_missing+ADDRESS> (`mov rax, qword "
    "ptr gs:[8]`), for 0x8: ring 0 read; the page is not present; it reads 0x8, which is not mapped (the base of gs is 0)",
    "into-zeros": "`ud2` is the instruction that is invalid on purpose (#UD), and the IDT's limit is 0: no handler could be "
    "found; the memory before it is all zeros: the CPU had gone astray",
    "stack-in-code": "...; the stack pointer is ADDRESS, where the image has code: the stack has run over it",
    "own-trap-flag": "`mov es, eax` loads es with 0x100, which is beyond the GDT, ... (#GP), and IDT entry 13 (#GP) is empty: "
    "nobody has set a handler",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_the_mistake_is_named(guest: Guest, name: str) -> None:
    with Machine(guest(f"crash-{name}")) as machine:
        machine.replay_limit = LIMIT / 2
        outcome = machine.run(LIMIT)
    assert outcome.report is not None, outcome
    pattern = re.escape(SENTENCES[name]).replace("ADDRESS", "0x[0-9a-f]+").replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern, outcome.report.explanation), str(outcome.report)


def test_a_timer_that_ticks_once(guest: Guest) -> None:
    with Machine(guest("crash-apic-no-eoi")) as machine:
        outcome = machine.run(3)
    assert outcome.ending is Ending.TIMED_OUT
    # A KVM that interprets ring 0 does not keep what is in service.
    in_service = "interrupt 0x40 is in service and was never acknowledged (no EOI)"
    assert in_service in outcome.reason or "the local APIC's timer was to tick once, and has" in outcome.reason


def test_a_second_cpu_that_is_started_where_there_is_nothing() -> None:
    code = hexcode(
        """
        bb 00 00 e0 fe ; mov ebx, 0xfee00000
        c7 83 f0 00 00 00 ff 01 00 00 ; SVR: enabled
        c7 83 10 03 00 00 00 00 00 01 ; ICR: to APIC 1
        c7 83 00 03 00 00 00 45 00 00 ; INIT
        c7 83 00 03 00 00 50 46 00 00 ; SIPI, vector 0x50
        eb fe ; jmp to itself
        """
    )
    with flat(code, 64, cpus=2) as machine:
        outcome = machine.run(1.5)
    if outcome.report is None:
        assert "CPU 1 was at 0x" in outcome.reason
        assert "in memory that is all zeros: it has gone astray" in outcome.reason
    else:
        assert "gone astray" in outcome.report.explanation or "there are only zeros" in outcome.report.explanation
