"""A small writer of ELF files for the tests: what a linker would make of a few segments and symbols.

The file is: ELF header, program headers, the segments' bytes, symbol table, string table, section headers (none, .text
of the first segment, .symtab, .strtab).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
GLOBAL_FUNC, GLOBAL_OBJECT, GLOBAL_NOTYPE, LOCAL_NOTYPE, LOCAL_FILE = 0x12, 0x11, 0x10, 0x00, 0x04
SHN_ABS = 0xFFF1


@dataclass
class Part:
    """A program header and its bytes."""

    vaddr: int
    data: bytes
    memsz: int | None = None
    paddr: int | None = None
    type: int = PT_LOAD


@dataclass
class Name:
    """A symbol; `info` is binding and type, `section` 1 is .text."""

    name: str
    value: int
    size: int = 0
    info: int = GLOBAL_FUNC
    section: int = 1


def elf(
    parts: Sequence[Part],
    entry: int,
    *,
    bits: int = 64,
    names: Sequence[Name] = (),
    file_type: int = 2,
    machine: int | None = None,
) -> bytes:
    """The file's bytes."""
    wide = bits == 64
    header_size, part_size, section_size = (64, 56, 64) if wide else (52, 32, 40)
    offset = header_size + part_size * len(parts)
    headers, body = b"", b""
    for part in parts:
        paddr = part.vaddr if part.paddr is None else part.paddr
        memsz = len(part.data) if part.memsz is None else part.memsz
        where = offset + len(body)
        if wide:
            headers += struct.pack("<IIQQQQQQ", part.type, 7, where, part.vaddr, paddr, len(part.data), memsz, 0x1000)
        else:
            headers += struct.pack("<8I", part.type, where, part.vaddr, paddr, len(part.data), memsz, 7, 0x1000)
        body += part.data
    symbols, strings = bytes(24 if wide else 16), b"\0"
    for name in names:
        at = len(strings)
        strings += name.name.encode() + b"\0"
        if wide:
            symbols += struct.pack("<IBBHQQ", at, name.info, 0, name.section, name.value, name.size)
        else:
            symbols += struct.pack("<IIIBBH", at, name.value, name.size, name.info, 0, name.section)
    symbols_at = offset + len(body)
    strings_at = symbols_at + len(symbols)
    sections_at = strings_at + len(strings)
    text = parts[0] if parts else Part(0, b"")
    sections = bytes(section_size)
    for kind, address, at, size, link, entry_size in (
        (1, text.vaddr, offset, len(text.data), 0, 0),
        (2, 0, symbols_at, len(symbols), 3, 24 if wide else 16),
        (3, 0, strings_at, len(strings), 0, 0),
    ):
        fields = (0, kind, 0, address, at, size, link, 0, 1, entry_size)
        sections += struct.pack("<IIQQQQIIQQ" if wide else "<10I", *fields)
    header = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH" if wide else "<4sBBB9xHHIIIIIHHHHHH",
        b"\x7fELF",
        2 if wide else 1,
        1,
        1,
        file_type,
        (62 if wide else 3) if machine is None else machine,
        1,
        entry,
        header_size if parts else 0,
        sections_at,
        0,
        header_size,
        part_size,
        len(parts),
        section_size,
        4,
        0,
    )
    return header + headers + body + symbols + strings + sections


def patch(image: bytes, offset: int, size: int, value: int) -> bytes:
    """`image` with a little-endian field replaced."""
    return image[:offset] + value.to_bytes(size, "little") + image[offset + size :]
