"""Everything that page tables map, as few ranges as possible: the whole address space, where `paging.walk` takes one
address.

Sources: as for `paging`. Whatever is in the tables, the work is bounded: loops and tables that map themselves (as many
kernels' do on purpose) only make ranges, until there are too many of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import PykvmError
from .paging import (
    PAE,
    PAGE_MASK,
    PTE_NX,
    PTE_P,
    PTE_PS,
    PTE_RW,
    PTE_US,
    Structure,
    page_frame,
    reserved_bits,
    structure_of,
)
from .registers import EFER_LMA, EFER_NXE, SystemRegisters

TABLES_LIMIT = 1 << 14
"""Tables that are read: 4 KiB pages for 32 GiB."""
RANGES_LIMIT = 4096
PROBLEMS_LIMIT = 64


class Mapping(NamedTuple):
    """`size` bytes from `linear` on lie from `physical` on, in pages of `page_size` bytes, with the same rights."""

    linear: int
    size: int
    physical: int
    page_size: int
    writable: bool
    user: bool
    executable: bool

    @property
    def rights(self) -> str:
        """Such as "rwx user": what ring 3, or the supervisor alone, may do."""
        return f"r{'w' if self.writable else '-'}{'x' if self.executable else '-'} {'user' if self.user else 'kernel'}"


@dataclass(slots=True)
class PageMap:
    """What the tables that `root` (a guest physical address) begins map."""

    paging: str
    root: int
    mappings: list[Mapping] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Tables that cannot be read, entries with reserved bits set: at most `PROBLEMS_LIMIT`."""
    tables: int = 0
    """How many tables were read, each as often as it was met."""
    complete: bool = True
    """Whether all of it was looked at: not if a limit was reached."""


class _Full(Exception):
    """A limit is reached."""


def page_map(read: Callable[[int, int], bytes], system: SystemRegisters, physical_bits: int = 52) -> PageMap:
    """All mappings, by rising linear address. `read` and `physical_bits` as for `paging.walk`."""
    structure = structure_of(system)
    if structure is None:
        return PageMap("no paging", 0)
    result = PageMap(structure.words, system.cr3 & structure.root_mask)
    mapper = _Mapper(read, structure, bool(system.efer & EFER_NXE), physical_bits, bool(system.efer & EFER_LMA), result)
    try:
        mapper.table(result.root, 0, 0, True, True, True)
    except _Full:
        result.complete = False
    mapper.end()
    return result


class _Mapper:
    def __init__(
        self,
        read: Callable[[int, int], bytes],
        structure: Structure,
        no_execute: bool,
        physical_bits: int,
        long_mode: bool,
        result: PageMap,
    ) -> None:
        self._read = read
        self._structure = structure
        self._no_execute = no_execute and structure.entry_size == 8
        self._result = result
        self._last: Mapping | None = None
        top = structure.levels[0].shift + structure.levels[0].width
        self._sign = 1 << top - 1 if long_mode else 0
        self._top = 1 << top
        self._reserved = [
            tuple(reserved_bits(structure, level, last, self._no_execute, physical_bits) for last in (False, True))
            for level in structure.levels
        ]

    def table(self, table: int, depth: int, linear: int, writable: bool, user: bool, executable: bool) -> None:
        """Go through a table of the level `depth`, which maps from `linear` on, with the rights of those above it."""
        structure = self._structure
        level = structure.levels[depth]
        final = depth == len(structure.levels) - 1
        for index, value in self._entries(table, depth, linear):
            if not value & PTE_P:
                continue
            here = linear | index << level.shift
            last = final or bool(level.leaf and value & PTE_PS)
            wrong = value & self._reserved[depth][last]
            if wrong:
                address = table + index * structure.entry_size
                self._problem(
                    f"the {level.name} at {address:#x}, for {self._canonical(here):#x}: reserved bits {wrong:#x}"
                )
                continue
            allowed = (writable, user, executable)
            if structure is not PAE or depth:  # a PAE PDPTE has no access rights
                allowed = (
                    writable and bool(value & PTE_RW),
                    user and bool(value & PTE_US),
                    executable and not (self._no_execute and value & PTE_NX),
                )
            if not last:
                self.table(value & PAGE_MASK, depth + 1, here, *allowed)
                continue
            size = 1 << level.shift
            self._add(Mapping(self._canonical(here), size, page_frame(structure, level, value), size, *allowed))

    def _entries(self, table: int, depth: int, linear: int) -> Iterator[tuple[int, int]]:
        """The entries of a table that are not 0, as many of them as can be read."""
        result, structure = self._result, self._structure
        if result.tables >= TABLES_LIMIT:
            raise _Full
        result.tables += 1
        level = structure.levels[depth]
        size = structure.entry_size << level.width
        try:
            raw = self._read(table, size)
        except PykvmError as error:
            self._problem(f"the table of {level.name}s at {table:#x}, for {self._canonical(linear):#x}: {error}")
            return iter(())
        if not any(raw):
            return iter(())
        code = "Q" if structure.entry_size == 8 else "I"
        whole = raw[: len(raw) // structure.entry_size * structure.entry_size]
        return ((index, value) for index, (value,) in enumerate(struct.iter_unpack(f"<{code}", whole)) if value)

    def _canonical(self, linear: int) -> int:
        return linear | (1 << 64) - self._top if linear & self._sign else linear

    def _add(self, new: Mapping) -> None:
        last = self._last
        if (
            last is not None
            and last.linear + last.size == new.linear
            and last.physical + last.size == new.physical
            and last[3:] == new[3:]
        ):
            self._last = last._replace(size=last.size + new.size)
            return
        self.end()
        if len(self._result.mappings) >= RANGES_LIMIT:
            raise _Full
        self._last = new

    def end(self) -> None:
        """Put the last range to the others."""
        if self._last is not None:
            self._result.mappings.append(self._last)
            self._last = None

    def _problem(self, text: str) -> None:
        problems = self._result.problems
        if len(problems) >= PROBLEMS_LIMIT:
            raise _Full
        problems.append(text)
