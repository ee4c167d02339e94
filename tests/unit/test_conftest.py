"""The promises of tests/conftest.py, each tried with a test run of its own in an empty directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from features import FEATURES

TESTS = Path(__file__).resolve().parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest over one test file, at `where` below a copy of the project that holds nothing else."""

    def run(
        code: str, where: str = "unit", options: Sequence[str] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        directory = tmp_path / "tests" / where
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("conftest.py", "features.py"):
            shutil.copy(TESTS / name, tmp_path / "tests")
        shutil.copy(TESTS.parent / "pyproject.toml", tmp_path)
        (directory / "test_it.py").write_text(code)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "tests"],
            check=False,
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_missing_feature_skips_by_name_with_the_reason(run: Run) -> None:
    done = run("import pytest\n@pytest.mark.needs('tshark')\ndef test_one(): pass\n", PATH="/nonexistent")
    assert done.returncode == 0
    assert "needs tshark: tshark is not on PATH" in done.stdout


def test_unknown_feature_is_an_error(run: Run) -> None:
    done = run("import pytest\n@pytest.mark.needs('paging33')\ndef test_one(): pass\n")
    assert done.returncode == 4
    assert "needs 'paging33'" in done.stderr


@pytest.mark.parametrize("wait", ["while True: pass", "threading.Lock().acquire(); L.acquire()", "os.read(R, 1)"])
def test_hang_is_a_failure_and_the_run_goes_on(run: Run, wait: str) -> None:
    done = run(
        "import os, threading\nR, W = os.pipe()\nL = threading.Lock()\nL.acquire()\n"
        f"def test_hang():\n    {wait}\n"
        "def test_next(): pass\n",
        PYKVM_TEST_TIMEOUT="1",
    )
    assert done.returncode == 1
    assert "TimeLimitExceeded" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_hang_that_no_alarm_ends_stops_the_run_with_all_tracebacks(run: Run) -> None:
    done = run(
        "import signal\n"
        "def test_deaf():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"
        "    while True: pass\n",
        PYKVM_TEST_TIMEOUT="1",
    )
    assert done.returncode == 1
    assert "in test_deaf" in done.stderr


def test_exception_in_a_thread_fails_the_test(run: Run) -> None:
    done = run(
        "from threading import Thread\n"
        "def test_thread():\n    thread = Thread(target=lambda: 1 / 0)\n    thread.start()\n    thread.join()\n"
    )
    assert done.returncode == 1
    assert "PytestUnhandledThreadExceptionWarning" in done.stdout


def test_exception_in_a_destructor_fails_the_test(run: Run) -> None:
    done = run("class Bad:\n    def __del__(self): 1 / 0\ndef test_destructor():\n    Bad()\n")
    assert done.returncode == 1
    assert "PytestUnraisableExceptionWarning" in done.stdout


def test_skipping_every_kvm_test_fails_where_there_is_kvm(run: Run) -> None:
    done = run(
        "import pytest\ndef test_one(): pytest.skip('no reason')\ndef test_two(): pytest.skip('no reason')\n", "kvm"
    )
    assert "KVM tests: 0 ran, 2 skipped" in done.stdout
    assert done.returncode == (1 if os.path.exists("/dev/kvm") else 0)


# Not by the marker: then this test itself would be counted as one that used KVM.
@pytest.mark.skipif(FEATURES["kvm"]() is not None, reason="needs kvm")
def test_one_kvm_test_that_ran_is_enough(run: Run) -> None:
    done = run("import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip('too hot')\n", "kvm")
    assert done.returncode == 0
    assert "KVM tests: 1 ran, 1 skipped" in done.stdout
    assert "1 skipped: too hot" in done.stdout


def test_parts_make_the_whole(run: Run) -> None:
    code = "import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test(n): pass\n"
    ran = [run(code, options=["-v", "--part", f"{number}/3"]).stdout for number in (1, 2, 3)]
    assert [re.findall(r"\[(\d)\] PASSED", output) for output in ran] == [list("036"), list("147"), list("25")]
    assert "3 passed, 5 deselected" in ran[0]


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "one/two"])
def test_a_part_that_cannot_be_is_refused(run: Run, part: str) -> None:
    done = run("def test(): pass\n", options=["--part", part])
    assert done.returncode == 4
    assert "is no part" in done.stderr


def test_guests_are_built_once_a_session(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "build_guests.sh"
    script.write_text("#!/bin/sh\nmkdir -p guests/build\necho built >> guests/build/hello.bin\n")
    script.chmod(0o755)
    done = run(
        "import pytest\n"
        "def test_one(guest): assert guest('hello').read_text() == 'built\\n'\n"
        "def test_two(guest): assert guest('hello').read_text() == 'built\\n'\n"
        "def test_three(guest):\n    with pytest.raises(LookupError, match='hullo'):\n        guest('hullo')\n"
    )
    assert "3 passed" in done.stdout


def test_broken_guest_build_shows_its_output(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "build_guests.sh"
    script.write_text("#!/bin/sh\necho no such compiler >&2\nexit 1\n")
    script.chmod(0o755)
    done = run("def test_one(guest): pass\n")
    assert done.returncode == 1
    assert "no such compiler" in done.stdout


def test_no_two_files_have_one_name() -> None:
    """Where tests are not packages, pytest takes one file of a name only."""
    names = Counter(path.name for path in Path(__file__).parents[1].glob("*/test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
