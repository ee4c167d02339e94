"""Crash reports of guests that die in known ways: each sentence is written down by hand, and every KVM must say it.

In the sentences ADDRESS stands for a number that the compiler chose, INSTRUCTION for what it made of a line of C.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import HALT, LIMIT, STATE_LOST, flat, hexcode, pykvm

from pykvm import CrashReport, Ending, Machine, Outcome

Guest = Callable[[str], Path]

NO_IDT = "and the IDT's limit is 0: no handler could be found"

SENTENCES = {
    "no-idt": f"`ud2` is the instruction that is invalid on purpose (#UD), {NO_IDT}",
    "divide": f"`INSTRUCTION` divides by zero (#DE), {NO_IDT}",
    "idt-not-present": "`INSTRUCTION` reads 0x700000000000, which is not mapped (#PF), and IDT entry 14 (#PF) is empty: "
    "nobody has set a handler",
    "bad-stack": "`push rax` pushes to 0x6ffffffffff8, which is not mapped (#PF), and the stack pointer is 0x700000000000: "
    "the frame cannot be pushed to 0x6ffffffffff8, which is not mapped",
    "stack-overflow": "`INSTRUCTION` writes ADDRESS <small_stack+ADDRESS>, which is not mapped (#PF), and the stack has overflowed: the stack "
    "pointer is ADDRESS, and the page it ran into is not mapped",
    "null-call": f"The CPU is to execute at 0x0, which is not mapped (#PF), {NO_IDT}",
    "write-readonly": f"`INSTRUCTION` writes ADDRESS <constant>, which is read-only: its PTE has RW=0 (#PF), {NO_IDT}",
    "non-canonical": f"`INSTRUCTION` reads 0x8000000000000000, which is not a canonical address (#GP), {NO_IDT}",
    "wrong-gate": "`ud2` is the instruction that is invalid on purpose (#UD), and IDT entry 6 (#UD) is a task gate, which "
    "is no gate of long mode",
    "gate-selector": "`ud2` is the instruction that is invalid on purpose (#UD), and IDT entry 6 (#UD) names the code "
    "segment 0x100, which is beyond the GDT, whose limit is 0x17 and whose base is ADDRESS",
    "handler-unmapped": "The handler of #PF is at 0x700000000000, which is not mapped: each fault led to the next, until "
    "the stack was used up",
    "idt-unmapped": "`ud2` is the instruction that is invalid on purpose (#UD), and the IDT cannot be read: its base "
    "is 0x700000000000 (limit 0xfff), and 0x700000000060 is not mapped",
    "idt-base-forgotten": "`ud2` is the instruction that is invalid on purpose (#UD), and the IDT cannot be read: its base "
    "is 0 (limit 0xfff), and 0x60 is not mapped",
    "no-tss": "`ud2` is the instruction that is invalid on purpose (#UD), and no TSS is loaded (TR is 0), and an exception "
    "in ring 3 needs its RSP0; the double fault was lost, too: IDT entry 8 (#DF) is empty: nobody has set a handler",
    "ist-missing": "`push rax` pushes to 0x6ffffffffff8, which is not mapped (#PF), and the stack pointer is "
    "0x700000000000: the frame cannot be pushed to 0x6ffffffffff8, which is not mapped; the double fault was lost, too: "
    "IST 1 of the TSS is 0x0: the frame cannot be pushed to 0xfffffffffffffff8, which is not mapped",
    "bad-selector": f"`INSTRUCTION` loads es with 0x100, which is beyond the GDT, whose limit is 0x17 and whose base is ADDRESS (#GP), {NO_IDT}",
    "no-execute": f"The CPU is to execute at ADDRESS <constant>, which must not be executed: its PTE has NX=1 (#PF), {NO_IDT}",
    "reserved-bit": f"`INSTRUCTION` reads ADDRESS <constant>, whose PTE has reserved bits set (#PF), {NO_IDT}",
    "bad-iret": f"`iretq` returns to code segment 0x73, which is beyond the GDT, whose limit is 0x17 and whose base is ADDRESS (#GP), {NO_IDT}",
    "no-kernel-stack": "`ud2` is the instruction that is invalid on purpose (#UD), and RSP0 of the TSS is 0x0: the frame "
    "cannot be pushed to 0xfffffffffffffff8, which is not mapped",
    "interrupt-no-idt": f"IRQ 0 came as interrupt 0x20, {NO_IDT}",
    "irq-no-gate": "IRQ 0 came as interrupt 8: the PIC has not been remapped, so it looks like #DF, and IDT entry 8 (#DF) is "
    "empty: nobody has set a handler",
    "prot32": f"`mov ds, eax` loads ds with 0xfff8, which is beyond the GDT, whose limit is 0x17 and whose base is ADDRESS (#GP), {NO_IDT}",
    "real16": "`ljmp 8:ADDRESS` jumps to code segment 0x8, which is beyond the GDT, whose limit is 0x0 and whose base is 0x0 (#GP), and no IDT "
    "was loaded: IDTR still leads to real mode's interrupt table",
}

FUNCTIONS = {"divide": "average", "stack-overflow": "descend", "null-call": "", "no-execute": "constant",
             "handler-unmapped": "", "no-kernel-stack": "user_page", "no-tss": "user_page", "prot32": "load_segment", "real16": ""}  # fmt: skip
"""Where the guests die whose function has not their own name."""


def run(guest: Guest, name: str, *, finish: bool = True) -> tuple[Outcome, CrashReport]:
    """How a guest ended, and the report. A slow host gets more time for a replay than people would wait for."""
    with Machine(guest(f"crash-{name}"), finish=finish) as machine:
        machine.replay_limit = LIMIT / 2
        outcome = machine.run(LIMIT)
    assert outcome.report is not None, outcome
    return outcome, outcome.report


def says(sentence: str, report: CrashReport) -> None:
    pattern = re.escape(sentence).replace("ADDRESS", "0x[0-9a-f]+").replace("INSTRUCTION", "[^`]+")
    assert re.fullmatch(pattern, report.explanation), str(report)


@pytest.mark.parametrize("name", SENTENCES)
def test_a_triple_fault_is_explained_in_a_sentence(guest: Guest, name: str) -> None:
    outcome, report = run(guest, name)
    assert outcome.ending is Ending.CRASHED
    assert report.cause == "triple fault"
    assert report.seen == ("by replay" if STATE_LOST else "directly")
    says(SENTENCES[name], report)
    assert report.explanation in str(report)
    assert report.symbol.split("+")[0] == FUNCTIONS.get(name, name.replace("-", "_"))
    assert report.raised[-1].name == "#DF"
    assert all(raised.problem for raised in report.raised)


def test_a_jump_to_where_no_address_can_be(guest: Guest) -> None:
    _, report = run(guest, "wild-jump")
    # Intel's CPUs raise #GP at the jump, and AMD's at its target (AMD APM volume 2, 8.2.14, leaves that open).
    if report.registers.rip == 0x1234567800000000:
        says(f"The CPU is to execute at 0x1234567800000000, which is not a canonical address (#GP), {NO_IDT}", report)
    else:
        says(f"`INSTRUCTION` jumps to 0x1234567800000000, which is not a canonical address (#GP), {NO_IDT}", report)


def test_interrupts_are_let_in_and_there_is_no_idt(guest: Guest) -> None:
    _, report = run(guest, "sti32")  # nobody has programmed the timer but the firmware
    came = "IRQ 0 came as interrupt 8: the PIC has not been remapped, so it looks like #DF"
    if report.seen == "directly" or "\nexceptions:\n  1. interrupt 0x8" in str(report):
        says(f"{came}, {NO_IDT}", report)
    else:  # the second run has not met the interrupt
        says(f"Probably {came}, {NO_IDT}", report)


@pytest.mark.needs("paging32")
def test_a_page_fault_of_32_bit_paging(guest: Guest) -> None:
    _, report = run(guest, "paging32")
    says(f"`mov ebx, dword ptr [0x800000]` reads 0x800000, which is not mapped (#PF), {NO_IDT}", report)
    assert report.mode == "protected mode, 32-bit, ring 0"
    (walk,) = [item.walk for item in report.translations]
    assert (walk.paging, [level.name for level in walk.levels]) == ("32-bit paging", ["PDE"])


@pytest.mark.needs("pvm")
def test_paging_that_this_kvm_does_not_have(guest: Guest) -> None:
    _, report = run(guest, "paging32")
    says(f"`mov cr0, eax` turns on paging outside of long mode, which this machine refuses (#GP), {NO_IDT}", report)


def test_a_jump_to_where_there_is_no_memory(guest: Guest) -> None:
    outcome, report = run(guest, "jump-to-nothing")
    assert outcome.ending is Ending.CRASHED
    assert (report.cause, report.seen) == ("KVM cannot emulate the instruction", "directly")
    says("The CPU is to execute at 0xc0000000, where there is no RAM (guest physical 0xc0000000)", report)


def test_a_gdt_whose_base_was_forgotten(guest: Guest) -> None:
    _, report = run(guest, "gdt32")  # a triple fault, or an instruction that KVM's interpreter gives up on
    start = (
        "`ljmp 8:ADDRESS` jumps to code segment 0x8, and that GDT entry is empty but for real mode's interrupt vectors: "
        "the GDT is at 0x0, limit 0x17 (#GP)"
    )
    says(f"{start}, " + (NO_IDT if report.cause == "triple fault" else "while KVM interpreted the instruction"), report)


@pytest.mark.needs("pvm")
def test_an_instruction_that_kvm_does_not_know(guest: Guest) -> None:
    _, report = run(guest, "sse", finish=False)
    says(
        "This host's KVM interprets the guest's code here, and its interpreter does not know `xorps xmm0, xmm0`", report
    )


def test_a_handler_that_ends_in_ret(guest: Guest) -> None:
    _, report = run(guest, "irq-ret")
    what = "ret` took what an interrupt had pushed: the handler of IRQ 0 must end in `iretq` ("
    if report.seen == "directly":
        says(f"`{what}CS was taken for a return address; IRQ 0 is the only one that is not masked)", report)
    else:  # no step of a second run ends in a handler
        says(f"Probably `{what}that at ADDRESS ends in `ret`)", report)


def test_the_last_instructions_before_ring_3_and_in_it(guest: Guest) -> None:
    with Machine(guest("crash-no-tss")) as machine:
        machine.keep_instructions = 4
        machine.replay_limit = LIMIT / 2
        report = machine.run(LIMIT).report
    assert report is not None
    assert [line.text for line in report.last][-1] == "iretq", str(report)
    assert len(report.last) == 4


def test_an_irq_at_an_empty_gate_whose_handler_halts(guest: Guest) -> None:
    outcome, report = run(guest, "irq-gate-empty")
    assert outcome.ending is Ending.HALTED
    says(
        "IRQ 0 came as interrupt 0x20, and IDT entry 0x20 is empty: nobody has set a handler "
        "(at ADDRESS <irq_gate_empty+ADDRESS>, #GP); the handler halted",
        report,
    )


@pytest.mark.skipif(
    STATE_LOST, reason="AMD's KVM resets a CPU at a triple fault, and steps use the trap flag themselves"
)
def test_the_trap_flag_without_a_handler(guest: Guest) -> None:
    _, report = run(guest, "single-step")
    says(f"RFLAGS.TF is set, so each instruction ends in a debug exception (#DB), {NO_IDT}", report)


@pytest.mark.skipif(STATE_LOST, reason="AMD's KVM resets a CPU at a triple fault, and no step ends in a handler")
def test_a_handler_that_raises_its_exception_again(guest: Guest) -> None:
    _, report = run(guest, "error-code-storm")
    assert "iretq` takes 0x" in report.explanation, str(report)
    assert "most likely an error code that is still on the stack" in report.explanation, str(report)


def test_64_bit_code_in_a_32_bit_segment(guest: Guest) -> None:
    _, report = run(guest, "long32")
    start = "EFER.LMA is 1 and CS has L=0: 64-bit code runs as 32-bit code (CS is 0x8); in the end "
    assert report.explanation.startswith(start), str(report)
    assert report.symbol.startswith("long_code")


def test_an_error_code_that_is_still_on_the_stack(guest: Guest) -> None:
    _, report = run(guest, "error-code-left")
    assert "`iretq` takes 0x0 for RIP, most likely an error code that is still on the stack" in report.explanation, str(
        report
    )


# What else a report has

BACKTRACE = ["load_driver", "start_devices", "main", "_start"]


def functions(report: CrashReport) -> list[str]:
    return [frame.place.symbol.split("+")[0] for frame in report.backtrace]


@pytest.mark.parametrize(
    ("name", "innermost"),
    [
        ("divide", ["average", "divide"]),
        ("null-call", ["", "null_call"]),
        ("no-idt", ["no_idt"]),
        ("jump-to-nothing", ["", "jump_to_nothing"]),
    ],
)
def test_the_backtrace(guest: Guest, name: str, innermost: list[str]) -> None:
    _, report = run(guest, name)
    found = functions(report)
    # What jumped away is not always on the stack.
    assert found == innermost + BACKTRACE or (name == "jump-to-nothing" and found[0] == ""), str(report)
    assert not report.backtrace[0].guess


def test_lines_of_source(guest: Guest) -> None:
    _, report = run(guest, "divide")
    source = (Path(__file__).parents[2] / "guests" / "crash.c").read_text().splitlines()
    file, _, line = report.place.source.partition(":")
    assert file == "guests/crash.c"
    assert "total / *count" in source[int(line) - 1]
    callers = [frame.place.source for frame in report.backtrace]
    assert "average(100" in source[int(callers[1].split(":")[1]) - 1]
    assert callers[-1].startswith("guests/lib/start.S:")


def test_the_chain_with_its_error_codes(guest: Guest) -> None:
    _, report = run(guest, "write-readonly")
    page_fault, double_fault = report.raised
    assert (page_fault.name, page_fault.error_code) == ("#PF", 0b11)
    assert page_fault.error_words == "ring 0 wrote; the page is present, but its rights forbid it"
    assert page_fault.address is not None
    assert f"writes {page_fault.address:#x} <constant>," in report.explanation
    assert (double_fault.name, double_fault.error_code) == ("#DF", 0)
    (item,) = report.translations
    assert item.refused == "its PTE has RW=0"
    assert [level.name for level in item.walk.levels] == ["PML4E", "PDPTE", "PDE", "PTE"]
    assert not item.walk.levels[-1].value & 2


def test_benign_exceptions_come_one_after_the_other(guest: Guest) -> None:
    _, report = run(guest, "gate-selector")
    # #UD is benign: the #GP of its delivery is an exception of its own, and only the next one makes a double fault.
    assert [(raised.name, raised.error_code) for raised in report.raised] == [("#UD", None), ("#GP", 0x101), ("#DF", 0)]
    assert report.raised[1].error_words == "GDT entry 0x100, while another event was delivered"


def test_the_instruction_among_its_neighbours(guest: Guest) -> None:
    _, report = run(guest, "divide")
    assert report.instruction in report.listing
    at = report.listing.index(report.instruction)
    assert at >= 2
    assert [line.address + len(line.code) for line in report.listing[:at]] == [
        line.address for line in report.listing[1 : at + 1]
    ]


def test_plain_values_for_programs(guest: Guest) -> None:
    _, report = run(guest, "stack-overflow")
    facts = json.loads(json.dumps(report.as_dict()))
    assert facts["explanation"] == report.explanation
    assert facts["raised"][0]["name"] == "#PF"
    assert facts["backtrace"][1]["symbol"].startswith("descend+")
    assert facts["translations"][0]["levels"][0]["name"] == "PML4E"
    assert any("stack cannot be read" in note for note in facts["notes"])


# Halts

HALTS = {"panic-halt": ("#PF", "panic_halt"), "handler-halts": ("#UD", "handler_halts")}


@pytest.mark.parametrize("name", HALTS)
def test_a_halt_in_an_exception_handler_is_told(guest: Guest, name: str) -> None:
    exception, function = HALTS[name]
    outcome, report = run(guest, name)
    assert outcome.ending is Ending.HALTED
    assert f"CPU 0 died in the handler of {exception}" in outcome.reason
    assert report.interrupted is not None
    assert report.interrupted.name == exception
    assert report.interrupted.place.symbol.split("+")[0] == function
    assert f"halted in the handler of {exception}" in report.explanation
    assert functions(report)[-4:] == BACKTRACE
    assert "exception" in [frame.found for frame in report.backtrace]


def test_a_page_fault_that_was_halted_on_says_for_what(guest: Guest) -> None:
    _, report = run(guest, "panic-halt")
    assert report.explanation.endswith(", for 0x700000000000: ring 0 read; the page is not present")


def test_an_irq_that_looks_like_an_exception(guest: Guest) -> None:
    outcome, report = run(guest, "irq-not-remapped")
    assert "CPU 0 died in the handler of IRQ 0, which came as interrupt 8 at" in outcome.reason
    start = "IRQ 0 came as interrupt 8: the PIC has not been remapped, so it looks like #DF, and its handler halted"
    assert report.explanation.startswith(start)
    assert functions(report)[-5:] == ["irq_not_remapped", *BACKTRACE]


def test_a_halt_after_exceptions_that_were_handled_is_no_death(guest: Guest) -> None:
    with Machine(guest("crash-calm-halt")) as machine:
        outcome = machine.run(LIMIT)
    assert outcome.ending is Ending.HALTED
    assert outcome.report is None
    assert outcome.reason == "every CPU is halted with interrupts off"


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_a_plain_halt_is_no_death(mode: int) -> None:
    with flat(HALT, mode) as machine:
        outcome = machine.run(LIMIT)
    assert outcome.ending is Ending.HALTED
    assert outcome.report is None


# The last instructions, and replays

COUNT_DOWN = hexcode(
    """
    b9 05 00 00 00 ; mov ecx, 5
    ff c9 ; dec ecx
    75 fc ; jnz back to it
    b0 2a ; mov al, 42
    e6 e9 ; out 0xe9, al
    0f 0b ; ud2
    """
)


def test_the_last_instructions_are_kept() -> None:
    with flat(COUNT_DOWN) as machine:
        machine.keep_instructions = 6
        report = machine.run(LIMIT).report
        assert machine.pc.debug_console.output == b"*"
    assert report is not None
    loop = ["dec ecx", "jne 0x100005"]
    assert [line.text for line in report.last] == [*loop, *loop, "mov al, 0x2a", "out 0xe9, al"]
    assert report.instruction is not None
    assert report.instruction.text == "ud2"
    assert "last instructions:" in str(report)
    assert report.as_dict()["last"][-1]["text"] == "out 0xe9, al"


def test_more_than_there_were_gives_all() -> None:
    with flat(COUNT_DOWN) as machine:
        machine.keep_instructions = 100
        report = machine.run(LIMIT).report
    assert report is not None
    assert len(report.last) == 1 + 2 * 5 + 2


def test_a_fault_in_a_handler_is_stepped_to() -> None:
    code = hexcode(
        """
        0f 01 1c 25 00 30 00 00 ; lidt [0x3000]
        0f 0b ; ud2
        90 ; handler: nop
        b8 f8 ff 00 00 ; mov eax, 0xfff8
        8e d8 ; mov ds, eax: the GDT is not so long, and the IDT ends before #GP
        """
    )
    with flat(code) as machine:
        machine.memory.write(0x2060, bytes.fromhex("0a00 0800 00 8e 1000 00000000 00000000"))
        machine.memory.write(0x3000, bytes.fromhex("6f00 0020000000000000"))
        machine.keep_instructions = 3
        report = machine.run(LIMIT).report
    assert report is not None
    texts = [line.text for line in report.last]
    assert texts[-1] == "mov eax, 0xfff8"
    assert "ud2" in texts  # some KVMs do an exception's delivery and the next instruction in one step
    says(
        "`mov ds, eax` loads ds with 0xfff8, which is beyond the GDT, whose limit is 0x17 and whose base is ADDRESS (#GP), and "
        "IDT entry 13 (#GP) is beyond the IDT's limit 0x6f",
        report,
    )


def test_no_replay_when_none_is_wanted() -> None:
    with flat(COUNT_DOWN) as machine:
        machine.keep_instructions, machine.replay_limit = 6, 0
        report = machine.run(LIMIT).report
    assert report is not None
    assert report.last == []
    assert report.seen == ("lost" if STATE_LOST else "directly")


DIES_OF_INPUT = hexcode(
    """
    66 ba fd 03 ; mov dx, 0x3fd: the line status of COM1
    ec ; in al, dx
    a8 01 ; test al, 1: has something come?
    74 fb ; jz back
    0f 0b ; ud2
    """
)


def test_a_replay_has_an_end() -> None:
    with flat(DIES_OF_INPUT) as machine:
        machine.keep_instructions, machine.replay_limit = 4, 0.3
        machine.start(LIMIT)
        machine.serial.send(b"!")  # nobody sends it the second time
        outcome = machine.wait()
    assert outcome.ending is Ending.CRASHED
    assert outcome.report is not None
    assert any("a second run of the guest did not meet the fault" in note for note in outcome.report.notes)
    assert outcome.report.last == []


def test_a_long_way_to_the_fault_is_given_up_in_time() -> None:
    code = hexcode(
        """
        b9 a0 86 01 00 ; mov ecx, 100000
        ff c9 ; dec ecx
        75 fc ; jnz back to it
        0f 0b ; ud2
        """
    )
    with flat(code) as machine:
        machine.keep_instructions, machine.replay_limit = 4, 0.05
        report = machine.run(LIMIT).report
    assert report is not None
    assert any("a second run of the guest did not meet the fault" in note for note in report.notes), report.notes


def test_input_that_waits_at_the_start_is_in_the_replay() -> None:
    with flat(DIES_OF_INPUT) as machine:
        machine.keep_instructions = 2
        machine.serial.send(b"!")
        report = machine.run(LIMIT).report
    assert report is not None
    assert [line.text for line in report.last] == ["test al, 1", "je 0x100004"]


def test_a_machine_with_devices_of_its_own_has_no_replay() -> None:
    with flat(COUNT_DOWN) as machine:
        machine.port(0x99)(lambda access: 0)
        machine.keep_instructions = 4
        outcome = machine.run(LIMIT)
    assert outcome.ending is Ending.CRASHED
    assert outcome.report is not None
    assert any("a second run of the guest did not meet the fault" in note for note in outcome.report.notes)


def test_after_a_restore_the_replay_begins_at_the_snapshot() -> None:
    with flat(COUNT_DOWN) as machine:
        machine.keep_instructions = 3
        before = machine.snapshot()
        first = machine.run(LIMIT).report
        machine.restore(before)
        second = machine.run(LIMIT).report
    assert first is not None
    assert second is not None
    assert [line.text for line in first.last] == [line.text for line in second.last] != []
    assert first.explanation == second.explanation


# The documentation

DOCS = (Path(__file__).parents[2] / "docs" / "crashes.md").read_text()


def masked(line: str) -> str:
    """A line without what another compiler may make otherwise: addresses, and numbers of lines."""
    line = re.sub(r"`[^`]+`", "INSTRUCTION", line)
    return re.sub(r"\b0x[0-9a-f]+|:\d+$", "N", line).strip()


def test_the_report_that_the_documentation_shows(guest: Guest) -> None:
    (name, shown) = re.findall(r"<!-- shown: crash-(\S+) -->\n```\n(.*?)```", DOCS, re.DOTALL)[0]
    _, report = run(guest, name)
    if STATE_LOST:
        shown = shown.replace(
            "\n  at ",
            "\n  (seen in a second run, stepped to the fault: this host's KVM forgets a CPU that died)\n  at ",
        )
    real = [masked(line) for line in str(report).splitlines()]
    at = 0
    for line in map(masked, shown.splitlines()):
        if line == "..." or line.startswith(("> ", "at ")):
            continue
        assert line in real[at:], f"{line!r} is not in, or not at its place in:\n{report}"
        at = real.index(line, at) + 1


COMMONEST = {
    "`ljmp": "gdt32", "the IDT cannot be read": "idt-base-forgotten", "no TSS is loaded": "no-tss",
    "the stack has overflowed": "stack-overflow", "IRQ 0 came as interrupt 8": "irq-not-remapped", "`ret` took": "irq-ret",
    "`iretq` takes": "error-code-left", "IRQ 0 is in service": "irq-no-eoi", "EFER.LMA is 1": "long32",
    "IRQ 0 came as interrupt 0x20": "irq-gate-empty", "RFLAGS.TF is set": "single-step", "... each": "handler-faults",
    "CR3 is 0xc0100000": "cr3-virtual", "two gates of 8 bytes": "idt-8-bytes", "The CPU is to execute": "null-call",
    "the memory before it": "into-zeros",
}  # fmt: skip
"""Which guest says what a row of the documentation's table begins with."""


