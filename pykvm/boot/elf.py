"""ELF executables: 32-bit ones for i386 are entered in protected mode, 64-bit ones for x86-64 in long mode.

Source: System V ABI (gABI), chapters 4 and 5: object files, program loading.

Only the ELF header, the program headers and, in a position-independent file, the relocations are read; sections and
p_align do not matter here. A segment goes to its physical address (p_paddr). The entry point may be a virtual address
in a segment, as in a kernel linked to the upper half, or a physical one, as in Linux's vmlinux. A position-independent
executable goes to where it is linked, or to 1 MiB if that is page 0, which belongs to the interrupt vectors.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..memory import PAGE_SIZE, GuestMemory
from ..typed import NamedTuple
from ..x86.symbols import SymbolTable
from . import EntryState, ImageError, Options, Span
from .format import Format
from .layout import Layout, enter_long, enter_protected
from .record import Record
from .relocate import Segment, relocations

MAX_PROGRAM_HEADERS = 64
"""More than any linker makes of a kernel."""
MAX_NOTES = 256
"""Notes of one segment that are looked at; Linux has about 20."""

PIE_BASE = 1 << 20

ET_EXEC, ET_DYN = 2, 3
EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4

_NT_GNU_ABI_TAG, _GNU_LINUX = 1, 0
"""The note of a program for an operating system, and which one it names (Linux Standard Base, core, "ABI note tag")."""

_MULTIBOOT = (b"\x02\xb0\xad\x1b", b"\xd6\x50\x52\xe8")
"""The magic numbers of Multiboot 1 and 2, without one of which there is no header to look at."""

_TYPES = {0: "no type", 1: "an object file that still has to be linked", 4: "a core dump"}
_MACHINES = {EM_386: "i386", EM_X86_64: "x86-64", 8: "MIPS", 20: "PowerPC", 40: "ARM", 183: "AArch64", 243: "RISC-V"}


class _Class(NamedTuple):
    """What differs between the two ELF classes."""

    bits: int
    machine: int
    header: Record
    """From e_type, which follows the 16 bytes of e_ident, to e_phnum."""
    program_header: Record


_HEADER_NAMES = "e_type e_machine e_version e_entry e_phoff e_shoff e_flags e_ehsize e_phentsize e_phnum"
_IDENT_SIZE = 16

_CLASSES = {
    1: _Class(
        32,
        EM_386,
        Record("HHIIIIIHHH", _HEADER_NAMES),
        Record("IIIIIIII", "p_type p_offset p_vaddr p_paddr p_filesz p_memsz p_flags p_align"),
    ),
    2: _Class(
        64,
        EM_X86_64,
        Record("HHIQQQIHHH", _HEADER_NAMES),
        Record("IIQQQQQQ", "p_type p_flags p_offset p_vaddr p_paddr p_filesz p_memsz p_align"),
    ),
}


class Program(NamedTuple):
    """An ELF executable that has been checked as far as that is possible without knowing RAM."""

    bits: int
    entry: int
    """Physical."""
    segments: list[Segment]
    """Those that occupy memory."""
    fixups: list[tuple[int, bytes]]
    bias: int

    @property
    def spans(self) -> list[Span]:
        return [Span(segment.vaddr, segment.paddr, segment.memsz) for segment in self.segments]

    def moved(self, distance: int) -> Program:
        """The same program `distance` bytes further up, virtual addresses included: it must be position-independent."""
        segments = [
            segment._replace(vaddr=segment.vaddr + distance, paddr=segment.paddr + distance)
            for segment in self.segments
        ]
        fixups = [(gpa + distance, data) for gpa, data in self.fixups]
        return Program(self.bits, self.entry + distance, segments, fixups, self.bias + distance)

    def claim(self, layout: Layout) -> None:
        """Take the segments' memory; ImageError if one is outside RAM or overlaps another."""
        for segment in self.segments:
            layout.claim(segment.paddr, segment.memsz, segment.name)

    def write(self, image: bytes, memory: GuestMemory) -> None:
        """Put the segments into memory that was claimed. What follows a segment's part of the file (.bss) is zeroed."""
        with memoryview(image) as view:
            for segment in self.segments:
                memory.write(segment.paddr, view[segment.offset : segment.offset + segment.filesz])
                memory.zero(segment.paddr + segment.filesz, segment.memsz - segment.filesz)
        for gpa, data in self.fixups:
            memory.write(gpa, data)


