"""Multiboot 1 kernels.

Source: Multiboot specification 0.6.96: 3.1 (OS image format), 3.2 (machine state), 3.3 (boot information format).

The image is an ELF file of either class, entered in 32-bit protected mode, or whatever the header's address fields
describe. All modules are page-aligned.
"""

from __future__ import annotations

import struct

from ..memory import GuestMemory
from ..x86.symbols import SymbolTable
from . import EntryState, ImageError, Options, Video, e820, elf
from .format import COMMAND_LINE, Format
from .layout import Block, Layout, Loaded, c_string, enter_protected, place_modules, write_modules
from .multiboot import (
    EGA_BITS,
    EGA_COLUMNS,
    EGA_PITCH,
    EGA_ROWS,
    EGA_TEXT,
    EGA_TEXT_TYPE,
    LOADER_NAME,
    Sections,
    flat_program,
    place_sections,
)
from .record import Record

MAGIC = 0x1BADB002
LOADER_MAGIC = 0x2BADB002
"""In EAX at the entry."""
SEARCH_LIMIT = 8192

PAGE_ALIGN, MEMORY_INFO, VIDEO_MODE, ADDRESS_FIELDS = 1 << 0, 1 << 1, 1 << 2, 1 << 16
_KNOWN = PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE
_REQUIRED = 0xFFFF
"""A loader that does not know one of these flags must not load the image."""

_HEADER = Record("III", "magic flags checksum")
_GRAPHICS = Record("IIII", "mode_type width height depth")
_GRAPHICS_AT = 32
LINEAR_GRAPHICS = 0
_ADDRESSES = Record("IIIII", "header_addr load_addr load_end_addr bss_end_addr entry_addr")

INFO_MEMORY, INFO_COMMAND_LINE, INFO_MODULES, INFO_ELF_SECTIONS = 1 << 0, 1 << 2, 1 << 3, 1 << 5
INFO_MEMORY_MAP, INFO_LOADER_NAME, INFO_VBE, INFO_FRAMEBUFFER = 1 << 6, 1 << 9, 1 << 11, 1 << 12
_INFO_SIZE = 120


def find_header(image: bytes) -> int | None:
    """The file offset of the header: 4-byte aligned, in the first 8192 bytes, with a good checksum."""
    head = image[:SEARCH_LIMIT]
    at = head.find(MAGIC.to_bytes(4, "little"))
    while at >= 0:
        if (
            at % 4 == 0
            and at + _HEADER.size <= len(head)
            and sum(struct.unpack_from("<III", head, at)) % (1 << 32) == 0
        ):
            return at
        at = head.find(MAGIC.to_bytes(4, "little"), at + 1)
    return None


def load(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
    """Load a Multiboot kernel with its modules and command line; ImageError if it is malformed or does not fit."""
    at = find_header(image)
    if at is None:
        raise ImageError(f"magic: there is no Multiboot header in the first {SEARCH_LIMIT} bytes of the file")
    flags = _HEADER.read(image, at)["flags"]
    unknown = flags & _REQUIRED & ~_KNOWN
    if unknown:
        bits = ", ".join(str(bit) for bit in range(16) if unknown >> bit & 1)
        raise _HEADER.error("flags", at, f"{flags:#x} requires bits {bits}, which Multiboot 0.6.96 does not define")
    layout = Layout(memory)
    sections = symbols = None
    if flags & ADDRESS_FIELDS:
        fields_at = at + _HEADER.size
        if fields_at + _ADDRESSES.size > len(image):
            raise _HEADER.error("flags", at, "bit 16 announces address fields, but the file ends before them")
        entry = _ADDRESSES.read(image, fields_at)["entry_addr"]
        program = flat_program(image, _ADDRESSES, fields_at, at, entry, (_ADDRESSES, fields_at))
        program.claim(layout)
    else:
        program = elf.read(image)
        program.claim(layout)
        sections = place_sections(image, layout)
        symbols = SymbolTable(image, program.bias)
    video = _wanted(image, at) if flags & VIDEO_MODE else None
    modules = place_modules(layout, options.modules)
    # The kernel's name comes first, as with GRUB Legacy and QEMU: kernels pass over the first word.
    command_line = c_string(" ".join(filter(None, (options.name, options.command_line))), "command line")
    size = len(_information(0, memory, command_line, modules, sections, video))
    base = layout.place(size, "Multiboot information")
    registers, system = enter_protected(layout, program.entry)
    registers.rax, registers.rbx = LOADER_MAGIC, base
    program.write(image, memory)
    write_modules(layout, modules)
    if sections is not None:
        sections.write(image, memory)
    memory.write(base, _information(base, memory, command_line, modules, sections, video))
    return EntryState(registers, system, "multiboot", symbols, layout.reserved, program.spans, video)


def _wanted(image: bytes, at: int) -> Video | None:
    """The mode for the kernel whose header is at `at` and has a wish; None: text."""
    if at + _GRAPHICS_AT + _GRAPHICS.size > len(image):
        raise _HEADER.error("flags", at, "bit 2 announces a video mode, but the file ends before it")
    wish = _GRAPHICS.read(image, at + _GRAPHICS_AT)
    if wish["mode_type"] != LINEAR_GRAPHICS:
        return None
    from . import video

    return video.choose(wish["width"], wish["height"], wish["depth"])


def _information(
    base: int,
    memory: GuestMemory,
    command_line: bytes,
    modules: list[Loaded],
    sections: Sections | None,
    mode: Video | None,
) -> bytes:
    """The information structure, to be written to `base`, with all that it points to behind it."""
    block = Block(base)
    block.add(bytes(_INFO_SIZE))
    flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MODULES | INFO_MEMORY_MAP | INFO_LOADER_NAME | INFO_FRAMEBUFFER
    module_list = b"".join(
        struct.pack("<IIII", module.gpa, module.gpa + len(module.data), block.add(module.command_line), 0)
        for module in modules
    )
    # The size of a map entry does not count itself.
    memory_map = b"".join(struct.pack("<IQQI", 20, *area) for area in e820.memory_map(memory))
    if sections is not None:
        flags |= INFO_ELF_SECTIONS
        table = block.add(sections.table)
        struct.pack_into("<IIII", block.data, 28, sections.number, sections.entry_size, table, sections.names)
    vbe_at = 0
    if mode is not None:
        from . import video

        flags |= INFO_VBE
        vbe_at = block.add(video.vbe_mode(mode))
    addresses = [block.add(part) for part in (command_line, module_list, memory_map, LOADER_NAME)]
    command_line_at, module_list_at, memory_map_at, name_at = addresses
    data = block.data
    struct.pack_into("<III", data, 0, flags, e820.lower_kib(memory), e820.upper_kib(memory))
    struct.pack_into("<III", data, 16, command_line_at, len(modules), module_list_at)
    struct.pack_into("<II", data, 44, len(memory_map), memory_map_at)
    struct.pack_into("<I", data, 64, name_at)
    if mode is not None:
        data[88 : 88 + 22] = video.framebuffer(mode)
        # GRUB and the kernels that are made with its multiboot.h have the colours at a multiple of four, not at 110.
        data[112:118] = video.colours(mode)
        struct.pack_into("<IH", data, 76, vbe_at, video.mode_number(mode))
        return bytes(data)
    struct.pack_into("<QIIIBB", data, 88, EGA_TEXT, EGA_PITCH, EGA_COLUMNS, EGA_ROWS, EGA_BITS, EGA_TEXT_TYPE)
    return bytes(data)


FORMATS = (
    Format(
        "multiboot", "its header in the first 8 KiB", lambda image: find_header(image) is not None, load, COMMAND_LINE
    ),
)
