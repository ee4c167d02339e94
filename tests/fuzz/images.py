"""Images: the recogniser, every format's loader, symbols, and DWARF line tables."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import test_boot_foreign as foreign_images
from elf_writer import GLOBAL_FUNC, Name, Part, elf
from iso_writer import BLOCK, entry, iso, validation
from test_boot_fuzz import mended, seeds

from pykvm.bios.cd import Cds, cd_drive
from pykvm.bios.disk import Disks
from pykvm.bios.el_torito import NotBootable
from pykvm.boot import ImageError, Module, Options, detect
from pykvm.boot.misplaced import misplaced_header
from pykvm.crash.source import SourceLines
from pykvm.disk.formats import FORMATS, container
from pykvm.disk.memory import MemoryDisk
from pykvm.disk.nodes import under
from pykvm.disk.raw import ImageFile
from pykvm.disk.tray import Tray
from pykvm.errors import ConfigError
from pykvm.memory import GuestMemory
from pykvm.x86.symbols import SymbolTable

from .target import EXTREMES, Input, Parser, Random, Target, mutate, number

WORDS = (
    b"\x7fELF\1\1\1", b"\x7fELF\2\1\1", b"\x02\xb0\xad\x1b", b"\xd6\x50\x52\xe8", b"Xen\0", b"GNU\0", b"Linux\0", b"HdrS",
    b"\x55\xaa", b"MZ", b"PE\0\0", b"\xea\x5b\xe0\x00\xf0",
)  # fmt: skip
NAMES = (None, "kernel", "Makefile", "os.bin", "a\nb.c", ".", "\udcff")
BOOT_SECTOR = bytes.fromhex("eb3c90").ljust(510, b"\0") + b"\x55\xaa" + bytes(1024)


def damage(source: Random, image: bytes, fields: list[tuple[int, int]], records: list[tuple[int, int]]) -> bytes:
    """`image` with changes in its headers, and now and then anywhere."""
    result = bytearray(image)
    for _ in range(source.choice((0, 1, 1, 2, 3, 4))):
        if records and not source.randrange(5):
            (of, size), (to, _) = source.choice(records), source.choice(records)
            result[to : to + size] = result[of : of + size]
            continue
        at, size = source.choice(fields)
        match source.randrange(4):
            case 0:
                new = int.from_bytes(result[at : at + size], "little") + source.randrange(-17, 18)
            case 1:
                other, length = source.choice(fields)
                new = int.from_bytes(result[other : other + length], "little")
            case 2:
                new = source.choice((len(image) - 1, len(image), len(image) + 1, *EXTREMES))
            case _:
                new = number(source, 8 * size)
        result[at : at + size] = (new % (1 << 8 * size)).to_bytes(size, "little")
    new_image = mended(bytes(result)) if source.randrange(2) else bytes(result)
    match source.randrange(12):
        case 0:
            return new_image[: source.randrange(len(new_image) + 1)]
        case 1:
            return new_image + source.choice((b"\0", b"\xff")) * source.choice((1, 511, 4096, 30_000))
        case 2:
            return mutate(source, new_image, WORDS)
    return new_image


class Loader(Parser):
    """`detect.load` on images of a format."""

    errors = (ImageError, ConfigError)
    count = 60
    share = 0.6

    def __init__(self, format_name: str) -> None:
        self.name = f"boot-{format_name}"
        self._seeds = [seed for seed in seeds().values() if seed.format == format_name]
        self._memory: GuestMemory | None = None

    def one(self, source: Random) -> Input:
        if not self._seeds:
            return (
                mutate(source, BOOT_SECTOR, WORDS),
                source.choice((None, "disk", "floppy", "flat")),
                number(source, 32),
            )
        seed = source.choice(self._seeds)
        forced = source.choice(list(detect.FORMATS)) if not source.randrange(8) else None
        return damage(source, seed.image, seed.fields, seed.records), forced, number(source, 32)

    def feed(self, given: Input) -> None:
        image, format_name, choice = given
        options = Options(command_line=("", "quiet", "x" * 300, "\0")[choice & 3], cpus=(1, 2, 255)[choice >> 2 & 1])
        if choice >> 4 & 7 == 0:
            options.modules = [Module(b"m" * 5000, "text"), Module(b"")]
        if format_name == "flat":
            options.mode, options.load = (None, 16, 32, 64)[choice >> 8 & 3], (None, choice)[choice >> 10 & 1]
        memory = self._memory
        if memory is None:
            memory = self._memory = GuestMemory("8M")
        state = detect.load(image, memory, options, format_name)
        memory.offset(state.system.cs.base + state.registers.rip, 1)
        for gpa, size in state.reserved:
            memory.offset(gpa, size)
        for span in state.spans:
            memory.offset(span.gpa, span.size)
        assert memory.committed() <= memory.size


class Recogniser(Parser):
    """`detect.recognise`, with all that tells what an image is not."""

    name = "recognise"
    share = 1.5
    errors = (ImageError,)
    count = 800

    def __init__(self) -> None:
        self._seeds = [image[:600] for image, _ in foreign_images.FOREIGN.values()]
        self._seeds += [seed.image[:2000] for seed in seeds().values()]
        self._seeds += [b"", BOOT_SECTOR, b"int main(void) { return 0; }\n" * 9, "\ufeffA\u00e4\n".encode("utf-16")]

    def one(self, source: Random) -> Input:
        return mutate(source, source.choice(self._seeds), WORDS), source.choice(NAMES)

    def feed(self, given: Input) -> None:
        image, name = given
        wrong = misplaced_header(image)
        assert wrong is None or wrong.isprintable()
        assert detect.recognise(image, name) in detect.FORMATS


class ElTorito(Parser):
    """What a BIOS starts of a CD, and the disk that it takes a part of it for."""

    name = "el-torito"
    share = 1.0
    errors = (NotBootable,)
    count = 300

    def one(self, source: Random) -> Input:
        started = BOOT_SECTOR + source.randbytes(64)
        platform, media = source.choice((0, 0, 0xEF)), source.randrange(6)
        entries = validation(platform) + entry(media, sectors=source.randrange(6), block=source.choice((20, 20, 25)))
        entries += bytes((0x91, source.choice((0, 0xEF)))) + bytes(30) + entry(2, sectors=1)
        image = iso(started, catalog=entries)
        head, catalog = image[: 16 * BLOCK], image[16 * BLOCK :]
        return head + (mutate(source, catalog, WORDS) if source.randrange(4) else catalog), number(source, 32)

    def feed(self, given: Input) -> None:
        image, place = given
        tray = Tray(MemoryDisk(image)) if image else Tray()
        detect.is_cd(image)
        memory = GuestMemory("1M")
        try:
            disks = Disks(memory, [cd_drive(0, tray)])
            cds = Cds(memory, disks)
            address, _ = cds.start(0xE0)
            memory.offset(address, 512)
            assert cds.checked(cds.save()) is not None
            if disks.emulated is not None:
                total = disks.emulated.sectors
                assert total > 0
                assert len(disks.emulated.disk.read_at(place % total * 512, 512)) == 512
        finally:
            memory.close()


class DiskHeaders(Parser):
    """What the header of a disk image names, which nobody may have made by qemu-img."""

    name = "disk-headers"
    share = 0.5
    errors = (ConfigError,)
    count = 100

    def one(self, source: Random) -> Input:
        backing = struct.pack(">II8sII", 0xE2792ACA, 5, b"qcow2", 0, 0) + b"base.qcow2"
        qcow2 = struct.pack(
            ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 128, 10, 16, 1 << 20, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 4, 104
        )
        text = b'# Disk DescriptorFile\ncreateType="monolithicSparse"\nparentFileNameHint="x"\n'
        vmdk = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 2048, 128, 1, 1).ljust(512, b"\0") + text
        vhd = b"conectix" + struct.pack(">IIQ", 2, 0x10000, 512).ljust(52, b"\0") + struct.pack(">I", 3)
        image = source.choice(
            (qcow2 + backing, vmdk, vhd.ljust(512, b"\0"), bytes(64) + b"\x7f\x10\xda\xbe", b"vhdxfile")
        )
        return mutate(source, image.ljust(2048, b"\0"), WORDS), source.choice(list(FORMATS))

    def feed(self, given: Input) -> None:
        image, kind = given
        container(image[:512], image[-512:])
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "image")
            path.write_bytes(image)
            file = ImageFile(path, read_only=True)
            try:
                below = under(file, kind)
                assert below is None or len(below.name) <= 1023
            finally:
                file.close()


class Symbols(Parser):
    """`SymbolTable` on ELF files: nothing raises."""

    name = "symbols"
    share = 1.5
    count = 300

    def __init__(self) -> None:
        self._seeds = [seed for name, seed in seeds().items() if name in ("elf32", "elf64", "pvh64", "multiboot32")]

    def one(self, source: Random) -> Input:
        seed = source.choice(self._seeds)
        return damage(source, seed.image, seed.fields, seed.records)

    def feed(self, given: Input) -> None:
        table = SymbolTable(given)
        for symbol in table:
            assert symbol.name.isprintable()
            assert table.lookup(symbol.address) is not None
            table.address(symbol.name)
        assert table.problem is None or table.problem.isprintable()


# Line tables


def _leb(value: int) -> bytes:
    """An unsigned LEB128 number (DWARF 5, 7.6)."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def line_program(address: int) -> bytes:
    """Five rows of a line number program of DWARF 4 (section 6.2), with its header."""
    tables = b"src\0\0" + b"a.c\0" + _leb(1) + _leb(0) + _leb(0) + b"\0"
    lengths = bytes((0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1))
    header = struct.pack("<BBBbBB", 1, 1, 1, -5, 14, 13) + lengths + tables
    program = b"\0\x09\x02" + struct.pack("<Q", address)
    program += b"\x03" + _leb(9) + b"\x01" + bytes((0x4B, 0x83, 0xF3)) + b"\x02" + _leb(300) + b"\x01\x06\x09\x04\0"
    program += b"\x02\x10\0\x01\x01"
    body = struct.pack("<HI", 4, len(header)) + header + program
    return struct.pack("<I", len(body)) + body


