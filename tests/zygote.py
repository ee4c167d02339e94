"""Processes of Python that have pykvm imported already: forks of one that has done that and nothing else.

A start of Python with pykvm takes seconds on an emulated CPU, most of what a test of the command line takes there.
`Popen` and `run` are used as those of `subprocess`, for `[sys.executable, "-c", code, argument ...]` and nothing else.
The process is a child of the caller as any other, with what `subprocess` gives it: arguments, environment, working
directory, standard descriptors and no others, session; signals, job control and exit status are the kernel's business.
`test_zygote.py` compares what it finds with what a process that was started finds.

What a fork cannot show is left to real starts: what Python itself does at its start (closed descriptors, limits,
options, PYTHON... variables), what a command imports, and how much memory it takes. A caller that has changed its
limits, its umask or which signals it ignores, all of which a child inherits, gets an error.

The zygote is single-threaded, has made no machine, and has opened nothing. It forks twice, and the first fork ends at
once: the second, an orphan, is given by the kernel to the caller, the nearest subreaper (prctl(2)).
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import importlib
import io
import json
import os
import pkgutil
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds for an answer of the zygote: the first comes after its imports."""
REQUEST_SIZE = 1 << 17
PR_SET_CHILD_SUBREAPER = 36

MAIN = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from zygote import serve
del sys.path[0]  # in front is the working directory now, as with any -c
exec(serve(int(sys.argv[1])), {{"__name__": "__main__"}})
"""

IMPORTED_WHEN_NEEDED = ("capstone", "elftools.elf.elffile", "elftools.dwarf.callframe", "isal.isal_zlib", "hashlib")
"""What pykvm imports inside functions, of others."""
SELDOM_IMPORTED = ("pykvm.__main__", "pykvm.kvm._build", "pykvm.cli.grade")
"""What takes long and few tests would use, and what is the command itself."""


# In the zygote


def serve(number: int) -> str:
    """Fork for each request that comes in the socket `number`; in the fork, return the code that it is to run."""
    import pykvm

    for module in pkgutil.walk_packages(pykvm.__path__, "pykvm."):
        if module.name not in SELDOM_IMPORTED:
            importlib.import_module(module.name)
    for name in IMPORTED_WHEN_NEEDED:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "another thread would be missing in a fork"
    requests = socket.socket(fileno=number)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, REQUEST_SIZE, 3)
        if not message:
            os._exit(0)
        adopted, adoption = os.pipe()
        if (between := os.fork()) == 0:
            if os.fork():
                os._exit(0)
            break
        for descriptor in (adopted, *descriptors):
            os.close(descriptor)
        os.waitpid(between, 0)
        os.close(adoption)
    os.close(adoption)
    os.read(adopted, 1)  # ends when this process is the caller's child
    request = json.loads(message)
    try:
        _become(request, descriptors)
    except BaseException:
        requests.send(b"0")
        raise
    requests.send(b"%d" % os.getpid())
    os.closerange(3, max(number, adopted, adoption, *descriptors) + 1)
    requests.detach()
    return str(request["code"])


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Be the process that was asked for, as far as it begins before the code."""
    os.chdir(request["cwd"])
    if request["session"]:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    if request["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[:] = ["-c", *request["arguments"]]
    # As Python's own start makes them (create_stdio in CPython's pylifecycle.c): what the descriptor is decides.
    streams: dict[str, Any] = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
    unbuffered = streams["stdout"].write_through  # by PYTHONUNBUFFERED
    for number, (name, old) in enumerate(streams.items()):
        mode = "w" if number else "r"
        buffer: Any = open(number, mode + "b", buffering=0 if unbuffered and number else -1, closefd=False)  # noqa: SIM115
        getattr(buffer, "raw", buffer).name = f"<{name}>"
        by_line = not unbuffered and (os.isatty(number) or number == 2)
        stream: Any = io.TextIOWrapper(buffer, old.encoding, old.errors, "\n", by_line, old.write_through)
        stream.mode = mode
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


# In the test


class Popen(subprocess.Popen[Any]):
    """As `subprocess.Popen`, for a command that begins with `[sys.executable, "-c", code]`.

    With `terminal`, its standard input becomes the controlling terminal of its new session.
    """

    def __init__(self, command: Sequence[object], *, terminal: bool = False, **options: Any) -> None:
        self._terminal = terminal
        super().__init__([os.fspath(word) for word in command], **options)  # type: ignore[call-overload]

    def _execute_child(  # type: ignore[no-untyped-def]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask,
        start_new_session, process_group,
    ) -> None:  # fmt: skip
        assert args[:2] == [sys.executable, "-c"], "only Python has been started already"
        asked = (executable, preexec_fn, close_fds, pass_fds, shell, restore_signals, gid, gids, uid, umask)
        assert asked == (None, None, True, (), False, True, None, None, None, -1), "a fork has what a usual child has"
        assert process_group == -1
        self.pid = _zygote().fork(
            {
                "code": args[2],
                "arguments": args[3:],
                "cwd": os.path.abspath(cwd or "."),
                "env": dict(os.environ if env is None else env),
                "session": start_new_session,
                "terminal": self._terminal,
            },
            [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))],
        )
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def run(
    command: Sequence[object], *, timeout: float, input: bytes | str | None = None, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run`."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if options.pop("capture_output", False):
        options["stdout"] = options["stderr"] = subprocess.PIPE
    with Popen(command, **options) as process:
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


class Zygote:
    """The process that is forked, from a test's side."""

    def __init__(self) -> None:
        self._inherited = _inherited()
        self._start_up = _of_start_up(os.environ)
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.settimeout(PATIENCE)
        self._one_at_a_time = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", MAIN, str(theirs.fileno())],
                cwd=Path(__file__).resolve().parents[1],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """A new child process that is as requested; its number."""
        assert _inherited() == self._inherited, "limits, umask or ignored signals have changed: start it for real"
        assert _of_start_up(request["env"]) == self._start_up, "Python itself reads these variables: start it for real"
        try:
            with self._one_at_a_time, _adopting():
                socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
                child = int(self._requests.recv(16))
        except BaseException:
            # A test's time limit, or its end: no later request is to get what comes now. The next has a new zygote.
            _the_zygote.remove(self)
            self._process.kill()
            self.close()
            raise
        assert child, "it did not become what was asked for: see its standard error"
        return child

    def close(self) -> None:
        self._requests.close()
        self._process.wait(PATIENCE)


_the_zygote: list[Zygote] = []


def _zygote() -> Zygote:
    """The one of this session, from the first command on that asks for it."""
    if not _the_zygote:
        _the_zygote.append(Zygote())
        atexit.register(_the_zygote[0].close)
    return _the_zygote[0]


@contextmanager
def _adopting() -> Iterator[None]:
    """Be the parent of descendants whose own parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _inherited() -> tuple[list[str], str]:
    """What a child has of its parent without being given it, and the zygote has from its start."""
    status = Path("/proc/self/status").read_text().splitlines()
    return [line for line in status if line.startswith(("Umask", "SigBlk", "SigIgn"))], Path(
        "/proc/self/limits"
    ).read_text()


def _of_start_up(env: Any) -> dict[str, str]:
    """The variables that Python, the C library and the loader read at their start."""
    return {name: env[name] for name in env if name.startswith(("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_"))}
