"""Line tables, counts and lcov tracefiles: of a program compiled here, of rows made by hand, and of broken files."""

from __future__ import annotations

import io
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.boot import Span
from pykvm.kvm.vcpu import Position
from pykvm.trace.coverage import Counts, CoverageError, Row, SourceFile, cover, line_rows, write_lcov

SOURCE = """\
static int twice(int number)
{
    return 2 * number;
}

__attribute__((noinline)) int unused(void)
{
    return 3;
}

void _start(void)
{
    volatile int sum = 0;
    for (int i = 0; i < 10; i++)
        sum += twice(i);
    for (;;)
        ;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("coverage")
    (home / "program.c").write_text(SOURCE)
    command = (
        "gcc -g -O0 -ffreestanding -nostdlib -static -no-pie -fno-pic -Wl,--build-id=none -o program.elf program.c"
    )
    subprocess.run(command.split(), cwd=home, check=True)
    return home / "program.elf"


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("version", [4, 5])
def test_the_line_table_of_a_compiled_program(program: Path, tmp_path: Path, version: int) -> None:
    other = tmp_path / "program.elf"
    command = f"gcc -gdwarf-{version} -O0 -ffreestanding -nostdlib -static -no-pie -fno-pic -o {other} program.c"
    subprocess.run(command.split(), cwd=program.parent, check=True)
    rows = line_rows(str(other))
    assert {row.path for row in rows} == {str(program.parent / "program.c")}
    assert all(row.start < row.end for row in rows)
    lines = {row.line for row in rows}
    assert {2, 3, 7, 8, 12, 13, 14, 15} <= lines
    assert not lines & {1, 5, 6, 10}


@pytest.mark.needs("gcc")
def test_a_program_without_debug_information(program: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped.elf"
    subprocess.run(["strip", "-o", stripped, program], check=True)
    with pytest.raises(CoverageError, match="compile with -g"):
        line_rows(str(stripped))


@pytest.mark.needs("gcc")
@settings(max_examples=60)
@given(data=st.data())
def test_broken_files_are_refused_in_words(
    program: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(program.read_bytes())
    for _ in range(data.draw(st.integers(1, 12))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    path = tmp_path_factory.mktemp("broken") / "broken.elf"
    path.write_bytes(content[: cut or len(content)])
    with suppress(CoverageError):  # whatever is wrong with it, nothing else is raised
        line_rows(str(path))


ROWS = [
    Row(0x1000, 0x1000 + 4, "a.c", 1),
    Row(0x1004, 0x1010, "a.c", 2),
    Row(0x1010, 0x1014, "b.h", 7),
    Row(0x1014, 0x1018, "a.c", 2),
    Row(0x1018, 0x1020, "a.c", 4),
]


def test_a_line_counts_as_often_as_its_most_executed_instruction() -> None:
    counts = Counter({0x1000: 1, 0x1004: 5, 0x1008: 4, 0x1010: 3, 0x1014: 9})
    files = cover(ROWS, counts, [("main", 0x1000), ("helper", 0x1010), ("unused", 0x1018), ("data", 0x9000)])
    assert files["a.c"].lines == {1: 1, 2: 9, 4: 0}
    assert files["b.h"].lines == {7: 3}
    assert files["a.c"].functions == {"main": (1, 1), "unused": (4, 0)}
    assert files["b.h"].functions == {"helper": (7, 3)}


def test_the_tracefile() -> None:
    files = {"/b.c": SourceFile({1: 2, 3: 0}, {"f": (1, 2), "g": (3, 0)}), "/a.c": SourceFile({5: 1}, {})}
    out = io.StringIO()
    write_lcov(out, files, "kernel")
    assert out.getvalue().splitlines() == [
        "TN:kernel", "SF:/a.c", "FNF:0", "FNH:0", "DA:5,1", "LF:1", "LH:1", "end_of_record",
        "TN:kernel", "SF:/b.c", "FN:1,f", "FN:3,g", "FNDA:2,f", "FNDA:0,g", "FNF:2", "FNH:1",
        "DA:1,2", "DA:3,0", "LF:2", "LH:1", "end_of_record",
    ]  # fmt: skip


def test_a_kernel_of_the_upper_half_counts_from_its_physical_addresses_on() -> None:
    high = 0xFFFFFFFF80000000
    counts = Counts()
    for address in (0x100000, 0x100004, high + 0x100004, 0x7C00):
        counts.count(None, Position(address, 64, 0))  # type: ignore[arg-type]  # which CPU does not matter
    assert counts.relocated([Span(high + 0x100000, 0x100000, 0x1000)], 0) == {
        high + 0x100000: 1,
        high + 0x100004: 2,
        0x7C00: 1,
    }


def test_a_program_that_was_moved() -> None:
    counts = Counts()
    counts.count(None, Position(0x101000, 64, 0))  # type: ignore[arg-type]
    assert counts.relocated([Span(0x100000, 0x100000, 0x2000)], 0x100000) == {0x1000: 1}
