"""Snapshots: the whole state of a machine, to go back to, to save, and to start other machines from.

    before = machine.snapshot()
    ...
    machine.restore(before)             # the same machine, as it was
    other = before.fork()               # another machine, from there on
    before.save("before.pykvm")         # docs/snapshots.md has the format
    third = Snapshot.load("before.pykvm").fork()

`image` has the RAM, `disks` the disks' contents, `timeline` takes and puts back all of it, `format` is the file format.
"""

from .errors import SnapshotError
from .snapshot import Snapshot

__all__ = ["Snapshot", "SnapshotError"]
