"""Formats told apart by content, and the dispatch to their loaders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from elf_writer import Part, elf, patch

from pykvm.boot import EntryState, ImageError, Module, Options, Span, detect
from pykvm.boot.detect import Entry, choose, load, recognise
from pykvm.boot.format import Format
from pykvm.errors import ConfigError
from pykvm.memory import GuestMemory

ELF_32, ELF_64 = (elf([Part(0x100000, b"\xf4")], 0x100000, bits=bits) for bits in (32, 64))
MULTIBOOT_1 = bytes.fromhex("02b0ad1b 00000000 fe4f52e4")
MULTIBOOT_2 = bytes.fromhex("d65052e8 00000000 18000000 12afad17 00000000 08000000")
"""Magic, architecture or flags, length, checksum; the second with its end tag."""


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory("2M")
    yield ram
    ram.close()


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (ELF_32, "elf32"),
        (ELF_64, "elf64"),
        (b"\x7fELF", "elf64"),
        (b"\x7fEL", "flat"),
        (b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa", "disk"),
        (b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa" + bytes(1440 * 1024 - 512), "floppy"),
        (b"\xeb\xfe".ljust(510, b"\0") + b"\xaa\x55", "flat"),
        (b"", "flat"),
        (elf([Part(0x100000, MULTIBOOT_1)], 0x100000, bits=32), "multiboot"),
        (bytes(4096) + MULTIBOOT_1, "multiboot"),
        (bytes(4096) + MULTIBOOT_2 + MULTIBOOT_1, "multiboot2"),
        (b"MZ".ljust(0x1FE, b"\0") + b"\x55\xaa\xeb\x6aHdrS", "linux"),
    ],
)
def test_recognise(image: bytes, name: str) -> None:
    assert recognise(image) == name


@pytest.mark.parametrize(("image", "name"), [(ELF_32, "elf32"), (ELF_64, "elf64"), (b"\xf4", "flat")])
def test_load_goes_by_content(memory: GuestMemory, image: bytes, name: str) -> None:
    assert load(image, memory, Options()).format == name


def test_format_that_is_named_wins_over_content(memory: GuestMemory) -> None:
    state = load(ELF_64, memory, Options(), "flat")
    assert state.format == "flat"
    assert memory.read(0x7C00, len(ELF_64)) == ELF_64
    with pytest.raises(ImageError, match="no ELF file"):
        load(b"\xf4" * 64, memory, Options(), "elf64")


def test_tables_of_the_machine_are_there_whatever_the_format(memory: GuestMemory) -> None:
    load(b"\xf4", memory, Options(cpus=2))
    assert memory.read(0xE0000, 8) == b"RSD PTR "
    assert memory.read(0x9FC10, 4) == b"_MP_"
    assert memory.read(0xEE000, 4) == b"PCMP"
    load(b"\x90" * 0x10000, memory, Options(mode=32, load=0xE0000))  # an image may lie there all the same
    assert memory.read(0xE0000, 0x10000) == b"\x90" * 0x10000


def test_unknown_class_is_explained_by_the_elf_loader(memory: GuestMemory) -> None:
    with pytest.raises(ImageError, match="EI_CLASS"):
        load(patch(ELF_64, 4, 1, 9), memory, Options())


def test_unknown_format(memory: GuestMemory) -> None:
    with pytest.raises(ConfigError, match=r"no image format 'pe'. There are:\n(  \w+ .+\n)*  flat .*code"):
        load(ELF_64, memory, Options(), "pe")


# A header that does not count.


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (bytes(8192) + MULTIBOOT_1, "Multiboot header at file offset 0x2000 is at a wrong place"),
        (bytes(8184) + MULTIBOOT_1, "at file offset 0x1ff8 is at a wrong place"),  # begins inside, ends outside
        (bytes(0x102) + MULTIBOOT_1, "in the file's first 8 KiB, on a multiple of 4"),
        (bytes(32768) + MULTIBOOT_2, "Multiboot 2 header at file offset 0x8000"),
        (bytes(0x104) + MULTIBOOT_2, "in the file's first 32 KiB, on a multiple of 8"),
        (MULTIBOOT_1[:8] + bytes(4), "wrong checksum, 0x0, so no boot loader sees it: it must be 0xe4524ffe"),
        (MULTIBOOT_2[:12] + bytes(12), "wrong checksum, 0x0, so no boot loader sees it: it must be 0x17adaf12"),
        (elf([Part(0x100000, bytes(0x9000) + MULTIBOOT_1)], 0x100000), "at a wrong place"),
    ],
)
def test_a_multiboot_header_that_no_loader_sees(image: bytes, words: str) -> None:
    with pytest.raises(ImageError) as caught:
        recognise(image)
    assert words in str(caught.value)
    assert str(caught.value).endswith(("name the format: flat", "name the format: elf64"))


@pytest.mark.parametrize(
    "image",
    [
        b"\xb8\x02\xb0\xad\x1b\xcd\x80",  # mov eax, 0x1badb002: a boot loader looks for the number
        b"\x90" * 3 + b"\x3d\x02\xb0\xad\x1b\x75\xfe" + bytes(100),
        bytes(8192) + MULTIBOOT_1[:8] + bytes(4),
    ],
)
def test_the_magic_number_alone_is_no_header(image: bytes) -> None:
    assert recognise(image) == "flat"


# The exercise: a format is one file, and one line of the table.


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_toy(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
        state = detect.get("flat").load(image[4:], memory, Options(64, 0x200000 - 0x1000))
        memory.write(0x1000, options.command_line.encode())
        return EntryState(state.registers, state.system, "toy", spans=[Span(0x1FF000, 0x1FF000, len(image) - 4)])

    module = ModuleType("pykvm.boot.toy")
    module.FORMATS = (  # type: ignore[attr-defined]
        Format("toy", "TOY! at its beginning", lambda image: image[4:5] != b"?", load_toy, ("command_line",)),
    )
    monkeypatch.setitem(sys.modules, "pykvm.boot.toy", module)
    line = {"toy": Entry("toy", lambda image: image[:4] == b"TOY!")}
    monkeypatch.setattr(detect, "FORMATS", line | detect.FORMATS)


@pytest.mark.usefixtures("toy")
def test_a_format_of_one_s_own(memory: GuestMemory) -> None:
    assert recognise(b"TOY!\xf4") == "toy"
    assert recognise(b"TOY!?") == "flat"
    state = load(b"TOY!\xf4", memory, Options(command_line="hello"))
    assert (state.format, state.registers.rip) == ("toy", 0x1FF000)
    assert memory.read(0x1FF000, 1) == b"\xf4"
    assert memory.read(0x1000, 5) == b"hello"


@pytest.mark.usefixtures("toy")
def test_options_are_refused_by_what_a_format_declares() -> None:
    with pytest.raises(
        ConfigError, match="'toy', which has no place for an initrd or modules: only multiboot2, .*linux"
    ):
        choose(b"TOY!", Options(modules=[Module(b"")]), "toy")
    with pytest.raises(ConfigError, match="'toy', which has no place for entry: only flat"):
        choose(b"TOY!", Options(entry=0), "toy")
    with pytest.raises(ConfigError, match="'flat', which has no place for a command line: only toy, multiboot2"):
        choose(b"", Options(command_line="x"))
    with pytest.raises(ConfigError, match=r"There are:\n  toy +TOY! at its beginning\n  cd"):
        detect.get("tape")
    assert choose(b"TOY!", Options(mode=16)) == "flat"


@pytest.mark.parametrize("name", detect.FORMATS)
def test_the_table_names_the_file_that_declares_the_format(name: str) -> None:
    declared = detect.get(name)
    assert declared.name == name
    assert set(declared.takes) < set(Options.__slots__)
    assert declared.help
