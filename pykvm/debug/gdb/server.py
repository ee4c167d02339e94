"""The socket at which gdb finds a machine, and the thread that serves it: one debugger at a time.

A connection is the debugger's only once a packet of the protocol was the first thing in it: whatever else finds the
port, a browser or a scanner, stops nothing and keeps nobody out. The thread alone talks to clients, and never waits for
one. The machine only wakes it, so no client can make the machine wait.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, Self

from ...errors import ConfigError
from ..control import Control, Machine
from . import sockets
from .connection import Connection
from .session import Session, architecture

if TYPE_CHECKING:
    from types import TracebackType


DEFAULT_ADDRESS = ":1234"
ARCHITECTURES = {"i8086": "i8086", "i386": "i386", "x86-64": "i386:x86-64"}
"""What `arch=` may say, and gdb's name for it."""
PENDING_LIMIT = 8
"""Connections that have not spoken the protocol yet; one more, and the oldest has to go."""
HANDSHAKE_TIME = 10.0
"""Seconds after which such a connection is closed."""
SEND_TIME = 10.0
"""Seconds after which a client that takes nothing of its answers is given up."""
GOODBYE_TIME = 0.5
"""Seconds that a client has to take the last answer when the server is closed."""
ACCEPT_PAUSE = 0.1
"""Seconds until the next try when the host cannot accept a connection: it has no descriptor free, for example."""


class GdbServer:
    """Serves `machine` to gdb at `address`, from now on, until the machine or this is closed. The machine is stopped;
    without `stopped` it runs until gdb has come.

    `address` is `:PORT` on this host's loopback interface (port 0: any that is free), `HOST:PORT` or the path of a UNIX
    socket; with `,arch=i8086`, `,arch=i386` or `,arch=x86-64` behind it, gdb is told that architecture instead of what
    fits the image, or the CPU's mode when gdb connects. Whoever can connect there controls the guest.
    ConfigError if the address cannot be used.
    """

    def __init__(self, machine: Machine, address: str = DEFAULT_ADDRESS, *, stopped: bool = True) -> None:
        where, separator, settings = address.partition(",")
        name, _, value = settings.partition("=")
        if separator and (name != "arch" or value not in ARCHITECTURES):
            raise ConfigError(f"{address!r}: behind the comma there may be arch= and one of {', '.join(ARCHITECTURES)}")
        self._engine = machine.engine
        self._lock = machine.engine.gate.lock
        self._architecture = ARCHITECTURES.get(value)
        self._listener = sockets.Listener(where)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._pending: list[Connection] = []
        self._client: Connection | None = None
        self._session: Session | None = None
        self._accept_at = 0.0
        self._thread = threading.Thread(target=self._run, name="pykvm gdb", daemon=True)
        try:
            self.control = Control(machine, self._wake_up, self.close, stopped=stopped)
        except BaseException:
            self._release()
            raise
        self._thread.start()

    @property
    def target(self) -> str:
        """What gdb's `target remote` takes."""
        return self._listener.target

    def close(self) -> None:
        """Say goodbye to gdb and serve it no more; the machine goes on if it was stopped. May be called twice."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            if self._session is not None:
                self._session.finished = True  # of what it has sent, nothing more is served
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
        except Exception as error:
            with self._lock:
                self._engine.failed(error, "the gdb server")
        finally:
            if self._session is not None and self._client is not None:
                self._session.report()
                self._client.flush(GOODBYE_TIME)
            self._hang_up()
            self._drop_pending()

    def _turn(self) -> None:
        """Wait for something to happen, and deal with it."""
        ready = self._wait()
        if self._wake in ready:
            os.eventfd_read(self._wake)
            if self._session is not None:
                self._session.report()
        if self._client is not None and self._session is not None:
            if self._client.fd in ready:
                self._serve(self._client, self._session)
            if (self._session.finished or self._client.is_lost) and not self._closing:
                self._client.flush(GOODBYE_TIME)
                self._hang_up()
        for connection in [pending for pending in self._pending if pending.fd in ready]:
            self._greet(connection)
        if self._listener.fd in ready:
            self._accept()

    def _wait(self) -> set[int]:
        """The descriptors that are ready. What has taken too long is closed."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        now = time.monotonic()
        deadlines = [float("inf")]
        for connection in [pending for pending in self._pending if pending.deadline <= now]:
            self._drop(connection)
        for connection in self._pending:
            poll.register(connection.fd, select.POLLIN)
            deadlines.append(connection.deadline)
        if self._client is not None:
            poll.register(self._client.fd, select.POLLIN | (select.POLLOUT if self._client.has_output else 0))
            deadlines.append(self._client.deadline)
        if self._accept_at <= now:
            poll.register(self._listener.fd, select.POLLIN)
        else:
            deadlines.append(self._accept_at)
        first = min(deadlines)
        return {fd for fd, _ in poll.poll(None if first == float("inf") else max(0.0, first - now) * 1000 + 1)}

    def _serve(self, client: Connection, session: Session) -> None:
        client.send_more()
        data = client.receive()
        if data is None:
            session.finished = True
        elif data:
            session.receive(data)

    def _accept(self) -> None:
        try:
            accepted = self._listener.accept()
        except OSError:
            self._accept_at = time.monotonic() + ACCEPT_PAUSE
            return
        if self._client is not None:  # there is one already
            accepted.close()
            return
        if len(self._pending) >= PENDING_LIMIT:
            self._drop(self._pending[0])
        self._pending.append(Connection(accepted, HANDSHAKE_TIME, SEND_TIME))

    def _greet(self, connection: Connection) -> None:
        """Hear what a new connection says: the first that speaks the protocol is the debugger's."""
        first = connection.first_packet()
        if connection.is_lost:
            self._drop(connection)
        elif first:
            self._pending.remove(connection)
            self._drop_pending()
            self.control.attach()
            self._client = connection
            self._session = Session(self.control, connection.send, self._architecture or architecture(self._engine))
            self._session.receive(first)

    def _drop(self, connection: Connection) -> None:
        self._pending.remove(connection)
        connection.close()

    def _drop_pending(self) -> None:
        for connection in self._pending:
            connection.close()
        self._pending.clear()

    def _hang_up(self) -> None:
        """The client is to go, or gone. What is stopped stays so, as after gdb's `disconnect`; what runs, runs on."""
        if self._client is not None:
            self._client.close()
            self._client = self._session = None
            self.control.breakpoints.clear()
            if self.control.stop is None:
                self.control.detach()
