"""What the KVM tests share: how long to wait, a machine for a few bytes of code, the command line as a process."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zygote

from pykvm import Machine

ROOT = Path(__file__).resolve().parents[2]

LIMIT = 40.0
"""Seconds for what ends by itself; the slowest host needs a part of it."""
BRIEF = 0.2
"""Seconds for a guest that never ends."""

SLOW = "PYKVM_UNDER_TCG" in os.environ
"""Everything takes 10 to 50 times as long: a property test tries fewer examples."""

STATE_LOST = os.path.exists("/sys/module/kvm_amd")
"""AMD's KVM resets a CPU at a triple fault, before anybody can look at its registers."""

PYKVM = [sys.executable, "-c", "from pykvm.cli import main; main()"]
"""The command line, whether or not the console script is installed. To be run in ROOT."""

MIB = 1 << 20
COM1, DEBUG_PORT, EXIT_PORT = 0x3F8, 0xE9, 0xF4
HALT = bytes.fromhex("fa f4")
"""cli; hlt"""
SPIN = bytes.fromhex("eb fe")
"""jmp to itself"""
EXIT_AL = bytes.fromhex("e6 f4")
"""out 0xF4, al"""


def hexcode(text: str) -> bytes:
    """Code from lines of hexadecimal bytes, each with its instruction behind a semicolon."""
    return b"".join(bytes.fromhex(line.partition(";")[0]) for line in text.splitlines())


def assembled(text: str, directory: Path, at: int, bits: int) -> bytes:
    """The code of GNU assembler's `text` (AT&T syntax), for a start at address `at`. A test that uses it needs gcc."""
    source, made, image = directory / "code.S", directory / "code.o", directory / "code.bin"
    source.write_text(f".code{bits}\n.globl _start\n_start:\n{text}\n")
    machine = ("-m64", "elf_x86_64") if bits == 64 else ("-m32", "elf_i386")
    subprocess.run(["gcc", machine[0], "-c", "-o", made, source], check=True)
    link = ["ld", "-m", machine[1], "-Ttext", hex(at), "--oformat", "binary", "-o", image, made]
    subprocess.run(link, check=True)
    return image.read_bytes()


def elf32(data: bytes, entry: int, notes: bytes = b"") -> bytes:
    """An executable with one segment at 1 MiB and perhaps a note segment."""
    header = struct.pack("<7s9xHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 2, 3, 1, MIB + entry, 52, 0, 0, 52, 32, 2, 40, 0, 0)
    at = 52 + 64
    load = struct.pack("<8I", 1, at, MIB, MIB, len(data), len(data), 7, 4)
    note = struct.pack("<8I", 4, at + len(data), 0, 0, len(notes), len(notes), 4, 4)
    return header + load + note + data + notes


def flat(code: bytes, mode: int = 64, **options: Any) -> Machine:
    """A machine that starts at the first byte of `code`: 16 bits at 0x7C00, else at 1 MiB."""
    options.setdefault("memory", "4M")
    return Machine(code, format="flat", mode=mode, **options)


def pykvm(
    *arguments: object, stdin: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line to its end, without a terminal, in a process that does not start Python (see zygote.py)."""
    return zygote.run(
        [*PYKVM, *map(str, arguments)],
        cwd=ROOT,
        input=stdin,
        env=None if env is None else {**os.environ, **env},
        capture_output=True,
        timeout=LIMIT,
    )


def resident() -> int:
    """Bytes of RAM that this process takes up now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def leaves_no_traceback(streams: Sequence[bytes]) -> bool:
    """Whether a user's mistake was told in words."""
    return not any(b"Traceback" in stream for stream in streams)
