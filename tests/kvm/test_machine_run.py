"""How runs start and end: each ending with what it carries, and a machine held, stopped, closed."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import BRIEF, EXIT_AL, HALT, LIMIT, SPIN, flat, hexcode

from pykvm import ConfigError, Ending, ImageError, Machine, PykvmError
from pykvm.kvm import wait_closed

Guest = Callable[[str], Path]


def test_a_power_off_carries_code_0_and_what_the_run_cost(guest: Guest) -> None:
    with Machine(guest("hello64")) as machine:
        outcome = machine.run(LIMIT)
        assert (outcome.ending, outcome.code, outcome.value, outcome.report) == (Ending.EXITED, 0, None, None)
        assert outcome.exits > len(machine.serial.text)
    assert outcome.elapsed > 0


def test_an_image_may_be_given_as_bytes(guest: Guest) -> None:
    with Machine(guest("hello32").read_bytes()) as machine:
        assert machine.run(LIMIT).code == 0
        assert machine.serial.text == "Hello from 32-bit protected mode!\n"


# Endings


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_halt_with_interrupts_off_ends_the_run(mode: int) -> None:
    with flat(HALT, mode) as machine:
        outcome = machine.run(LIMIT)
    assert outcome.ending is Ending.HALTED
    assert outcome.ending == "halted"
    assert outcome.code is None
    assert "interrupts off" in outcome.reason


def test_halt_with_interrupts_on_is_only_sleep() -> None:
    code = "b0 ff; mov al, 0xff\ne6 21; out 0x21, al\nfb; sti\nf4; hlt\neb fd; jmp to the hlt"
    with flat(hexcode(code)) as machine:
        assert machine.run(BRIEF).ending is Ending.TIMED_OUT


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("b0 00 e6 f4", 0),  # mov al, 0; out 0xf4, al
        ("b0 10 e6 f4", 0x10),
        ("b0 ff e6 f4", 0xFF),
        ("b8 34 12 00 00 66 e7 f4", 0x1234),  # mov eax, 0x1234; out 0xf4, ax
        ("b8 78 56 34 12 e7 f4", 0x12345678),  # mov eax, 0x12345678; out 0xf4, eax
    ],
)
def test_exit_port_gives_the_value_and_an_odd_status(code: str, value: int) -> None:
    with flat(bytes.fromhex(code) + SPIN) as machine:
        outcome = machine.run(LIMIT)
        assert machine.outcome == outcome
    assert (outcome.ending, outcome.value, outcome.code) == (Ending.EXITED, value, 2 * value + 1)
    assert str(outcome).startswith("exited: ")


def test_shutdown_port_powers_off() -> None:
    # mov dx, 0x8900; then mov al, letter; out dx, al for each letter
    code = bytes.fromhex("66 ba 00 89") + b"".join(b"\xb0" + bytes([c]) + b"\xee" for c in b"Shutdown")
    with flat(code + SPIN) as machine:
        outcome = machine.run(LIMIT)
    assert (outcome.ending, outcome.code) == (Ending.EXITED, 0)


@pytest.mark.parametrize(
    "code",
    [
        "b0 fe e6 64",  # mov al, 0xfe; out 0x64, al: the keyboard controller's pulse on RESET#
        "b0 01 e6 92",  # mov al, 1; out 0x92, al: fast reset
        "66 ba f9 0c b0 06 ee",  # mov dx, 0xcf9; mov al, 6; out dx, al: the chip set's reset control
    ],
)
def test_resets_begin_the_run_anew_or_end_it(code: str) -> None:
    # a count of the starts, in RAM that is not the image's
    count_starts = hexcode(
        "fe 04 25 00 00 20 00   ; inc byte [0x200000]\n 80 3c 25 00 00 20 00 03 ; cmp byte [0x200000], 3"
    )
    leave = hexcode("75 02 ; jne over the halt") + HALT
    again = count_starts + leave + bytes.fromhex(code) + SPIN
    with flat(again) as machine:
        outcome = machine.run(LIMIT)
        assert (outcome.ending, machine.resets) == (Ending.HALTED, 2)
    with flat(again, no_reboot=True) as machine:
        outcome = machine.run(LIMIT)
        assert (outcome.ending, outcome.code, machine.resets) == (Ending.REBOOTED, None, 0)


def test_the_first_ending_counts() -> None:
    # Two exits one after the other: the second is never reached, or does not count.
    with flat(hexcode("b0 01\n e6 f4\n b0 02\n e6 f4") + HALT) as machine:
        assert machine.run(LIMIT).value == 1
        assert machine.stop("too late").value == 1


# Crashes. Where KVM keeps the state at a triple fault the report tells all of it.

CRASHES = {
    "crash-divide": ("average", "f7f1", "div ecx"),
    "crash-no-idt": ("no_idt", "0f0b", "ud2"),
    "crash-idt-unmapped": ("idt_unmapped", "0f0b", "ud2"),
    "crash-wrong-gate": ("wrong_gate", "0f0b", "ud2"),
    "crash-bad-stack": ("bad_stack", "50", "push rax"),
    "crash-idt-not-present": ("idt_not_present", "", "[0x700000000000]"),
    "crash-non-canonical": ("non_canonical", "", "[0x8000000000000000]"),
    "crash-stack-overflow": ("descend", "", "[rbp "),
    "crash-write-readonly": ("write_readonly", "", ", 0x2b"),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_triple_fault_is_a_crash_with_a_report(guest: Guest, name: str) -> None:
    function, code, text = CRASHES[name]
    with Machine(guest(name)) as machine:
        outcome = machine.run(LIMIT)
        assert machine.serial.text.startswith("crash: about to die\n")
    assert outcome.ending is Ending.CRASHED
    assert outcome.code is None
    report = outcome.report
    assert report is not None
    assert report.vcpu == 0
    assert "triple fault" in report.cause
    assert "triple fault" in outcome.reason
    assert "triple fault" in str(report)
    assert report.symbol.split("+")[0] == function
    assert report.mode.startswith("64-bit mode")
    assert report.instruction is not None
    assert report.instruction.address == report.registers.rip
    assert text in report.instruction.text
    assert report.instruction.code.hex().startswith(code)
    assert report.code.startswith(report.instruction.code)
    assert function in str(report)
    assert report.instruction.text in str(report)
    assert f"{report.registers.rip:016x}" in str(report)


def test_a_report_has_the_registers_as_the_guest_left_them() -> None:
    code = hexcode(
        """
        b8 21 43 65 87 ; mov eax, 0x87654321
        48 bb 88 77 66 55 44 33 22 11 ; mov rbx, 0x1122334455667788
        41 bf 0f 00 00 00 ; mov r15d, 15
        0f 0b ; ud2, with an empty IDT
        """
    )
    with flat(code) as machine:
        outcome = machine.run(LIMIT)
    report = outcome.report
    assert report is not None
    assert (report.registers.rax, report.registers.rbx, report.registers.r15) == (0x87654321, 0x1122334455667788, 15)
    assert report.registers.rip == 0x100000 + len(code) - 2
    assert report.instruction is not None
    assert report.instruction.text == "ud2"
    assert report.symbol == ""
    assert "1122334455667788" in str(report)
    facts = report.as_dict()
    assert facts["registers"]["rbx"] == 0x1122334455667788
    assert facts["system"]["idt"] == {"base": 0, "limit": 0}
    assert facts["code"] == report.code.hex()


@pytest.mark.parametrize(
    ("name", "mode", "address", "text"),
    [
        ("crash-prot32", "protected mode, 32-bit", None, "mov ds, eax"),
        ("crash-real16", "protected mode, 16-bit", 0x7C1D, "ljmp"),
    ],
)
def test_a_report_knows_the_mode(guest: Guest, name: str, mode: str, address: int | None, text: str) -> None:
    with Machine(guest(name)) as machine:
        report = machine.run(LIMIT).report
    assert report is not None
    assert report.mode.startswith(mode)
    assert address in (None, report.registers.rip)
    assert report.instruction is not None
    assert text in report.instruction.text


def test_an_instruction_that_cannot_be_read_is_no_trouble(guest: Guest) -> None:
    with Machine(guest("crash-null-call")) as machine:
        outcome = machine.run(LIMIT)
    report = outcome.report
    assert report is not None
    assert report.code == b""
    assert report.instruction is None
    assert report.as_dict()["instruction"] is None
    assert "cannot be read" in str(report)


def test_a_kernel_that_panics_and_halts_is_halted(guest: Guest) -> None:
    with Machine(guest("crash-panic-halt")) as machine:
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert "oops: #PF at rip 0x" in machine.serial.text


@pytest.mark.needs("pvm")
def test_a_failed_emulation_names_the_instruction(guest: Guest) -> None:
    with Machine(guest("crash-sse"), finish=False) as machine:
        outcome = machine.run(LIMIT)
    assert outcome.ending is Ending.CRASHED
    report = outcome.report
    assert report is not None
    assert "emulate" in report.cause
    assert report.code.startswith(bytes.fromhex("0f57c0"))
    assert report.instruction is not None
    assert report.instruction.text == "xorps xmm0, xmm0"
    assert report.symbol.startswith("sse+")
    assert "xorps xmm0, xmm0" in outcome.reason


def test_sse_in_ring_0_is_no_crash(guest: Guest) -> None:
    with Machine(guest("crash-sse")) as machine:
        assert machine.run(LIMIT).code == 0
        assert "sse: executed" in machine.serial.text


# Starting, holding, stopping, closing


def test_a_machine_runs_once() -> None:
    with flat(HALT) as machine:
        machine.run(LIMIT)
        with pytest.raises(PykvmError, match="run already"):
            machine.run(LIMIT)
        with pytest.raises(PykvmError, match="run already"):
            machine.start()


def test_a_running_machine_cannot_be_started_again() -> None:
    with flat(SPIN) as machine:
        machine.start()
        with pytest.raises(PykvmError, match="run already"):
            machine.start()
        assert machine.outcome is None


def test_wait_before_start_and_start_after_close_are_refused() -> None:
    machine = flat(HALT)
    with pytest.raises(PykvmError, match="not been started"):
        machine.wait()
    machine.close()
    machine.close()
    with pytest.raises(PykvmError):
        machine.start()


def test_wait_can_be_given_up_and_tried_again() -> None:
    with flat(SPIN) as machine:
        machine.start()
        with pytest.raises(TimeoutError):
            machine.wait(0.01)
        assert machine.outcome is None
        assert machine.stop().ending is Ending.STOPPED


def test_stop_from_another_thread_ends_a_run_without_a_limit() -> None:
    with flat(hexcode("b0 2e; mov al, '.'\n e6 e9; out 0xe9, al") + SPIN) as machine:

        def stop() -> None:
            machine.pc.debug_console.wait_for(".", LIMIT)
            machine.stop("enough")

        stopper = threading.Thread(target=stop)
        stopper.start()
        outcome = machine.run()
        stopper.join()
    assert (outcome.ending, outcome.reason) == (Ending.STOPPED, "enough")


def test_a_handler_may_ask_for_the_end() -> None:
    with flat(hexcode("b0 07\n e6 80; out 0x80, al") + SPIN) as machine:

        @machine.port(0x80)
        def post_code(access: object) -> None:
            machine.request_stop("seen")

        assert machine.run(LIMIT).reason == "seen"


def test_close_while_it_runs() -> None:
    machine = flat(SPIN, cpus=2)
    machine.start()
    machine.close()
    assert machine.outcome is not None
    assert machine.outcome.ending is Ending.STOPPED


COUNTER = hexcode(
    """
    48 ff c0          ; again: inc rax
    a3 00 00 20 00 00 00 00 00 ; mov [0x200000], eax
    eb f2             ; jmp again
    """
)


def test_registers_and_memory_hold_still_while_paused() -> None:
    with flat(COUNTER) as machine:
        machine.start()
        machine.pause()
        vcpu = machine.vcpus[0]

        def look() -> tuple[object, ...]:
            return vcpu.get_registers(), vcpu.get_system_registers(), machine.memory.read(0x200000, 8)

        assert all(look() == before for before in [look()] * 50)
        held = vcpu.get_registers()
        assert 0x100000 <= held.rip < 0x100000 + len(COUNTER)

        machine.pause()  # they nest
        machine.resume()
        assert vcpu.get_registers() == held
        machine.resume()
        with pytest.raises(PykvmError, match="not paused"):
            machine.resume()

        counted = machine.memory.read_int(0x200000, 4)
        while machine.memory.read_int(0x200000, 4) == counted:  # it goes on, and not from the start
            pass
        machine.pause()
        assert vcpu.get_registers().rax > held.rax
        assert machine.stop().ending is Ending.STOPPED


def test_registers_that_are_changed_while_paused_count() -> None:
    with flat(SPIN + hexcode("b0 05\n e6 f4; what nothing jumps to")) as machine:
        machine.start()
        machine.pause()
        registers = machine.vcpus[0].get_registers()
        registers.rip += len(SPIN)
        machine.vcpus[0].set_registers(registers)
        machine.resume()
        assert machine.wait(LIMIT).value == 5


def test_memory_that_is_changed_while_it_runs_is_seen() -> None:
    # again: cmp dword [0x200000], 0; je again; mov al, 1; out 0xf4, al
    code = hexcode("83 3c 25 00 00 20 00 00\n 74 f6\n b0 01") + EXIT_AL + SPIN
    with flat(code) as machine:
        machine.start()
        machine.memory.write_int(0x200000, 4, 1)
        assert machine.wait(LIMIT).value == 1


def test_a_paused_machine_can_be_stopped() -> None:
    with flat(SPIN, cpus=2) as machine:
        machine.start()
        machine.pause()
        assert machine.stop("from the pause").reason == "from the pause"


def test_a_paused_machine_can_be_closed() -> None:
    with flat(SPIN) as machine:
        machine.start()
        machine.pause()


def test_pausing_a_machine_that_has_ended_returns() -> None:
    with flat(HALT) as machine:
        machine.run(LIMIT)
        machine.pause()
        machine.resume()


def test_a_time_limit_counts_while_paused() -> None:
    with flat(SPIN) as machine:
        machine.start(BRIEF)
        machine.pause()
        assert machine.wait(LIMIT).ending is Ending.TIMED_OUT


def test_pausing_a_sleeping_machine_does_not_wake_it(guest: Guest) -> None:
    with Machine(guest("echo")) as machine:
        machine.start()
        machine.serial.wait_for("ready\n", LIMIT)
        for _ in range(10):
            machine.pause()
            machine.resume()
        machine.serial.send("still there\n")
        machine.serial.wait_for("echo: still there\n", LIMIT)
        machine.serial.send("quit\n")
        assert machine.wait(LIMIT).code == 0


# What it refuses


@pytest.mark.parametrize("size", [0, -4096, 5000, "1X", "", 1 << 60])
def test_memory_sizes_that_cannot_be(size: str | int) -> None:
    with pytest.raises(ConfigError):
        Machine(memory=size)


def test_images_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        Machine(tmp_path / "nowhere")
    with pytest.raises(ConfigError):
        Machine(tmp_path)
    with pytest.raises(ImageError):
        Machine(b"")
    with pytest.raises(ImageError):
        Machine(b"\x7fELF" + bytes(60))
    with pytest.raises(PykvmError):
        Machine(b"\xf4", format="floppy")


@pytest.mark.parametrize("number", [-1, 5])
def test_serial_ports_that_cannot_be(number: int) -> None:
    with pytest.raises(ConfigError, match=f"{number} serial ports"):
        Machine(serial_ports=number)


def test_a_machine_without_image_starts_in_reset_state_and_may_be_closed() -> None:
    with Machine(memory="1M") as machine:
        assert machine.entry is None
        assert machine.memory.read(0, 16) == bytes(16)


# Nothing is left behind


def _open_things() -> tuple[int, int]:
    """Descriptors and threads."""
    gc.collect()
    wait_closed()
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def _tasks() -> int:
    """The kernel's threads, which it lists for a moment longer than join() waits."""
    return len(os.listdir("/proc/self/task"))


