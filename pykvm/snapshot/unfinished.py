"""The directories that saves work in, beside the place of the snapshot: made, locked while their process lives, and
tidied by others when it does not.

Their names are `.NAME.XXXXXXXX.pykvm-unfinished`, NAME the snapshot's. The lock is flock(2) on the directory, which the
kernel lets go of however the process ends. Where a file system has no exchange of two names, the snapshot that is
replaced has for a moment the name of the new one with `.old` behind it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SUFFIX = ".pykvm-unfinished"
ASIDE = ".old"


@contextmanager
def working_directory(home: str, name: str) -> Iterator[str]:
    """A new directory in `home`, for what is going to be called `name`; at the end it is removed, if it is there."""
    while True:
        path = tempfile.mkdtemp(prefix=f".{name}.", suffix=SUFFIX, dir=home)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with suppress(OSError):  # no locks here: then nobody tidies, either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_at(lock, path):
            break
        os.close(lock)  # somebody has tidied it before it was locked
    try:
        yield path
    finally:
        for left in (path, path + ASIDE):  # what was not finished, or what was replaced
            shutil.rmtree(left, ignore_errors=True)
        os.close(lock)


def tidy(home: str) -> None:
    """Remove what saves to `home` have left whose processes were killed; what cannot be removed stays."""
    try:
        with os.scandir(home) as entries:
            names = [
                entry.name for entry in entries if entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return
    for name in sorted(names, reverse=True):  # what was put aside comes before what was to replace it
        if name.removesuffix(ASIDE).endswith(SUFFIX):
            with suppress(OSError):
                _tidy(home, name)


def _tidy(home: str, name: str) -> None:
    path = os.path.join(home, name)
    work = path.removesuffix(ASIDE)
    lock = os.open(work if os.path.isdir(work) else path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is being worked in
        if path == work and not _is_at(lock, path):
            return  # it has got its name since
        target = os.path.join(home, os.path.basename(work)[1:].removesuffix(SUFFIX).rpartition(".")[0])
        if path != work and not os.path.lexists(target):
            os.rename(path, target)  # it was to be replaced, and was not
        else:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except OSError:
        return False
