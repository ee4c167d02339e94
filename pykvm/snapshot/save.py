"""Writing a snapshot to its directory; see `format`."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from isal.isal_zlib import crc32

from ..memory import PAGE_SIZE
from . import features, plain
from .contents import Contents, Firmware, Shape
from .disks import SavedDisk
from .errors import SnapshotError
from .format import (
    CHECKSUM,
    CHUNK,
    EXTENTS,
    FIRMWARE,
    FORMAT,
    MEMORY,
    RAM_LIMIT,
    STATE,
    STATE_LIMIT,
    WRITTEN_LIMIT,
    chunks,
)
from .image import RamImage, pages_in, pages_of, runs
from .load import read_header
from .unfinished import ASIDE, tidy, working_directory


def save(snapshot: Contents, path: str, parent: Contents | None) -> None:
    """See `Snapshot.save`."""
    path = os.path.abspath(path)
    home, name = os.path.split(path)
    tidy(home)
    try:
        replaces = _is_replaceable(path)
        link = None
        if parent is not None:
            link = _parent_link(parent, path)
        with working_directory(home, name) as work:
            _write(snapshot, work, parent, link)
            _sync(work)
            if replaces:
                _exchange(work, path)
            else:
                os.rename(work, path)
            _sync(home)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be written: {error.strerror or error}") from error
    except ValueError as error:
        raise SnapshotError(f"{path} cannot be written: {error}") from error
    snapshot.home = path


def _is_replaceable(path: str) -> bool:
    """Whether there is a snapshot at `path` already; SnapshotError if there is something else."""
    if not os.path.lexists(path):
        return False
    if os.path.isdir(path) and not os.path.islink(path) and os.path.exists(os.path.join(path, STATE)):
        return True
    raise SnapshotError(f"{path} exists and is no snapshot: it is not replaced")


def _parent_link(parent: Contents, path: str) -> dict[str, str]:
    if parent.home is None:
        raise SnapshotError("a parent must have been saved or loaded before")
    if os.path.realpath(parent.home) == os.path.realpath(path):
        raise SnapshotError(f"{path} is the parent itself: save it elsewhere")
    if read_header(parent.home).id != parent.id:
        raise SnapshotError(f"the parent {parent.home} has been replaced by another snapshot: save the parent again")
    return {"id": parent.id, "path": os.path.relpath(parent.home, os.path.dirname(path))}


def _write(snapshot: Contents, work: str, parent: Contents | None, link: dict[str, str] | None) -> None:
    shape = snapshot.shape
    if shape.memory > RAM_LIMIT:
        raise ValueError(f"the machine has more RAM than {RAM_LIMIT >> 40} TiB")
    disks: list[dict[str, Any] | None] = []
    for number, disk in enumerate(snapshot.disks):
        if disk is None:
            disks.append(None)
            continue
        state = _checked(disk)
        if disk.written is not None:
            if sum(map(len, disk.written.values())) > WRITTEN_LIMIT:
                raise ValueError(f"more than {WRITTEN_LIMIT >> 30} GiB were written to disk {number}")
            state["extents"] = _write_extents(os.path.join(work, f"disk{number}"), disk.size, disk.written.items())
        disks.append(state)
    image = snapshot.image
    parts = _bounded(image.data() if parent is None else runs(_difference(parent.image, image)))
    contents = ((at, image.map[at : at + length]) for at, length in parts)
    state = {
        "format": FORMAT,
        "id": snapshot.id,
        "parent": link,
        "created": snapshot.created,
        "machine": _machine(shape, no_reboot=snapshot.no_reboot, finish=snapshot.finish),
        "screen": snapshot.screen.split("\n"),
        "exits": snapshot.exits,
        "memory": _write_extents(os.path.join(work, MEMORY), shape.memory, contents),
        "disks": disks,
        "media": [_medium(medium) for medium in snapshot.media],
        **_write_firmware(work, snapshot.firmware),
        "cpuid": [asdict(entry) for entry in snapshot.cpuid],
        "features": features.as_plain(snapshot.features),
        "processors": snapshot.state.as_plain(),
        "devices": snapshot.devices,
        "lines": {str(number): levels for number, levels in snapshot.lines.items()},
        "consoles": [_write_console(work, place, state) for place, state in enumerate(snapshot.consoles)],
    }
    raw = plain.dumps(state).encode()
    if len(raw) > STATE_LIMIT:
        raise ValueError(f"the state is longer than {STATE_LIMIT >> 20} MiB")
    _write_file(os.path.join(work, STATE), raw)
    _write_file(os.path.join(work, CHECKSUM), f"{hashlib.sha256(raw).hexdigest()}  {STATE}\n".encode())


def _medium(medium: SavedDisk | None) -> dict[str, Any] | None:
    return None if medium is None else _checked(medium)


def _checked(disk: SavedDisk) -> dict[str, Any]:
    """A disk as plain data; ValueError tells now what a file cannot say."""
    state = disk.as_plain()
    SavedDisk.from_plain(state)
    return state


def _machine(shape: Shape, *, no_reboot: bool, finish: bool) -> dict[str, Any]:
    return {
        "memory": shape.memory,
        "cpus": shape.cpus,
        **shape.options,
        "bios": shape.bios,
        "firmware": shape.firmware,
        "no_reboot": no_reboot,
        "finish": finish,
    }


def _write_firmware(work: str, firmware: Firmware | None) -> dict[str, list[list[int]] | None]:
    images = {name: None if firmware is None else getattr(firmware, FIRMWARE[name]) for name in FIRMWARE}
    return {name: None if image is None else _write_whole(work, name, image) for name, image in images.items()}


def _write_console(work: str, place: int, state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "output": _write_whole(work, f"console{place}", state["output"])}


def _write_whole(work: str, name: str, content: bytes) -> list[list[int]]:
    if not content:
        return []
    parts = ((at, content[at : at + length]) for at, length in chunks([(0, len(content))]))
    return _write_extents(os.path.join(work, name), len(content), parts)


def _bounded(parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """These parts of RAM as extents that are not too many: if they are, short gaps between them are saved, too."""
    joined, gap = list(parts), PAGE_SIZE
    while len(extents := list(chunks(joined))) > EXTENTS:
        wider: list[tuple[int, int]] = []
        for offset, length in joined:
            if wider and offset - sum(wider[-1]) <= gap:
                wider[-1] = wider[-1][0], offset + length - wider[-1][0]
            else:
                wider.append((offset, length))
        if gap >= CHUNK:
            raise ValueError(f"the machine uses more than {EXTENTS * CHUNK >> 30} GiB of RAM")
        joined, gap = wider, 2 * gap
    return extents


def _difference(old: RamImage, new: RamImage) -> int:
    """The pages whose content is not the same."""
    if old.root is new.root:
        candidates = old.changed | new.changed
    else:
        candidates = pages_in(old.data(), old.root.size) | pages_in(new.data(), new.root.size)
    different = []
    with memoryview(old.map) as before, memoryview(new.map) as after:
        for offset, length in runs(candidates):
            for at in range(offset, offset + length, PAGE_SIZE):
                if before[at : at + PAGE_SIZE] != after[at : at + PAGE_SIZE]:
                    different.append(at // PAGE_SIZE)
    return pages_of(different)


def _write_extents(path: str, size: int, parts: Iterable[tuple[int, bytes]]) -> list[list[int]]:
    """Write a sparse file of `size` bytes with these parts (offset, content), and return its extents."""
    made: list[list[int]] = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(fd, size)
        for offset, content in parts:
            done = 0
            while done < len(content):
                done += os.pwrite(fd, memoryview(content)[done:], offset + done)
            last = made[-1] if made else None
            if last is not None and last[0] + last[1] == offset and last[1] + len(content) <= CHUNK:
                last[1:] = last[1] + len(content), crc32(content, last[2])
            else:
                made.append([offset, len(content), crc32(content)])
        os.fsync(fd)
    finally:
        os.close(fd)
    return made


def _write_file(path: str, raw: bytes) -> None:
    with open(path, "xb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _exchange(one: str, other: str) -> None:
    """Put `one` in the place of `other`, which gets its name (renameat2 with RENAME_EXCHANGE: in one step), or, where
    the libc, the kernel or the file system cannot do that, is put aside first."""
    libc, here, exchange = ctypes.CDLL(None, use_errno=True), -100, 2  # AT_FDCWD
    renameat2 = getattr(libc, "renameat2", None)
    if renameat2 is not None:
        if renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), other)
    os.rename(other, one + ASIDE)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(one + ASIDE, other)
        raise
