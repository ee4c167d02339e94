"""Raw images and copy-on-write overlays against a plain array, and against what the host does to files."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from descriptors import none_left
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.disk.image import Mode, open_disk
from pykvm.disk.overlay import CLUSTER, OverlayDisk
from pykvm.disk.raw import RawDisk
from pykvm.errors import ConfigError

SECTOR = 512


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """100 sectors, each filled with its own number."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(bytes([sector]) * SECTOR for sector in range(100)))
    return path


# RawDisk.


def test_read_and_write(image: Path) -> None:
    disk = RawDisk(image)
    assert (disk.size, disk.read_only) == (100 * SECTOR, False)
    assert disk.read_at(3 * SECTOR - 1, 3) == b"\x02\x03\x03"
    disk.write_at(3 * SECTOR - 1, b"abc")
    assert disk.read_at(3 * SECTOR - 2, 5) == b"\x02abc\x03"
    assert disk.read_at(disk.size, 0) == b""
    disk.flush()
    disk.close()
    disk.close()
    assert image.read_bytes()[3 * SECTOR - 2 :][:5] == b"\x02abc\x03"
    assert image.stat().st_size == 100 * SECTOR


@pytest.mark.parametrize("discard", [False, True])
@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (100 * SECTOR, 1), (100 * SECTOR - 1, 2), (0, 1 << 40)])
def test_outside_the_disk(image: Path, offset: int, length: int, discard: bool) -> None:
    disk = open_disk(image, "discard" if discard else "rw")
    with pytest.raises(ValueError, match="not within"):
        disk.read_at(offset, length)
    if length < 10:
        with pytest.raises(ValueError, match="not within"):
            disk.write_at(offset, b"x" * length)
    with pytest.raises(ValueError, match="not within"):
        disk.read_at(0, -1)
    disk.close()


def test_read_only(image: Path) -> None:
    before = image.read_bytes()
    disk = RawDisk(str(image), read_only=True)
    with pytest.raises(PermissionError):
        disk.write_at(0, b"x")
    disk.flush()
    disk.close()
    assert image.read_bytes() == before


@pytest.mark.parametrize("mode", ["rw", "ro", "discard"])
def test_ragged_image_is_rounded_up_with_zeros(tmp_path: Path, mode: Mode) -> None:
    path = tmp_path / "os.img"
    path.write_bytes(b"k" * 1474)
    disk = open_disk(path, mode)
    assert disk.size == 1536
    assert disk.read_at(1024, 512) == b"k" * 450 + bytes(62)
    assert disk.read_at(1500, 36) == bytes(36)
    if mode != "ro":
        disk.write_at(1530, b"end")
        assert disk.read_at(1024, 512) == b"k" * 450 + bytes(56) + b"end" + bytes(3)
    disk.close()
    assert path.read_bytes() == b"k" * 1474 + (bytes(56) + b"end" if mode == "rw" else b"")


def test_image_that_shrinks_is_an_input_output_error(image: Path) -> None:
    disk = RawDisk(image)
    os.truncate(image, 10 * SECTOR)
    assert disk.read_at(9 * SECTOR, SECTOR) == b"\x09" * SECTOR
    with pytest.raises(OSError, match="shorter") as caught:
        disk.read_at(9 * SECTOR, SECTOR + 1)
    assert caught.value.errno == errno.EIO
    disk.close()


def test_short_transfers_are_continued(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 700), offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data)[:700], offset))
    disk = RawDisk(image)
    assert disk.read_at(0, disk.size) == image.read_bytes()
    content = bytes(range(250)) * 200
    disk.write_at(5, content)
    assert disk.read_at(5, len(content)) == content
    disk.close()


def test_full_host_disk_is_an_os_error() -> None:
    """The size limit of this process stands for a full file system: both make a write fail."""
    code = """
import resource, signal, sys
from pykvm.disk.raw import RawDisk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
disk = RawDisk(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
disk.write_at(0, bytes(4096))
try:
    disk.write_at(4000, bytes(200))
except OSError as error:
    print(error.errno)
"""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(8192)
        out = subprocess.run([sys.executable, "-c", code, file.name], capture_output=True, text=True, check=True)
    assert int(out.stdout) == errno.EFBIG


def refused(path: str | os.PathLike[str], mode: Mode = "rw") -> str:
    """The message with which opening fails, which leaves no descriptor behind."""
    with none_left(), pytest.raises(ConfigError) as caught:
        open_disk(path, mode)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["rw", "ro", "discard"])
