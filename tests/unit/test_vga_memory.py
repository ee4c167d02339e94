"""Video memory: write and read modes against a straightforward model of the hardware's reference, plane by plane."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.vga import Dispi, Vga
from pykvm.devices.vga_dispi import write as write_dispi
from pykvm.devices.vga_memory import SIZE, VideoMemory
from pykvm.devices.vga_registers import (
    BANKED,
    DISPI_BANK,
    DISPI_BPP,
    DISPI_ENABLE,
    DISPI_ENABLED,
    DISPI_LFB,
    DISPI_X,
    DISPI_Y,
    LINEAR,
    TRAPPED,
)
from pykvm.memory import GuestMemory

GRAPHICS, SEQUENCER = 0x3CE, 0x3C4


class Slots:
    """Where the guest would see the memory."""

    def __init__(self) -> None:
        self.memory = bytearray(SIZE)
        self.trapped = False
        self.placed: int | None = None

    def later(self, callback: Callable[[], None]) -> None:
        callback()

    def trap(self, on: bool) -> None:
        self.trapped = on

    def place(self, gpa: int | None) -> None:
        self.placed = gpa

    def written(self) -> list[int] | None:
        return None


class Card:
    """A VGA with its memory, in planar mode 12h as far as the CPU's side goes."""

    def __init__(self) -> None:
        self.slots, self.ram = Slots(), GuestMemory("1M")
        self.vga = Vga(lambda: 0, lambda sequencer, graphics: VideoMemory(sequencer, graphics, self.slots, self.ram))

    def planar(self) -> VideoMemory:
        self.set(SEQUENCER, 2, 15)
        self.set(SEQUENCER, 4, 6)
        self.set(GRAPHICS, 5, 0)
        self.set(GRAPHICS, 6, 5)
        assert self.vga.memory is not None
        return self.vga.memory

    def set(self, port: int, index: int, value: int) -> None:
        base = self.vga.ports[0].base
        self.vga.write(port - base, 1, index)
        self.vga.write(port + 1 - base, 1, value)


@pytest.fixture
def card() -> Any:
    made = Card()
    yield made
    made.ram.close()


def reference(registers: dict[str, int], latch: list[int], old: list[int], value: int) -> list[int]:
    """What four planes hold after a write, a bit at a time."""
    new = list(old)
    rotated = (value >> registers["rotate"] | value << 8 - registers["rotate"]) & 0xFF
    for plane in range(4):
        if not registers["map"] >> plane & 1:
            continue
        byte = 0
        for bit in range(8):
            stored = latch[plane] >> bit & 1
            mode, allowed = registers["mode"], registers["bits"] >> bit & 1
            setting = registers["set"] >> plane & 1
            match mode:
                case 0:
                    source = setting if registers["enable"] >> plane & 1 else rotated >> bit & 1
                case 1:
                    source, allowed = stored, 1
                case 2:
                    source = value >> plane & 1
                case _:
                    source, allowed = setting, allowed & rotated >> bit & 1
            if mode != 1:
                source = (source, source & stored, source | stored, source ^ stored)[registers["function"]]
            byte |= (source if allowed else stored) << bit
        new[plane] = byte
    return new


REGISTERS = st.fixed_dictionaries({
    "mode": st.integers(0, 3), "rotate": st.integers(0, 7), "function": st.integers(0, 3), "bits": st.integers(0, 255),
    "set": st.integers(0, 15), "enable": st.integers(0, 15), "map": st.integers(0, 15),
})  # fmt: skip


@settings(max_examples=200)
@given(REGISTERS, st.integers(0, 0xFFFF), st.lists(st.integers(0, 255), min_size=8, max_size=8), st.integers(0, 255))
def test_write_modes(registers: dict[str, int], at: int, content: list[int], value: int) -> None:
    card = Card()
    try:
        memory = card.planar()
        latch_at = at ^ 1
        memory.bytes[4 * latch_at : 4 * latch_at + 4] = bytes(content[:4])
        memory.bytes[4 * at : 4 * at + 4] = bytes(content[4:])
        card.set(GRAPHICS, 0, registers["set"])
        card.set(GRAPHICS, 1, registers["enable"])
        card.set(GRAPHICS, 3, registers["rotate"] | registers["function"] << 3)
        card.set(GRAPHICS, 5, registers["mode"])
        card.set(GRAPHICS, 8, registers["bits"])
        card.set(SEQUENCER, 2, registers["map"])
        memory.read(latch_at)
        memory.write(at, value)
        assert list(memory.bytes[4 * at : 4 * at + 4]) == reference(registers, content[:4], content[4:], value)
    finally:
        card.ram.close()


