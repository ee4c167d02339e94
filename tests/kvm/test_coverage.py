"""`pykvm coverage`: the lines that a run executed, and lcov's own tool reading them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LIMIT, ROOT, leaves_no_traceback, pykvm

Guest = Callable[[str], Path]


def records(path: Path) -> dict[str, dict[int, int]]:
    """The lines' counts by source file."""
    found: dict[str, dict[int, int]] = {}
    source = ""
    for line in path.read_text().splitlines():
        kind, _, rest = line.partition(":")
        if kind == "SF":
            source = rest
        elif kind == "DA":
            number, count = rest.split(",")
            found.setdefault(source, {})[int(number)] = int(count)
    return found


def line_of(path: Path, text: str) -> int:
    (number,) = [at for at, line in enumerate(path.read_text().splitlines(), 1) if text in line]
    return number


def test_executed_lines_are_counted_and_others_are_zero(guest: Guest, tmp_path: Path) -> None:
    out = tmp_path / "kernel.info"
    done = pykvm("coverage", guest("hello64"), "-o", out, "-t", LIMIT)
    assert done.returncode == 0
    found = records(out)
    hello, power = ROOT / "guests/hello64.c", ROOT / "guests/lib/power.c"
    assert found[str(hello)][line_of(hello, "serial_init();")] == 1
    assert found[str(hello)][line_of(hello, "printf(")] == 1
    assert found[str(power)][line_of(power, "outw(PM1A_CONTROL")] == 1
    assert found[str(power)][line_of(power, "for (;;)") + 1] == 0  # what follows the power-off is never executed
    assert b"guests/hello64.c" in done.stdout


def test_the_table_for_programs(guest: Guest) -> None:
    done = pykvm("coverage", guest("hello64"), "--json")
    files = json.loads(done.stdout)["files"]
    functions = files[str(ROOT / "guests/hello64.c")]["functions"]
    assert functions["main"]["calls"] == 1
    assert files[str(ROOT / "guests/lib/power.c")]["functions"]["halt"]["calls"] == 0


def test_a_32_bit_kernel(guest: Guest) -> None:
    done = pykvm("coverage", guest("hello32"), "--json")
    (file,) = json.loads(done.stdout)["files"].values()
    assert sum(count > 0 for count in file["lines"].values()) > 10


@pytest.mark.needs("genhtml")
def test_genhtml_makes_a_report_of_it(guest: Guest, tmp_path: Path) -> None:
    out = tmp_path / "kernel.info"
    assert pykvm("coverage", guest("hello64"), "-o", out).returncode == 0
    done = subprocess.run(
        ["genhtml", out, "-o", tmp_path / "html"], check=False, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    counts = records(out)
    hit = sum(count > 0 for lines in counts.values() for count in lines.values())
    total = sum(map(len, counts.values()))
    assert re.search(rf"\({hit} of {total} lines\)", done.stdout)
    assert list((tmp_path / "html").rglob("hello64.c.gcov.html"))


@pytest.mark.parametrize("name", ["hello16", "spin"])
def test_images_without_line_tables(guest: Guest, tmp_path: Path, name: str) -> None:
    path = guest(name)
    if name == "spin":  # an ELF file without them
        subprocess.run(["strip", "-g", "-o", tmp_path / "spin.elf", path], check=True)
        path = tmp_path / "spin.elf"
    done = pykvm("coverage", path)
    assert done.returncode == 2
    assert b"line tables" in done.stderr or b"debug information" in done.stderr
    assert leaves_no_traceback([done.stderr])
