"""What breakpoints are made of: debug registers first, INT3s for the rest (SDM volume 3B, 17.2)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pykvm.debug.breakpoints import (
    ACCESS,
    EXECUTE,
    WRITE,
    BreakpointError,
    Breakpoints,
    Placement,
    Slot,
    Watch,
    slots_hit,
)
from pykvm.memory import GuestMemory


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory("64K")
    yield ram
    ram.close()


def same(linear: int) -> int | None:
    """An identity map of 1 MiB, more than there is RAM."""
    return linear if linear < 1 << 20 else None


def test_dr7() -> None:
    # 17.2.4: G0..G3 are bits 1, 3, 5, 7; bit 10 is one; R/W0 and LEN0 are bits 16-17 and 18-19, 4 bits a register.
    assert Placement([Slot(0, EXECUTE)]).dr7 == 0x402
    assert Placement([Slot(0, WRITE, 1), Slot(0, ACCESS, 4)]).dr7 == 0x40A | 0b0001 << 16 | 0b1111 << 20
    assert (
        Placement([Slot(0, EXECUTE), Slot(0, WRITE, 8), Slot(0, WRITE, 2)]).dr7 == 0x42A | 0b1001 << 20 | 0b0101 << 24
    )


def test_slots_hit_are_those_in_dr6() -> None:
    slots = [Slot(at, EXECUTE) for at in range(3)]
    assert [slot.address for slot in slots_hit(slots, 0xFFFF0FF5)] == [0, 2]
    assert slots_hit(slots, 0xFFFF4FF8) == []


@pytest.mark.parametrize(
    ("address", "size", "pieces"),
    [
        (0x1000, 8, [(0x1000, 8)]),
        (0x1001, 4, [(0x1001, 1), (0x1002, 2), (0x1004, 1)]),
        (0x1004, 8, [(0x1004, 4), (0x1008, 4)]),
        (0x1000, 32, [(0x1000, 8), (0x1008, 8), (0x1010, 8), (0x1018, 8)]),
    ],
)
def test_watchpoints_are_cut_into_aligned_pieces(address: int, size: int, pieces: list[tuple[int, int]]) -> None:
    assert [(slot.address, slot.size) for slot in Watch(address, size).pieces()] == pieces


def test_debug_registers_go_to_those_that_need_them(memory: GuestMemory) -> None:
    breakpoints = Breakpoints()
    breakpoints.software = {0x100, 0x200, 0x300, 0x20000, 0x200000}
    breakpoints.watches = {Watch(0x1000, 4)}
    placement = breakpoints.place(memory, same)
    # The watchpoint; 0x20000 (mapped, no RAM) and 0x200000 (not mapped); one is left.
    assert [slot.address for slot in placement.slots] == [0x1000, 0x20000, 0x200000, 0x100]
    assert sorted(placement.patches) == [0x200, 0x300]
    assert placement.missing == []
    # The guest uses the debug registers itself: they are taken only where nothing else will do.
    placement = breakpoints.place(memory, same, 0)
    assert [slot.address for slot in placement.slots] == [0x1000, 0x20000, 0x200000]
    assert sorted(placement.patches) == [0x100, 0x200, 0x300]


def test_what_has_no_place_is_told(memory: GuestMemory) -> None:
    breakpoints = Breakpoints()
    breakpoints.software = {1 << 30 | at for at in range(6)}
    placement = breakpoints.place(memory, same)
    assert len(placement.slots) == 4
    assert placement.missing == [1 << 30 | 4, 1 << 30 | 5]
    breakpoints.hardware = {1, 2, 3}
    breakpoints.watches = {Watch(0x1001, 4)}
    with pytest.raises(BreakpointError, match="6 debug registers"):
        breakpoints.place(memory, same)


def test_int3s_come_and_go(memory: GuestMemory) -> None:
    memory.write(0x100, bytes(range(8)))
    breakpoints = Breakpoints()
    breakpoints.software = {0x101, 0x103}
    placement = breakpoints.place(memory, same, 0)
    placement.patch(memory)
    assert memory.read(0x100, 8).hex() == "00cc02cc04050607"
    memory.write(0x103, b"\x99")  # by the guest
    placement.unpatch(memory)
    assert memory.read(0x100, 8).hex() == "0001029904050607"
    assert placement.patches == {}
