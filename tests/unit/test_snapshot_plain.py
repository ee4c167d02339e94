"""Plain data as JSON and back; sets of pages; images of RAM."""

from __future__ import annotations

import json
import mmap
import os
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.memory import GuestMemory
from pykvm.snapshot import plain
from pykvm.snapshot.files import common, gaps
from pykvm.snapshot.image import RamImage, Root, extents, fill, freeze, pages_in, pages_of, runs

PAGE = 4096

SIMPLE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.binary()
)
PLAIN = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=4), inner, max_size=4),
        st.dictionaries(st.integers(), inner, max_size=4),
        st.dictionaries(st.sampled_from(["hex", "ascii", "pairs"]), inner, max_size=1),
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_data_survives(value: Any) -> None:
    text = plain.dumps(value)
    assert text.isascii()
    assert plain.loads(text) == value


def test_what_the_guest_chooses_is_no_punctuation_and_values_are_counted() -> None:
    many = b"," * plain.VALUES
    assert plain.loads(plain.dumps({"input": many})) == {"input": many}
    for text in ("[" + "[]," * plain.VALUES + "0]", "[" + '{"a":0},' * plain.VALUES + "0]"):
        with pytest.raises(ValueError, match="values"):
            plain.loads(text)
    with pytest.raises(ValueError, match="values"):
        plain.dumps([0] * (plain.VALUES + 1))


def test_people_can_read_it() -> None:
    told = json.loads(plain.dumps({"name": b"COM1 ready\n", "fifo": b"\x00\xff", "level": True}))
    assert told == {"name": {"ascii": "COM1 ready\n"}, "fifo": {"hex": "00ff"}, "level": True}


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf"), {1: {2, 3}}, [[b""], iter(())]])
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="plain"):
        plain.dumps(value)


def test_depth_is_limited() -> None:
    value: Any = 0
    for _ in range(plain.DEPTH):
        value = [value]
    with pytest.raises(ValueError, match="deep"):
        plain.dumps(value)
    for text in ("[" * 40 + "]" * 40, "[" * 100_000):
        with pytest.raises(ValueError, match="deep"):
            plain.loads(text)


@given(st.text(), st.sampled_from(["hex", "ascii", "pairs"]))
def test_marks_with_anything_else_in_them_are_refused(text: str, mark: str) -> None:
    try:
        plain.loads(json.dumps({mark: text}))
    except ValueError:
        return
    assert mark != "pairs"


# Sets of pages


@given(st.sets(st.integers(0, 300)))
def test_runs_name_each_page_once_in_order(numbers: set[int]) -> None:
    found = list(runs(pages_of(numbers)))
    assert [page for at, length in found for page in range(at // PAGE, (at + length) // PAGE)] == sorted(numbers)
    assert all(after > at + length for (at, length), (after, _) in pairwise(found))
    assert pages_in(found, 301 * PAGE) == pages_of(numbers)


PAGES = st.sets(st.integers(0, 40)).map(lambda numbers: list(runs(pages_of(numbers))))


@given(PAGES, PAGES)
def test_parts_have_common_parts_and_gaps(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    size = 41 * PAGE
    assert pages_in(common(some, others), size) == pages_in(some, size) & pages_in(others, size)
    assert pages_in(gaps(some, size), size) == pages_in([(0, size)], size) & ~pages_in(some, size)
    assert list(common(some, gaps(some, size))) == []


# Images


def test_an_image_shares_its_root_and_holds_still() -> None:
    with_data = GuestMemory(64 * PAGE)
    with_data.write(3 * PAGE, b"three")
    with_data.write(40 * PAGE, b"forty")
    root = freeze(with_data)
    assert list(root.data()) == [(3 * PAGE, PAGE), (40 * PAGE, PAGE)]
    assert os.fstat(root.fd).st_blocks * 512 == 2 * PAGE
    with_data.write(3 * PAGE, b"THREE")
    with_data.write(41 * PAGE, b"new")
    image = RamImage(root, pages_of([3, 41]), with_data.map)
    assert [(at // PAGE, length // PAGE) for at, length in image.data()] == [(3, 1), (40, 2)]
    one, two = image.memory(), RamImage(root).memory()
    assert (one.read(3 * PAGE, 5), two.read(3 * PAGE, 5)) == (b"THREE", b"three")
    assert (one.read(40 * PAGE, 5), two.read(40 * PAGE, 5)) == (b"forty", b"forty")
    one.write(40 * PAGE, b"mine!")
    assert two.read(40 * PAGE, 5) == image.map[40 * PAGE : 40 * PAGE + 5] == b"forty"
    assert one.own_pages() == [3, 40, 41]
    assert one.committed() == 3 * PAGE
    assert two.committed() == 0
    for memory in (with_data, two):
        memory.write(50 * PAGE, b"stray")
        fill(memory, image)
        assert memory.read(0, 64 * PAGE) == image.map[:]
    for memory in (with_data, one, two):
        memory.close()


@pytest.mark.parametrize("changed", [3, 200])
def test_machines_share_what_differs_from_the_root_if_it_is_much(changed: int) -> None:
    first = GuestMemory(512 * PAGE)
    first.write(500 * PAGE, b"old")
    root = freeze(first)
    for page in range(changed):
        first.write(page * PAGE, b"new")
    image = RamImage(root, pages_of(list(range(changed))), first.map)
    one, two = image.memory(), image.memory()
    for memory in (one, two):
        assert memory.read(0, memory.size) == first.read(0, first.size)
        assert len(memory.own_pages()) == (changed if changed == 3 else 0)
        memory.close()
    first.close()


def test_ram_that_began_as_an_image_is_zeroed_like_any_other() -> None:
    first = GuestMemory(8 * PAGE)
    first.write(0, b"\xff" * 8 * PAGE)
    second = GuestMemory(8 * PAGE, first.fd)
    second.zero(PAGE - 1, 2 * PAGE + 2)
    assert second.read(0, 8 * PAGE).count(b"\xff"[0]) == 6 * PAGE - 2
    assert first.read(0, 8 * PAGE) == b"\xff" * 8 * PAGE
    second.written = set()
    second.write(2 * PAGE - 1, b"ab")
    second.zero(5 * PAGE, PAGE)
    second.write(7 * PAGE, b"")
    assert second.written == {1, 2, 5}
    first.close()
    second.close()


def test_extents_are_whole_pages_and_end_with_the_size() -> None:
    fd = os.memfd_create("test")
    root = Root(fd, 16 * PAGE)
    os.ftruncate(fd, 16 * PAGE)
    assert list(extents(fd, 16 * PAGE)) == []
    os.pwrite(fd, b"x", 5 * PAGE + 7)
    os.pwrite(fd, b"x", 15 * PAGE)
    assert list(root.data()) == [(5 * PAGE, PAGE), (15 * PAGE, PAGE)]
    assert list(extents(fd, 15 * PAGE)) == [(5 * PAGE, PAGE)]
    with mmap.mmap(fd, 16 * PAGE, mmap.MAP_PRIVATE) as view:
        assert view[5 * PAGE + 7] == ord("x")
