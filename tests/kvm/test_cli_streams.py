"""Standard streams that are closed, full, or read by nobody: the status is the outcome's, and no file suffers."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zygote
from helpers import LIMIT, PYKVM, ROOT

Guest = Callable[[str], Path]

OUTCOMES = {"crash-null-call": 122, "spin": 124, "hello64": 0}
STREAMS = ["2>&-", "1>&-", "0<&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full", "-q >/dev/full", "--json >/dev/full"]
FULL = {">/dev/full": "stdout", "2>/dev/full": "stderr"}


def shell(redirections: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command line with a shell's redirections, which may have options before them."""
    *options, last = redirections.split()
    if last in FULL:
        with open("/dev/full", "wb") as full:
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, FULL[last]: full}
            done = zygote.run(
                [*PYKVM, *map(str, arguments), *options], cwd=ROOT, stdin=subprocess.DEVNULL, timeout=LIMIT, **streams
            )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout or b"", done.stderr or b"")
    # A real start: what Python itself makes of closed descriptors counts.
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", *PYKVM, *map(str, arguments)],
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
    )


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("name", OUTCOMES)
def test_the_status_is_the_outcomes_whatever_the_streams_are(guest: Guest, name: str, streams: str) -> None:
    limit = ("--timeout", 0.5) if name == "spin" else ()
    done = shell(streams, "run", guest(name), *limit)
    assert done.returncode == OUTCOMES[name]
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("streams", [">&-", "<&-", "2>&-", "<&- >&- 2>&-"])
def test_a_disk_image_never_becomes_a_standard_stream(guest: Guest, tmp_path: Path, streams: str) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"untouched".ljust(1 << 20, b"."))
    assert shell(streams, "run", guest("hello64"), "--disk", image).returncode == 0
    assert image.read_bytes() == b"untouched".ljust(1 << 20, b".")


def test_what_a_full_disk_lost_is_told(guest: Guest) -> None:
    done = shell(">/dev/full", "run", guest("hello64"))
    assert b"bytes of output were lost: No space left on device" in done.stderr


def test_other_commands_tell_of_a_full_disk() -> None:
    done = shell(">/dev/full", "info")
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_time_limit_holds_though_nobody_reads(guest: Guest, options: tuple[str, ...]) -> None:
    read, write = os.pipe()
    try:
        began = time.monotonic()
        done = zygote.run(
            [*PYKVM, "run", guest("flood"), "--timeout", "1", *options],
            check=False,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
        )
        assert done.returncode == 124
        assert time.monotonic() - began < LIMIT / 2
    finally:
        os.close(read)
        os.close(write)


def test_an_image_from_a_pipe_that_nobody_writes_is_waited_for_aloud(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with zygote.Popen([*PYKVM, "run", str(pipe)], cwd=ROOT, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"is a pipe: waiting" in process.stderr.readline()
        process.terminate()
        assert process.wait(LIMIT) == 143


AFTER_A_RUN = [("trace", ()), ("trace", ("--json",)), ("trace", ("--summary",)), ("inspect", ()), ("coverage", ())]
"""Commands whose output is what they are for."""
OTHERS = [("info", ()), ("disasm", ()), ("snapshots", ())]


def operands(command: str, guest: Guest, tmp_path: Path) -> list[object]:
    return {"info": [], "snapshots": [tmp_path]}.get(command, [guest("hello64")])


@pytest.mark.parametrize(("command", "options"), [*AFTER_A_RUN, *OTHERS])
@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-", ">/dev/full"])
def test_other_commands_without_a_standard_output(
    guest: Guest, tmp_path: Path, command: str, options: tuple[str, ...], streams: str
) -> None:
    done = shell(streams, command, *operands(command, guest, tmp_path), *options)
    nothing_to_write = command == "snapshots"  # there are none
    assert done.returncode == (2 if streams == ">/dev/full" and not nothing_to_write else 0)
    assert b"Traceback" not in done.stderr
    assert streams != ">/dev/full" or nothing_to_write or b"No space left on device" in done.stderr


@pytest.mark.parametrize("streams", [">&-", ">/dev/full"])
@pytest.mark.parametrize("command", ["screenshot", "snapshot"])
def test_commands_that_save_a_file_need_no_standard_output(
    guest: Guest, tmp_path: Path, command: str, streams: str
) -> None:
    options = ("--at", "ready") if command == "snapshot" else ()
    name = "echo" if command == "snapshot" else "hello32"
    done = shell(streams, command, guest(name), tmp_path / "saved", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "saved").exists()


def full_pipe() -> tuple[int, int]:
    """A pipe that nobody reads, and that has no room."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, bytes(4096))
    except BlockingIOError:
        os.set_blocking(write, True)
    return read, write


@pytest.mark.parametrize(("command", "options"), AFTER_A_RUN)
def test_a_stuck_reader_does_not_outlast_the_time_limit(guest: Guest, command: str, options: tuple[str, ...]) -> None:
    read, write = full_pipe()
    try:
        done = zygote.run(
            [*PYKVM, command, guest("hello64"), *options, "--timeout", "1"],
            check=False,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
        )
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == 124, done.stderr
    assert b"nobody reads it" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["trace", "disasm", "inspect"])
def test_a_reader_that_has_seen_enough_is_status_1(guest: Guest, command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = zygote.run(
            [*PYKVM, command, guest("hello64")],
            check=False,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
        )
    finally:
        os.close(write)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "trace", "inspect", "coverage"])
def test_sigterm_is_told_by_the_status(guest: Guest, command: str) -> None:
    with zygote.Popen(
        [*PYKVM, command, guest("spin"), "--timeout", "30"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + LIMIT
        while len(os.listdir(f"/proc/{process.pid}/task")) < 3:  # a vCPU's thread and the I/O thread: it runs
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.terminate()
        assert process.wait(LIMIT) == 128 + 15
