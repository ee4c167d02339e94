"""Formats told apart by content, and the dispatch to their loaders."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from elf_writer import Part, elf, patch

from pykvm.boot import ImageError, Options
from pykvm.boot.detect import load, recognise
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
        (bytes(8192) + MULTIBOOT_1, "flat"),
        (MULTIBOOT_1[:8] + bytes(4), "flat"),
        (bytes(4096) + MULTIBOOT_2 + MULTIBOOT_1, "multiboot2"),
        (bytes(32768) + MULTIBOOT_2, "flat"),
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
    with pytest.raises(ConfigError, match=r"no image format 'pe': choose one of .*flat"):
        load(ELF_64, memory, Options(), "pe")
