"""Files that are there already: a command replaces what it has made itself, and nothing else without --force."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LIMIT, pykvm

Guest = Callable[[str], Path]

COMMANDS = [("screenshot", ()), ("screenshot", ("--text",)), ("trace", ("--out",)), ("coverage", ("--out",))]


def run(command: str, kernel: Path, options: tuple[str, ...], file: Path, *more: str) -> tuple[int, bytes]:
    done = pykvm(command, kernel, *options, file, "-t", LIMIT, *more)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(("command", "options"), COMMANDS)
def test_another_file_stays_as_it_is(guest: Guest, tmp_path: Path, command: str, options: tuple[str, ...]) -> None:
    file = tmp_path / "thesis.tex"
    file.write_text("a year's work")
    status, words = run(command, guest("hello32"), options, file)
    assert status == 2
    assert b"--force" in words
    assert file.read_text() == "a year's work"
    assert run(command, guest("hello32"), options, file, "--force")[0] == 0
    assert file.read_bytes()[:14] != b"a year's work"


@pytest.mark.parametrize(("command", "options"), COMMANDS)
def test_what_it_has_made_is_made_anew(guest: Guest, tmp_path: Path, command: str, options: tuple[str, ...]) -> None:
    file = tmp_path / "made"
    file.touch()  # an empty file, as mktemp leaves it, is no loss
    assert run(command, guest("hello32"), options, file)[0] == 0
    assert file.stat().st_size
    again = run(command, guest("hello32"), options, file)[0]
    assert again == (2 if "--text" in options else 0), "text has nothing that it could be known by"


def test_a_device_is_no_file(guest: Guest) -> None:
    assert run("screenshot", guest("hello32"), (), Path("/dev/null"))[0] == 0


def test_a_snapshot_replaces_snapshots_alone(guest: Guest, tmp_path: Path) -> None:
    place = tmp_path / "thesis"
    place.mkdir()
    (place / "chapter.tex").write_text("a year's work")
    done = pykvm("snapshot", guest("echo"), place, "--at", "ready", "-t", LIMIT)
    assert done.returncode == 2
    assert b"is no snapshot: it is not replaced" in done.stderr
    assert [path.name for path in place.iterdir()] == ["chapter.tex"]
