"""The RAM of a saved snapshot: its own pages on its parent's, those on the parent's parent's, copied into one image.

Copied, not mapped: whoever may write the files may also cut them, and a mapping of a file that was cut kills the
process that touches it, or looks to the guest like a fault of its own.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

from . import files
from .errors import SnapshotError
from .format import CHUNK, MEMORY, Extent, chunks
from .image import RamImage, Root, extents, new_root


@dataclass(frozen=True, slots=True)
class Layer:
    """The pages that one snapshot has of its own."""

    path: str
    """The snapshot's directory."""
    id: str
    parent: tuple[str, str] | None
    """Its id, and the path of its directory as far as it is known."""
    size: int
    """Bytes of RAM."""
    parts: list[Extent]
    fd: int
    """The file that they are in."""


def assemble(layers: Sequence[Layer], verify: bool) -> RamImage:
    """The RAM that these layers make, the eldest first; SnapshotError if one is not what was saved."""
    root = new_root(layers[0].size)
    with mmap.mmap(root.fd, root.size) as ram:
        for layer in layers:
            try:
                _put(layer, root, ram)
                if verify:
                    _verify(layer, root)
            except (OSError, ValueError) as error:
                raise SnapshotError(f"{layer.path}: its RAM cannot be loaded: {error}") from error
    return RamImage(root)


def _put(layer: Layer, root: Root, ram: mmap.mmap) -> None:
    if os.fstat(layer.fd).st_size != layer.size:
        raise ValueError(f"{MEMORY} has {os.fstat(layer.fd).st_size} bytes, the machine {layer.size}")
    if layer.parent is not None:  # where the file has a hole, the page is all zeros now
        for offset, length in files.joined(layer.parts):
            ram.madvise(mmap.MADV_REMOVE, offset, length)
    for offset, length in files.common(files.joined(layer.parts), extents(layer.fd, layer.size)):
        files.copy(layer.fd, root.fd, offset, length)


def _verify(layer: Layer, root: Root) -> None:
    """Every part has its checksum, and outside of them there are only zeros. Of the parts what was copied is read, not
    the file, and not by the mapping, which fills holes."""
    buffer = bytearray(CHUNK)
    outside = files.gaps(files.joined(layer.parts), layer.size)
    for offset, length in chunks(files.common(outside, extents(layer.fd, layer.size))):
        if files.read(layer.fd, offset, length).count(0) != length:
            raise ValueError(f"{MEMORY} has content at {offset:#x} where none was saved")
    with memoryview(buffer) as view:
        for part in layer.parts:
            if not files.holds_data(root.fd, part):
                if files.zeros_crc(part.length) != part.crc:
                    raise ValueError(f"{MEMORY} has other content at {part.offset:#x} than was saved")
                continue
            with view[: part.length] as content:
                if os.preadv(root.fd, [content], part.offset) != part.length:
                    raise ValueError("a file is shorter than it was")
                files.check(content, part, MEMORY)
