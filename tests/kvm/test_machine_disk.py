"""Disks in every place and of every kind: what the guest writes, where it ends up, and what survives a killed host."""

from __future__ import annotations

import hashlib
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import zygote
from helpers import LIMIT, ROOT

from pykvm import ConfigError, Ending, Machine, open_disk

Guest = Callable[[str], Path]

SECTOR = 512
SECTORS = 64
FIRST, LAST = 8, 23  # what disk.elf overwrites
PLACES = ("primary master", "primary slave", "secondary master", "secondary slave")


def content() -> bytes:
    """An image of which no two sectors are alike."""
    return b"".join(hashlib.sha512(bytes([n])).digest() * 8 for n in range(SECTORS))


def written(before: bytes) -> bytes:
    """The image after disk.elf: word N of the disk is N * 2654435761."""
    words = range(FIRST * SECTOR // 4, (LAST + 1) * SECTOR // 4)
    new = b"".join(struct.pack("<I", word * 2654435761 & 0xFFFFFFFF) for word in words)
    return before[: FIRST * SECTOR] + new + before[(LAST + 1) * SECTOR :]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(content())
    return path


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("mode", ["rw", "discard"])
def test_what_the_guest_writes_is_in_the_file_or_forgotten(
    guest: Guest, image: Path, place: int, mode: Literal["rw", "discard"]
) -> None:
    with Machine(guest("disk"), disks=[None] * place + [open_disk(image, mode)]) as machine:
        assert machine.run(LIMIT).code == 0
        lines = machine.serial.text.splitlines()
    assert lines[-1] == "disk: ok"
    assert [line.partition(":")[0] for line in lines[:4]] == list(PLACES)
    for number, line in enumerate(lines[:4]):
        assert line.endswith(f", {SECTORS} sectors" if number == place else ": nothing")
    assert image.read_bytes() == (written(content()) if mode == "rw" else content())


@pytest.mark.parametrize("place", range(4))
def test_a_read_only_disk_refuses_the_write_and_stays_as_it_is(guest: Guest, image: Path, place: int) -> None:
    with Machine(guest("disk"), disks=[None] * place + [open_disk(image, "ro")]) as machine:
        outcome = machine.run(LIMIT)
        assert "disk: FAILED at write" in machine.serial.text
    assert (outcome.ending, outcome.code) == (Ending.EXITED, 3)
    assert image.read_bytes() == content()


def test_a_path_is_opened_for_writing(guest: Guest, image: Path) -> None:
    with Machine(guest("disk"), disks=[str(image)]) as machine:
        assert machine.run(LIMIT).code == 0
    assert image.read_bytes() == written(content())


def test_four_disks_are_four(guest: Guest, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.img" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes((30 + number) * SECTOR))
    with Machine(guest("disk"), disks=paths) as machine:
        assert machine.run(LIMIT).code == 0
        lines = machine.serial.text.splitlines()
    assert [line.rpartition(", ")[2] for line in lines[:4]] == [f"{30 + number} sectors" for number in range(4)]
    assert paths[0].read_bytes() == written(bytes(30 * SECTOR))
    assert [path.read_bytes().count(0) for path in paths[1:]] == [31 * SECTOR, 32 * SECTOR, 33 * SECTOR]


def test_no_disk_is_no_disk(guest: Guest) -> None:
    with Machine(guest("disk")) as machine:
        assert machine.run(LIMIT).code == 0
        assert machine.serial.text.endswith("disk: no disk\n")


def test_one_image_cannot_be_written_by_two_machines(guest: Guest, image: Path) -> None:
    with Machine(guest("disk"), disks=[image]), pytest.raises(ConfigError, match="in use"):
        Machine(guest("disk"), disks=[image])
    with Machine(guest("disk"), disks=[image]) as machine:  # its lock went with the first machine
        assert machine.run(LIMIT).code == 0


def test_more_than_four_disks_are_refused(guest: Guest) -> None:
    with pytest.raises(ConfigError, match="5 disks"):
        Machine(guest("disk"), disks=[None] * 5)


VICTIM = """
import sys
from pykvm import Machine
machine = Machine(sys.argv[1], disks=[sys.argv[2]])
machine.start()
machine.serial.wait_for("flushed")
print("flushed", flush=True)
sys.stdin.read()
"""


def test_flushed_data_survive_a_killed_host(guest: Guest, image: Path) -> None:
    with zygote.Popen(
        [sys.executable, "-c", VICTIM, str(guest("disk")), str(image)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"flushed\n"
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL
    assert image.read_bytes() == written(content())
    with Machine(guest("disk"), disks=[image]) as machine:  # and nobody holds its lock
        assert machine.run(LIMIT).code == 0
