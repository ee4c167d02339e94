"""The disks that a lab's tests begin with."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from ..disk import SECTOR
from ..errors import ConfigError
from .lab import DiskImage, Lab

ROOM = 1 << 20
"""Bytes that a file system of a directory has room for beyond the directory's files, where no size is given."""
LIMIT = 60
"""Seconds for a program that makes a file system."""


def make_image(lab: Lab, name: str, image: DiskImage, built: str, directory: str) -> str:
    """Make the image of the disk `name` in `directory`, with the submission's files at `built`; its path.

    ConfigError if that cannot be done: a file is missing, or the program that makes the file system.
    """
    path = os.path.join(directory, f"{name}.img")
    if image.file or image.built:
        source = os.path.join(lab.directory, image.file) if image.file else os.path.join(built, image.built)
        if not os.path.isfile(source) or (image.built and not _is_inside(source, built)):
            whose = f"beside {lab.path}" if image.file else "in the submission"
            raise ConfigError(
                f"the disk {name!r} is made of {image.file or image.built!r}, and that is no file {whose}"
            )
        shutil.copyfile(source, path)
    elif image.directory:
        _make_filesystem(os.path.join(lab.directory, image.directory), image, path)
    else:
        Path(path).touch()
    size = max(image.size, os.path.getsize(path), SECTOR)
    os.truncate(path, -(-size // SECTOR) * SECTOR)
    return path


def _is_inside(path: str, directory: str) -> bool:
    """Whether no symbolic link leads out."""
    return os.path.commonpath([os.path.realpath(path), os.path.realpath(directory)]) == os.path.realpath(directory)


def _make_filesystem(source: str, image: DiskImage, path: str) -> None:
    if not os.path.isdir(source):
        raise ConfigError(f"{source} is no directory to make a disk of")
    if image.filesystem == "tar":
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for entry in sorted(os.listdir(source)):
                archive.add(os.path.join(source, entry), entry, filter=_anonymous)
        return
    files = [each for root in os.walk(source) for each in (os.path.join(root[0], name) for name in root[2])]
    size = max(image.size, sum(os.path.getsize(file) for file in files) * 5 // 4 + ROOM)
    with open(path, "wb") as made:
        made.truncate(size)
    if image.filesystem == "ext2":
        _call("e2fsprogs", "mke2fs", "-q", "-F", "-t", "ext2", "-d", source, path)
    else:
        _call("dosfstools", "mkfs.fat", path)
        for entry in sorted(os.listdir(source)):
            _call("mtools", "mcopy", "-s", "-i", path, os.path.join(source, entry), "::")


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same files give the same image."""
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _call(package: str, program: str, *arguments: str) -> None:
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise ConfigError(f"there is no {program}, which makes file systems. On Debian or Ubuntu: install {package}")
    done = subprocess.run(
        [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(f"{program} failed: {done.stderr.strip() or done.returncode}")
