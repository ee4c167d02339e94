"""tools/kvm_under_tcg: the formats that it reads and writes, and its command line. CI runs the rest of it for real."""

from __future__ import annotations

import importlib.util
import lzma
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "kvm_under_tcg"


@pytest.fixture(scope="module")
def image() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kvm_under_tcg_image", TOOL / "image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def read_newc(data: bytes) -> dict[str, tuple[int, int, int, bytes]]:
    """name -> (mode, device major, device minor, data), by the kernel's buffer-format.rst."""
    entries = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, major, minor, name_size = fields[1], fields[6], fields[9], fields[10], fields[11]
        name = data[at + 110 : at + 110 + name_size]
        assert name[-1] == 0
        start = (at + 110 + name_size + 3) & ~3
        if name == b"TRAILER!!!\0":
            return entries
        entries[name[:-1].decode()] = (mode, major, minor, data[start : start + size])
        at = (start + size + 3) & ~3


def test_archive_has_files_with_their_directories_and_a_console(image: ModuleType) -> None:
    entries = read_newc(image.newc_archive([("a/b/c", 0o755, b"12345"), ("a/d", 0o644, b"")]))
    assert entries["a"][0] == entries["a/b"][0] == 0o040755
    assert entries["a/b/c"] == (0o100755, 0, 0, b"12345")
    assert entries["a/d"] == (0o100644, 0, 0, b"")
    assert entries["dev/console"] == (0o020600, 5, 1, b"")
    assert list(entries).index("a") < list(entries).index("a/b") < list(entries).index("a/b/c")


def test_modules_load_after_what_they_need_and_once(image: ModuleType) -> None:
    dep = (
        "k/kvm-amd.ko.xz: k/kvm.ko.xz k/ccp.ko.xz k/irq.ko.xz\nk/kvm.ko.xz: k/irq.ko.xz\nk/other.ko.xz:\nk/tun.ko.xz:\n"
    )
    assert image.modules_in_load_order(dep) == [
        "k/irq.ko.xz",
        "k/ccp.ko.xz",
        "k/kvm.ko.xz",
        "k/kvm-amd.ko.xz",
        "k/tun.ko.xz",
    ]


def test_module_loses_compression_and_signature(image: ModuleType, tmp_path: Path) -> None:
    signature = b"PKCS7..."
    footer = bytes(8) + struct.pack(">I", len(signature)) + b"~Module signature appended~\n"
    path = tmp_path / "x.ko.xz"
    path.write_bytes(lzma.compress(b"\x7fELF module" + signature + footer))
    assert image.module_bytes(path) == b"\x7fELF module"
    plain = tmp_path / "y.ko"
    plain.write_bytes(b"\x7fELF unsigned")
    assert image.module_bytes(plain) == b"\x7fELF unsigned"


def test_kernel_of_another_compression_stays_a_bzimage(image: ModuleType) -> None:
    bzimage = bytearray(0x1000)
    struct.pack_into("<II", bzimage, 0x248, 0, 0x100)
    assert image.uncompressed_kernel(bytes(bzimage)) == bzimage


def test_missing_program_names_its_package(image: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image.shutil, "which", lambda name, path: None)
    with pytest.raises(image.LaneError, match="sudo apt-get install busybox-static"):
        image.find_program("busybox")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--timeout", "0", "true"], "must be positive"),
        (["--smp", "0", "true"], "must be positive"),
        (["--env", "NAME", "true"], "write NAME=VALUE"),
        (["--rw", "/nonexistent", "true"], "not a directory"),
        ([], "command"),
    ],
)
def test_wrong_command_line_is_refused_before_anything_starts(arguments: list[str], complaint: str) -> None:
    done = subprocess.run([sys.executable, TOOL, *arguments], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert complaint in done.stderr
