"""Other people's files for tests, out of Debian packages: `package("multiboot") / "usr/lib/multiboot/examples/kernel"`.

A package is downloaded with apt and unpacked, once, below `$XDG_CACHE_HOME/pykvm-tests` (`~/.cache/pykvm-tests`); nothing
is installed, and root is not needed. A test whose package cannot be had is skipped by its name. What a test names must
be in `PACKAGES`: CI has `python tests/debian.py` fetch all of them before the second KVM, which has no network, runs.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pykvm-tests"

KERNEL = "linux-image-cloud-amd64"
"""Linux in Debian's flavour for virtual machines: `boot/vmlinuz-*`, and unpacked from it `boot/vmlinux`."""

PACKAGES = (KERNEL, "busybox-static", "grub-rescue-pc", "memtest86+", "multiboot", "seabios")
"""Every package that a test takes something from."""

DECOMPRESSORS = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz"}
"""How a compressed kernel begins, and the program for it."""

TIME_LIMIT = 50.0
"""Seconds for a download that a test waits for."""


class Unavailable(Exception):
    """A package cannot be had; the message says why."""


def package(name: str) -> Path:
    """The directory with the package's files. The test is skipped if it cannot be had."""
    try:
        return _unpacked(name, TIME_LIMIT)
    except Unavailable as reason:
        pytest.skip(f"needs the Debian package {name}: {reason}")


@cache
def _unpacked(name: str, limit: float | None) -> Path:
    assert name in PACKAGES, f"tests/debian.py does not list {name}"
    target = CACHE / name
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            files = Path(scratch, "files")
            try:
                _call(["apt-get", "download", _real_name(name)], limit, scratch)
                (deb,) = Path(scratch).glob("*.deb")
                _call(["dpkg-deb", "-x", str(deb), str(files)], limit)
                if name == KERNEL:
                    _unpack_kernel(files / "boot", limit)
            except (OSError, subprocess.SubprocessError) as error:
                raise Unavailable(_words(error)) from error
            files.rename(target)
    return target


def _real_name(name: str) -> str:
    """The kernel's package has a name that changes with every version; what is called KERNEL only leads to it."""
    if name != KERNEL:
        return name
    depends = re.search(r"Depends: (linux-image-\S+)", _call(["apt-cache", "depends", KERNEL], None).decode())
    if depends is None:
        raise Unavailable("apt does not know it; run `apt-get update`")
    return depends[1]


def _unpack_kernel(boot: Path, limit: float | None) -> None:
    """Write `vmlinux`, the ELF file that is compressed in the bzImage (Linux boot protocol: payload_offset, _length)."""
    (bzimage,) = boot.glob("vmlinuz-*")
    image = bzimage.read_bytes()
    offset, size = struct.unpack_from("<II", image, 0x248)
    at = (image[0x1F1] + 1) * 512 + offset
    payload = image[at : at + size - 4]  # the last four bytes are the unpacked size
    program = DECOMPRESSORS.get(payload[:4])
    if program is None:
        raise Unavailable(f"{bzimage.name} is compressed in a way that is not known here")
    (boot / "vmlinux").write_bytes(_call([program, "-dc"], limit, data=payload))


def _call(command: list[str], limit: float | None, directory: str | None = None, data: bytes = b"") -> bytes:
    done = subprocess.run(command, check=True, cwd=directory, input=data, capture_output=True, timeout=limit)
    return done.stdout


def _words(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"needs {error.filename} to fetch it"
    if isinstance(error, subprocess.CalledProcessError):
        return f"`{' '.join(error.cmd)}` failed: {error.stderr.decode(errors='replace').strip()[-200:]}"
    return str(error)


def main() -> int:
    """Fetch all packages; 1 if one could not be had."""
    missing = 0
    for name in PACKAGES:
        try:
            print(f"{name}: {_unpacked(name, None)}")
        except Unavailable as reason:
            print(f"{name}: {reason}", file=sys.stderr)
            missing = 1
    return missing


if __name__ == "__main__":
    sys.exit(main())
