"""Record the frames on a wire in a file for Wireshark and tcpdump.

Format: classic libpcap, draft-ietf-opsawg-pcap, the variant with time stamps in nanoseconds, link type Ethernet.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import ConfigError
from . import NetBackend

MAGIC_NANOSECONDS = 0xA1B23C4D
LINKTYPE_ETHERNET = 1
SNAPLEN = 0x40000
"""The most bytes of a frame that are recorded; readers refuse files that promise more."""

FILE_HEADER = struct.pack("<IHHiIII", MAGIC_NANOSECONDS, 2, 4, 0, 0, SNAPLEN, LINKTYPE_ETHERNET)
RECORD = struct.Struct("<IIII")


class Capture(NetBackend):
    """`backend` with both directions recorded in the file at `path`, which is overwritten; ConfigError if it cannot be.

    Every record is handed to the host at once and whole, so the file can be read while the machine runs, and after
    it was killed. `path` may be a FIFO that Wireshark reads. The file grows with the traffic, without a limit.
    """

    warning: str | None = None
    """Why recording has stopped before its time (disk full, reader gone), or None. The traffic goes on regardless."""

    def __init__(self, backend: NetBackend, path: str) -> None:
        self.backend = backend
        self.station = backend.station
        self.path = path
        try:
            # Not to wait for a FIFO's reader, neither now nor in `send`; a regular file knows no such waiting.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o666)
        except OSError as error:
            raise ConfigError(f"cannot write the capture file {path}: {error.strerror}") from error
        self._size = 0
        self._append(FILE_HEADER)
        if self.warning is not None:
            raise ConfigError(self.warning)

    def _append(self, data: bytes) -> None:
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._stop(error.strerror or str(error))
            return
        if written < len(data):
            # Half a record would spoil the file's end.
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            self._stop("no room")
            return
        self._size += written

    def _stop(self, reason: str) -> None:
        self.warning = f"capture to {self.path} stopped after {self._size} bytes: {reason}"
        self._close_file()

    def _record(self, frame: bytes) -> None:
        if self._fd >= 0:
            seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
            kept = frame[:SNAPLEN]
            self._append(RECORD.pack(seconds & 0xFFFFFFFF, nanoseconds, len(kept), len(frame)) + kept)

    def connect(self, deliver: Callable[[bytes], None]) -> None:
        self.deliver = deliver
        self.backend.connect(self._receive)

    def _receive(self, frame: bytes) -> None:
        self._record(frame)
        if self.deliver is not None:
            self.deliver(frame)

    def send(self, frame: bytes) -> None:
        self._record(frame)
        self.backend.send(frame)

    def fileno(self) -> int | None:
        return self.backend.fileno()

    def poll(self) -> None:
        self.backend.poll()

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        self._close_file()
        self.backend.close()
