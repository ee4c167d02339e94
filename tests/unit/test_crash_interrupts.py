"""What the interrupt controllers tell of a guest's end, and what a `ret` leaves of an interrupt's frame."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from x86_machine import CODE, STACK, Ram, gate64, long_cpu, protected_cpu

from pykvm.crash.cause import first_event
from pykvm.crash.findings import Place
from pykvm.crash.handler import find_interrupted
from pykvm.crash.interrupts import Interrupts
from pykvm.crash.wrong_return import explain_taken, explain_unseen, taken_by_ret
from pykvm.x86.cpu import Cpu
from pykvm.x86.registers import RFLAGS_IF

REMAPPED = Interrupts(pic_bases=(0x20, 0x28), masked=tuple(range(1, 16)))
AS_FIRMWARE = Interrupts(in_service=(8,), pic_bases=(8, 0x70))


def test_irqs_are_named() -> None:
    assert REMAPPED.came(0x20) == "IRQ 0 came as interrupt 0x20"
    assert REMAPPED.came(0x2C) == "IRQ 12 came as interrupt 0x2c"
    assert REMAPPED.came(0x30) == "interrupt 0x30 came"
    assert AS_FIRMWARE.came(9) == "IRQ 1 came as interrupt 9: the PIC has not been remapped, so it looks like vector 9"
    assert Interrupts(routed=((0x31, 4),)).came(0x31) == "IRQ 4 came as interrupt 0x31"


@pytest.mark.parametrize(
    ("irqs", "enabled", "words"),
    [
        (Interrupts(), True, []),
        (Interrupts(), False, ["interrupts off"]),
        (AS_FIRMWARE, True, ["IRQ 0 is in service and was never acknowledged (no EOI)"]),
        (AS_FIRMWARE, False, ["interrupts off", "IRQ 0 is in service"]),
        (REMAPPED._replace(waiting=(0,)), False, ["interrupts off", "IRQ 0 waits"]),
        (REMAPPED._replace(waiting=(1, 4)), True, ["IRQ 1, 4 waits, but is masked in the PIC"]),
        (REMAPPED._replace(masked=tuple(range(16))), True, ["the PIC masks every IRQ"]),
        (
            Interrupts(pic_bases=(0x20, 0x28), waiting=(11,), level=(11,)),
            True,
            ["IRQ 11 comes again and again: its line is still high"],
        ),
    ],
)
def test_what_keeps_a_cpu_from_being_interrupted(irqs: Interrupts, enabled: bool, words: list[str]) -> None:
    assert irqs.state(enabled=enabled) == words


def test_while_interrupts_are_off_none_has_just_come() -> None:
    cpu, _ = long_cpu(b"\xeb\xfe")
    events = AS_FIRMWARE.events()
    assert first_event(cpu, events) is None
    cpu = replace(cpu, registers=replace(cpu.registers, rflags=2 | RFLAGS_IF))
    assert first_event(cpu, events) == events[0]
    cpu, _ = long_cpu(b"\xfb\x90")  # sti: seen there by a debugger that steps over both
    assert first_event(cpu, events) == events[0]


# An IRQ at the vector of an exception: no error code is pushed


def halted(ram: Ram, cpu: Cpu) -> Cpu:
    ram.write(0xA000, bytes.fromhex("50 58 fa f4"))  # push rax; pop rax; cli; hlt
    gate64(ram, 8, 0xA000)
    ram.write(STACK - 0x108, struct.pack("<5Q", CODE, 8, 2 | RFLAGS_IF, STACK - 0xE0, 0x10))
    return replace(cpu, registers=replace(cpu.registers, rip=0xA004, rsp=STACK - 0x108))


def test_a_halt_in_the_handler_of_an_irq_that_looks_like_an_exception() -> None:
    cpu, ram = long_cpu(b"\xeb\xfe")
    cpu = halted(ram, cpu)
    assert find_interrupted(cpu, Place) is None
    for irqs in (AS_FIRMWARE, AS_FIRMWARE._replace(in_service=())):
        found = find_interrupted(cpu, Place, irqs)
        assert found is not None
        assert (found.name, found.vector, found.error_code) == ("IRQ 0", 8, None)
        assert found.came == "IRQ 0 came as interrupt 8: the PIC has not been remapped, so it looks like #DF"
    assert find_interrupted(cpu, Place, REMAPPED) is None


# `ret` for `iret`


def strayed(number: int, **registers: int) -> Cpu:
    """After a `ret` that took word `number` of CS, RFLAGS, RSP, SS for its return address."""
    cpu, ram = long_cpu()
    words = (8, 0x246, STACK - 0xE0, 0x10)
    frame = STACK - 0x100
    ram.write(frame, struct.pack("<4Q", *words))
    more = {"rip": words[number], "rsp": frame + 8 * (number + 1)} | registers
    return replace(cpu, registers=replace(cpu.registers, **more))


@pytest.mark.parametrize(("number", "what"), list(enumerate(("CS", "RFLAGS", "RSP"))))
def test_what_ret_took(number: int, what: str) -> None:
    taken = taken_by_ret(strayed(number))
    assert taken is not None
    assert (taken.what, taken.error_code) == (what, False)


def test_a_return_address_that_is_no_part_of_a_frame() -> None:
    cpu = strayed(0)
    assert taken_by_ret(replace(cpu, registers=replace(cpu.registers, rip=CODE))) is None
    assert taken_by_ret(replace(cpu, registers=replace(cpu.registers, rsp=STACK - 0x80))) is None
    other, ram = long_cpu()  # the stack pointer in it is another one's
    ram.write(STACK - 0x100, struct.pack("<4Q", 8, 0x246, STACK - 0x200, 0x10))
    assert taken_by_ret(replace(other, registers=replace(other.registers, rip=8, rsp=STACK - 0xF8))) is None


def test_an_error_code_that_ret_took() -> None:
    cpu, ram = long_cpu()
    ram.write(STACK - 0x110, struct.pack("<6Q", 2, CODE, 8, 0x246, STACK - 0xE0, 0x10))
    cpu = replace(cpu, registers=replace(cpu.registers, rip=2, rsp=STACK - 0x108))
    taken = taken_by_ret(cpu)
    assert taken is not None
    assert explain_taken(cpu, taken, REMAPPED) == (
        "`ret` took the error code 0x2 that an exception had pushed: the handler of an exception must remove its error "
        "code and end in `iretq`"
    )


def test_in_protected_mode() -> None:
    cpu, ram = protected_cpu()
    ram.write(STACK - 0x100, struct.pack("<2I", 8, 0x246))
    cpu = replace(cpu, registers=replace(cpu.registers, rip=0x12, rsp=STACK - 0xFC))
    taken = taken_by_ret(cpu)
    assert taken is not None
    assert explain_taken(cpu, taken, REMAPPED._replace(masked=())) == (
        "`ret` took what an interrupt had pushed: the handler of the interrupt or exception must end in `iret` "
        "(CS was taken for a return address)"
    )


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (
            "50 58 c3",
            "Probably `ret` took what an interrupt had pushed: the handler of IRQ 0 must end in `iretq` (that at",
        ),
        ("50 58 48 cf", "Probably IRQ 0 came as interrupt 0x20, and its handler at 0xa000 led to the fault"),
    ],
)
def test_a_handler_that_no_step_ends_in(handler: str, words: str) -> None:
    cpu, ram = long_cpu(b"\xeb\xfe", rflags=2 | RFLAGS_IF)
    cpu = replace(cpu, system=replace(cpu.system, idt=replace(cpu.system.idt, limit=0xFFF)))
    ram.write(0xA000, bytes.fromhex(handler))
    gate64(ram, 0x20, 0xA000)
    assert explain_unseen(cpu, REMAPPED).startswith(words)
    assert explain_unseen(cpu, REMAPPED._replace(masked=())) == ""
    assert explain_unseen(replace(cpu, registers=replace(cpu.registers, rflags=2)), REMAPPED) == ""
