"""A person's side of a CD-ROM drive: the button, and the disc in the hand."""

from __future__ import annotations

import os

from .devices.atapi_drive import AtapiDrive
from .disk import Disk
from .disk.media import open_trays
from .disk.tray import Tray
from .engine.gate import FairLock
from .errors import ConfigError


class CdRom:
    """A drive of a machine; with the machine's lock, so that any thread may use it."""

    def __init__(self, lock: FairLock, drive: AtapiDrive) -> None:
        self._lock, self._drive = lock, drive

    @property
    def tray(self) -> Tray:
        """What snapshots put media on."""
        return self._drive.tray

    @property
    def medium(self) -> Disk | None:
        """What lies on the tray, be it open or not."""
        return self.tray.medium

    @property
    def is_open(self) -> bool:
        """Whether the tray is out: after `eject`, or because the guest has ejected the medium."""
        return self.tray.is_open

    @property
    def is_locked(self) -> bool:
        """Whether the guest keeps the tray closed, as Linux does while the CD is mounted."""
        return self._drive.is_locked

    def eject(self, *, force: bool = False) -> None:
        """Open the tray and take the medium, which is closed.

        A drive that the guest has locked only tells it that the button was pressed: ConfigError, unless `force`.
        """
        with self._lock:
            self._require_unlocked(force)
            self.tray.put(None)
            self._drive.changed()

    def insert(self, medium: Disk | str | os.PathLike[str], *, force: bool = False) -> None:
        """Put a medium, which the machine then owns, or the image at a path, in place of what is there, and close the
        tray.

        ConfigError if it cannot be opened, and as `eject`.
        """
        (new,) = open_trays(medium)
        try:
            with self._lock:
                self._require_unlocked(force)
                self.tray.put(new.medium)
                self._drive.changed()
        except BaseException:
            new.close()
            raise

    def _require_unlocked(self, force: bool) -> None:
        if self.is_locked and not force:
            self._drive.ask_to_eject()
            raise ConfigError(
                "the guest has locked the drive, and has been asked to let go: try later, or with force=True"
            )
