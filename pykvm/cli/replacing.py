"""Which files that are there already a command may write over: those that it makes itself. A slip costs no file."""

from __future__ import annotations

import os
import stat

from ..errors import ConfigError
from . import ui

PNG = b"\x89PNG\r\n\x1a\n"
"""Signature (PNG specification, section 5.2)."""
LCOV = b"TN:"
PERFETTO = b'{"displayTimeUnit":"ns","traceEvents":['
"""How a time line of ours begins."""

force_option = ui.option("--force", is_flag=True, help="Replace the file, whatever is in it.")


def require_replaceable(path: str, begins: bytes | None, what: str, force: bool) -> None:
    """ConfigError if `path` is a file with something in it that does not begin as `what` does. Before the run.

    None: nothing is known by its beginning. What is no regular file, such as /dev/stdout, is nobody's loss.
    """
    if force or path == "-":
        return
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return
            start = file.read(len(begins or b"?"))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if start and (begins is None or start != begins):
        raise ConfigError(f"{path} is there and is no {what} made before: give another name, or --force to replace it")
