"""A debugger's control of a machine: stops, steps, breakpoints in debug registers and as INT3, crashes looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from features import FEATURES
from helpers import BRIEF, HALT, LIMIT, SPIN, STATE_LOST, flat, hexcode

from pykvm import Ending, GuestMemoryError, Machine, PykvmError
from pykvm.debug.breakpoints import BreakpointError, Watch
from pykvm.debug.contents import DebugError
from pykvm.debug.control import Control, Stop, Why
from pykvm.debug.stepper import StepRange
from pykvm.kvm.quirks import int3_works
from pykvm.x86.registers import RFLAGS_IF, Registers

Guest = Callable[[str], Path]
START = 0x100000


def test_int3_works_where_the_probe_says_so() -> None:
    if not FEATURES["sw-breakpoints"]():
        assert int3_works(True)
        assert int3_works(False)
    elif not FEATURES["pvm"]():
        assert int3_works(True)
        assert not int3_works(False)  # emulated as the guest's own
    else:
        assert not int3_works(True)


def test_a_breakpoint_that_would_be_missed_is_refused() -> None:
    with debugged(NOPS, 16) as (_, control):
        control.breakpoints.software.update(range(0x7C00, 0x7C04))
        control.check_breakpoints()
        control.breakpoints.software.add(0x7C04)
        if int3_works(False):
            control.check_breakpoints()
        else:
            with pytest.raises(DebugError, match="0x7c04"):
                control.check_breakpoints()


@contextmanager
def debugged(code: bytes, mode: int = 64, **options: Any) -> Iterator[tuple[Machine, Control]]:
    with flat(code, mode, **options) as machine:
        control = Control(machine)
        machine.start(LIMIT)
        yield machine, control


def why(stop: Stop | None) -> Why | None:
    return None if stop is None else stop.why


# Steps


def test_it_starts_stopped_before_the_first_instruction() -> None:
    with debugged(HALT) as (machine, control):
        assert why(control.stop) is Why.INTERRUPTED
        assert control.pc(0) == START
        assert machine.outcome is None
        control.resume()
        assert why(control.wait(LIMIT)) is Why.HALTED


STEPS = """
    90                      ; nop
    b0 41                   ; mov al, 'A'
    e6 e9                   ; out 0xe9, al: leaves the guest
    90                      ; nop
    e4 e9                   ; in al, 0xe9: leaves the guest
    90                      ; nop
    bb 00 00 00 d0          ; mov ebx, 0xd0000000
    88 03                   ; mov [rbx], al: MMIO that nobody answers
    8a 03                   ; mov al, [rbx]
    90                      ; nop
    50                      ; push rax
    90                      ; nop
"""


def test_each_step_is_one_instruction() -> None:
    lengths = [len(hexcode(line)) for line in STEPS.strip().splitlines()]
    with debugged(hexcode(STEPS) + SPIN) as (machine, control):
        at = START
        for length in lengths:
            assert control.pc(0) == at
            assert why(control.step(0)) is Why.STEPPED
            at += length
        assert control.pc(0) == at
        assert machine.pc.debug_console.output == b"A"
        assert control.registers(0).rbx == 0xD0000000


@pytest.mark.parametrize(("mode", "start"), [(16, 0x7C00), (32, START), (64, START)])
def test_steps_follow_jumps_in_every_mode(mode: int, start: int) -> None:
    with debugged(hexcode("eb 02\n 90\n 90\n eb fa"), mode) as (_, control):  # jump over two nops, and back
        for at in (4, 0, 4):
            control.step(0)
            assert control.pc(0) == start + at


def test_the_program_counter_is_linear() -> None:
    # jmp far 07c0:0005; nop; nop
    with debugged(hexcode("ea 05 00 c0 07\n 90\n 90") + SPIN, 16) as (_, control):
        control.step(0)
        assert (control.registers(0).rip, control.pc(0)) == (5, 0x7C05)
        control.breakpoints.software.add(0x7C06)
        control.step(0)
        assert control.pc(0) == 0x7C06


def test_a_range_step_leaves_the_range() -> None:
    # mov ecx, 5; then 3 bytes of loop; nop
    with debugged(hexcode("b9 05 00 00 00\n ff c9\n 75 fc\n 90") + SPIN) as (_, control):
        control.resume({0: StepRange(START, START + 9)})
        assert why(control.wait(LIMIT)) is Why.STEPPED
        assert control.pc(0) == START + 9
        assert control.registers(0).rcx == 0


def test_a_range_step_ends_at_a_breakpoint() -> None:
    with debugged(hexcode("b9 05 00 00 00\n ff c9\n 75 fc\n 90") + SPIN) as (_, control):
        control.breakpoints.software.add(START + 7)
        control.resume({0: StepRange(START, START + 9)})
        assert control.wait(LIMIT) == Stop(Why.BREAKPOINT, 0, START + 7)
        assert control.registers(0).rcx == 4


TIMER = """
    b0 11 e6 20 b0 08 e6 21 b0 04 e6 21 b0 01 e6 21 b0 fe e6 21     ; PIC: vectors from 8 on, IRQ 0 alone
    b0 34 e6 43 b0 a9 e6 40 b0 04 e6 40                             ; PIT: every 1193 ticks, a millisecond
    31 c0 8e d8 c7 06 20 00 37 7c c7 06 22 00 00 00                 ; vector 8: 0000:7c37
    fb                                                              ; sti
    43                                                              ; 7c31: inc bx
    eb fd                                                           ; jmp 7c31
    90 90 90
    ff 06 00 05 b0 20 e6 20 cf                                      ; 7c37: inc word [0x500]; end of interrupt; iret
