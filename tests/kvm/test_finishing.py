"""Instructions that KVM's interpreter does not know: what the guest sees of them is what it sees where the CPU runs them.

Every expectation but the counts holds on each KVM, whether an instruction is finished or was never in need of it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from features import FEATURES
from helpers import HALT, LIMIT, assembled, flat, pykvm

from pykvm import Ending, Machine, Outcome
from pykvm.debug.control import Control, Why
from pykvm.trace import Event, Tracer
from pykvm.x86.registers import CR0_EM, CR0_TS, CR0_WP
from pykvm.x86.start import CODE_SELECTOR

Guest = Callable[[str], Path]
START, IDT, STUBS, OUT = 0x100000, 0x2000, 0x3000, 0x500
PAGES = 0x400000
"""Where two large pages meet that tests change."""
XORPS = bytes.fromhex("0f57c0")

pytestmark = pytest.mark.needs("gcc")

STUB = "mov $1, %ecx\npop 0x700\nmov %rsp, 0x708\nhlt"


def machine_of(text: str, directory: Path, bits: int = 64, handlers: dict[int, str] | None = None) -> Machine:
    """A machine whose IDT leads to `handlers`, assembler text by vectors."""
    machine = flat(assembled(text, directory, START, bits), bits, memory="8M")
    at = STUBS
    for vector, handler in (handlers or {}).items():
        code = assembled(handler, directory, at, bits)
        machine.memory.write(at, code)
        gate = struct.pack("<HHHH", at, CODE_SELECTOR, 0x8F00, 0)
        machine.memory.write(IDT + vector * len(gate) * (bits // 32), gate + bytes(8 * (bits == 64)))
        at += len(code) + 15 & ~15
    vcpu = machine.vcpus[0]
    system = vcpu.get_system_registers()
    system.idt.base, system.idt.limit = IDT, 0xFFF
    system.cr4 |= 0x600  # OSFXSR, OSXMMEXCPT
    vcpu.set_system_registers(system)
    return machine


def words(machine: Machine, at: int = OUT, count: int = 1, size: int = 8) -> list[int]:
    return [machine.memory.read_int(at + size * number, size) for number in range(count)]


def run(machine: Machine) -> Outcome:
    outcome = machine.run(LIMIT)
    assert outcome.ending is Ending.HALTED, str(outcome.report or outcome)
    return outcome


def finished(outcome: Outcome, *names: str) -> None:
    """Where KVM interprets ring 0, these were finished."""
    if FEATURES["pvm"]() is None:
        assert set(names) <= set(outcome.finished), outcome.finished


@pytest.mark.parametrize("bits", [32, 64])
def test_sse_and_x87_compute(bits: int, tmp_path: Path) -> None:
    text = """
        fninit
        movl $3, 0x600; cvtsi2sd 0x600, %xmm0
        movl $4, 0x600; cvtsi2sd 0x600, %xmm1
        mulsd %xmm0, %xmm0; mulsd %xmm1, %xmm1; addsd %xmm1, %xmm0; sqrtsd %xmm0, %xmm0
        movsd %xmm0, 0x500
        fldpi; fld1; faddp; fmull 0x500; fistpl 0x508
        mov $0x0f0f, %eax; popcnt %eax, %eax; mov %eax, 0x50c
        comisd %xmm0, %xmm1; seta 0x510
        movd %esp, %xmm3; movd %xmm3, 0x514
        hlt
    """
    with machine_of(text, tmp_path, bits) as machine:
        rsp = machine.vcpus[0].get_registers().rsp
        outcome = run(machine)
        assert struct.unpack("<dII", machine.memory.read(OUT, 16)) == (5.0, 21, 8)
        assert words(machine, 0x510, size=1) == [1]
        assert words(machine, 0x514, size=4) == [rsp]
    finished(outcome, "cvtsi2sd", "sqrtsd", "fldpi", "faddp", "popcnt", "comisd")


def test_a_lock_of_16_bytes(tmp_path: Path) -> None:
    text = """
        movq $1, 0x500; movq $2, 0x508
        mov $1, %eax; mov $2, %edx; mov $3, %ebx; mov $4, %ecx; mov $0x500, %edi
        lock cmpxchg16b (%rdi); setz 0x510
        lock cmpxchg16b (%rdi); setz 0x511
        mov %rax, 0x518; mov %rdx, 0x520
        hlt
    """
    with machine_of(text, tmp_path) as machine:
        outcome = run(machine)
        assert words(machine, count=2) == [3, 4]
        assert words(machine, 0x510, 2, 1) == [1, 0]
        assert words(machine, 0x518, 2) == [3, 4]
    finished(outcome, "cmpxchg16b")


@pytest.mark.parametrize("bits", [32, 64])
def test_software_interrupts_come_back(bits: int, tmp_path: Path) -> None:
    back = "iretq" if bits == 64 else "iret"
    into = "" if bits == 64 else "mov $0x7fffffff, %ebx; add $1, %ebx; into; mov %eax, 0x508"
    text = f"stc; int $0x80; setc 0x510; mov %eax, 0x500; int3; mov %eax, 0x504; {into}\nhlt"
    handlers = {vector: f"mov ${vector:#x}, %eax; clc; {back}" for vector in (3, 4, 0x80)}
    with machine_of(text, tmp_path, bits, handlers) as machine:
        rsp = machine.vcpus[0].get_registers().rsp
        outcome = run(machine)
        assert words(machine, count=3, size=4) == [0x80, 3, 0 if bits == 64 else 4]
        assert words(machine, 0x510, size=1) == [1]
        assert machine.vcpus[0].get_registers().rsp == rsp
    finished(outcome, "int", "int3", *(() if bits == 64 else ("into", "iretd")))


def fault(text: str, vector: int, directory: Path, change: Callable[[Machine], None] | None = None) -> list[int]:
    """[error code or RIP, what is behind it on the stack, CR2] of the exception that `text` raises in 64-bit mode."""
    handler = "pop %rax; mov %rax, 0x500; pop %rax; mov %rax, 0x508; mov %cr2, %rax; mov %rax, 0x510; hlt"
    with machine_of(f"{text}\nmovl $0xdead, 0x500; hlt", directory, 64, {vector: handler}) as machine:
        if change is not None:
            change(machine)
        run(machine)
        return words(machine, count=3)


def control(machine: Machine, cr0: int = 0, cr4: int = 0) -> None:
    system = machine.vcpus[0].get_system_registers()
    system.cr0 |= cr0
    system.cr4 &= ~cr4
    machine.vcpus[0].set_system_registers(system)


def entry(machine: Machine, number: int, off: int) -> None:
    """Take bits from the page directory's entry of a large page."""
    at = machine.vcpus[0].get_system_registers().cr3 + 0x2000 + 8 * number
    machine.memory.write_int(at, 8, machine.memory.read_int(at, 8) & ~off)


