"""A hundred test cases of one kernel: by forks, by resets, by a boot each, and by a boot of QEMU each.

A case goes from a kernel at its prompt through a command typed to its answer. The kernel is guests/shell.c in 32 bits,
which both start. QEMU is given the case as a person's script gives it, by its standard input and output, in the leanest
machine that starts such a kernel (microvm), and in the usual one (pc), which runs its firmware first.

The other tables are the price of the fixture: a guest lent and taken back beside a fork of the snapshot by itself, in a
loop and in runs of pytest.
"""

from __future__ import annotations

import os
import resource
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import Settings, Skip, Table, benchmark, guest, in_turn, median, output_of, ratio, scratch

from pykvm import Machine
from pykvm.kvm import wait_closed
from pykvm.testing import Guest, Point, Rig

CASES = 100
QEMU = "qemu-system-x86_64"
PROMPT = b"$ "
PATIENCE = 30.0


def case(one: Guest, number: int) -> None:
    one.send(f"echo case {number}\n")
    one.serial.expect(f"case {number}\n$ ")


def by_lending(lend: Callable[[], Guest], cases: int) -> None:
    for number in range(cases):
        with lend() as one:
            case(one, number)


def by_boots(kernel: Path, cases: int) -> None:
    for number in range(cases):
        with Machine(kernel, memory="16M") as machine:
            machine.start(PATIENCE)
            machine.serial.wait_for(PROMPT, PATIENCE)
            machine.serial.send(f"echo case {number}\n")
            machine.serial.wait_for(f"case {number}\n$ ", PATIENCE)


def by_qemu(kernel: Path, kind: str, cases: int) -> None:
    command = [QEMU, "-accel", "kvm", "-cpu", "qemu64", "-m", "16M", "-M", kind, "-nodefaults", "-display", "none",
               "-serial", "stdio", "-kernel", os.fspath(kernel)]  # fmt: skip
    for number in range(cases):
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                assert process.stdin is not None
                said = read_until(process, b"", PROMPT)
                process.stdin.write(b"echo case %d\n" % number)
                process.stdin.flush()
                read_until(process, said, b"case %d\n$ " % number)
            finally:
                process.kill()


def read_until(process: subprocess.Popen[bytes], said: bytes, text: bytes) -> bytes:
    assert process.stdout is not None
    end = time.monotonic() + PATIENCE
    while text not in said.replace(b"\r", b""):
        ready = select.select([process.stdout], [], [], max(end - time.monotonic(), 0))[0]
        piece = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not piece:
            raise Skip(f"{QEMU} did not come to {text!r}")
        said += piece
    return said


def timed(work: Callable[[int], None], cases: int) -> float:
    """Milliseconds a case, wall-clock."""
    began = time.perf_counter()
    work(cases)
    return (time.perf_counter() - began) * 1000 / cases


def cases(shell: Point, kernel: Path, settings: Settings) -> Table:
    """Rounds in turn; QEMU's pc, which takes seconds a case, has a few cases only."""
    number = settings.rounds(CASES, 10)
    work: dict[str, tuple[Callable[[int], None], int]] = {
        "a fork each": (partial(by_lending, shell.fork), number),
        "a reset each": (partial(by_lending, shell.again), number),
        "a boot each": (partial(by_boots, kernel), number),
    }
    table = Table(f"{number} cases, ms a case", ["", "ms a case", "QEMU microvm/this", "QEMU pc/this"])
    rivals = {"QEMU microvm, a boot each": ("microvm", number), "QEMU pc, a boot each": ("pc", 2)}
    if shutil.which(QEMU) is None:
        table.notes.append(f"QEMU is left out: this machine has no {QEMU}.")
        rivals = {}
    for name, (kind, many) in rivals.items():
        try:
            by_qemu(kernel, kind, 1)
        except Skip as skip:
            table.notes.append(f"{name} is left out: {skip}.")
        else:
            work[name] = partial(by_qemu, kernel, kind), many
    results = in_turn({name: partial(timed, *one) for name, one in work.items()}, settings.rounds(5, 2))
    for name, times in results.items():
        against = [ratio(results[rival], times) if rival in results and name != rival else None for rival in rivals] + [
            None
        ] * (2 - len(rivals))
        table.rows.append([name, median(times), *against])
    ours, theirs = (resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    table.notes.append(f"Largest resident memory: this process {ours} MiB, a QEMU {theirs} MiB.")
    table.notes.append("Targets: QEMU/fork 20, QEMU/boot 2.")
    return table


def fixture(shell: Point, settings: Settings) -> Table:
    """What lending costs beside the fork: the guests sleep until they are ended."""

    def bare() -> float:
        began = time.perf_counter()
        with shell.snapshot.fork() as machine:
            machine.start(PATIENCE)
        return (time.perf_counter() - began) * 1000

    def lent(lend: Callable[[], Guest]) -> float:
        began = time.perf_counter()
        with lend():
            pass
        return (time.perf_counter() - began) * 1000

    results = in_turn(
        {"bare fork": bare, "fork()": partial(lent, shell.fork), "again()": partial(lent, shell.again)},
        settings.rounds(200, 30),
    )
    table = Table("A guest begun and ended, ms", ["", "ms", "more than the bare fork"])
    for name, times in results.items():
        more = median([one - other for one, other in zip(times, results["bare fork"], strict=True)])
        table.rows.append([name, median(times), None if name == "bare fork" else more])
    return table


TESTS = {
    "bare fork": """
import pytest

@pytest.fixture(scope="session")
def shell(pykvm_rig):
    return pykvm_rig.boot({kernel!r}, until="$ ", memory="16M")

@pytest.mark.parametrize("number", range({tests}))
def test_it(shell, number):
    with shell.snapshot.fork() as machine:
        machine.start(30)
""",
    "the fixture": """
import pytest

@pytest.mark.pykvm({kernel!r}, until="$ ", memory="16M")
@pytest.mark.parametrize("number", range({tests}))
def test_it(machine, number):
    pass
""",
}


def through_pytest(kernel: Path, settings: Settings) -> Table:
    """Whole runs of pytest: what starts and ends them is in both."""
    tests = settings.rounds(200, 30)

    def run(content: str) -> float:
        with scratch() as directory:
            (Path(directory) / "test_it.py").write_text(content.format(kernel=os.fspath(kernel), tests=tests))
            began = time.perf_counter()
            output_of(
                sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={directory}", directory
            )
            return (time.perf_counter() - began) * 1000 / tests

    results = in_turn({name: partial(run, content) for name, content in TESTS.items()}, settings.rounds(9, 2))
    table = Table(f"pytest, {tests} tests, ms a test", ["", "ms a test", "more than the bare fork"])
    for name, times in results.items():
        more = median([one - other for one, other in zip(times, results["bare fork"], strict=True)])
        table.rows.append([name, median(times), None if name == "bare fork" else more])
    table.notes.append("Target: at most 2 ms more.")
    return table


def measure(settings: Settings) -> list[Table]:
    kernel = guest("shell32.elf")
    with Rig(timeout=PATIENCE) as rig:
        shell = rig.boot(kernel, until="$ ", memory="16M")
        asleep = rig.boot(guest("shell.elf"), until="$ ", memory="16M")
        tables = [fixture(asleep, settings), cases(shell, kernel, settings)]
    tables.append(through_pytest(guest("shell.elf"), settings))
    wait_closed()
    return tables


if __name__ == "__main__":
    benchmark(measure, __doc__.splitlines()[0])
