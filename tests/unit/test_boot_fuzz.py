"""Hostile images: good ones of every format, changed field by field, cut, and with parts that overlap.

Whatever the image, a loader ends with an entry state that lies in RAM or with the loader's own error, and it never works
more, takes more of the host's memory or commits more of the guest's than the size of the image allows. Work is counted
in calls of functions, which a busy host does not change. PYKVM_FUZZ is the number of images that each test makes.
"""

from __future__ import annotations

import os
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import pytest
import test_boot_elf as elf_images
import test_boot_foreign as foreign_images
import test_boot_linux as linux_images
import test_boot_multiboot as multiboot_images
import test_boot_pvh as pvh_images
from bios_calls import Pc
from elf_writer import Name, Part, elf, patch
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.bios.disk import floppy, hard_disk
from pykvm.boot import EntryState, ImageError, Module, Options, bios, detect, multiboot2
from pykvm.disk.memory import MemoryDisk
from pykvm.errors import ConfigError
from pykvm.memory import GuestMemory
from pykvm.x86.symbols import MAX_NAME

IMAGES = int(os.environ.get("PYKVM_FUZZ", "100"))

MIB = 1 << 20
CALLS, CALLS_A_BYTE = 20_000, 20
"""A loader may call so many functions, and so many more for each byte of the image."""
HEAP, HEAP_A_BYTE = 2 * MIB, 60
"""Bytes of the host's memory, in the same way."""
FIRMWARE = MIB
"""Bytes of guest memory that tables and stacks take, whatever the image."""

Field = tuple[int, int]
"""File offset and size in bytes."""


@dataclass
class Seed:
    """A good image, the fields of its headers, and its records, each of which may be copied over another."""

    image: bytes
    fields: list[Field]
    records: list[Field]
    format: str


# What is where in an image


def fields_of(codes: str, at: int) -> list[Field]:
    """The fields of a C struct without padding, by its codes of the struct module."""
    sizes = [struct.calcsize("<" + code) for code in codes]
    return [(at + sum(sizes[:number]), size) for number, size in enumerate(sizes)]


def elf_seed(image: bytes, format_name: str, *more: Field) -> Seed:
    """An ELF file: its header, program headers, section headers, symbols, and what is known of the segments' content.

    A dynamic section, relocations and notes are words of 4 or 8 bytes; so is code, which it does no harm to change.
    """
    wide = image[4] == 2
    header, part, section, symbol = (
        ("HHIQQQIHHHHHH", "IIQQQQQQ", "IIQQQQIIQQ", "IBBHQQ")
        if wide
        else ("HHIIIIIHHHHHH", "IIIIIIII", "IIIIIIIIII", "IIIBBH")
    )
    values = struct.unpack_from("<" + header, image, 16)
    parts_at, sections_at, parts, sections = values[4], values[5], values[9], values[11]
    part_size, section_size, symbol_size = (struct.calcsize("<" + codes) for codes in (part, section, symbol))
    records = [(parts_at + number * part_size, part_size) for number in range(parts)]
    records += [(sections_at + number * section_size, section_size) for number in range(sections)]
    fields = [(at, 1) for at in (0, 4, 5)] + fields_of(header, 16)
    for at, size in records:
        fields += fields_of(part if size == part_size else section, at)
    symbols = struct.unpack_from("<" + section, image, sections_at + 2 * section_size)
    for at in range(symbols[4], symbols[4] + symbols[5], symbol_size):
        fields += fields_of(symbol, at)
    body_at, word = parts_at + parts * part_size, 8 if wide else 4
    fields += [(at, size) for size in {word, 4} for at in range(body_at, min(body_at + 400, symbols[4] - 8), size)]
    return Seed(image, fields + list(more), records, format_name)


def multiboot_words(image: bytes, magic: int, count: int) -> list[Field]:
    """The `count` words of 4 bytes from a Multiboot header's magic on, and the halves of those."""
    at = image.index(struct.pack("<I", magic))
    words = range(at, min(at + 4 * count, len(image) - 4), 4)
    return [(word, 4) for word in words] + [(word, 2) for word in words]


