"""A kernel with 32-bit paging: pages of 4 MiB and 4 KiB, ring 3 by IRET, INT 0x80, and page faults that it mends."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LIMIT

from pykvm import Ending, Machine
from pykvm.x86.symbols import SymbolTable

Guest = Callable[[str], Path]

KERNEL_BASE, USER_BASE, HEAP, USER_STACK = 0xC0000000, 0x40000000, 0x40002000, 0x40001000

pytestmark = pytest.mark.needs("paging32")


def test_ring_3_is_served_and_its_fault_mended(guest: Guest) -> None:
    with Machine(guest("paged32")) as machine:
        outcome = machine.run(LIMIT)
        lines = machine.serial.text.splitlines()
    assert (outcome.ending, outcome.value) == (Ending.EXITED, 42 - 14)  # 42 from the new page, -14: EFAULT
    kernel, greeting, fault, refused, end = lines
    assert kernel == "paged32: the kernel runs at 0xc0000000, RAM's first 4 MiB"
    assert greeting == "hello from ring 3, by int 0x80"
    assert re.fullmatch(r"page fault: ring 3 writes to 0x40002000, where no page is, at eip 0x400000[0-9a-f]{2}", fault)
    assert refused == "write: refused to read 0xc0100000 for ring 3"
    assert end == "exit: 0x0000001c"


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
