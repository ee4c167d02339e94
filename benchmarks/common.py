"""What the benchmarks share: the C peers' compiler, rounds in turn, medians, tables for people and JSON for programs.

Times are in nanoseconds wherever they have no unit in their name. The machine that measures is taken to be noisy: the
contestants take turns in many short rounds, and a ratio is the median of the rounds' own ratios, so that whatever
slows one round down slows both sides of its ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GUESTS = ROOT / "guests" / "build"
C_FLAGS = ("-O2", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")

Measured = TypeVar("Measured")
Cell = str | int | float | None


class Skip(Exception):
    """This machine lacks what a benchmark, or one of its contestants, needs; the message names it."""


@dataclass(frozen=True)
class Settings:
    """What the command line chose: few rounds or many, and how to print."""

    quick: bool
    as_json: bool

    def rounds(self, many: int, few: int) -> int:
        """`few` with --quick, else `many`."""
        return few if self.quick else many


@dataclass
class Table:
    """A title, headings, rows of text and numbers, and notes. A ratio column is one whose heading has "/"."""

    title: str
    headings: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def benchmark(measure: Callable[[Settings], list[Table]], description: str) -> None:
    """The `main` of each benchmark: reads the command line, measures, prints. Without KVM it says so and succeeds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few rounds: figures within seconds, but rough")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    settings = Settings(arguments.quick, arguments.json)
    try:
        need(os.access("/dev/kvm", os.R_OK | os.W_OK), "/dev/kvm")
        tables = measure(settings)
    except Skip as skip:
        print(json.dumps({"skipped": str(skip)}) if settings.as_json else f"skipped: {skip}")
        return
    if settings.as_json:
        print(json.dumps({"host": host(), "tables": [vars(table) for table in tables]}, indent=1))
        return
    print(_style("2", host()))
    for table in tables:
        show(table)


def need(given: object, what: str) -> None:
    """Skip unless `given` is true; `what` says what is missing."""
    if not given:
        raise Skip(f"this machine has no {what}")


def host() -> str:
    """Date, CPU, kernel and load: what figures mean nothing without."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{date.today()}, {model}, {os.cpu_count()} CPUs, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def guest(name: str) -> Path:
    """A built test guest."""
    path = GUESTS / name
    need(path.exists(), f"{path.relative_to(ROOT)}: run ./build_guests.sh")
    return path


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory for what is compiled, which goes away with it."""
    return tempfile.TemporaryDirectory(prefix="pykvm-bench-")


def compile_c(source: str, directory: str, *flags: str) -> Path:
    """Compile `source`, a file beside this one, into `directory`; returns the program's path."""
    need(shutil.which("gcc"), "gcc")
    program = Path(directory) / Path(source).stem
    subprocess.run(["gcc", *C_FLAGS, *flags, "-o", program, HERE / source], check=True)
    return program


def output_of(*command: str | Path) -> str:
    """What a program prints on standard output. CalledProcessError if it fails."""
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout


def in_turn(contestants: Mapping[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """Call every contestant once a round, in the order A B C, then C B A, and so on, so that drift favours nobody.

    One more round goes first and is not counted: it fills caches.
    """
    results: dict[str, list[Measured]] = {name: [] for name in contestants}
    for turn in range(-1, rounds):
        for name in contestants if turn % 2 == 0 else reversed(list(contestants)):
            result = contestants[name]()
            if turn >= 0:
                results[name].append(result)
    return results


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios. `ours` and `theirs` are in the same order of rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def spread(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The middle half of the rounds' ratios, as text."""
    low, _, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    return f"{low:.2f}..{high:.2f}"


def _style(code: str, text: str) -> str:
    wanted = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\033[{code}m{text}\033[0m" if wanted else text


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def show(table: Table) -> None:
    """Print it, numbers to the right, ratios in bold where the output is a terminal."""
    texts = [[_text(cell) for cell in row] for row in table.rows]
    widths = [max(len(row[at]) for row in [list(table.headings), *texts]) for at in range(len(table.headings))]
    to_right = [any(isinstance(row[at], int | float) for row in table.rows) for at in range(len(widths))]

    def line(cells: Sequence[str], code: str | None = None) -> str:
        parts = []
        for cell, width, right, heading in zip(cells, widths, to_right, table.headings, strict=True):
            part = cell.rjust(width) if right else cell.ljust(width)
            style = code or ("1" if "/" in heading else None)
            parts.append(_style(style, part) if style else part)
        return "  " + "  ".join(parts).rstrip()

    print(f"\n{_style('1', table.title)}")
    print(line(table.headings, "2"))
    for row in texts:
        print(line(row))
    for note in table.notes:
        print(f"  {_style('2', note)}")
