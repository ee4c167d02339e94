"""What an image of another format consists of: for QEMU a tree of block nodes in which nothing is left to be found out.

The headers are read here for what may lead to other files of the host: a backing file, a parent, an external data
file, extents. QEMU is told each file by a descriptor that is open already, each format by its name, and where there is
no backing file, that there is none.

Sources: QEMU, docs/interop/qcow2.txt ("Header", "Header extensions") and qapi/block-core.json (BlockdevOptions);
VMware, Virtual Disk Format 1.1 ("Hosted Sparse Extent Header", "The Descriptor File"); Microsoft, Virtual Hard Disk
Image Format Specification 1.0 ("Hard Disk Footer Format").
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence

from ..errors import ConfigError
from ..typed import Any, NamedTuple
from . import SECTOR
from .formats import FORMATS
from .raw import ImageFile, read_up_to

MOST_FILES = 32
"""An image, and the images that are under it."""
_HEADER = 64 << 10
"""Bytes: within them the header extensions and a descriptor have to be."""
_EXTERNAL_DATA = 1 << 2
_BACKING_FORMAT = 0xE2792ACA
_COMPRESSED = 1 << 16
_DIFFERENCING = 4
_WHOLE = ("monolithicSparse", "streamOptimized")
"""The types of VMDK that are one file."""


class Backing(NamedTuple):
    """A file that an image names as the one under it."""

    name: str
    format: str | None


def under(file: ImageFile, kind: str) -> Backing | None:
    """The file that the image in `file`, of the format `kind`, names as the one under it.

    ConfigError if it is of another format, or one that needs other files which are never opened.
    """
    return _CHECKS[FORMATS[kind]](file)


def node(file: ImageFile, kind: str, backing: bool, opened: list[ImageFile]) -> dict[str, Any]:
    """The blockdev node of the image in `file`, a key of FORMATS; `opened` gets `file` and the files under it.

    ConfigError for an image that names another file, unless `backing`, and as by `under`. A file's name in the tree is
    its place in `opened`, until `by_descriptor` puts the descriptor's there.
    """
    opened.append(file)
    below = under(file, kind)
    if below is None:
        return alone(kind, len(opened) - 1)
    if not backing:
        raise ConfigError(
            f"disk image {file.path!r} names another file as what is under it, {below.name!r}: if the guest may read "
            "that, say so by ,backing (backing=True); or make one image of both, as by: "
            f"qemu-img convert -O {FORMATS[kind]} {file.path} whole.{kind}"
        )
    if len(opened) >= MOST_FILES:
        raise ConfigError(f"disk image {opened[0].path!r} has more than {MOST_FILES - 1} images under it")
    return {**alone(kind, len(opened) - 1), "backing": _below(file, below, opened)}


def alone(kind: str, place: int) -> dict[str, Any]:
    """The node of an image of the format `kind`, whose file is at `place`, without what may be under it."""
    made: dict[str, Any] = {"driver": FORMATS[kind], "file": {"driver": "file", "filename": str(place)}}
    if FORMATS[kind] in ("qcow2", "vmdk"):
        made["backing"] = None
    return made


def by_descriptor(tree: dict[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
    """The tree with the names of these descriptors, of the process that is to read it, in place of places."""
    place = int(tree["file"]["filename"])
    made = {**tree, "file": {"driver": "file", "filename": f"/proc/self/fd/{descriptors[place]}"}}
    if tree.get("backing") is not None:
        made["backing"] = by_descriptor(tree["backing"], descriptors)
    return made


def _below(file: ImageFile, below: Backing, opened: list[ImageFile]) -> dict[str, Any]:
    if ":" in below.name.partition("/")[0] or "\0" in below.name or not below.name:
        raise ConfigError(
            f"disk image {file.path!r} names {below.name!r:.200} as what is under it, which is no file's name: "
            "only files are opened"
        )
    if below.format not in FORMATS:
        raise ConfigError(
            f"disk image {file.path!r} says of the file under it, {below.name!r}, "
            + ("the format" if below.format else "no format")
            + f" {below.format or ''}".rstrip()
            + f": say which it has, as by: qemu-img rebase -u -b {below.name} -F raw {file.path}"
        )
    try:
        file_below = ImageFile(os.path.join(os.path.dirname(file.path), below.name), read_only=True)
    except ConfigError as error:
        raise ConfigError(f"{error}; disk image {file.path!r} names it as what is under it") from error
    return node(file_below, below.format, True, opened)


def _nothing(file: ImageFile) -> None:
    """A format whose images QEMU itself refuses if they have a parent."""


def _qcow2(file: ImageFile) -> Backing | None:
    head = read_up_to(file.fileno(), 0, _HEADER)
    if head[:4] != b"QFI\xfb" or len(head) < 104:
        raise _not("qcow2", file)
    version, at, size = struct.unpack_from(">IQI", head, 4)
    if version not in (2, 3):
        raise ConfigError(f"disk image {file.path!r} is of version {version} of qcow2: there are 2 and 3")
    if version == 3 and struct.unpack_from(">Q", head, 72)[0] & _EXTERNAL_DATA:
        raise ConfigError(
            f"disk image {file.path!r} has its data in another file: make one file of both, as by: "
            f"qemu-img convert -O qcow2 {file.path} whole.qcow2"
        )
    if not at:
        return None
    name = read_up_to(file.fileno(), at, min(size, 1023)).decode("utf-8", "surrogateescape") if at < 1 << 63 else ""
    extension = struct.unpack_from(">I", head, 100)[0] if version == 3 else 72
    while extension + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, extension)
        if kind == _BACKING_FORMAT:
            return Backing(name, head[extension + 8 : extension + 8 + min(length, 16)].decode("latin-1"))
        if kind == 0:
            break
        extension += 8 + -(-length // 8) * 8
    return Backing(name, None)


def _vmdk(file: ImageFile) -> None:
    head = read_up_to(file.fileno(), 0, SECTOR)
    if head[:4] != b"KDMV" or len(head) < SECTOR:
        raise _several_files(file)
    flags, capacity, _, at, size = struct.unpack_from("<IQQQQ", head, 8)
    descriptor = b"" if at >= 1 << 40 else read_up_to(file.fileno(), at * SECTOR, min(size * SECTOR, _HEADER))
    kind = re.search(rb'^\s*createType\s*=\s*"([^"\n]*)"', descriptor, re.MULTILINE)
    if not capacity or (kind is not None and kind[1].decode("latin-1") not in _WHOLE):
        raise _several_files(file)
    if b"parentFileNameHint" in descriptor:
        raise ConfigError(
            f"disk image {file.path!r} names another VMDK as what is under it, which pykvm does not open: make one of "
            f"both, as by: qemu-img convert -O qcow2 {file.path} whole.qcow2"
        )
    if flags & _COMPRESSED and not file.read_only:
        raise ConfigError(
            f"disk image {file.path!r} is a stream-optimised VMDK, which cannot be written: give ,ro or ,discard; or "
            f"convert it, as by: qemu-img convert -O vmdk {file.path} disk.vmdk"
        )


def _vhd(file: ImageFile) -> None:
    for at in (file.length - SECTOR, 0):
        footer = read_up_to(file.fileno(), max(at, 0), SECTOR)
        if footer[:8] == b"conectix":
            if int.from_bytes(footer[60:64], "big") == _DIFFERENCING:
                raise ConfigError(
                    f"disk image {file.path!r} is a differencing VHD, of which QEMU does not read the parent: merge it "
                    "with that by the program that made it"
                )
            return
    raise _not("VHD", file)


_CHECKS = {"raw": _nothing, "qcow2": _qcow2, "vmdk": _vmdk, "vdi": _nothing, "vpc": _vhd, "vhdx": _nothing}


def _not(format: str, file: ImageFile) -> ConfigError:
    return ConfigError(f"disk image {file.path!r} is no {format}: see that it is whole, and that format= is right")


def _several_files(file: ImageFile) -> ConfigError:
    return ConfigError(
        f"disk image {file.path!r} is no VMDK that is one file (monolithicSparse or streamOptimized): make one of it, "
        f"as by: qemu-img convert -O qcow2 {file.path} whole.qcow2"
    )
