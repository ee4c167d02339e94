"""Multiboot 2 kernels for i386.

Source: Multiboot specification 2.0: 3.1 (OS image format), 3.3 (i386 machine state), 3.6 (boot information format);
where the text and GRUB's multiboot2.h differ (ELF sections), the latter, since kernels are written against GRUB.

The image is an ELF file of either class, entered in 32-bit protected mode, or what the address tags describe. The
screen is EGA text, 80 by 25, but for a kernel with a framebuffer tag. There is no EFI here: tags about it say nothing.
"""

from __future__ import annotations

import struct

from ..memory import PAGE_SIZE, GuestMemory
from ..x86.symbols import SymbolTable
from . import EntryState, ImageError, Options, Video, acpi, e820, elf, firmware
from .elf import Program
from .format import COMMAND_LINE, Format
from .layout import Layout, Loaded, c_string, enter_protected, place_modules, write_modules
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

MAGIC = 0xE85250D6
LOADER_MAGIC = 0x36D76289
"""In EAX at the entry."""
SEARCH_LIMIT = 32768
I386 = 0

OPTIONAL = 1 << 0
"""The flag of a header tag that a loader may ignore."""
TAG_END, TAG_INFORMATION_REQUEST, TAG_ADDRESS, TAG_ENTRY, TAG_CONSOLE = 0, 1, 2, 3, 4
TAG_FRAMEBUFFER, TAG_RELOCATABLE = 5, 10
_KNOWN_TAGS = range(11)
"""Beside those above: module alignment, and three about EFI."""
CONSOLE_REQUIRED, CONSOLE_EGA_TEXT = 1 << 0, 1 << 1
LOWEST, HIGHEST = 1, 2
"""Where in its range a relocatable image would like to be."""

INFO_COMMAND_LINE, INFO_LOADER_NAME, INFO_MODULE, INFO_MEMORY, INFO_MEMORY_MAP = 1, 2, 3, 4, 6
INFO_FRAMEBUFFER, INFO_ELF_SECTIONS, INFO_RSDP_V1, INFO_RSDP_V2, INFO_LOAD_BASE = 8, 9, 14, 15, 21

_HEADER = Record("IIII", "magic architecture header_length checksum")
_TAG = Record("HHI", "type flags size")
_CONTENTS = {
    TAG_ADDRESS: Record("IIII", "header_addr load_addr load_end_addr bss_end_addr"),
    TAG_ENTRY: Record("I", "entry_addr"),
    TAG_CONSOLE: Record("I", "console_flags"),
    TAG_FRAMEBUFFER: Record("III", "width height depth"),
    TAG_RELOCATABLE: Record("IIII", "min_addr max_addr align preference"),
}
"""What follows a tag's first 8 bytes."""


def find_header(image: bytes) -> int | None:
    """The file offset of the header: 8-byte aligned, in the first 32768 bytes, with a good checksum."""
    head = image[:SEARCH_LIMIT]
    at = head.find(MAGIC.to_bytes(4, "little"))
    while at >= 0:
        if at % 8 == 0 and at + _HEADER.size <= len(head):
            fields = struct.unpack_from("<IIII", head, at)
            if sum(fields) % (1 << 32) == 0:
                return at
        at = head.find(MAGIC.to_bytes(4, "little"), at + 1)
    return None


