"""PVH: the note in all its shapes, and the start information as Xen's public header lays it out."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from elf_writer import Part, elf, patch

from pykvm.boot import ImageError, Module, Options, firmware
from pykvm.boot.detect import load, recognise
from pykvm.boot.elf import find_note
from pykvm.memory import GuestMemory
from pykvm.x86.mode import cpu_mode

MIB = 1 << 20
PT_NOTE = 4
CODE = b"\x90" * 15 + b"\xf4"


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory("4M")
    yield ram
    ram.close()


def note(name: bytes, kind: int, description: bytes, align: int = 4) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % align)

    head = struct.pack("<III", len(name), len(description), kind) + name
    return padded(head) + padded(description)


ENTRY = note(b"Xen\0", 18, struct.pack("<I", MIB + 4))


def kernel(notes: bytes = ENTRY, bits: int = 64) -> bytes:
    return elf([Part(MIB, CODE, memsz=0x1000), Part(0, notes, type=PT_NOTE)], MIB, bits=bits)


@pytest.mark.parametrize("bits", [32, 64])
def test_kernel_is_entered_by_its_note_in_protected_mode(memory: GuestMemory, bits: int) -> None:
    image = kernel(bits=bits)
    assert recognise(image) == "pvh"
    state = load(image, memory, Options())
    assert state.format == "pvh"
    assert state.registers.rip == MIB + 4
    assert cpu_mode(state.system, state.registers.rflags).bits == 32
    # docs/misc/pvh: CR0 has PE alone (and ET, which cannot be cleared), CR4 is 0, EFLAGS has no VM, IF, TF.
    assert (state.system.cr0, state.system.cr4) == (0x11, 0)
    assert state.registers.rflags == 2
    for segment in (state.system.cs, state.system.ds, state.system.es, state.system.ss):
        assert (segment.base, segment.limit) == (0, 0xFFFFFFFF)
    assert (state.system.tr.base, state.system.tr.limit, state.system.tr.type) == (0, 0x67, 11)


def test_start_information(memory: GuestMemory) -> None:
    options = Options(command_line="console=ttyS0", modules=[Module(b"initrd" * 1000, "text"), Module(b"2")], cpus=3)
    info = load(kernel(), memory, options).registers.rbx
    magic, version, flags, count, modules, command_line, rsdp, areas, area_count = struct.unpack(
        "<IIIIQQQQI", memory.read(info, 52)
    )
    assert (magic, version, flags, count) == (0x336EC578, 1, 0, 2)
    assert memory.read(command_line, 14) == b"console=ttyS0\0"
    assert rsdp == firmware.RSDP
    assert memory.read(rsdp, 8) == b"RSD PTR "
    (at_1, size_1, text_1, _), (at_2, size_2, text_2, _) = (
        struct.unpack("<QQQQ", memory.read(modules + at, 32)) for at in (0, 32)
    )
    assert (memory.read(at_1, size_1), memory.read(at_2, size_2)) == (b"initrd" * 1000, b"2")
    assert (memory.read(text_1, 5), memory.read(text_2, 1)) == (b"text\0", b"\0")
    entries = [struct.unpack("<QQII", memory.read(areas + 24 * number, 24)) for number in range(area_count)]
    assert (entries[0], entries[-1]) == ((0, 0x9FC00, 1, 0), (MIB, 3 * MIB, 1, 0))


def test_no_modules_no_list(memory: GuestMemory) -> None:
    info = load(kernel(), memory, Options()).registers.rbx
    assert struct.unpack("<IQ", memory.read(info + 12, 12)) == (0, 0)


@pytest.mark.parametrize(
    "notes",
    [
        note(b"GNU\0", 3, b"id" * 10) + ENTRY,
        note(b"Xen\0", 6, b"linux\0") + note(b"XenXen\0", 18, b"") + ENTRY,
        note(b"Xen\0", 18, struct.pack("<Q", MIB + 4)),  # as 64-bit Linux has it
        ENTRY + b"rubbish behind it",
    ],
)
def test_note_among_others(memory: GuestMemory, notes: bytes) -> None:
    assert load(kernel(notes), memory, Options()).registers.rip == MIB + 4


def test_notes_that_are_padded_to_8_bytes() -> None:
    first, second = note(b"GNU\0", 5, b"x" * 20, align=8), note(b"Xen\0", 18, struct.pack("<Q", MIB), align=8)
    image = kernel(first + second)
    p_align = 64 + 56 + 48  # of the second program header
    assert find_note(image, b"Xen", 18) is None
    found = find_note(patch(image, p_align, 8, 8), b"Xen", 18)
    assert found is not None
    assert image[found.offset : found.offset + found.size] == struct.pack("<Q", MIB)


def test_note_of_any_type() -> None:
    image = kernel(note(b"Linux\0", 0x101, b"abc") + ENTRY)
    found = find_note(image, b"Linux")
    assert found is not None
    assert image[found.offset : found.offset + found.size] == b"abc"
    assert find_note(image, b"Linux", 0x100) is None
    assert find_note(image, b"Lin") is None


@pytest.mark.parametrize(
    "notes",
    [
        b"",
        ENTRY[:11],
        ENTRY[:-1],
        note(b"Xen\0", 17, bytes(4)),
        note(b"xen\0", 18, bytes(4)),
        patch(ENTRY, 0, 4, 0xFFFFFFFF),
        patch(ENTRY, 4, 4, 0xFFFFFFFF),
        note(b"GNU\0", 1, b"") * 1000 + ENTRY,  # there is a limit
    ],
)
def test_without_the_note_it_is_no_pvh_kernel(memory: GuestMemory, notes: bytes) -> None:
    image = kernel(notes)
    assert recognise(image) == "elf64"
    with pytest.raises(ImageError, match="no PT_NOTE has a note of type 18"):
        load(image, memory, Options(), "pvh")


def test_no_note_in_what_is_no_elf() -> None:
    assert find_note(b"", b"Xen") is None
    assert find_note(ENTRY * 20, b"Xen") is None


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        (note(b"Xen\0", 18, b"\0\0\x10"), r"PHYS32_ENTRY \(file offset 0xd0\): its size 3 is neither 4 nor 8"),
        (
            note(b"Xen\0", 18, struct.pack("<I", MIB - 1)),
            r"PHYS32_ENTRY \(file offset 0xd0\): 0xfffff is in no segment",
        ),
        (note(b"Xen\0", 18, struct.pack("<Q", MIB | 1 << 32)), "PHYS32_ENTRY .*: 0x100100000 is in no segment"),
    ],
)
def test_wrong_note_is_named(memory: GuestMemory, notes: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(kernel(notes), memory, Options())
