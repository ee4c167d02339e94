"""The root of every error that is meant for the user: its message says what is wrong and what to do about it."""

from __future__ import annotations

import errno

ADVICE = {
    errno.EMFILE: "this process may have no more open files: raise its limit (ulimit -n), or close what is not needed; "
    "a machine needs 3 or 4, one more for each CPU beyond the first, and 2 to 4 more while it runs",
    errno.ENFILE: "the host has no more open files left (sysctl fs.file-max)",
    errno.ENOMEM: "the host gives no more memory: free some, ask for less RAM, or raise the limit (ulimit -v)",
    errno.EAGAIN: "the host gives no more threads: raise their limit (ulimit -u), or the cgroup's (pids.max)",
}
"""What to do where the host has no more of something to give."""


class PykvmError(Exception):
    """Base of all errors that pykvm raises for a reason outside its own code (host, image, guest, command line)."""


class ConfigError(PykvmError, ValueError):
    """The caller asked for a machine that cannot be: a bad size, two devices at one port, an unknown option."""


class HostError(PykvmError):
    """The host has no more of what a machine needs: open files, memory, threads. `__cause__` is what Python said."""


def refused_by_host(error: BaseException) -> HostError | None:
    """What to raise from `error` if it means that the host has no more of something to give; None for any other."""
    if isinstance(error, MemoryError):
        return HostError(ADVICE[errno.ENOMEM])
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return HostError(ADVICE[errno.EAGAIN])
    if isinstance(error, OSError) and error.errno in ADVICE:
        where = "" if error.filename is None else f"{error.filename}: "
        return HostError(where + ADVICE[error.errno])
    return None
