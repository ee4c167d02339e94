"""Errors of the host's that end a run, in place of being the disk's."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pykvm.disk.image import open_disk
from pykvm.disk.memory import MemoryDisk
from pykvm.disk.policy import DiskError, StoppingDisk
from pykvm.errors import ConfigError


class FailingDisk(MemoryDisk):
    def read_at(self, offset: int, length: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error", "/dev/broken")

    def write_at(self, offset: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        raise OSError(errno.EIO, "Input/output error")


def test_errors_are_the_hosts() -> None:
    disk = StoppingDisk(FailingDisk(bytes(1024)))
    assert (disk.size, disk.read_only) == (1024, False)
    with pytest.raises(DiskError, match="disk /dev/broken: 512 bytes at 0x200 cannot be read: Input/output error"):
        disk.read_at(512, 512)
    with pytest.raises(DiskError, match="disk: 2 bytes at 0x0 cannot be written: No space left on device"):
        disk.write_at(0, b"ab")
    with pytest.raises(DiskError, match="cannot be made to last"):
        disk.flush()
    disk.close()


def test_the_rest_is_as_it_was(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1024))
    disk = StoppingDisk(open_disk(image, "ro"))
    assert disk.read_at(0, 4) == bytes(4)
    with pytest.raises(PermissionError):
        disk.write_at(0, b"a")
    with pytest.raises(ValueError, match="not within"):
        disk.read_at(1024, 1)
    disk.close()


def test_a_word_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'ignore' is nothing to do at an error: give one of report, stop"):
        open_disk(tmp_path / "x", on_error="ignore")  # type: ignore[arg-type]  # what a caller without types can do
