"""A serial port on this process's standard input and output: a person at a terminal, or a pipe, or a file.

On a terminal, keys go to the guest as they are pressed; Ctrl-C still interrupts the process, and Ctrl-A begins a
command (X leaves, C sends Ctrl-C, A sends Ctrl-A), as in QEMU and minicom. The guest is never blocked by a slow reader:
while too much waits to be written, the UART's transmitter is busy, and a guest that minds it loses nothing.

A terminal belongs to its foreground process group (POSIX, XBD 11.1.4): the others are stopped where they touch its mode
or read from it. In the background its keys are therefore left alone until it is this process's turn.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress

from ..typed import Any, Protocol

OUTPUT_BUSY = 1 << 20
"""Bytes waiting to be written from which on the transmitter is busy; a guest that goes on all the same loses output."""

INPUT_AHEAD = 4096
"""Bytes of input that may wait for the guest before no more is read from the terminal or pipe."""

FOREGROUND_CHECK = 0.5
"""Seconds between two looks whether a terminal has become this process's: a shell's `fg` need not send a signal."""

ESCAPE = 0x01
HELP = "\r\npykvm: Ctrl-A X leaves, Ctrl-A C sends Ctrl-C, Ctrl-A A sends Ctrl-A\r\n"
_IFLAG, _LFLAG, _CC = 0, 3, 6


class Watcher(Protocol):
    """What is needed of an event loop: calls with the machine's lock held."""

    def on_readable(self, fd: int, callback: Callable[[], None] | None) -> None: ...
    def on_writable(self, fd: int, callback: Callable[[], None] | None) -> None: ...
    def call_soon(self, callback: Callable[[], None]) -> object: ...
    def call_at(self, when: float, callback: Callable[[], None]) -> object: ...


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

    Without `commands` Ctrl-A, and without `interrupts` Ctrl-C, is a key like any other.

    Made with the machine's lock held, before the run. `begin` takes the terminal and its keys, and whatever happens
    from then on (a signal, in the midst of it), `close` gives it back: without the lock, after the run.
    """

    def __init__(
        self,
        port: Port,
        loop: Watcher,
        leave: Callable[[str], object],
        source: int = 0,
        target: int = 1,
        *,
        commands: bool = True,
        interrupts: bool = True,
    ) -> None:
        self._port = port
        self._loop = loop
        self._leave = leave
        self._source = source
        self._target, self._own_target = _nonblocking(target)
        self._pending = bytearray()
        self._lost = 0
        self._escaped = False
        self._interrupts = interrupts
        self.error: OSError | None = None
        """Why output is lost, if its descriptor takes no more."""
        self._tty = source if os.isatty(source) else None
        self._has_commands = commands and self._tty is not None
        self._saved: list[Any] | None = None
        self._raw = False
        self._looking = False
        port.sink = self.write
        port.drained = self._listen

    # Whose turn at the terminal it is

    def begin(self) -> None:
        """Take the terminal's mode and keys, now or once they are this process's. With the machine's lock held."""
        self._looking = False
        if self._tty is not None:
            if _in_background(self._tty):
                self._wait_for_foreground()
                return
            if not self._raw:
                # After a stop without warning (SIGSTOP) the mode may be our own.
                self._saved = self._saved or _mode(self._tty)
                self._raw = True
                _set_raw(self._tty, self._interrupts)
        self._listen()

    def _wait_for_foreground(self) -> None:
        self._loop.on_readable(self._source, None)
        if not self._looking and self._port.sink is not None:
            self._looking = True
            self._loop.call_at(time.monotonic() + FOREGROUND_CHECK, self.begin)

    def suspend(self) -> None:
        """Give the terminal back: the process is about to be stopped. With the machine's lock held."""
        if self._raw and self._tty is not None and self._saved is not None and not _in_background(self._tty):
            _set_mode(self._tty, self._saved)
        self._raw = False

    def resume(self) -> None:
        """Take the terminal again: the process was stopped, and its mode may be any. With the machine's lock held."""
        self._raw = False
        self.begin()

    # Output

    def write(self, data: bytes) -> None:
        """Show `data`, now or, where the reader is slow, as soon as it goes."""
        if self.error is not None:
            self._lost += len(data)
            return
        if self._pending:
            room = 2 * OUTPUT_BUSY - len(self._pending)
            self._pending += data[:room]
            self._lost += max(0, len(data) - room)
        else:
            sent = self._send(data)
            if sent < len(data):
                self._keep(data[sent:])
        if len(self._pending) >= OUTPUT_BUSY:
            self._port.set_ready(False)

    def _keep(self, data: bytes) -> None:
        """What did not go is shown later, or never."""
        if self.error is not None:
            self._lost += len(data)
        else:
            self._pending += data
            self._loop.on_writable(self._target, self._flush)

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
            self.error = error
            if error.errno in _GONE:
                self._leave(f"standard output is closed ({error.strerror})")
            return 0

    def _flush(self) -> None:
        del self._pending[: self._send(self._pending)]
        if self.error is not None:
            self._lost += len(self._pending)
            self._pending.clear()
        if not self._pending:
            self._loop.on_writable(self._target, None)
        if len(self._pending) <= OUTPUT_BUSY // 2:
            self._port.set_ready(True)

    # Input

    def _listen(self) -> None:
        if self._source >= 0 and not self._looking:
            try:
                self._loop.on_readable(self._source, self._read)
            except PermissionError:  # a regular file is always readable, and epoll refuses to say so
                self._loop.call_soon(self._read)

    def _read(self) -> None:
        if self._port.waiting >= INPUT_AHEAD:
            # Its `drained` starts the reading again.
            self._loop.on_readable(self._source, None)
            return
        if self._tty is not None and _in_background(self._tty):
            self._wait_for_foreground()
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
        if self._has_commands:
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

    def close(self, deadline: float | None = None) -> int:
        """Write what still waits, give the terminal back, and return how many bytes of output were lost.

        A reader that is slow is waited for until `deadline` (of time.monotonic), by default for ever.
        """
        self._port.sink = self._port.drained = None
        try:
            self._drain(deadline)
        finally:
            self.suspend()
            if self._own_target:
                os.close(self._target)
        return self._lost

    def _drain(self, deadline: float | None) -> None:
        import select

        waiting = select.poll()
        waiting.register(self._target, select.POLLOUT)
        while self._pending and self.error is None:
            left = None if deadline is None else max(0, deadline - time.monotonic()) * 1000
            if not waiting.poll(left):
                break
            del self._pending[: self._send(self._pending)]
        self._lost += len(self._pending)
        self._pending.clear()


_GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
"""Nobody will ever read what is written; anything else, such as a full disk, is no reason to end the guest."""


def _in_background(tty: int) -> bool:
    """Whether another process group is in the foreground of the terminal. False for a terminal without job control."""
    try:
        return os.tcgetpgrp(tty) != os.getpgrp()
    except OSError:
        return False


def _set_mode(tty: int, mode: list[Any]) -> None:
    import termios

    with suppress(termios.error):
        termios.tcsetattr(tty, termios.TCSADRAIN, mode)


def _mode(tty: int) -> list[Any] | None:
    """The terminal's mode; None if it has gone."""
    import termios

    with suppress(termios.error):
        return termios.tcgetattr(tty)
    return None


def _set_raw(tty: int, interrupts: bool) -> None:
    """Put a terminal into the mode in which each key arrives at once and unchanged; with `interrupts` not Ctrl-C."""
    import termios

    mode = _mode(tty)
    if mode is None:
        return
    mode[_IFLAG] &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR | termios.IXON | termios.ISTRIP)
    mode[_LFLAG] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
    # Suspending or dumping core would leave the terminal in this mode.
    for key in (termios.VSUSP, termios.VQUIT, *(() if interrupts else (termios.VINTR,))):
        mode[_CC][key] = b"\0"
    mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
    _set_mode(tty, mode)


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
