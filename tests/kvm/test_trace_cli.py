"""`pykvm trace` as a shell sees it: the list, the summary, JSON lines, the time line, mistakes, closed pipes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import zygote
from helpers import EXIT_AL, HALT, LIMIT, PYKVM, ROOT, SPIN, hexcode, leaves_no_traceback, pykvm
from perfetto_sql import query

Guest = Callable[[str], Path]
FLAT = ("--format", "flat", "--mode", "64")

SLICES = """
    select process.name as process, thread.name as thread, count(*) as slices, min(slice.dur) as shortest
    from slice
    join thread_track on slice.track_id = thread_track.id
    join thread using (utid)
    join process using (upid)
    group by process, thread
"""
ERRORS = "select name, value from stats where value > 0 and severity in ('error', 'data_loss')"


@pytest.fixture
def image(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(code: bytes) -> Path:
        path = tmp_path / "guest.bin"
        path.write_bytes(code)
        return path

    return write


def test_the_list_and_the_summary(guest: Guest) -> None:
    done = pykvm("trace", guest("hello64"))
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0].split() == ["ms", "cpu", "access", "instruction", "run", "served"]
    assert any("COM1 THR <- 'H'" in line and "out dx, al" in line and "serial_write+" in line for line in lines)
    assert any("ACPI PM PM1_CNT <- SLP_EN" in line for line in lines)
    titles = [line for line in lines if line and line[0].isalpha()]
    assert titles[:4] == ["By kind", "By device and register", "By place", "Time of each vCPU's thread, ms"]
    assert titles[4:] in ([], ["What KVM counted, in the kernel and out of it"])
    assert done.stderr.startswith(b"pykvm: exited: the guest powered the machine off")
    assert b"\x1b" not in done.stdout


def test_the_summary_alone(guest: Guest) -> None:
    done = pykvm("trace", guest("hello64"), "--summary")
    lines = done.stdout.decode().splitlines()
    assert lines[1] == "By kind"
    assert not any("<-" in line for line in lines)
    (row,) = [line.split() for line in lines if line.startswith("  COM1 THR ")]
    assert row[2] == "29"  # the characters of its one line


def test_json_lines(guest: Guest) -> None:
    done = pykvm("trace", guest("hello64"), "--json")
    *events, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert last["summary"]["exits"] == len(events)
    assert last["outcome"]["ending"] == "exited"
    assert {"COM1", "ACPI PM"} == {event["device"] for event in events}
    assert done.stderr == b""


def test_filters_and_limit(guest: Guest) -> None:
    done = pykvm("trace", guest("hello64"), "--json", "--only", "acpi")
    assert [json.loads(line)["device"] for line in done.stdout.splitlines()[:-1]] == ["ACPI PM"]
    done = pykvm(
        "trace", guest("hello64"), "--json", "--address", "0x3f8-0x3f9", "--kind", "pio", "--cpu", 0, "--limit", 5
    )
    *events, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["address"] for event in events] == [0x3F9, 0x3F8, 0x3F9, 0x3F8, 0x3F8]
    assert last["outcome"]["ending"] == "stopped"


def test_instructions(image: Callable[[bytes], Path]) -> None:
    path = image(hexcode("b0 07  e6 80") + EXIT_AL + HALT)
    done = pykvm("trace", path, *FLAT, "--instructions")
    assert done.returncode == 15
    rows = [line.split(maxsplit=3) for line in done.stdout.decode().splitlines()[:3]]
    assert [(row[2], row[3].split("  ")[-1].strip()) for row in rows] == [
        ("100000", "mov al, 7"),
        ("100002", "out 0x80, al"),
        ("100004", "out 0xf4, al"),
    ]


def test_the_exit_status_is_the_guests(image: Callable[[bytes], Path]) -> None:
    assert pykvm("trace", image(hexcode("b0 03") + EXIT_AL + HALT), *FLAT, "--summary").returncode == 7
    assert pykvm("trace", image(hexcode("0f 0b")), *FLAT, "--summary").returncode == 122


def test_ctrl_c_ends_the_run_and_leaves_the_summary(image: Callable[[bytes], Path]) -> None:
    path = image(hexcode("e6 80") + SPIN)
    process = zygote.Popen(
        [*PYKVM, "trace", path, *FLAT, "-t", str(LIMIT)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"served" in process.stdout.readline()
        assert b"port 0x80" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
        assert process.wait(LIMIT) == 130
        assert leaves_no_traceback([process.stderr.read()])
    assert b"By kind" in output


def test_a_guest_that_is_talked_to(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    process = zygote.Popen(
        [*PYKVM, "trace", guest("echo"), "--out", path, "--terminal", "-t", str(LIMIT)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"  # before that, it would throw away what comes
        process.stdin.write(b"hello\nexit 3\n")
        process.stdin.close()
        output = process.stdout.read()
        assert process.wait(LIMIT) == 7
    assert b"echo: hello" in output
    assert b"By kind" in output
    names = [entry["name"] for entry in json.loads(path.read_text())["traceEvents"]]
    assert "COM1 RBR -> 'h'" in names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--address", "all"], b"--address all: give a number"),
        (["--address", "9-5"], b"the last must not be less"),
        (["--kind", "nonsense"], b"nonsense"),
        (["--out", "/nowhere/x.json"], b"/nowhere/x.json: No such file"),
        (["--out", "/dev/full"], b"/dev/full: No space left"),
        (["--instructions", "--only", "com"], b"--instructions goes with"),
        (["--limit", "0"], b"limit"),
        (["--terminal"], b"--terminal goes with"),
    ],
)
def test_mistakes_are_told_in_words(guest: Guest, options: list[str], words: bytes) -> None:
    done = pykvm("trace", guest("hello64"), *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert leaves_no_traceback([done.stdout, done.stderr])


def test_a_reader_that_has_seen_enough(image: Callable[[bytes], Path]) -> None:
    """`pykvm trace | head`: the run of a guest that never ends is ended, without a traceback."""
    path = image(hexcode("e6 80 eb fc"))
    process = zygote.Popen(
        [*PYKVM, "trace", path, *FLAT, "-t", str(LIMIT)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().split()[0] == b"ms"
        process.stdout.close()
        assert process.wait(LIMIT / 2) == 1
        assert leaves_no_traceback([process.stderr.read()])


def test_a_time_line(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    done = pykvm("trace", guest("hello64"), "--out", path)
    assert done.returncode == 0
    assert b"<-" not in done.stdout
    entries = json.loads(path.read_text())["traceEvents"]
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for entry in entries:
        if entry["ph"] == "X":
            tracks.setdefault((entry["pid"], entry["tid"]), []).append((entry["ts"], entry["ts"] + entry["dur"]))
    assert len(tracks) == 3  # a vCPU, COM1, ACPI PM
    for spans in tracks.values():
        # Slices of a track that overlap must be nested, and these never are: the next begins when one has ended.
        assert all(before[1] <= after[0] + 0.001 for before, after in pairwise(spans))


# The documentation

DOC = (ROOT / "docs/tracing.md").read_text()
COMMANDS = re.findall(r"^    pykvm (.*)$", DOC, re.MULTILINE)
EXAMPLES = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_documentation(guest: Guest, tmp_path: Path, line: str) -> None:
    guest("hello64")
    (tmp_path / "guests").symlink_to(ROOT / "guests")
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    done = zygote.run(
        [*PYKVM, *line.split(), "--timeout", str(LIMIT)],
        cwd=tmp_path, check=False, capture_output=True, timeout=LIMIT + 10,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_documentation(guest: Guest, number: int) -> None:
    guest("user")
    done = zygote.run(
        [sys.executable, "-c", EXAMPLES[number]], cwd=ROOT, check=False, capture_output=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr


def test_the_documentation_has_some() -> None:
    assert len(COMMANDS) >= 12
    assert len(EXAMPLES) == 2


def test_the_time_line_is_read_by_perfetto(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert pykvm("trace", guest("hello64"), "--out", path).returncode == 0
    rows, errors = query(path, SLICES, ERRORS)
    assert errors == []
    tracks = {(row["process"], row["thread"]): (row["slices"], row["shortest"]) for row in rows}
    assert tracks.keys() == {("vCPUs", "vCPU 0"), ("devices", "COM1"), ("devices", "ACPI PM")}
    assert tracks["devices", "ACPI PM"][0] == 1
    assert tracks["vCPUs", "vCPU 0"][0] == 2 * (tracks["devices", "COM1"][0] + 1)
    assert all(shortest > 0 for _, shortest in tracks.values())
