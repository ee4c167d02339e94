"""Multiboot 1 and 2: headers in every place and shape, and the information as a kernel reads it.

Field offsets are those of the specifications 0.6.96 (3.1, 3.3) and 2.0 (3.1, 3.6).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from elf_writer import Name, Part, elf, patch

from pykvm.boot import EntryState, ImageError, Module, Options, firmware, multiboot1, multiboot2
from pykvm.boot.detect import load, recognise
from pykvm.memory import GuestMemory
from pykvm.x86.mode import cpu_mode

MIB = 1 << 20
CODE = b"\x90" * 15 + b"\xf4"
OPTIONS = Options(
    command_line="root=hd0 quiet", modules=[Module(b"first" * 1000, "one 1"), Module(b"second", "")], cpus=2
)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory("8M")
    yield ram
    ram.close()


def refused(image: bytes, message: str, options: Options | None = None, format_name: str | None = None) -> None:
    ram = GuestMemory("8M")
    with pytest.raises(ImageError, match=message):
        load(image, ram, options or Options(), format_name)
    assert ram.read(MIB, 7 * MIB) == bytes(7 * MIB), "a refused image leaves extended memory alone"
    ram.close()


def enters_32_bit_mode(state: EntryState) -> None:
    """The machine state of 3.2 (Multiboot 1) and 3.3 (Multiboot 2)."""
    assert cpu_mode(state.system, state.registers.rflags).bits == 32
    assert (state.system.cr0 >> 31, state.system.cr0 & 1) == (0, 1)
    assert state.registers.rflags & (1 << 17 | 1 << 9) == 0
    for segment in (state.system.cs, state.system.ds, state.system.es, state.system.ss):
        assert (segment.base, segment.limit, segment.db) == (0, 0xFFFFFFFF, 1)


def string(memory: GuestMemory, address: int) -> bytes:
    data = memory.read(address, 256)
    return data[: data.index(b"\0")]


# Multiboot 1


def header_1(flags: int = 0, *fields: int) -> bytes:
    return struct.pack(f"<III{len(fields)}I", 0x1BADB002, flags, -(0x1BADB002 + flags) % (1 << 32), *fields)


def kernel_1(flags: int = 0, bits: int = 32, names: tuple[Name, ...] = ()) -> bytes:
    return elf([Part(MIB, header_1(flags) + CODE, memsz=0x3000)], MIB + 12, bits=bits, names=names)


def words(memory: GuestMemory, address: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}I", memory.read(address, 4 * count))


@pytest.mark.parametrize("bits", [32, 64])
def test_elf_kernel_is_entered_as_multiboot_says(memory: GuestMemory, bits: int) -> None:
    state = load(kernel_1(bits=bits), memory, Options())
    enters_32_bit_mode(state)
    assert state.format == "multiboot"
    assert state.registers.rip == MIB + 12
    assert state.registers.rax == 0x2BADB002
    assert memory.read(MIB, 28) == header_1() + CODE


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [("out/kernel", "a  b ", b"out/kernel a  b "), ("out/kernel", "", b"out/kernel"), ("", "a", b"a"), ("", "", b"")],
)
def test_command_line_begins_with_the_name_of_the_image(memory: GuestMemory, name: str, text: str, told: bytes) -> None:
    info = load(kernel_1(0), memory, Options(command_line=text, name=name)).registers.rbx
    assert string(memory, words(memory, info + 16, 1)[0]) == told


def test_information(memory: GuestMemory) -> None:
    info = load(kernel_1(0b111), memory, OPTIONS).registers.rbx
    flags, lower, upper = words(memory, info, 3)
    assert flags & 0b1_0010_0110_1101 == 0b1_0010_0110_1101
    assert flags & 0b10 == 0  # no boot device
    assert (lower, upper) == (639, 7 << 10)
    command_line, count, modules = words(memory, info + 16, 3)
    assert string(memory, command_line) == b"root=hd0 quiet"
    assert count == 2
    (start_1, end_1, text_1, _), (start_2, end_2, text_2, _) = (words(memory, modules + at, 4) for at in (0, 16))
    assert memory.read(start_1, end_1 - start_1) == b"first" * 1000
    assert memory.read(start_2, end_2 - start_2) == b"second"
    assert (string(memory, text_1), string(memory, text_2)) == (b"one 1", b"")
    assert start_1 % 4096 == start_2 % 4096 == 0
    assert min(start_1, start_2) >= MIB + 0x3000
    assert string(memory, words(memory, info + 64, 1)[0]) == b"pykvm"
    # Bit 2 of the header's flags, and no wish but for graphics: a framebuffer of type 1, RGB.
    assert struct.unpack("<QIIIBB", memory.read(info + 88, 22)) == (0xFD000000, 4096, 1024, 768, 32, 1)
    assert memory.read(info + 112, 6) == bytes((16, 8, 8, 8, 0, 8))
    plain = load(kernel_1(0b011), memory, OPTIONS).registers.rbx
    # A framebuffer of type 2: EGA text.
    assert struct.unpack("<QIIIBB", memory.read(plain + 88, 22)) == (0xB8000, 160, 80, 25, 16, 2)


def test_memory_map(memory: GuestMemory) -> None:
    info = load(kernel_1(), memory, Options()).registers.rbx
    length, at = words(memory, info + 44, 2)
    end, areas = at + length, []
    while at < end:  # as the specification walks it: each size does not count itself
        areas.append(struct.unpack("<QQI", memory.read(at + 4, 20)))
        at += 4 + memory.read_int(at, 4)
    assert at == end
    assert areas[0] == (0, 0x9FC00, 1)
    assert areas[-1] == (MIB, 7 * MIB, 1)
    assert (0x9FC00, 0x400, 2) in areas


@pytest.mark.parametrize(("bits", "entry_size"), [(32, 40), (64, 64)])
def test_symbols_are_loaded_for_the_kernel(memory: GuestMemory, bits: int, entry_size: int) -> None:
    image = kernel_1(bits=bits, names=(Name("kmain", MIB + 12, 16),))
    state = load(image, memory, Options())
    count, size, table, _ = words(memory, state.registers.rbx + 28, 4)
    assert (count, size) == (4, entry_size)
    headers = [memory.read(table + number * size, size) for number in range(count)]
    address, length = (12, 20) if bits == 32 else (16, 32)
    fields = [
        (int.from_bytes(h[address : address + 4], "little"), int.from_bytes(h[length : length + 4], "little"))
        for h in headers
    ]
    assert [int.from_bytes(header[4:8], "little") for header in headers] == [0, 1, 2, 3]
    assert fields[1][0] == MIB  # .text has its address from the linker
    symbols, strings = fields[2], fields[3]
    assert memory.read(*strings) == b"\0kmain\0"
    assert struct.pack("<I", MIB + 12) in memory.read(*symbols)
    assert state.symbols is not None
    assert state.symbols.lookup(MIB + 13) == ("kmain", 1)


def test_broken_section_headers_do_not_hinder_booting(memory: GuestMemory) -> None:
    image = kernel_1()
    shoff, shentsize, shnum = 0x20, 0x2E, 0x30
    for at, size, value in (
        (shoff, 4, 0),
        (shoff, 4, len(image)),
        (shentsize, 2, 1),
        (shnum, 2, 0),
        (shnum, 2, 0xFFFF),
    ):
        info = load(patch(image, at, size, value), memory, Options()).registers.rbx
        assert words(memory, info, 1)[0] & 1 << 5 == 0


def test_kernel_without_room_for_its_symbols_boots_without() -> None:
    ram = GuestMemory("1M")
    image = elf([Part(0x20000, header_1() + CODE)], 0x2000C, bits=32, names=[Name("kmain", 0x2000C, 16)])
    info = load(image, ram, Options()).registers.rbx
    assert words(ram, info, 1)[0] & 1 << 5 == 0
    ram.close()


def test_header_is_found_up_to_the_last_place_it_may_have(memory: GuestMemory) -> None:
    for at in (0, 4, 8180):
        assert multiboot1.find_header(bytes(at) + header_1() + bytes(100)) == at
    for image in (
        bytes(8184) + header_1(),  # it would end behind the first 8192 bytes
        bytes(2) + header_1(),  # not aligned
        header_1()[:11],
        patch(header_1(), 8, 4, 1),  # the checksum is wrong
        b"",
    ):
        assert multiboot1.find_header(image) is None
        refused(image + CODE, "magic: there is no Multiboot header", format_name="multiboot")
    decoy = patch(header_1(), 8, 4, 1)
    assert multiboot1.find_header(decoy + header_1()) == 12


@pytest.mark.parametrize("bit", [3, 9, 15])
def test_required_flag_that_nobody_knows(bit: int) -> None:
    refused(kernel_1(1 << bit), rf"flags \(file offset 0x58\): .* requires bits {bit}, which")


def test_optional_flags_are_ignored(memory: GuestMemory) -> None:
    load(kernel_1(0xFFFE0000), memory, Options())


def aout(*fields: int, size: int = 0x400) -> bytes:
    """A file whose header is at 0x100 and whose byte 0x80 is meant for 2 MiB, unless `fields` say otherwise."""
    default = (2 * MIB + 0x80, 2 * MIB, 2 * MIB + 0x200, 2 * MIB + 0x1000, 2 * MIB + 0x10)
    body = bytes(range(256)) + header_1(1 << 16, *(fields + default[len(fields) :]))
    return body.ljust(size, b"\xee")


def test_address_fields_place_a_file_of_any_format(memory: GuestMemory) -> None:
    memory.write(2 * MIB, b"\xff" * 0x2000)
    image = aout()
    state = load(image, memory, Options())
    enters_32_bit_mode(state)
    assert state.registers.rip == 2 * MIB + 0x10
    assert memory.read(2 * MIB, 0x1001) == image[0x80:0x280] + bytes(0xE00) + b"\xff"
    assert [(span.gpa, span.size) for span in state.spans] == [(2 * MIB, 0x1000)]


def test_address_fields_of_0_mean_the_whole_file_and_no_bss(memory: GuestMemory) -> None:
    memory.write(2 * MIB, b"\xff" * 0x2000)
    image = aout(2 * MIB + 0x80, 2 * MIB, 0, 0)
    load(image, memory, Options())
    assert memory.read(2 * MIB, 0x381) == image[0x80:] + b"\xff"


def test_address_fields_win_over_elf(memory: GuestMemory) -> None:
    code = header_1(1 << 16, 2 * MIB, 2 * MIB, 0, 0, 2 * MIB + 32) + CODE
    state = load(elf([Part(MIB, code)], MIB, bits=32), memory, Options())
    assert state.registers.rip == 2 * MIB + 32
    assert memory.read(2 * MIB, 8) == code[:8]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((2 * MIB, 2 * MIB + 1), r"load_addr \(file offset 0x110\): 0x200001 is above header_addr"),
        ((2 * MIB + 0x101, 2 * MIB), r"load_addr \(file offset 0x110\): .* before the file's first byte"),
        ((2 * MIB, 2 * MIB, 2 * MIB), r"load_end_addr \(file offset 0x114\): 0x200000 is not above load_addr"),
        ((2 * MIB, 2 * MIB, 1), "load_end_addr .* not above"),
        ((2 * MIB, 2 * MIB, 3 * MIB), r"load_end_addr .* is 0xffd00 past the file's end"),
        (
            (2 * MIB, 2 * MIB, 2 * MIB + 0x200, 2 * MIB + 0x1FF),
            r"bss_end_addr \(file offset 0x118\): 0x2001ff is below",
        ),
        ((2 * MIB, 2 * MIB, 0, 0, 2 * MIB - 1), r"entry_addr \(file offset 0x11c\): 0x1fffff is outside"),
        ((2 * MIB, 2 * MIB, 0, 0, 2 * MIB + 0x300), "entry_addr .* outside"),
        ((0x80000080, 0x80000000, 0, 0, 0x80000000), "the image: .* not in RAM"),
        ((2 * MIB + 0x80, 2 * MIB, 0, 0xFFFFFFFF), "the image: .* not in RAM"),
    ],
)
def test_wrong_address_field_is_named(fields: tuple[int, ...], message: str) -> None:
    refused(aout(*fields), message)


def test_address_fields_that_are_cut_off() -> None:
    refused(header_1(1 << 16, 1, 2, 3, 4), r"flags \(file offset 0x4\): bit 16 announces address fields")


def test_malformed_elf_is_still_explained() -> None:
    refused(patch(kernel_1(), 0x10, 2, 1), "e_type .* not an executable")


def test_modules_that_do_not_fit() -> None:
    refused(kernel_1(), "no room for 8192 KiB of module 0", Options(modules=[Module(bytes(8 * MIB))]))


@pytest.mark.parametrize("format_name", ["multiboot", "multiboot2"])
def test_text_that_no_c_string_can_hold(format_name: str) -> None:
    image = kernel_1() if format_name == "multiboot" else kernel_2()
    refused(image, "command line: it contains a NUL", Options(command_line="a\0b"))
    refused(image, "command line of module 0: it contains a NUL", Options(modules=[Module(b"", "\0")]))
    refused(image, "command line: .* surrogates", Options(command_line="\ud800"))


# Multiboot 2


def tag(kind: int, contents: bytes = b"", flags: int = 0, size: int | None = None) -> bytes:
    data = struct.pack("<HHI", kind, flags, 8 + len(contents) if size is None else size) + contents
    return data + bytes(-len(data) % 8)


END = tag(0)


def header_2(*tags: bytes, architecture: int = 0, length: int | None = None) -> bytes:
    body = b"".join(tags)
    length = 16 + len(body) if length is None else length
    checksum = -(0xE85250D6 + architecture + length) % (1 << 32)
    return struct.pack("<IIII", 0xE85250D6, architecture, length, checksum) + body


HEADER_AT = 120
"""In the files of `kernel_2`: behind the ELF header and one program header."""


def kernel_2(*tags: bytes, base: int = MIB, bits: int = 64, names: tuple[Name, ...] = (), end: bytes = END) -> bytes:
    pad = b"" if bits == 64 else bytes(4)
    header = pad + header_2(*tags, end)
    return elf([Part(base, header + CODE, memsz=0x3000)], base + len(header), bits=bits, names=names)


def information(memory: GuestMemory, state: EntryState) -> list[tuple[int, bytes]]:
    """The tags, walked as the specification says: the end tag is there, and where the total size says."""
    base = state.registers.rbx
    assert base % 8 == 0
    total = memory.read_int(base, 4)
    at, tags = base + 8, []
    while True:
        kind, size = words(memory, at, 2)
        if kind == 0:
            assert (size, at + 8 - base) == (8, total)
            return tags
        tags.append((kind, memory.read(at + 8, size - 8)))
        at += (size + 7) // 8 * 8


@pytest.mark.parametrize("bits", [32, 64])
def test_elf_kernel_is_entered_as_multiboot_2_says(memory: GuestMemory, bits: int) -> None:
    state = load(kernel_2(bits=bits), memory, Options())
    enters_32_bit_mode(state)
    assert state.format == "multiboot2"
    assert state.registers.rax == 0x36D76289
    assert memory.read(state.registers.rip, 16) == CODE


def test_information_tags(memory: GuestMemory) -> None:
    state = load(kernel_2(names=(Name("kmain", MIB, 16),)), memory, OPTIONS)
    tags = information(memory, state)
    found = dict(tags)
    assert found[1] == b"root=hd0 quiet\0"
    assert found[2] == b"pykvm\0"
    modules = [data for kind, data in tags if kind == 3]
    assert [data[8:] for data in modules] == [b"one 1\0", b"\0"]
    places = [struct.unpack_from("<II", data) for data in modules]
    assert [memory.read(start, end - start) for start, end in places] == [b"first" * 1000, b"second"]
    assert all(start % 4096 == 0 for start, _ in places)
    assert struct.unpack("<II", found[4]) == (639, 7 << 10)
    assert struct.unpack_from("<II", found[6]) == (24, 0)
    areas = [struct.unpack_from("<QQI", found[6], 8 + at) for at in range(0, len(found[6]) - 8, 24)]
    assert (areas[0], areas[-1]) == ((0, 0x9FC00, 1), (MIB, 7 * MIB, 1))
    assert struct.unpack_from("<QIIIBB", found[8]) == (0xB8000, 160, 80, 25, 16, 2)
    rsdp = memory.read(firmware.RSDP, 36)
    assert (found[14], found[15]) == (rsdp[:20], rsdp)
    assert 21 not in found  # only of a relocatable image
    count, size, _ = struct.unpack_from("<III", found[9])
    assert (count, size, len(found[9])) == (4, 64, 12 + 4 * 64)
    symbols = found[9][12 + 2 * 64 :][:64]
    address, length = struct.unpack_from("<Q8xQ", symbols, 16)
    assert struct.pack("<QQ", MIB, 16) in memory.read(address, length)


def test_kernel_for_both_versions_is_loaded_by_the_second(memory: GuestMemory) -> None:
    image = elf([Part(MIB, header_2(END) + header_1() + CODE)], MIB)
    assert recognise(image) == "multiboot2"
    assert load(image, memory, Options(), "multiboot").registers.rax == 0x2BADB002


def test_header_2_is_found_up_to_the_last_place_it_may_have() -> None:
    for at in (0, 8, 32768 - 24):
        assert multiboot2.find_header(bytes(at) + header_2(END)) == at
    for image in (bytes(32760) + header_2(END), bytes(4) + header_2(END), patch(header_2(END), 12, 4, 0), b""):
        assert multiboot2.find_header(image) is None
        refused(image, "magic: there is no Multiboot 2 header", format_name="multiboot2")


def test_tags_that_may_be_ignored(memory: GuestMemory) -> None:
    optional = 1
    tags = (
        tag(1, struct.pack("<4I", 1, 4, 8, 21)),
        tag(1, struct.pack("<I", 99), optional),
        tag(4, struct.pack("<I", 0b11)),
        tag(5, struct.pack("<III", 1024, 768, 32)),
        tag(6),
        tag(7),
        tag(8, struct.pack("<I", 1)),
        tag(9, struct.pack("<I", 1)),
        tag(4242, b"anything", optional),
    )
    load(kernel_2(*tags), memory, Options())


FIRST_TAG = HEADER_AT + 16


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ((tag(11),), rf"type \(file offset {FIRST_TAG:#x}\): the kernel requires a tag of type 11"),
        ((tag(1, struct.pack("<II", 6, 22)),), rf"mbi_tag_types \(file offset {FIRST_TAG + 12:#x}\): .* type 22"),
        ((tag(4, struct.pack("<I", 1)),), rf"console_flags \(file offset {FIRST_TAG + 8:#x}\): .* EGA text"),
        ((tag(3, b"", size=8),), rf"size \(file offset {FIRST_TAG + 4:#x}\): 8 bytes for a tag of type 3"),
        ((tag(5, b"", size=0),), "size .* 0 bytes for a tag of type 5"),
        ((tag(5, b"", size=0xFFFFFFFF),), "size .* 4294967295 bytes"),
        (
            (tag(3, struct.pack("<I", 0x5000)),),
            rf"entry_addr \(file offset {FIRST_TAG + 8:#x}\): 0x5000 is in no segment",
        ),
        ((tag(2, struct.pack("<IIII", MIB, MIB, 0, 0)),), rf"type \(file offset {FIRST_TAG:#x}\): .* without an entry"),
        (
            (tag(10, struct.pack("<IIII", 0, 1 << 30, 3, 0)),),
            rf"align \(file offset {FIRST_TAG + 16:#x}\): 0x3 is no power",
        ),
        ((tag(10, struct.pack("<IIII", MIB, MIB + 0x2000, 1, 0)),), "no room for 12 KiB of the relocatable image"),
    ],
)
def test_wrong_tag_is_named(tags: tuple[bytes, ...], message: str) -> None:
    refused(kernel_2(*tags), message)


def test_wrong_header_2_is_named() -> None:
    assert kernel_2()[HEADER_AT:][:4] == struct.pack("<I", 0xE85250D6)
    refused(kernel_2(end=b""), rf"header_length \(file offset {HEADER_AT + 8:#x}\): the header ends at 0x88 without")
    refused(header_2(END, architecture=4), r"architecture \(file offset 0x4\): 4 is not 0")
    refused(header_2(END, length=1 << 20), r"header_length \(file offset 0x8\): 0x100000 goes past")


def test_entry_address_tag(memory: GuestMemory) -> None:
    assert load(kernel_2(tag(3, struct.pack("<I", MIB + 5))), memory, Options()).registers.rip == MIB + 5


def test_address_tag(memory: GuestMemory) -> None:
    for load_addr, at in ((2 * MIB, 2 * MIB), (0xFFFFFFFF, 2 * MIB - 8)):  # the latter: from the file's beginning
        header = header_2(
            tag(2, struct.pack("<IIII", 2 * MIB, load_addr, 0, 3 * MIB)), tag(3, struct.pack("<I", 2 * MIB + 64)), END
        )
        image = b"lead-in!" + header + CODE
        state = load(image, memory, Options())
        assert state.registers.rip == 2 * MIB + 64
        assert memory.read(2 * MIB, len(header)) == header
        assert (state.spans[0].gpa, state.spans[0].size) == (at, 3 * MIB - at)


@pytest.mark.parametrize(
    ("lowest", "highest", "align", "preference", "base"),
    [
        (0, 0xFFFFFFFF, 1, 0, 4 * MIB),  # it may stay where it is linked
        (MIB, 0xFFFFFFFF, 0x10000, 1, MIB),
        (0, 0xFFFFFFFF, 4096, 1, 0x10000),
        (MIB, 0xFFFFFFFF, 0x10000, 2, 8 * MIB - 0x10000),
        (5 * MIB + 1, 0xFFFFFFFF, MIB, 0, 6 * MIB),
        (MIB, 2 * MIB - 1, 0, 0, MIB),
    ],
)
def test_relocatable_image(
    memory: GuestMemory, lowest: int, highest: int, align: int, preference: int, base: int
) -> None:
    wish = tag(10, struct.pack("<IIII", lowest, highest, align, preference))
    image = kernel_2(wish, base=4 * MIB, names=(Name("kmain", 4 * MIB, 16),))
    state = load(image, memory, Options())
    assert memory.read(base, 4) == struct.pack("<I", 0xE85250D6)
    assert memory.read(state.registers.rip, 16) == CODE
    assert base <= state.registers.rip < base + 0x3000
    assert dict(information(memory, state))[21] == struct.pack("<I", base)
    assert state.symbols is not None
    assert state.symbols.address("kmain") == base