def load(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
    """Load an ELF executable; `options` are for other formats. ImageError if it is malformed or does not fit into RAM.

    A mapped `image` must stay open for as long as the symbols are to be had: they are read at their first use.
    """
    program = read(image)
    layout = Layout(memory)
    program.claim(layout)
    registers, system = (enter_protected if program.bits == 32 else enter_long)(layout, program.entry)
    program.write(image, memory)
    symbols = SymbolTable(image, program.bias)
    return EntryState(registers, system, f"elf{program.bits}", symbols, layout.reserved, program.spans)


def read(image: bytes) -> Program:
    """Read and check everything that loading needs. ImageError names the first field that is wrong."""
    kind, header = _open(image)
    machine, file_type = header["e_machine"], header["e_type"]
    if machine != kind.machine:
        raise kind.header.error(
            "e_machine",
            _IDENT_SIZE,
            f"a {kind.bits}-bit file for {_MACHINES.get(machine, f'machine {machine}')}, where only "
            f"{_MACHINES[kind.machine]} can be run",
        )
    if file_type not in (ET_EXEC, ET_DYN):
        what = _TYPES.get(file_type, f"type {file_type:#x}")
        raise kind.header.error("e_type", _IDENT_SIZE, f"not an executable but {what}")
    segments = _segments(image, kind, header)
    loadable = [segment for segment in segments if segment.kind == PT_LOAD and segment.memsz]
    dynamic = [segment for segment in segments if segment.kind == PT_DYNAMIC]
    if not loadable:
        raise ImageError("no program header is a PT_LOAD with a size: there is nothing to load")
    if len(dynamic) > 1:
        raise ImageError(f"{dynamic[1].name}: a second PT_DYNAMIC, where only one is allowed")
    bias = 0
    if file_type == ET_DYN and min(segment.paddr for segment in loadable) < PAGE_SIZE:
        bias = PIE_BASE
        loadable = [segment._replace(vaddr=segment.vaddr + bias, paddr=segment.paddr + bias) for segment in loadable]
    entry = _physical(header["e_entry"] + bias, loadable)
    if entry is None:
        raise kind.header.error("e_entry", _IDENT_SIZE, f"{header['e_entry']:#x} is in no segment that is loaded")
    fixups = relocations(image, kind.bits, dynamic[0], loadable, bias) if dynamic else []
    return Program(kind.bits, entry, loadable, fixups, bias)


def _open(image: bytes) -> tuple[_Class, dict[str, int]]:
    """The file's class and its header, of which only e_ident is checked."""
    if len(image) < 6 or image[:4] != b"\x7fELF":
        raise ImageError("e_ident (file offset 0x0): this is no ELF file")
    kind = _CLASSES.get(image[4])
    if kind is None:
        raise ImageError(f"EI_CLASS (file offset 0x4): {image[4]} is neither 1 (32 bits) nor 2 (64 bits)")
    if image[5] != 1:
        raise ImageError(f"EI_DATA (file offset 0x5): {image[5]} is not 1 (little-endian)")
    if len(image) < _IDENT_SIZE + kind.header.size:
        raise ImageError(f"the file ends at {len(image):#x}, within the ELF header")
    return kind, kind.header.read(image, _IDENT_SIZE)


def _segments(image: bytes, kind: _Class, header: dict[str, int]) -> list[Segment]:
    """The program headers, each wholly in the file and with its part of the file wholly in the file."""
    record = kind.program_header
    segments = []
    for number, (at, fields) in enumerate(_program_headers(image, kind, header)):
        name = f"program header {number} (file offset {at:#x})"
        offset, filesz, memsz = fields["p_offset"], fields["p_filesz"], fields["p_memsz"]
        if fields["p_type"] == PT_INTERP:
            raise record.error("p_type", at, "the program wants a dynamic loader: link it with -static or -no-pie")
        if fields["p_type"] not in (PT_LOAD, PT_DYNAMIC):
            continue
        if offset + filesz > len(image):
            field = "p_offset" if offset > len(image) else "p_filesz"
            raise record.error(field, at, f"{filesz:#x} bytes at {offset:#x} go past the file's end at {len(image):#x}")
        if filesz > memsz:
            raise record.error("p_filesz", at, f"{filesz:#x} is more than p_memsz, {memsz:#x}")
        segments.append(Segment(name, fields["p_type"], offset, fields["p_vaddr"], fields["p_paddr"], filesz, memsz))
    return segments


def _program_headers(image: bytes, kind: _Class, header: dict[str, int]) -> Iterator[tuple[int, dict[str, int]]]:
    """The file offset and the fields of each program header, after a check that all are in the file."""
    record = kind.program_header
    count, table = header["e_phnum"], header["e_phoff"]
    if count == 0:
        raise kind.header.error("e_phnum", _IDENT_SIZE, "there are no program headers: the file cannot be loaded")
    if count > MAX_PROGRAM_HEADERS:
        raise kind.header.error(
            "e_phnum", _IDENT_SIZE, f"{count} program headers are more than the limit of {MAX_PROGRAM_HEADERS}"
        )
    if header["e_phentsize"] != record.size:
        raise kind.header.error("e_phentsize", _IDENT_SIZE, f"{header['e_phentsize']} is not {record.size}")
    if table + count * record.size > len(image):
        raise kind.header.error(
            "e_phoff",
            _IDENT_SIZE,
            f"{count} program headers at {table:#x} go past the end of the file at {len(image):#x}",
        )
    for at in range(table, table + count * record.size, record.size):
        yield at, record.read(image, at)


def _physical(address: int, segments: list[Segment]) -> int | None:
    """Where an address of the program is in guest memory: as a virtual address, else taken as a physical one."""
    for segment in segments:
        if segment.vaddr <= address < segment.vaddr + segment.memsz:
            return address - segment.vaddr + segment.paddr
    if any(segment.paddr <= address < segment.paddr + segment.memsz for segment in segments):
        return address
    return None


class Note(NamedTuple):
    """The file offset and the size of a note's description, which is its payload."""

    offset: int
    size: int


def find_note(image: bytes, name: bytes, note_type: int | None = None) -> Note | None:
    """The first note with this name (without its NUL) and type, or any type; None if there is none or this is no ELF.

    A note segment that is malformed ends with its last good note, since nothing else depends on it.
    """
    try:
        kind, header = _open(image)
        headers = [fields for _, fields in _program_headers(image, kind, header) if fields["p_type"] == PT_NOTE]
    except ImageError:
        return None
    wanted = name + b"\0"
    for fields in headers:
        # Notes are padded to 4 bytes (gABI, chapter 5); files that pad them to 8 say so in p_align.
        align = 8 if fields["p_align"] == 8 else 4
        at, end = fields["p_offset"], min(fields["p_offset"] + fields["p_filesz"], len(image))
        for _ in range(MAX_NOTES):
            if at + 12 > end:
                break
            name_size, size, found_type = struct.unpack_from("<III", image, at)
            description = at + -(-(12 + name_size) // align) * align
            if description + size > end:
                break
            found_name = image[at + 12 : at + 12 + min(name_size, len(wanted))]
            if name_size == len(wanted) and found_name == wanted and note_type in (None, found_type):
                return Note(description, size)
            at = description + -(-size // align) * align
    return None


def _doubt(image: bytes, file_name: str | None) -> str | None:
    """A program that wants Linux under it, or a library; or a header of Multiboot that does not count."""
    tag = find_note(image, b"GNU", _NT_GNU_ABI_TAG) if b"GNU\0" in image else None
    if tag is not None and image[tag.offset : tag.offset + min(tag.size, 4)] == bytes([_GNU_LINUX] * 4):
        return "it is a program for Linux, not a kernel (its note NT_GNU_ABI_TAG says so): link without the C library"
    try:
        kind, header = _open(image)
        parts = [fields for _, fields in _program_headers(image, kind, header) if fields["p_type"] == PT_LOAD]
    except ImageError:
        return None  # the loader explains
    if any(part["p_offset"] == 0 and part["p_vaddr"] == header["e_entry"] for part in parts):
        return "it has no entry point, where the ELF header itself is: link an executable, and no shared library"
    if not any(magic in image for magic in _MULTIBOOT):
        return None
    from .misplaced import misplaced_header

    return misplaced_header(image)


FORMATS = (
    Format("elf32", "an ELF file of that class", lambda image: image[:5] == b"\x7fELF\x01", load, doubt=_doubt),
    Format("elf64", "an ELF file of that class", lambda image: image[:4] == b"\x7fELF", load, doubt=_doubt),
)
