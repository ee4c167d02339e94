"""The real gdb attached to machines: 16-, 32- and 64-bit code, several CPUs, crashes, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zygote
from features import FEATURES
from helpers import LIMIT, PYKVM, ROOT, SPIN, STATE_LOST, flat, hexcode

from pykvm import Ending, Machine
from pykvm.debug.gdb import GdbServer

Guest = Callable[[str], Path]
pytestmark = pytest.mark.needs("gdb")


def gdb_command(*commands: str, symbols: Path | None = None) -> list[str]:
    options = [item for command in commands for item in ("-ex", command)]
    return ["gdb", "-nx", "-batch", "-iex", "set pagination off", *([str(symbols)] if symbols else []), *options]


def start_gdb(server: GdbServer, *commands: str, symbols: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        gdb_command("set confirm off", f"target remote {server.target}", *commands, symbols=symbols),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def interrupt_until_done(process: subprocess.Popen[str]) -> str:
    """Type Ctrl-C, and again if gdb was not ready for it."""
    for _ in range(8):
        os.kill(process.pid, signal.SIGINT)
        try:
            return process.communicate(timeout=LIMIT / 8)[0]
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    return process.communicate()[0]


def gdb(machine: Machine, *commands: str, symbols: Path | None = None) -> str:
    """What gdb says when it is attached to `machine` from its first instruction on and given `commands`."""
    with machine.gdb(":0") as server:
        machine.start(LIMIT)
        output, _ = start_gdb(server, *commands, symbols=symbols).communicate(timeout=LIMIT)
    return output


def session(image: Path, *commands: str, **options: Any) -> str:
    with Machine(image, **options) as machine:
        return gdb(machine, *commands, symbols=image if image.suffix == ".elf" else None)


def value(output: str, register: str) -> int:
    """A register's value in the output of `info registers`."""
    found = re.findall(rf"^{register} +(0x[0-9a-f]+)", output, re.MULTILINE)
    assert found, output
    return int(found[-1], 16)


# 64-bit code


@pytest.mark.needs("hw-breakpoints")
def test_a_64_bit_kernel_with_its_source(guest: Guest) -> None:
    image = guest("hello64")
    with Machine(image) as machine:
        output = gdb(
            machine, "break main", "continue", "info registers", "next", "step", "backtrace", "delete", "continue",
            symbols=image,
        )  # fmt: skip
        assert machine.wait(LIMIT).ending is Ending.EXITED
        assert machine.serial.text == "Hello from 64-bit long mode!\n"
    assert "Breakpoint 1, main () at guests/hello64.c" in output
    assert re.search(r"^rip .*<main>$", output, re.MULTILINE)
    assert re.search(r"^cr0 .*\[ PE .*PG \]$", output, re.MULTILINE)
    assert re.search(r"^efer .*\[ LME LMA \]$", output, re.MULTILINE)
    assert "#1 " in output
    assert "Hello from 64-bit" in output
    assert "exited normally" in output


def test_steps_registers_and_memory_without_breakpoints(guest: Guest) -> None:
    image = guest("hello64")
    output = session(
        image, "stepi 3", "info registers rip rsp", "p/x $cs", "p/x $lstar", "p $st0", "p $xmm1.uint128", "p/x $mxcsr",
        "set var $rbx = 0x1234567890abcdef", "p/x $rbx", "set var {int}0x2000 = 0x55aa", "p/x *(int *)0x2000",
        "set var $xmm1.uint128 = 77", "p $xmm1.uint128", "x/i $pc", "maintenance packet Qqemu.PhyMemMode:1",
        "x/1hx 0x2000", "p *(char *)0xfee00000", "kill",
    )  # fmt: skip
    assert value(output, "rsp") % 16 == 0
    assert "= 0x8\n" in output
    assert "= 0x1234567890abcdef\n" in output
    assert output.count("= 0x55aa\n") == 1
    assert "= 77\n" in output
    assert re.search(r"=> 0x[0-9a-f]+ <_start\+\d+>:\tcall .*<main>", output)
    assert re.search(r"0x2000:\t0x55aa\n", output)
    assert "Cannot access memory at address 0xfee00000" in output


@pytest.mark.needs("hw-breakpoints")
def test_finish_and_until_and_tbreak(guest: Guest) -> None:
    output = session(
        guest("echo"), "tbreak serial_init", "continue", "finish", "info symbol $pc", "kill",
    )  # fmt: skip
    assert "Temporary breakpoint 1, serial_init ()" in output
    assert re.search(r"^main \+ \d+ in section .text", output, re.MULTILINE)