def commonest() -> list[str]:
    """The first column of the table."""
    table = DOCS.partition("## The commonest sentences")[2].partition("\n## ")[0]
    return re.findall(r"^\| (.*?) \| .* \|$", table, re.MULTILINE)[1:]


def test_the_table_of_the_documentation_is_complete() -> None:
    assert [next((start for start in COMMONEST if row.startswith(start)), row) for row in commonest()] == [*COMMONEST]


@pytest.mark.parametrize("start", COMMONEST)
def test_a_row_of_the_documentation(guest: Guest, start: str) -> None:
    if start == "RFLAGS.TF is set" and STATE_LOST:
        pytest.skip("AMD's KVM resets a CPU at a triple fault, and steps use the trap flag themselves")
    with Machine(guest(f"crash-{COMMONEST[start]}")) as machine:
        machine.replay_limit = LIMIT / 2
        outcome = machine.run(3 if start == "IRQ 0 is in service" else LIMIT)
    told = outcome.report.explanation if outcome.report is not None else outcome.reason
    (row,) = [row for row in commonest() if row.startswith(start)]
    numbers = re.compile(r"0x[0-9a-f]{4,}")  # the compiler's, and not limits and vectors
    assert numbers.sub("N", row.removeprefix("... ").partition(" (0x")[0]) in numbers.sub("N", told), told


