"""The disks of a snapshot. The content of a copy-on-write disk is part of it; the image file under it is not, and must
stay as it is. A disk that is written through has left what it held before, and no snapshot brings it back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..disk import Disk, ImageDisk
from ..disk.formats import FORMATS
from ..disk.image import open_disk
from ..disk.overlay import CLUSTER, OverlayDisk
from ..disk.tray import Tray
from ..errors import ConfigError
from ..kvm.structs import as_table
from .errors import SnapshotError
from .fields import file_name, flag, number, text

SIZE_LIMIT = 1 << 57
"""Bytes of the largest disk that there can be: 2^48 sectors."""
BLANK_LIMIT = 1 << 40
"""Bytes of the largest disk without an image file. Of what is only zeros one bit in 4 KiB is kept."""


@dataclass(slots=True)
class SavedDisk:
    """One disk: its size, the image file under it (None if there is no file), and what was written over that."""

    size: int
    path: str | None = None
    stamp: int = 0
    """When the image file was last changed: nanoseconds since 1970."""
    read_only: bool = False
    written: dict[int, bytes] | None = None
    """What was written, by offset, or, where there is no file, what is not all zeros: one or more whole clusters each.
    None for a disk that keeps its own content."""
    format: str = "raw"
    """Of the image file, a key of `disk.formats.FORMATS`; "nbd" if `path` is the URI of a server's disk."""
    backing: bool = False
    """Whether the image may name others that are under it."""

    def as_plain(self) -> dict[str, Any]:
        """All but the clusters."""
        return {
            "size": self.size, "path": self.path, "stamp": self.stamp, "read_only": self.read_only,
            "overlay": self.written is not None, "format": self.format, "backing": self.backing,
        }  # fmt: skip

    @classmethod
    def from_plain(cls, state: Any) -> SavedDisk:
        """Take back what `as_plain` returned; ValueError says what does not fit."""
        state = as_table(state, "a disk")
        path = None if state.get("path") is None else file_name(state, "path")
        size = number(state, "size", BLANK_LIMIT if path is None else SIZE_LIMIT, least=1)
        stamp = number(state, "stamp", (1 << 63) - 1, least=-1 << 63)
        written: dict[int, bytes] | None = {} if flag(state, "overlay") else None
        state = {"format": "raw", "backing": False, **state}  # they came later
        kind = text(state, "format")
        if kind not in FORMATS and kind != "nbd":
            raise ValueError(f"a disk has the format {kind!r:.20}")
        return cls(size, path, stamp, flag(state, "read_only"), written, kind, flag(state, "backing"))

    def in_directory(self, path: str) -> None:
        """Take the image's name for one that begins in that directory, if it is not absolute."""
        if self.path is not None and self.format != "nbd":
            self.path = os.path.join(path, self.path)

    def open(self, within: str | None = None) -> Disk:
        """The disk, opened anew from its image file; SnapshotError if it cannot be or is not in the directory `within`.

        `within` has no symbolic links in its name. What counts is the file that was opened: the name may lead elsewhere
        from one moment to the next. It is looked at before, too, as a device may notice that it is opened.
        """
        if self.path is None:
            if self.written is None:
                raise SnapshotError("the snapshot has a disk without a file of its own: give it as one of `disks`")
            return OverlayDisk(_Blank(self.size))
        self._require_within(within, self.path if self.format == "nbd" else os.path.realpath(self.path))
        try:
            image = open_disk(self.path, "ro", None if self.format == "nbd" else self.format, backing=self.backing)
        except ConfigError as error:
            raise SnapshotError(f"{error}: put it back, or give another disk in its place") from error
        try:
            if not isinstance(image, ImageDisk) or image.format != self.format:
                raise SnapshotError(f"the snapshot names {self.path!r} as the URI of a disk, which it is not")
            for path in image.real_paths():
                self._require_within(within, path)
            if image.changed_at() != self.stamp:
                raise SnapshotError(
                    f"disk image {self.path!r} has been changed since the snapshot was taken: "
                    "restore the image, or give another one as one of `disks`"
                )
            return image if self.written is None and self.read_only else OverlayDisk(image)
        except BaseException:
            image.close()
            raise

    def _require_within(self, within: str | None, path: str) -> None:
        if within is not None and (self.format == "nbd" or os.path.commonpath((path, within)) != within):
            raise SnapshotError(
                f"the snapshot {within} names the file {path!r} of this host as a disk: if its guest may read "
                "that, confirm it by `Snapshot.load(..., trust_disks=True)` or `--trust-disks` of `pykvm restore` and "
                "`inspect`; if not, give other disks"
            )


