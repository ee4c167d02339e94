"""Programs beside a machine: what they inherit, and that none is left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pykvm.errors import ConfigError
from pykvm.program import Program

ROOT = Path(__file__).parents[2]


def is_there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_it_has_the_descriptors_and_says_what_is_wrong() -> None:
    read, write = os.pipe()
    program = Program(
        ["sh", "-c", "echo $LISTEN_FDS of $LISTEN_PID >&3; echo 'no  good' >&2; cat"], [write], "dash", listening=1
    )
    os.close(write)
    program.ready()
    with open(read) as pipe:
        assert pipe.read() == f"1 of {program.pid}\n"  # and `cat` had nothing to read
    select.select([program.fileno()], [], [])
    assert os.getpgid(0) != program.pid
    assert program.end(1) == "no good"
    assert program.end() == ""
    assert not is_there(program.pid)


def test_descriptors_may_be_those_of_the_others() -> None:
    pairs = [os.pipe() for _ in range(3)]
    program = Program(
        ["sh", "-c", "echo a >&3; echo b >&4; echo c >&5"], [write for _, write in reversed(pairs)], "dash"
    )
    program.ready()
    select.select([program.fileno()], [], [])
    assert [os.read(read, 10) for read, _ in pairs] == [b"c\n", b"b\n", b"a\n"]
    program.end()
    for pair in pairs:
        for fd in pair:
            os.close(fd)


def test_it_is_ended() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for command in ("exec sleep 1000", "trap '' TERM; while :; do sleep 1000; done"):
        program = Program(["sh", "-c", command], [], "dash")
        program.ready()
        program.end()
        assert not is_there(program.pid)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_one_that_is_forgotten_is_ended() -> None:
    program = Program(["sleep", "1000"], [], "coreutils")
    pid = program.pid
    del program
    assert not is_there(pid)


DIES = """
import os, signal, sys
from pykvm.program import Program
program = Program(["sleep", "1000"], [], "coreutils")
if sys.argv[1] == "ready":
    program.ready()
print(program.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["starting", "ready"])
def test_who_dies_before_it_is_ready_leaves_none(when: str) -> None:
    """Once it is ready it must end by itself, which `sleep` does not."""
    words = [sys.executable, "-c", DIES, when]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        end = os.pidfd_open(int(process.stdout.readline()))
    ended = bool(select.select([end], [], [], 0.2 if when == "ready" else 30)[0])
    assert ended is (when == "starting")
    if not ended:
        signal.pidfd_send_signal(end, signal.SIGKILL)
    os.close(end)


def test_what_is_not_installed() -> None:
    with pytest.raises(
        ConfigError, match="takes no-such-program, which is not installed: on Debian, `apt-get install x`"
    ):
        Program(["no-such-program"], [], "x")
