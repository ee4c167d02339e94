"""--json of every command is one envelope, and the commands' own parts are where they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import pykvm

from pykvm import Machine, __version__, cli

Guest = Callable[[str], Path]

OWN = {
    "run": {"ending", "reason", "code", "value", "elapsed", "exits", "serial", "report"},
    "restore": {"ending", "reason", "code", "value", "elapsed", "exits", "serial", "report"},
    "info": {"kernel", "device", "api_version", "back_end", "capabilities"},
    "trace": {"summary", "outcome"},
    "coverage": {"files"},
    "inspect": {"cpu", "tables", "pages", "devices", "chips"},
    "disasm": {"instructions"},
    "snapshots": {"snapshots"},
    "grade": {"lab", "possible", "submissions"},
}
"""What each command's envelope has besides."""


def test_these_are_all_commands_with_json() -> None:
    with_json = {
        name for name in cli.COMMANDS if any("--json" in option.names for option in cli.find_command(name).options)
    }
    assert with_json == set(OWN)


@pytest.mark.parametrize("command", OWN)
def test_the_envelope_is_the_same(guest: Guest, tmp_path: Path, command: str) -> None:
    saved = tmp_path / "state.pykvm"
    with Machine(guest("hello64")) as machine:
        machine.snapshot().save(saved)
    lab = tmp_path / "lab.toml"
    lab.write_text('[lab]\nkernel = "k"\n[[test]]\nname = "t"\nending = "exited"\n')
    own = {"info": [], "restore": [saved], "snapshots": [tmp_path], "grade": [lab, guest("hello64")]}
    operands = own.get(command, [guest("hello64")])
    done = pykvm(command, *operands, "--json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 or command in ("trace", "disasm")
    last = json.loads(lines[-1])
    assert (last["command"], last["version"], last["status"]) == (command, __version__, 0)
    assert set(last) >= OWN[command]
    for line in lines[:-1]:
        assert "command" not in json.loads(line)


def test_a_failure_has_the_envelope_too(capsys: pytest.CaptureFixture[str]) -> None:
    for command in OWN:
        for words in (["--json", "/nowhere/at/all"], ["--no-such-option", "--json"]):
            status = cli.invoke([command, *words])
            text, errors = capsys.readouterr()
            last = json.loads(text)
            assert (last["command"], last["version"], last["status"], status) == (command, __version__, 2, 2)
            assert last["error"] in errors
    assert cli.invoke(["screenshot", "--json"]) == 2  # it has no such option
    assert cli.invoke(["run", "--no-such-option"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["run", "trace"])
def test_the_status_is_the_exit_status(guest: Guest, command: str) -> None:
    done = pykvm(command, guest("crash-null-call"), "--json")
    assert done.returncode == json.loads(done.stdout.splitlines()[-1])["status"] == 122


def test_a_snapshot_that_cannot_be_read_is_status_1(tmp_path: Path) -> None:
    (tmp_path / "bad.pykvm").mkdir()
    (tmp_path / "bad.pykvm" / "state.json").write_text("?")
    done = pykvm("snapshots", tmp_path, "--json")
    assert done.returncode == json.loads(done.stdout)["status"] == 1
