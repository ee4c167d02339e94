"""The disks that a snapshot names, opened again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykvm.snapshot.disks import SavedDisk
from pykvm.snapshot.errors import SnapshotError


@pytest.mark.parametrize(("make", "words"), [(None, "does not exist"), (Path.mkdir, "is a directory")])
def test_an_image_that_cannot_be_opened_is_the_snapshots_error(tmp_path: Path, make: object, words: str) -> None:
    path = tmp_path / "disk.img"
    if callable(make):
        make(path)
    with pytest.raises(SnapshotError, match=f"{words}.*: put it back, or give another disk in its place"):
        SavedDisk(512, str(path)).open()
