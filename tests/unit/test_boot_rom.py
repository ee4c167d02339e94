"""Firmware images: their sizes, where they are seen, and the first instruction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from pykvm.boot import ImageError
from pykvm.boot.rom import Rom
from pykvm.memory import GuestMemory

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory("2M")
    yield ram
    ram.close()


def image(size: int) -> bytes:
    """No two 4 KiB of it are alike."""
    return b"".join(number.to_bytes(4, "little") * 1024 for number in range(size // 4096))


@pytest.mark.parametrize(("size", "shadow"), [(64 * KIB, 64), (128 * KIB, 128), (256 * KIB, 128), (16 * MIB, 128)])
def test_it_ends_at_4_gib_and_its_end_is_seen_below_1_mib(memory: GuestMemory, size: int, shadow: int) -> None:
    content = image(size)
    with closing(Rom(content)) as rom:
        assert (rom.gpa, rom.size) == ((4 << 30) - size, size)
        assert rom.map[:] == content
        state = rom.load(memory)
    assert memory.read(MIB - shadow * KIB, shadow * KIB) == content[-shadow * KIB :]
    assert memory.read(MIB - shadow * KIB - 4096, 4096) == bytes(4096)
    assert memory.read(MIB, MIB) == bytes(MIB)
    # SDM volume 3A, 10.1.4 and table 10-1: real mode, 16 bytes below 4 GiB, though CS holds F000h.
    assert state.system.cs.base + state.registers.rip == 0xFFFFFFF0
    assert (state.system.cs.selector, state.registers.rip) == (0xF000, 0xFFF0)
    assert (state.system.cr0, state.registers.rflags) == (0x60000010, 2)


@pytest.mark.parametrize("size", [0, 1, 4096, 64 * KIB - 4096, 64 * KIB + 512, 16 * MIB + 4096])
def test_sizes_that_no_firmware_has(size: int) -> None:
    with pytest.raises(ImageError, match="no firmware image: one has 64K to 16M"):
        Rom(bytes(size))


def test_it_needs_the_first_mib() -> None:
    with (
        closing(GuestMemory("1020K")) as ram,
        closing(Rom(bytes(64 * KIB))) as rom,
        pytest.raises(ImageError, match="needs 1M of memory, not 1020K"),
    ):
        rom.load(ram)
