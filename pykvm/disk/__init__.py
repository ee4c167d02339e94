"""Disk backends: where the sectors of an emulated disk are kept on the host."""

from __future__ import annotations

from ..typed import Protocol

SECTOR = 512
"""Bytes."""


class Disk(Protocol):
    """What a disk device asks of its backend. All sizes and offsets are in bytes.

    A call outside 0..size raises ValueError; a host I/O error comes out as OSError, which the device reports to the
    guest in its own terms.
    """

    @property
    def size(self) -> int:
        """Capacity, a multiple of `SECTOR`."""

    read_only: bool
    """True if `write_at` refuses with PermissionError."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Store all of `data`; a later `read_at` sees it at once."""

    def flush(self) -> None:
        """Return when everything written so far would survive the end of this process and of the host.

        May take long: it is called without the machine's lock, in a thread of its own, while others read and write.
        """

    def close(self) -> None:
        """Give back the host's resources; may be called twice."""


class ImageDisk:
    """A disk that can be had again from the name of its image, which is what a snapshot keeps of it."""

    size: int
    read_only: bool
    format: str
    """A key of `formats.FORMATS`, or "nbd"."""
    backing: bool = False
    """Whether the image may name others that are under it."""
    on_error: str = "report"
    """See `image.OnError`."""

    @property
    def location(self) -> str:
        """The image's absolute path, or the URI."""
        raise NotImplementedError

    def real_paths(self) -> list[str]:
        """Where the files are that were opened, without symbolic links; none where that is not known."""
        return []

    def changed_at(self) -> int:
        """When the image was last changed: nanoseconds since 1970; 0 where that is not known."""
        return 0
