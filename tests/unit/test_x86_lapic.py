"""The local APIC's page, against table 10-1 of the Intel SDM, volume 3A."""

from __future__ import annotations

import pytest

from pykvm.x86 import lapic


@pytest.mark.parametrize(
    ("register", "vector"),  # each register of a set has 32 vectors, the lowest in bit 0
    [(0x00, 0x00), (0x00, 0x1F), (0x10, 0x20), (0x10, 0x3F), (0x70, 0xE0), (0x70, 0xFF)],
)
@pytest.mark.parametrize("start", [0x100, 0x180, 0x200])
def test_a_vector_of_each_set(start: int, register: int, vector: int) -> None:
    page = bytearray(0x400)
    lapic.set_register(page, start + register, 1 << vector % 32)
    assert {at: lapic.vectors(page, at) for at in (lapic.ISR, lapic.TMR, lapic.IRR)} == {
        at: [vector] if at == start else [] for at in (0x100, 0x180, 0x200)
    }


def test_vectors_ascend() -> None:
    page = bytearray(0x400)
    lapic.set_register(page, 0x110, 0x80000001)
    lapic.set_register(page, 0x100, 0x00010000)
    assert lapic.vectors(page, lapic.ISR) == [0x10, 0x20, 0x3F]


def test_the_local_vector_table() -> None:
    page = bytearray(0x400)
    for number, offset in enumerate((0x320, 0x330, 0x340, 0x350, 0x360, 0x370)):
        lapic.set_register(page, offset, 0x10000 | number)
    assert lapic.lvt_entries(page) == [0x10000, 0x10001, 0x10002, 0x10003, 0x10004, 0x10005]
    assert lapic.register(page, lapic.LVT_LINT1) == lapic.LVT_MASKED | 4


def test_registers_are_little_endian_and_keep_their_neighbours() -> None:
    page = bytearray(b"\xaa" * 0x400)
    lapic.set_register(page, lapic.SVR, 0x123)
    assert page[0xEE:0xF6] == b"\xaa\xaa\x23\x01\x00\x00\xaa\xaa"
    assert lapic.register(page, lapic.SVR) & lapic.SVR_ENABLED