NAMES = (Name("_start", MIB, 16), Name("data", MIB + 0x2000, 0x100))
PARTS = [
    Part(MIB, elf_images.CODE, memsz=0x1800),
    Part(MIB + 0x2000, b"data" * 20, memsz=0x10000),
    Part(0, b"x", type=6),
]
TAG = multiboot_images.tag
RELOCATABLE = TAG(10, struct.pack("<IIII", 0, 1 << 30, 4096, 2))
FLAT_TAGS = (
    TAG(1, struct.pack("<IIII", 1, 6, 8, 14), flags=1),
    TAG(2, struct.pack("<IIII", MIB, MIB, 0, 2 * MIB)),
    TAG(3, struct.pack("<I", MIB + 0x100)),
    TAG(4, struct.pack("<I", 3)),
)


@cache
def seeds() -> dict[str, Seed]:
    made = {}
    for bits in (32, 64):
        made[f"elf{bits}"] = elf_seed(elf(PARTS, MIB, bits=bits, names=NAMES), f"elf{bits}")
        table = struct.pack("<QQqQQq", *[0x1000, 8, 4] * 2) if bits == 64 else struct.pack("<IIII", *[0x1000, 8] * 2)
        tags = [(7, 0x2000), (8, len(table))] if bits == 64 else [(17, 0x2000), (18, len(table))]
        made[f"pie{bits}"] = elf_seed(elf_images.pie(table, tags, bits), f"elf{bits}")
        notes = pvh_images.note(b"GNU\0", 3, bytes(20)) + pvh_images.ENTRY
        made[f"pvh{bits}"] = elf_seed(pvh_images.kernel(notes, bits), "pvh")
        kernel = multiboot_images.kernel_1(0b111, bits, NAMES)
        made[f"multiboot{bits}"] = elf_seed(kernel, "multiboot", *multiboot_words(kernel, 0x1BADB002, 3))
        kernel = multiboot_images.kernel_2(RELOCATABLE, *FLAT_TAGS[:1], bits=bits, names=NAMES)
        made[f"multiboot2-{bits}"] = elf_seed(kernel, "multiboot2", *multiboot_words(kernel, 0xE85250D6, 20))
    kernel = multiboot_images.kernel_2(*FLAT_TAGS[2:], names=NAMES)
    made["multiboot2-entry"] = elf_seed(kernel, "multiboot2", *multiboot_words(kernel, 0xE85250D6, 12))
    for name, addresses in (("addresses", ()), ("from-start", (2 * MIB + 0x100, 0xFFFFFFFF, 0))):
        flat = multiboot_images.aout(*addresses)
        made[f"multiboot-{name}"] = Seed(flat, multiboot_words(flat, 0x1BADB002, 8), [], "multiboot")
    flat = multiboot_images.header_2(*FLAT_TAGS, multiboot_images.END).ljust(0x400, b"\xee")
    made["multiboot2-addresses"] = Seed(flat, multiboot_words(flat, 0xE85250D6, 32), [], "multiboot2")
    made["vmlinux"] = elf_seed(linux_images.vmlinux(), "linux")
    header = [*linux_images.FIELDS.values(), (0x200, 1), (0x201, 1)]
    for name, changes in (
        ("bzimage", {}),
        ("bzimage-32", {"xloadflags": 0, "relocatable_kernel": 0}),
        ("bzimage-2.02", {"version": 0x202}),
    ):
        made[name] = Seed(linux_images.bzimage(**changes), header, [], "linux")
    return made


def mended(image: bytes) -> bytes:
    """With right checksums in what looks like Multiboot headers: what lies behind that check is then reached, too."""
    for magic, words in ((0x1BADB002, 2), (0xE85250D6, 3)):
        at = image.find(struct.pack("<I", magic))
        if 0 <= at <= len(image) - 16:
            total = sum(struct.unpack_from(f"<{words}I", image, at))
            image = patch(image, at + 4 * words, 4, -total % (1 << 32))
    return image


