"""What docs/testing.md shows runs as it stands there, and its picture of a failure is what pytest prints."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT

PAGE = (ROOT / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PICTURE,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def directory(tmp_path: Path, guest: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with nothing but the guests in it."""
    assert guest("shell").parent == ROOT / "guests" / "build"
    (tmp_path / "guests").symlink_to(ROOT / "guests")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def run(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, timeout=200, check=False
    )
    return done.stdout + done.stderr


def without_places(text: str) -> list[str]:
    """Lines with addresses, line numbers and names of inlined functions left out: a compiler is free to choose them."""
    return [re.sub(r"at 0x[0-9a-f]+ .*", "at ...", line.rstrip()) for line in text.splitlines()]


@pytest.mark.needs("hw-breakpoints")
def test_its_tests_and_its_picture_of_a_failure(directory: Path) -> None:
    files = [block for block in BLOCKS if "def test_" in block]
    assert len(files) == 6
    for number, block in enumerate(files):
        (directory / f"test_{number or 'shell'}.py").write_text(block)
    pytest_with_plugin = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "pykvm.testing.plugin"]
    printed = run(directory, *pytest_with_plugin)
    assert re.search(r"= 1 failed, 7 passed in", printed), printed
    said, wanted = without_places(printed), without_places(PICTURE)
    before, after = wanted[: wanted.index("...")], wanted[wanted.index("...") + 1 :]
    start = said.index(before[0])
    assert said[start : start + len(before)] == before
    at = start + len(before)
    (end,) = [where for where in range(at, at + 30) if said[where : where + len(after)] == after]
    assert all(" port " in line or "lines before" in line for line in said[at:end])


def test_its_program(directory: Path) -> None:
    (program,) = [block for block in BLOCKS if "def test_" not in block]
    assert run(directory, "-c", program) == ""
