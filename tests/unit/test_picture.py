"""Pictures: as PNG, at a monitor's aspect, and in a terminal by half blocks."""

from __future__ import annotations

import struct
import zlib

import pytest

from pykvm.bios import vbe_modes
from pykvm.bios.vbe import edid
from pykvm.devices import vga_registers
from pykvm.display import Screen
from pykvm.display.blocks import NO_COLOURS, half_blocks
from pykvm.display.picture import Picture
from pykvm.display.terminal import TerminalDisplay
from pykvm.errors import ConfigError

RED, GREEN, BLUE, WHITE = b"\xff\0\0", b"\0\xff\0", b"\0\0\xff", b"\xff\xff\xff"


def picture_of(*lines: bytes, square: bool = True) -> Picture:
    return Picture(len(lines[0]) // 3, len(lines), lines.__getitem__, square=square)


def decoded(png: bytes) -> tuple[int, int, bytes]:
    """Size and pixels of a picture in true colour, not filtered."""
    width, height, *form = struct.unpack(">IIBBBBB", png[16:29])
    assert form == [8, 2, 0, 0, 0]
    at = png.index(b"IDAT")
    (size,) = struct.unpack(">I", png[at - 4 : at])
    raw = zlib.decompress(png[at + 4 : at + 4 + size])
    lines = [raw[start : start + 3 * width + 1] for start in range(0, len(raw), 3 * width + 1)]
    assert all(line[0] == 0 for line in lines)
    return width, height, b"".join(line[1:] for line in lines)


def test_png_in_true_colour() -> None:
    picture = picture_of(RED + GREEN, BLUE + WHITE)
    assert decoded(picture.png()) == (2, 2, RED + GREEN + BLUE + WHITE)
    assert decoded(picture.png(2)) == (4, 4, (RED * 2 + GREEN * 2) * 2 + (BLUE * 2 + WHITE * 2) * 2)
    with pytest.raises(ConfigError, match="not possible"):
        picture.png(9)


@pytest.mark.parametrize(
    ("size", "wanted"), [((640, 400), (640, 480)), ((720, 400), (720, 540)), ((640, 480), (640, 480))]
)
def test_the_aspect_of_a_monitor_of_four_to_three(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    picture = Picture(*size, lambda y: bytes(3 * size[0]), square=False)
    assert picture.at_aspect() == wanted
    assert decoded(picture.png(aspect=True))[:2] == wanted


def test_half_blocks_have_two_pixels_each() -> None:
    lines = half_blocks(picture_of(RED + GREEN, BLUE + WHITE), 80, 25, truecolor=True)
    assert lines == ["\x1b[38;2;255;0;0;48;2;0;0;255m\u2580\x1b[38;2;0;255;0;48;2;255;255;255m\u2580"]
    assert half_blocks(picture_of(RED * 2, RED * 2), 80, 25, truecolor=False) == ["\x1b[38;5;196;48;5;196m\u2580\u2580"]


def test_a_large_picture_fits_the_terminal() -> None:
    picture = Picture(1920, 1080, lambda y: RED * 1920, square=True)
    lines = half_blocks(picture, 80, 10, truecolor=True)
    assert len(lines) <= 10
    assert all(line.count("\u2580") <= 80 for line in lines)


def test_a_terminal_draws_what_has_changed_and_text_again() -> None:
    written: list[str] = []
    text = Screen(2, 1, b"a\x07b\x07")
    first = picture_of(RED * 2, RED * 2, RED * 2, RED * 2)
    second = picture_of(RED * 2, RED * 2, BLUE * 2, BLUE * 2)
    with TerminalDisplay(written.append, size=lambda: (80, 25)) as display:
        display.draw(Screen(2, 1, b" \x07 \x07", blank=True, picture=first, graphics=True))
        display.draw(Screen(2, 1, b" \x07 \x07", blank=True, picture=first, graphics=True))
        assert len(written) == 1
        display.draw(Screen(2, 1, b" \x07 \x07", blank=True, picture=second, graphics=True))
        assert written[1].startswith("\x1b[2;1H")
        display.draw(text)
        assert "\x1b[2J" in written[2]
        assert "ab" in written[2]


def test_without_colours_it_says_that_it_cannot() -> None:
    written: list[str] = []
    with TerminalDisplay(written.append, size=lambda: (200, 25), colours=False) as display:
        display.draw(Screen(1, 1, b" \x07", blank=True, picture=picture_of(RED, RED), graphics=True))
    assert NO_COLOURS in written[0]


def test_the_boot_loader_and_the_card_agree() -> None:
    assert (vbe_modes.MEMORY_SIZE, vbe_modes.FRAME_BUFFER) == (
        vga_registers.MEMORY_SIZE,
        vga_registers.FRAME_BUFFER_PCI,
    )
    assert all(size[0] % 8 == 0 for size in vbe_modes.SIZES)
    assert {(640, 480), (1920, 1080)} <= set(vbe_modes.SIZES)


def test_the_monitor_describes_itself() -> None:
    block = edid()
    assert (len(block), sum(block) & 0xFF) == (128, 0)
