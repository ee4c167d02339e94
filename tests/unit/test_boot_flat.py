"""Flat binaries in all three modes, and the ones that cannot be loaded."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator

import pytest

from pykvm.boot import ImageError, Options
from pykvm.boot.flat import load
from pykvm.memory import GuestMemory
from pykvm.x86 import paging
from pykvm.x86.mode import cpu_mode

SECTOR = bytes(range(256)) + b"\xf4" * 254 + b"\x55\xaa"


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory("2M")
    yield ram
    ram.close()


def test_boot_sector_is_entered_at_0000_7c00(memory: GuestMemory) -> None:
    state = load(SECTOR, memory, Options())
    assert memory.read(0x7C00, 512) == SECTOR
    assert (state.system.cs.selector, state.registers.rip) == (0, 0x7C00)
    assert (state.system.ss.selector, state.registers.rsp) == (0, 0x7C00)
    assert (state.format, state.symbols, state.reserved) == ("flat", None, [])


@pytest.mark.parametrize(("mode", "bits"), [(None, 16), (16, 16), (32, 32), (64, 64)])
def test_mode(memory: GuestMemory, mode: int | None, bits: int) -> None:
    state = load(SECTOR, memory, Options(mode=mode))
    assert cpu_mode(state.system, state.registers.rflags).bits == bits
    assert memory.read(0x7C00 if bits == 16 else 0x100000, 512) == SECTOR


@pytest.mark.parametrize("mode", [32, 64])
def test_load_and_entry_address(memory: GuestMemory, mode: int) -> None:
    state = load(SECTOR, memory, Options(mode=mode, load=0x20000, entry=0x20010))
    assert memory.read(0x20000, 512) == SECTOR
    assert state.registers.rip == 0x20010
    assert state.registers.rsp == 0x14000
    if mode == 64:
        assert paging.translate(memory.read, state.system, state.registers.rip) == 0x20010


def test_real_mode_above_64_kib(memory: GuestMemory) -> None:
    state = load(SECTOR, memory, Options(load=0x20000, entry=0x20123))
    assert (state.system.cs.base, state.registers.rip) == (0x20120, 3)
    assert (state.system.ss.base, state.registers.rsp) == (0, 0x7C00)


def test_real_mode_stack_moves_away_from_the_image(memory: GuestMemory) -> None:
    state = load(bytes(0x9000), memory, Options(load=0x1000))
    assert state.reserved == [(0x10000, 0x4000)]
    assert state.system.ss.base + state.registers.rsp == 0x14000


def test_real_mode_in_very_little_ram() -> None:
    ram = GuestMemory("20K")
    state = load(SECTOR, ram, Options(load=0x400))
    assert state.registers.rip == 0x400
    assert state.system.ss.base + state.registers.rsp == 0x5000
    ram.close()


def test_mapped_image_can_be_closed_afterwards(memory: GuestMemory) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(SECTOR)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            load(image, memory, Options())
    assert memory.read(0x7C00, 512) == SECTOR


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (b"", Options(), "empty"),
        (SECTOR, Options(mode=8), "not 8"),
        (SECTOR, Options(load=-1), "not in RAM"),
        (SECTOR, Options(mode=32, load=0x200000), "not in RAM, which the machine has 2048 KiB of"),
        (SECTOR, Options(mode=64, load=(1 << 64) - 1), "not in RAM"),
        (bytes(0x100001), Options(mode=32), "not in RAM"),
        (SECTOR, Options(load=0xFFE01), "first MiB"),
        (SECTOR, Options(entry=0x100000), "first MiB"),
        (bytes(0x100000), Options(), "first MiB"),
        (SECTOR, Options(entry=0x7BFF), "outside the image"),
        (SECTOR, Options(entry=-1), "outside the image"),
        (SECTOR, Options(mode=64, entry=0x100200), "outside the image"),
        (bytes(0x100000), Options(load=0), "no room for 16 KiB of stack"),
    ],
)
def test_what_cannot_be_loaded(memory: GuestMemory, image: bytes, options: Options, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(image, memory, options)
    assert memory.committed() == 0, "an image that is refused leaves RAM alone"
