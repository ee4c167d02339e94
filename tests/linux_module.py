"""Modules for Debian's kernel, built from sources of ours with its headers: `module(ROOT / "docs/examples/linux")`.

The headers are those of the kernel that `debian.package(KERNEL)` has; nothing is installed. A test whose module cannot be
built, for lack of the headers or a compiler, is skipped. `.ci/files` builds all `SOURCES` before the second KVM runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest
from cache import TIME_LIMIT, Unavailable, cached, output
from debian import KERNEL, package

ROOT = Path(__file__).parents[1]
SOURCES = ("docs/examples/linux",)
"""Each a directory with a Kbuild."""


def module(source: Path) -> bytes:
    """The one module that the sources in a directory make, for Debian's kernel. The test is skipped if it cannot be."""
    (kernel,) = (package(KERNEL) / "boot").glob("vmlinuz-*")
    try:
        return _built(source, kernel.name.removeprefix("vmlinuz-"), TIME_LIMIT)
    except Unavailable as reason:
        pytest.skip(f"needs a kernel module: {reason}")


def _built(source: Path, release: str, limit: float | None) -> bytes:
    files = sorted(path for path in source.iterdir() if path.is_file())
    digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()[:16]

    def build(scratch: Path) -> Path:
        common = release.removesuffix("-cloud-amd64") + "-common"
        tree, work = scratch / "tree", scratch / "module"
        names = [
            f"linux-headers-{release}",
            f"linux-headers-{common}",
            f"linux-kbuild-{'.'.join(release.split('.')[:2])}",
        ]
        output(["apt-get", "download", *names], limit, scratch)
        for deb in scratch.glob("*.deb"):
            output(["dpkg-deb", "-x", str(deb), str(tree)], limit)
        headers = tree / "usr/src" / f"linux-headers-{release}"
        (headers / "Makefile").write_text(f"include {tree}/usr/src/linux-headers-{common}/Makefile\n")
        work.mkdir()
        for path in files:
            shutil.copy(path, work)
        output(["make", "-s", "-C", str(headers), f"M={work}", "CC=gcc", "modules"], limit)
        (made,) = work.glob("*.ko")
        output(["strip", "-g", str(made)], limit)
        result = scratch / "result"
        result.mkdir()
        os.rename(made, result / "module.ko")
        return result

    return (cached(f"module-{release}-{digest}", build) / "module.ko").read_bytes()


def main() -> int:
    """Build all; 1 if one could not be."""
    (kernel,) = (package(KERNEL) / "boot").glob("vmlinuz-*")
    missing = 0
    for name in SOURCES:
        try:
            print(f"{name}: {len(_built(ROOT / name, kernel.name.removeprefix('vmlinuz-'), None))} bytes")
        except Unavailable as reason:
            print(f"{name}: {reason}", file=sys.stderr)
            missing = 1
    return missing


if __name__ == "__main__":
    sys.exit(main())
