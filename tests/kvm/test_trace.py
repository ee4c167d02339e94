"""Tracing real runs: each exit's kind, place, register and value, what is filtered, and that the guest notices nothing."""

from __future__ import annotations

import random
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import BRIEF, EXIT_AL, HALT, LIMIT, ROOT, SPIN, flat, hexcode

from pykvm import Access, Device, DeviceError, Ending, GeneralProtection, Machine, Range
from pykvm.kvm import VCPU, MpState
from pykvm.kvm.vcpu import Position
from pykvm.trace import AddressRange, Event, Filter, Outlet, Summary, Tracer
from pykvm.trace.instructions import InstructionEvents, InstructionTracer

Guest = Callable[[str], Path]
START = 0x100000


def trace(machine: Machine, filter: Filter | None = None, limit: int | None = None) -> list[Event]:
    """All events of a run to its end."""
    events: list[Event] = []
    tracer = Tracer(machine, [events.append], filter, limit)
    machine.run(LIMIT)
    tracer.finish()
    return events


def test_port_accesses_at_their_instructions() -> None:
    code = hexcode("""
        b0 41           ; mov al, 'A'
        66 ba f8 03     ; mov dx, 0x3f8
        ee              ; out dx, al
        ee              ; out dx, al
        66 ba fd 03     ; mov dx, 0x3fd
        ec              ; in al, dx
        e6 80           ; out 0x80, al
        e4 80           ; in al, 0x80
        e7 f4           ; out 0xf4, eax
    """)
    with flat(code + HALT) as machine:
        events = trace(machine)
    assert [(event.site.address - START, event.site.text, event.what) for event in events] == [
        (6, "out dx, al", "COM1 THR <- 'A'"),
        (7, "out dx, al", "COM1 THR <- 'A'"),
        (12, "in al, dx", "COM1 LSR -> THRE TEMT (0x60)"),
        (13, "out 0x80, al", "port 0x80 POST code <- 0x60, unclaimed"),
        (15, "in al, 0x80", "port 0x80 POST code -> 0xff, unclaimed"),
        (17, "out 0xf4, eax", f"exit port 0xf4 exit <- status {2 * 0xFF + 1} (0xff)"),
    ]
    assert [event.number for event in events] == [1, 2, 3, 4, 5, 6]
    times = [event.time for event in events]
    assert times == sorted(times)
    assert all(event.run > 0 and event.run_cpu >= 0 and event.served > 0 for event in events)


def test_real_mode_code_is_found_by_its_segment() -> None:
    # jmp 0x07c0:5, so that CS:IP is not the linear address; out 0x80, al
    with flat(hexcode("ea 05 00 c0 07  e6 80") + EXIT_AL + HALT, 16) as machine:
        events = trace(machine)
    assert [(event.site.address, event.site.text) for event in events] == [
        (0x7C05, "out 0x80, al"),
        (0x7C07, "out 0xf4, al"),
    ]


