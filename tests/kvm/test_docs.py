"""What the documentation shows runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^    \.venv/bin/(pykvm .*)$", README, re.MULTILINE)


def run(argv, cwd=ROOT):
    done = subprocess.run([sys.executable, *argv], cwd=cwd, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_something_to_run():
    assert len(EXAMPLES) == 4
    assert len(BLOCKS) >= 2
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path):
    assert run([path])


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_python(guest, number):
    guest("hello64")
    run(["-c", BLOCKS[number]])


@pytest.mark.parametrize("line", COMMANDS)
def test_readme_command(guest, line, tmp_path):
    guest("hello64")
    (tmp_path / "guests").symlink_to(ROOT / "guests")
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    # 32-bit flat code: cli; hlt
    (tmp_path / "kernel.bin").write_bytes(b"\xfa\xf4")
    run(["-c", "from pykvm.cli import main; main()", *line.split()[1:]], cwd=tmp_path)
