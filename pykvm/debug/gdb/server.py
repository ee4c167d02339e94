"""The socket at which gdb finds a machine, and the thread that serves it: one client at a time.

The thread alone talks to the client. The machine only wakes it, so no client can make the machine wait.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
from typing import TYPE_CHECKING, Self

from ...errors import ConfigError
from ..control import Control, Machine
from .session import Session, architecture

if TYPE_CHECKING:
    from types import TracebackType


def _remove_stale(path: str) -> None:
    """Remove a socket that a server which is gone has left behind; nothing else is ever removed."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError:
        pass


DEFAULT_ADDRESS = ":1234"
ARCHITECTURES = {"i8086": "i8086", "i386": "i386", "x86-64": "i386:x86-64"}
"""What `arch=` may say, and gdb's name for it."""
RECEIVE_SIZE = 1 << 16
SEND_LIMIT = 10.0
"""Seconds after which a client that takes no answer is given up."""


class GdbServer:
    """Serves `machine` to gdb at `address`, from now on, stopped, until the machine or this is closed.

    `address` is `:PORT` on this host's loopback interface (port 0: any that is free), `HOST:PORT` or the path of a UNIX
    socket; with `,arch=i8086`, `,arch=i386` or `,arch=x86-64` behind it, gdb is told that architecture instead of what
    fits the image, or the CPU's mode when gdb connects. Whoever can connect there controls the guest.
    ConfigError if the address cannot be used.
    """

    def __init__(self, machine: Machine, address: str = DEFAULT_ADDRESS) -> None:
        where, separator, settings = address.partition(",")
        name, _, value = settings.partition("=")
        if separator and (name != "arch" or value not in ARCHITECTURES):
            raise ConfigError(f"{address!r}: behind the comma there may be arch= and one of {', '.join(ARCHITECTURES)}")
        self._engine = machine.engine
        self._lock = machine.engine.gate.lock
        self._architecture = ARCHITECTURES.get(value)
        self._path = ""
        self._listener = self._listen(where)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._client: socket.socket | None = None
        self._session: Session | None = None
        self._thread = threading.Thread(target=self._run, name="pykvm gdb", daemon=True)
        try:
            self.control = Control(machine, self._wake_up, self.close)
        except BaseException:
            self._release()
            raise
        self._thread.start()

    @property
    def target(self) -> str:
        """What gdb's `target remote` takes."""
        if self._path:
            return self._path
        host, port = self._listener.getsockname()[:2]
        return f":{port}" if host == "127.0.0.1" else f"{host}:{port}"

    def _listen(self, where: str) -> socket.socket:
        host, colon, port = where.rpartition(":")
        listener = None
        try:
            if colon and "/" not in where:
                if not port.isdecimal():
                    raise ConfigError(f"gdb cannot be served at {where}: {port!r} is no port number")
                listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((host or "127.0.0.1", int(port)))
            elif where:
                _remove_stale(where)
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listener.bind(where)
                self._path = where
            else:
                raise ConfigError("gdb needs a port, such as :1234, or the path of a socket")
            listener.listen(1)
        except (OSError, OverflowError) as error:
            if listener is not None:
                listener.close()
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"gdb cannot be served at {where}: {reason}") from error
        return listener

    def close(self) -> None:
        """Say goodbye to gdb and serve it no more; the machine goes on if it was stopped. May be called twice."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            os.eventfd_write(self._wake, 1)
        self._thread.join()
        self.control.close()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _release(self) -> None:
        self._listener.close()
        if self._path:
            os.unlink(self._path)
        os.close(self._wake)

    def _wake_up(self) -> None:
        """Something has happened to the machine. With its lock held."""
        if not self._closing:
            os.eventfd_write(self._wake, 1)

    # In the thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:
            with self._lock:
                self._engine.failed(error, "the gdb server")
        finally:
            if self._session is not None:
                self._session.report()
            self._hang_up()

    def _turn(self) -> None:
        """Wait for something to happen, and deal with it."""
        poll = select.poll()
        for source in (self._wake, self._listener, self._client):
            if source is not None:
                poll.register(source, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        if self._wake in ready:
            os.eventfd_read(self._wake)
            if self._session is not None:
                self._session.report()
        if self._client is not None and self._client.fileno() in ready:
            self._receive(self._client)
        if self._listener.fileno() in ready:
            self._accept()
        if self._session is not None and self._session.finished:
            self._hang_up()

    def _receive(self, client: socket.socket) -> None:
        try:
            data = client.recv(RECEIVE_SIZE)
        except OSError:
            data = b""
        if not data:
            self._hang_up()
        elif self._session is not None:
            self._session.receive(data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._client is not None:  # there is one already
            client.close()
            return
        client.settimeout(SEND_LIMIT)
        if client.family == socket.AF_INET:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.control.attach()
        self._client = client
        self._session = Session(self.control, self._send, self._architecture or architecture(self._engine))

    def _send(self, data: bytes) -> None:
        """To the client; one that takes nothing is as good as gone."""
        try:
            if self._client is not None:
                self._client.sendall(data)
        except OSError:
            if self._session is not None:
                self._session.finished = True

    def _hang_up(self) -> None:
        """The client is to go, or gone. What is stopped stays so, as after gdb's `disconnect`; what runs, runs on."""
        if self._client is not None:
            self._client.close()
            self._client = self._session = None
            self.control.breakpoints.clear()
            if self.control.stop is None:
                self.control.detach()
