"""What everything about snapshots raises."""

from __future__ import annotations

from ..errors import PykvmError


class SnapshotError(PykvmError):
    """A snapshot cannot be taken, put back, saved or loaded; the message says why."""