@pytest.mark.needs("hw-breakpoints")
def test_a_breakpoint_with_a_condition_and_commands(guest: Guest) -> None:
    output = session(
        guest("smp"), "break count if $_thread == 2", "continue", "p $_thread", "info threads", "kill", cpus=2,
    )  # fmt: skip
    assert "$1 = 2\n" in output
    assert "* 2    Thread 2 (CPU 1: runnable, 64-bit mode, ring 0) count ()" in output
    assert "  1    Thread 1 (CPU 0: " in output


def test_a_watchpoint(guest: Guest) -> None:
    if (reason := FEATURES["hw-breakpoints"]()) is not None:
        pytest.skip(f"needs hw-breakpoints: {reason}, and a guest's IRET ends the stepping that stands for them")
    output = session(guest("smp"), "watch total", "continue", "continue", "kill")
    assert re.findall(r"Old value = (\d+)\nNew value = (\d+)\n", output) == [("0", "1"), ("1", "2")]
    assert re.search(r"^count \(\)|^0x[0-9a-f]+ in count \(\)", output, re.MULTILINE)


def test_one_cpu_is_stepped_with_the_others_locked(guest: Guest) -> None:
    output = session(
        guest("smp"), "set scheduler-locking on", "stepi 5", "thread 2", "p/x $pc", "thread 1", "stepi", "kill", cpus=2
    )
    assert "(real mode)" not in output
    assert "$1 = 0xfffffff0\n" in output


# 32- and 16-bit code


@pytest.mark.needs("hw-breakpoints")
def test_32_bit_code(guest: Guest) -> None:
    output = session(
        guest("hello32"), "show architecture", "break print", "continue", "info registers", "x/2i $pc", "stepi",
        "delete", "continue",
    )  # fmt: skip
    assert '(currently "i386")' in output
    assert "Breakpoint 1, print ()" in output
    assert re.search(r"=> 0x[0-9a-f]+ <print>:\tcld", output)
    assert re.search(r"lods +%ds:\(%esi\),%al", output)
    assert value(output, "esp") == value(output, "esp") & 0xFFFFFFFF
    assert re.search(r"^cr0 +0x11 +\[ PE ET \]$", output, re.MULTILINE)
    assert "exited normally" in output


@pytest.mark.needs("hw-breakpoints")
def test_16_bit_code(guest: Guest) -> None:
    output = session(
        guest("hello16"), "show architecture", "x/3i $pc", "break *0x7c10", "continue", "stepi", "x/i $pc", "delete",
        "continue", format="flat",
    )  # fmt: skip
    assert '(currently "i8086")' in output
    assert re.search(r"=> 0x7c00:\tljmp +\$0x0,\$0x7c05\n +0x7c05:\txor +%ax,%ax\n +0x7c07:\tmov +%ax,%ds", output)
    assert "Breakpoint 1, 0x00007c10 in ?? ()" in output
    assert "=> 0x7c12:\tmov    %al,%ah" in output
    assert "exited normally" in output


def test_16_bit_code_in_a_segment() -> None:
    # jmp far 07c0:0005; nop; nop: the program counter goes on as an address
    with flat(hexcode("ea 05 00 c0 07\n 90\n 90") + SPIN, 16) as machine:
        output = gdb(machine, "stepi", "stepi", "p/x $pc", "p/x $cs", "p/x $pc - $cs_base", "kill")
    assert "$1 = 0x7c06\n$2 = 0x7c0\n$3 = 0x6\n" in output


MODE_SWITCH = hexcode("""
    0f 01 16 21 7c          ; 7c00: lgdt [0x7c21]
    0f 20 c0                ; mov eax, cr0
    0c 01                   ; or al, 1
    0f 22 c0                ; mov cr0, eax
    ea 12 7c 08 00          ; jmp far 8:0x7c12
    b8 78 56 34 12          ; 7c12: mov eax, 0x12345678
    90                      ; nop
    eb fe                   ; jmp to itself
    90 90 90 90 90 90 90    ; 7c1a
    17 00 28 7c 00 00 00    ; 7c21: GDT's limit and address
    00 00 00 00 00 00 00 00 ; 7c28: the GDT
    ff ff 00 00 00 9b cf 00
    ff ff 00 00 00 93 cf 00
""")


def test_gdb_reconnects_after_a_change_of_mode() -> None:
    with flat(MODE_SWITCH, 16) as machine, GdbServer(machine, ":0") as server:
        machine.start(LIMIT)
        again = ("disconnect", f"target remote {server.target}")
        process = start_gdb(
            server, "x/i $pc", "stepi 6", "p/x $pc", "p/x $eax", "set architecture i386", "x/i 0x7c12",
            "set architecture auto", *again, "show architecture", "x/i 0x7c12", "p/x $eax", "kill",
        )  # fmt: skip
        output, _ = process.communicate(timeout=LIMIT)
    assert re.search(r"=> 0x7c00:\tlgdtw +0x7c21", output)
    assert "$1 = 0x7c17\n$2 = 0x12345678\n" in output
    assert output.count("mov    $0x12345678,%eax") == 2
    assert '(currently "i386")' in output
    assert "$3 = 0x12345678\n" in output


