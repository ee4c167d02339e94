"""From the shell's exec to the exit of a process that runs a guest of one line: pykvm, QEMU and a bare C program.

QEMU is started as a person would start it for such a guest (-kernel), which runs its firmware first, and in the leanest
way there is (-bios with the guest as the firmware), which pykvm has no need of. Its machines without ACPI cannot be
switched off by guests/hello32.S, so benchmarks/line.S, which ends on all of them, is what QEMU runs there.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from common import ROOT, Settings, Skip, Table, benchmark, compile_c, guest, in_turn, median, need, ratio, scratch

PYKVM = Path(sys.executable).parent / "pykvm"
PYTHON = sys.executable
QEMU = "qemu-system-x86_64"
OURS = "pykvm run hello64"
MACHINES = ("pc", "isapc", "microvm")
TIME_LIMIT = 60
SLOW = 1.0
"""Seconds: what takes longer has few rounds."""
SLOW_ROUNDS = 3
MODULES_SHOWN = 25

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
"""For all contestants. Above all without PYTHONDONTWRITEBYTECODE, under which Python compiles pykvm at every start."""


def run(command: list[str | Path], line: bytes = b"") -> tuple[float, float]:
    """Wall-clock and CPU seconds of a process from exec to exit. Skip if it does not print `line`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT, timeout=TIME_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise Skip(f"{Path(command[0]).name} was not done after {TIME_LIMIT} s") from None
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if line not in done.stdout:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["nothing on standard error"])[-1]
        raise Skip(f"{Path(command[0]).name} did not print the guest's line: {last}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def line_contestants(directory: str) -> Iterator[tuple[str, list[str | Path], bytes]]:
    """(name, command, what it prints)."""
    link = ("-m32", "-nostdlib", "-static", "-Wl,--build-id=none")
    script = ROOT / "guests" / "lib" / "link.ld"
    elf = compile_c("line.S", directory, *link, "-Wl,-z,max-page-size=4096", f"-Wl,-T,{script}")
    elf = elf.rename(elf.with_suffix(".elf"))
    firmware = compile_c("line.S", directory, *link, "-DFIRMWARE", "-Wl,-Ttext=0", "-Wl,--oformat=binary")
    firmware = firmware.rename(firmware.with_suffix(".bin"))
    common = f"{QEMU} -accel kvm -cpu qemu64 -display none -serial stdio -monitor none".split()
    yield "pykvm run line", [PYKVM, "run", elf], b"Hello"
    exit_port: list[str | Path] = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    yield "QEMU pc -kernel hello32", [*common, "-M", "pc", "-kernel", guest("hello32.elf")], b"Hello"
    for machine in MACHINES:
        if machine != "pc":
            yield f"QEMU {machine} -kernel line", [*common, *exit_port, "-M", machine, "-kernel", elf], b"Hello"
        lean: list[str | Path] = [*common, *exit_port, "-nodefaults", "-M", machine, "-bios", firmware]
        yield f"QEMU {machine} -bios line", lean, b"Hello"


def compare(directory: str, settings: Settings) -> Table:
    commands: dict[str, tuple[list[str | Path], bytes]] = {
        OURS: ([PYKVM, "run", guest("hello64.elf")], b"Hello"),
        "pykvm run hello32": ([PYKVM, "run", guest("hello32.elf")], b"Hello"),
        "bare C hello64": ([compile_c("create.c", directory), guest("hello64.elf"), "0"], b"Hello"),
    }
    notes = [
        f"Ratios: {OURS} against each; the target is less than 1 against each QEMU -kernel.",
        "-kernel runs QEMU's firmware first, -bios has none.",
        "hello32 and line are Multiboot and PVH; QEMU's pc enters them by Multiboot.",
    ]
    if shutil.which(QEMU):
        for name, command, line in line_contestants(directory):
            commands[name] = command, line
    else:
        notes.append(f"QEMU is left out: this machine has no {QEMU}.")

    rounds: dict[str, int] = {}
    for name, (command, line) in commands.items():
        try:
            took = run(command, line)[0]
        except Skip as skip:
            notes.append(f"{name} is left out: {skip}.")
            continue
        rounds[name] = SLOW_ROUNDS if took > SLOW else settings.rounds(30, 5)

    table = Table("Exec to exit, ms", ["", "wall", "CPU", "pykvm/this", "rounds"], notes=notes)
    need(OURS in rounds, f"working {OURS}")
    for few in sorted(set(rounds.values()), reverse=True):
        group = [name for name in rounds if rounds[name] == few or name == OURS]
        results = in_turn({name: partial(run, commands[name][0]) for name in group}, few)
        for name in group:
            if rounds[name] != few:
                continue
            wall, cpu = zip(*results[name], strict=True)
            against = None if name == OURS else ratio([wall for wall, _ in results[OURS]], wall)
            table.rows.append([name, median(wall) * 1000, median(cpu) * 1000, against, few])
    return table


def stages(settings: Settings) -> Table:
    """What a start of pykvm consists of: each stage does all that the one before it does, and more."""
    image = guest("hello64.elf")
    commands: dict[str, list[str | Path]] = {
        "Python alone (-I -S)": [PYTHON, "-I", "-S", "-c", "pass"],
        "+ site, the editable install": [PYTHON, "-c", "pass"],
        "+ import pykvm.cli": [PYTHON, "-c", "import pykvm.cli"],
        "+ import pykvm.cli.run, machine, loader": [PYTHON, "-c", "import pykvm.cli.run, pykvm.boot.elf"],
        "+ a machine made and closed": [
            PYTHON,
            "-c",
            f"import pykvm.cli.run; from pykvm import Machine; Machine({str(image)!r}).close()",
        ],
        OURS: [PYKVM, "run", image],
    }
    calls: dict[str, Callable[[], tuple[float, float]]] = {name: partial(run, line) for name, line in commands.items()}
    results = in_turn(calls, settings.rounds(30, 5))
    table = Table("Where pykvm's start goes, ms", ["up to", "wall", "CPU", "this stage's wall"])
    before = 0.0
    for name, times in results.items():
        wall, cpu = (median(column) * 1000 for column in zip(*times, strict=True))
        table.rows.append([name, wall, cpu, wall - before])
        before = wall
    return table


def imports(settings: Settings) -> Table:
    """The modules that a run imports, by their own time, medians over several runs of -X importtime."""
    own: dict[str, list[int]] = {}
    command: list[str | Path] = [PYTHON, "-X", "importtime", PYKVM, "run", guest("hello64.elf")]
    for _ in range(settings.rounds(10, 3)):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT, check=True)
        for match in re.finditer(rb"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr):
            own.setdefault(match[2].decode(), []).append(int(match[1]))
    middle = {name: median(times) for name, times in own.items()}
    table = Table(f"Imports, µs of their own, the {MODULES_SHOWN} slowest of {len(middle)}", ["module", "own"])
    table.rows = [[name, round(middle[name])] for name in sorted(middle, key=middle.__getitem__, reverse=True)]
    ours = sum(took for name, took in middle.items() if name.split(".")[0] == "pykvm")
    del table.rows[MODULES_SHOWN:]
    table.notes.append(
        f"Together {sum(middle.values()) / 1000:.1f} ms, of it pykvm's own {ours / 1000:.1f}; measuring slows it down."
    )
    return table


def measure(settings: Settings) -> list[Table]:
    need(PYKVM.exists(), f"{PYKVM}: install pykvm into this Python's environment")
    with scratch() as directory:
        return [compare(directory, settings), stages(settings), imports(settings)]


if __name__ == "__main__":
    benchmark(measure, __doc__.splitlines()[0])
