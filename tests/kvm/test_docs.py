"""What the documentation shows runs as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import zygote

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
PAGES = (ROOT / "README.md").read_text() + "".join(
    (ROOT / f"docs/{name}.md").read_text() for name in ("booting", "pci")
)
BLOCKS = re.findall(r"```python\n(.*?)```", PAGES, re.DOTALL)
COMMANDS = re.findall(r"^((?:    truncate .*\n)?)    \.venv/bin/(pykvm .*)$", PAGES, re.MULTILINE)
"""Each with what must be done before it."""


TIMED_OUT = 124
"""A command that shows a guest which never ends has a time limit."""


def run(argv, cwd=ROOT):
    # Only what is a file of its own is started for real.
    start = zygote.run if argv[0] == "-c" else subprocess.run
    done = start([sys.executable, *argv], cwd=cwd, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == (TIMED_OUT if argv[-2:] == ["--timeout", "1"] else 0), done.stderr
    return done.stdout


def test_there_is_something_to_run():
    assert len(EXAMPLES) == 4
    assert len(BLOCKS) >= 5
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path):
    assert run([path])


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python(guest, number):
    guest("hello64")
    run(["-c", BLOCKS[number]])


@pytest.mark.parametrize(("before", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_command(guest, before, line, tmp_path):
    guest("hello64")
    (tmp_path / "guests").symlink_to(ROOT / "guests")
    if before:
        subprocess.run(shlex.split(before), cwd=tmp_path, check=True)
    run(["-c", "from pykvm.cli import main; main()", *shlex.split(line)[1:]], cwd=tmp_path)