def test_the_architecture_may_be_named() -> None:
    with flat(SPIN, 32) as machine, GdbServer(machine, ":0,arch=x86-64") as server:
        machine.start(LIMIT)
        output, _ = start_gdb(server, "show architecture", "p/x $rip", "kill").communicate(timeout=LIMIT)
    assert '(currently "i386:x86-64")' in output
    assert "$1 = 0x100000\n" in output


# Stops that nobody asked for


@pytest.mark.skipif(STATE_LOST, reason="AMD's KVM resets a CPU at a triple fault")
def test_a_crash_stops_where_it_happens(guest: Guest) -> None:
    commands = ("monitor crash", "continue", "backtrace", "x/i $pc", "monitor crash", "continue")
    output = session(guest("crash-divide"), *commands)
    assert "no CPU has crashed" in output
    assert output.count("divides by zero (#DE), and the IDT's limit is 0") == 2  # at the stop, and in the report
    assert "exceptions:" in output
    assert "Program received signal SIGSEGV" in output
    assert re.search(r"#0 .* in average ", output)
    assert re.search(r"#\d .* in main ", output)
    assert re.search(r"=> .* <average\+\d+>:\tdiv +%ecx", output)
    assert "Program terminated with signal SIGSEGV" in output


def test_a_halted_machine_can_be_looked_at(guest: Guest) -> None:
    output = session(guest("crash-panic-halt"), "continue", "backtrace", "info threads", "continue")
    assert "The CPU halted in the handler of #PF" in output
    assert re.search(r"CPU 0: halted, 64-bit mode, ring 0; The CPU halted in the handler of #PF, which came at", output)
    assert "every CPU is halted" in output
    assert "Program received signal SIGSTOP" in output
    assert re.search(r"#\d .*oops ", output)
    assert "exited normally" in output


def test_the_exit_port_is_the_exit_code() -> None:
    with flat(hexcode("b0 05\n e6 f4")) as machine:
        assert "exited with code 013" in gdb(machine, "continue")  # 5 * 2 + 1, in octal


def test_ctrl_c_stops_and_detach_lets_go(guest: Guest) -> None:
    image = guest("echo")
    with Machine(image) as machine, GdbServer(machine, ":0") as server:
        machine.start(LIMIT)
        process = start_gdb(server, "continue", "backtrace", "info threads", "detach", symbols=image)
        machine.serial.wait_for("ready", LIMIT)
        output = interrupt_until_done(process)
        assert "Program received signal SIGINT" in output
        assert re.search(r"#\d .*main \(\)", output)
        assert "* 1    Thread 1 (CPU 0: " in output
        machine.serial.send("quit\n")
        assert machine.wait(LIMIT).code == 0


def test_monitor(guest: Guest) -> None:
    output = session(guest("hello64"), "monitor info devices", "monitor walk", "monitor nonsense", "kill")
    assert "port 0x03f8-0x03ff  COM1" in output
    assert "PML4E at" in output
    assert "no command 'nonsense'" in output


def test_kill_ends_the_run(guest: Guest) -> None:
    with Machine(guest("spin")) as machine:
        gdb(machine, "kill")
        assert machine.wait(LIMIT).reason == "killed by gdb"


# The command line


def test_pykvm_run_prints_the_command_to_type(guest: Guest, tmp_path: Path) -> None:
    image, path = guest("hello64"), tmp_path / "gdb"
    with zygote.Popen(
        [*PYKVM, "run", str(image), f"--gdb={path}"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line == f"pykvm: waiting for gdb {image} -ex 'target remote {path}'\n"
        done = subprocess.run(
            gdb_command(f"target remote {path}", "continue", symbols=image), check=False, capture_output=True,
            stdin=subprocess.DEVNULL, text=True, timeout=LIMIT,
        )  # fmt: skip
        assert "exited normally" in done.stdout
        output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert output == "Hello from 64-bit long mode!\n"


def test_pykvm_run_refuses_a_bad_address(guest: Guest) -> None:
    done = zygote.run(
        [*PYKVM, "run", str(guest("hello64")), "--gdb", ":99999"], check=False, cwd=ROOT,
        capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "gdb cannot be served at :99999" in done.stderr
    assert "Traceback" not in done.stderr
