"""The compiled part of pykvm says so itself when it is not what its sources are, and what builds it again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pykvm
from pykvm.errors import PykvmError
from pykvm.kvm import StaleBuild, sources

IMPORT = """
import pykvm.kvm
print(pykvm.kvm.__file__)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of pykvm, with its files' times, in a directory of its own."""
    copy = tmp_path / "src"
    shutil.copytree(Path(pykvm.__file__).parent, copy / "pykvm", ignore=shutil.ignore_patterns("__pycache__"))
    return copy / "pykvm"


def run(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=False, env=environment, cwd="/", capture_output=True, text=True)


def make_newer(kvm: Path, name: str) -> None:
    built = next(kvm.glob("_kvm*.so")).stat().st_mtime_ns
    os.utime(kvm / name, ns=(built + 1, built + 1))


def change(name: str) -> Callable[[Path], None]:
    def spoil(kvm: Path) -> None:
        path = kvm / name
        path.write_bytes(path.read_bytes() + b"\n")
        make_newer(kvm, name)

    return spoil


def add_header(kvm: Path) -> None:
    header = kvm / "cdef/9_more.h"
    header.write_text("int more(void);\n")
    os.utime(header, ns=(0, 0))
    make_newer(kvm, "cdef")


def remove_header(kvm: Path) -> None:
    (kvm / "cdef/7_steps.h").unlink()
    make_newer(kvm, "cdef")


SPOILT: dict[str, Callable[[Path], None]] = {
    **{name: change(name) for name in sources.inputs()},
    "cdef/9_more.h": add_header,
    "cdef/7_steps.h removed": remove_header,
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_changed_source_is_named_with_the_command_that_builds(package: Path, name: str) -> None:
    (package.parent / "pyproject.toml").touch()
    SPOILT[name](package / "kvm")
    done = run(package, "-c", IMPORT)
    assert done.returncode == 1
    extension = next((package / "kvm").glob("_kvm*.so"))
    assert done.stderr.splitlines()[-1] == (
        f"pykvm.kvm.errors.StaleBuild: {extension}, the compiled part of pykvm, is older than its sources "
        f"({name.split()[0]}): build it again with: {sys.executable} -m pip install --editable {package.parent}"
    )


def test_a_missing_extension_is_told_in_the_same_way(package: Path) -> None:
    next((package / "kvm").glob("_kvm*.so")).unlink()
    done = run(package, "-c", IMPORT)
    assert done.stderr.splitlines()[-1] == (
        f"pykvm.kvm.errors.StaleBuild: {package}/kvm/_kvm, the compiled part of pykvm, is missing: "
        f"install pykvm again, in the directory of its source, with: {sys.executable} -m pip install --force-reinstall ."
    )


def test_the_command_line_says_it_in_one_line(package: Path) -> None:
    image = package.parent / "image.bin"
    image.write_bytes(b"\xf4")
    change("shim.c")(package / "kvm")
    done = run(package, "-m", "pykvm", "run", str(image))
    assert (done.returncode, done.stdout) == (2, "")
    line = done.stderr.rstrip("\n")
    assert "\n" not in line
    assert line.startswith("pykvm: ")
    assert "older than its sources (shim.c)" in line


def touch_all(kvm: Path) -> None:
    """As a checkout or an installation leaves them: newer, and the same."""
    for name in (*sources.inputs(), "cdef"):
        make_newer(kvm, name)


def remove_sources(kvm: Path) -> None:
    shutil.rmtree(kvm / "cdef")
    (kvm / "shim.c").unlink()


def remove_the_shim(kvm: Path) -> None:
    (kvm / "shim.c").unlink()


def install(kvm: Path) -> None:
    """From a wheel: in any order, so the times tell nothing, and a start does not spend time on reading."""
    (kvm.parent.parent / f"pykvm_vmm-{pykvm.__version__}.dist-info").mkdir()
    change("shim.c")(kvm)


@pytest.mark.parametrize("how", [lambda kvm: None, touch_all, install, remove_sources, remove_the_shim])
def test_sources_that_are_the_same_or_not_there_are_no_matter(package: Path, how: Callable[[Path], None]) -> None:
    how(package / "kvm")
    done = run(package, "-c", IMPORT)
    assert (done.stdout, done.stderr) == (f"{package}/kvm/__init__.py\n", "")


def test_the_error_is_caught_as_either_kind() -> None:
    assert issubclass(StaleBuild, PykvmError)
    assert issubclass(StaleBuild, ImportError)