"""


COUNT = 0x500
LOOP = (0x7C31, 0x7C32)


def test_steps_take_no_interrupt() -> None:
    with debugged(hexcode(TIMER), 16) as (machine, control):
        control.resume()
        with pytest.raises(TimeoutError):
            control.wait(BRIEF)
        control.interrupt()
        before = machine.memory.read_int(COUNT, 2)
        assert before  # they come
        registers = control.registers(0)
        registers.rip, registers.rflags = LOOP[0], registers.rflags | RFLAGS_IF  # it may have been in the handler
        control.set_registers(0, registers)
        before = machine.memory.read_int(COUNT, 2)
        for _ in range(150):
            control.step(0)
            assert control.pc(0) in LOOP
        assert machine.memory.read_int(COUNT, 2) == before


def test_steps_take_interrupts_if_they_may() -> None:
    with debugged(hexcode(TIMER), 16) as (machine, control):
        control.block_interrupts = False
        # The CPU clears TF when it takes an interrupt: whether the handler is stepped or passed is up to KVM.
        while not machine.memory.read_int(COUNT, 2):
            control.step(0)


def test_one_cpu_is_stepped_while_the_other_stands(guest: Guest) -> None:
    with Machine(guest("smp"), cpus=2) as machine:
        control = Control(machine)
        machine.start(LIMIT)
        before = control.registers(1)
        for _ in range(20):
            control.step(0)
        assert control.registers(1) == before
        control.detach()
        assert machine.wait(LIMIT).code == 0
        assert machine.serial.text.endswith("total: 14\n")


# Breakpoints and watchpoints

NOPS = b"\x90" * 16 + hexcode("eb ee")  # and back to the start


@pytest.mark.needs("hw-breakpoints")
@pytest.mark.parametrize("kind", ["software", "hardware"])
@pytest.mark.parametrize(("mode", "start"), [(16, 0x7C00), (32, START), (64, START)])
def test_a_breakpoint_stops_before_its_instruction(kind: str, mode: int, start: int) -> None:
    with debugged(NOPS, mode) as (_, control):
        getattr(control.breakpoints, kind).add(start + 5)
        for _ in range(3):
            control.resume()
            assert control.wait(LIMIT) == Stop(Why.BREAKPOINT, 0, start + 5)
            assert control.pc(0) == start + 5
            control.step(0)


@pytest.mark.parametrize("mode", [32, 64])
def test_int3s_where_debug_registers_are_too_few(int3_seen: None, mode: int) -> None:
    with debugged(NOPS, mode) as (machine, control):
        control.breakpoints.software.update(range(START + 1, START + 13))
        for at in range(1, 13):
            control.resume()
            assert control.wait(LIMIT) == Stop(Why.BREAKPOINT, 0, START + at)
            assert control.read(0, START, len(NOPS)) == NOPS
            control.step(0)
        control.breakpoints.clear()
        control.detach()
        machine.stop()
        assert machine.memory.read(START, len(NOPS)) == NOPS


def test_no_int3_is_left_when_the_run_ends(guest: Guest) -> None:
    with debugged(b"\x90" * 4 + hexcode("e6 f4") + b"\x90" * 8) as (machine, control):
        before = machine.memory.read(START, 14)
        control.breakpoints.software.update(range(START + 6, START + 14))  # behind the end
        control.resume()
        assert control.wait(LIMIT) is None
        assert machine.wait(LIMIT).ending is Ending.EXITED
        assert machine.memory.read(START, 14) == before


@pytest.mark.needs("hw-breakpoints")
def test_a_breakpoint_holds_where_a_loader_writes_later() -> None:
    # Copies the last three bytes (inc eax; inc eax... jmp) to 0x2000 and jumps there.
    code = hexcode("""
        be 14 00 10 00      ; mov esi, START + 20
        bf 00 20 00 00      ; mov edi, 0x2000
        b9 03 00 00 00      ; mov ecx, 3
        f3 a4               ; rep movsb
        57                  ; push rdi
        ff e2               ; jmp rdx
        90 eb fd            ; nop; jmp to it
    """)
    with debugged(code) as (_, control):
        registers = control.registers(0)
        registers.rdx = 0x2000
        control.set_registers(0, registers)
        control.breakpoints.software.add(0x2000)
        control.resume()
        assert control.wait(LIMIT) == Stop(Why.BREAKPOINT, 0, 0x2000)
        assert control.read(0, 0x2000, 3) == code[-3:]


def test_what_the_guest_writes_over_an_int3_stays() -> None:
    # mov byte [START + 0x20], 0x55; jmp to itself
    with debugged(hexcode("c6 04 25 20 00 10 00 55") + SPIN + bytes(64)) as (_, control):
        control.breakpoints.software.update(range(START + 0x10, START + 0x30))
        control.resume()
        with pytest.raises(TimeoutError):
            control.wait(BRIEF)
        control.interrupt()
        assert control.read(0, START + 0x1E, 4) == b"\0\0\x55\0"


@pytest.mark.needs("hw-breakpoints")
def test_breakpoints_outside_ram_have_the_debug_registers_to_themselves(int3_seen: None) -> None:
    with debugged(NOPS) as (_, control):
        control.breakpoints.software.update(range(START + 1, START + 9))
        control.breakpoints.software.update(0xFFFF800000000000 + at for at in range(4))
        control.check_breakpoints()
        control.breakpoints.software.add(0xFFFF900000000000)
        with pytest.raises(DebugError, match="0xffff900000000000"):
            control.check_breakpoints()


def test_hardware_breakpoints_are_four() -> None:
    with debugged(NOPS) as (_, control):
        control.breakpoints.hardware.update(range(START, START + 5))
        with pytest.raises(BreakpointError, match="5 debug registers"):
            control.resume()
        assert why(control.stop) is Why.INTERRUPTED
        control.breakpoints.hardware.remove(START)
        control.check_breakpoints()


STORES = hexcode("""
    c6 04 25 00 20 00 00 01     ; mov byte [0x2000], 1
    c6 04 25 08 20 00 00 02     ; mov byte [0x2008], 2
    c6 04 25 00 20 00 00 03     ; mov byte [0x2000], 3
