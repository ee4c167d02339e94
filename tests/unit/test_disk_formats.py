"""Images of other formats, made and read back by qemu-img: what is written arrives, what they name is not followed."""

from __future__ import annotations

import os
import select
import shutil
import signal
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from descriptors import none_left

from pykvm.disk.image import Mode, open_disk
from pykvm.disk.overlay import OverlayDisk
from pykvm.disk.qemu_nbd import QemuDisk
from pykvm.errors import ConfigError

ROOT = Path(__file__).parents[2]
SIZE = 1 << 20
KINDS = {
    "qcow2": ("qcow2", ""), "vmdk": ("vmdk", ""), "vdi": ("vdi", ""), "vhdx": ("vhdx", ""),
    "vpc": ("vpc", "subformat=dynamic,force_size=on"), "vhd": ("vpc", "subformat=fixed,force_size=on"),
}  # fmt: skip
"""By the ending of the name: qemu-img's format and its options."""


@cache
def content() -> bytes:
    """No two words are alike."""
    return struct.pack(f"<{SIZE // 4}I", *(word * 2654435761 & 0xFFFFFFFF for word in range(SIZE // 4)))


def qemu_img(*words: str | Path) -> str:
    done = subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True)
    return done.stdout


def make(path: Path, kind: str, options: str = "") -> Path:
    """An image of `content()`."""
    raw = path.with_name("raw.img")
    raw.write_bytes(content())
    qemu_img("convert", "-f", "raw", "-O", kind, *(["-o", options] if options else []), raw, path)
    return path


def read_back(path: Path, kind: str) -> bytes:
    qemu_img("convert", "-f", kind, "-O", "raw", path, path.with_suffix(".back"))
    return path.with_suffix(".back").read_bytes()


def ended(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.needs("qemu-img", "qemu-nbd")
@pytest.mark.parametrize("suffix", KINDS)
def test_what_is_written_is_in_the_image_or_forgotten(tmp_path: Path, suffix: str) -> None:
    kind, options = KINDS[suffix]
    path = make(tmp_path / f"disk.{suffix}", kind, options)
    new = os.urandom(70000)
    expected = content()[:12345] + new + content()[12345 + len(new) :]
    for mode in ("discard", "rw"):
        before = path.read_bytes()
        disk = open_disk(path, mode)
        image = disk.base if isinstance(disk, OverlayDisk) else disk
        assert isinstance(image, QemuDisk)
        assert (disk.size, disk.read_only) == (SIZE, False)
        assert disk.read_at(0, SIZE) == content()
        disk.write_at(12345, new)
        assert disk.read_at(0, SIZE) == expected
        disk.flush()
        disk.close()
        disk.close()
        assert ended(image.pid)
        if mode == "discard":
            assert path.read_bytes() == before
    assert read_back(path, kind)[:SIZE] == expected
    if kind not in ("vpc",):  # of which qemu-img has no check
        qemu_img("check", "-f", kind, path)


@pytest.mark.needs("qemu-img", "qemu-nbd")
def test_a_stream_optimised_vmdk_is_only_read(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.vmdk", "vmdk", "subformat=streamOptimized")
    with pytest.raises(ConfigError, match="stream-optimised VMDK, which cannot be written: give ,ro or ,discard"):
        open_disk(path)
    modes: list[Mode] = ["ro", "discard"]
    for mode in modes:
        disk = open_disk(path, mode)
        assert disk.read_at(0, SIZE) == content()
        disk.close()


@pytest.mark.needs("qemu-img", "qemu-nbd")
def test_the_format_that_is_named_is_the_one_that_is_taken(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2").rename(tmp_path / "disk.img")
    with pytest.raises(ConfigError, match="looks like qcow2, which its name does not say"):
        open_disk(path)
    disk = open_disk(path, "ro", "qcow2")
    assert disk.read_at(0, 512) == content()[:512]
    disk.close()
    raw = open_disk(path, "ro", "raw")
    assert raw.read_at(0, 4) == b"QFI\xfb"
    raw.close()
    for kind in ("vmdk", "vdi", "vhd", "vhdx"):
        with pytest.raises(ConfigError, match=r"disk\.img'? (is no|cannot be opened as)"):
            open_disk(path, "ro", kind)
    open_disk(path, format="raw").close()  # nobody holds its lock


@pytest.mark.needs("qemu-img", "qemu-nbd")
def test_a_backing_file_is_opened_where_it_is_allowed(tmp_path: Path) -> None:
    base = make(tmp_path / "base.qcow2", "qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", tmp_path / "middle.qcow2")
    top = tmp_path / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", tmp_path / "middle.qcow2", "-F", "qcow2", top)
    with pytest.raises(ConfigError, match=r"names another file as what is under it, '.*middle\.qcow2'.*,backing"):
        open_disk(top)
    before = base.read_bytes()
    disk = open_disk(top, backing=True)
    assert isinstance(disk, QemuDisk)
    assert disk.real_paths() == [str(tmp_path / f"{name}.qcow2") for name in ("top", "middle", "base")]
    disk.write_at(512, b"new")
    assert disk.read_at(0, 1024) == content()[:512] + b"new" + content()[515:1024]
    with pytest.raises(ConfigError, match="in use"):
        open_disk(base)
    disk.close()
    assert base.read_bytes() == before
    assert read_back(top, "qcow2") == content()[:512] + b"new" + content()[515:]


@pytest.mark.needs("qemu-img", "qemu-nbd")
@pytest.mark.parametrize(
    "name", ["json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}}", "nbd://host/x", "file:base.img"]
)  # fmt: skip
def test_a_backing_file_that_is_no_files_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", path, "1M")
    with pytest.raises(ConfigError, match="names another file"):
        open_disk(path)
    with pytest.raises(ConfigError, match="which is no file's name"):
        open_disk(path, backing=True)


@pytest.mark.needs("qemu-img", "qemu-nbd")
def test_a_backing_file_without_a_format_is_not_probed(tmp_path: Path) -> None:
    make(tmp_path / "base.qcow2", "qcow2")
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", path)
    image = bytearray(path.read_bytes())
    at = image.index(struct.pack(">I", 0xE2792ACA))
    image[at : at + 4] = b"\0\0\0\1"  # an extension that nobody knows
    path.write_bytes(image)
    with pytest.raises(ConfigError, match="no format: say which it has, as by: qemu-img rebase"):
        open_disk(path, backing=True)


@pytest.mark.needs("qemu-img", "qemu-nbd")
def test_an_image_that_is_under_itself(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", path, "1M")
    with pytest.raises(ConfigError, match="more than 31 images under it"):
        open_disk(path, "ro", backing=True)
    with pytest.raises(ConfigError, match="in use"):
        open_disk(path, backing=True)


@pytest.mark.needs("qemu-img", "qemu-nbd")
def test_other_files_of_an_image_are_not_opened(tmp_path: Path) -> None:
    data = tmp_path / "data.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data.raw", data, "1M")
    with pytest.raises(ConfigError, match="has its data in another file"):
        open_disk(data, backing=True)
    for kind in ("monolithicFlat", "twoGbMaxExtentSparse"):
        path = tmp_path / f"{kind}.vmdk"
        qemu_img("create", "-q", "-f", "vmdk", "-o", f"subformat={kind}", path, "1M")
        with pytest.raises(ConfigError, match="is no VMDK that is one file"):
            open_disk(path)
    qemu_img("create", "-q", "-f", "vmdk", tmp_path / "base.vmdk", "1M")
    qemu_img("create", "-q", "-f", "vmdk", "-b", tmp_path / "base.vmdk", "-F", "vmdk", tmp_path / "top.vmdk")
    with pytest.raises(ConfigError, match="names another VMDK"):
        open_disk(tmp_path / "top.vmdk", backing=True)
    # A sparse extent without a capacity is where its descriptor, which may name any file, counts (QEMU, block/vmdk.c).
    image = bytearray((tmp_path / "base.vmdk").read_bytes())
    image[12:20] = bytes(8)
    (tmp_path / "none.vmdk").write_bytes(image)
    with pytest.raises(ConfigError, match="is no VMDK that is one file"):
        open_disk(tmp_path / "none.vmdk")
    qemu_img("create", "-q", "-f", "vpc", tmp_path / "base.vhd", "1M")
    footer = bytearray((tmp_path / "base.vhd").read_bytes())
    footer[60:64] = footer[len(footer) - 512 + 60 : len(footer) - 512 + 64] = b"\0\0\0\4"
    (tmp_path / "diff.vhd").write_bytes(footer)
    with pytest.raises(ConfigError, match="differencing VHD"):
        open_disk(tmp_path / "diff.vhd")


@pytest.mark.needs("qemu-img", "qemu-nbd")
def test_damaged_images_are_told_in_qemus_words(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2")
    image = bytearray(path.read_bytes())
    image[20:24] = struct.pack(">I", 99)  # bits of a cluster
    path.write_bytes(image)
    match = r"disk\.qcow2' cannot be opened as qcow2: .*[Cc]luster size"
    with none_left(), pytest.raises(ConfigError, match=match) as caught:
        open_disk(path)
    assert "/proc/self" not in str(caught.value)


@pytest.mark.needs("qemu-img", "qemu-nbd")
def test_one_writer_or_many_readers(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.vdi", "vdi")
    first, second = open_disk(path, "discard"), open_disk(path, "ro")
    with pytest.raises(ConfigError, match="in use by another machine"):
        open_disk(path)
    first.close()
    second.close()
    disk = open_disk(path)
    for mode in ("rw", "ro"):
        with pytest.raises(ConfigError, match="in use by another machine"):
            open_disk(path, mode)
    disk.close()


@pytest.mark.needs("qemu-img", "qemu-nbd")
def test_no_process_is_left_and_no_descriptor(tmp_path: Path) -> None:
    path = make(tmp_path / "disk.qcow2", "qcow2")
    before = sorted(os.listdir("/tmp"))
    with none_left():
        disk = open_disk(path)
        assert isinstance(disk, QemuDisk)
        assert not [name for name in os.listdir("/tmp") if name.startswith("pykvm-") and name not in before]
        os.kill(disk.pid, signal.SIGKILL)
        with pytest.raises(OSError, match="the disk is lost to this machine"):
            disk.read_at(0, 512)
        disk.close()
        assert ended(disk.pid)


KILLED = """
import os, sys
from pykvm.disk.image import open_disk
disk = open_disk(sys.argv[1])
print(disk.pid, flush=True)
at = 0
while True:
    disk.write_at(at % (disk.size - 65536), os.urandom(4096 + at % 61440))
    at += 196613
    if at % 7 == 0:
        disk.flush()
"""


@pytest.mark.needs("qemu-img", "qemu-nbd")
def test_who_is_killed_in_the_middle_of_writing_leaves_a_whole_image_and_no_process(tmp_path: Path) -> None:
    """benchmarks/kill_disks.py does it hundreds of times, for all formats."""
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "64M")
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, path], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process:
            pid = int(process.stdout.readline())
            fd = os.pidfd_open(pid)
            process.kill()
        select.select([fd], [], [])
        os.close(fd)
        qemu_img("check", "-f", "qcow2", path)


def test_without_qemu_nbd_the_message_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk.vdi"
    path.write_bytes(bytes(0x40) + b"\x7f\x10\xda\xbe" + bytes(0x1000))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("qemu-nbd") is None
    with pytest.raises(ConfigError, match="qemu-nbd, which is not installed: on Debian, `apt-get install qemu-utils`"):
        open_disk(path)
    open_disk(path, format="raw").close()
