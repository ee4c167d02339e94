"""A cable between two machines on one host: UNIX datagram sockets (unix(7)), one datagram a frame, without FCS."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from contextlib import suppress

from ..errors import ConfigError
from . import MAX_FRAME, POLL_BUDGET, NetBackend

LOCK_TIME = 5.0
"""Seconds to wait for another machine that takes an end of the cable, which is a matter of microseconds."""
_LOCK_PAUSE = 0.01


class UnixNet(NetBackend):
    """One end of a cable.

    Without `peer`, `path` names the cable and both machines are given the same: its ends are the sockets `path`.a and
    `path`.b, and a machine takes the first one that nobody holds. Nobody has to be first, and either may go and come
    back; an end whose owner died without cleaning up is free. A third machine gets ConfigError.

    With `peer`, `path` is this end's own socket and `peer` the other's, which may be a program that is not pykvm,
    such as QEMU with `-netdev dgram,local.type=unix,...`.

    A frame is dropped while nobody is at the other end, or while that end does not keep up: the host queues as many
    as net.unix.max_dgram_qlen (sysctl) says.
    """

    def __init__(self, path: str, peer: str | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if peer is None:
                self.path, self.peer = self._take_end(path)
            elif _claim(self._socket, path):
                self.path, self.peer = path, peer
            else:
                raise ConfigError(f"{path} is another program's socket that is in use: take another path")
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"cannot make the network socket {path}: {error.strerror or error}") from error
        except ConfigError:
            self._socket.close()
            raise
        self.station = self.path

    def _take_end(self, path: str) -> tuple[str, str]:
        ends = (path + ".a", path + ".b")
        # Finding a dead socket and replacing it are two steps. The lock keeps another machine from coming between.
        lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            lock_within(lock, fcntl.LOCK_EX, LOCK_TIME, path + ".lock")
            for end, other in (ends, ends[::-1]):
                if _claim(self._socket, end):
                    return end, other
        finally:
            os.close(lock)
        raise ConfigError(f"both ends of the cable {path} are taken: two machines are connected by it already")

    def send(self, frame: bytes) -> None:
        # The name is looked up each time, so that a peer that was restarted is found. Whatever fails, fails for this
        # frame only: nobody there, no room there, or closed here.
        with suppress(OSError):
            self._socket.sendto(frame, self.peer)

    def fileno(self) -> int | None:
        return None if self._socket.fileno() < 0 else self._socket.fileno()

    def poll(self) -> None:
        for _ in range(POLL_BUDGET):
            try:
                frame = self._socket.recv(MAX_FRAME + 1)
            except OSError:
                return
            if len(frame) <= MAX_FRAME and self.deliver is not None:
                self.deliver(frame)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._socket.close()
            with suppress(OSError):
                os.unlink(self.path)


def lock_within(fd: int, operation: int, seconds: float, name: str) -> None:
    """flock(2) with a limit; ConfigError if somebody else still holds the lock of the file `name` then."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= end:
                raise ConfigError(
                    f"another program has held the lock of {name} for {seconds:g} s: end it (`fuser` names it), or "
                    "take another path"
                ) from error
        time.sleep(_LOCK_PAUSE)


def _claim(own: socket.socket, path: str) -> bool:
    """Bind `own` to `path`, in place of a socket that nobody holds any more; False if somebody does."""
    try:
        own.bind(path)
        return True
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ConfigError(f"{path} exists and is not a socket: remove it or take another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
            return False
        except ConnectionRefusedError:
            os.unlink(path)
        except PermissionError:
            return False
    own.bind(path)
    return True
