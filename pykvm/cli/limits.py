"""What the host refuses, for a command line: a limit of this process, a full file system, an unwritable directory."""

from __future__ import annotations

from ..errors import refused_by_host


def explain(error: OSError | MemoryError | RuntimeError) -> str | None:
    """The error in a sentence for the user, with what to do; None if it is none of the host's."""
    refused = refused_by_host(error)
    if refused is not None:
        return str(refused)
    if not isinstance(error, OSError) or error.errno is None:
        return None
    what = error.strerror or str(error)
    return what if error.filename is None else f"{error.filename}: {what}"