def test_what_is_no_image(tmp_path: Path, mode: Mode) -> None:
    assert "does not exist" in refused(tmp_path / "nothing", mode)
    assert "irectory" in refused(tmp_path, mode)
    (tmp_path / "empty").touch()
    assert "truncate -s 64M" in refused(tmp_path / "empty", mode)
    os.mkfifo(tmp_path / "fifo")
    assert "is a FIFO" in refused(tmp_path / "fifo", mode)
    assert "is a character device" in refused("/dev/zero", mode)
    assert "null" in refused("a\0b", mode)
    assert "cannot be opened" in refused("x" * 5000, mode)


@pytest.mark.parametrize("mode", ["rw", "ro", "discard"])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"QFI\xfb\0\0\0\3", "qcow2"), (b"KDMV", "VMDK"), (b"COWD", "VMDK"), (b"# Disk DescriptorFile\n", "VMDK"),
        (bytes(0x40) + b"\x7f\x10\xda\xbe", "VDI"), (b"conectix", "VHD"), (bytes(1024) + b"conectix", "VHD"),
        (b"vhdxfile", "VHDX"), (b"QED\0", "QED"),
    ],
)  # fmt: skip
def test_an_image_that_looks_like_another_format_is_refused_unless_it_is_said_to_be_raw(
    tmp_path: Path, mode: Mode, content: bytes, name: str
) -> None:
    path = tmp_path / "disk"
    content = content.ljust(1536, b"\0")
    path.write_bytes(content)
    message = refused(path, mode)
    assert (f"looks like {name}, which its name does not say" if name != "QED" else "has the format QED") in message
    assert "format=raw if it is a raw image all the same" in message
    assert path.read_bytes() == content
    disk = open_disk(path, mode, "raw")
    assert disk.read_at(0, 1536) == content
    disk.close()


@pytest.mark.parametrize("name", ["disk.qcow2", "DISK.VMDK", "disk.vdi", "disk.vhd", "disk.vpc", "disk.vhdx"])
@pytest.mark.parametrize("content", [bytes(1024), b"QED\0" + bytes(1020), b"\x7fELF" + bytes(1020)])
def test_an_image_whose_name_says_a_format_that_it_has_not_is_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert "format=raw if it is a raw image" in refused(path)
    assert path.read_bytes() == content
    open_disk(path, format="raw").close()


def test_unknown_format(image: Path) -> None:
    with pytest.raises(ConfigError, match="'qed' is no format of disk images that can be opened: give raw, qcow2"):
        open_disk(image, "ro", "qed")


def test_a_raw_image_has_nothing_under_it(image: Path) -> None:
    for kind in (None, "raw"):
        with pytest.raises(ConfigError, match="only others name a file that is under them"):
            open_disk(image, "ro", kind, backing=True)
    open_disk(image).close()  # it is locked by nobody


def test_unknown_mode(image: Path) -> None:
    assert "rw, ro, discard" in refused(image, "wr")  # type: ignore[arg-type]  # what a caller without types can do


def test_image_without_permission(image: Path) -> None:
    """Root may open everything, so a child that is nobody tries."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    code = """
import os, sys, tempfile  # all that is imported, while it may be read
from pykvm.disk.image import open_disk
from pykvm.errors import ConfigError
os.chdir(os.path.dirname(sys.argv[1]))
os.setuid(65534)
for mode in "rw", "ro", "discard":
    try:
        open_disk("disk.img", mode).close()
        print(mode, "opened")
    except ConfigError as error:
        print(mode, error)
"""
    image.parent.chmod(0o711)
    image.chmod(0o644)
    run = [sys.executable, "-c", code, str(image)]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "may not be written" in out[0]
    assert "read-only" in out[0]
    assert out[1:] == ["ro opened", "discard opened"]
    image.chmod(0o600)
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "may not be read" in out[1]


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("rw", "rw", False), ("rw", "ro", False), ("rw", "discard", False), ("ro", "rw", False),
        ("discard", "rw", False), ("ro", "ro", True), ("ro", "discard", True), ("discard", "discard", True),
    ],
)  # fmt: skip
def test_one_writer_or_many_readers(image: Path, first: Mode, second: Mode, together: bool) -> None:
    holder = open_disk(image, first)
    if together:
        open_disk(image, second).close()
    else:
        assert "in use by another machine" in refused(image, second)
    holder.close()
    open_disk(image, second).close()


def test_a_forgotten_disk_lets_go_of_its_lock(image: Path) -> None:
    disk: object = RawDisk(image)
    del disk
    gc.collect()
    RawDisk(image).close()


@pytest.mark.parametrize("mode", ["rw", "discard"])
def test_a_closed_disk_touches_no_other_file(image: Path, tmp_path: Path, mode: Mode) -> None:
    """The number of the closed descriptor is soon another file's."""
    disk = open_disk(image, mode)
    disk.write_at(0, b"x")
    disk.close()
    with open(tmp_path / "one", "w+b") as one, open(tmp_path / "two", "w+b") as two:
        with pytest.raises(OSError, match="Bad file descriptor"):
            disk.read_at(0, 1)
        with pytest.raises(OSError, match="Bad file descriptor"):
            disk.write_at(0, b"x")
        assert (one.seek(0, 2), two.seek(0, 2)) == (0, 0)