class Lamp(Device):
    """Four registers of four bytes in memory, two with names."""

    name = "lamp"
    mmio = (Range(0xD0000000, 16),)
    register_names = {0: "ON", 8: "COLOUR"}  # noqa: RUF012  # as users write it

    def __init__(self) -> None:
        self.values = [0, 0, 0xC0FFEE, 0]

    def read(self, offset: int, size: int) -> int:
        return self.values[offset // 4]

    def write(self, offset: int, size: int, value: int) -> None:
        self.values[offset // 4] = value

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return "on" if register == "ON" and value else ""


def test_memory_mapped_registers_of_a_device_of_ones_own() -> None:
    code = hexcode("""
        bb 00 00 00 d0          ; mov ebx, 0xd0000000
        b8 01 00 00 00          ; mov eax, 1
        89 03                   ; mov [rbx], eax
        8b 43 08                ; mov eax, [rbx + 8]
        c7 43 0c 34 12 00 00    ; mov dword [rbx + 12], 0x1234
        8a 83 00 10 00 00       ; mov al, [rbx + 0x1000]: nobody is there
    """)
    with flat(code + EXIT_AL + HALT) as machine:
        machine.add(Lamp())
        events = trace(machine, Filter(kinds={"mmio"}))
    assert [(event.site.address - START, event.site.text, event.what) for event in events] == [
        (10, "mov dword ptr [rbx], eax", "lamp ON <- on (0x1)"),
        (12, "mov eax, dword ptr [rbx + 8]", "lamp COLOUR -> 0xc0ffee"),
        (15, "mov dword ptr [rbx + 0xc], 0x1234", "lamp +0xc <- 0x1234"),
        (22, "mov al, byte ptr [rbx + 0x1000]", "0xd0001000 -> 0xff, unclaimed"),
    ]


def test_string_io_is_one_event_with_its_data() -> None:
    code = hexcode("""
        66 ba 10 03     ; mov dx, 0x310
        b9 04 00 00 00  ; mov ecx, 4
        bf 00 00 20 00  ; mov edi, 0x200000
        f3 66 6d        ; rep insw
    """)
    with flat(code + EXIT_AL + HALT) as machine:
        values = iter([0x1111, 0x2222, 0x3333, 0x4444])

        @machine.port(0x310, 2)
        def counter(access: Access) -> int:
            return next(values)

        events = trace(machine, Filter(devices=("counter",)))
        moved = machine.memory.read(0x200000, 8)
    assert moved == bytes.fromhex("1111222233334444")
    assert b"".join(event.data for event in events) == moved
    assert sum(event.count for event in events) == 4
    assert all("insw" in event.site.text and event.size == 2 for event in events)


def test_model_specific_registers() -> None:
    code = hexcode("""
        b9 00 10 00 40  ; mov ecx, 0x40001000
        0f 32           ; rdmsr
        0f 30           ; wrmsr
        b9 01 10 00 40  ; mov ecx, 0x40001001
        0f 32           ; rdmsr: #GP, and no handler for it
    """)
    with flat(code + HALT) as machine:

        @machine.msr(0x40001000)
        def scratch(value: int | None) -> int:
            return 0x1_0000_0002

        @machine.msr(0x40001001)
        def refused(value: int | None) -> int:
            raise GeneralProtection

        events = trace(machine, Filter(kinds={"msr"}))
    assert [(event.site.text, event.what) for event in events] == [
        ("rdmsr", "MSR 0x40001000 -> 0x100000002"),
        ("wrmsr", "MSR 0x40001000 <- 0x100000002"),
        ("rdmsr", "MSR 0x40001001 -> #GP"),
    ]


def test_the_exit_that_ends_the_run_is_traced() -> None:
    with flat(hexcode("0f 0b")) as machine:  # ud2 without an IDT
        events = trace(machine)
        assert machine.outcome is not None
        assert machine.outcome.ending == Ending.CRASHED
    assert [event.what for event in events] == ["shutdown: triple fault"]


def test_an_exit_that_its_device_fails_to_serve_is_traced() -> None:
    with flat(hexcode("e6 80") + HALT) as machine:

        @machine.port(0x80)
        def broken(access: Access) -> int:
            raise RuntimeError("a bug")

        events: list[Event] = []
        tracer = Tracer(machine, [events.append])
        with pytest.raises(DeviceError, match="broken raised RuntimeError"):
            machine.run(LIMIT)
        tracer.finish()
    assert [(event.device, event.served) for event in events] == [("broken", 0)]


def test_every_cpu_is_traced() -> None:
    with flat(hexcode("e6 80" * 20) + HALT, cpus=2) as machine:
        first, second = machine.vcpus
        system = replace(first.get_system_registers(), apic_base=second.get_system_registers().apic_base)
        second.set_system_registers(system)
        second.set_registers(first.get_registers())
        second.set_mp_state(MpState.RUNNABLE)
        events = trace(machine)
        assert machine.outcome is not None
        assert machine.outcome.exits == 40
    assert Counter(event.cpu for event in events) == {0: 20, 1: 20}
    assert [event.number for event in events] == list(range(1, 41))


def test_symbols_and_a_guest_that_runs_as_without_a_trace(guest: Guest) -> None:
    with Machine(guest("hello64")) as plain:
        expected = plain.run(LIMIT)
        text = plain.serial.text
    with Machine(guest("hello64")) as machine:
        events = trace(machine)
        assert machine.outcome is not None
        assert (machine.outcome.ending, machine.outcome.exits) == (expected.ending, expected.exits)
        assert machine.serial.text == text
    sent = [chr(event.value or 0) for event in events if event.name == "COM1 THR"]
    assert "".join(sent) == text
    assert all(event.site.symbol.startswith("serial_") for event in events if event.device == "COM1")


def test_calls_to_the_bios_are_told_in_words(guest: Guest) -> None:
    with Machine(guest("bios")) as machine:
        events = trace(machine, Filter(devices=("bios",)), limit=100)
    calls = [event.register for event in events]
    assert calls[0] == "POST"
    assert "INT 10h AH=0E print b" in calls
    assert any(call.startswith("INT 13h AH=02 read ") for call in calls)


def test_source_lines_go_along_if_they_are_asked_for(guest: Guest) -> None:
    with Machine(guest("hello64")) as machine:
        events: list[Event] = []
        tracer = Tracer(machine, [events.append], Filter(devices=("acpi",)), lines=True)
        machine.run(LIMIT)
        tracer.finish()
    (event,) = events
    header = ROOT / "guests/lib/x86.h"
    (line,) = [at for at, text in enumerate(header.read_text().splitlines(), 1) if '"outw' in text]
    assert event.site.source == f"guests/lib/x86.h:{line}"  # inlined into poweroff()
    assert event.site.place == f"{event.site.symbol} guests/lib/x86.h:{line}"


# Filters, limits, sinks

TALK = hexcode("e6 80  e6 e9") * 3 + EXIT_AL + HALT


@pytest.mark.parametrize(
    ("filter", "count"),
    [
        (Filter(), 7),
        (Filter(devices=("debug",)), 3),
        (Filter(addresses=[AddressRange(0x80, 0xE0)]), 3),
        (Filter(kinds={"mmio"}), 0),
        (Filter(cpus={1}), 0),
    ],
)
def test_a_filter(filter: Filter, count: int) -> None:
    with flat(TALK) as machine:
        assert len(trace(machine, filter)) == count


def test_a_limit_ends_the_run() -> None:
    with flat(hexcode("e6 80 eb fc")) as machine:  # out 0x80, al, for ever
        assert len(trace(machine, limit=10)) == 10
        assert machine.outcome is not None
        assert machine.outcome.ending == Ending.STOPPED


def test_a_sink_that_fails_ends_the_run() -> None:
    def full(event: Event) -> None:
        raise OSError(28, "No space left on device")

    with flat(hexcode("e6 80 eb fc")) as machine:
        tracer = Tracer(machine, [full])
        outcome = machine.run(LIMIT)
        assert (outcome.ending, "No space left" in outcome.reason) == (Ending.STOPPED, True)
        assert tracer.outlet.error is not None
        assert tracer.outlet.count == 1


def test_time_is_all_accounted_for() -> None:
    with flat(hexcode("e6 80") * 49 + EXIT_AL + HALT) as machine:
        summary = Summary()
        tracer = Tracer(machine, [summary])
        outcome = machine.run(LIMIT)
        tracer.finish()
        (times,) = tracer.times
    assert times.exits == summary.total.count == outcome.exits == 50
    assert times.run_cpu > 0
    assert times.run_cpu <= times.run
    assert summary.total.served <= times.served
    assert summary.total.run <= times.run


def test_kvm_tells_of_what_never_leaves_the_kernel(guest: Guest) -> None:
    with Machine(guest("timer")) as machine:
        if not machine.engine.board.vm.check_extension("BINARY_STATS_FD"):
            pytest.skip("needs BINARY_STATS_FD, which KVM has since Linux 5.14")
        tracer = Tracer(machine, [])
        machine.run(LIMIT)
        tracer.finish()
    (counted,), (times,) = tracer.kernel, tracer.times
    assert counted["halt_exits"] > 0
    assert counted["exits"] >= times.exits
    assert 0 < times.halted <= times.run


def test_code_that_changes_is_shown_as_it_was() -> None:
    # out 0x80, al; then the guest makes `out 0x81, al` of it and runs it again
    code = hexcode("""
        e6 80                       ; out 0x80, al
        80 3d f8 ff ff ff 81        ; cmp byte [rip - 8], 0x81: the operand of the out
        74 09                       ; je out of here
        c6 05 ef ff ff ff 81        ; mov byte [rip - 17], 0x81
        eb ec                       ; jmp to the out
    """)
    with flat(code + EXIT_AL + HALT) as machine:
        events = trace(machine, Filter(addresses=[AddressRange(0x80, 0x81)]))
    assert [(event.address, event.site.text) for event in events] == [(0x80, "out 0x80, al"), (0x81, "out 0x81, al")]


def test_nothing_of_a_tracer_is_left_in_a_machine_without_one() -> None:
    with flat(TALK) as machine:
        assert all(runner.entry.outermost is runner.vcpu for runner in machine.engine.runners)
        assert not machine.vcpus[0].run.kvm_valid_regs


def test_a_guest_that_scans_all_ports_is_traced_to_the_end() -> None:
    # for (dx = 0xffff; dx; dx -= 0x11) in al, dx
    code = hexcode("66 ba ff ff  ec  66 83 ea 11  75 f9")
    with flat(code + EXIT_AL + HALT) as machine:
        summary = Summary()
        tracer = Tracer(machine, [summary], Filter(kinds={"pio"}))
        assert machine.run(LIMIT).ending == Ending.EXITED
        tracer.finish()
    assert summary.kinds["pio read"].count == 0xFFFF // 0x11


@pytest.mark.parametrize("seed", range(6))
def test_a_guest_of_random_code_is_traced_to_its_end(seed: int) -> None:
    source = random.Random(seed)
    code = bytearray(source.randbytes(600))
    code[::5] = source.choices(bytes.fromhex("e4 e6 ec ee ed ef 6d 6f 90"), k=len(code[::5]))  # much of it is I/O
    with flat(bytes(code), source.choice([16, 32, 64]), no_reboot=True) as machine:
        summary = Summary()
        tracer = Tracer(machine, [summary, Event.as_dict], limit=500)
        outcome = machine.run(BRIEF)
        tracer.finish()
    assert summary.total.count == min(outcome.exits, 500)


# Instructions


def executed(machine: Machine, limit: float = LIMIT) -> list[int]:
    """Addresses of the instructions that the first CPU has executed."""
    found: list[int] = []
    InstructionTracer(machine, lambda vcpu, position: found.append(position.linear))
    machine.run(limit)
    return found


STEPS = hexcode("""
    b9 03 00 00 00  ; mov ecx, 3
    e6 80           ; out 0x80, al
    e4 80           ; in al, 0x80
    ff c9           ; dec ecx
    75 f8           ; jnz to the out
    90              ; nop
""")  # fmt: skip


def test_each_instruction_once_and_in_order() -> None:
    with flat(STEPS + EXIT_AL + HALT) as machine:
        found = [address - START for address in executed(machine)]
    assert found == [0, *[5, 7, 9, 11] * 3, 13, 14]


def test_instructions_with_memory_mapped_registers_between() -> None:
    code = hexcode("bb 00 00 00 d0  8b 03  89 03  8b 03")
    with flat(code + EXIT_AL + HALT) as machine:
        machine.add(Lamp())
        assert [address - START for address in executed(machine)] == [0, 5, 7, 9, 11]


def test_instructions_of_real_mode() -> None:
    with flat(hexcode("ea 05 00 c0 07  90  e6 80") + EXIT_AL + HALT, 16) as machine:
        assert executed(machine) == [0x7C00, 0x7C05, 0x7C06, 0x7C08]


def test_a_jump_to_itself_is_counted_until_the_time_is_over() -> None:
    with flat(hexcode("90") + SPIN) as machine:
        found = executed(machine, BRIEF)
        assert machine.outcome is not None
        assert machine.outcome.ending == Ending.TIMED_OUT
    assert found[0] == START
    assert len(found) > 2
    assert set(found[1:]) == {START + 1}


def test_instructions_as_events() -> None:
    with flat(STEPS + EXIT_AL + HALT) as machine:
        events: list[Event] = []
        outlet = Outlet(machine, [events.append])
        InstructionEvents(machine, outlet, Filter(addresses=[AddressRange(START + 5, START + 9)]))
        machine.run(LIMIT)
    assert [event.site.text for event in events] == ["out 0x80, al", "in al, 0x80", "dec ecx"] * 3


def test_a_machine_that_is_paused_while_it_is_stepped_goes_on() -> None:
    code = hexcode("b9") + struct.pack("<I", 20_000) + hexcode("e6 80  ff c9  75 fa") + EXIT_AL + HALT
    with flat(code) as machine:
        found: list[int] = []
        goes_on = threading.Event()

        def executed(vcpu: VCPU, position: Position) -> None:
            found.append(position.linear)
            goes_on.set()

        InstructionTracer(machine, executed)
        machine.start(LIMIT)
        for _ in range(5):
            assert goes_on.wait(LIMIT)
            machine.pause()
            goes_on.clear()
            machine.resume()
        assert goes_on.wait(LIMIT)
        machine.stop()
    body: list[Any] = [START + 5, START + 7, START + 9]
    assert found[0] == START
    rest = found[1:]
    assert rest == (body * (len(rest) // 3 + 1))[: len(rest)]
