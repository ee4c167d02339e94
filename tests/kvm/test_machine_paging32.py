"""The page tables of a kernel with 32-bit paging, as the host sees them. What it does is in test_guests.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LIMIT

from pykvm import Machine
from pykvm.x86.symbols import SymbolTable

Guest = Callable[[str], Path]

KERNEL_BASE, USER_BASE, HEAP, USER_STACK = 0xC0000000, 0x40000000, 0x40002000, 0x40001000

pytestmark = pytest.mark.needs("paging32")


def test_its_pages_are_as_it_made_them(guest: Guest) -> None:
    image = guest("paged32")
    symbols = SymbolTable(image.read_bytes())

    def physical(name: str) -> int:
        address = symbols.address(name)
        assert address is not None
        return address - KERNEL_BASE

    with Machine(image) as machine:
        assert machine.run(LIMIT).value is not None
        cpu = machine.vcpus[0]
        for linear, wanted in (
            (KERNEL_BASE, 0),
            (KERNEL_BASE + 0x3FFFFF, 0x3FFFFF),
            (USER_STACK + 0x123, physical("user_stack") + 0x123),
            (HEAP, physical("spare")),
            (0, None),
            (USER_BASE + 0x3000, None),
            (KERNEL_BASE + 0x400000, None),
        ):
            page = cpu.translate(linear)
            assert (page.physical if page.valid else None) == wanted
        assert machine.read_linear(HEAP, 4) == (42 - 14).to_bytes(4, "little")
