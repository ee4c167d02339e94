"""Other people's files for tests, each fetched once, below `$XDG_CACHE_HOME/pykvm-tests` (`~/.cache/pykvm-tests`)."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pykvm-tests"

TIME_LIMIT = 50.0
"""Seconds for a download that a test waits for."""


class Unavailable(Exception):
    """Something cannot be had; the message says why."""


def cached(name: str, fetch: Callable[[Path], Path]) -> Path:
    """The directory `name` of the cache. What is not there is fetched: `fetch` makes it within an empty directory.

    Unavailable if that cannot be done.
    """
    target = CACHE / name
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            try:
                files = fetch(Path(scratch))
            except (OSError, subprocess.SubprocessError) as error:
                raise Unavailable(_words(error)) from error
            files.rename(target)
    return target


def output(command: list[str], limit: float | None, directory: Path | None = None, data: bytes = b"") -> bytes:
    """What a program prints."""
    done = subprocess.run(command, check=True, cwd=directory, input=data, capture_output=True, timeout=limit)
    return done.stdout


def _words(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"needs {error.filename} to fetch it"
    if isinstance(error, subprocess.CalledProcessError):
        return f"`{' '.join(error.cmd)}` failed: {error.stderr.decode(errors='replace').strip()[-200:]}"
    return str(error)
