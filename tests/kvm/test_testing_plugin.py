"""The pytest plugin, in runs of pytest of its own: each is dear, so that one tells of many promises."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LIMIT, PYKVM, ROOT, STATE_LOST

from pykvm import Machine

pytest_plugins = "pytester"

Guests = Callable[[str], Path]
Run = Callable[..., pytest.RunResult]

CONFIG = """
[tool.pytest.ini_options]
pykvm_kernel = "{kernel}"
pykvm_until = "$ "
pykvm_memory = "16M"
pykvm_timeout = "30"
filterwarnings = "error"
"""


@pytest.fixture
def run(pytester: pytest.Pytester, guest: Guests, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs pytest with the plugin alone, over `files` (name to content), whose kernel is the guest "shell"."""

    def run(
        files: dict[str, str], *options: str, plugins: tuple[str, ...] = (), stdin: bytes = b""
    ) -> pytest.RunResult:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
        (pytester.path / "pyproject.toml").write_text(CONFIG.format(kernel=guest("shell")))
        for name, content in files.items():
            (pytester.path / name).write_text(content)
        with_plugins = [part for plugin in ("pykvm.testing.plugin", *plugins) for part in ("-p", plugin)]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *with_plugins, *options]
        return pytester.run(*command, stdin=stdin or pytester.CLOSE_STDIN, timeout=200)

    return run


SETTINGS = """
import os, re
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pykvm.testing import Mismatch

def test_defaults(machine):
    assert machine.machine.memory.size == 16 << 20
    machine.send("login one\\n")
    machine.serial.expect("# ")

def test_nothing_of_the_test_before_is_left(machine):
    assert machine.read("current->name") == "sh"
    machine.send("echo $HOME\\n")
    assert machine.serial.expect(re.compile("(.)HOME\\n")).groups() == ("$",)

@pytest.mark.pykvm(memory="8M", cpus=2)
def test_the_marker_wins(machine):
    assert (machine.machine.memory.size, len(machine.machine.vcpus)) == (8 << 20, 2)

@pytest.mark.pykvm(KERNEL32)
def test_another_kernel(machine):
    assert machine.read("commands") == 0
    assert machine.variable("current").size == 4

# Points

@pytest.fixture(scope="session")
def shell(pykvm_rig):
    return pykvm_rig.boot(KERNEL, until="$ ", memory="16M")

@pytest.fixture(scope="session")
def logged_in(shell):
    return shell.then(lambda guest: (guest.send("login root\\n"), guest.serial.expect("# ")))

@pytest.mark.pykvm(at="logged_in")
def test_at_a_point(machine, shell, logged_in):
    assert machine.read("current->name") == "root"
    assert logged_in.snapshot.parent_id == shell.snapshot.id

SEEN = []

@pytest.mark.pykvm(at="logged_in", isolation="reset")
@pytest.mark.parametrize("number", range(3))
def test_reset(machine, number):
    SEEN.append(machine.machine)
    assert len(set(SEEN)) == 1
    assert machine.read("commands") == 1
    machine.write("commands", 1000)

# An example costs a reset

BOOTS = []

@settings(max_examples=20, deadline=None)
@given(word=st.text("abcxyz", min_size=1, max_size=8))
def test_examples(shell, word):
    with shell.again() as machine:
        BOOTS.append(machine.machine)
        assert machine.read("commands") == 0
        machine.send(f"echo {word}\\n")
        machine.serial.expect(word + "\\n$ ")

def test_the_examples_were_of_one_machine():
    assert len(BOOTS) >= 20
    assert len(set(BOOTS)) == 1
"""


def test_settings_points_and_examples(run: Run, guest: Guests) -> None:
    given = SETTINGS.replace("KERNEL32", repr(str(guest("shell32")))).replace("KERNEL", repr(str(guest("shell"))))
    run({"test_it.py": given}, plugins=("_hypothesis_pytestplugin",)).assert_outcomes(passed=10)


FAILURES = """
import pytest

def test_wrong(machine):
    machine.send("echo hullo\\n")
    machine.serial.expect("hello", timeout=1)

def test_crash(machine):
    machine.send("crash\\n")
    machine.serial.expect("$ ")

@pytest.fixture(scope="session")
def shell(pykvm_rig):
    return pykvm_rig.boot(KERNEL, until="$ ", memory="16M")

def test_in_a_block(shell):
    with shell.again() as machine:
        machine.write("commands", 7)
        assert machine.read("commands") == 8

@pytest.fixture(scope="module")
def never(pykvm_rig):
    return pykvm_rig.boot(KERNEL, until="login: ", memory="16M", timeout=1)

def test_does_not_boot(never):
    pass

def test_good(machine):
    machine.send("exit 1\\n")
    assert machine.wait().code == 3
"""


