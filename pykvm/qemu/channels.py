"""QEMU's character devices: where a serial port or a monitor leads to.

Source: qemu-system-x86_64(1), `-serial` and `-chardev`. Everything here is called with the machine's lock held.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress

from ..console.terminal import OUTPUT_BUSY, Port, Terminal, Watcher
from ..errors import ConfigError
from ..typed import TYPE_CHECKING, NamedTuple, Protocol
from .words import is_on, settings

if TYPE_CHECKING:
    import socket

READ_SIZE = 4096
"""Bytes that are read at a time, and that may wait for the guest before no more is read."""


class Spec(NamedTuple):
    """A device: its kind ("stdio", "file", "null", "none", "unix", "tcp", "pty", "pipe"), and where it is."""

    kind: str
    where: str = ""
    server: bool = False
    wait: bool = True
    """Whether the guest waits for the first client of a server."""
    mux: bool = False
    signals: bool = True
    """stdio: whether Ctrl-C is for this process."""
    append: bool = False


def parse(text: str) -> Spec:
    """What a -serial or -monitor names. ConfigError if there is no such thing."""
    mux = text.startswith("mon:")
    plain = text.removeprefix("mon:")
    kind, _, rest = plain.partition(":")
    if plain in ("null", "none", "stdio", "pty"):
        return Spec(plain, mux=mux, signals=not mux)
    if kind.split(",")[0] == "stdio":
        found = settings(plain, "kind", ("signal",))
        return Spec("stdio", mux=mux, signals=is_on("signal", found.get("signal", "on")) and not mux)
    if plain == "vc" or kind == "vc":
        return Spec("null", mux=mux)
    if kind in ("file", "pipe") and rest:
        found = settings(rest, "path", ("append",))
        return Spec(kind, found.get("path", ""), mux=mux, append=is_on("append", found.get("append", "off")))
    if kind in ("unix", "tcp") and rest:
        found = settings(rest, "path", ("server", "wait", "nodelay", "reuse"))
        for name in found.keys() - {"path", "server", "wait", "nodelay", "reuse", "reconnect"}:
            raise ConfigError(f"there is no {name}=")
        where = found.get("path", "")
        if kind == "unix" and "/" not in where:
            where = f"./{where}"
        return Spec(
            kind, where, is_on("server", found.get("server", "off")), is_on("wait", found.get("wait", "on")), mux
        )
    raise ConfigError(
        f"{text!r} is no such device: there are stdio, mon:stdio, file:PATH, null, none, unix:PATH, tcp:HOST:PORT, pty "
        "and pipe:PATH"
    )


class Channel(Protocol):
    """The host's end of a device, from its making to its `close`."""

    def begin(self) -> None:
        """The run is about to start."""

    def suspend(self) -> None:
        """The process is about to be stopped."""

    def resume(self) -> None:
        """The process goes on."""

    def close(self, deadline: float | None) -> None:
        """Write what still waits, at most until then (time.monotonic), and let go. Without the lock, after the run."""


class Quiet:
    """What all channels but a terminal's have in common: nothing to do."""

    def begin(self) -> None:
        """Nothing."""

    suspend = resume = begin


class Null(Quiet):
    """Takes all and gives nothing."""

    def close(self, deadline: float | None) -> None:
        """Nothing."""


class File(Quiet):
    """Writes to a file. What does not fit on the disk is lost, and `failed` is told so once."""

    def __init__(self, port: Port, spec: Spec, failed: Callable[[str], None]) -> None:
        mode = os.O_APPEND if spec.append else os.O_TRUNC
        try:
            self._fd = os.open(spec.where, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | mode, 0o666)
        except OSError as error:
            raise ConfigError(f"{spec.where}: {error.strerror}") from error
        self._path, self._failed = spec.where, failed
        port.sink = self._write

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            if self._path:
                self._failed(f"{self._path}: {error.strerror}: output is lost")
                self._path = ""

    def close(self, deadline: float | None) -> None:
        """Close the file."""
        os.close(self._fd)