class _Blank:
    """`size` zeros, which nobody writes: what is under the clusters of a disk without a file."""

    read_only = True

    def __init__(self, size: int) -> None:
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def write_at(self, offset: int, data: bytes) -> None:
        raise PermissionError("the disk is read-only")

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to give back."""


def save_disk(disk: Disk | None) -> SavedDisk | None:
    """The state of a disk that holds still."""
    if disk is None:
        return None
    if isinstance(disk, OverlayDisk):
        written = disk.changed() if isinstance(disk.base, ImageDisk) else _not_zeros(disk)
        return _with_image(SavedDisk(disk.size, written=dict(written)), disk.base)
    return _with_image(SavedDisk(disk.size, read_only=disk.read_only), disk)


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
        # Long runs come from files, in which they may be holes; what is there already takes up no room.
        if len(data) <= CLUSTER or disk.read_at(offset, len(data)) != data:
            disk.write_at(offset, data)


def save_medium(tray: Tray) -> SavedDisk | None:
    """The medium on a tray, by its image file; what it stands for, if a fork was given it in place of that."""
    if isinstance(tray.stands_for, SavedDisk):
        return tray.stands_for
    medium = save_disk(tray.medium)
    if medium is not None:
        medium.read_only, medium.written = True, None
    return medium


def check_media(saved: Sequence[SavedDisk | None], trays: Sequence[Tray], within: str | None) -> None:
    """SnapshotError unless the trays have these media, or can be given them."""
    for place, (state, tray) in enumerate(zip(saved, trays, strict=True)):
        if state is None or state == save_medium(tray):
            if state is not None and (tray.medium is None or tray.medium.size != state.size):
                raise SnapshotError(f"the CD in drive {place} is not of {state.size} bytes, as the snapshot's is")
        elif state.path is None:
            raise SnapshotError(f"the snapshot has a CD in drive {place} that has no file of its own: insert it first")
        else:
            state.open(within).close()


def restore_medium(state: SavedDisk | None, tray: Tray, within: str | None) -> None:
    """Put the medium of a snapshot onto the tray, unless it is there; after `check_media`."""
    if state != save_medium(tray):
        tray.put(None if state is None else state.open(within))


def written_through(disks: Sequence[Disk | None]) -> list[str]:
    """The disks whose content a snapshot cannot bring back, in words."""
    return [
        f"disk {place}" + (f" ({disk.location})" if isinstance(disk, ImageDisk) else "")
        for place, disk in enumerate(disks)
        if disk is not None and not disk.read_only and not isinstance(disk, OverlayDisk)
    ]


def _not_zeros(disk: Disk) -> Iterator[tuple[int, bytes]]:
    if isinstance(disk, OverlayDisk) and isinstance(disk.base, _Blank):
        clusters = disk.changed()
    else:
        clusters = ((at, disk.read_at(at, min(CLUSTER, disk.size - at))) for at in range(0, disk.size, CLUSTER))
    return ((offset, data) for offset, data in clusters if data.count(0) != len(data))


def _with_image(saved: SavedDisk, disk: Disk) -> SavedDisk:
    """With what it takes to have the image again, if there is one."""
    if isinstance(disk, ImageDisk):
        saved.path, saved.stamp, saved.format, saved.backing = (
            disk.location, disk.changed_at(), disk.format, disk.backing,
        )  # fmt: skip
    return saved