@pytest.mark.parametrize(
    ("text", "vector", "cr0", "cr4"),
    [
        ("xorps %xmm0, %xmm0", 7, CR0_TS, 0),
        ("fld1", 7, CR0_TS, 0),
        ("fld1", 7, CR0_EM, 0),
        ("wait", 7, CR0_TS, 0),
        ("paddb %mm0, %mm1", 7, CR0_TS, 0),
        ("paddb %mm0, %mm1", 6, CR0_EM, 0),
        ("xorps %xmm0, %xmm0", 6, CR0_EM, 0),
        ("addps %xmm0, %xmm0", 6, 0, 0x200),
        ("vxorps %xmm0, %xmm0, %xmm0", 6, 0, 0),
    ],
)
def test_what_the_control_registers_forbid(text: str, vector: int, cr0: int, cr4: int, tmp_path: Path) -> None:
    assert fault(text, vector, tmp_path, lambda machine: control(machine, cr0, cr4))[:2] == [START, CODE_SELECTOR]


def test_an_exception_of_the_x87_waits_for_its_next_instruction(tmp_path: Path) -> None:
    text = "fninit; movl $0x37b, 0x600; fldcw 0x600; fld1; fldz; fdivrp; 1: wait"
    assert fault(text, 16, tmp_path)[:2] == [START + len(assembled(text, tmp_path, START, 64)) - 1, CODE_SELECTOR]


@pytest.mark.needs("pvm")  # QEMU, on which the second KVM runs, has no #XM
def test_an_exception_of_sse(tmp_path: Path) -> None:
    setup = "movl $0x1d80, 0x600; ldmxcsr 0x600; mov $1, %eax; cvtsi2sd %eax, %xmm0; xorps %xmm1, %xmm1; "
    text = setup + "divsd %xmm1, %xmm0"
    rip = START + len(assembled(text, tmp_path, START, 64)) - 4
    assert fault(text, 19, tmp_path)[:2] == [rip, CODE_SELECTOR]


def test_pages_keep_their_rights(tmp_path: Path) -> None:
    def read_only(machine: Machine) -> None:
        control(machine, CR0_WP)
        entry(machine, 2, 2)

    def absent(machine: Machine) -> None:
        entry(machine, 3, 1)

    there = f"{PAGES:#x}"
    assert fault(f"fld1; fstpl {there}", 14, tmp_path, read_only) == [3, START + 2, PAGES]
    assert fault(f"fldl {there}; fninit; fstpl 0x600; int3", 3, tmp_path, read_only)[0] > START
    last = PAGES + 0x200000
    assert fault(f"fldt {last - 6:#x}", 14, tmp_path, absent) == [0, START, last]
    assert fault(f"fld1; fstpt {last - 6:#x}", 14, tmp_path, absent) == [2, START + 2, last]
    assert fault(f"mov ${1 << 47:#x}, %rax; fldl (%rax)", 13, tmp_path)[0] == 0
    assert fault("addps 0x508, %xmm0", 13, tmp_path)[:2] == [0, START]


