"""A short run of all fuzz targets; that the runner finds what is broken, says how to see it again, and makes it short."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.fuzz import __main__ as runner  # noqa: E402
from tests.fuzz import targets  # noqa: E402
from tests.fuzz.target import Parser, Random, Target, attempt, mutate, shorten  # noqa: E402


def test_all_targets_for_some_seconds() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "3", "--seed", "1"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = {line.split()[0]: line.split()[1] for line in run.stdout.splitlines() if line}
    for target in targets.every():
        assert int(rows[target.name].replace(",", "")) > 0


class Broken(Target):
    """Fails at a 7 that comes anywhere behind a 3."""

    name = "broken"
    alone = False
    unit = "numbers"

    def draw(self, source: Random) -> list[Any]:
        return source.choices(range(10), k=1000)

    def run(self, inputs: Iterator[Any]) -> None:
        armed = False
        for given in inputs:
            armed = armed or given == 3
            if armed and given == 7:
                raise IndexError("a bug")


class BrokenParser(Parser):
    """Fails at an X in an input, and refuses a Y in a documented way."""

    name = "broken parser"
    errors = (ValueError,)

    def one(self, source: Random) -> bytes:
        return mutate(source, b"some text", (b"X", b"Y"))

    def feed(self, given: bytes) -> None:
        if b"Y" in given:
            raise ValueError("refused")
        if b"X" in given:
            raise IndexError("a bug")


def test_a_failing_sequence_becomes_short() -> None:
    target = Broken()
    failure = attempt(target, target.draw(Random(1)))
    assert failure is not None
    assert failure.where[0] == "IndexError"
    assert failure.inputs[-1] == 7
    assert shorten(target, failure).inputs == [3, 7]
    assert attempt(target, [7, 3, 3]) is None


def test_a_failing_input_becomes_short() -> None:
    target = BrokenParser()
    failure = attempt(target, [b"fine", b"Y", b"it has an X in it", b"X"])
    assert failure is not None
    assert len(failure.inputs) == 3
    assert shorten(target, failure).inputs == [b"X"]


def test_an_input_that_takes_too_long_is_a_failure() -> None:
    class Endless(Parser):
        patience = 0.1

        def feed(self, given: int) -> None:
            with suppress(Exception):
                while given:
                    pass

    failure = attempt(Endless(), [0, 0, 1, 0])
    assert failure is not None
    assert failure.where[0] == "Slow"
    assert failure.inputs == [0, 0, 1]


@pytest.mark.parametrize("target", [Broken(), BrokenParser()])
def test_a_failure_is_told_and_can_be_had_again(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "DIRECTORY", tmp_path)
    monkeypatch.setattr(targets, "every", lambda: [target])
    monkeypatch.setattr(sys, "argv", ["fuzz", "--seconds", "0", "--processes", "1", "--seed", "5"])
    assert runner.main() == 1
    told = capsys.readouterr().out
    assert "IndexError at test_fuzz_short.py" in told
    (path,) = tmp_path.iterdir()
    assert f"--again {path}" in told
    monkeypatch.setattr(sys, "argv", ["fuzz", "--again", str(path)])
    assert runner.main() == 1
    assert "IndexError: a bug" in capsys.readouterr().out
