"""The start states against the checks of a VM entry (Intel SDM volume 3C, 26.3.1) and descriptors made by hand."""

from __future__ import annotations

import pytest

from pykvm.x86 import start
from pykvm.x86.registers import Registers, Segment, SystemRegisters

State = tuple[Registers, SystemRegisters]

STATES: dict[str, State] = {
    "reset": start.reset(),
    "boot sector": start.real_mode(0x7C00),
    "real mode, high": start.real_mode(0x9_1234, 0x9_0000),
    "protected": start.protected_mode(0x10_0000, 0x1_4000, 0x1_4000),
    "long": start.long_mode(0x10_0000, 0x1_4000, 0x1_4000, 0x1_5000),
}


def _canonical(address: int) -> bool:
    return address >> 47 in (0, 0x1FFFF)


def _granularity_fits(segment: Segment) -> bool:
    low_ones, high_zeros = segment.limit & 0xFFF == 0xFFF, segment.limit >> 20 == 0
    return (low_ones or not segment.g) and (high_zeros or bool(segment.g))


@pytest.mark.parametrize("name", STATES)
def test_state_passes_the_vm_entry_checks_on_guest_state(name: str) -> None:
    registers, system = STATES[name]
    long_mode = bool(system.efer & 1 << 10)
    protected = bool(system.cr0 & 1)
    # 26.3.1.1: control registers
    assert not (system.cr0 >> 31 & 1 and not protected)
    assert bool(system.cr0 >> 31 & 1) == long_mode
    assert not (long_mode and not system.cr4 >> 5 & 1)
    assert system.efer >> 8 & 1 == system.efer >> 10 & 1
    assert system.cr3 % 4096 == 0
    # 26.3.1.2: segment registers
    cs, ss = system.cs, system.ss
    assert cs.type in (3, 9, 11, 13, 15)
    assert cs.s == 1
    assert cs.present == 1
    assert cs.dpl == ss.dpl == 0
    assert not (long_mode and cs.l and cs.db)
    assert ss.type in (3, 7)
    assert system.tr.type == 11
    assert system.tr.s == 0
    assert system.tr.present == 1
    assert not system.tr.unusable
    assert system.tr.selector & 4 == 0
    assert system.ldt.unusable or (system.ldt.type == 2 and system.ldt.s == 0 and system.ldt.present == 1)
    for segment in (cs, ss, system.ds, system.es, system.fs, system.gs):
        assert segment.base >> 32 == 0
        assert segment.unusable or (segment.s == 1 and segment.present == 1 and segment.type & 1)
    for segment in (cs, ss, system.ds, system.es, system.fs, system.gs, system.tr, system.ldt):
        assert _granularity_fits(segment)
        assert _canonical(segment.base)
    # 26.3.1.3 and 26.3.1.4: descriptor tables, RIP and RFLAGS
    for table in (system.gdt, system.idt):
        assert _canonical(table.base)
        assert table.limit >> 16 == 0
    assert registers.rip >> 32 == 0
    assert registers.rflags == 2


@pytest.mark.parametrize(
    ("address", "segment", "offset"),
    [
        (0, 0, 0),
        (0x7C00, 0, 0x7C00),
        (0xFFFF, 0, 0xFFFF),
        (0x10000, 0x1000, 0),
        (0x12345, 0x1234, 5),
        (0xFFFFF, 0xFFFF, 0xF),
    ],
)
def test_real_mode_address_becomes_segment_and_offset(address: int, segment: int, offset: int) -> None:
    registers, system = start.real_mode(address)
    assert (system.cs.selector, system.cs.base, registers.rip) == (segment, segment * 16, offset)
    assert system.cs.base + registers.rip == address


@pytest.mark.parametrize("address", [-1, 0x100000, 1 << 64])
def test_real_mode_reaches_the_first_mib_only(address: int) -> None:
    with pytest.raises(ValueError, match="first MiB"):
        start.real_mode(address)


@pytest.mark.parametrize(
    ("stack", "segment", "pointer"), [(0x7C00, 0, 0x7C00), (0x10000, 1, 0xFFF0), (0x9F000, 0x8F01, 0xFFF0)]
)
def test_real_mode_stack_ends_where_it_is_told_to(stack: int, segment: int, pointer: int) -> None:
    registers, system = start.real_mode(0x7C00, stack)
    assert (system.ss.selector, system.ss.base, registers.rsp) == (segment, segment * 16, pointer)
    assert system.ss.base + registers.rsp == stack


@pytest.mark.parametrize("stack", [0, 0x7C01, 0x100010])
def test_real_mode_refuses_a_stack_it_cannot_reach(stack: int) -> None:
    with pytest.raises(ValueError, match="stack"):
        start.real_mode(0x7C00, stack)


def test_gdt_has_the_descriptors_of_the_flat_model() -> None:
    # base 0, limit 0xFFFFF, G=1: code 0x9B (present, S, execute/read, accessed), data 0x93; D=1 or L=1
    words = [int.from_bytes(start.flat_gdt(bits)[at : at + 8], "little") for bits in (32, 64) for at in (0, 8, 16)]
    assert words[:3] == [0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF]
    assert words[3:] == [0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF]
    assert len(start.flat_gdt(32)) == start.GDT_SIZE


@pytest.mark.parametrize("name", ["protected", "long"])
def test_flat_segments_are_the_ones_in_the_gdt(name: str) -> None:
    _, system = STATES[name]
    assert (system.gdt.base, system.gdt.limit) == (0x14000, 23)
    assert system.cs.selector == 8
    for segment in (system.ds, system.es, system.fs, system.gs, system.ss):
        assert (segment.selector, segment.base, segment.limit, segment.db) == (0x10, 0, 0xFFFFFFFF, 1)
    assert system.idt.limit == 0, "an exception is a triple fault until the guest has an IDT"


def test_protected_mode_has_no_paging() -> None:
    registers, system = STATES["protected"]
    assert system.cr0 == 0x11  # PE, ET
    assert (system.cr4, system.efer) == (0, 0)
    assert (system.cs.db, system.cs.l) == (1, 0)
    assert (registers.rip, registers.rsp) == (0x100000, 0x14000)


def test_long_mode_is_active_with_sse() -> None:
    registers, system = STATES["long"]
    assert system.cr0 == 0x80000033  # PG, NE, ET, MP, PE
    assert system.cr4 == 0x620  # OSXMMEXCPT, OSFXSR, PAE
    assert system.efer == 0x500  # LMA, LME
    assert system.cr3 == 0x15000
    assert (system.cs.db, system.cs.l) == (0, 1)
    assert (registers.rip, registers.rsp) == (0x100000, 0x14000)


def test_reset_starts_sixteen_bytes_below_4_gib() -> None:
    registers, system = STATES["reset"]
    assert system.cs.base + registers.rip == 0xFFFFFFF0
    assert (system.cs.selector, system.cs.limit) == (0xF000, 0xFFFF)
    assert system.cr0 == 0x60000010
    assert (system.idt.base, system.idt.limit) == (0, 0xFFFF)