def _require_no_more_tasks_than(before: int) -> None:
    deadline = time.monotonic() + LIMIT
    while _tasks() > before and time.monotonic() < deadline:
        os.sched_yield()
    assert _tasks() <= before


def test_machines_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))

    def once(number: int) -> None:
        with flat(HALT if number % 2 else SPIN, cpus=1 + number % 3, disks=[disk]) as machine:
            if number % 5:
                machine.start()
            if number % 3:
                machine.pause()

    once(1)
    before, tasks = _open_things(), _tasks()
    for number in range(int(os.environ.get("PYKVM_TEST_MACHINES", "50"))):
        once(number)
    assert _open_things() == before
    _require_no_more_tasks_than(tasks)


def test_a_machine_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    with pytest.raises(ImageError):
        Machine(b"", disks=[disk])
    before, tasks = _open_things(), _tasks()
    for _ in range(10):
        with pytest.raises(ImageError):
            Machine(b"", disks=[disk])
        with pytest.raises(ConfigError):
            Machine(HALT, disks=[disk, tmp_path / "missing"])
        with pytest.raises(ConfigError):
            Machine(HALT, disks=[disk], serial_ports=9)
        with pytest.raises(ConfigError):
            Machine(HALT, disks=[disk], cpus=0)
    assert _open_things() == before
    _require_no_more_tasks_than(tasks)


def test_a_stop_before_the_start_ends_the_run_at_its_start() -> None:
    with flat(SPIN) as machine:
        before = machine.snapshot()
        machine.request_stop("not today")
        assert machine.outcome is None
        outcome = machine.run(LIMIT)
        assert (outcome.ending, outcome.reason) == (Ending.STOPPED, "not today")
        machine.restore(before)
        assert machine.run(BRIEF).ending is Ending.TIMED_OUT