def test_failures_and_what_is_kept_of_them(run: Run, guest: Guests, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    result = run({"test_it.py": FAILURES.replace("KERNEL", repr(str(guest("shell"))))}, "--pykvm-artifacts", str(kept))
    result.assert_outcomes(passed=1, failed=3, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*Mismatch: COM1: 'hello' did not come: 1 s are over. Instead:",
            "E *- hello", "E *+ hullo",
            "*- pykvm: guest -*", "running", "CPU 0: at 0x*",
            "*- pykvm: serial port, the end -*", "$ hullo",
            "*- pykvm: last exits -*", "out port 0x3f8 24  COM1 THR",
            "*- pykvm: kept -*", "pykvm restore * --gdb",
        ]
    )  # fmt: skip
    result.stdout.fnmatch_lines(
        ["*- pykvm: crash -*", "triple fault on CPU 0*", "*CPU that died*" if STATE_LOST else "*`ud2` is *"]
    )
    result.stdout.fnmatch_lines(["*Mismatch: COM1: 'login: ' did not come: 1 s are over. Instead:"])
    directories = sorted(path.name.rpartition("-")[0] for path in kept.iterdir())
    assert directories == [f"test_it.py-test_{name}" for name in ("crash", "does_not_boot", "in_a_block", "wrong")]
    (crash,) = kept.glob("test_it.py-test_crash-*")
    assert (crash / "serial.log").read_bytes() == b"$ "
    assert (crash / "screen.png").read_bytes()[:4] == b"\x89PNG"
    assert ("CPU that died" if STATE_LOST else "`ud2`") in (crash / "crash.txt").read_text()
    (wrong,) = kept.glob("test_it.py-test_wrong-*")
    with Machine.from_snapshot(wrong / "snapshot") as machine:
        machine.start(30)
        machine.serial.send("echo on\n")
        machine.serial.wait_for("on\n$ ", 30)
    opened_in_gdb(wrong / "snapshot", tmp_path / "gdb")


def opened_in_gdb(snapshot: Path, at: Path) -> None:
    """The command that the report names waits for gdb, and answers its first packet: why the machine stands still."""
    command = [*PYKVM, "restore", str(snapshot), f"--gdb={at}"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            assert b"waiting for gdb" in process.stderr.readline()
            with socket.socket(socket.AF_UNIX) as gdb:
                gdb.settimeout(LIMIT)
                gdb.connect(os.fspath(at))
                gdb.sendall(b"$?#3f")
                said = b""
                while b"#" not in said:
                    piece = gdb.recv(4096)
                    assert piece, said
                    said += piece
                assert said.lstrip(b"+").startswith((b"$T", b"$S"))
        finally:
            process.terminate()
            process.communicate(timeout=LIMIT)


def test_a_debugger_finds_the_guest_as_it_was(run: Run) -> None:
    test = "def test_it(machine):\n    machine.write('commands', 77)\n    machine.serial.expect('never', timeout=0.2)\n"
    commands = b"p 'here', machine.read('commands') + 1\np machine.where()\nq\n"
    result = run({"test_it.py": test}, "--pdb", stdin=commands)
    result.stdout.fnmatch_lines(["*'here', 78*", "*0x*<*"])


WORKERS = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_many(machine, number):
    machine.send(f"echo {number}\\n")
    machine.serial.expect(f"{number}\\n$ ")

def test_wrong(machine):
    machine.serial.expect("never", timeout=0.2)
"""


def test_in_several_processes(run: Run, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    result = run({"test_it.py": WORKERS}, "-n", "2", "--pykvm-artifacts", str(kept), plugins=("xdist",))
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*- pykvm: guest -*", "*- pykvm: kept -*"])
    assert len(list(kept.iterdir())) == 1


LIMITS = """
import time
import pytest
from pykvm.testing import Mismatch

MACHINES = []

def test_hangs(machine):
    MACHINES.append(machine.machine)
    machine.send("spin\\n")
    while True:
        time.sleep(0.1)

def test_the_guest_was_ended():
    assert MACHINES[0].engine.closed

class TestLimits:
    pytestmark = pytest.mark.pykvm(limit=0.5, timeout=20)

    def test_fork(self, machine):
        machine.send("spin\\n")
        assert machine.wait().ending == "timed out"

    @pytest.mark.pykvm(isolation="reset")
    @pytest.mark.parametrize("number", range(2))
    def test_reset(self, machine, number):
        machine.send("spin\\n")
        assert machine.wait().ending == "timed out"

@pytest.mark.pykvm(timeout=0.2)
def test_timeout(machine):
    with pytest.raises(Mismatch, match="0.2 s are over"):
        machine.serial.expect("never")
"""


def test_limits_end_the_guest(run: Run) -> None:
    result = run({"test_it.py": LIMITS}, "--timeout", "5", plugins=("pytest_timeout",))
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*Timeout*"])


@pytest.mark.needs("own-mounts")
def test_without_kvm(run: Run, pytester: pytest.Pytester, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nmount --bind /dev/null /dev/kvm && exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    run({"test_it.py": "def test_it(machine): pass\n"}, "--collect-only")
    command = [
        "unshare",
        "-m",
        str(script),
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "pykvm.testing.plugin",
        "-rs",
    ]
    result = pytester.run(*command)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * no KVM: /dev/kvm *"])
    result = pytester.run(*command, "--pykvm-required")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["no KVM: /dev/kvm *"])


MISTAKES = """
import pytest

@pytest.mark.pykvm(isolation="none")
def test_isolation(machine): pass

@pytest.mark.pykvm(memory="1K")
def test_memory(machine): pass

@pytest.mark.pykvm("there-is-none.elf")
def test_kernel(machine): pass

@pytest.mark.pykvm(colour="red")
def test_option(machine): pass

@pytest.mark.pykvm("a.elf", "b.elf")
def test_two(machine): pass

@pytest.fixture
def nowhere(): return 5

@pytest.mark.pykvm(at="nowhere")
def test_at(machine): pass
"""


def test_mistakes_are_told_without_tracebacks(run: Run) -> None:
    result = run({"test_it.py": MISTAKES})
    result.assert_outcomes(errors=6)
    result.stdout.fnmatch_lines(
        [
            """pykvm: isolation is "fork" or "reset", not 'none'""",
            "pykvm: RAM of 1K is not possible: *",
            "pykvm: *there-is-none.elf*",
            "pykvm: *colour*",
            "pykvm: the marker takes one kernel, not 2",
            "pykvm: the fixture 'nowhere' is no point: *",
        ]
    )
    result.stdout.no_fnmatch_line("*plugin.py*")
