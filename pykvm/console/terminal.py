"""A serial port on this process's standard input and output: a person at a terminal, or a pipe, or a file.

On a terminal, keys go to the guest as they are pressed; Ctrl-C still interrupts the process, and Ctrl-A begins a
command (X leaves, C sends Ctrl-C, A sends Ctrl-A), as in QEMU and minicom. The guest is never blocked by a slow reader:
while too much waits to be written, the UART's transmitter is busy, and a guest that minds it loses nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress

from ..typed import Any, Protocol

OUTPUT_BUSY = 1 << 20
"""Bytes waiting to be written from which on the transmitter is busy; a guest that goes on all the same loses output."""

INPUT_AHEAD = 4096
"""Bytes of input that may wait for the guest before no more is read from the terminal or pipe."""

ESCAPE = 0x01
HELP = "\r\npykvm: Ctrl-A X leaves, Ctrl-A C sends Ctrl-C, Ctrl-A A sends Ctrl-A\r\n"
_IFLAG, _LFLAG, _CC = 0, 3, 6


class Watcher(Protocol):
    """What is needed of an event loop: calls with the machine's lock held."""

    def on_readable(self, fd: int, callback: Callable[[], None] | None) -> None: ...
    def on_writable(self, fd: int, callback: Callable[[], None] | None) -> None: ...
    def call_soon(self, callback: Callable[[], None]) -> object: ...


class Port(Protocol):
    """What is joined to a terminal: a `ConsolePort`, or what takes its place."""

    sink: Callable[[bytes], None] | None
    """Called with what is to be shown."""
    drained: Callable[[], None] | None
    """Called when input that waited has been taken."""

    @property
    def waiting(self) -> int:
        """Bytes of input that have not been taken."""

    def send(self, data: bytes) -> None:
        """Take input."""

    def set_ready(self, ready: bool) -> None:
        """Whether output should go on."""


class Terminal:
    """Joins `port` to the descriptors `source` and `target`. `leave(reason)` is called when the run should end.

    Made with the machine's lock held, before the run; `close` restores the terminal, without the lock, after it.
    """

    def __init__(
        self, port: Port, loop: Watcher, leave: Callable[[str], object], source: int = 0, target: int = 1
    ) -> None:
        self._port = port
        self._loop = loop
        self._leave = leave
        self._source = source
        self._target, self._own_target = _nonblocking(target)
        self._pending = bytearray()
        self._lost = 0
        self._escaped = False
        self._broken = False
        self._saved = _raw_input(source)
        port.sink = self.write
        port.drained = self._listen
        self._listen()

    # Output

    def write(self, data: bytes) -> None:
        """Show `data`, now or, where the reader is slow, as soon as it goes."""
        if self._broken:
            return
        if self._pending:
            room = 2 * OUTPUT_BUSY - len(self._pending)
            self._pending += data[:room]
            self._lost += max(0, len(data) - room)
        else:
            sent = self._send(data)
            if sent < len(data) and not self._broken:
                self._pending += data[sent:]
                self._loop.on_writable(self._target, self._flush)
        if len(self._pending) >= OUTPUT_BUSY:
            self._port.set_ready(False)

    @property
    def behind(self) -> bool:
        """Whether output waits for its reader."""
        return bool(self._pending)

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._target, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._broken = True
            self._leave(f"standard output is closed ({error.strerror})")
            return 0

    def _flush(self) -> None:
        del self._pending[: self._send(self._pending)]
        if not self._pending or self._broken:
            self._pending.clear()
            self._loop.on_writable(self._target, None)
        if len(self._pending) <= OUTPUT_BUSY // 2:
            self._port.set_ready(True)

    # Input

    def _listen(self) -> None:
        if self._source >= 0:
            try:
                self._loop.on_readable(self._source, self._read)
            except PermissionError:  # a regular file is always readable, and epoll refuses to say so
                self._loop.call_soon(self._read)

    def _read(self) -> None:
        if self._port.waiting >= INPUT_AHEAD:
            # Its `drained` starts the reading again.
            self._loop.on_readable(self._source, None)
            return
        try:
            data = os.read(self._source, INPUT_AHEAD)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._loop.on_readable(self._source, None)
            self._source = -1
            return
        if self._saved is not None:
            data = self._commands(data)
        if data:
            self._port.send(data)

    def _commands(self, data: bytes) -> bytes:
        """What of the keys is for the guest."""
        keys = bytearray()
        for key in data:
            if self._escaped:
                self._escaped = False
                if key in b"xX":
                    self._leave("left by Ctrl-A X")
                elif key in b"cC":
                    keys.append(3)
                elif key in (ESCAPE, *b"aA"):
                    keys.append(ESCAPE)
                else:
                    self.write(HELP.encode())
            elif key == ESCAPE:
                self._escaped = True
            else:
                keys.append(key)
        return bytes(keys)

    def close(self) -> int:
        """Write what still waits, give the terminal back, and return how many bytes of output were lost."""
        self._port.sink = self._port.drained = None
        if not self._broken:
            os.set_blocking(self._target, True)
            while self._pending and not self._broken:
                del self._pending[: self._send(self._pending)]
        if self._saved is not None:
            import termios

            with suppress(termios.error):
                termios.tcsetattr(self._source if self._source >= 0 else 0, termios.TCSADRAIN, self._saved)
        if self._own_target:
            os.close(self._target)
        return self._lost


def _raw_input(fd: int) -> list[Any] | None:
    """Put a terminal into the mode in which each key arrives at once and unchanged; its mode before, or None."""
    if not os.isatty(fd):
        return None
    import termios

    try:
        saved = termios.tcgetattr(fd)
    except termios.error:
        return None
    mode = termios.tcgetattr(fd)
    mode[_IFLAG] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON | termios.ISTRIP)
    mode[_LFLAG] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
    # Ctrl-C alone keeps its meaning: suspending or dumping core would leave the terminal in this mode.
    for key in (termios.VSUSP, termios.VQUIT):
        mode[_CC][key] = b"\0"
    mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSADRAIN, mode)
    return saved


def _nonblocking(fd: int) -> tuple[int, bool]:
    """A descriptor for the same file that never blocks, and whether it is a new one.

    O_NONBLOCK belongs to the open file, which the shell and others share: a terminal or pipe is therefore opened anew.
    A regular file must not be (it would have a position of its own) and need not be.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        with suppress(OSError):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), True
    if stat.S_ISSOCK(mode):
        os.set_blocking(fd, False)
    return fd, False
