"""What the host refuses: a limit of this process, a full file system, a directory that must not be written to."""

from __future__ import annotations

import errno

_ADVICE = {
    errno.EMFILE: "this process may have no more open files: raise the limit (ulimit -n)",
    errno.ENFILE: "the host has no more open files left (sysctl fs.file-max)",
    errno.ENOMEM: "the host gives no more memory: free some, ask for less by --memory, or raise the limit (ulimit -v)",
    errno.EAGAIN: "the host gives no more of it: threads and processes are limited by ulimit -u and by the cgroup",
}


def explain(error: OSError | MemoryError | RuntimeError) -> str | None:
    """The error in a sentence for the user, with what to do; None if it is none of the host's."""
    if isinstance(error, MemoryError):
        return _ADVICE[errno.ENOMEM]
    if isinstance(error, RuntimeError):
        return f"no thread can be started: {_ADVICE[errno.EAGAIN]}" if "start new thread" in str(error) else None
    if error.errno is None:
        return None
    what = _ADVICE.get(error.errno, error.strerror or str(error))
    return what if error.filename is None else f"{error.filename}: {what}"
