"""The symbol table of an ELF file: names for addresses and addresses for names.

Source: System V ABI (gABI), chapter 4: section headers (figure 4-8) and symbol table (figure 4-15).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator

from ..typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mmap import mmap

MAX_SYMBOLS = 1 << 18
"""Symbols read from one file: more than Linux has. Those behind them in the table are left out."""
MAX_SECTIONS = 4096
MAX_NAME = 512
"""Longest name in bytes of the file and in characters as it is shown; a longer one is cut."""
MAX_STRINGS = 1 << 26
"""Largest string table in bytes; names behind that are left out."""

SHT_SYMTAB = 2
SHN_UNDEF, SHN_ABS = 0, 0xFFF1
STT_FUNC, STT_SECTION, STT_FILE = 2, 3, 4
STB_LOCAL = 0

_ENCLOSING_LIMIT = 16
"""How many symbols `lookup` goes back to find one that encloses the address."""


class Symbol(NamedTuple):
    """`size` is in bytes. It is 0 where neither the symbol nor the section it is in says how far it reaches."""

    address: int
    size: int
    name: str


class _Class(NamedTuple):
    section_table: struct.Struct
    """e_shoff of the ELF header."""
    section_table_at: int
    section_count: struct.Struct
    """e_shentsize and e_shnum."""
    section_count_at: int
    section: struct.Struct
    symbol: struct.Struct


_CLASSES = {
    1: _Class(struct.Struct("<I"), 0x20, struct.Struct("<HH"), 0x2E, struct.Struct("<10I"), struct.Struct("<IIIBBH")),
    2: _Class(
        struct.Struct("<Q"), 0x28, struct.Struct("<HH"), 0x3A, struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ")
    ),
}


class _Section(NamedTuple):
    kind: int
    address: int
    offset: int
    size: int
    link: int


class SymbolTable:
    """The symbols of an ELF file, read when they are first asked for. Addresses are virtual, plus `bias`.

    No file makes this raise: a malformed one leaves the table empty, or short, and `problem` says why.
    """

    def __init__(self, image: bytes | mmap, bias: int = 0) -> None:
        self.image = image
        """The file: who wants its debug information finds it here."""
        self.bias = bias
        self._unread = True
        self._problem: str | None = None
        self._symbols: list[Symbol] = []
        """Sorted by address; of several at one address the best comes last."""
        self._addresses: list[int] = []
        self._names: dict[str, int] = {}

    @property
    def problem(self) -> str | None:
        """Why there are no symbols, or not all, in words; None if all is well."""
        self._read()
        return self._problem

    def __len__(self) -> int:
        """How many symbols have a place in memory."""
        self._read()
        return len(self._symbols)

    def __iter__(self) -> Iterator[Symbol]:
        """The symbols that have a place in memory, by rising address."""
        self._read()
        return iter(self._symbols)

    def lookup(self, address: int) -> tuple[str, int] | None:
        """The name of the function or object that `address` is in, and the offset in it; None if it is in none."""
        self._read()
        at = bisect_right(self._addresses, address)
        for symbol in reversed(self._symbols[max(at - _ENCLOSING_LIMIT, 0) : at]):
            offset = address - symbol.address
            if offset < symbol.size or offset == 0:
                return symbol.name, offset
        return None

    def address(self, name: str) -> int | None:
        """The address, or the value of a constant, that has the name; a global symbol wins over a local one."""
        self._read()
        return self._names.get(name)

    def _read(self) -> None:
        if not self._unread:
            return
        self._unread = False
        try:
            self._parse(self.image)
        except (struct.error, ValueError) as error:  # ValueError: the file's mapping was closed
            self._problem = f"the symbol table cannot be read: {error}"

    def _parse(self, image: bytes | mmap) -> None:
        kind = _CLASSES.get(image[4]) if image[:4] == b"\x7fELF" and len(image) > 5 else None
        if kind is None or image[5] != 1:
            self._problem = "not a little-endian ELF file"
            return
        sections = _sections(image, kind)
        tables = [section for section in sections if section.kind == SHT_SYMTAB]
        if not tables:
            self._problem = "the file has no symbol table (it was stripped)"
            return
        table = tables[0]
        if table.link >= len(sections):
            self._problem = f"the symbol table's names are in section {table.link}, which does not exist"
            return
        names = _contents(image, sections[table.link], MAX_STRINGS)
        entry_size = kind.symbol.size
        count = table.size // entry_size
        if count > MAX_SYMBOLS:
            self._problem = f"only the first {MAX_SYMBOLS} of {count} symbols are used"
        raw = _contents(image, table, MAX_SYMBOLS * entry_size)
        raw = raw[: len(raw) // entry_size * entry_size]
        ranked: list[tuple[int, bool, bool, bool, Symbol]] = []
        for fields in kind.symbol.iter_unpack(raw):
            if entry_size == 24:
                name_at, info, _, index, value, size = fields
            else:
                name_at, value, size, info, _, index = fields
            sort = info & 0xF
            if index == SHN_UNDEF or sort in (STT_FILE, STT_SECTION) or name_at >= len(names):
                continue
            end = names.find(b"\0", name_at, name_at + MAX_NAME)
            name = names[name_at : end if end >= 0 else name_at + MAX_NAME].decode("utf-8", "replace")
            if not name:
                continue
            if not name.isprintable():  # it may be printed on a terminal
                name = ascii(name)[1:-1][:MAX_NAME]
            is_global = info >> 4 != STB_LOCAL
            if index == SHN_ABS:
                if is_global or name not in self._names:
                    self._names[name] = value
                continue
            sized = size > 0
            if not size and index < len(sections):  # an assembler's label reaches as far as its section
                size = max(sections[index].address + sections[index].size - value, 0)
            symbol = Symbol(value + self.bias, size, name)
            ranked.append((symbol.address, sized, is_global, sort == STT_FUNC, symbol))
            if is_global or name not in self._names:
                self._names[name] = symbol.address
        ranked.sort()
        self._symbols = [symbol for *_, symbol in ranked]
        self._addresses = [symbol.address for symbol in self._symbols]


def _sections(image: bytes | mmap, kind: _Class) -> list[_Section]:
    """The section headers, as many as the file has room for and the limit allows."""
    (table,) = kind.section_table.unpack_from(image, kind.section_table_at)
    entry_size, count = kind.section_count.unpack_from(image, kind.section_count_at)
    if not table or entry_size != kind.section.size:
        return []
    count = min(count, MAX_SECTIONS, max(len(image) - table, 0) // entry_size)
    sections = []
    for number in range(count):
        _, section_type, _, address, offset, size, link, *_ = kind.section.unpack_from(
            image, table + number * entry_size
        )
        sections.append(_Section(section_type, address, offset, size, link))
    return sections


def _contents(image: bytes | mmap, section: _Section, limit: int) -> bytes:
    """The section's bytes, as many as are in the file, and at most `limit`."""
    return bytes(image[section.offset : section.offset + min(section.size, limit)])
