"""The identity map and the walker: tables made by hand after the figures of the Intel SDM, volume 3A, chapter 4."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.errors import PykvmError
from pykvm.x86 import paging
from pykvm.x86.registers import SystemRegisters

GIB = 1 << 30
CR0_PG_PE = 0x80000001
PAE, PSE, LA57 = 1 << 5, 1 << 4, 1 << 12
LONG, NXE = 0x500, 1 << 11
NX = 1 << 63

PAE_32 = SystemRegisters(cr0=CR0_PG_PE, cr4=PAE, cr3=0x1020)
PLAIN_32 = SystemRegisters(cr0=CR0_PG_PE, cr3=0x1000)
PSE_32 = SystemRegisters(cr0=CR0_PG_PE, cr4=PSE, cr3=0x1000)
LONG_4 = SystemRegisters(cr0=CR0_PG_PE, cr4=PAE, efer=LONG | NXE, cr3=0x1000)
LONG_5 = SystemRegisters(cr0=CR0_PG_PE, cr4=PAE | LA57, efer=LONG | NXE, cr3=0x1000)


class Tables:
    """Guest memory that holds only page-table entries: a dict from address to entry, zero elsewhere below 16 MiB."""

    def __init__(self, entries: dict[int, int]) -> None:
        self.entries = entries

    def __call__(self, gpa: int, size: int) -> bytes:
        if gpa + size > 16 << 20:
            raise PykvmError(f"{gpa:#x} is not in RAM")
        return self.entries.get(gpa, 0).to_bytes(size, "little")


def _flat(base: int, data: bytes) -> Callable[[int, int], bytes]:
    def read(gpa: int, size: int) -> bytes:
        assert base <= gpa
        assert gpa + size <= base + len(data)
        return data[gpa - base : gpa - base + size]

    return read


@given(st.integers(0, 4 * GIB - 1), st.sampled_from([0x1000, 0x10000, 3 * GIB - 0x6000]))
def test_identity_map_maps_every_address_below_4_gib_to_itself(linear: int, base: int) -> None:
    tables = paging.identity_map(base)
    system = SystemRegisters(cr0=CR0_PG_PE, cr4=PAE, efer=LONG, cr3=base)
    walk = paging.walk(_flat(base, tables), system, linear)
    assert (walk.physical, walk.page_size, walk.reason) == (linear, 2 << 20, None)
    assert walk.writable
    assert walk.executable
    assert not walk.user


@pytest.mark.parametrize(("top", "pages"), [(1, 3), (GIB, 3), (GIB + 1, 4), (4 * GIB, 6), (512 * GIB, 514)])
def test_identity_map_takes_a_page_directory_a_gib(top: int, pages: int) -> None:
    assert paging.identity_map_size(top) == len(paging.identity_map(0x1000, top)) == pages * 4096


def test_identity_map_ends_at_its_top() -> None:
    tables = paging.identity_map(0x1000)
    for linear in (4 * GIB, 511 * GIB, 1 << 46):
        walk = paging.walk(_flat(0x1000, tables), LONG_4, linear)
        assert walk.physical is None
        assert walk.reason is not None
        assert "not present" in walk.reason


@pytest.mark.parametrize(("base", "top"), [(0x1001, GIB), (0x1000, 0), (0x1000, 512 * GIB + 1)])
def test_identity_map_refuses_what_one_pdpt_cannot_hold(base: int, top: int) -> None:
    with pytest.raises(ValueError, match="no identity map"):
        paging.identity_map(base, top)


def test_without_paging_an_address_is_physical() -> None:
    walk = paging.walk(Tables({}), SystemRegisters(), 0x1_2345_6789)
    assert (walk.physical, walk.levels, walk.paging) == (0x23456789, [], "no paging")


# The indices are 257 (bit 47 and bit 39), 2, 3 and 4.
LINEAR_4 = 0xFFFF_8000_0000_0000 | 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x678


def _four_levels(pde: int = 0x4007, pte: int = 0xABCDE000 | 7) -> dict[int, int]:
    """CR3 0x1000, PML4 index 257, PDPT index 2 at 0x2000, PD index 3 at 0x3000, PT index 4 at 0x4000."""
    return {0x1000 + 257 * 8: 0x2007, 0x2000 + 2 * 8: 0x3007, 0x3000 + 3 * 8: pde, 0x4000 + 4 * 8: pte}


def test_four_levels_end_in_a_4_kib_page() -> None:
    walk = paging.walk(Tables(_four_levels()), LONG_4, LINEAR_4)
    assert (walk.physical, walk.page_size, walk.reason) == (0xABCDE678, 4096, None)
    assert [(level.name, level.address) for level in walk.levels] == [
        ("PML4E", 0x1808),
        ("PDPTE", 0x2010),
        ("PDE", 0x3018),
        ("PTE", 0x4020),
    ]
    assert walk.levels[0].flags == "P RW US"
    assert (walk.writable, walk.user, walk.executable) == (True, True, True)
    assert paging.translate(Tables(_four_levels()), LONG_4, LINEAR_4) == 0xABCDE678


@pytest.mark.parametrize("system", [PAE_32, PLAIN_32])
def test_an_address_has_32_bits_outside_long_mode(system: SystemRegisters) -> None:
    assert paging.walk(Tables({}), system, 0x5_1234_5678).linear == 0x12345678


@pytest.mark.parametrize("entry", [0x1808, 0x2010, 0x3018, 0x4020])
def test_each_level_can_forbid_user_access_and_writing(entry: int) -> None:
    tables = _four_levels()
    tables[entry] &= ~6
    walk = paging.walk(Tables(tables), LONG_4, LINEAR_4)
    assert (walk.writable, walk.user, walk.executable) == (False, False, True)
    tables[entry] |= 6 | NX
    walk = paging.walk(Tables(tables), LONG_4, LINEAR_4)
    assert (walk.writable, walk.user, walk.executable) == (True, True, False)


def test_rights_are_what_all_levels_allow() -> None:
    tables = _four_levels(pde=0x4005, pte=0xABCDE003 | NX)
    walk = paging.walk(Tables(tables), LONG_4, LINEAR_4)
    assert (walk.writable, walk.user, walk.executable) == (False, False, False)
    assert walk.levels[-1].flags == "P RW NX"


def test_2_mib_page_of_four_levels() -> None:
    walk = paging.walk(Tables(_four_levels(pde=0x40600000 | 0x87)), LONG_4, LINEAR_4)
    assert (walk.physical, walk.page_size) == (0x40600000 | 4 << 12 | 0x678, 2 << 20)
    assert walk.levels[-1].flags == "P RW US PS"


def test_1_gib_page_of_four_levels() -> None:
    tables = {0x1000 + 257 * 8: 0x2007, 0x2000 + 2 * 8: 5 * GIB | 0x87}
    walk = paging.walk(Tables(tables), LONG_4, LINEAR_4)
    assert (walk.physical, walk.page_size) == (5 * GIB | 3 << 21 | 4 << 12 | 0x678, GIB)


def test_five_levels() -> None:
    linear = 0x00AB_0000_0000_0000 | LINEAR_4 & 0xFFFF_FFFF_FFFF
    index = linear >> 48 & 0x1FF
    assert index == 0xAB
    tables = {0x1000 + index * 8: 0x9007, 0x9000 + 257 * 8: 0x2007, **_four_levels()}
    walk = paging.walk(Tables(tables), LONG_5, linear)
    assert [level.name for level in walk.levels] == ["PML5E", "PML4E", "PDPTE", "PDE", "PTE"]
    assert (walk.physical, walk.paging) == (0xABCDE678, "5-level paging")


@pytest.mark.parametrize(
    ("system", "linear", "canonical"),
    [
        (LONG_4, 0x0000_7FFF_FFFF_FFFF, True),
        (LONG_4, 0x0000_8000_0000_0000, False),
        (LONG_4, 0xFFFF_7FFF_FFFF_FFFF, False),
        (LONG_4, 0xFFFF_8000_0000_0000, True),
        (LONG_5, 0x0000_8000_0000_0000, True),
        (LONG_5, 0x0100_0000_0000_0000, False),
        (LONG_5, 0xFF00_0000_0000_0000, True),
    ],
)
def test_canonical_addresses(system: SystemRegisters, linear: int, canonical: bool) -> None:
    walk = paging.walk(Tables({}), system, linear)
    assert walk.reason is not None
    assert ("not canonical" in walk.reason) is not canonical
    assert bool(walk.levels) is canonical


def test_pae() -> None:
    # linear 0xC0604123: PDPTE 3 at CR3 (32-byte aligned), PDE 3, PTE 4; the address is 36 bits wide
    tables = {0x1020 + 3 * 8: 0x3001, 0x3000 + 3 * 8: 0x4007, 0x4000 + 4 * 8: 0xF_0000_5003}
    walk = paging.walk(Tables(tables), PAE_32, 0xC0604123)
    assert (walk.physical, walk.page_size, walk.paging) == (0xF_0000_5123, 4096, "PAE paging")
    assert [level.address for level in walk.levels] == [0x1038, 0x3018, 0x4020]
    assert walk.writable, "a PAE PDPTE has no R/W bit that could forbid it"
    assert not walk.user


def test_pae_2_mib_page_and_the_pdpte_has_reserved_bits() -> None:
    tables = {0x1038: 0x3001, 0x3018: 0x800087}
    assert paging.translate(Tables(tables), PAE_32, 0xC0604123) == 0x804123
    walk = paging.walk(Tables({**tables, 0x1038: 0x3003}), PAE_32, 0xC0604123)
    assert walk.reason == "the PDPTE at 0x1038 has reserved bits set (0x2)"


def test_32_bit() -> None:
    # linear 0x00C04123: PDE 3, PTE 4
    tables = {0x100C: 0x2003, 0x2010: 0xFEE00007}
    for system in (PLAIN_32, PSE_32):
        walk = paging.walk(Tables(tables), system, 0x00C04123)
        assert (walk.physical, walk.page_size, walk.paging) == (0xFEE00123, 4096, "32-bit paging")
        assert [level.address for level in walk.levels] == [0x100C, 0x2010]


def test_32_bit_4_mib_page_needs_pse() -> None:
    tables = {0x100C: 0x00C00083, 0x00C00010: 0x7003}
    assert paging.translate(Tables(tables), PSE_32, 0x00C04123) == 0x00C04123
    assert paging.translate(Tables(tables), PLAIN_32, 0x00C04123) == 0x7123, "PS is ignored without CR4.PSE"


def test_pse_36_gives_a_4_mib_page_an_address_above_4_gib() -> None:
    walk = paging.walk(Tables({0x100C: 0x00C00083 | 0x85 << 13}), PSE_32, 0x00C04123)
    assert (walk.physical, walk.page_size) == (0x85 << 32 | 0x00C04123, 4 << 20)
    walk = paging.walk(Tables({0x100C: 0x00C00083 | 1 << 21}), PSE_32, 0x00C04123)
    assert walk.reason == "the PDE at 0x100c has reserved bits set (0x200000)"


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({0x1808: 0x2006}, "the PML4E at 0x1808 is not present"),
        ({0x1808: 0x2087}, "the PML4E at 0x1808 has reserved bits set (0x80)"),
        ({0x1808: 0x2007, 0x2010: 5 * GIB | 0x2087}, "the PDPTE at 0x2010 has reserved bits set (0x2000)"),
        ({0x1808: 0x2007, 0x2010: 0x3007, 0x3018: 0x6087}, "the PDE at 0x3018 has reserved bits set (0x6000)"),
        (_four_levels(pte=0xF_FFFF_FFFF_F007), "the PTE at 0x4020 has reserved bits set (0xff00000000000)"),
        ({0x1808: 0x100_0007}, "the PDPTE at 0x1000010 cannot be read: 0x1000010 is not in RAM"),
    ],
)
def test_walk_says_where_it_ends_and_why(tables: dict[int, int], reason: str) -> None:
    walk = paging.walk(Tables(tables), LONG_4, LINEAR_4, physical_bits=44)
    assert (walk.physical, walk.page_size, walk.reason) == (None, None, reason)
    assert reason in str(walk)


def test_nx_is_reserved_until_efer_nxe_allows_it() -> None:
    tables = Tables(_four_levels(pte=NX | 0x5007))
    assert paging.walk(tables, LONG_4, LINEAR_4).physical == 0x5678
    walk = paging.walk(tables, SystemRegisters(cr0=CR0_PG_PE, cr4=PAE, efer=LONG, cr3=0x1000), LINEAR_4)
    assert walk.reason == "the PTE at 0x4020 has reserved bits set (0x8000000000000000)"


def test_a_short_read_is_a_reason() -> None:
    walk = paging.walk(lambda gpa, size: b"\7", LONG_4, 0)
    assert walk.reason == "the PML4E at 0x1000 cannot be read: only 1 bytes of it are there"


def test_a_table_that_points_to_itself_ends_at_the_last_level() -> None:
    tables = {0x1000 + 511 * 8: 0x1003}
    walk = paging.walk(Tables(tables), LONG_4, 0xFFFF_FFFF_FFFF_F123)
    assert (walk.physical, len(walk.levels)) == (0x1123, 4)


WORD = st.integers(0, (1 << 64) - 1)


@given(cr0=WORD, cr3=WORD, cr4=WORD, efer=WORD, linear=WORD, entries=st.lists(WORD, min_size=1, max_size=16))
def test_no_tables_and_no_registers_make_the_walk_raise(
    cr0: int, cr3: int, cr4: int, efer: int, linear: int, entries: list[int]
) -> None:
    def read(gpa: int, size: int) -> bytes:
        if gpa % 3 == 1:
            raise PykvmError("no RAM")
        return (entries[gpa % len(entries)] & (1 << 8 * size) - 1).to_bytes(size, "little")

    walk = paging.walk(read, SystemRegisters(cr0=cr0, cr3=cr3, cr4=cr4, efer=efer), linear)
    assert (walk.physical is None) == (walk.reason is not None)
    assert len(walk.levels) <= 5
    assert str(walk)
