"""`pykvm snapshot`, `restore`, `snapshots`, and the options of `run`."""

from __future__ import annotations

import io
import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import zygote
from helpers import HALT, LIMIT, PYKVM, ROOT, SPIN, flat, leaves_no_traceback, pykvm

from pykvm import ConfigError, Machine
from pykvm.cli import invoke
from pykvm.cli.saving import Saver
from pykvm.snapshot import Snapshot

Guest = Callable[[str], Path]
HASH = b"hash: 4bf48828d481916b"


def test_a_snapshot_at_a_text_goes_on_from_there(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "a.pykvm"
    done = pykvm("snapshot", guest("hash"), path, "--at", "step 8\n")
    assert (done.returncode, done.stdout) == (0, b"")
    assert Snapshot.load(path).consoles[1]["output"].rstrip().endswith(b"step 8")
    done = pykvm("restore", path)
    assert done.returncode == 0
    assert HASH in done.stdout
    assert b"step 8" not in done.stdout


def test_run_goes_on_after_its_snapshot(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "a.pykvm"
    done = pykvm("run", guest("hash"), "--snapshot-at", "exits:40", "--snapshot-to", path)
    assert done.returncode == 0
    assert HASH in done.stdout
    assert b"snapshot saved" in done.stderr
    on_top = tmp_path / "b.pykvm"
    done = pykvm("restore", path, "--json", "--snapshot-at", "step 24", "--snapshot-to", on_top)
    assert HASH.decode() in json.loads(done.stdout)["serial"]
    listed = json.loads(list_of(tmp_path, "--json"))["snapshots"]
    assert [(Path(entry["path"]).name, entry["parent"], entry["cpus"]) for entry in listed] == [
        ("a.pykvm", None, 1),
        ("b.pykvm", "a.pykvm", 1),
    ]
    with Machine.from_snapshot(on_top) as machine:
        machine.run(LIMIT)
        assert HASH in machine.serial.output


def list_of(*arguments: object, status: int = 0) -> str:
    """What `pykvm snapshots` prints."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert invoke(["snapshots", *map(str, arguments)]) == status
    return out.getvalue() + err.getvalue()


def test_the_list_shows_size_age_parent_and_screen(tmp_path: Path) -> None:
    with flat(HALT) as machine:
        machine.memory.write(0xB8000, b"".join(bytes((code, 7)) for code in b"Hello, screen \x1b".ljust(2000)))
        machine.snapshot().save(tmp_path / "a.pykvm")
    text = list_of(tmp_path)
    assert "a.pykvm" in text
    assert "of 4 MiB, 1 CPU, " in text
    assert "second" in text
    assert "│Hello, screen" in text
    assert "\x1b" not in text


def test_mistakes_are_told_in_a_line(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "broken.pykvm").mkdir()
    (tmp_path / "broken.pykvm" / "state.json").write_text("{}")
    to = tmp_path / "a.pykvm"
    for arguments, told in (
        (["run", guest("hello64"), "--snapshot-at", "never", "--snapshot-to", to], b"did not come"),
        (["run", guest("hash"), "--snapshot-at", "step", "--snapshot-to", tmp_path / "no" / "a"], b"No such file"),
        (["restore", tmp_path / "broken.pykvm"], b"cannot be read"),
    ):
        done = pykvm(*arguments)
        assert done.returncode == 2
        assert told in done.stderr
        assert leaves_no_traceback([done.stdout, done.stderr])
    assert not to.exists()
    assert "broken.pykvm cannot be read" in list_of(tmp_path, status=1)
    with pytest.raises(ConfigError, match="go together"):
        Saver("step", None)


def test_gdb_finds_the_machine_where_it_was(guest: Guest, tmp_path: Path) -> None:
    """The protocol of gdb's manual, appendix E: why the machine stands still, and the registers."""
    with flat(SPIN) as machine:
        machine.snapshot().save(tmp_path / "a.pykvm")
        rip = machine.vcpus[0].get_registers().rip
    command = [*PYKVM, "restore", str(tmp_path / "a.pykvm"), f"--gdb={tmp_path / 'gdb'}"]
    with zygote.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert b"waiting for gdb" in process.stderr.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LIMIT)
            client.connect(str(tmp_path / "gdb"))
            with client.makefile("rwb") as gdb:
                for packet in (b"$?#3f", b"$g#67"):
                    gdb.write(packet)
                    gdb.flush()
                    answer = b""
                    while not re.search(rb"#..$", answer):
                        answer += gdb.read(1)
        process.terminate()
        process.communicate(timeout=LIMIT)
    # 16 general registers of 8 bytes, then RIP
    registers = answer.lstrip(b"+$")
    assert bytes.fromhex(registers[256:272].decode()) == rip.to_bytes(8, "little")


def test_a_disk_that_is_written_through_is_warned_about(guest: Guest, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    path = tmp_path / "a.pykvm"
    done = pykvm("snapshot", guest("disk"), path, "--at", "disk", "-d", image)
    assert done.returncode == 0, done.stderr
    assert b"warning: disk 0" in done.stderr


# The documentation

DOC = (ROOT / "docs/snapshots.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", DOC, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^    pykvm (.*)$", DOC, re.MULTILINE)


@pytest.mark.parametrize("number", range(2))
def test_the_documentations_python_runs(guest: Guest, number: int) -> None:
    guest("echo")
    assert len(PYTHON) == 2
    done = zygote.run([sys.executable, "-c", PYTHON[number]], check=False, cwd=ROOT, capture_output=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_documentations_commands_run_one_after_the_other(guest: Guest, tmp_path: Path) -> None:
    guest("echo")
    (tmp_path / "guests").symlink_to(ROOT / "guests")
    outputs = []
    assert len(COMMANDS) == 5
    for line in COMMANDS:
        command = [sys.executable, "-c", "from pykvm.cli import main; main()", *shlex.split(line)]
        done = subprocess.run(  # for real: each of them, once in the tests
            command, check=False, cwd=tmp_path, input=b"one\nexit 0\n", capture_output=True, timeout=LIMIT
        )
        assert done.returncode in (0, 1), (line, done.stderr)  # the guest's `exit 0` is status 1
        outputs.append(done.stdout)
    assert b"echo: one" in outputs[1]
    assert b"echo: one" in outputs[2]
    listed = outputs[-1].decode()
    assert all(f"{name}.pykvm: " in listed for name in ("ready", "later", "one"))
    assert "old, on ready.pykvm" in listed