@settings(max_examples=100)
@given(st.lists(st.integers(0, 255), min_size=4, max_size=4), st.integers(0, 15), st.integers(0, 15))
def test_read_modes(planes: list[int], colour: int, care: int) -> None:
    card = Card()
    try:
        memory = card.planar()
        memory.bytes[400:404] = bytes(planes)
        for plane in range(4):
            card.set(GRAPHICS, 4, plane)
            assert memory.read(100) == planes[plane]
        card.set(GRAPHICS, 5, 8)
        card.set(GRAPHICS, 2, colour)
        card.set(GRAPHICS, 7, care)
        want = 0
        for bit in range(8):
            alike = all(planes[plane] >> bit & 1 == colour >> plane & 1 for plane in range(4) if care >> plane & 1)
            want |= alike << bit
        assert memory.read(100) == want
    finally:
        card.ram.close()


def test_text_is_in_the_planes_when_the_guest_loads_a_font(card: Card) -> None:
    card.ram.write(0xB8000, b"A\x07B\x1e")
    card.set(SEQUENCER, 2, 4)
    card.set(SEQUENCER, 4, 6)
    card.set(GRAPHICS, 5, 0)
    card.set(GRAPHICS, 6, 4)
    memory = card.vga.memory
    assert memory is not None
    assert card.slots.trapped
    assert (card.vga.mirror.kind, bytes(memory.bytes[:6:1])[0:2]) == (TRAPPED, b"A\x07")
    memory.write(32 * 0x41, 0xAA)
    for register, value in ((5, 0x10), (6, 0x0E)):
        card.set(GRAPHICS, register, value)
    card.set(SEQUENCER, 2, 3)
    card.set(SEQUENCER, 4, 2)
    assert not card.slots.trapped
    assert card.ram.read(0xB8000, 4) == b"A\x07B\x1e"
    assert memory.bytes[4 * 32 * 0x41 + 2] == 0xAA


def test_unchained_memory_has_what_was_drawn_before(card: Card) -> None:
    card.set(SEQUENCER, 2, 15)
    card.set(SEQUENCER, 4, 14)
    card.set(GRAPHICS, 6, 5)
    assert not card.slots.trapped
    card.ram.write(0xA0000, bytes(range(8)))
    card.set(SEQUENCER, 4, 6)
    card.set(GRAPHICS, 5, 0)
    memory = card.vga.memory
    assert memory is not None
    assert [memory.read(1) and memory.latch] == [0x07060504]


def test_banks_of_a_large_mode(card: Card) -> None:
    vga = card.vga
    for index, value in ((DISPI_X, 640), (DISPI_Y, 480), (DISPI_BPP, 8), (DISPI_ENABLE, DISPI_ENABLED)):
        write_dispi(vga, index, value)
    assert vga.mirror.kind == BANKED
    card.ram.write(0xA0000, b"first")
    write_dispi(vga, DISPI_BANK, 1)
    assert card.ram.read(0xA0000, 5) == bytes(5)
    card.ram.write(0xA0000, b"second")
    memory = vga.look()
    assert memory is not None
    assert bytes(memory.bytes[:5]) == b"first"
    assert bytes(memory.bytes[0x10000:0x10006]) == b"second"
    write_dispi(vga, DISPI_BANK, 0)
    assert card.ram.read(0xA0000, 5) == b"first"


def test_a_block_of_writes_to_one_register_moves_memory_once(card: Card) -> None:
    moves: list[int | None] = []
    card.slots.place = moves.append  # type: ignore[method-assign]
    vga = card.vga
    dispi = Dispi(vga, partial(write_dispi, vga))
    for index, value in ((DISPI_X, 1920), (DISPI_Y, 1080), (DISPI_BPP, 32)):
        write_dispi(vga, index, value)
    dispi.write(0, 2, DISPI_ENABLE)
    dispi.write_block(1, 2, b"\x00\x00\x41\x00" * 1024)
    assert moves == [vga.frame_buffer]


def test_the_frame_buffer_is_there_while_it_is_enabled(card: Card) -> None:
    vga = card.vga
    for index, value in ((DISPI_X, 1920), (DISPI_Y, 1080), (DISPI_BPP, 32), (DISPI_ENABLE, DISPI_ENABLED | DISPI_LFB)):
        write_dispi(vga, index, value)
    assert (card.slots.placed, vga.mirror.kind) == (vga.frame_buffer, LINEAR)
    vga.move_frame_buffer(0xD0000000)
    assert card.slots.placed == 0xD0000000
    write_dispi(vga, DISPI_ENABLE, 0)
    assert card.slots.placed is None


@pytest.mark.parametrize(("width", "height", "depth"), [(2568, 100, 8), (0, 480, 8), (2560, 1601, 8), (641, 480, 8)])
def test_a_mode_that_cannot_be_is_not_set(card: Card, width: int, height: int, depth: int) -> None:
    for index, value in ((DISPI_X, width), (DISPI_Y, height), (DISPI_BPP, depth), (DISPI_ENABLE, DISPI_ENABLED)):
        write_dispi(card.vga, index, value)
    assert not card.vga.dispi[DISPI_ENABLE]
