"""Relocations of a static position-independent ELF executable, which whoever loads it has to do.

Sources: System V ABI (gABI), chapter 5, dynamic section; its i386 and x86-64 supplements, relocation types.

A linker leaves only relative relocations in such a file: the word at an address becomes the load bias plus an addend,
which stands in the relocation (RELA, x86-64) or in the word itself (REL, i386).
"""

from __future__ import annotations

import struct

from ..typed import NamedTuple
from . import ImageError

MAX_RELOCATIONS = 1 << 16
MAX_DYNAMIC = 256
"""Entries of the dynamic section that are looked at; linkers write some dozens."""

DT_NULL, DT_NEEDED, DT_PLTRELSZ, DT_RELA, DT_RELASZ = 0, 1, 2, 7, 8
DT_REL, DT_RELSZ, DT_JMPREL, DT_RELRSZ = 17, 18, 23, 35
R_NONE, R_RELATIVE = 0, 8
"""These two types have the same numbers on i386 and x86-64."""


class Segment(NamedTuple):
    """A checked program header. Addresses are those in memory, with the load bias of a position-independent file."""

    name: str
    kind: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


def relocations(
    image: bytes, bits: int, dynamic: Segment, segments: list[Segment], bias: int
) -> list[tuple[int, bytes]]:
    """What to write where (guest physical address) once the `segments` are loaded.

    `dynamic` is the file's PT_DYNAMIC. ImageError if its tables are not in the file's part of a segment, a relocation
    is not relative, or it reaches outside the segments.
    """
    word = bits // 8
    entry = struct.Struct("<QQ" if bits == 64 else "<II")
    tags: dict[int, int] = {}
    for number in range(min(dynamic.filesz // entry.size, MAX_DYNAMIC)):
        tag, value = entry.unpack_from(image, dynamic.offset + number * entry.size)
        if tag == DT_NULL:
            break
        if tag == DT_NEEDED:
            raise ImageError(f"{dynamic.name}: the program needs a shared library (DT_NEEDED): link with -static")
        tags[tag] = value
    else:
        if dynamic.filesz // entry.size > MAX_DYNAMIC:
            raise ImageError(
                f"{dynamic.name}: more dynamic entries than the limit of {MAX_DYNAMIC}, and no DT_NULL among them: "
                "link with -no-pie"
            )
    for tag, name in ((DT_PLTRELSZ, "DT_PLTRELSZ"), (DT_RELRSZ, "DT_RELRSZ")):
        if tags.get(tag):
            raise ImageError(f"{name} in {dynamic.name}: relocations of this kind are not supported, link with -no-pie")
    start_tag, size_tag, record = (
        (DT_RELA, DT_RELASZ, struct.Struct("<QQq")) if bits == 64 else (DT_REL, DT_RELSZ, struct.Struct("<II"))
    )
    size = tags.get(size_tag, 0)
    if not size:
        return []
    count = size // record.size
    if count > MAX_RELOCATIONS:
        raise ImageError(
            f"{dynamic.name}: {count} relocations are more than the limit of {MAX_RELOCATIONS}: link with -no-pie"
        )
    table = _in_file(tags.get(start_tag, 0) + bias, size, segments)
    if table is None:
        raise ImageError(
            f"{dynamic.name}: the relocations, {size:#x} bytes at {tags.get(start_tag, 0):#x}, are not loaded"
        )
    fixups = []
    for at in range(table, table + count * record.size, record.size):
        offset, info, *addends = record.unpack_from(image, at)
        kind = info & (0xFFFFFFFF if bits == 64 else 0xFF)
        if kind == R_NONE:
            continue
        if kind != R_RELATIVE:
            raise ImageError(f"r_info (file offset {at + word:#x}): relocation type {kind} is not relative")
        where = offset + bias
        holder = next((s for s in segments if s.vaddr <= where and where + word <= s.vaddr + s.memsz), None)
        if holder is None:
            raise ImageError(f"r_offset (file offset {at:#x}): {offset:#x} is in no segment that is loaded")
        if addends:
            addend = addends[0]
        else:
            source = _in_file(where, word, segments)
            addend = 0 if source is None else int.from_bytes(image[source : source + word], "little")
        value = (bias + addend) % (1 << bits)
        fixups.append((where - holder.vaddr + holder.paddr, value.to_bytes(word, "little")))
    return fixups


def _in_file(vaddr: int, size: int, segments: list[Segment]) -> int | None:
    """The file offset of `size` bytes at a virtual address, or None if they are not in the file's part of a segment."""
    for segment in segments:
        if segment.vaddr <= vaddr and vaddr + size <= segment.vaddr + segment.filesz:
            return vaddr - segment.vaddr + segment.offset
    return None
