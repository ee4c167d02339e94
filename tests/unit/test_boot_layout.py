"""The allocator of boot-time memory: gaps found by hand, and no overlap ever."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.boot import ImageError
from pykvm.boot.layout import Block, Layout, c_string, enter_long, enter_protected
from pykvm.memory import GuestMemory
from pykvm.x86 import paging

KIB = 1 << 10


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory("2M")
    yield ram
    ram.close()


def test_first_choice_is_the_lowest_conventional_memory_above_64_kib(memory: GuestMemory) -> None:
    layout = Layout(memory)
    assert layout.place(1, "a page") == 0x10000
    assert layout.place(0x1001, "two pages") == 0x11000
    assert layout.reserved == [(0x10000, 0x1000), (0x11000, 0x2000)]


def test_gaps_between_segments_are_used_and_page_aligned(memory: GuestMemory) -> None:
    layout = Layout(memory)
    layout.claim(0x12345, 0x10, "b")
    layout.claim(0x10000, 0x10, "a")
    assert layout.place(0x2000, "pages") == 0x13000
    assert layout.place(0x1000, "page") == 0x11000
    assert layout.place(0x1000, "page") == 0x15000


def test_video_memory_and_page_0_are_never_used(memory: GuestMemory) -> None:
    layout = Layout(memory)
    layout.claim(0x10000, 0x9F000 - 0x10000, "conventional memory above 64 KiB")
    assert layout.place(0xF000, "first 64 KiB") == 0x1000
    assert layout.place(0x1000, "extended memory") == 0x100000
    assert layout.place(0xFF000, "the rest") == 0x101000
    with pytest.raises(ImageError, match="no room for 4 KiB of one more in 2048 KiB of RAM"):
        layout.place(1, "one more")


def test_limit_from_above(memory: GuestMemory) -> None:
    layout = Layout(memory)
    layout.claim(0x1000, 0x9E000, "all conventional memory")
    with pytest.raises(ImageError, match="no room"):
        layout.place(0x1000, "stack", below=1 << 20)


def test_high_places_are_taken_from_the_top_down(memory: GuestMemory) -> None:
    layout = Layout(memory)
    layout.claim(0x1F0000, 0x10, "something")
    assert layout.place(0x4001, "a", high=True) == 0x1FB000
    assert layout.place(0x8000, "b", high=True) == 0x1F3000
    assert layout.place(0x3000, "c", high=True) == 0x1ED000
    assert layout.place(0x2000, "d", high=True, below=0x180000) == 0x17E000
    assert layout.place(0x1000, "e", high=True, align=0x40000) == 0x1C0000
    assert layout.place(0x2000, "f", high=True, above=0x1F0000) == 0x1F1000


def test_high_place_in_conventional_memory_if_there_is_no_other(memory: GuestMemory) -> None:
    layout = Layout(memory)
    layout.claim(0x100000, 0x100000, "all extended memory")
    assert layout.place(0x1000, "a", high=True) == 0xF000
    layout.claim(0x1000, 0xE000, "the first 64 KiB")
    assert layout.place(0x1000, "b", high=True) == 0x9E000


def test_place_within_bounds_and_aligned(memory: GuestMemory) -> None:
    layout = Layout(memory)
    layout.claim(0x100000, 1, "the kernel")
    assert layout.place(1, "a", above=0x100000) == 0x101000
    assert layout.place(1, "b", above=0x100000, align=0x10000) == 0x110000
    assert layout.place(1, "c", above=0x150001, below=0x153000) == 0x151000
    assert layout.place(0, "nothing", above=0x150001, below=0x153000) == 0x152000
    with pytest.raises(ImageError, match="no room for 4 KiB of d"):
        layout.place(1, "d", above=0x150001, below=0x153000)


def test_find_takes_nothing(memory: GuestMemory) -> None:
    layout = Layout(memory)
    assert layout.find(1, "a page") == layout.find(1, "a page") == 0x10000
    assert layout.reserved == []


def test_block_knows_the_address_of_what_is_added() -> None:
    block = Block(0x1003)
    assert block.add(b"a") == 0x1008
    assert block.add(b"bc", align=1) == 0x1009
    assert block.add(b"d", align=16) == 0x1010
    assert block.data == b"\0" * 5 + b"abc" + b"\0" * 5 + b"d"


def test_command_lines_come_out_as_the_host_had_them() -> None:
    assert c_string("grün", "text") == "grün".encode() + b"\0"
    assert c_string(os.fsdecode(b"\xff\xfe"), "text") == b"\xff\xfe\0"


def test_ram_smaller_than_conventional_memory() -> None:
    ram = GuestMemory("16K")
    layout = Layout(ram)
    assert layout.place(0x3000, "all there is") == 0x1000
    with pytest.raises(ImageError, match="16 KiB of RAM"):
        layout.place(0x1000, "more")
    ram.close()


@pytest.mark.parametrize(
    ("gpa", "size"), [(0x1FFFFF, 2), (0x200000, 1), (1 << 63, 1), (0, 0x200001), ((1 << 64) - 1, (1 << 64) - 1)]
)
def test_claim_outside_ram(memory: GuestMemory, gpa: int, size: int) -> None:
    with pytest.raises(ImageError, match=r"the kernel: .* not in RAM, which the machine has 2048 KiB of"):
        Layout(memory).claim(gpa, size, "the kernel")


@pytest.mark.parametrize(
    ("gpa", "size"), [(0x1000, 1), (0x1FFF, 1), (0x1FFF, 2), (0, 0x1001), (0, 0x8000), (0x1800, 4)]
)
def test_claims_that_overlap(memory: GuestMemory, gpa: int, size: int) -> None:
    layout = Layout(memory)
    layout.claim(0x1000, 0x1000, "first")
    layout.claim(0x9000, 0x1000, "last")
    with pytest.raises(ImageError, match=r"second: .* overlaps first \(0x1000\.\.0x1fff\)"):
        layout.claim(gpa, size, "second")


def test_claims_that_touch_do_not_overlap(memory: GuestMemory) -> None:
    layout = Layout(memory)
    layout.claim(0x1000, 0x1000, "middle")
    layout.claim(0x2000, 1, "above")
    layout.claim(0xFFF, 1, "below")


@given(
    st.lists(
        st.tuples(st.sampled_from(["low", "high", "claim"]), st.integers(0, 0x210000), st.integers(1, 0x40000)),
        min_size=2,
        max_size=20,
    )
)
def test_nothing_that_was_given_out_overlaps(requests: list[tuple[str, int, int]]) -> None:
    ram = GuestMemory("2M")
    layout = Layout(ram)
    given_out: list[tuple[int, int]] = []
    for request, gpa, size in requests:
        try:
            if request != "claim":
                at = layout.place(size, "thing", above=gpa, align=0x2000, high=request == "high")
                assert at % 0x2000 == 0
                assert at >= gpa
                assert at >= 0x1000
                assert at + size <= 0x9F000 or at >= 0x100000
            else:
                at = gpa
                layout.claim(gpa, size, "thing")
        except ImageError:
            continue
        given_out.append((at, at + size))
    given_out.sort()
    assert all(end <= 0x200000 for _, end in given_out)
    assert all(first[1] <= second[0] for first, second in pairwise(given_out))
    ram.close()


def test_protected_entry_has_its_gdt_in_memory(memory: GuestMemory) -> None:
    layout = Layout(memory)
    registers, system = enter_protected(layout, 0x100000)
    assert memory.read_int(system.gdt.base + 8, 8) == 0x00CF9B000000FFFF
    assert registers.rsp == 0x14000
    assert layout.reserved == [(0x10000, 0x4000), (0x14000, 0x1000)]


def test_long_entry_runs_on_an_identity_map_in_memory(memory: GuestMemory) -> None:
    layout = Layout(memory)
    registers, system = enter_long(layout, 0x100000)
    assert memory.read_int(system.gdt.base + 8, 8) == 0x00AF9B000000FFFF
    for linear in (0, registers.rip, registers.rsp, 0xB8000, 0xFEE00000, 0xFFFFFFFF):
        assert paging.translate(memory.read, system, linear) == linear
    assert registers.rsp % 16 == 0
    assert (system.cr3, 6 * 4096) in layout.reserved


def test_long_entry_above_the_identity_map(memory: GuestMemory) -> None:
    with pytest.raises(ImageError, match="above 4 GiB"):
        enter_long(Layout(memory), 4 << 30)
