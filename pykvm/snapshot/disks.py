"""The disks of a snapshot. The content of a copy-on-write disk is part of it; the image file under it is not, and must
stay as it is. A disk that is written through has left what it held before, and no snapshot brings it back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..disk import Disk
from ..disk.image import open_disk
from ..disk.memory import MemoryDisk
from ..disk.overlay import CLUSTER, OverlayDisk
from ..disk.raw import RawDisk
from .errors import SnapshotError


@dataclass(slots=True)
class SavedDisk:
    """One disk: its size, the image file under it (None if there is no file), and what was written over that."""

    size: int
    path: str | None = None
    stamp: int = 0
    """When the image file was last changed: nanoseconds since 1970."""
    read_only: bool = False
    written: dict[int, bytes] | None = None
    """Content of each cluster that was written, by offset, or, where there is no file, of each that is not all zeros.
    None for a disk that keeps its own content."""

    def as_plain(self) -> dict[str, Any]:
        """All but the clusters."""
        return {
            "size": self.size, "path": self.path, "stamp": self.stamp, "read_only": self.read_only,
            "overlay": self.written is not None,
        }  # fmt: skip

    @classmethod
    def from_plain(cls, state: Any) -> SavedDisk:
        """Take back what `as_plain` returned; ValueError says what does not fit."""
        if not isinstance(state, dict):
            raise ValueError("a disk is not a table")
        size, path, stamp = state.get("size"), state.get("path"), state.get("stamp")
        if type(size) is not int or size <= 0 or type(stamp) is not int:
            raise ValueError("a disk's size or stamp is not a number that can be")
        if path is not None and (type(path) is not str or "\0" in path):
            raise ValueError("a disk's path is not a text")
        if type(state.get("read_only")) is not bool or type(state.get("overlay")) is not bool:
            raise ValueError("a disk's read_only or overlay is not a truth value")
        return cls(size, path, stamp, state["read_only"], {} if state["overlay"] else None)

    def put_cluster(self, offset: int, data: bytes) -> None:
        """One more written cluster; ValueError unless the disk can have it."""
        if self.written is None or offset % CLUSTER or len(data) != min(CLUSTER, self.size - offset):
            raise ValueError(f"the disk has no cluster of {len(data)} bytes at {offset:#x}")
        self.written[offset] = data

    def open(self) -> Disk:
        """The disk, opened anew from its image file."""
        if self.path is None:
            if self.written is None:
                raise SnapshotError("the snapshot has a disk without a file of its own: give it as one of `disks`")
            return OverlayDisk(MemoryDisk(bytes(self.size)))
        disk = open_disk(self.path, "ro" if self.written is None and self.read_only else "discard", format="raw")
        try:
            stamp = _stamp(self.path)
            if stamp != self.stamp:
                raise SnapshotError(
                    f"disk image {self.path!r} has been changed since the snapshot was taken: "
                    "restore the image, or give another one as one of `disks`"
                )
        except BaseException:
            disk.close()
            raise
        return disk


def save_disk(disk: Disk | None) -> SavedDisk | None:
    """The state of a disk that holds still."""
    if disk is None:
        return None
    if isinstance(disk, OverlayDisk):
        path = disk.base.path if isinstance(disk.base, RawDisk) else None
        written = disk.changed() if path is not None else _not_zeros(disk)
        return SavedDisk(disk.size, _absolute(path), _stamp(path), False, dict(written))
    path = disk.path if isinstance(disk, RawDisk) else None
    return SavedDisk(disk.size, _absolute(path), _stamp(path), disk.read_only)


def check_disks(saved: Sequence[SavedDisk | None], disks: Sequence[Disk | None]) -> None:
    """SnapshotError unless these are disks that the snapshot can be put back to."""
    if [disk is None for disk in saved] != [disk is None for disk in disks]:
        raise SnapshotError("the snapshot is of a machine with disks in other places")
    for place, (state, disk) in enumerate(zip(saved, disks, strict=True)):
        if state is None or disk is None:
            continue
        if state.size != disk.size:
            raise SnapshotError(f"disk {place} has {disk.size} bytes, the snapshot's has {state.size}")
        if state.written and not isinstance(disk, OverlayDisk):
            raise SnapshotError(f"disk {place} was written before the snapshot: attach one whose writes are discarded")


def restore_disk(state: SavedDisk | None, disk: Disk | None) -> None:
    """Take the disk back, after `check_disks`."""
    if state is None or not isinstance(disk, OverlayDisk):
        return
    disk.discard()
    if state.path is None and state.written is not None:
        for offset, _ in list(_not_zeros(disk)):
            disk.write_at(offset, bytes(min(CLUSTER, disk.size - offset)))
    for offset, data in (state.written or {}).items():
        disk.write_at(offset, data)


def written_through(disks: Sequence[Disk | None]) -> list[str]:
    """The disks whose content a snapshot cannot bring back, in words."""
    return [
        f"disk {place}" + (f" ({disk.path})" if isinstance(disk, RawDisk) else "")
        for place, disk in enumerate(disks)
        if disk is not None and not disk.read_only and not isinstance(disk, OverlayDisk)
    ]


def _not_zeros(disk: Disk) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, disk.size, CLUSTER):
        data = disk.read_at(offset, min(CLUSTER, disk.size - offset))
        if data.count(0) != len(data):
            yield offset, data


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _stamp(path: str | None) -> int:
    try:
        return 0 if path is None else os.stat(path).st_mtime_ns
    except OSError:
        return 0