# OverlayDisk.


@pytest.fixture
def overlay(image: Path) -> Iterator[OverlayDisk]:
    disk = OverlayDisk(RawDisk(image, read_only=True))
    yield disk
    disk.close()


def test_overlay_leaves_the_base_alone(image: Path, overlay: OverlayDisk) -> None:
    before = image.read_bytes()
    assert (overlay.size, overlay.read_only) == (len(before), False)
    assert overlay.read_at(0, overlay.size) == before
    overlay.write_at(5000, b"hello")
    overlay.flush()
    assert overlay.read_at(4999, 7) == before[4999:5000] + b"hello" + before[5005:5006]
    assert overlay.read_at(0, overlay.size) == before[:5000] + b"hello" + before[5005:]
    overlay.close()
    overlay.close()
    assert image.read_bytes() == before


def test_overlay_closes_its_base(image: Path) -> None:
    open_disk(image, "discard").close()
    RawDisk(image).close()


def test_changed_clusters(image: Path, overlay: OverlayDisk) -> None:
    """51,200 bytes are 12 whole clusters and one of 2048 bytes."""
    before = image.read_bytes()
    assert list(overlay.changed()) == []
    overlay.write_at(51199, b"Z")
    overlay.write_at(CLUSTER - 1, b"ab")
    overlay.write_at(100, b"")
    changed = list(overlay.changed())
    assert [(offset, len(data)) for offset, data in changed] == [(0, 4096), (4096, 4096), (49152, 2048)]
    assert changed[0][1] == before[:4095] + b"a"
    assert changed[1][1] == b"b" + before[4097:8192]
    assert changed[2][1] == before[49152:51199] + b"Z"
    content = overlay.read_at(0, overlay.size)
    overlay.write_at(0, bytes(overlay.size))
    overlay.discard()
    assert overlay.read_at(0, overlay.size) == before
    for offset, data in changed:
        overlay.write_at(offset, data)
    assert overlay.read_at(0, overlay.size) == content


def test_overlay_of_a_huge_disk_is_sparse(tmp_path: Path) -> None:
    path = tmp_path / "huge.img"
    path.touch()
    os.truncate(path, 1 << 40)
    disk = OverlayDisk(RawDisk(path, read_only=True))
    disk.write_at((1 << 40) - 3, b"end")
    disk.write_at(1 << 39, b"mid")
    assert disk.read_at((1 << 40) - 4, 4) == b"\0end"
    assert [(offset, len(data)) for offset, data in disk.changed()] == [
        (1 << 39, CLUSTER),
        ((1 << 40) - CLUSTER, CLUSTER),
    ]
    assert os.fstat(disk._fd).st_blocks * 512 < 1 << 20
    disk.close()


def test_overlay_has_no_name_on_the_host(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    disk = open_disk(image, "discard")
    disk.write_at(0, b"x")
    assert os.listdir(tmp_path) == ["disk.img"]
    disk.close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert "TMPDIR" in refused(image, "discard")


@pytest.mark.parametrize("size", [SECTOR, CLUSTER, 3 * CLUSTER + SECTOR, 8 * CLUSTER, 9 * CLUSTER - SECTOR])
@given(data=st.data())
@settings(max_examples=25)
def test_overlay_model(size: int, data: st.DataObject) -> None:
    with tempfile.NamedTemporaryFile() as file:
        base = bytes(at * 31 >> 4 & 0xFF for at in range(size))
        file.write(base)
        file.flush()
        disk, model = OverlayDisk(RawDisk(file.name, read_only=True)), bytearray(base)
        edges = [0, SECTOR, CLUSTER, CLUSTER - 1, CLUSTER + 1, 2 * CLUSTER, size - 1, size]
        place = st.one_of(st.integers(0, size), st.sampled_from([edge for edge in edges if edge <= size]))
        for value in range(1, 12):
            start, end = sorted((data.draw(place), data.draw(place)))
            assert disk.read_at(start, end - start) == model[start:end]
            start, end = sorted((data.draw(place), data.draw(place)))
            disk.write_at(start, bytes([value]) * (end - start))
            model[start:end] = bytes([value]) * (end - start)
            assert disk.read_at(0, size) == model
        patched = bytearray(base)
        for offset, content in disk.changed():
            patched[offset : offset + len(content)] = content
        assert patched == model
        disk.close()
        assert Path(file.name).read_bytes() == base
