"""Where an image comes from: regular files and FIFOs, and what must neither hang nor fill the host's memory."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from descriptors import none_left
from iso_writer import iso

from pykvm.boot import Options, source
from pykvm.boot.source import BootSource, read_image
from pykvm.disk.memory import MemoryDisk
from pykvm.disk.overlay import OverlayDisk
from pykvm.disk.raw import RawDisk
from pykvm.disk.tray import Tray
from pykvm.errors import ConfigError
from pykvm.memory import GuestMemory


def refused(path: str | Path) -> str:
    with none_left(), pytest.raises(ConfigError) as caught:
        read_image(path)
    return str(caught.value)


def test_what_is_no_image(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "nothing")
    assert "Is a directory" in refused(tmp_path)
    assert "/dev/zero is a character device" in refused("/dev/zero")
    assert "NUL" in refused("a\0b")
    assert "too long" in refused("x" * 5000)


def test_a_fifo_that_nobody_writes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FIFO_PATIENCE", 0.05)
    os.mkfifo(tmp_path / "fifo")
    assert "is a FIFO, and nobody has written to it for 0.05 seconds" in refused(tmp_path / "fifo")


def test_a_fifo_is_read_to_its_end(tmp_path: Path) -> None:
    path, content = tmp_path / "fifo", os.urandom(300_000)
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    assert read_image(path) == content
    writer.join()


def test_a_fifo_without_end_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "IMAGE_LIMIT", 1 << 20)
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "fifo", "r+b", buffering=0) as keep:
        endless = subprocess.Popen(["cat", "/dev/zero"], stdout=keep)
        try:
            with pytest.raises(ConfigError, match="is larger than"):
                read_image(tmp_path / "fifo")
        finally:
            endless.kill()
            endless.wait()


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "IMAGE_LIMIT", 4096)
    path = tmp_path / "os.img"
    path.write_bytes(bytes(4096))
    assert len(read_image(path)) == 4096
    path.write_bytes(bytes(4097))
    assert "a disk is given by --disk" in refused(path)


def test_an_image_that_shrinks_ends_no_process(tmp_path: Path) -> None:
    """A map of the file would be SIGBUS for whoever touches it."""
    path = tmp_path / "kernel"
    path.write_bytes(b"\xf4" * 100_000)
    code = """
import os, sys
from pykvm.boot import Options
from pykvm.boot.source import BootSource
from pykvm.memory import GuestMemory
memory = GuestMemory("2M")
start = BootSource(sys.argv[1], Options(mode=32), None, None).loader(memory, [])
os.truncate(sys.argv[1], 0)
print(start().spans[0].size, memory.read(0x100000 + 99_999, 1).hex())
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "100000 f4\n"


def test_a_disk_image_is_opened_again_for_its_writes_to_be_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    content = b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa" + b"conectix".ljust(512, b"\0")
    path.write_bytes(content)
    found = BootSource(path, Options(), None, None)
    assert (found.kind, found.has_bios) == ("disk", True)
    disk = found.open_disk()
    assert isinstance(disk, OverlayDisk)
    with closing(disk):
        disk.write_at(0, b"x")
    assert path.read_bytes() == content


def test_a_cd_larger_than_any_kernel_is_opened_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "os.iso"
    path.write_bytes(iso(b"\xf4"))
    os.truncate(path, 3 << 30)
    path.chmod(0o400)
    tracemalloc.start()
    found = BootSource(path, Options(), None, None)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert found.kind == "cd"
    disk = found.open_disk()
    assert isinstance(disk, RawDisk)
    with closing(disk), pytest.raises(PermissionError):
        disk.write_at(0, b"x")


def test_a_packed_cd_and_one_from_a_pipe_are_in_memory(tmp_path: Path) -> None:
    image, fifo = iso(b"\xf4"), tmp_path / "fifo"
    (tmp_path / "os.iso.gz").write_bytes(gzip.compress(image))
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(image,))
    writer.start()
    for path in (tmp_path / "os.iso.gz", fifo):
        disk = BootSource(path, Options(), None, None).open_disk()
        assert disk is not None
        assert disk.read_at(0, disk.size) == image
    writer.join()


def test_there_is_nothing_to_start() -> None:
    with closing(GuestMemory("1M")) as memory:
        assert BootSource(None, Options(), None, None).loader(memory, []) is None
        with pytest.raises(ConfigError, match="no disk to start from"):
            BootSource(None, Options(), "disk", None).loader(memory, [None])
    with pytest.raises(ConfigError, match="no image format 'tape'"):
        BootSource(None, Options(), "tape", None)


def test_a_small_image_takes_little_memory_to_read(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"\xf4" * 512)
    tracemalloc.start()
    assert read_image(path) == b"\xf4" * 512
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_cd_s_program_finds_the_machine_s_tables() -> None:
    memory, tray = GuestMemory("1M"), Tray(MemoryDisk(iso(b"\xf4")))
    found = BootSource(None, Options(cpus=2), "disk", None)
    loader = found.loader(memory, [None], [tray])
    assert loader is not None
    loader()
    assert memory.read(0xE0000, 8) == b"RSD PTR "
    assert memory.read(0xF0000, 4) == b"_SM_"
    assert memory.read(0xFFFF0, 1) == b"\xea"