def load(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
    """Load a Multiboot 2 kernel with its modules and command line; ImageError if it is malformed or does not fit."""
    at = find_header(image)
    if at is None:
        raise ImageError(f"magic: there is no Multiboot 2 header in the first {SEARCH_LIMIT} bytes of the file")
    tags = _read_tags(image, at)
    layout = Layout(memory)
    sections = symbols = None
    if TAG_ADDRESS in tags:
        if TAG_ENTRY not in tags:
            raise _TAG.error("type", tags[TAG_ADDRESS], "an address tag without an entry address tag")
        program = _flat(image, at, tags)
    else:
        program = elf.read(image)
        if TAG_ENTRY in tags:
            program = program._replace(entry=_entry_address(image, tags[TAG_ENTRY], program))
    if TAG_RELOCATABLE in tags:
        program = _relocate(image, tags[TAG_RELOCATABLE], layout, program)
    program.claim(layout)
    if TAG_ADDRESS not in tags:
        sections = place_sections(image, layout)
        symbols = SymbolTable(image, program.bias)
    modules = place_modules(layout, options.modules)
    mode = None
    if TAG_FRAMEBUFFER in tags:
        from . import video

        mode = video.choose(*_contents(image, tags[TAG_FRAMEBUFFER], TAG_FRAMEBUFFER).values())
    information = _information(memory, options, modules, sections, mode)
    if TAG_RELOCATABLE in tags:
        information += _info(INFO_LOAD_BASE, struct.pack("<I", _extent(program)[0]))
    information = _complete(information)
    base = layout.place(len(information), "Multiboot information")
    registers, system = enter_protected(layout, program.entry)
    registers.rax, registers.rbx = LOADER_MAGIC, base
    program.write(image, memory)
    write_modules(layout, modules)
    if sections is not None:
        sections.write(image, memory)
    memory.write(base, information)
    return EntryState(registers, system, "multiboot2", symbols, layout.reserved, program.spans, mode)


# The kernel's header


def _read_tags(image: bytes, at: int) -> dict[int, int]:
    """The file offset of each kind of tag in the header at `at`, every tag checked for what it requires."""
    header = _HEADER.read(image, at)
    if header["architecture"] != I386:
        raise _HEADER.error("architecture", at, f"{header['architecture']} is not {I386} (i386)")
    end = at + header["header_length"]
    if end > min(len(image), SEARCH_LIMIT):
        raise _HEADER.error(
            "header_length",
            at,
            f"{header['header_length']:#x} goes past the file's end or its first {SEARCH_LIMIT} bytes",
        )
    tags: dict[int, int] = {}
    tag_at = at + _HEADER.size
    while tag_at + _TAG.size <= end:
        tag = _TAG.read(image, tag_at)
        kind, size = tag["type"], tag["size"]
        if kind == TAG_END:
            return tags
        contents = _CONTENTS.get(kind)
        least = _TAG.size + (contents.size if contents else 0)
        if not least <= size <= end - tag_at:
            raise _TAG.error(
                "size", tag_at, f"{size} bytes for a tag of type {kind}, which has {least} to {end - tag_at}"
            )
        if not tag["flags"] & OPTIONAL:
            _check_required(image, tag_at, kind, size)
        tags.setdefault(kind, tag_at)
        tag_at += -(-size // 8) * 8
    raise _HEADER.error(
        "header_length", at, f"the header ends at {end:#x} without a tag of type 0, which ends the tags"
    )


def _check_required(image: bytes, at: int, kind: int, size: int) -> None:
    if kind not in _KNOWN_TAGS:
        raise _TAG.error("type", at, f"the kernel requires a tag of type {kind}, which Multiboot 2.0 does not define")
    if kind == TAG_INFORMATION_REQUEST:
        # Whoever requests a type must be refused if the loader does not know it; it need not be there.
        for type_at in range(at + _TAG.size, at + size - 3, 4):
            (wanted,) = struct.unpack_from("<I", image, type_at)
            if wanted > INFO_LOAD_BASE:
                raise ImageError(
                    f"mbi_tag_types (file offset {type_at:#x}): the kernel requires information of type {wanted}, "
                    "which Multiboot 2.0 does not define"
                )
    if kind == TAG_CONSOLE:
        flags = _contents(image, at, TAG_CONSOLE)["console_flags"]
        if flags & CONSOLE_REQUIRED and not flags & CONSOLE_EGA_TEXT:
            raise _CONTENTS[TAG_CONSOLE].error(
                "console_flags", at + _TAG.size, f"{flags:#x} requires a console, but not EGA text, the only one here"
            )


def _contents(image: bytes, at: int, kind: int) -> dict[str, int]:
    return _CONTENTS[kind].read(image, at + _TAG.size)


def _flat(image: bytes, header_at: int, tags: dict[int, int]) -> Program:
    entry_at = tags[TAG_ENTRY]
    entry = _contents(image, entry_at, TAG_ENTRY)["entry_addr"]
    return flat_program(
        image,
        _CONTENTS[TAG_ADDRESS],
        tags[TAG_ADDRESS] + _TAG.size,
        header_at,
        entry,
        (_CONTENTS[TAG_ENTRY], entry_at + _TAG.size),
    )


def _entry_address(image: bytes, at: int, program: Program) -> int:
    """The physical entry address that stands in the tag at `at`, instead of the ELF header's."""
    address = _contents(image, at, TAG_ENTRY)["entry_addr"]
    entry = address + program.bias
    if not any(segment.paddr <= entry < segment.paddr + segment.memsz for segment in program.segments):
        raise _CONTENTS[TAG_ENTRY].error("entry_addr", at + _TAG.size, f"{address:#x} is in no segment that is loaded")
    return entry


def _extent(program: Program) -> tuple[int, int]:
    """The first address of the program in memory, and the first one behind it."""
    segments = program.segments
    return min(segment.paddr for segment in segments), max(segment.paddr + segment.memsz for segment in segments)


def _relocate(image: bytes, at: int, layout: Layout, program: Program) -> Program:
    """Move the program as a whole to where the relocatable tag at `at` allows it; nothing is claimed yet."""
    wish = _contents(image, at, TAG_RELOCATABLE)
    lowest, highest, align, preference = (wish[name] for name in ("min_addr", "max_addr", "align", "preference"))
    if align & align - 1:
        raise _CONTENTS[TAG_RELOCATABLE].error("align", at + _TAG.size, f"{align:#x} is no power of two")
    first, end = _extent(program)
    align = max(align, PAGE_SIZE)
    stays = lowest <= first and end - 1 <= highest and first % align == 0 and end <= layout.memory.regions[0].size
    if stays and preference not in (LOWEST, HIGHEST):
        return program
    high = preference == HIGHEST
    # Whole pages are looked for, so the image keeps its place within its first page.
    target = layout.find(
        end - first, "the relocatable image", above=lowest, below=highest + 1, align=align, high=high,
        bound="min_addr and max_addr of its relocatable tag",
    )  # fmt: skip
    return program.moved(target - first)


# The information for the kernel


def _info(kind: int, contents: bytes) -> bytes:
    """An information tag, padded so that the next one is aligned."""
    size = 8 + len(contents)
    return struct.pack("<II", kind, size) + contents + bytes(-size % 8)


def _complete(tags: bytes) -> bytes:
    """The whole structure: its size, a reserved word, the tags and the one that ends them."""
    tags += _info(0, b"")
    return struct.pack("<II", 8 + len(tags), 0) + tags


def _information(
    memory: GuestMemory, options: Options, modules: list[Loaded], sections: Sections | None, mode: Video | None
) -> bytes:
    tags = [
        _info(INFO_COMMAND_LINE, c_string(options.command_line, "command line")),
        _info(INFO_LOADER_NAME, LOADER_NAME),
    ]
    for module in modules:
        place = struct.pack("<II", module.gpa, module.gpa + len(module.data))
        tags.append(_info(INFO_MODULE, place + module.command_line))
    tags.append(_info(INFO_MEMORY, struct.pack("<II", e820.lower_kib(memory), e820.upper_kib(memory))))
    areas = b"".join(struct.pack("<QQI4x", *area) for area in e820.memory_map(memory))
    tags.append(_info(INFO_MEMORY_MAP, struct.pack("<II", 24, 0) + areas))
    screen = struct.pack("<QIIIBBxx", EGA_TEXT, EGA_PITCH, EGA_COLUMNS, EGA_ROWS, EGA_BITS, EGA_TEXT_TYPE)
    if mode is not None:
        from . import video

        screen = video.framebuffer(mode) + bytes(2) + video.colours(mode)
    tags.append(_info(INFO_FRAMEBUFFER, screen))
    if sections is not None:
        head = struct.pack("<III", sections.number, sections.entry_size, sections.names)
        tags.append(_info(INFO_ELF_SECTIONS, head + sections.table))
    if firmware.rsdp(memory):
        rsdp = acpi.tables(firmware.RSDP, options.cpus)[: acpi.RSDP_SIZE]
        tags.append(_info(INFO_RSDP_V1, rsdp[: acpi.RSDP_V1_SIZE]))
        tags.append(_info(INFO_RSDP_V2, rsdp))
    return b"".join(tags)


FORMATS = (
    Format(
        "multiboot2", "its header in the first 32 KiB", lambda image: find_header(image) is not None, load, COMMAND_LINE
    ),
)
