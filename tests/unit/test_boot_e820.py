"""The memory map of machines of all sizes, worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.boot.e820 import Kind, Range, lower_kib, memory_map, upper_kib
from pykvm.memory import GuestMemory

USABLE, RESERVED, ACPI = 1, 2, 3
FIRST_MIB = [
    (0, 0x9FC00, USABLE),
    (0x9FC00, 0x400, RESERVED),
    (0xE0000, 0x10000, ACPI),
    (0xF0000, 0x10000, RESERVED),
]
GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "ranges", "lower", "upper"),
    [
        ("16K", [(0, 0x4000, USABLE)], 16, 0),
        ("640K", FIRST_MIB[:2], 639, 0),
        ("636K", [(0, 0x9F000, USABLE)], 636, 0),
        ("1M", FIRST_MIB, 639, 0),
        ("64M", [*FIRST_MIB, (0x100000, 63 << 20, USABLE)], 639, 63 << 10),
        ("3G", [*FIRST_MIB, (0x100000, 3 * GIB - 0x100000, USABLE)], 639, (3 << 20) - 1024),
        (
            "5G",
            [*FIRST_MIB, (0x100000, 3 * GIB - 0x100000, USABLE), (4 * GIB, 2 * GIB, USABLE)],
            639,
            (3 << 20) - 1024,
        ),
    ],
)
def test_map(size: str, ranges: list[tuple[int, int, int]], lower: int, upper: int) -> None:
    ram = GuestMemory(size)
    assert memory_map(ram) == ranges
    assert (lower_kib(ram), upper_kib(ram)) == (lower, upper)
    ram.close()


@given(st.integers(1, 1 << 21).map(lambda pages: pages << 12))
def test_ranges_are_ram_in_order_and_apart(size: int) -> None:
    ram = GuestMemory(size)
    ranges = memory_map(ram)
    for area in ranges:
        assert isinstance(area, Range)
        assert area.size > 0
        ram.offset(area.base, area.size)  # raises if it is not RAM
    assert all(first.base + first.size <= second.base for first, second in pairwise(ranges))
    usable = sum(area.size for area in ranges if area.kind is Kind.USABLE)
    assert size - usable == max(0, min(size, 1 << 20) - 0x9FC00)
    ram.close()