def test_an_operand_over_two_pages(tmp_path: Path) -> None:
    with machine_of("fldpi; fstpt 0x400ffa; fldt 0x400ffa; fstpl 0x500; hlt", tmp_path) as machine:
        run(machine)
        assert struct.unpack("<d", machine.memory.read(OUT, 8)) == (3.141592653589793,)
        entry_of = machine.vcpus[0].get_system_registers().cr3 + 0x2000 + 16
        assert machine.memory.read_int(entry_of, 8) & 0x60 == 0x60  # accessed and dirty


def test_a_device_sees_a_vector_in_eights(tmp_path: Path) -> None:
    content, seen = bytearray(range(32)), []
    text = "mov $0xd0000000, %eax; paddb (%rax), %xmm0; movups %xmm0, 0x500; fldt 0x10(%rax); fstpt 0x510; hlt"
    with machine_of(text, tmp_path) as machine:

        @machine.mmio_range(0xD0000000, 32)
        def device(access: object) -> int:
            offset, size = access.offset, access.size  # type: ignore[attr-defined]
            seen.append((offset, size))
            return int.from_bytes(content[offset : offset + size], "little")

        run(machine)
        assert machine.memory.read(OUT, 26) == bytes(range(26))
    assert [size for _, size in seen] == [8, 8, 8, 2]


@pytest.mark.needs("pvm")
def test_without_finishing_it_is_a_crash(guest: Guest) -> None:
    with Machine(guest("crash-sse"), finish=False) as machine:
        outcome = machine.run(LIMIT)
    assert (outcome.ending, dict(outcome.finished)) == (Ending.CRASHED, {})
    assert "xorps xmm0, xmm0" in outcome.reason
    assert pykvm("run", guest("crash-sse"), "--no-finish").returncode == 122


@pytest.mark.needs("pvm")
def test_what_was_finished_is_told(guest: Guest) -> None:
    done = pykvm("run", guest("crash-sse"), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["finished"] == {"xorps": 1}
    events: list[Event] = []
    with Machine(guest("crash-sse")) as machine:
        tracer = Tracer(machine, [events.append])
        assert machine.run(LIMIT).code == 0
        tracer.finish()
    assert [event.meaning for event in events if event.kind == "internal_error"] == ["finished: xorps xmm0, xmm0"]


def test_a_step_over_it(tmp_path: Path) -> None:
    with machine_of("xorps %xmm0, %xmm0; fld1; popcnt %eax, %eax; hlt", tmp_path) as machine:
        debugger = Control(machine)
        machine.start()
        for at in (3, 5, 9):
            stop = debugger.step(0)
            assert stop is not None
            assert (stop.why, debugger.pc(0)) == (Why.STEPPED, START + at)
        debugger.resume()
        stop = debugger.wait(LIMIT)
        assert stop is not None
        assert stop.why is Why.HALTED


def test_a_replay_meets_it_again(tmp_path: Path) -> None:
    text = "fldpi; fistpl 0x500; mov 0x500, %eax; xorps %xmm0, %xmm0; ud2"
    with machine_of(text, tmp_path) as machine:
        system = machine.vcpus[0].get_system_registers()
        system.idt.limit = 0
        machine.vcpus[0].set_system_registers(system)
        machine.keep_instructions = 4
        report = machine.run(LIMIT).report
    assert report is not None
    assert report.registers.rax == 3
    assert [line.text for line in report.last][1:] == [
        "fistp dword ptr [0x500]",
        "mov eax, dword ptr [0x500]",
        "xorps xmm0, xmm0",
    ]


def test_a_fork_goes_on_with_the_fpu(tmp_path: Path) -> None:
    text = "fldpi; mov $42, %ecx; movd %ecx, %xmm5; out %al, $0x99; fstpl 0x500; movd %xmm5, 0x508; hlt"
    with machine_of(text, tmp_path) as machine:

        def stops(other: Machine) -> None:
            other.port(0x99)(lambda access: machine.request_stop("here"))

        stops(machine)
        machine.run(LIMIT)
        snapshot = machine.snapshot()
    with snapshot.fork(prepare=stops) as fork:
        run(fork)
        assert struct.unpack("<dI", fork.memory.read(OUT, 12)) == (3.141592653589793, 42)


@pytest.mark.needs("pvm")
@pytest.mark.parametrize("code", ["62f17c4858c0", "0fae2500050000", "c4e2799204c8", "f0f30fb8c0"])
def test_what_is_not_finished_is_a_crash(code: str) -> None:
    """EVEX, XRSTOR, a gather, a LOCK that must not be."""
    with flat(bytes.fromhex(code) + HALT) as machine:
        assert machine.run(LIMIT).ending is Ending.CRASHED
