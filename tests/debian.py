"""Other people's files for tests, out of Debian packages: `package("multiboot") / "usr/lib/multiboot/examples/kernel"`.

A package is downloaded with apt and unpacked, once, into the cache; nothing is installed, and root is not needed. A
test whose package cannot be had is skipped by its name. What a test names must be in `PACKAGES`: `.ci/files` fetches
all of them before the second KVM, which has no network, runs.
"""

from __future__ import annotations

import re
import struct
import sys
from functools import cache
from pathlib import Path

import pytest
from cache import TIME_LIMIT, Unavailable, cached, output

KERNEL = "linux-image-cloud-amd64"
"""Linux in Debian's flavour for virtual machines: `boot/vmlinuz-*`, and unpacked from it `boot/vmlinux`."""

PACKAGES = (
    KERNEL, "busybox-static", "dmidecode", "grub-rescue-pc", "isolinux", "memtest86+", "multiboot", "seabios", "syslinux-common",
)  # fmt: skip
"""Every package that a test takes something from."""

DECOMPRESSORS = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz"}
"""How a compressed kernel begins, and the program for it."""


def package(name: str) -> Path:
    """The directory with the package's files. The test is skipped if it cannot be had."""
    try:
        return _unpacked(name, TIME_LIMIT)
    except Unavailable as reason:
        pytest.skip(f"needs the Debian package {name}: {reason}")


def multiboot_example(in_text_mode: bool) -> bytes:
    """The example kernel of the Multiboot specification, or the same without its header's wish for graphics."""
    kernel = (package("multiboot") / "usr/lib/multiboot/examples/kernel").read_bytes()
    if not in_text_mode:
        return kernel
    at = kernel.index(struct.pack("<I", 0x1BADB002))
    magic, flags, _ = struct.unpack_from("<III", kernel, at)
    flags &= ~4
    return kernel[: at + 4] + struct.pack("<II", flags, -(magic + flags) & 0xFFFFFFFF) + kernel[at + 12 :]


@cache
def _unpacked(name: str, limit: float | None) -> Path:
    assert name in PACKAGES, f"tests/debian.py does not list {name}"

    def fetch(scratch: Path) -> Path:
        files = scratch / "files"
        output(["apt-get", "download", _real_name(name)], limit, scratch)
        (deb,) = scratch.glob("*.deb")
        output(["dpkg-deb", "-x", str(deb), str(files)], limit)
        if name == KERNEL:
            _unpack_kernel(files / "boot", limit)
        return files

    return cached(name, fetch)


def _real_name(name: str) -> str:
    """The kernel's package has a name that changes with every version; what is called KERNEL only leads to it."""
    if name != KERNEL:
        return name
    depends = re.search(r"Depends: (linux-image-\S+)", output(["apt-cache", "depends", KERNEL], None).decode())
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
    (boot / "vmlinux").write_bytes(output([program, "-dc"], limit, data=payload))


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