def test_the_example_of_the_documentation(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest("crash-stack-overflow")
    (example,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    exec(compile(example, "docs/crashes.md", "exec"), {})
    assert "['#PF', '#DF'] guests/crash.c:" in capsys.readouterr().out


def test_the_command_line_shows_it(guest: Guest) -> None:
    done = pykvm("run", guest("crash-divide"), "--last-instructions", 4)
    assert done.returncode == 122
    errors = done.stderr.decode()
    assert f"divides by zero (#DE), {NO_IDT}." in errors
    assert "last instructions:" in errors
    assert "\x1b" not in errors  # it is no terminal


@pytest.mark.needs("svm-or-vmx")
def test_a_state_that_the_cpu_refuses_is_explained() -> None:
    with flat(hexcode("eb fe")) as machine:
        (vcpu,) = machine.vcpus
        system = vcpu.get_system_registers()
        vcpu.set_system_registers(replace(system, cs=replace(system.cs, l=1, db=1)))
        outcome = machine.run(LIMIT)
    assert outcome.ending is Ending.CRASHED
    assert outcome.report is not None
    assert outcome.report.cause.startswith("the CPU cannot enter this state (hardware reason 0x")
    assert outcome.report.explanation.startswith("The code segment has both L and D set")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("spin", r"CPU 0 was at 0x100000 <_start> guests/spin\.S:\d+ \(jmp 0x100000\); interrupts off"),
        (
            "crash-irq-ret-wait",
            r"CPU 0 was at .* \(\w+.*\); interrupts off;.* CS and RFLAGS of an interrupt are still on the stack: "
            r"probably its handler ended in `ret`, and must end in `iretq`",
        ),
        (
            "crash-fault-again",
            r"CPU 0 was at .* <(fault_again\+0x\w+> .*, which raises #UD again and again: its handler comes back to it.*"
            r"|comes_back>.*)",
        ),
        (
            "crash-irq-no-eoi",
            r"CPU 0 slept in the hlt before 0x\w+ <irq_no_eoi\+0x\w+> guests/\S+; "
            r"IRQ 0 is in service and was never acknowledged \(no EOI\)",
        ),
        ("echo", r"CPU 0 slept in the hlt before 0x\w+ <main\+0x\w+> guests/\S+"),
    ],
)
def test_of_a_run_without_an_end_the_place_is_told(guest: Guest, name: str, words: str) -> None:
    with Machine(guest(name)) as machine:
        outcome = machine.run(3)
    assert outcome.ending is Ending.TIMED_OUT
    assert re.fullmatch(rf"the time limit of 3 s is over; {words}", outcome.reason), outcome.reason
    assert outcome.report is None


def test_a_cpu_that_was_never_started_has_no_place() -> None:
    with flat(hexcode("eb fe"), cpus=2) as machine:
        outcome = machine.run(0.1)
    assert outcome.reason == "the time limit of 0.1 s is over; CPU 0 was at 0x100000 (jmp 0x100000); interrupts off"
