"""Symbol tables of files that the tests write themselves, good and hostile."""

from __future__ import annotations

import mmap
import tempfile

import pytest
from elf_writer import GLOBAL_NOTYPE, GLOBAL_OBJECT, LOCAL_FILE, LOCAL_NOTYPE, SHN_ABS, Name, Part, elf, patch
from hypothesis import given
from hypothesis import strategies as st

from pykvm.x86 import symbols
from pykvm.x86.symbols import Symbol, SymbolTable

TEXT = Part(0x100000, b"\x90" * 0x100)
NAMES = [
    Name("start.c", 0, info=LOCAL_FILE),
    Name("main", 0x100040, 0x20),
    Name("_start", 0x100000, 0x10),
    Name("inner", 0x100044, 4),
    Name("tail", 0x100080, info=GLOBAL_NOTYPE),
    Name("MAGIC", 0x1BADB002, info=LOCAL_NOTYPE, section=SHN_ABS),
    Name("elsewhere", 0, section=0),
]


@pytest.fixture(params=[32, 64])
def table(request: pytest.FixtureRequest) -> SymbolTable:
    return SymbolTable(elf([TEXT], 0x100000, bits=request.param, names=NAMES))


def test_symbols_come_by_address(table: SymbolTable) -> None:
    assert list(table) == [
        Symbol(0x100000, 0x10, "_start"),
        Symbol(0x100040, 0x20, "main"),
        Symbol(0x100044, 4, "inner"),
        Symbol(0x100080, 0x80, "tail"),  # without a size: up to the end of .text
    ]
    assert len(table) == 4
    assert table.problem is None


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (0xFFFFF, None),
        (0x100000, ("_start", 0)),
        (0x10000F, ("_start", 0xF)),
        (0x100010, None),
        (0x100045, ("inner", 1)),
        (0x100048, ("main", 8)),  # behind `inner`, still in the function around it
        (0x10005F, ("main", 0x1F)),
        (0x100060, None),
        (0x1000FF, ("tail", 0x7F)),
        (0x100100, None),
        (0x1BADB002, None),
        (-1, None),
        (1 << 64, None),
    ],
)
def test_lookup(table: SymbolTable, address: int, found: tuple[str, int] | None) -> None:
    assert table.lookup(address) == found


def test_addresses_by_name(table: SymbolTable) -> None:
    assert table.address("main") == 0x100040
    assert table.address("MAGIC") == 0x1BADB002
    for name in ("elsewhere", "start.c", "nothing", ""):
        assert table.address(name) is None


def test_bias_moves_addresses_but_not_constants() -> None:
    table = SymbolTable(elf([TEXT], 0, names=NAMES), bias=0x1000)
    assert table.lookup(0x101041) == ("main", 1)
    assert table.address("main") == 0x101040
    assert table.address("MAGIC") == 0x1BADB002


def test_global_function_wins_at_one_address_and_global_name_over_local() -> None:
    names = [
        Name("same", 0x100001, 1),
        Name("same", 0x100002, 1, info=LOCAL_NOTYPE),
        Name("f", 0x100010, 4),
        Name("object", 0x100010, 4, info=GLOBAL_OBJECT),
        Name("label", 0x100010, 4, info=LOCAL_NOTYPE),
    ]
    table = SymbolTable(elf([TEXT], 0, names=names))
    assert table.address("same") == 0x100001
    assert table.lookup(0x100011) == ("f", 1)


def test_mapped_file_is_read_at_the_first_use() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(elf([TEXT], 0, names=NAMES))
        file.flush()
        image = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        table, late = SymbolTable(image), SymbolTable(image)
        assert table.address("main") == 0x100040
        image.close()
    assert table.address("_start") == 0x100000
    assert late.address("main") is None
    assert late.problem is not None
    assert "closed" in late.problem


def test_label_at_the_end_of_its_section_is_one_address() -> None:
    table = SymbolTable(elf([TEXT], 0, names=[Name("_end", 0x100100, info=GLOBAL_NOTYPE)]))
    assert table.lookup(0x100100) == ("_end", 0)
    assert table.lookup(0x100101) is None


def test_names_are_safe_to_print() -> None:
    table = SymbolTable(elf([TEXT], 0, names=[Name("\x1b[2Jf", 0x100000, 4), Name("größe", 0x100004, 4)]))
    assert [symbol.name for symbol in table] == [r"\x1b[2Jf", "größe"]


SECTIONS = len(elf([TEXT], 0, names=NAMES)) - 4 * 64  # the section headers are the end of the file


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (b"", "not a little-endian ELF file"),
        (b"\x7fELF", "not a little-endian ELF file"),
        (patch(elf([TEXT], 0), 5, 1, 2), "not a little-endian ELF file"),
        (patch(elf([TEXT], 0), 0x28, 8, 0), "stripped"),
        (patch(elf([TEXT], 0), 0x28, 8, 1 << 63), "stripped"),
        (elf([TEXT], 0)[:0x30], "cannot be read"),
        (patch(elf([TEXT], 0, names=NAMES), SECTIONS + 2 * 64 + 0x28, 4, 77), "section 77"),
    ],
)
def test_malformed_file_has_no_symbols_and_a_problem(image: bytes, problem: str) -> None:
    table = SymbolTable(image)
    assert list(table) == []
    assert table.problem is not None
    assert problem in table.problem


def test_table_larger_than_the_file_ends_with_the_file() -> None:
    image = patch(elf([TEXT], 0, names=NAMES), SECTIONS + 2 * 64 + 0x20, 8, 1 << 63)
    table = SymbolTable(image)
    assert table.address("main") == 0x100040
    assert len(table) < len(image) // 24


def test_number_of_symbols_and_length_of_names_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbols, "MAX_SYMBOLS", 3)
    monkeypatch.setattr(symbols, "MAX_NAME", 4)
    table = SymbolTable(elf([TEXT], 0, names=[Name(f"long{number}", 0x100000 + number, 1) for number in range(9)]))
    assert [symbol.name for symbol in table] == ["long", "long"]  # the first of the three is the table's empty entry
    assert table.problem == "only the first 3 of 10 symbols are used"


@given(
    bits=st.sampled_from([32, 64]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.sampled_from([1, 2, 4, 8]), st.integers(0)), max_size=6),
    from_end=st.booleans(),
    cut=st.integers(0, 300),
)
def test_no_file_makes_the_table_raise(
    bits: int, changes: list[tuple[int, int, int]], from_end: bool, cut: int
) -> None:
    image = elf([TEXT], 0x100000, bits=bits, names=NAMES)
    for offset, size, value in changes:
        at = len(image) - 8 - offset if from_end else offset
        image = patch(image, at, size, value % (1 << 8 * size))
    table = SymbolTable(image[: len(image) - cut])
    assert len(list(table)) <= len(image) // 16
    for symbol in table:
        assert table.lookup(symbol.address) is not None
    assert table.address("main") is None or isinstance(table.address("main"), int)
