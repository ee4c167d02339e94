"""The start and the end of `pykvm run` as a process: what it imports, and that nothing is lost at its quick exit.

All starts here are real but the last test's, which is about those that are not (zygote.py).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zygote
from helpers import LIMIT, PYKVM, ROOT, STATE_LOST

SLOW = {
    "argparse",
    "capstone",
    "click",
    "ctypes",
    "dataclasses",
    "datetime",
    "inspect",
    "json",
    "pathlib",
    "re",
    "typing",
}
"""Modules that take long to import; tests/unit/test_imports.py says what to do instead."""


@pytest.mark.skipif(
    STATE_LOST, reason="where KVM forgets a crash, a run begins with a checkpoint, by the snapshots' modules"
)
def test_a_run_imports_nothing_slow(guest: Callable[[str], Path]) -> None:
    command = [
        sys.executable,
        "-I",
        "-X",
        "importtime",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); {PYKVM[2]}",
    ]
    done = subprocess.run(
        [*command, "run", guest("hello64")], check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=LIMIT
    )
    assert done.stdout == b"Hello from 64-bit long mode!\n"
    lines = [line.split("|") for line in done.stderr.decode().splitlines() if line.startswith("import time:")]
    names = [columns[2].strip() for columns in lines]
    # What comes before pykvm itself is Python's own start, and what the environment has installed.
    ours = names[names.index("pykvm.typed") :]
    assert "pykvm.machine" in ours
    assert not SLOW & set(ours)


def test_the_quick_exit_loses_no_output(guest: Callable[[str], Path]) -> None:
    def start(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*PYKVM, *map(str, arguments)], check=False, cwd=ROOT, capture_output=True, timeout=LIMIT)

    done = start("run", guest("hello64"))
    assert done.stdout == b"Hello from 64-bit long mode!\n"
    assert done.stderr.startswith(b"pykvm: exited: ")
    assert done.stderr.endswith(b"\n")
    listing = start("disasm", guest("hello64"), "--json").stdout
    assert len(listing) > 1 << 14  # more than a buffer of Python's
    assert listing.endswith(b"}\n")


def test_a_fork_has_made_no_machine_and_imported_all(guest: Callable[[str], Path]) -> None:
    """A command that is forked, not started, has nothing left to import."""
    code = f"""
import os, sys
before = set(sys.modules)
assert "/dev/kvm" not in [os.path.realpath(f"/proc/self/fd/{{number}}") for number in range(64)]
os._exit = lambda status: (print(*sorted(set(sys.modules) - before)), sys.exit(status))
{PYKVM[2]}
"""
    for words in (["run"], ["inspect"], ["coverage"]):
        done = zygote.run(
            [sys.executable, "-c", code, *words, guest("hello64")], cwd=ROOT, capture_output=True, timeout=LIMIT
        )
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1] == b""
