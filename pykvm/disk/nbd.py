"""A disk that is served by the Network Block Device protocol, be it by qemu-nbd beside this process or by another host.

Implements: the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md), the client's side: requests and simple
replies. The handshake before them is in `nbd_handshake`. Structured replies are not asked for: a simple one says all
that there is to say of a request that either succeeds or fails.

The server is not trusted: what it sends is bounded by what was asked for, and each request has a time limit. A server
that breaks the protocol or the connection, or lets the time pass, has lost the disk: from then on every access fails
with EIO, and nothing is tried again, as nobody knows which writes had arrived.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from contextlib import suppress

from ..errors import ConfigError
from . import SECTOR, ImageDisk
from .nbd_handshake import Export, handshake

REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_TRIM, SEND_WRITE_ZEROES = 1 << 0, 1 << 1, 1 << 2, 1 << 5, 1 << 6
ERRORS = {1: errno.EPERM, 5: errno.EIO, 12: errno.ENOMEM, 22: errno.EINVAL, 28: errno.ENOSPC, 75: errno.EOVERFLOW,
          95: errno.EOPNOTSUPP, 108: errno.ESHUTDOWN}  # fmt: skip
"""The protocol's error values, which are Linux's numbers."""
TIME_LIMIT = 30.0
"""Seconds that a read or a write may take."""
FLUSH_TIME_LIMIT = 600.0
"""Seconds that a flush may take, for which the machine goes on: it may be gigabytes on a slow disk."""
_TICK = 1
"""Seconds after which who waits for a reply looks at the time limits."""
_JOINED = 64 << 10
"""Bytes up to which a request and its data are sent as one."""


class _Lost(Exception):
    """The connection is of no use any more."""


class Connection:
    """The transmission phase on a connected `sock`, which it owns. Any number of threads may have requests outstanding.

    Of those that wait one reads replies, for whomever they are; so a flush keeps no read waiting.
    """

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.name = name
        self._socket = sock
        sock.settimeout(None)  # the kernel's own limits take no poll(2) before each call
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _TICK, 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(TIME_LIMIT), 0))
        self._sending = threading.Lock()
        self._changed = threading.Condition(threading.Lock())
        self._is_read = False
        self._waiting: dict[int, tuple[int, float]] = {}
        """By the cookie of each outstanding request: the bytes that its reply brings, and the end of its time."""
        self._done: dict[int, bytes | int] = {}
        """By cookie: the data, or the protocol's error value."""
        self._next = 1
        self.lost: str | None = None
        """Why it is of no use any more, or None."""

    def request(self, command: int, offset: int, length: int, data: bytes = b"") -> bytes:
        """Have one request served; the data of a READ. OSError says why it failed."""
        limit = FLUSH_TIME_LIMIT if command == FLUSH else TIME_LIMIT
        with self._sending:
            if self.lost is not None:
                raise self._error()
            cookie = self._next
            self._next = cookie % 0xFFFF_FFFF + 1
            self._waiting[cookie] = (length if command == READ else 0, time.monotonic() + limit)
            header = REQUEST.pack(REQUEST_MAGIC, 0, command, cookie, offset, length)
            try:
                if len(data) <= _JOINED:
                    self._socket.sendall(header + data)
                else:
                    self._socket.sendall(header, socket.MSG_MORE)
                    self._socket.sendall(data)
            except BaseException as error:
                # Half a request may be on its way, whoever interrupted that.
                self._lose(
                    "takes nothing"
                    if isinstance(error, BlockingIOError)
                    else f"is gone: {getattr(error, 'strerror', None) or error}"
                )
                if isinstance(error, OSError):
                    raise self._error() from error
                raise
        result = self._result_of(cookie)
        if isinstance(result, int):
            number = ERRORS.get(result, errno.EIO)
            raise OSError(number, f"the NBD server reports: {os.strerror(number)}", self.name)
        return result

    def close(self) -> None:
        """Tell the server, and close; may be called twice."""
        with self._sending:
            if self.lost is None:
                with suppress(OSError):
                    self._socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, DISC, 0, 0, 0))
                self._lose("is closed")
        self._socket.close()

    def _result_of(self, cookie: int) -> bytes | int:
        while True:
            with self._changed:
                while cookie not in self._done and self.lost is None and self._is_read:
                    self._changed.wait()
                if cookie in self._done:
                    return self._done.pop(cookie)
                if self.lost is not None:
                    raise self._error()
                self._is_read = True
            try:
                other, result = self._read_reply()
                self._done[other] = result
            except _Lost as error:
                self._lose(str(error))
            except BaseException as error:
                self._lose(
                    f"is gone: {getattr(error, 'strerror', None) or error}"
                    if isinstance(error, OSError)
                    else "was left in the middle of a reply"
                )
                if not isinstance(error, OSError):
                    raise
            finally:
                with self._changed:
                    self._is_read = False
                    self._changed.notify_all()

    def _read_reply(self) -> tuple[int, bytes | int]:
        magic, error, cookie = REPLY.unpack(self._receive(REPLY.size))
        if magic != REPLY_MAGIC:
            raise _Lost(f"sends what is no simple reply (magic {magic:#010x})")
        if cookie not in self._waiting:
            raise _Lost(f"replies to a request {cookie} that is not outstanding")
        length = self._waiting[cookie][0]
        data = self._receive(length) if length and not error else b""
        del self._waiting[cookie]
        return cookie, error or data

    def _receive(self, length: int) -> bytes:
        parts: list[bytes] = []
        while True:
            try:
                part = self._socket.recv(length, socket.MSG_WAITALL)
                if not part:
                    raise _Lost("has closed the connection")
            except BlockingIOError:
                part = b""
            if len(part) == length and not parts:
                return part
            parts.append(part)
            length -= len(part)
            if not length:
                return b"".join(parts)
            if min(end for _, end in tuple(self._waiting.values())) < time.monotonic():
                raise _Lost("does not reply in time")

    def _lose(self, why: str) -> None:
        with self._changed:
            self.lost = self.lost or why
            self._changed.notify_all()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _error(self) -> OSError:
        return OSError(errno.EIO, f"the NBD server {self.lost}; the disk is lost to this machine", self.name)


