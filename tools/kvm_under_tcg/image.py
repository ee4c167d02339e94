"""The emulated machine's kernel and initramfs, made from a Debian kernel package and kept in a cache.

Formats: cpio "newc" (kernel Documentation/driver-api/early-userspace/buffer-format.rst), the bzImage header (Linux boot
protocol, Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length), ELF (System V gABI chapter 5).
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INIT = Path(__file__).with_name("init.sh")

KERNEL_PACKAGES = ("linux-image-6.12-amd64", "linux-image-amd64")
"""Debian's meta packages for the full kernel, best first. (The "cloud" flavour is smaller but has no 9p.)"""

MODULES = ("kvm_amd", "overlay", "9p", "9pnet_virtio", "virtio_console", "virtio_pci", "tun")

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MODULE_SIGNATURE_MAGIC = b"~Module signature appended~\n"
MODULE_SIGNATURE_SIZE = 12
"""Bytes of the kernel's `struct module_signature`, whose last four are the signature's length, big-endian."""

DEBIAN_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "zstd": "zstd",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
}


class LaneError(Exception):
    """The second KVM cannot be had; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU boots."""

    kernel: Path
    initramfs: Path


def find_program(name: str) -> str:
    """Path of a host program, system directories included; LaneError names its Debian package."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        package = DEBIAN_PACKAGES[name]
        raise LaneError(f"{name} is not installed; on Debian: sudo apt-get install {package}")
    return path


def cached_image(cache: Path) -> Image:
    """The kernel and initramfs from `cache`, made there first if need be; LaneError if they cannot be made.

    Any number of processes may ask at once: one makes the image, the others wait for it. A finished image never
    changes, so it can be used without the lock.
    """
    busybox = static_busybox()
    key = hashlib.sha256()
    for ingredient in (Path(__file__), INIT, busybox):
        key.update(ingredient.read_bytes())
    directory = cache / f"image-{key.hexdigest()[:16]}"
    image = Image(directory / "kernel", directory / "initramfs")
    if directory.exists():
        return image
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        if not directory.exists():
            with tempfile.TemporaryDirectory(prefix="making-", dir=cache) as scratch:
                made = Path(scratch, "image")
                made.mkdir()
                _make(kernel_package(cache), busybox, Path(scratch, "root"), made)
                made.rename(directory)
    return image


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def static_busybox() -> Path:
    """The host's busybox; LaneError unless it runs without shared libraries, as the initramfs has none."""
    path = Path(find_program("busybox"))
    data = path.read_bytes()
    # ELF64: e_phoff at 0x20, e_phentsize and e_phnum at 0x36; a program header of type 3 (PT_INTERP) names ld.so.
    (table,) = struct.unpack_from("<Q", data, 0x20)
    entry_size, count = struct.unpack_from("<HH", data, 0x36)
    if any(struct.unpack_from("<I", data, table + i * entry_size) == (3,) for i in range(count)):
        raise LaneError(f"{path} is not linked statically; on Debian: sudo apt-get install busybox-static")
    return path


def kernel_package(cache: Path) -> Path:
    """The kernel's .deb in `cache`, fetched with apt if it is not there yet. Call it with the cache's lock held."""
    if have := sorted(cache.glob("linux-image-*.deb")):
        return have[-1]
    for meta in KERNEL_PACKAGES:
        command = [find_program("apt-cache"), "depends", meta]
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        if match := re.search(r"Depends: (linux-image-\S+)", answer.stdout):
            break
    else:
        raise LaneError(f"apt knows none of {', '.join(KERNEL_PACKAGES)}: run `sudo apt-get update`, on a Debian host")
    print(f"kvm_under_tcg: fetching {match[1]} (once)", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=cache) as scratch:
        command = [find_program("apt-get"), "-q", "download", match[1]]
        fetched = subprocess.run(command, check=False, cwd=scratch, capture_output=True, text=True)
        debs = list(Path(scratch).glob("*.deb"))
        if fetched.returncode or not debs:
            raise LaneError(f"`apt-get download {match[1]}` failed:\n{fetched.stderr.strip()}")
        return debs[0].rename(cache / debs[0].name)


