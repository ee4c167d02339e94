"""Clauses about a CPU that is where no CPU should be, and storms whose frames the stack is full of."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from x86_machine import CODE, STACK, Ram, change, gate64, long_cpu, real_cpu

from pykvm.crash.interrupts import Interrupts
from pykvm.crash.storm import explain_storm, find_storm, nested
from pykvm.crash.stray import is_astray, stray
from pykvm.x86.cpu import Cpu
from pykvm.x86.delivery import deliver
from pykvm.x86.descriptors import short_gates
from pykvm.x86.exceptions import UD, Event


def at(cpu: Cpu, **registers: int) -> Cpu:
    return replace(cpu, registers=replace(cpu.registers, **registers))


def told(cpu: Cpu, *, number: int = 0, image: bytes | None = b"") -> str:
    """With an image that has `image` at every address."""
    loaded = None if image is None else lambda address, size: image[:size]
    return stray(cpu, number, loaded, lambda gpa: gpa < 1 << 20)


def test_a_cpu_among_zeros_has_gone_astray() -> None:
    cpu, ram = long_cpu()
    assert is_astray(at(cpu, rip=CODE + 0x88))
    ram.write(CODE + 0x88, b"\x0f\x0b")
    assert not is_astray(at(cpu, rip=CODE + 0x88))
    assert is_astray(at(cpu, rip=CODE + 0x88), code=False)
    assert told(at(cpu, rip=CODE + 0x88)) == "the memory before it is all zeros: the CPU had gone astray"


def test_code_that_was_copied_begins_behind_zeros() -> None:
    cpu, _ = long_cpu(b"\x0f\x0b")
    assert not is_astray(cpu, code=False)
    assert told(cpu) == ""


def test_a_cpu_on_its_stack() -> None:
    cpu, ram = long_cpu()
    ram.write(STACK - 0x40, b"\x90" * 0x40)
    assert told(at(cpu, rip=STACK - 8, rsp=STACK)).startswith("that is on the stack: the CPU executes it")
    assert told(at(cpu, rip=STACK - 8, rsp=STACK), image=None) == ""  # a boot sector's stack is next to its code


def test_a_stack_in_code_and_one_without_ram() -> None:
    cpu, ram = long_cpu()
    ram.write(CODE, b"\x90" * 64)
    assert told(at(cpu, rsp=CODE), image=b"\x90" * 64) == ""
    words = "the stack pointer is 0x8000, where the image has code: the stack has run over it"
    assert told(at(cpu, rsp=CODE), image=b"\xcc" * 64) == words
    assert told(at(cpu, rsp=0x200000), image=b"\x90") == "the stack pointer is 0x200000, where there is no RAM"
    assert told(at(cpu, rsp=1 << 20), image=b"\x90") == ""  # an empty stack at the end of RAM


def test_real_mode() -> None:
    cpu, _ = real_cpu(b"\x0f\x0b")
    assert told(at(cpu, rip=0x102), image=None).endswith("the CPU had gone astray")
    cpu = change(cpu, cs=replace(cpu.system.cs, selector=0x5000, base=0x50000))
    words = "CPU 1 was started at 0x50000 (SIPI vector 0x50), where there are only zeros"
    assert told(at(cpu, rip=0x100), number=1, image=None) == words


def test_a_syscall_that_leads_nowhere() -> None:
    cpu, ram = long_cpu()
    ram.write(CODE, b"\x0f\x05")
    cpu = at(cpu, rip=1 << 40, rcx=CODE + 2)
    assert told(cpu) == f"the `syscall` at {CODE:#x} leads there: MSR 0xc0000082 (LSTAR) is {1 << 40:#x}"
    assert told(at(cpu, rcx=CODE + 3)) == ""


# Gates


@pytest.mark.parametrize(
    ("offset", "short"), [(0x0008100000101000, True), (0xFFFF800000101000, False), (0x101000, False)]
)
def test_gates_of_8_bytes(offset: int, short: bool) -> None:
    assert bool(short_gates(offset, 8)) is short


def test_the_delivery_says_that_gates_are_too_short() -> None:
    cpu, ram = long_cpu()
    gate64(ram, UD, 0x0008100000101000)
    problem = deliver(cpu, Event(UD)).problem
    assert problem is not None
    assert problem.why.endswith("two gates of 8 bytes, as protected mode has them, were taken for one of 16")


# Storms


def frames(ram: Ram, top: int, count: int, rip: int, rflags: int = 0x10002, words: int = 5) -> int:
    """So many frames from `top` downwards; where the last one is."""
    for _ in range(count):
        top -= 8 * words
        ram.write(top, struct.pack("<5Q", rip, 8, rflags, top + 40, 0x10))
    return top


def test_the_first_of_two_storms_is_told() -> None:
    cpu, ram = long_cpu()
    first = frames(ram, 0x60000, 20, CODE)
    last = frames(ram, first, 20, CODE + 0x40, words=6)
    found = find_storm(at(cpu, rsp=last))
    assert found is not None
    assert found.rip == CODE
    assert "`ud2` raises an exception" in explain_storm(cpu, found, "X")


def test_a_storm_is_found_from_its_beginning() -> None:
    cpu, ram = long_cpu()
    frames(ram, 0x60000, 20, CODE)
    assert find_storm(at(cpu, rsp=0x60000), began=True) is not None
    assert find_storm(at(cpu, rsp=0x60000)) is None


def test_a_storm_where_no_code_is() -> None:
    cpu, ram = long_cpu()
    found = find_storm(at(cpu, rsp=frames(ram, 0x60000, 20, 0x14)))
    assert found is not None
    assert "there is no code, and an exception's handler leads there again" in explain_storm(
        cpu, found, "X", code=False
    )


def test_handlers_that_are_interrupted() -> None:
    cpu, ram = long_cpu()
    last = frames(ram, 0x60000, 1, CODE, 0x202)
    for number in range(20):
        last = frames(ram, last, 1, CODE + 0x20 + number % 3, 0x202, 6)
    assert nested(at(cpu, rsp=0x60000))
    frames(ram, 0x60000, 21, CODE, 0x2)
    assert not nested(at(cpu, rsp=0x60000))


# The local APIC's timer


def test_the_only_interrupt_that_can_have_come() -> None:
    masked = Interrupts(pic_bases=(0x20, 0x28), masked=tuple(range(16)), timer=0x40)
    assert masked.only() == 0x40
    assert masked.came(0x40) == "interrupt 0x40 came (the local APIC's timer)"
    assert masked._replace(masked=tuple(range(1, 16))).only() is None
    assert masked._replace(in_service=(0x20,)).only() == 0x20


def test_what_a_timer_and_a_wrong_vector_do() -> None:
    assert Interrupts(timer=0x40, timer_over=True).state(enabled=True) == [
        "the local APIC's timer was to tick once, and has"
    ]
    assert Interrupts(routed=((0x0E, 4),)).state(enabled=True) == [
        "IRQ 4 has a vector below 0x10 in the IOAPIC, which no local APIC takes"
    ]
