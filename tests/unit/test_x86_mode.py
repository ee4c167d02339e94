"""CPU modes, after the Intel SDM, volume 3A, 2.2 and 3.4.5."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.x86 import registers as named
from pykvm.x86 import start
from pykvm.x86.mode import cpu_mode
from pykvm.x86.registers import Registers, Segment, SystemRegisters, code_bits, linear_pc

PE, LMA, VM = 1, 1 << 10, 1 << 17


@pytest.mark.parametrize(
    ("cr0", "efer", "rflags", "db", "long", "words", "bits"),
    [
        (0, 0, 2, 0, 0, "real mode", 16),
        (0, 0, 2, 1, 0, "real mode, 32-bit code", 32),
        (PE, 0, 2, 0, 0, "protected mode, 16-bit", 16),
        (PE, 0, 2, 1, 0, "protected mode, 32-bit", 32),
        (PE, 0, 2, 1, 1, "protected mode, 32-bit", 32),  # L counts in long mode only
        (PE, 0, 2 | VM, 0, 0, "virtual-8086 mode", 16),
        (0, 0, 2 | VM, 0, 0, "real mode", 16),
        (PE, LMA, 2, 0, 1, "64-bit mode", 64),
        (PE, LMA, 2, 1, 0, "compatibility mode, 32-bit", 32),
        (PE, LMA, 2, 0, 0, "compatibility mode, 16-bit", 16),
        (PE, LMA, 2 | VM, 0, 1, "64-bit mode", 64),  # there is no virtual-8086 mode in long mode
    ],
)
def test_mode_and_code_width(cr0: int, efer: int, rflags: int, db: int, long: int, words: str, bits: int) -> None:
    mode = cpu_mode(SystemRegisters(cs=Segment(db=db, l=long), cr0=cr0, efer=efer), rflags)
    assert (mode.words, mode.bits) == (words, bits)


def test_ring_is_the_stack_segments_dpl() -> None:
    user = Segment(dpl=3)
    assert cpu_mode(SystemRegisters(ss=user, cr0=PE), 2).ring == 3
    assert cpu_mode(SystemRegisters(ss=user), 2).ring == 0, "real mode runs in ring 0"
    assert cpu_mode(SystemRegisters(cr0=PE), 2 | VM).ring == 3, "virtual-8086 mode runs in ring 3"


def test_start_states_are_in_the_mode_they_are_named_for() -> None:
    for (registers, system), bits in (
        (start.reset(), 16),
        (start.real_mode(0x7C00), 16),
        (start.protected_mode(0, 0, 0), 32),
        (start.long_mode(0, 0, 0, 0), 64),
    ):
        assert cpu_mode(system, registers.rflags).bits == bits


@given(st.integers(0), st.integers(0), st.integers(0), st.integers(0, 1), st.integers(0, 1))
def test_every_state_has_a_mode(cr0: int, efer: int, rflags: int, db: int, long: int) -> None:
    mode = cpu_mode(SystemRegisters(cs=Segment(db=db, l=long), cr0=cr0, efer=efer), rflags)
    assert mode.bits in (16, 32, 64)


@pytest.mark.parametrize(
    ("efer", "long", "rip", "expected"),
    [
        (0, 0, 0xFFF0, 0xFFFFFFF0),
        (0, 0, 0x10000, 0),  # the sum has 32 bits
        (0, 1, 0xFFF0, 0xFFFFFFF0),  # L counts in long mode only
        (LMA, 0, 0xFFF0, 0xFFFFFFF0),
        (LMA, 1, 0xFFFFFFFF80000000, 0xFFFFFFFF80000000),  # CS has no base in 64-bit mode
    ],
)
def test_the_linear_address_of_the_next_instruction(efer: int, long: int, rip: int, expected: int) -> None:
    system = SystemRegisters(cs=Segment(base=0xFFFF0000, l=long), efer=efer)
    assert linear_pc(Registers(rip=rip), system) == expected
    assert (code_bits(system) == 64) == (expected == rip)


def test_bits_by_name() -> None:
    # Intel SDM volume 3A, 2.5 and 2.2.1
    assert (named.CR0_PE, named.CR0_NE, named.CR0_WP, named.CR0_AM, named.CR0_NW, named.CR0_PG) == (
        1, 0x20, 0x10000, 0x40000, 0x20000000, 0x80000000,
    )  # fmt: skip
    assert (named.CR4_PAE, named.CR4_PGE, named.CR4_OSFXSR, named.CR4_LA57, named.CR4_SMEP, named.CR4_SMAP) == (
        0x20, 0x80, 0x200, 0x1000, 0x100000, 0x200000,
    )  # fmt: skip
    assert (named.EFER_SCE, named.EFER_LME, named.EFER_LMA, named.EFER_NXE) == (1, 0x100, 0x400, 0x800)
