"""What becomes of a machine whose disk has an error on the host's side: the guest is told, or the run ends."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import PykvmError
from ..typed import TypeVar
from . import Disk

Result = TypeVar("Result")


class DiskError(PykvmError):
    """An error of the host's that ends the run."""


class StoppingDisk:
    """`disk` for a device: what would be an error of the disk for the guest ends the run, with what the host said.

    The guest has not been told anything by then, so that nothing it has is damaged by an error handler of its own.
    See `Disk` for the methods; DiskError in place of OSError.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.size, self.read_only = disk.size, disk.read_only

    def read_at(self, offset: int, length: int) -> bytes:
        return self._done(f"{length} bytes at {offset:#x} cannot be read", lambda: self._disk.read_at(offset, length))

    def write_at(self, offset: int, data: bytes) -> None:
        what = f"{len(data)} bytes at {offset:#x} cannot be written"
        self._done(what, lambda: self._disk.write_at(offset, data))

    def flush(self) -> None:
        self._done("what was written cannot be made to last", self._disk.flush)

    def close(self) -> None:
        self._disk.close()

    def _done(self, what: str, access: Callable[[], Result]) -> Result:
        try:
            return access()
        except PermissionError:  # of a read-only disk: the guest's mistake
            raise
        except OSError as error:
            name = "" if error.filename is None else f" {error.filename}"
            raise DiskError(f"disk{name}: {what}: {error.strerror}; the run ends as on-error=stop has it") from error


def for_device(disk: Disk) -> Disk:
    """What a device is to have of a disk: itself, unless it was opened with on_error="stop"."""
    return disk if getattr(disk, "on_error", "report") == "report" else StoppingDisk(disk)
