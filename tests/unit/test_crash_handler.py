"""Halts in exception handlers: what is evidence for one, and what is not."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

import pytest
from x86_machine import CODE, STACK, Ram, gate32, gate64, long_cpu, protected_cpu

from pykvm.crash.findings import Interrupted, Place
from pykvm.crash.frames import frames
from pykvm.crash.handler import find_interrupted
from pykvm.x86.cpu import Cpu

HANDLER = 0xA000
FAULT = CODE + 0x40
FRAME = STACK - 0x108
"""Where the saved RIP is. The rest of the frame is above it, and ends at a multiple of 16."""


def look(cpu: Cpu) -> Interrupted | None:
    return find_interrupted(cpu, Place)


def long_frame(ram: Ram, address: int = FRAME, rip: int = FAULT, rflags: int = 0x10002) -> None:
    """RIP, CS, RFLAGS, RSP, SS."""
    ram.write(address, struct.pack("<5Q", rip, 8, rflags, STACK - 0x20, 0x10))


def halted(handler: str, stack: int, at: int, make=long_cpu, **registers: int) -> tuple[Cpu, Ram]:
    """A CPU that stands `at` bytes into a handler, with the stack pointer so far below the frame."""
    cpu, ram = make(b"\x90" * 0x40 + b"\x0f\x0b")
    code = bytes.fromhex(handler)
    ram.write(HANDLER, code)
    return replace(cpu, registers=replace(cpu.registers, rip=HANDLER + at, rsp=stack, **registers)), ram


# push rax; push rcx; cli; hlt
PUSHES = "50 51 fa f4 eb fd"


@pytest.fixture
def in_handler() -> tuple[Cpu, Ram]:
    """In the handler of #UD, which has pushed two registers, behind its HLT."""
    cpu, ram = halted(PUSHES, FRAME - 16, 4)
    long_frame(ram)
    gate64(ram, 6, HANDLER)
    return cpu, ram


def test_a_handler_that_halts(in_handler: tuple[Cpu, Ram]) -> None:
    found = look(in_handler[0])
    assert found is not None
    assert (found.name, found.vector, found.error_code) == ("#UD", 6, None)
    assert (found.place.address, found.instruction) == (FAULT, "ud2")
    assert (found.frame, found.stack) == (FRAME, STACK - 0x20)


@pytest.mark.parametrize("offset", [-16, -8, 8])
def test_the_stack_pointer_has_to_fit(in_handler: tuple[Cpu, Ram], offset: int) -> None:
    cpu, _ = in_handler
    assert look(replace(cpu, registers=replace(cpu.registers, rsp=FRAME - 16 + offset))) is None


def test_code_that_no_gate_leads_to(in_handler: tuple[Cpu, Ram]) -> None:
    cpu, ram = in_handler
    gate64(ram, 6, HANDLER, present=0)
    assert look(cpu) is None
    gate64(ram, 6, HANDLER + 0x100)
    assert look(cpu) is None


def test_gates_of_interrupts_do_not_count() -> None:
    cpu, ram = halted(PUSHES, FRAME - 16, 4)
    long_frame(ram)
    cpu = replace(cpu, system=replace(cpu.system, idt=replace(cpu.system.idt, limit=0xFFF)))
    gate64(ram, 0x20, HANDLER)
    assert next(frames(cpu)).rip == FAULT
    assert look(cpu) is None


@pytest.mark.parametrize(
    "spoil",
    [
        {"rip": 1 << 40},  # not mapped
        {"rip": 1 << 63},
        {"rflags": 0},  # bit 1 is always set
        {"rflags": 0x8002},  # bit 15 never is
        {"rflags": 1 << 40 | 2},
    ],
)
def test_what_is_no_frame(in_handler: tuple[Cpu, Ram], spoil: dict[str, int]) -> None:
    cpu, ram = in_handler
    long_frame(ram, **spoil)
    assert [frame for frame in frames(cpu) if frame.fetch is None] == []
    assert look(cpu) is None


@pytest.mark.parametrize(("rip", "vector", "cr2"), [(1 << 40, 14, 1 << 40), (1 << 63, 13, 0)])
def test_a_handler_of_a_fetch_that_failed(in_handler: tuple[Cpu, Ram], rip: int, vector: int, cr2: int) -> None:
    cpu, ram = in_handler
    long_frame(ram, rip=rip)
    gate64(ram, vector, HANDLER)
    cpu = replace(cpu, registers=replace(cpu.registers, rsp=cpu.registers.rsp - 8))  # below it is the error code
    cpu = replace(cpu, system=replace(cpu.system, cr2=cr2))
    found = look(cpu)
    assert found is not None
    assert (found.vector, found.place.address) == (vector, rip)
    assert found.reason.startswith(f"the CPU is to execute at {rip:#x}, which is not ")
    assert look(replace(cpu, system=replace(cpu.system, cr2=8))) is None or vector != 14