# What is changed

MEMORY = st.sampled_from(["32M", "32M", "32M", "5G", "4M", "1M", "640K", "24K", "4K"])
POWERS = [(1 << bit) + more for bit in (0, 3, 8, 12, 16, 20, 22, 31, 32, 46, 63, 64) for more in (-1, 0, 1)]
FORMATS = st.sampled_from([None] * 12 + [name for name in detect.FORMATS if name != "flat"])


@st.composite
def hostile(draw: st.DrawFn, seed: Seed) -> bytes:
    image, fields = seed.image, st.sampled_from(seed.fields)
    values = st.sampled_from([*POWERS, len(image) - 1, len(image), len(image) + 1]) | st.integers(0, (1 << 64) - 1)
    for _ in range(draw(st.integers(0, 4))):
        at, size = draw(fields)
        old = int.from_bytes(image[at : at + size], "little")
        match draw(st.sampled_from(["value", "value", "near", "like another", "record"])):
            case "near":
                new = old + draw(st.integers(-17, 17))
            case "like another":  # two parts at one place, a count that is an offset
                other, other_size = draw(fields)
                new = int.from_bytes(image[other : other + other_size], "little")
            case "record" if seed.records:
                (source, length), (target, _) = draw(st.tuples(*[st.sampled_from(seed.records)] * 2))
                image = (image[:target] + image[source : source + length] + image[target + length :])[: len(image)]
                continue
            case _:
                new = draw(values)
        image = patch(image, at, size, new % (1 << 8 * size))
    if draw(st.booleans()):
        image = mended(image)
    match draw(st.sampled_from(["whole", "whole", "whole", "cut", "longer"])):
        case "cut":
            return image[: draw(st.integers(0, len(image)))]
        case "longer":
            return image + bytes([draw(st.sampled_from([0, 0xFF]))]) * draw(st.integers(1, 70_000))
    return image


