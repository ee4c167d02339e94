"""All that page tables map: against the one-address walker, and against tables that mean harm."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.memory import GuestMemory
from pykvm.qemu.info import pages
from pykvm.x86.pagemap import PROBLEMS_LIMIT, RANGES_LIMIT, TABLES_LIMIT, Mapping, page_map
from pykvm.x86.paging import identity_map, walk
from pykvm.x86.registers import CR0_PE, CR0_PG, CR4_PAE, CR4_PSE, EFER_LMA, EFER_LME, EFER_NXE, SystemRegisters

LONG = SystemRegisters(cr0=CR0_PE | CR0_PG, cr3=0x1000, cr4=CR4_PAE, efer=EFER_LME | EFER_LMA | EFER_NXE)
PAE = SystemRegisters(cr0=CR0_PE | CR0_PG, cr3=0x1000, cr4=CR4_PAE, efer=EFER_NXE)
PLAIN = SystemRegisters(cr0=CR0_PE | CR0_PG, cr3=0x1000, cr4=CR4_PSE)


class Ram:
    def __init__(self, size: int = 0x10000) -> None:
        self.memory = GuestMemory(size)

    def put(self, address: int, *entries: int, code: str = "Q") -> None:
        self.memory.write(address, struct.pack(f"<{len(entries)}{code}", *entries))


@pytest.fixture
def ram():
    made = Ram()
    yield made
    made.memory.close()


def test_without_paging_there_is_nothing_to_map(ram: Ram) -> None:
    found = page_map(ram.memory.read, SystemRegisters())
    assert (found.paging, found.mappings, found.tables) == ("no paging", [], 0)


def test_an_identity_map_is_one_range(ram: Ram) -> None:
    ram.memory.write(0x1000, identity_map(0x1000, 4 << 30))
    found = page_map(ram.memory.read, LONG)
    assert found.mappings == [Mapping(0, 4 << 30, 0, 2 << 20, True, False, True)]
    assert found.mappings[0].rights == "rwx kernel"
    assert found.complete
    assert found.tables == 6


def test_rights_are_what_all_levels_allow_and_split_ranges(ram: Ram) -> None:
    nx = 1 << 63
    ram.put(0x1000, 0x2007)
    ram.put(0x1000 + 8 * 511, 0x2005)  # the same below, read-only
    ram.put(0x2000, 0x3007)
    ram.put(0x3000, 0x4007)
    ram.put(0x4000, 0x5007, 0x6007, 0x7005, nx | 0x8007, 0x9003)
    found = page_map(ram.memory.read, LONG)
    high = 0xFFFFFF8000000000
    assert [(each.linear, each.size, each.physical, each.rights) for each in found.mappings] == [
        (0x0000, 0x2000, 0x5000, "rwx user"),
        (0x2000, 0x1000, 0x7000, "r-x user"),
        (0x3000, 0x1000, 0x8000, "rw- user"),
        (0x4000, 0x1000, 0x9000, "rwx kernel"),
        (high, 0x3000, 0x5000, "r-x user"),
        (high + 0x3000, 0x1000, 0x8000, "r-- user"),
        (high + 0x4000, 0x1000, 0x9000, "r-x kernel"),
    ]


def test_32_bit_paging_with_large_pages(ram: Ram) -> None:
    ram.put(0x1000, 0x00000083, 0x2003, code="I")
    ram.put(0x2000, 0x5003, code="I")
    found = page_map(ram.memory.read, PLAIN)
    assert found.paging == "32-bit paging"
    assert [(each.linear, each.size, each.page_size) for each in found.mappings] == [
        (0, 4 << 20, 4 << 20),
        (4 << 20, 0x1000, 0x1000),
    ]


def test_pae_entries_at_the_top_have_no_rights(ram: Ram) -> None:
    ram.put(0x1000, 0x2001)
    ram.put(0x2000, 0x87)
    assert page_map(ram.memory.read, PAE).mappings == [Mapping(0, 2 << 20, 0, 2 << 20, True, True, True)]


# Harm


def test_tables_that_cannot_be_read_are_named(ram: Ram) -> None:
    ram.put(0x1000, 0x2007)
    ram.put(0x2000, 0xDEAD_F007, 0x3007)
    ram.put(0x3000, 0x87)
    found = page_map(ram.memory.read, LONG)
    (problem,) = found.problems
    assert "0xdeadf000" in problem
    assert [each.linear for each in found.mappings] == [1 << 30]
    assert found.complete


def test_a_root_outside_ram(ram: Ram) -> None:
    found = page_map(ram.memory.read, SystemRegisters(cr0=LONG.cr0, cr3=0xFFFFF000, cr4=LONG.cr4, efer=LONG.efer))
    assert found.mappings == []
    assert "0xfffff000" in found.problems[0]


def test_reserved_bits_are_named(ram: Ram) -> None:
    ram.put(0x1000, 0x2087)  # PS in a PML4E
    found = page_map(ram.memory.read, LONG)
    assert found.mappings == []
    assert "PML4E at 0x1000" in found.problems[0]
    assert "0x80" in found.problems[0]


def test_a_table_that_maps_itself_once_is_no_harm(ram: Ram) -> None:
    ram.put(0x1000, 0x1003)
    found = page_map(ram.memory.read, LONG)
    assert found.mappings == [Mapping(0, 0x1000, 0x1000, 0x1000, True, False, True)]
    assert found.complete


def test_loops_end(ram: Ram) -> None:
    ram.put(0x1000, *[0x1007] * 512)
    found = page_map(ram.memory.read, LONG)
    assert not found.complete
    assert len(found.mappings) == RANGES_LIMIT


def test_empty_tables_without_end(ram: Ram) -> None:
    for level in range(3):
        ram.put(0x1000 * (level + 1), *[0x1000 * (level + 2) | 7] * 512)
    found = page_map(ram.memory.read, LONG)
    assert (found.tables, found.mappings, found.complete) == (TABLES_LIMIT, [], False)


def test_problems_without_end(ram: Ram) -> None:
    ram.put(0x1000, *[0xDEAD_F007] * 512)
    found = page_map(ram.memory.read, LONG)
    assert len(found.problems) == PROBLEMS_LIMIT
    assert not found.complete


ENTRIES = st.tuples(st.integers(1, 6), st.sampled_from([0, 0x80, 1 << 63, 4])).map(
    lambda pair: pair[0] << 12 | 0x3 | pair[1]
)


@given(st.lists(st.tuples(st.integers(0, 6 * 512 - 1), ENTRIES), max_size=20), st.sampled_from([LONG, PAE, PLAIN]))
def test_it_says_what_the_walker_says(places: list[tuple[int, int]], mode: SystemRegisters) -> None:
    """Tables at random, pointing to each other: both ends of each range are where the walker finds them."""
    ram = Ram()
    try:
        size = 4 if mode is PLAIN else 8
        for place, entry in places:
            ram.memory.write_int(0x1000 + place * size, size, entry)
        found = page_map(ram.memory.read, mode)
        for each in found.mappings[:20]:
            for offset in (0, each.size - 1):
                step = walk(ram.memory.read, mode, each.linear + offset)
                assert step.physical == each.physical + offset
                assert (step.writable, step.user, step.executable) == each[4:]
                assert step.page_size == each.page_size
        ends = [(each.linear, each.linear + each.size) for each in found.mappings]
        assert all(before[1] <= after[0] for before, after in pairwise(ends))
    finally:
        ram.memory.close()


def test_whoever_reads_the_tables_finds_a_large_page_above_4_gib(ram: Ram) -> None:
    """PSE-36: bits 20:13 of an entry are bits 39:32 of the page's address."""
    ram.put(0x1000, 0x0040_0083 | 0x12 << 13, code="I")
    system = PLAIN
    (mapping,) = page_map(ram.memory.read, system).mappings
    (page,) = pages(ram.memory.read, system)
    assert mapping.physical == page.physical == 0x12_0040_0000
    assert walk(ram.memory.read, system, 0x1234).physical == 0x12_0040_1234
