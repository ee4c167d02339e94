"""What qemu-img does with images, by the rules of `image` and `nodes`: formats are named, files are opened here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import ConfigError
from ..typed import Any
from .formats import FORMATS, named
from .image import format_of
from .nodes import alone, by_descriptor, node, under
from .raw import ImageFile, RawDisk


def create(path: str, size: int, kind: str | None, over: str | None, over_kind: str | None) -> None:
    """Make the image `path` of `size` bytes, or of the size of `over`, which is then under it. It must not exist."""
    kind = kind or named(path) or "raw"
    words = ["create", "-q", "-f", _known(kind)]
    if over is not None:
        if FORMATS[kind] != "qcow2":
            raise ConfigError(f"{path!r} would have {kind}: only a qcow2 has another image under it")
        over_kind = _kind(os.path.join(os.path.dirname(path), over), over_kind)
        words += ["-u", "-b", over, "-F", _known(over_kind)]
        size = size or _size(os.path.join(os.path.dirname(path), over), over_kind)
    if FORMATS[kind] == "vpc":
        words += ["-o", "force_size=on"]  # or it is rounded to what cylinders, heads and sectors can say
    if not size:
        raise ConfigError(f"{path!r} needs a size, such as 64M")
    _refuse_to_replace(path)
    _run([*words, f"./{path}" if not os.path.isabs(path) else path, str(size)], [])


def info(path: str, kind: str | None = None) -> dict[str, Any]:
    """What there is to say of an image: format, sizes in bytes, the file that it names as under it, and more."""
    kind = _kind(path, kind)
    with _closing([ImageFile(path, read_only=True)]) as files:
        below = under(files[0], kind)
        told = json.loads(_run(["info", "--output=json", _source(alone(kind, 0), files)], files))
    return {
        "file": path,
        "format": kind,
        "size": told["virtual-size"],
        "size_on_disk": told["actual-size"],
        "backing": None if below is None else below.name,
        "backing_format": None if below is None else below.format,
        "details": told.get("format-specific", {}).get("data", {}),
    }


def convert(path: str, kind: str | None, new: str, new_kind: str | None, *, backing: bool, progress: bool) -> None:
    """Write the content of an image into a new one, which must not exist; `progress` goes to standard output."""
    kind, new_kind = _kind(path, kind), new_kind or named(new) or "raw"
    words = ["convert", *(["-p"] if progress else []), "-O", _known(new_kind)]
    if FORMATS[new_kind] == "vpc":
        words += ["-o", "force_size=on"]
    _refuse_to_replace(new)
    with _closing([]) as files:
        source = _source(node(ImageFile(path, read_only=True), kind, backing, files), files)
        _run([*words, source, new if os.path.isabs(new) else f"./{new}"], files, show=progress)


def commit(path: str, kind: str | None, *, progress: bool) -> None:
    """Write what an image has over the one under it into that one. The image keeps its content."""
    kind = _kind(path, kind)
    with _closing([]) as files:
        tree = node(ImageFile(path), kind, True, files)
        if tree.get("backing") is None:
            raise ConfigError(f"disk image {path!r} has no other image under it that could be written to")
        _run(["commit", "-q", "-d", *(["-p"] if progress else []), _source(tree, files)], files, show=progress)


def _kind(path: str, kind: str | None) -> str:
    """A key of FORMATS: what is said, or what name and content agree upon."""
    if kind is not None:
        _known(kind)
        return kind
    disk = RawDisk(path, read_only=True)
    try:
        return format_of(disk)
    finally:
        disk.close()


def _known(kind: str) -> str:
    if kind not in FORMATS:
        raise ConfigError(f"{kind!r} is no format of disk images: give {', '.join(FORMATS)}")
    return FORMATS[kind]


def _size(path: str, kind: str) -> int:
    return int(info(path, kind)["size"])


def _refuse_to_replace(path: str) -> None:
    if os.path.lexists(path):
        raise ConfigError(f"{path!r} exists: nothing is replaced; remove it, or give another name")


def _source(tree: dict[str, Any], files: Sequence[ImageFile]) -> str:
    return "json:" + json.dumps(by_descriptor(tree, [file.fileno() for file in files]))


@contextmanager
def _closing(files: list[ImageFile]) -> Iterator[list[ImageFile]]:
    try:
        yield files
    finally:
        for file in files:
            file.close()


def _run(words: Sequence[str], files: Sequence[ImageFile], *, show: bool = False) -> str:
    """qemu-img's standard output; ConfigError with what it says is wrong."""
    path = shutil.which("qemu-img")
    if path is None:
        raise ConfigError("this takes qemu-img, which is not installed: on Debian, `apt-get install qemu-utils`")
    done = subprocess.run(
        [path, *words],
        stdin=subprocess.DEVNULL,
        stdout=None if show else subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[file.fileno() for file in files],
        check=False,
        text=True,
        errors="replace",
    )
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"it ends with status {done.returncode}"
        for file in sorted(files, key=ImageFile.fileno, reverse=True):  # 12 before 1
            said = said.replace(f"/proc/self/fd/{file.fileno()}", file.path)
        raise ConfigError(said)
    return done.stdout or ""