# What must hold


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """What happens inside calls no more functions and takes no more of the host's memory than `size` bytes allow."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    tracemalloc.start()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
        heap = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert calls <= CALLS + CALLS_A_BYTE * size
    assert heap <= HEAP + HEAP_A_BYTE * size


def load(image: bytes, ram: GuestMemory, options: Options, format_name: str | None = None) -> EntryState | None:
    """Load within bounds, symbols included; None if the image was refused."""
    state = None
    with bounded(len(image) + sum(len(module.data) for module in options.modules)):
        with suppress(ImageError, ConfigError):
            state = detect.load(image, ram, options, format_name)
        if state is not None and state.symbols is not None:
            list(state.symbols)
    return state


def check(state: EntryState, ram: GuestMemory) -> None:
    """The guest starts in RAM, and what was put there for it is apart from the image and from each other."""
    entry = state.system.cs.base + state.registers.rip
    ram.offset(entry, 1)
    assert not any(gpa <= entry < gpa + size for gpa, size in state.reserved)
    parts = sorted([*state.reserved, *((span.gpa, span.size) for span in state.spans)])
    for (gpa, size), (following, _) in pairwise(parts):
        assert gpa + size <= following
    for gpa, size in parts:
        ram.offset(gpa, size)
    if state.symbols is not None:
        for symbol in state.symbols:
            assert symbol.name.isprintable()
            assert len(symbol.name) <= MAX_NAME
            assert state.symbols.lookup(symbol.address)


@pytest.mark.parametrize("name", seeds())
def test_the_unchanged_image_is_loaded(name: str) -> None:
    seed = seeds()[name]
    with closing(GuestMemory("32M")) as ram:
        state = load(seed.image, ram, Options())
        assert state is not None
        assert state.format == seed.format
        check(state, ram)
        assert all(at + size <= len(seed.image) for at, size in seed.fields)


@pytest.mark.parametrize("name", seeds())
@settings(max_examples=IMAGES)
@given(data=st.data())
def test_a_changed_image_is_loaded_or_refused(name: str, data: st.DataObject) -> None:
    image = data.draw(hostile(seeds()[name]))
    options = Options(
        command_line=data.draw(st.sampled_from(["", "quiet", "x" * 300, "\0", "\udcff", "\ud800"])),
        modules=data.draw(st.sampled_from([[], [], [Module(b"m" * 5000, "text")], [Module(b""), Module(b"2")]])),
        cpus=data.draw(st.sampled_from([1, 1, 255])),
    )
    with closing(GuestMemory(data.draw(MEMORY))) as ram:
        state = load(image, ram, options, data.draw(FORMATS))
        if state is not None:
            check(state, ram)
        assert ram.committed() <= FIRMWARE + 70 * len(image)


# Much of something


def many_sections() -> bytes:
    """As many as are looked at, all of them string tables that share their bytes."""
    kernel = multiboot_images.kernel_1(0b111, 32)
    sections = struct.pack("<10I", 0, 3, 0, 0, 0, 15_000, 0, 0, 1, 0) * 4096
    return patch(patch(kernel, 0x20, 4, len(kernel)), 0x30, 2, 4096) + sections


def many_relocations() -> bytes:
    """All for the last of 60 segments."""
    table = struct.pack("<II", 59 * 0x1000, 8) * 0x2000
    dynamic = struct.pack("<6I", 17, MIB, 18, len(table), 0, 0)
    parts = [*(Part(number * 0x1000, bytes(8)) for number in range(60)), Part(MIB, table), Part(2 * MIB, dynamic)]
    return elf([*parts, Part(2 * MIB, dynamic, type=2)], 0, bits=32, file_type=3)


def many_notes() -> bytes:
    notes = pvh_images.note(b"GNU\0", 3, b"") * 256
    return elf([PARTS[0], *[Part(0, notes, type=4)] * 63], MIB)


def many_tags() -> bytes:
    header = multiboot_images.header_2(*[TAG(6)] * 4000, multiboot_images.END)
    return elf([Part(MIB, header)], MIB)


def many_symbols() -> bytes:
    """Their unprintable names share their bytes."""
    image, strings = elf([PARTS[0]], MIB), b"\0" + b"\x01" * 600
    (sections,) = struct.unpack_from("<Q", image, 0x28)
    table = b"".join(struct.pack("<IBBHQQ", 1 + number % 80, 0x12, 0, 1, MIB, 1) for number in range(1 << 14))
    for section, at, size in ((2, len(image), len(table)), (3, len(image) + len(table), len(strings))):
        image = patch(image, sections + 64 * section + 24, 16, size << 64 | at)
    return image + table + strings


@pytest.mark.parametrize("make", [many_sections, many_relocations, many_notes, many_tags, many_symbols])
def test_work_grows_with_the_image_alone(make: Callable[[], bytes]) -> None:
    with closing(GuestMemory("512M")) as ram:
        state = load(make(), ram, Options())
        assert state is not None
        assert ram.committed() <= 64 * MIB + 4 * MIB


ADDRESS = st.none() | st.integers(-10, 1 << 33) | st.integers(0, 0x210000) | st.sampled_from(POWERS)


@settings(max_examples=IMAGES)
@given(st.sampled_from([None, 16, 32, 64, 7]), ADDRESS, ADDRESS, st.integers(0, 0x2000), MEMORY)
def test_a_flat_image_is_entered_inside_ram_or_refused(
    mode: int | None, at: int | None, entry: int | None, size: int, memory: str
) -> None:
    with closing(GuestMemory(memory)) as ram:
        state = load(b"\xf4" * size, ram, Options(mode, at, entry), "flat")
        if state is not None:
            check(state, ram)
            assert ram.read(state.system.cs.base + state.registers.rip, 1) == b"\xf4"
            ram.read(state.system.ss.base + state.registers.rsp - 0x1000, 0x1000)


# What has no good header is looked at by more eyes.

MAGIC = [image[:600] for image, _ in foreign_images.FOREIGN.values()]
MULTIBOOT = [struct.pack("<I", magic) for magic in (0x1BADB002, 0xE85250D6)]
WORD = st.sampled_from([*MULTIBOOT, b"Xen\0", b"GNU\0", b"Linux\0", b"MZ", b"PE\0\0", b"\x55\xaa", b"HdrS", bytes(4)])


@settings(max_examples=IMAGES)
@given(
    st.sampled_from([b"", b"\x7fELF", b"\x7fELF\2\1", *MAGIC]),
    st.lists(WORD | st.binary(max_size=20), max_size=40),
    st.integers(0, 40_000),
    st.sampled_from([None, "kernel", "Makefile", "os.bin", "a\nb.c", ".", "\udcff"]),
)
def test_whatever_it_is_the_recogniser_says_so(start: bytes, words: list[bytes], size: int, name: str | None) -> None:
    image = start + b"".join(words)
    image += bytes(max(size - len(image), 0)) + b"".join(words)
    with bounded(len(image)), suppress(ImageError):
        assert detect.recognise(image, name) in detect.FORMATS


@pytest.mark.parametrize("start", [b"", b"\x7fELF\2\1\1"])
@pytest.mark.parametrize("magic", MULTIBOOT)
def test_an_image_full_of_magic_numbers_is_no_more_work(start: bytes, magic: bytes) -> None:
    image = start.ljust(64, b"\1") + magic * 200_000
    with bounded(multiboot2.SEARCH_LIMIT), suppress(ImageError):
        assert detect.recognise(image, None)


# Disks

ENTRY = st.tuples(*[st.integers(0, 255)] * 8, *[st.sampled_from([0, 1, 63, 2048, (1 << 32) - 1])] * 2)
GEOMETRY = st.tuples(*[st.sampled_from([0, 1, 2, 18, 63, 255, 256, 512, 0xFFFF])] * 3, st.sampled_from([0, 0xF0, 0xF8]))
SIZES = st.sampled_from([512, 1024, 1024 * 360, 1024 * 1440, 1024 * 2880]) | st.integers(0, 1 << 20)


@settings(max_examples=IMAGES)
@given(st.binary(max_size=3), GEOMETRY, st.lists(ENTRY, max_size=4), SIZES, st.booleans(), MEMORY, st.integers(0))
def test_any_disk_is_started_from_or_refused(
    jump: bytes,
    geometry: tuple[int, int, int, int],
    partitions: list[tuple[int, ...]],
    size: int,
    is_floppy: bool,
    memory: str,
    block: int,
) -> None:
    sector_size, sectors, heads, media = geometry
    first = bytearray(jump.ljust(11, b"\0") + struct.pack("<H8xB2xHH", sector_size, media, sectors, heads)).ljust(
        510, b"\0"
    )
    for number, entry in enumerate(partitions):
        struct.pack_into("<8BII", first, 446 + 16 * number, *entry)
    image = (bytes(first) + b"\x55\xaa").ljust(size, b"\xda")[:size]
    with closing(GuestMemory(memory)) as ram:
        state = None
        with bounded(0), suppress(ImageError):
            state = bios.load(image, ram, Options())
        if state is None:
            assert size < 512 or ram.size < MIB
            return
        assert ram.read(state.system.cs.base + state.registers.rip, 1) != b"\0"
    drive = (floppy if is_floppy else hard_disk)(0, MemoryDisk(image))
    pc = Pc([drive], boot=drive.number)
    assert pc.memory.read(0x7C00, 512) == image[:512]
    with bounded(0):
        found = pc.call(0x13, eax=0x0800, edx=drive.number)
        last = found.dh << 8 | drive.number
        chs = pc.call(0x13, eax=0x0201, es=0x2000, ebx=0, ecx=found.cx, edx=last)
        pc.memory.write(0x600, struct.pack("<HHHHQ", 16, 127, 0, 0x2000, block % (1 << 64)))
        packet = pc.call(0x13, eax=0x4200, ds=0x60, esi=0, edx=drive.number)
    assert chs.ah == 0, "the geometry's last sector can be read: behind the image's end there are zeros"
    if not is_floppy:
        assert packet.ah == (0 if block % (1 << 64) + 127 <= drive.end else 4)