""")


def test_a_watchpoint_stops_behind_the_store() -> None:
    with debugged(STORES + SPIN) as (machine, control):
        control.breakpoints.watches.add(Watch(0x2000, 4))
        for value, at in ((1, 8), (3, 24)):
            control.resume()
            stop = control.wait(LIMIT)
            assert stop == Stop(Why.WATCHPOINT, 0, 0x2000)
            assert control.pc(0) == START + at
            assert machine.memory.read_int(0x2000, 4) == value


def test_the_guests_own_int3_stays_its_own(guest: Guest) -> None:
    """user.elf makes its system calls by INT3 from ring 3."""
    with Machine(guest("user")) as machine:
        control = Control(machine)
        machine.start(LIMIT)
        symbols = machine.symbols
        assert symbols is not None
        start = symbols.address("stack_top")
        control.breakpoints.software.update(range(start - 16, start))  # never executed, and too many for registers
        control.resume()
        assert control.wait(LIMIT) is None
        assert machine.wait(LIMIT).code == 0
        assert machine.serial.text.endswith("user: 8 faults caught\n")


# Crashes and ends


def test_a_crash_is_looked_at_and_then_ends_the_run() -> None:
    with debugged(hexcode("90\n 0f 0b")) as (machine, control):  # ud2, with no IDT
        control.resume()
        stop = control.wait(LIMIT)
        assert why(stop) is Why.CRASHED
        assert stop is not None
        assert stop.text == "triple fault"
        if not STATE_LOST:
            assert control.pc(0) == START + 1
        assert machine.outcome is None
        control.resume()
        assert control.wait(LIMIT) is None
        assert machine.wait(LIMIT).ending is Ending.CRASHED


@pytest.mark.skipif(STATE_LOST, reason="AMD's KVM resets a CPU at a triple fault")
def test_a_crash_that_is_mended_goes_on() -> None:
    with debugged(hexcode("90\n 0f 0b\n b0 07\n e6 f4")) as (machine, control):
        control.resume()
        assert why(control.wait(LIMIT)) is Why.CRASHED
        registers = control.registers(0)
        registers.rip += 2
        control.set_registers(0, registers)
        control.resume()
        assert machine.wait(LIMIT).value == 7


def test_a_halted_machine_is_looked_at_and_then_ends() -> None:
    with debugged(HALT) as (machine, control):
        control.resume()
        assert why(control.wait(LIMIT)) is Why.HALTED
        assert control.pc(0) == START + len(HALT)
        control.resume()
        assert control.wait(LIMIT) is None
        assert machine.wait(LIMIT).ending is Ending.HALTED


def test_a_halted_cpu_that_is_moved_wakes_up() -> None:
    with debugged(HALT + hexcode("90\n b0 03\n e6 f4")) as (machine, control):
        control.resume()
        assert why(control.wait(LIMIT)) is Why.HALTED
        registers = control.registers(0)
        registers.rip = START + 3
        control.set_registers(0, registers)
        control.resume()
        assert machine.wait(LIMIT).value == 3


def test_interrupting_and_letting_go() -> None:
    with debugged(SPIN) as (machine, control):
        control.resume()
        assert why(control.interrupt()) is Why.INTERRUPTED
        assert control.pc(0) == START
        control.write(0, START, HALT)
        control.detach()
        assert machine.wait(LIMIT).ending is Ending.HALTED
        assert control.interrupt() is None
        with pytest.raises(DebugError, match="ended"):
            control.resume()


def test_the_time_limit_does_not_count_while_stopped() -> None:
    with flat(SPIN) as machine:
        control = Control(machine)
        machine.start(BRIEF)
        with pytest.raises(TimeoutError):
            machine.wait(2 * BRIEF)
        control.resume()
        assert machine.wait(LIMIT).ending is Ending.TIMED_OUT


def test_one_debugger_at_a_time() -> None:
    with flat(SPIN) as machine:
        control = Control(machine)
        with pytest.raises(PykvmError, match="attached"):
            Control(machine)
        machine.start(LIMIT)
        control.close()
        control = Control(machine)
        assert why(control.stop) is Why.INTERRUPTED
        assert control.pc(0) == START


def test_a_machine_is_closed_under_its_debugger() -> None:
    with flat(SPIN) as machine:
        control = Control(machine)
        machine.start(LIMIT)
    assert control.stop is None


# Memory


def test_memory_by_linear_and_by_physical_address() -> None:
    with debugged(SPIN) as (machine, control):
        control.write(0, 0x1FFE, b"abcd")
        assert control.read(0, 0x1FFC, 8) == b"\0\0abcd\0\0"
        assert control.read_physical(0x1FFE, 4) == b"abcd"
        control.write_physical(0x3000, b"xy")
        assert control.read(0, 0x3000, 2) == b"xy"
        top = machine.memory.size
        assert control.read(0, top - 2, 8) == b"\0\0"
        assert control.read_physical(top - 2, 8) == b"\0\0"
        assert control.read_physical(top, 8) == b""
        assert control.read(0, 1 << 47, 8) == b""
        for address in (top - 2, 0xFEE00000):
            with pytest.raises(GuestMemoryError):
                control.write(0, address, b"1234")
        with pytest.raises(DebugError, match="not mapped"):
            control.write(0, 1 << 40, b"1")
        with pytest.raises(GuestMemoryError):
            control.write_physical(top - 1, b"12")
        assert control.read(0, top - 2, 2) == b"\0\0"


def test_a_running_machine_is_not_looked_at() -> None:
    with debugged(SPIN) as (_, control):
        control.resume()
        looks: list[Callable[[], object]] = [
            lambda: control.read(0, 0, 1),
            lambda: control.read_physical(0, 1),
            lambda: control.registers(0),
            lambda: control.system_registers(0),
            lambda: control.xsave(0),
            lambda: control.msr(0, 0x10),
            lambda: control.pc(0),
            lambda: control.walk(0, 0),
            lambda: control.set_registers(0, Registers()),
        ]
        for look in looks:
            with pytest.raises(DebugError, match="interrupt it first"):
                look()
