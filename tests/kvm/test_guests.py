"""Every guest of guests/, on whatever KVM: how it ends, and each line that it prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers import BRIEF, LIMIT, ROOT

from pykvm import Ending, Machine
from pykvm.net.loopback import NoNet

Guest = Callable[[str], Path]


@dataclass(frozen=True)
class Run:
    """`lines` are regular expressions. Each of `typed` is sent when the text before it has come.

    `options` is given an empty directory and returns the machine's.
    """

    lines: list[str]
    ending: Ending = Ending.EXITED
    code: int | None = 0
    typed: list[tuple[str, str]] = field(default_factory=list)
    options: Callable[[Path], dict[str, Any]] = lambda tmp_path: {}
    needs: tuple[str, ...] = ()
    limit: float = LIMIT


HALTED = {"ending": Ending.HALTED, "code": None}
CRASHED = {"ending": Ending.CRASHED, "code": None}


def with_a_slave(tmp_path: Path) -> dict[str, Any]:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(64 * 512))
    return {"disks": [None, disk]}


FAULT = "caught #{} at rip 0x4000[0-9a-f]{{4}}, error code 0x{}"
PAGE_FAULT = FAULT + ", cr2 0x{}: {} page"
ABOUT_TO_DIE = ["crash: about to die", "driver 1: starting"]

RUNS = {
    "hello16": Run(["Hello from 16-bit real mode!"]),
    "hello32": Run(["Hello from 32-bit protected mode!"]),
    "trampoline32": Run(
        ["memory 0000027f", "range  00000000 0009fc00 00000001", "range  0009fc00 00000400 00000002", "ticks  00000001"]
    ),
    "hello64": Run(["Hello from 64-bit long mode!"]),
    "bios": Run(
        [
            "bios: a boot sector",
            "bios: the rest is loaded",
            "bios: memory at 00000000, size 0009FC00, type 01",
            "bios: memory at 0009FC00, size 00000400, type 02",
            "bios: memory at 000E0000, size 00010000, type 03",
            "bios: memory at 000F0000, size 00010000, type 02",
            "bios: memory at 00100000, size 07F00000, type 01",
            "bios: two ticks; press keys, Escape ends",
            "bios: key 1E61",
            "bios: key 011B",
            "bios: bye",
        ],
        typed=[("press keys", "a\x1b")],
        **HALTED,
    ),
    "echo": Run(["ready", "echo: one", "echo: two  words"], typed=[("ready\n", "one\ntwo  words\nexit 20\n")], code=41),
    "hpet": Run(
        [
            "hpet: 3 timers, vendor 8086, 100000 kHz",
            "hpet: no more interrupts than periods",
            "hpet: it stands",
            "hpet: the PIT is back",
        ]
    ),
    "shell": Run(
        [r"\$ hi", r"\$ allocated", r"\$ sector 7: no disk", r"\$ what is ls\?", r"\$ # 6 commands", "# "],
        typed=[("$ ", "echo hi\nallocate\nread 7\nls\nlogin root\ncommands\nexit 20\n")],
        code=41,
    ),
    "shell32": Run(
        [r"\$ hi", r"\$ allocated", r"\$ no disk", r"\$ what is ls\?", r"\$ # 6 commands", "# "],
        typed=[("$ ", "echo hi\nallocate\nread 7\nls\nlogin root\ncommands\nexit 20\n")],
        code=41,
    ),
    "timer": Run(
        [
            r"pit: \d+ interrupts at 100 Hz",
            r"lapic: \d+ counts meanwhile: its clock runs at \d+ kHz",
            r"lapic: \d+ interrupts at 200 Hz",
            r"ratio: \d+\.\d\d lapic interrupts a pit interrupt",
            "timer: ok",
        ]
    ),
    "smp": Run(["smp: 3 CPUs", "cpu 0: 7", "cpu 1: 7", "cpu 2: 7", "total: 21"], options=lambda tmp_path: {"cpus": 3}),
    "user": Run(
        [
            "program 1 says hello: hello from ring 3, exited",
            "program 2 executes HLT: " + FAULT.format("GP", 0),
            "program 3 reads a port: " + FAULT.format("GP", 0),
            "program 4 reads address 0: " + PAGE_FAULT.format("PF", 4, 0, "read of an absent"),
            "program 5 writes to the kernel: " + PAGE_FAULT.format("PF", 7, 100000, "write to a protected"),
            "program 6 writes to its code: " + PAGE_FAULT.format("PF", 7, "4000[0-9a-f]{4}", "write to a protected"),
            "program 7 executes UD2: " + FAULT.format("UD", 0),
            "program 8 divides by zero: " + FAULT.format("DE", 0),
            "program 9 executes its stack: caught #PF at rip 0x50000ff0, error code 0x15, cr2 0x50000ff0: "
            "execution of a protected page",
            "user: 8 faults caught",
        ]
    ),
    "paged32": Run(
        [
            "paged32: the kernel runs at 0xc0000000, RAM's first 4 MiB",
            "hello from ring 3, by int 0x80",
            "page fault: ring 3 writes to 0x40002000, where no page is, at eip 0x400000[0-9a-f]{2}",
            "write: refused to read 0xc0100000 for ring 3",
            "exit: 0x0000001c",  # 42, from the new page, and EFAULT, which is -14
        ],
        code=28 * 2 + 1,
        needs=("paging32",),
    ),
    "disk": Run(
        [
            "primary master: nothing",
            'primary slave: "PYKVM HARDDISK", 64 sectors',
            "secondary master: nothing",
            "secondary slave: nothing",
            r"wrote sectors 8 to 11 \(SECTORS, LBA28\)",
            r"wrote sectors 12 to 15 \(MULTIPLE, LBA28\)",
            r"wrote sectors 16 to 19 \(SECTORS, LBA48\)",
            r"wrote sectors 20 to 23 \(MULTIPLE, LBA48\)",
            "flushed",
            r"read sectors 8 to 11 \(MULTIPLE, LBA28\)",
            r"read sectors 12 to 15 \(SECTORS, LBA48\)",
            r"read sectors 16 to 19 \(MULTIPLE, LBA48\)",
            r"read sectors 20 to 23 \(SECTORS, LBA28\)",
            "checksum ff17cd4a",
            "disk: ok",
        ],
        options=with_a_slave,
    ),
    "net": Run(
        [
            "net: mac [0-9a-f:]{17}, ip 10.0.0.2",
            "ready",
            "ip 10.1.2.3",
            "stats: 0 received, 0 sent, 0 overruns, 0 errors",
        ],
        typed=[("ready\n", "ip 10.1.2.3\nstats\nquit\n")],
        options=lambda tmp_path: {"nics": [NoNet()]},
    ),
    "hash": Run(["hashing", "step 8", "step 16", "step 24", "hash: 4bf48828d481916b"]),
    "crash-panic-halt": Run([*ABOUT_TO_DIE, r"oops: #PF at rip 0x\w+, cr2 0x700000000000"], **HALTED),
    "crash-prot32": Run([], **CRASHED),
    "crash-real16": Run([], **CRASHED),
    "spin": Run([], Ending.TIMED_OUT, None, limit=BRIEF),
    **{
        f"crash-{way}": Run(ABOUT_TO_DIE, **CRASHED)
        for way in (
            "bad-stack", "divide", "idt-not-present", "idt-unmapped", "no-idt", "non-canonical", "null-call",
            "stack-overflow", "write-readonly", "wrong-gate",
        )
    },
}  # fmt: skip

ELSEWHERE = {
    "pci": "test_pci.py: it has cards to drive there",
    "clocks": "test_engine.py: a pause is told by it",
    "msrs": "test_msrs.py: it does what it is told",
    "crash-sse": "test_machine_run.py: it ends as the KVM can or cannot run it",
    "demo": "test_machine_net.py: its table says what the machine has",
    "internet": "test_machine_user_net.py: it speaks with the host's network",
    **dict.fromkeys(("chaos", "flood", "deaf"), "test_machine_hostile.py: they never end"),
    **{
        f"crash-{way}": "test_crash_reports.py: it dies by the rules, and the report says which"
        for way in (
            "bad-iret", "bad-selector", "calm-halt", "error-code-left", "error-code-storm", "fault-again", "gate-selector", "gdt32", "handler-halts", "handler-unmapped",
            "idt-base-forgotten", "interrupt-no-idt",
            "irq-gate-empty", "irq-no-eoi", "irq-no-gate", "irq-not-remapped", "irq-ret", "irq-ret-wait", "single-step", "sti32", "ist-missing", "jump-to-nothing", "long32", "no-execute",
            "no-kernel-stack", "no-tss", "paging32", "reserved-bit", "wild-jump",
        )
    },
    **{
        f"crash-{way}": "test_crash_ways.py: it dies by the rules, and the report says which"
        for way in (
            "apic-no-eoi", "apic-no-gate", "cr3-virtual", "cr3-virtual64", "gate-data", "handler-faults", "idt-8-bytes",
            "into-zeros", "iret-no-ring", "irq-gate-data", "null-call-halts", "own-trap-flag", "pte-shifted", "smashed",
            "stack-in-code", "swapgs-missing", "syscall-no-lstar", "user-page-kernels",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "run"),
    [pytest.param(name, run, id=name, marks=pytest.mark.needs(*run.needs)) for name, run in RUNS.items()],
)
def test_it_prints_its_lines_and_ends_as_it_should(guest: Guest, name: str, run: Run, tmp_path: Path) -> None:
    with Machine(guest(name), **run.options(tmp_path)) as machine:
        machine.start(run.limit)
        for text, answer in run.typed:
            machine.serial.wait_for(text)
            machine.serial.send(answer)
        outcome = machine.wait()
        text = machine.serial.text
    lines = text.splitlines()
    for line, wanted in zip(lines, run.lines, strict=False):
        assert re.fullmatch(wanted, line)
    assert len(lines) == len(run.lines), text
    assert (outcome.ending, outcome.code) == (run.ending, run.code), outcome


def test_no_guest_is_forgotten(guest: Guest) -> None:
    guest("hello64")
    built = {path.stem for path in (ROOT / "guests" / "build").iterdir() if path.suffix in (".elf", ".bin")}
    assert built == RUNS.keys() | ELSEWHERE.keys()
