"""The tray of a CD-ROM drive, on the host's side: the medium that lies on it, which may be taken and put there."""

from __future__ import annotations

from ..errors import ConfigError
from . import Disk

CD_SECTOR = 2048
"""Bytes of a block of data on a CD (ECMA-130, 14.3: mode 1)."""
MAX_BLOCKS = 1 << 32
"""Blocks of the largest medium: an address has 32 bits."""


class Tray:
    """A tray with `medium` on it (None: nothing), which it owns. ConfigError for a medium that cannot be."""

    def __init__(self, medium: Disk | None = None) -> None:
        self.is_open = False
        """Whether it is out, so that the drive cannot read the medium. The drive moves it."""
        self.changes = 0
        """Grows with each change of the medium."""
        self.stands_for: object = None
        """What of a snapshot the medium has been given in place of; None for one that is itself."""
        self._medium = _checked(medium)

    @property
    def medium(self) -> Disk | None:
        """What lies on it, be it open or not."""
        return self._medium

    @property
    def readable(self) -> Disk | None:
        """The medium, if the drive can read it."""
        return None if self.is_open else self._medium

    @property
    def blocks(self) -> int:
        """How many blocks the medium has; 0 without one. The last one may be filled up with zeros."""
        return 0 if self._medium is None else -(-self._medium.size // CD_SECTOR)

    def put(self, medium: Disk | None) -> None:
        """Put another medium there, or none; what lay there is closed. ConfigError, and no change, if it cannot be."""
        old, self._medium = self._medium, _checked(medium)
        self.stands_for = None
        self.changes += 1
        if old is not None and old is not medium:
            old.close()

    def close(self) -> None:
        """Give the medium back to the host; may be called twice."""
        if self._medium is not None:
            self._medium.close()


def read_bytes(medium: Disk, offset: int, length: int) -> bytes:
    """`length` bytes of a medium, zeros behind its end. OSError as from the medium."""
    there = max(0, min(length, medium.size - offset))
    data = medium.read_at(offset, there) if there else b""
    return data if there == length else data + bytes(length - there)


def _checked(medium: Disk | None) -> Disk | None:
    if medium is not None and not 0 < medium.size <= MAX_BLOCKS * CD_SECTOR:
        raise ConfigError(f"a CD of {medium.size} bytes is not possible: give 1 byte to 8 TiB")
    return medium
