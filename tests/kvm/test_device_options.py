"""A device with an option of its own is one file, `beeper_option.py`, and one line, in the fixture here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import EXIT_AL, LIMIT, ROOT, flat, hexcode

from pykvm import ConfigError, Machine, Snapshot, SnapshotError, device_options

ASK = hexcode("66 ba 60 02; mov dx, 0x260\n ec; in al, dx") + EXIT_AL


@pytest.fixture
def beeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_options, "MODULES", [*device_options.MODULES, "beeper_option"])


def pykvm(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line of a pykvm that has the line, started for real: its options are made at its imports."""
    line = "from pykvm import device_options; device_options.MODULES.append('beeper_option')"
    command = [sys.executable, "-c", f"{line}; from pykvm.cli import main; main()", *map(str, words)]
    environ = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.mark.usefixtures("beeper")
def test_it_is_a_keyword_of_machine() -> None:
    with flat(ASK, beeper=44) as machine:
        assert machine.run(LIMIT).value == 44
    with flat(ASK) as machine:
        assert machine.run(LIMIT).value == 0xFF, "no beeper by default"
    with pytest.raises(ConfigError, match="does not hum"):
        flat(ASK, beeper=0)


def test_without_the_line_there_is_no_such_keyword() -> None:
    known = ", ".join(option.name for option in device_options.device_options())
    with pytest.raises(TypeError, match=f"'beeper': there are {known}$"):
        flat(ASK, beeper=44)


@pytest.mark.usefixtures("beeper")
def test_a_snapshot_knows_it_and_a_fork_has_it(tmp_path: Path) -> None:
    with flat(ASK, beeper=44) as machine:
        snapshot = machine.snapshot()
        snapshot.save(tmp_path / "humming")
    for each in (snapshot, Snapshot.load(tmp_path / "humming")):
        with each.fork() as fork:
            assert fork.run(LIMIT).value == 44
        with pytest.raises(SnapshotError, match="another machine"):
            each.fork(beeper=45)
    with flat(ASK) as silent, pytest.raises(SnapshotError, match="another machine"):
        silent.restore(snapshot)


@pytest.mark.usefixtures("beeper")
@pytest.mark.parametrize("value", ['"x"', "0", "[]", "true", "1e3"])
def test_what_a_saved_snapshot_says_of_it_is_checked(tmp_path: Path, value: str) -> None:
    from hashlib import sha256

    with flat(ASK, beeper=44) as machine:
        machine.snapshot().save(tmp_path / "s")
    state = tmp_path / "s" / "state.json"
    changed = state.read_text().replace('"beeper": 44', f'"beeper": {value}')
    assert changed != state.read_text()
    state.write_text(changed)
    (tmp_path / "s" / "state.json.sha256").write_text(f"{sha256(changed.encode()).hexdigest()}  state.json\n")
    with pytest.raises(SnapshotError, match="beeper|damaged"):
        Snapshot.load(tmp_path / "s")


def test_a_snapshot_of_what_is_not_there_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(device_options, "MODULES", [*device_options.MODULES, "beeper_option"])
        with flat(ASK, beeper=44) as machine:
            machine.snapshot().save(tmp_path / "s")
    with pytest.raises(SnapshotError, match="beeper"):
        Snapshot.load(tmp_path / "s")


def test_the_command_line_has_it_with_its_help(tmp_path: Path) -> None:
    image = tmp_path / "ask.bin"
    image.write_bytes(ASK)
    words: Sequence[str | Path] = ("run", image, "--format", "flat", "--mode", "64", "--json")
    done = pykvm(*words, "--beeper", "44")
    assert json.loads(done.stdout)["value"] == 44
    assert "A beeper that hums so." in pykvm("run", "--help").stdout
    refused = pykvm(*words, "--beeper", "0")
    assert (refused.returncode, "does not hum" in refused.stderr) == (2, True)


def test_every_option_says_what_it_is() -> None:
    options = device_options.device_options()
    assert len({option.name for option in options}) == len(options)
    for option in options:
        assert option.__doc__
        assert bool(option.flags) == bool(option.help)


def test_machines_are_as_they_were_made() -> None:
    with Machine(memory="4M", serial_ports=2) as machine:
        assert machine.pc.options == {
            "serial_ports": 2,
            "nics": [],
            "cdrom": 0,
            "cards": None,
            "virtio_disks": 0,
            "devices": [],
        }