def _make(deb: Path, busybox: Path, root: Path, target: Path) -> None:
    """Unpack `deb` at `root` and write `kernel` and `initramfs` into `target`."""
    try:
        subprocess.run([find_program("dpkg-deb"), "-x", deb, root], check=True, capture_output=True)
        (tree,) = root.glob("lib/modules/*")
        (bzimage,) = root.glob("boot/vmlinuz-*")
        subprocess.run([find_program("depmod"), "-b", root, tree.name], check=True, capture_output=True)
    except (subprocess.CalledProcessError, ValueError) as error:
        raise LaneError(f"{deb} cannot be used ({error}); delete it and try again") from error
    (target / "kernel").write_bytes(uncompressed_kernel(bzimage.read_bytes()))
    modules = modules_in_load_order((tree / "modules.dep").read_text())
    order = [Path(module).name.partition(".")[0] + ".ko" for module in modules]
    files = [
        ("bin/busybox", 0o755, busybox.read_bytes()),
        ("init", 0o755, INIT.read_bytes()),
        ("modules/order", 0o644, "".join(f"{name}\n" for name in order).encode()),
    ]
    for name, module in zip(order, modules, strict=True):
        files.append((f"modules/{name}", 0o644, module_bytes(tree / module)))
    (target / "initramfs").write_bytes(newc_archive(files))


def modules_in_load_order(modules_dep: str) -> list[str]:
    """Paths of `MODULES` and of all that they need, each after its needs. One that is not listed is built in."""
    needs: dict[str, list[str]] = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        # depmod lists what a module needs with the one to load first at the end.
        needs[Path(path).name.partition(".")[0].replace("-", "_")] = [*reversed(rest.split()), path]
    return list(dict.fromkeys(path for name in MODULES for path in needs.get(name, ())))


def module_bytes(path: Path) -> bytes:
    """A module unpacked and without its signature: checking one costs an emulated CPU a tenth of a second."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = lzma.decompress(data)
    elif path.suffix == ".zst":
        data = _unzstd(data)
    if data.endswith(MODULE_SIGNATURE_MAGIC):
        end = len(data) - len(MODULE_SIGNATURE_MAGIC)
        (length,) = struct.unpack_from(">I", data, end - 4)
        data = data[: end - MODULE_SIGNATURE_SIZE - length]
    return data


def uncompressed_kernel(bzimage: bytes) -> bytes:
    """The ELF kernel inside a zstd-compressed bzImage, else the bzImage itself.

    QEMU boots the ELF file by its PVH entry, which spares the emulated CPU the BIOS and the decompressor.
    """
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    # The payload's last four bytes are its unpacked size, put there by the kernel's build and no part of the stream.
    payload = bzimage[start : start + length - 4]
    return _unzstd(payload) if payload.startswith(ZSTD_MAGIC) else bzimage


def _unzstd(data: bytes) -> bytes:
    return subprocess.run([find_program("zstd"), "-dcq"], input=data, stdout=subprocess.PIPE, check=True).stdout


def newc_archive(files: list[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive of (name, permissions, data), with the directories on the way, mount points and a console."""
    out = bytearray()
    written: set[str] = set()

    def put(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        written.add(name)
        raw = name.encode() + b"\0"
        fields = (len(written), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        out.extend(b"070701" + b"".join(b"%08x" % field for field in fields) + raw)
        out.extend(bytes(-len(out) % 4))
        out.extend(data)
        out.extend(bytes(-len(out) % 4))

    for name in ("dev", "proc", "sys"):
        put(name, stat.S_IFDIR | 0o755)
    put("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for name, permissions, data in files:
        for parent in reversed(Path(name).parents[:-1]):
            if str(parent) not in written:
                put(str(parent), stat.S_IFDIR | 0o755)
        put(name, stat.S_IFREG | permissions, data)
    put("TRAILER!!!", 0)
    return bytes(out)