class NbdDisk(ImageDisk):
    """The export `export` of the server that `sock` is connected to; `name` is what messages call it, its URI.

    See `Disk` for the methods. ConfigError if the server has no such export, or one that cannot be a disk; `sock` is
    closed then.
    """

    format = "nbd"

    def __init__(self, sock: socket.socket, name: str, export: str = "", read_only: bool = False) -> None:
        self.name = name
        self.read_only = read_only
        try:
            offered: Export = handshake(sock, name, export)
            if offered.size % SECTOR or not offered.size:
                raise ConfigError(f"{name} has {offered.size} bytes: a disk has whole sectors of {SECTOR}")
            if offered.flags & READ_ONLY and not read_only:
                raise ConfigError(f"{name} is served read-only: open it read-only or let its writes be discarded")
            self.size, self._flags, self._most = offered.size, offered.flags, offered.most
            self._connection = Connection(sock, name)
        except BaseException:
            sock.close()
            raise

    @property
    def location(self) -> str:
        return self.name

    @property
    def lost(self) -> str | None:
        """Why every access fails by now: what the server did; None as long as it serves."""
        return self._connection.lost

    def read_at(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        if 0 < length <= self._most:
            return self._connection.request(READ, offset, length)
        return b"".join(self._connection.request(READ, at, size) for at, size in self._pieces(offset, length))

    def write_at(self, offset: int, data: bytes) -> None:
        self._check_writable(offset, len(data))
        if 0 < len(data) <= self._most:
            self._connection.request(WRITE, offset, len(data), data)
            return
        for at, size in self._pieces(offset, len(data)):
            self._connection.request(WRITE, at, size, data[at - offset : at - offset + size])

    def trim(self, offset: int, length: int) -> None:
        """Say that nobody needs that range any more, as far as the server has that: what it reads as is undefined."""
        self._check_writable(offset, length)
        if self._flags & SEND_TRIM:
            for at, size in self._pieces(offset, length):
                self._connection.request(TRIM, at, size)

    def write_zeroes(self, offset: int, length: int) -> None:
        """As `write_at` of so many zeros, which are not sent where the server can make them."""
        self._check_writable(offset, length)
        for at, size in self._pieces(offset, length):
            if self._flags & SEND_WRITE_ZEROES:
                self._connection.request(WRITE_ZEROES, at, size)
            else:
                self._connection.request(WRITE, at, size, bytes(size))

    def flush(self) -> None:
        if self._flags & SEND_FLUSH and not self.read_only:
            self._connection.request(FLUSH, 0, 0)

    def close(self) -> None:
        self._connection.close()

    def _pieces(self, offset: int, length: int) -> list[tuple[int, int]]:
        end = offset + length
        return [(at, min(self._most, end - at)) for at in range(offset, end, self._most)]

    def _check_writable(self, offset: int, length: int) -> None:
        if self.read_only:
            raise PermissionError(errno.EACCES, "the disk is read-only", self.name)
        self._check(offset, length)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{offset:#x}+{length:#x} is not within the {self.size:#x} bytes of {self.name}")
