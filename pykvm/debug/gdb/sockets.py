"""The socket that listens for gdb, or for others: on TCP, or in the file system.

Source: unix(7). On Linux a UNIX socket's file gets the mode that the socket has before it is bound, less the umask.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import suppress

from ...errors import ConfigError
from ...net.unix import lock_within

BACKLOG = 16
LOCK_TIME = 5.0
"""Seconds to wait for another server that is about to listen in the same directory."""


class Listener:
    """Listens at `:PORT`, `HOST:PORT` or a path for `what`; ConfigError if that cannot be.

    A UNIX socket is its owner's alone. One that nobody listens at any more is replaced; nothing else ever is.
    """

    def __init__(self, where: str, what: str = "gdb") -> None:
        self._path = ""
        self._file = (0, 0)
        host, colon, port = where.rpartition(":")
        try:
            if colon and "/" not in where:
                if not port.isdecimal():
                    raise ConfigError(f"{what} cannot be served at {where}: {port!r} is no port number")
                self._socket = _tcp(host or "127.0.0.1", int(port))
            elif where:
                self._socket = self._unix(where)
            else:
                raise ConfigError(f"{what} needs a port, such as :1234, or the path of a socket")
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{what} cannot be served at {where}: {reason}") from error
        self._socket.setblocking(False)

    @property
    def fd(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def getsockname(self) -> tuple[str, int] | str:
        """Where it listens, as the socket tells."""
        name: tuple[str, int] | str = self._socket.getsockname()
        return name

    @property
    def target(self) -> str:
        """What gdb's `target remote` takes."""
        if self._path:
            return self._path
        host, port = self._socket.getsockname()[:2]
        return f":{port}" if host == "127.0.0.1" else f"{host}:{port}"

    def accept(self) -> socket.socket:
        """The next connection; OSError if there is none now, or the host has no room for one."""
        return self._socket.accept()[0]

    def close(self) -> None:
        """Listen no more, and remove the file if it is still this socket's."""
        if self._path and _file(self._path) == self._file:
            with suppress(OSError):
                os.unlink(self._path)  # while it listens: nobody takes it for a dead one and puts a new one there
        self._socket.close()

    def _unix(self, path: str) -> socket.socket:
        # Finding a dead socket and replacing it are two steps. The lock keeps another server from coming between.
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lock_within(directory, fcntl.LOCK_EX, LOCK_TIME, os.path.dirname(path) or ".")
            if _is_dead(path):
                os.unlink(path)
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(path)
            listener.listen(BACKLOG)
            self._path = path
            self._file = _file(path)
        except BaseException:
            listener.close()
            raise
        finally:
            os.close(directory)
        return listener


def _tcp(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _file(path: str) -> tuple[int, int]:
    """Which file is there: (device, inode); (-1, -1) if none can be seen."""
    try:
        found = os.lstat(path)
    except OSError:
        return -1, -1
    return found.st_dev, found.st_ino


def _is_dead(path: str) -> bool:
    """Whether a socket is there whose owner is gone."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a live one whose queue is full answers nothing
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
