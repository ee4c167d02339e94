"""What pykvm.kvm._kvm was compiled from, and whether that is what is there now.

The build puts `fingerprint` of its inputs into the extension, and `check` compares. That reads them all: a start where
none of them is newer than the extension does without.
"""

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def inputs() -> list[str]:
    """The names, below this directory, of the files that make the extension what it is."""
    headers = sorted(name for name in os.listdir(f"{HERE}/cdef") if name.endswith(".h"))
    return ["_build.py", "capabilities.py", "native.c", "shim.c", "sources.py", *(f"cdef/{name}" for name in headers)]


def fingerprint() -> str:
    """One "NAME=CRC-32" for each input, with blanks between: against mistakes, not against forgers."""
    from zlib import crc32

    parts = []
    for name in inputs():
        with open(f"{HERE}/{name}", "rb") as file:
            parts.append(f"{name}={crc32(file.read()):08x}")
    return " ".join(parts)


def check() -> None:
    """StaleBuild if the extension is missing, or was compiled from other sources than those that are beside it."""
    try:
        from ._kvm import ffi, lib
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}._kvm":
            raise
        raise _stale(f"{HERE}/_kvm, the compiled part of pykvm, is missing") from None
    try:
        now = fingerprint()
    except FileNotFoundError:  # an installation without the sources
        return
    # An extension from before there were fingerprints has none.
    then = ffi.string(lib.SOURCES).decode() if hasattr(lib, "SOURCES") else ""
    if then != now:
        where = sys.modules[f"{__package__}._kvm"].__file__
        names = ", ".join(sorted({part.split("=")[0] for part in {*then.split()} ^ {*now.split()}}))
        raise _stale(f"{where}, the compiled part of pykvm, is older than its sources ({names})")


def _stale(what: str) -> Exception:
    import shlex

    from .errors import StaleBuild

    root = os.path.dirname(os.path.dirname(HERE))
    if os.path.exists(f"{root}/pyproject.toml"):
        how, arguments = "build it again with", ["--editable", root]
    else:
        how, arguments = "install pykvm again, in the directory of its source, with", ["--force-reinstall", "."]
    return StaleBuild(f"{what}: {how}: {shlex.join([sys.executable, '-m', 'pip', 'install', *arguments])}")
