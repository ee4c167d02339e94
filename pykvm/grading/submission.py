"""What was handed in: a directory, an archive of one, or a kernel; copied to a place of its own, and built there."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

from ..errors import ConfigError, PykvmError
from .lab import Lab

FILES_MOST = 20_000
BYTES_MOST = 512 << 20
"""Files and bytes in all that a submission may have."""
BUILD_OUTPUT = 64 << 10
"""Bytes of a build's output that are kept, the last ones."""
BUILD_LINES, BUILD_SHOWN = 20, 2000
"""Lines and characters of it that are shown."""
READER_SECONDS = 5.0
"""How long the last of a build's output may take; all that could write more has been ended."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

PR_SET_CHILD_SUBREAPER = 36


class SubmissionError(PykvmError):
    """The submission cannot be graded: it is unreadable, too large, does not build, or has no kernel."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One of a class: where it is, and the name that its results go under."""

    name: str
    path: str

    def digest(self) -> str:
        """A hash of its content: results are taken over only as long as that is the same."""
        found = hashlib.sha256()
        for path, kind in _walk(self.path):
            found.update(f"{kind}:{len(path)}:{path}:".encode(errors="surrogateescape"))
            full = os.path.join(self.path, path) if path else self.path
            if kind == "file":
                with open(full, "rb") as file:
                    while chunk := file.read(1 << 20):
                        found.update(chunk)
                found.update(f":{os.path.getsize(full)}".encode())
            elif kind == "link":
                found.update(os.readlink(full).encode(errors="surrogateescape"))
        return found.hexdigest()


def submissions_in(directory: str) -> list[Submission]:
    """What is in a class's directory, by name; ConfigError if it cannot be read or has nothing."""
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}") from error
    found = [Submission(_stem(name), os.path.join(directory, name)) for name in names]
    for one, other in pairwise(found):
        if one.name == other.name:
            raise ConfigError(f"{one.path} and {other.path} would both be {one.name!r}: rename or remove one")
    if not found:
        raise ConfigError(f"{directory} has no submission in it")
    return sorted(found, key=lambda each: each.name)


def _stem(name: str) -> str:
    for suffix in ARCHIVES:
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """(path within, kind) of all directories, files and links, the upper ones first; a root that is a file is
    ("", "file"). Others (FIFOs, devices) are left out. SubmissionError if there are too many."""
    if os.path.isfile(root):
        yield "", "file"
        return
    count = size = 0
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        with os.scandir(os.path.join(root, directory)) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                path = os.path.join(directory, entry.name)
                count += 1
                if entry.is_symlink():
                    yield path, "link"
                elif entry.is_dir():
                    waiting.append(path)
                    yield path, "directory"
                elif entry.is_file():
                    size += entry.stat().st_size
                    yield path, "file"
                if count > FILES_MOST or size > BYTES_MOST:
                    raise SubmissionError(
                        f"the submission has more than {FILES_MOST} files or {BYTES_MOST >> 20} MiB: nobody builds that"
                    )


def unpack(submission: Submission, target: str) -> str | None:
    """Copy or unpack it into the empty directory `target`; the kernel's path if it is one itself.

    SubmissionError if it is too large or broken. What is neither file, directory nor symbolic link is left out.
    """
    source = submission.path
    try:
        if os.path.isfile(source):
            if source.endswith(".zip"):
                _unzip(source, target)
            elif source.endswith(ARCHIVES):
                _untar(source, target)
            else:
                shutil.copyfile(source, os.path.join(target, os.path.basename(source)))
                return os.path.basename(source)
            _enter_single(target)
            return None
        for path, kind in _walk(source):
            here, there = os.path.join(source, path), os.path.join(target, path)
            if kind == "directory":
                os.mkdir(there)
            elif kind == "link":
                os.symlink(os.readlink(here), there)
            else:
                shutil.copy2(here, there)
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise SubmissionError(f"{source} cannot be unpacked: {error}") from None
    return None


def _untar(source: str, target: str) -> None:
    # Member by member: the filters of tarfile are younger than the oldest Python that pykvm runs on.
    place = _Place(target)
    with tarfile.open(source) as archive:
        for member in archive:
            if member.isdir():
                os.makedirs(place.path(member.name), exist_ok=True)
            elif member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                place.write(member.name, content, executable=bool(member.mode & stat.S_IXUSR))


def _unzip(source: str, target: str) -> None:
    place = _Place(target)
    with zipfile.ZipFile(source) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                os.makedirs(place.path(entry.filename), exist_ok=True)
            else:
                with archive.open(entry) as content:
                    executable = bool(entry.external_attr >> 16 & stat.S_IXUSR)
                    place.write(entry.filename, content, executable=executable)


