"""What both versions of Multiboot have in common: the address fields of the header, and the ELF sections in memory.

Sources: Multiboot specification 0.6.96, 3.1.3 and 3.3; Multiboot specification 2.0, 3.1.5 and 3.6.7; System V ABI
(gABI), chapter 4 (section header).
"""

from __future__ import annotations

import struct

from ..memory import GuestMemory
from ..typed import NamedTuple
from . import ImageError
from .elf import PT_LOAD, Program
from .layout import Layout
from .record import Record
from .relocate import Segment

LOADER_NAME = b"pykvm\0"

EGA_TEXT = 0xB8000
EGA_PITCH, EGA_COLUMNS, EGA_ROWS, EGA_BITS = 160, 80, 25, 16
EGA_TEXT_TYPE = 2

MAX_SECTIONS = 4096
MAX_LOADED = 64 << 20
"""Bytes of symbols and strings that are put into memory for the guest at most."""
_ALIGN = 16

_FROM_FILE_START = 0xFFFFFFFF


def flat_program(
    image: bytes, record: Record, at: int, header_at: int, entry: int, entry_field: tuple[Record, int]
) -> Program:
    """The image as the header's address fields, at the file offset `at`, describe it.

    `header_at` is the file offset of the Multiboot header itself, `entry_field` where the entry address stands (its
    field is entry_addr). ImageError names the field that is wrong.
    """
    fields = record.read(image, at)
    header_addr, load_addr = fields["header_addr"], fields["load_addr"]
    load_end, bss_end = fields["load_end_addr"], fields["bss_end_addr"]
    if load_addr == _FROM_FILE_START:
        load_addr = header_addr - header_at
        if load_addr < 0:
            raise record.error("header_addr", at, f"{header_addr:#x} leaves no room for the file before the header")
    if load_addr > header_addr:
        raise record.error("load_addr", at, f"{load_addr:#x} is above header_addr, {header_addr:#x}")
    offset = header_at - (header_addr - load_addr)
    if offset < 0:
        raise record.error("load_addr", at, f"{load_addr:#x} lies before the file's first byte")
    size = load_end - load_addr if load_end else len(image) - offset
    if size <= 0:
        raise record.error("load_end_addr", at, f"{load_end:#x} is not above load_addr, {load_addr:#x}")
    if offset + size > len(image):
        raise record.error("load_end_addr", at, f"{load_end:#x} is {offset + size - len(image):#x} past the file's end")
    memory_size = bss_end - load_addr if bss_end else size
    if memory_size < size:
        raise record.error("bss_end_addr", at, f"{bss_end:#x} is below the data's end, {load_addr + size:#x}")
    if not load_addr <= entry < load_addr + memory_size:
        entry_record, entry_at = entry_field
        raise entry_record.error("entry_addr", entry_at, f"{entry:#x} is outside the image")
    segment = Segment("the image", PT_LOAD, offset, load_addr, load_addr, size, memory_size)
    return Program(32, entry, [segment], [], 0)


class Sections(NamedTuple):
    """An ELF file's section headers as the guest gets them, and what has to be written to memory for that."""

    number: int
    entry_size: int
    names: int
    """Index of the section that has the sections' names."""
    table: bytes
    contents: list[tuple[int, int, int]]
    """(gpa, file offset, size)"""

    def write(self, image: bytes, memory: GuestMemory) -> None:
        with memoryview(image) as view:
            for gpa, offset, size in self.contents:
                memory.write(gpa, view[offset : offset + size])


_SHT_SYMTAB, _SHT_STRTAB, _SHF_ALLOC = 2, 3, 2
_SECTION_NAMES = "sh_name sh_type sh_flags sh_addr sh_offset sh_size sh_link sh_info sh_addralign sh_entsize"
_SECTION = {1: Record("IIIIIIIIII", _SECTION_NAMES), 2: Record("IIQQQQIIQQ", _SECTION_NAMES)}


def place_sections(image: bytes, layout: Layout) -> Sections | None:
    """Take room for the symbol and string tables of an ELF file; None if there are none, or no room.

    A guest finds its symbols by them. It must also do without: stripped kernels boot, so a malformed table is no error.
    """
    wide = image[4] == 2
    if len(image) < (64 if wide else 52):
        return None
    (table_at,) = struct.unpack_from("<Q" if wide else "<I", image, 0x28 if wide else 0x20)
    entry_size, count, names = struct.unpack_from("<HHH", image, 0x3A if wide else 0x2E)
    record = _SECTION[image[4]]
    if not table_at or entry_size != record.size or not 0 < count <= MAX_SECTIONS:
        return None
    if table_at + count * entry_size > len(image):
        return None
    table = bytearray(image[table_at : table_at + count * entry_size])
    contents = []
    end = 0
    for number in range(count):
        fields = record.read(image, table_at + number * entry_size)
        offset, size = fields["sh_offset"], fields["sh_size"]
        if fields["sh_type"] not in (_SHT_SYMTAB, _SHT_STRTAB) or fields["sh_flags"] & _SHF_ALLOC or not size:
            continue
        if offset + size > len(image):
            return None
        contents.append((number, end, offset, size))
        end += -(-size // _ALIGN) * _ALIGN
    if end > MAX_LOADED:
        return None
    try:
        # In one piece: to look for room for each of thousands would take long.
        base = layout.place(end, "symbols and strings", above=1 << 20) if end else 0
    except ImageError:
        return None
    for number, at, _, _ in contents:
        struct.pack_into("<Q" if wide else "<I", table, number * entry_size + (16 if wide else 12), base + at)
    placed = [(base + at, offset, size) for _, at, offset, size in contents]
    return Sections(count, entry_size, names, bytes(table), placed)
