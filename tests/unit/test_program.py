"""bin/pykvm finds its Python, wherever both are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "bin" / "pykvm"


def install(directory: Path) -> Path:
    """What an installation puts into `directory`: the program, and the Python beside it."""
    directory.mkdir(parents=True)
    program = directory / "pykvm"
    program.write_bytes(PROGRAM.read_bytes())
    program.chmod(0o755)
    python = directory / "python3"
    # A link would be an environment without what this one has; as a script it takes this one's place.
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" FOUND="$0" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return program


def version(command: list[str | Path], **options: object) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert not done.stderr
    return str(done.stdout)


@pytest.mark.parametrize("name", ["plain", "with a blank", 'it\'s "quoted" $HOME', "long" * 50, "-dash"])
def test_the_program_runs_from_any_directory(tmp_path: Path, name: str) -> None:
    program = install(tmp_path / name / "bin")
    assert version([program, "--version"]).startswith("pykvm, version ")
    assert version(["sh", "pykvm", "--version"], cwd=program.parent).startswith("pykvm, version ")


def test_the_program_runs_through_a_link_and_from_the_path(tmp_path: Path) -> None:
    program = install(tmp_path / "a venv" / "bin")
    link = tmp_path / "pykvm"
    link.symlink_to(program)
    assert version([link, "--version"]).startswith("pykvm, version ")
    path = f"{program.parent}:{os.environ['PATH']}"
    assert version(["pykvm", "--version"], env={**os.environ, "PATH": path}).startswith("pykvm, version ")


def test_words_reach_the_program_as_they_are(tmp_path: Path) -> None:
    program = install(tmp_path / "bin")
    done = subprocess.run([program, "run", "no such  file*"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'no such  file*'" in done.stderr


def test_the_first_line_is_no_name_of_a_python() -> None:
    assert PROGRAM.read_bytes().startswith(b"#!/bin/sh\n"), "pip would put a path there, with blanks or too long"


def test_the_program_in_qemus_place_is_the_same_but_for_its_words() -> None:
    other = (PROGRAM.parent / "pykvm-qemu-system-x86_64").read_text()
    assert other.rpartition("'''")[0] == PROGRAM.read_text().rpartition("'''")[0] != ""
    assert other.endswith('main(["qemu"])\n')
