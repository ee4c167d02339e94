"""ELF loading against files that the tests write, good and wrong in one field.

The offsets of fields are those of the gABI, figures 4-3 (ELF header) and 5-1 (program header).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from elf_writer import PT_DYNAMIC, PT_INTERP, Name, Part, elf, patch

from pykvm.boot import ImageError, Options
from pykvm.boot.elf import load
from pykvm.memory import GuestMemory
from pykvm.x86 import paging
from pykvm.x86.mode import cpu_mode

MIB = 1 << 20
CODE = b"\x90" * 15 + b"\xf4"


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory("4M")
    yield ram
    ram.close()


@dataclass
class Offsets:
    """File offsets of header fields, and the size of an address."""

    bits: int
    entry: int
    phoff: int
    phentsize: int
    phnum: int
    first: int
    p_offset: int
    p_paddr: int
    p_filesz: int
    p_memsz: int
    word: int


OFFSETS = [
    Offsets(32, 0x18, 0x1C, 0x2A, 0x2C, 0x34, 0x38, 0x40, 0x44, 0x48, 4),
    Offsets(64, 0x18, 0x20, 0x36, 0x38, 0x40, 0x48, 0x58, 0x60, 0x68, 8),
]
both = pytest.mark.parametrize("at", OFFSETS, ids=["elf32", "elf64"])
bits_32_64 = pytest.mark.parametrize("bits", [32, 64])


@bits_32_64
def test_segments_are_loaded_and_bss_is_zeroed(memory: GuestMemory, bits: int) -> None:
    memory.write(MIB, b"\xff" * 0x4000)  # what a previous run of the guest left
    image = elf([Part(MIB, CODE), Part(MIB + 0x1800, b"data", memsz=0x2000)], MIB + 4, bits=bits)
    state = load(image, memory, Options())
    assert memory.read(MIB, 17) == CODE + b"\xff"
    assert memory.read(MIB + 0x1800, 0x2001) == b"data" + bytes(0x1FFC) + b"\xff"
    assert state.registers.rip == MIB + 4
    assert state.format == f"elf{bits}"
    assert cpu_mode(state.system, state.registers.rflags).bits == bits


@bits_32_64
def test_reserved_memory_is_beside_the_segments(memory: GuestMemory, bits: int) -> None:
    state = load(elf([Part(0x10000, CODE, memsz=0x1234), Part(MIB, CODE)], MIB, bits=bits), memory, Options())
    assert memory.read(0x10000, 16) == CODE
    assert state.reserved[0] == (0x12000, 0x4000)  # the stack, on the first free page
    assert state.registers.rsp == 0x16000
    assert state.system.gdt.base == 0x16000
    if bits == 64:
        assert paging.translate(memory.read, state.system, MIB) == MIB


def test_higher_half_kernel_is_entered_at_its_physical_address(memory: GuestMemory) -> None:
    base = 0xFFFF_FFFF_8000_0000
    image = elf([Part(base + MIB, CODE, paddr=MIB)], base + MIB + 8)
    state = load(image, memory, Options())
    assert state.registers.rip == MIB + 8
    assert memory.read(MIB, 16) == CODE


def test_entry_may_be_physical_as_in_vmlinux(memory: GuestMemory) -> None:
    image = elf([Part(0xFFFF_FFFF_8100_0000, CODE, paddr=MIB)], MIB + 8)
    assert load(image, memory, Options()).registers.rip == MIB + 8


def test_symbols_come_with_the_image(memory: GuestMemory) -> None:
    image = elf([Part(MIB, CODE)], MIB, names=[Name("_start", MIB, 16)])
    symbols = load(image, memory, Options()).symbols
    assert symbols is not None
    assert symbols.lookup(MIB + 3) == ("_start", 3)


def test_huge_bss_commits_nothing() -> None:
    ram = GuestMemory("2G")
    image = elf([Part(MIB + 0x123, CODE, memsz=1 << 30)], MIB + 0x123)
    load(image, ram, Options())
    assert ram.committed() < MIB
    ram.write(MIB + 0x10000, b"x")
    load(image, ram, Options())  # a reboot
    assert ram.read(MIB + 0x10000, 1) == b"\0"
    assert ram.committed() < MIB
    ram.close()


@pytest.mark.parametrize(
    ("start", "size"), [(0, 0), (5, 1), (0, 4096), (1, 4096), (4095, 2), (100, 9000), (4096, 8192)]
)
def test_zero_clears_exactly_its_range(start: int, size: int) -> None:
    ram = GuestMemory("32K")
    ram.write(0, b"\xff" * 0x8000)
    ram.zero(0x1000 + start, size)
    expected = b"\xff" * (0x1000 + start) + bytes(size)
    assert ram.read(0, 0x8000) == expected.ljust(0x8000, b"\xff")
    ram.close()


def test_segment_without_memory_is_skipped(memory: GuestMemory) -> None:
    load(elf([Part(MIB, CODE), Part(0xDEAD0000, b"")], MIB), memory, Options())


def test_other_program_headers_are_not_looked_at(memory: GuestMemory) -> None:
    nonsense = Part(1 << 63, b"", memsz=1 << 63, type=0x6474E551)
    load(elf([Part(MIB, CODE), nonsense], MIB), memory, Options())


def _refused(memory: GuestMemory, image: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(image, memory, Options())
    assert memory.committed() == 0, "an image that is refused leaves RAM alone"


@both
def test_each_wrong_field_is_named_with_its_offset(memory: GuestMemory, at: Offsets) -> None:
    image = elf([Part(MIB, CODE, memsz=32), Part(2 * MIB, CODE)], MIB, bits=at.bits)
    top = (1 << 8 * at.word) - 1
    for offset, size, value, message in (
        (0x00, 1, 0, r"e_ident \(file offset 0x0\)"),
        (0x04, 1, 3, r"EI_CLASS \(file offset 0x4\): 3 is neither"),
        (0x05, 1, 2, r"EI_DATA \(file offset 0x5\): 2 is not 1"),
        (0x10, 2, 1, r"e_type \(file offset 0x10\): not an executable but an object file"),
        (0x10, 2, 4, r"e_type .* a core dump"),
        (0x10, 2, 0xFFFF, r"e_type .* type 0xffff"),
        (0x12, 2, 183, r"e_machine \(file offset 0x12\): .* for AArch64"),
        (0x12, 2, 0x1234, r"e_machine .* for machine 4660"),
        (at.entry, at.word, MIB - 1, rf"e_entry \(file offset {at.entry:#x}\): 0xfffff is in no segment"),
        (at.entry, at.word, MIB + 32, r"e_entry .* is in no segment"),
        (at.phoff, at.word, len(image), rf"e_phoff \(file offset {at.phoff:#x}\): .* past the end of the file"),
        (at.phoff, at.word, top, "e_phoff .* past the end of the file"),
        (at.phentsize, 2, 1, rf"e_phentsize \(file offset {at.phentsize:#x}\): 1 is not"),
        (at.phnum, 2, 0, rf"e_phnum \(file offset {at.phnum:#x}\): there are no program headers"),
        (at.phnum, 2, 0xFFFF, "e_phnum .* more than the limit"),
        (at.p_offset, at.word, len(image) + 1, rf"p_offset \(file offset {at.p_offset:#x}\)"),
        (at.p_offset, at.word, top, "p_offset"),
        (at.p_filesz, at.word, len(image), rf"p_filesz \(file offset {at.p_filesz:#x}\): .* past the file's end"),
        (at.p_filesz, at.word, 33, r"p_filesz .*: 0x21 is more than p_memsz, 0x20"),
        (at.p_memsz, at.word, 8, "p_filesz .*: 0x10 is more than p_memsz, 0x8"),
        (at.p_memsz, at.word, top, rf"program header 0 \(file offset {at.first:#x}\): .* is not in RAM"),
        (at.p_paddr, at.word, 4 * MIB - 31, "program header 0 .* is not in RAM"),
        (at.p_paddr, at.word, top, "program header 0 .* is not in RAM"),
        (at.p_paddr, at.word, 2 * MIB - 31, r"program header 1 .* overlaps program header 0"),
    ):
        _refused(memory, patch(image, offset, size, value), message)


@both
def test_file_cut_anywhere_is_refused(memory: GuestMemory, at: Offsets) -> None:
    image = elf([Part(MIB, CODE)], MIB, bits=at.bits)
    end_of_code = at.first + (32 if at.bits == 32 else 56) + len(CODE)
    for size in range(end_of_code):
        with pytest.raises(ImageError, match=r"ELF|file"):
            load(image[:size], memory, Options())
    load(image[:end_of_code], memory, Options())


def test_64_bit_code_in_a_32_bit_file_is_explained(memory: GuestMemory) -> None:
    image = elf([Part(MIB, CODE)], MIB, bits=32, machine=62)
    _refused(memory, image, "a 32-bit file for x86-64, where only i386 can be run")


def test_nothing_to_load(memory: GuestMemory) -> None:
    _refused(memory, elf([Part(MIB, b"")], MIB), "nothing to load")
    _refused(memory, elf([Part(MIB, CODE, type=6)], MIB), "nothing to load")


def test_second_dynamic_section(memory: GuestMemory) -> None:
    dynamic = Part(MIB, CODE, type=PT_DYNAMIC)
    _refused(memory, elf([Part(MIB, CODE), dynamic, dynamic], MIB), "program header 2 .* second PT_DYNAMIC")


def test_dynamically_linked_program_is_explained(memory: GuestMemory) -> None:
    image = elf([Part(0, CODE), Part(0x1000, b"/lib/ld.so\0", type=PT_INTERP)], 0, file_type=3)
    _refused(memory, image, "p_type .* dynamic loader: link it with -static")


def test_ram_that_is_too_small_for_the_page_tables() -> None:
    ram = GuestMemory("24K")
    with pytest.raises(ImageError, match="no room for 24 KiB of page tables"):
        load(elf([Part(0, CODE)], 0), ram, Options())
    ram.close()


# Position-independent executables


def test_pie_without_relocations_moves_from_page_0_to_1_mib(memory: GuestMemory) -> None:
    image = elf([Part(0, CODE), Part(0x1000, b"data")], 4, file_type=3, names=[Name("_start", 4, 4)])
    state = load(image, memory, Options())
    assert memory.read(MIB, 16) == CODE
    assert memory.read(MIB + 0x1000, 4) == b"data"
    assert state.registers.rip == MIB + 4
    assert state.symbols is not None
    assert state.symbols.address("_start") == MIB + 4


def test_pie_with_an_address_of_its_own_stays_there(memory: GuestMemory) -> None:
    assert load(elf([Part(2 * MIB, CODE)], 2 * MIB, file_type=3), memory, Options()).registers.rip == 2 * MIB


def pie(relocations: bytes, tags: list[tuple[int, int]], bits: int = 64) -> bytes:
    """Code at 0, data at 0x1000 (with -2 in its first word), relocations at 0x2000, the dynamic section at 0x3000."""
    word = "<QQ" if bits == 64 else "<II"
    dynamic = b"".join(struct.pack(word, *tag) for tag in [*tags, (0, 0)])
    data = b"\xfe" + b"\xff" * (bits // 8 - 1) + bytes(24)
    parts = [Part(0, CODE), Part(0x1000, data), Part(0x2000, relocations), Part(0x3000, dynamic)]
    return elf([*parts, Part(0x3000, dynamic, type=PT_DYNAMIC)], 0, bits=bits, file_type=3)


DT_RELA, DT_RELASZ, DT_REL, DT_RELSZ, DT_RELRSZ, DT_PLTRELSZ = 7, 8, 17, 18, 35, 2


def test_rela_relocations_are_the_load_address_plus_their_addend(memory: GuestMemory) -> None:
    table = struct.pack("<QQq", 0x1000, 8, 0x1234) + struct.pack("<QQq", 0x1010, 8, -MIB - 1) + bytes(24)
    load(pie(table, [(DT_RELA, 0x2000), (DT_RELASZ, len(table))]), memory, Options())
    assert memory.read_int(MIB + 0x1000, 8) == MIB + 0x1234
    assert memory.read_int(MIB + 0x1008, 8) == 0
    assert memory.read_int(MIB + 0x1010, 8) == (1 << 64) - 1


def test_rel_relocations_add_the_load_address_in_place(memory: GuestMemory) -> None:
    table = struct.pack("<II", 0x1000, 8) + struct.pack("<II", 0x1008, 8)
    load(pie(table, [(DT_REL, 0x2000), (DT_RELSZ, len(table))], bits=32), memory, Options())
    assert memory.read_int(MIB + 0x1000, 4) == MIB - 2
    assert memory.read_int(MIB + 0x1004, 4) == 0
    assert memory.read_int(MIB + 0x1008, 4) == MIB


@pytest.mark.parametrize(
    ("table", "tags", "message"),
    [
        (struct.pack("<QQq", 0x1000, 6, 0), [(DT_RELA, 0x2000), (DT_RELASZ, 24)], "type 6 is not relative"),
        (struct.pack("<QQq", 0x9000, 8, 0), [(DT_RELA, 0x2000), (DT_RELASZ, 24)], "0x9000 is in no segment"),
        (struct.pack("<QQq", 0xFFF, 8, 0), [(DT_RELA, 0x2000), (DT_RELASZ, 24)], "0xfff is in no segment"),
        (struct.pack("<QQq", 0x1019, 8, 0), [(DT_RELA, 0x2000), (DT_RELASZ, 24)], "0x1019 is in no segment"),
        (bytes(24), [(DT_RELA, 0x2000), (DT_RELASZ, 48)], "not loaded"),
        (bytes(24), [(DT_RELA, 1 << 63), (DT_RELASZ, 24)], "not loaded"),
        (bytes(24), [(DT_RELASZ, 1 << 63)], "more than the limit"),
        (bytes(24), [(DT_RELRSZ, 8)], "DT_RELRSZ .* link with -no-pie"),
        (bytes(24), [(DT_PLTRELSZ, 24)], "DT_PLTRELSZ .* link with -no-pie"),
    ],
)
def test_relocations_that_cannot_be_done(
    memory: GuestMemory, table: bytes, tags: list[tuple[int, int]], message: str
) -> None:
    _refused(memory, pie(table, tags), message)


def test_a_program_that_needs_a_shared_library(memory: GuestMemory) -> None:
    with pytest.raises(ImageError, match=r"needs a shared library \(DT_NEEDED\): link with -static"):
        load(pie(b"", [(1, 0)]), memory, Options())


@pytest.mark.parametrize("ends", [True, False])
def test_the_dynamic_section_ends_within_its_limit(memory: GuestMemory, ends: bool) -> None:
    tags = [(0x15, 0)] * (255 if ends else 256) + [(0, 0)] * 300
    if ends:
        load(pie(b"", tags), memory, Options())
        return
    with pytest.raises(ImageError, match="more dynamic entries than the limit of 256, and no DT_NULL among them"):
        load(pie(b"", tags), memory, Options())
