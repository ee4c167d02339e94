"""A disk in the host's memory, for an image that is at hand as bytes. What is written is gone with the disk."""

from __future__ import annotations

from . import SECTOR


class MemoryDisk:
    """A writable disk that starts as `content`, padded with zeros to whole sectors. See `Disk` for the methods."""

    read_only = False

    def __init__(self, content: bytes) -> None:
        self._data = bytearray(content) + bytes(-len(content) % SECTOR)
        self.size = len(self._data)

    def read_at(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        return bytes(self._data[offset : offset + length])

    def write_at(self, offset: int, data: bytes) -> None:
        self._check(offset, len(data))
        self._data[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Nothing to do: what was written is not meant to outlive the process."""

    def close(self) -> None:
        """Nothing to give back."""

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{offset:#x}+{length:#x} is not within the {self.size:#x} bytes of the disk")
