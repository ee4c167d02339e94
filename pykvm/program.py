"""A program of others that serves a machine, in a process of its own, for as long as the machine wants it.

It is started without a fork of this process, in a process group of its own, so that what is pressed at the terminal
does not reach it. If this process dies before it has called `ready`, a child of the program ends it; from then on the
program must end by itself when what connects it with this process is closed.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import weakref
from collections.abc import Sequence
from contextlib import suppress

from .errors import ConfigError, refused_by_host

SAID_MOST = 4096
"""Bytes of what a program wrote that are told."""
_FIRST = 3
"""The descriptor that the first of those that are handed on becomes, as systemd's LISTEN_FDS has it."""
_HIGH = 64
"""Above all that are handed on: two that swap their numbers must not be in each other's way."""
_KILLED_AFTER = 2.0
"""Seconds between SIGTERM and SIGKILL."""
_SCRIPT = """\
(read -r ready || kill "$$") <&1 >/dev/null 2>&1 &
export LISTEN_PID=$$
exec "$@" >&2
"""
"""Standard output is lent to what the child waits on: a shell gives a background's standard input away."""


class Program:
    """`words` as a program, with `descriptors` as its 3, 4 and so on, of which the first `listening` are passed as
    systemd passes sockets. ConfigError that names the Debian `package` if it is not installed.
    """

    def __init__(self, words: Sequence[str], descriptors: Sequence[int], package: str, *, listening: int = 0) -> None:
        self.name = words[0]
        path = shutil.which(self.name)
        if path is None:
            raise ConfigError(f"this takes {self.name}, which is not installed: on Debian, `apt-get install {package}`")
        opened: list[int] = []
        try:
            self._pid = self._start([path, *words[1:]], descriptors, listening, opened)
            self._pidfd = os.pidfd_open(self._pid)
        except OSError as error:
            for fd in (self._said, self._alive) if opened else ():
                os.close(fd)
            raise refused_by_host(error) or ConfigError(f"{path} cannot be started: {error}") from error
        finally:
            for fd in opened:
                os.close(fd)
        self._finalizer = weakref.finalize(self, _end, self._pidfd, self._alive, self._said, 0.0)
        self._finalizer.atexit = False

    def _start(self, words: Sequence[str], descriptors: Sequence[int], listening: int, opened: list[int]) -> int:
        """Its number; `opened` are this process's descriptors that it does not need any longer."""
        self._said, said = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # what nobody reads is lost, and waits for nobody
        alive, self._alive = os.pipe2(os.O_CLOEXEC)
        opened += (said, alive)
        moves = [(alive, 1), (said, 2), *((fd, _FIRST + at) for at, fd in enumerate(descriptors))]
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        ]
        for fd, target in moves:
            opened.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH))
            actions.append((os.POSIX_SPAWN_DUP2, opened[-1], target))
        environment = {**os.environ, **({"LISTEN_FDS": str(listening)} if listening else {})}
        return os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _SCRIPT, "sh", *words],
            environment,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        )

    @property
    def pid(self) -> int:
        """Its process's number."""
        return self._pid

    def fileno(self) -> int:
        """A descriptor that is readable when it has ended, until `end`."""
        return self._pidfd

    def ready(self) -> None:
        """From now on it ends by itself when this process does."""
        os.write(self._alive, b"\n")

    def end(self, patience: float = 0.0) -> str:
        """Wait `patience` seconds for its end, and then end it; what it wrote, as one line. May be called twice."""
        if self._finalizer.detach() is None:
            return ""
        return _end(self._pidfd, self._alive, self._said, patience)


def _end(pidfd: int, alive: int, said: int, patience: float) -> str:
    with suppress(OSError):
        os.write(alive, b"\n")  # the child that watches has nothing to do any more
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, _KILLED_AFTER)):
        if not select.select([pidfd], [], [], seconds)[0]:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
    with suppress(ChildProcessError):  # somebody else may wait for all children
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    try:
        text = os.read(said, SAID_MOST)
    except BlockingIOError:
        text = b""
    for fd in (pidfd, alive, said):
        os.close(fd)
    return " ".join(text.decode("utf-8", "replace").split())