class _Place:
    """A directory that an archive is unpacked to, with what may still come into it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.files, self.room = FILES_MOST, BYTES_MOST

    def path(self, name: str) -> str:
        """Where the member of that name goes; SubmissionError if that is outside, or if there are too many."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if ".." in parts or name.startswith("/"):
            raise SubmissionError(f"the archive has a file {name!r}, which would be outside")
        self.files -= 1
        if self.files < 0:
            raise SubmissionError(f"the archive has more than {FILES_MOST} files")
        return os.path.join(self.target, *parts)

    def write(self, name: str, content: IO[bytes], *, executable: bool) -> None:
        """Write a member; SubmissionError if that is more than there may be."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            while chunk := content.read(1 << 20):
                self.room -= len(chunk)
                if self.room < 0:
                    raise SubmissionError(f"the archive unpacks to more than {BYTES_MOST >> 20} MiB")
                file.write(chunk)
        if executable:
            os.chmod(path, 0o755)


def _enter_single(target: str) -> None:
    """Archives often have one directory with all the rest in it: that is the submission."""
    entries = os.listdir(target)
    if len(entries) == 1 and os.path.isdir(os.path.join(target, entries[0])):
        inner = os.path.join(target, entries[0])
        moved = f"{target}.inner"
        os.rename(inner, moved)
        os.rmdir(target)
        os.rename(moved, target)


def add_overlay(lab: Lab, target: str) -> None:
    """Put the lab's own files over the submission's."""
    source = os.path.join(lab.directory, lab.overlay)
    for root, directories, files in os.walk(source):
        there = os.path.join(target, os.path.relpath(root, source))
        for name in directories:
            _make_way(os.path.join(there, name), directory=True)
            os.makedirs(os.path.join(there, name), exist_ok=True)
        for name in files:
            _make_way(os.path.join(there, name), directory=False)
            shutil.copy2(os.path.join(root, name), os.path.join(there, name))


def _make_way(path: str, *, directory: bool) -> None:
    """Remove what the submission has put in the place of one of the lab's files: a link would lead out."""
    if os.path.islink(path) or (os.path.isfile(path) and directory):
        os.remove(path)
    elif os.path.isdir(path) and not directory:
        shutil.rmtree(path)


def build(lab: Lab, target: str) -> None:
    """Have the lab's command build the submission; SubmissionError, with the last of its output, if that fails.

    It has no terminal and no input, an environment of its own, `build_timeout` seconds, and each of its processes
    `build_memory` bytes. What it leaves running is ended. It is no jail: it may read and write what its user may.
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": target, "TMPDIR": target, "LANG": "C.UTF-8", "TERM": "dumb"
    }  # fmt: skip
    _adopt_orphans()
    others = _children()
    process = subprocess.Popen(
        ["sh", "-c", f"{_limits(lab)}\n{lab.build}"],
        cwd=target,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    output = bytearray()
    assert process.stdout is not None
    reader = threading.Thread(target=_collect, args=(process.stdout, output), daemon=True)
    reader.start()
    try:
        status: int | None = process.wait(lab.build_timeout)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        _end_all(process, others)
        reader.join(READER_SECONDS)
        process.stdout.close()
    if status != 0:
        why = f"was not done after {lab.build_timeout:g} s" if status is None else f"failed with status {status}"
        lines = output.decode("utf-8", "replace").strip().splitlines()
        shown = "\n".join(lines[-BUILD_LINES:])[-BUILD_SHOWN:]
        raise SubmissionError(f"it does not build: {lab.build!r} {why}" + (f":\n{shown}" if shown else ""))


def _limits(lab: Lab) -> str:
    """What a shell sets for all that it starts: KiB of memory, seconds of CPU, blocks of a file, no core dumps."""
    seconds = int(lab.build_timeout) + 1
    return f"ulimit -v {lab.build_memory >> 10}; ulimit -t {seconds}; ulimit -f {BYTES_MOST >> 9}; ulimit -c 0"


def _adopt_orphans() -> None:
    """Have what a build leaves behind become this process's children (prctl(2)), to be found and ended."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> set[int]:
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError):  # the thread has just ended
            found.update(map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()))
    return found


def _end_all(process: subprocess.Popen[bytes], others: set[int]) -> None:
    """End the build with all that it has started, however deep; but not `others`."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while children := _children() - others:
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def _collect(stream: IO[bytes], output: bytearray) -> None:
    while chunk := stream.read1(1 << 16):  # type: ignore[attr-defined]
        output += chunk
        del output[:-BUILD_OUTPUT]


def kernel_path(lab: Lab, target: str, itself: str | None) -> str:
    """Where the kernel is; SubmissionError if there is none."""
    name = itself or lab.kernel
    path = os.path.join(target, name)
    if not os.path.isfile(path):
        raise SubmissionError(f"there is no {name}" + (f" after {lab.build!r}" if lab.build and not itself else ""))
    real = os.path.realpath(path)
    if os.path.commonpath([real, os.path.realpath(target)]) != os.path.realpath(target):
        raise SubmissionError(f"{name} is a link that leads out of the submission")
    return real
