"""That the plugin is found, can be left out, and costs those nothing who test no kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, where: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_DISABLE_PLUGIN_AUTOLOAD"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_pytest_finds_it_and_leaves_it_out(tmp_path: Path) -> None:
    assert "pykvm_rig [session scope]" in run("-m", "pytest", "--fixtures", where=tmp_path)
    (tmp_path / "test_it.py").write_text("def test_it(machine): pass\n")
    assert "fixture 'machine' not found" in run("-m", "pytest", "-p", "no:pykvm", where=tmp_path)


def test_loading_it_imports_nothing_of_pykvm() -> None:
    code = "import sys, pykvm.testing.plugin; print(*sorted(name for name in sys.modules if name.startswith('pykvm')))"
    assert run("-c", code).split() == ["pykvm", "pykvm.testing", "pykvm.testing.plugin", "pykvm.typed"]


def test_only_the_plugin_needs_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; from pykvm.testing import *; print(Rig, Guest, Variable)"
    assert "pykvm.testing.rig.Rig" in run("-c", code)