@pytest.mark.parametrize(
    ("offset", "value"), [(8, 0x10), (8, 0x48), (8, 0), (8, 1 << 20 | 8), (32, 0x08), (32, 1 << 20)]
)
def test_selectors_that_are_none(in_handler: tuple[Cpu, Ram], offset: int, value: int) -> None:
    cpu, ram = in_handler
    ram.write_int(FRAME + offset, 8, value)
    assert list(frames(cpu)) == []


def test_a_handler_in_c() -> None:
    # As gcc has it: push rbp; mov rbp, rsp; and rsp, -16; sub rsp, 0x40; call 0xb000
    code = bytes.fromhex("55 48 89 e5 48 83 e4 f0 48 83 ec 40 e8") + struct.pack("<i", 0xB000 - HANDLER - 17)
    inner = FRAME - 8  # the page fault's error code is below the frame
    stack = ((inner - 8) & ~15) - 0x40
    cpu, ram = halted(code.hex(), stack - 8, 0)
    long_frame(ram)
    gate64(ram, 14, HANDLER)
    ram.write_int(inner, 8, 2)
    ram.write_int(stack - 8, 8, HANDLER + 17)
    ram.write(0xB000, b"\xfa\xf4\xeb\xfd")
    cpu = replace(cpu, registers=replace(cpu.registers, rip=0xB002))
    found = look(cpu)
    assert found is not None
    assert (found.name, found.error_code) == ("#PF", 2)
    assert found.error_words == "ring 0 wrote; the page is not present"
    ram.write_int(stack - 8, 8, HANDLER + 16)  # another return address: an old frame
    assert look(cpu) is None


def test_stubs_that_push_their_vector() -> None:
    # Two stubs, push 13 and push 14, that go on in common code: what is on the stack tells which one it was.
    code = bytes.fromhex("6a 0d eb 02  6a 0e  fa f4 eb fd")
    cpu, ram = halted(code.hex(), FRAME - 16, 8)
    long_frame(ram)
    gate64(ram, 13, HANDLER)
    gate64(ram, 14, HANDLER + 4)
    ram.write(FRAME - 16, struct.pack("<QQ", 14, 0x11))
    found = look(cpu)
    assert found is not None
    assert (found.name, found.error_code) == ("#PF", 0x11)
    ram.write_int(FRAME - 16, 8, 13)
    found = look(cpu)
    assert found is not None
    assert found.name == "#GP"
    ram.write_int(FRAME - 16, 8, 12)
    assert look(cpu) is None


def test_one_handler_for_all_is_told_by_the_instruction() -> None:
    cpu, ram = halted("fa f4 eb fd", FRAME, 2)
    long_frame(ram)
    for vector in (0, 1, 3, 4, 5, 6, 7):
        gate64(ram, vector, HANDLER)
    found = look(cpu)
    assert found is not None
    assert found.name == "#UD"
    ram.write(FAULT, b"\x90\x90")
    found = look(cpu)
    assert found is not None
    assert (found.name, found.vector) == ("an exception", None)
    ram.write(FAULT - 1, b"\xcc")
    found = look(cpu)
    assert found is not None
    assert found.name == "#BP"


def test_protected_mode() -> None:
    # push 14; pusha; call 0xb000
    code = bytes.fromhex("6a 0e 60 e8") + struct.pack("<i", 0xB000 - HANDLER - 8)
    stack = FRAME - 4 - 4 - 32 - 4
    cpu, ram = halted(code.hex(), stack, 0, protected_cpu)
    cpu = replace(cpu, registers=replace(cpu.registers, rip=0xB002))
    ram.write(0xB000, b"\xfa\xf4\xeb\xfd")
    ram.write(FRAME - 8, struct.pack("<5I", 14, 0, FAULT, 8, 0x10002))
    ram.write_int(stack, 4, HANDLER + 8)
    gate32(ram, 14, HANDLER)
    found = look(cpu)
    assert found is not None
    assert (found.name, found.error_code, found.frame, found.stack) == ("#PF", 0, FRAME, FRAME + 12)


@pytest.mark.parametrize(
    "code",
    [
        "58 eb fd",  # pop rax, for ever
        "50 eb fd",  # push rax, for ever
        "eb fe",
        "48 83 c4 08 74 fa eb f8",  # add rsp, 8; jz back; jmp back
        "ff e0",  # jmp rax
        "c3",
        "48 cf",
        "48 89 c4",  # mov rsp, rax
        "0f 05",
        "06",
    ],
)
def test_handlers_that_cannot_be_followed_come_to_an_end(code: str) -> None:
    cpu, ram = halted(code, FRAME - 0x80, 0x20)
    long_frame(ram)
    for vector in range(32):
        gate64(ram, vector, HANDLER)
    started = time.monotonic()
    assert look(cpu) is None
    assert time.monotonic() - started < 20