def with_lines() -> tuple[bytes, list[tuple[int, int]]]:
    """An ELF file with one compilation unit of DWARF 4, and where its debug sections are."""
    address = 0x100000
    abbreviations = bytes((1, 0x11, 0, 0x10, 0x17, 0x11, 0x01, 0x12, 0x07, 0, 0, 0))
    unit = struct.pack("<HIB", 4, 0, 8) + b"\x01" + struct.pack("<IQQ", 0, address, 0x400)
    ranges = struct.pack("<HIBB4xQQQQ", 2, 0, 8, 0, address, 0x400, 0, 0)
    debug = {
        b".debug_abbrev": abbreviations,
        b".debug_info": struct.pack("<I", len(unit)) + unit,
        b".debug_line": line_program(address),
        b".debug_aranges": struct.pack("<I", len(ranges)) + ranges,
        b".debug_str": b"\0",
    }
    image = elf([Part(address, b"\x90" * 0x400)], address, names=[Name("_start", address, 16, GLOBAL_FUNC)])
    (old,) = struct.unpack_from("<Q", image, 40)
    sections = image[old : old + 4 * 64]
    strings, places = b"\0", []
    for name, content in debug.items():
        places.append((len(image), len(content)))
        sections += struct.pack("<IIQQQQIIQQ", len(strings), 1, 0, 0, len(image), len(content), 0, 0, 1, 0)
        strings, image = strings + name + b"\0", image + content
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, len(image), len(strings), 0, 0, 1, 0)
    image += strings
    image = (
        image[:40]
        + struct.pack("<Q", len(image))
        + image[48:60]
        + struct.pack("<HH", len(sections) // 64, len(sections) // 64 - 1)
        + image[64:]
    )
    return image + sections, places


class Lines(Parser):
    """`SourceLines`: nothing raises, and looking up is bounded."""

    name = "dwarf"
    count = 20
    share = 0.6
    patience = 3
    """Its own budget is two seconds."""

    def __init__(self) -> None:
        self._image, self._places = with_lines()
        assert SourceLines(self._image).lookup(0x100010) == "src/a.c:12"

    def one(self, source: Random) -> Input:
        if not source.randrange(4):
            return mutate(source, self._image)
        image = self._image
        for _ in range(source.choice((1, 1, 2))):
            at, size = source.choice(self._places)
            part = mutate(source, image[at : at + size])
            image = image[:at] + part.ljust(size, b"\0")[:size] + image[at + size :]
        return image

    def feed(self, given: Input) -> None:
        lines: Any = SourceLines(given)
        for address in (0x100000, 0x100010, 0x1003FF, 0, 1 << 63):
            assert lines.lookup(address).isprintable()


def targets() -> list[Target]:
    formats = sorted({seed.format for seed in seeds().values()})
    return [*(Loader(name) for name in [*formats, "disk"]), Recogniser(), ElTorito(), DiskHeaders(), Symbols(), Lines()]
