"""What the host refuses is told in a sentence, with status 2, and nothing else that fails is hidden."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pykvm import cli
from pykvm.outcome import Ending, Outcome

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/x"), "/dev/shm/x: No space left on device"),
        (MemoryError(), "ulimit -v"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
    ],
)
def test_the_hosts_errors_are_sentences(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli.ui.Group, "main", fail)
    assert cli.invoke([]) == 2
    assert words in capsys.readouterr().err


def test_an_error_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(cli.ui.Group, "main", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.invoke([])


@pytest.mark.parametrize(("ending", "status"), [("halted", 0), ("rebooted", 120), ("crashed", 122), ("timed out", 124)])
def test_an_outcome_knows_its_exit_status(ending: str, status: int) -> None:
    outcome = Outcome(Ending(ending), "")
    assert (outcome.exit_status, outcome.good) == (status, status == 0)


@pytest.mark.parametrize(("code", "status"), [(0, 0), (7, 7), (2 * 200 + 1, 145)])
def test_the_guests_own_code_is_the_exit_status(code: int, status: int) -> None:
    outcome = Outcome(Ending.EXITED, "", code=code)
    assert (outcome.exit_status, outcome.good) == (status, True)


def test_the_package_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pykvm", "--version"], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.startswith("pykvm, version ")
