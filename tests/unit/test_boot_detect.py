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
        (b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa", "flat"),
        (b"", "flat"),
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


def test_unknown_class_is_explained_by_the_elf_loader(memory: GuestMemory) -> None:
    with pytest.raises(ImageError, match="EI_CLASS"):
        load(patch(ELF_64, 4, 1, 9), memory, Options())


def test_unknown_format(memory: GuestMemory) -> None:
    with pytest.raises(ConfigError, match=r"no image format 'pe': choose one of .*flat"):
        load(ELF_64, memory, Options(), "pe")
