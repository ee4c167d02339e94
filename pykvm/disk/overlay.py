"""Copy-on-write over another disk: the base is never written, and what was written goes away with the overlay.

The written clusters are kept in an unlinked sparse temporary file, each at its own offset, and a bitmap says which
they are: the host's memory stays bounded by one bit a cluster, 32 KiB for a disk of 1 GiB.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterator

from ..errors import ConfigError
from . import Disk
from .raw import read_up_to, write_all

CLUSTER = 4096
"""Bytes that are copied together: the block size of most file systems, so that the temporary file has no waste."""


class OverlayDisk:
    """A writable disk that starts as `base` and is closed with it. See `Disk` for the methods.

    The temporary file is made where `tempfile` makes them (TMPDIR, else /tmp); ConfigError if it cannot be.
    """

    read_only = False
    on_error: str = "report"
    """See `image.OnError`."""

    def __init__(self, base: Disk) -> None:
        import tempfile  # slow to import, and machines without such a disk import this module, too

        self.base = base
        self.size = base.size
        self.writes = 0
        """Grows whenever the content may have changed."""
        try:
            self._written = bytearray(-(-self.size // (8 * CLUSTER)))
            self._fd, path = tempfile.mkstemp(prefix="pykvm-overlay-")
        except (OSError, MemoryError) as error:
            raise ConfigError(f"no room for the writes to a disk of {self.size} bytes: {error}; see TMPDIR") from error
        self._finalizer = weakref.finalize(self, os.close, self._fd)
        os.unlink(path)

    def read_at(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        parts = []
        for start, end, written in self._runs(offset, offset + length):
            # A written run is wholly inside the temporary file, which ends with the last cluster ever written.
            parts.append(read_up_to(self._fd, start, end - start) if written else self.base.read_at(start, end - start))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write_at(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self._check(offset, len(data))
        if not data:
            return
        self.writes += 1
        first, last = offset // CLUSTER, (end - 1) // CLUSTER
        cluster_end = min((last + 1) * CLUSTER, self.size)
        if offset % CLUSTER and not self._is_written(first):
            data = self.base.read_at(first * CLUSTER, offset % CLUSTER) + data
            offset = first * CLUSTER
        if end < cluster_end and not self._is_written(last):
            data += self.base.read_at(end, cluster_end - end)
        write_all(self._fd, offset, data)
        for cluster in range(first, last + 1):
            self._written[cluster >> 3] |= 1 << (cluster & 7)

    def flush(self) -> None:
        """Nothing to do: what was written is not meant to outlive the process."""

    def close(self) -> None:
        self._finalizer()
        self._fd = -1
        self.base.close()

    def changed(self) -> Iterator[tuple[int, bytes]]:
        """Offset and content of each cluster that was ever written, at rising offsets; the disk's last may be short.

        Written back with `write_at` after `discard`, they restore the disk as it was. Do not write while iterating.
        """
        for match in re.finditer(rb"[^\0]", self._written):
            for cluster in range(match.start() * 8, match.start() * 8 + 8):
                if self._is_written(cluster):
                    offset = cluster * CLUSTER
                    yield offset, read_up_to(self._fd, offset, min(CLUSTER, self.size - offset))

    def discard(self) -> None:
        """Forget all that was written: the disk is as its base again."""
        self.writes += 1
        os.ftruncate(self._fd, 0)
        self._written = bytearray(len(self._written))

    def _is_written(self, cluster: int) -> bool:
        return bool(self._written[cluster >> 3] >> (cluster & 7) & 1)

    def _runs(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Split start..end into runs (start, end, written) as long as possible; an empty range is one empty run."""
        cluster = start // CLUSTER
        while True:
            written = self._is_written(cluster) if start < self.size else False
            cluster += 1
            while cluster * CLUSTER < end and self._is_written(cluster) is written:
                cluster += 1
            stop = min(cluster * CLUSTER, end)
            yield start, stop, written
            if stop == end:
                return
            start = stop

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{offset:#x}+{length:#x} is not within the {self.size:#x} bytes of the disk")
