"""What `pykvm run` imports: most of its time from start to end is importing, so a new import there is a decision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RUN = "import pykvm.cli.run, pykvm.machine, pykvm.boot.elf"
"""All that a run of an ELF file needs; the KVM tests see to it that it is."""

SLOW = {
    "argparse": "declare options with pykvm.cli.ui",
    "asyncio": "",
    "capstone": "pykvm.x86.disasm imports it where it is used",
    "click": "declare options with pykvm.cli.ui",
    "ctypes": "import it where it is used",
    "dataclasses": "take Data from pykvm.data, or NamedTuple from pykvm.typed",
    "datetime": "import it where it is used",
    "elftools": "",
    "enum": "take IntEnum or StrEnum from pykvm.typed",
    "inspect": "",
    "json": "import it where it is used",
    "logging": "",
    "pathlib": "os.path and os.fspath do the same",
    "pykvm.bios": "only guests that call it need it",
    "pykvm.debug": "import it where it is used",
    "pykvm.display": "import it where it is used",
    "pykvm.snapshot": "import it where it is used",
    "pykvm.qemu": "only `pykvm qemu` needs it",
    "re": "a pattern's compiling takes as long as making a virtual machine",
    "signal": "take signal from pykvm.typed",
    "shutil": "import it where it is used",
    "socket": "import it where it is used",
    "subprocess": "import it where it is used",
    "tempfile": "import it where it is used",
    "traceback": "import it where it is used",
    "typing": "take the names from pykvm.typed",
}
"""Modules that a run does without, and what to do instead."""


def imported_by(code: str) -> set[str]:
    """The modules that are there after `code` has run in an interpreter of its own, less those it starts with."""
    show = "import sys; before = set(sys.modules); exec(sys.argv[1]); print(*sys.modules.keys() - before)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {show}", code],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def imported() -> set[str]:
    return imported_by(RUN)


@pytest.mark.parametrize("name", SLOW)
def test_a_run_does_without(imported: set[str], name: str) -> None:
    assert name not in imported, SLOW[name]


def test_the_command_line_alone_imports_no_machine() -> None:
    imported = imported_by("import pykvm.cli")
    assert {name for name in imported if name.startswith("pykvm")} == {
        "pykvm", "pykvm.cli", "pykvm.cli.signals", "pykvm.cli.streams", "pykvm.cli.ui", "pykvm.cli.values",
            "pykvm.errors", "pykvm.typed",
    }  # fmt: skip