class Stream:
    """Joins a port to descriptors that never block, until `hung_up` is called: then nobody is at the other end.

    With `patient` the port is told to wait for a slow reader; without, what is too much is lost.
    """

    def __init__(
        self, port: Port, loop: Watcher, source: int, target: int, hung_up: Callable[[], None], *, patient: bool = True
    ) -> None:
        self._port, self._loop, self._source, self._target = port, loop, source, target
        self._hung_up, self._patient = hung_up, patient
        self._pending = bytearray()
        self._open = True
        port.sink, port.drained = self.write, self._listen
        self._listen()

    def _listen(self) -> None:
        if self._open:
            self._loop.on_readable(self._source, self._read)

    def _read(self) -> None:
        if self._port.waiting >= READ_SIZE:
            self._loop.on_readable(self._source, None)  # its `drained` starts the reading again
            return
        try:
            data = os.read(self._source, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._port.send(data)
        else:
            self._lost()

    def write(self, data: bytes) -> None:
        """Send it, now or as soon as it goes."""
        if self._open:
            room = 2 * OUTPUT_BUSY - len(self._pending)
            self._pending += data[:room]
            self._flush()

    def _flush(self) -> None:
        try:
            while self._pending:
                del self._pending[: os.write(self._target, self._pending)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._lost()
            return
        self._loop.on_writable(self._target, self._flush if self._pending else None)
        if self._patient:
            self._port.set_ready(len(self._pending) < OUTPUT_BUSY)

    def _lost(self) -> None:
        if self._open:
            self.forget()
            self._hung_up()

    def forget(self) -> None:
        """Have nothing more to do with the descriptors; what waited is lost."""
        self._open = False
        self._loop.on_readable(self._source, None)
        self._loop.on_writable(self._target, None)
        self._pending.clear()
        self._port.sink = self._port.drained = None
        self._port.set_ready(True)

    def drain(self, deadline: float | None) -> None:
        """Write what still waits, at most until then."""
        waiting = select.poll()
        waiting.register(self._target, select.POLLOUT)
        while self._open and self._pending:
            left = None if deadline is None else max(0, deadline - time.monotonic()) * 1000
            if not waiting.poll(left):
                break
            self._flush()


class Descriptors(Quiet):
    """A pseudo-terminal or a pair of pipes."""

    def __init__(self, port: Port, loop: Watcher, fds: tuple[int, ...], opened: Callable[[], None]) -> None:
        self._fds = fds
        for fd in fds[:2]:
            os.set_blocking(fd, False)
        self._stream = Stream(port, loop, fds[0], fds[1], lambda: None, patient=False)
        opened()

    def close(self, deadline: float | None) -> None:
        """Close them."""
        self._stream.drain(deadline)
        self._stream.forget()
        for fd in set(self._fds):
            os.close(fd)


def open_pty(port: Port, loop: Watcher, label: str, opened: Callable[[], None], say: Callable[[str], None]) -> Channel:
    """A new pseudo-terminal, whose name is said as QEMU says it."""
    import tty

    near, far = os.openpty()  # the far end stays open: nobody's being there is no end
    tty.setraw(far)
    say(f"char device redirected to {os.ttyname(far)} (label {label})")
    return Descriptors(port, loop, (near, near, far), opened)


def open_pipe(port: Port, loop: Watcher, path: str, opened: Callable[[], None]) -> Channel:
    """The FIFOs PATH.in and PATH.out, or PATH alone for both."""
    fds: list[int] = []
    try:
        for end in ("in", "out"):
            name = f"{path}.{end}" if os.path.exists(f"{path}.in") else path
            fds.append(os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise ConfigError(f"pipe:{path}: {error.strerror}") from error
    return Descriptors(port, loop, tuple(fds), opened)


class Socket(Quiet):
    """A socket that listens, for one client after the other, or is connected."""

    def __init__(self, port: Port, loop: Watcher, spec: Spec, what: str, opened: Callable[[], None]) -> None:
        self._port, self._loop, self._opened = port, loop, opened
        self._stream: Stream | None = None
        self._client: socket.socket | None = None
        self._listener = None
        if spec.server:
            from ..debug.gdb.sockets import Listener

            self._listener = Listener(spec.where, what)
            self._listen()
        else:
            self._take(_connected(spec, what))

    def _listen(self) -> None:
        """While one client is there, the next waits in the queue."""
        if self._listener is not None:
            self._loop.on_readable(self._listener.fd, self._accept if self._stream is None else None)

    def wait(self) -> None:
        """Take the first client, however long it is in coming. Before the run."""
        assert self._listener is not None
        waiting = select.poll()
        waiting.register(self._listener.fd, select.POLLIN)
        while self._stream is None:
            waiting.poll()
            self._accept()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            accepted = self._listener.accept()
        except OSError:
            return
        self._take(accepted)

    def _take(self, client: socket.socket) -> None:
        client.setblocking(False)
        self._client = client
        self._stream = Stream(self._port, self._loop, client.fileno(), client.fileno(), self._hung_up)
        self._listen()
        self._opened()

    def _hung_up(self) -> None:
        assert self._client is not None
        self._client.close()
        self._client = self._stream = None
        self._listen()

    def close(self, deadline: float | None) -> None:
        """Hang up, and listen no more."""
        if self._stream is not None:
            self._stream.drain(deadline)
            if self._stream is not None:
                self._stream.forget()
                self._hung_up()
        if self._listener is not None:
            self._loop.on_readable(self._listener.fd, None)
            self._listener.close()


def _connected(spec: Spec, what: str) -> socket.socket:
    import socket

    try:
        if spec.kind == "unix":
            made = socket.socket(socket.AF_UNIX)
            made.connect(spec.where)
            return made
        host, _, port = spec.where.rpartition(":")
        return socket.create_connection((host or "127.0.0.1", int(port)), timeout=30)
    except (OSError, ValueError) as error:
        with suppress(NameError):
            made.close()
        raise ConfigError(
            f"{what}: no connection to {spec.where}: {getattr(error, 'strerror', None) or error}"
        ) from error


class Stdio:
    """This process's standard input and output."""

    def __init__(self, port: Port, loop: Watcher, spec: Spec, leave: Callable[[str], object]) -> None:
        self._terminal = Terminal(port, loop, leave, commands=False, interrupts=spec.signals)
        self.begin, self.suspend, self.resume = self._terminal.begin, self._terminal.suspend, self._terminal.resume

    def close(self, deadline: float | None) -> None:
        """Give the terminal back."""
        self._terminal.close(deadline)
