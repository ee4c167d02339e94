"""Guest RAM against a plain bytearray, its one bounds check, and what it costs the host."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pykvm.errors import ConfigError
from pykvm.memory import HIGH_BASE, LOW_LIMIT, MAX_RAM, PAGE_SIZE, GuestMemory, GuestMemoryError, parse_size

SIZE = 16 * PAGE_SIZE
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64M", 64 * MIB),
        ("8G", 8 * GIB),
        ("1T", 1 << 40),
        ("4k", 4 * KIB),
        (" 128 MiB ", 128 * MIB),
        ("128MB", 128 * MIB),
        ("0x100000", MIB),
        ("0X10K", 16 * KIB),
        ("4096", 4096),
        ("007", 7),
        (4096, 4096),
        (-1, -1),  # left to who takes it
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "1.5G", "-1M", "64 Megs", "1MM", "0x", "1e3", "٣M", "1_000", "9" * 30, "12\n3"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


@given(st.text(max_size=24))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    with suppress(ConfigError):
        assert parse_size(text) >= 0


@pytest.mark.parametrize("size", [0, 1, PAGE_SIZE - 1, PAGE_SIZE + 1, -PAGE_SIZE, MAX_RAM + PAGE_SIZE, "0", "3K"])
def test_sizes_that_ram_cannot_have(size: int | str) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        GuestMemory(size)


def test_it_starts_as_zeros_and_costs_what_is_touched() -> None:
    memory = GuestMemory("16G")
    try:
        assert memory.committed() == 0
        memory.write(GIB, b"x" * 100)
        assert PAGE_SIZE <= memory.committed() <= 2 * MIB
        assert memory.read(GIB + 100, 8) == bytes(8)
        memory.zero(GIB, PAGE_SIZE)
        assert memory.committed() == 0
        assert memory.read(GIB, 100) == bytes(100)
    finally:
        memory.close()


def test_the_gigabyte_below_4_gib_is_no_ram() -> None:
    memory = GuestMemory("5G")
    try:
        assert [tuple(region) for region in memory.regions] == [
            (0, LOW_LIMIT, 0),
            (HIGH_BASE, 2 * GIB, LOW_LIMIT),
        ]
        memory.write(HIGH_BASE, b"high")
        memory.write(LOW_LIMIT - 3, b"low")
        assert memory.map[LOW_LIMIT - 3 : LOW_LIMIT + 4] == b"lowhigh"
        for gpa, size in ((LOW_LIMIT - 1, 2), (LOW_LIMIT, 1), (HIGH_BASE - 1, 2), (HIGH_BASE + 2 * GIB - 1, 2)):
            with pytest.raises(GuestMemoryError):
                memory.read(gpa, size)
        assert memory.read(HIGH_BASE + 2 * GIB - 1, 1) == b"\0"
    finally:
        memory.close()


@pytest.mark.parametrize(("size", "regions"), [(LOW_LIMIT - PAGE_SIZE, 1), (LOW_LIMIT, 1), (LOW_LIMIT + PAGE_SIZE, 2)])
def test_how_many_regions_there_are(size: int, regions: int) -> None:
    memory = GuestMemory(size)
    assert len(memory.regions) == regions
    assert sum(region.size for region in memory.regions) == size
    memory.close()


addresses = st.one_of(
    st.integers(0, SIZE + 8),
    st.integers(-(1 << 65), 1 << 65),
    st.sampled_from([SIZE - 1, SIZE, LOW_LIMIT, HIGH_BASE, (1 << 64) - 1, -1]),
)
sizes = st.one_of(st.integers(0, 3 * PAGE_SIZE), st.integers(-(1 << 65), 1 << 65))


@settings(max_examples=60)
@example([("write", HIGH_BASE, b"")])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("read"), addresses, sizes),
            st.tuples(st.just("write"), addresses, st.binary(max_size=64)),
            st.tuples(st.just("zero"), addresses, sizes),
            st.tuples(st.just("write_int"), addresses, st.integers(-(1 << 70), 1 << 70)),
        ),
        max_size=20,
    )
)
def test_it_is_a_bytearray_with_borders(actions: list[tuple[str, int, int | bytes]]) -> None:
    memory, model = GuestMemory(SIZE), bytearray(SIZE)
    try:
        for name, gpa, argument in actions:
            if isinstance(argument, bytes):
                size, data, call = len(argument), argument, partial(memory.write, gpa, argument)
            elif name == "write_int":
                size, data = 8, (argument & (1 << 64) - 1).to_bytes(8, "little")
                call = partial(memory.write_int, gpa, 8, argument)
            else:
                size, data = argument, bytes(min(max(argument, 0), SIZE))
                call = partial(memory.zero if name == "zero" else memory.read, gpa, argument)
            if not (size >= 0 and gpa >= 0 and gpa + size <= SIZE):
                with pytest.raises(GuestMemoryError) as caught:
                    call()
                assert (caught.value.gpa, caught.value.size) == (gpa, size)
            elif name == "read":
                assert call() == model[gpa : gpa + size]
            else:
                call()
                model[gpa : gpa + size] = data
        assert memory.read(0, SIZE) == model
    finally:
        memory.close()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_integers_are_little_endian(size: int) -> None:
    memory = GuestMemory(PAGE_SIZE)
    memory.write(0, bytes(range(1, 9)))
    assert memory.read_int(0, size) == int.from_bytes(bytes(range(1, size + 1)), "little")
    memory.write_int(PAGE_SIZE - size, size, -1)
    assert memory.read(PAGE_SIZE - size, size) == b"\xff" * size
    memory.close()


def test_any_buffer_can_be_written() -> None:
    memory = GuestMemory(PAGE_SIZE)
    memory.write(0, bytearray(b"abc"))
    memory.write(3, memoryview(b"defg")[1:3])
    assert memory.read(0, 6) == b"abcef\0"
    memory.close()


def test_the_error_says_where() -> None:
    memory = GuestMemory(PAGE_SIZE)
    with pytest.raises(GuestMemoryError, match=r"0xffc\+0x8 is not in RAM"):
        memory.read(0xFFC, 8)
    memory.close()


def test_closing_gives_everything_back_and_may_be_repeated() -> None:
    before = len(os.listdir("/proc/self/fd"))
    memory = GuestMemory(SIZE)
    memory.close()
    memory.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError, match="closed"):
        memory.read(0, 1)


def test_a_view_that_is_held_keeps_it_open() -> None:
    memory = GuestMemory(SIZE)
    view = memoryview(memory.map)
    with pytest.raises(BufferError):
        memory.close()
    view.release()
    memory.close()
