"""What `pykvm new` writes builds, boots and passes its own tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import LIMIT, ROOT, pykvm

from pykvm import ConfigError, scaffold
from pykvm.testing import Rig

pytestmark = pytest.mark.needs("gcc")


@pytest.mark.parametrize("language", scaffold.IMAGES)
def test_a_new_kernel_builds_without_a_warning_and_boots(tmp_path: Path, language: str) -> None:
    done = pykvm("new", tmp_path / "my kernel", "--language", language)
    assert done.returncode == 0, done.stderr
    built = subprocess.run(
        ["make"], cwd=tmp_path / "my kernel", capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (built.returncode, built.stderr) == (0, "")
    image = tmp_path / "my kernel" / scaffold.IMAGES[language]
    assert str(image.name).encode() in done.stdout
    with Rig(timeout=LIMIT, limit=LIMIT) as rig:
        ready = rig.boot(image, until="Hello from my kernel!\nready\n")
        with ready.fork() as guest:
            guest.send("aq")
            guest.serial.expect("you typed a\n")
            assert guest.wait().code == 33


def test_its_own_tests_pass(tmp_path: Path) -> None:
    scaffold.make(str(tmp_path / "k"), "asm")
    subprocess.run(["make"], cwd=tmp_path / "k", capture_output=True, timeout=LIMIT, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pykvm.testing.plugin", "-p", "no:cacheprovider"],
        cwd=tmp_path / "k",
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_files_of_an_editor_are_json(tmp_path: Path) -> None:
    scaffold.make(str(tmp_path / "k"), "c")
    launch = json.loads((tmp_path / "k" / ".vscode" / "launch.json").read_text())
    tasks = json.loads((tmp_path / "k" / ".vscode" / "tasks.json").read_text())
    assert launch["configurations"][0]["preLaunchTask"] == tasks["tasks"][0]["label"]
    assert "kernel.elf" in launch["configurations"][0]["program"]
    for path in (tmp_path / "k").rglob("*"):
        assert not path.is_file() or not any(word in path.read_text() for word in ("@NAME@", "@IMAGE@", "@CC@"))


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "kernel.c").write_text("precious")
    done = pykvm("new", tmp_path / "k")
    assert done.returncode == 2
    assert b"is not empty" in done.stderr
    assert os.listdir(tmp_path / "k") == ["kernel.c"]
    with pytest.raises(ConfigError, match="goes into source files as the kernel's name"):
        scaffold.make(str(tmp_path / 'x"; rm'))
    with pytest.raises(ConfigError, match="Not a directory"):
        scaffold.make(str(tmp_path / "k" / "kernel.c" / "x"))


def test_only_what_is_installed_is_offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def only(*programs: str) -> list[str]:
        return scaffold.languages(lambda name: name if name in programs else None)

    assert only("make", "ld", "as", "clang") == ["c", "asm"]
    assert only("make", "ld", "as") == ["asm"]
    assert only("gcc", "as", "ld") == []
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(scaffold, "languages", list)
    with pytest.raises(ConfigError, match="apt-get install gcc make"):
        scaffold.make(str(tmp_path / "k"))
    with pytest.raises(ConfigError, match="a kernel in asm is not installed here; there is: none"):
        scaffold.make(str(tmp_path / "k"), "asm")
