"""Text screens as pictures.

Implements: PNG (W3C recommendation, second edition), sections 5 (structure) and 11.2 (critical chunks): indexed
colour, 8 bits a pixel. Cells are 9 pixels wide as on a VGA, which repeats the eighth pixel of the characters 0xC0 to
0xDF in the ninth, so that lines join, and leaves it in the background's colour for all others.
"""

from __future__ import annotations

import struct
import zlib

from ..errors import ConfigError
from .font import FONT_SIZE, system_font
from .picture import MAX_SCALE, Picture, chunk
from .text_mode import CELL_LINES, TextMode

CELL_WIDTH = 9
_LINE_DRAWING = range(0xC0, 0xE0)
_BLACK = 16
"""Index of the colour of a display that is off, behind the palette's 16."""


def render(screen: TextMode, scale: int = 1, font: bytes | None = None) -> bytes:
    """The PNG file; see `Screen.png`."""
    if not 1 <= scale <= MAX_SCALE:
        raise ConfigError(f"a scale of {scale} is not possible: give 1 to {MAX_SCALE}")
    if font is None:
        font = system_font()
    elif len(font) != FONT_SIZE:
        raise ConfigError(f"a font of {len(font)} bytes is not possible: give 256 glyphs of {CELL_LINES} bytes")
    width, height = CELL_WIDTH * scale * screen.columns, CELL_LINES * scale * screen.rows
    if screen.blank:
        pixels = (b"\0" + bytes((_BLACK,)) * width) * height
    else:
        pixels = _draw(screen, scale, font)
    palette = bytes(value for colour in (*screen.palette, (0, 0, 0)) for value in colour)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, data)
        for kind, data in (
            (b"IHDR", header),
            (b"PLTE", palette),
            (b"IDAT", zlib.compress(pixels, 6)),
            (b"IEND", b""),
        )
    )


def picture(screen: TextMode, font: bytes | None = None) -> Picture:
    """The screen's pixels. Raises FontError if there is no font."""
    width, height = CELL_WIDTH * screen.columns, CELL_LINES * screen.rows
    if screen.blank:
        return Picture(width, height, lambda y: bytes(3 * width), square=False)
    drawn = _draw(screen, 1, system_font() if font is None else font)
    colours = [bytes(colour) for colour in screen.palette]

    def line(y: int) -> bytes:
        return b"".join([colours[pixel] for pixel in drawn[y * (width + 1) + 1 : (y + 1) * (width + 1)]])

    return Picture(width, height, line, square=False)


def _draw(screen: TextMode, scale: int, font: bytes) -> bytes:
    """All scan lines, each behind its filter type (0: none)."""
    drawn: dict[bytes, list[bytes]] = {}
    lines = []
    row_bytes = 2 * screen.columns
    for row in range(screen.rows):
        glyphs = []
        for at in range(row * row_bytes, (row + 1) * row_bytes, 2):
            cell = screen.cells[at : at + 2]
            glyph = drawn.get(cell)
            if glyph is None:
                glyph = drawn[cell] = _glyph(screen, cell[0], cell[1], scale, font)
            glyphs.append(glyph)
        if screen.cursor is not None and screen.cursor[1] == row:
            glyphs[screen.cursor[0]] = _with_cursor(screen, glyphs[screen.cursor[0]], scale)
        for line in zip(*glyphs, strict=True):
            lines.append((b"\0" + b"".join(line)) * scale)
    return b"".join(lines)


def _glyph(screen: TextMode, character: int, attribute: int, scale: int, font: bytes) -> list[bytes]:
    """The scan lines of one cell, a byte a pixel."""
    foreground, background, _ = screen.colours(attribute)
    lines = []
    for bits in font[CELL_LINES * character : CELL_LINES * (character + 1)]:
        nine = bits << 1 | (bits & 1 if character in _LINE_DRAWING else 0)
        pixels = bytes(foreground if nine >> 8 - x & 1 else background for x in range(CELL_WIDTH))
        lines.append(bytes(pixel for pixel in pixels for _ in range(scale)))
    return lines


def _with_cursor(screen: TextMode, glyph: list[bytes], scale: int) -> list[bytes]:
    assert screen.cursor is not None
    column, row = screen.cursor
    foreground, _, _ = screen.colours(screen.cells[2 * (row * screen.columns + column) + 1])
    first, last = screen.cursor_lines
    block = bytes((foreground,)) * (CELL_WIDTH * scale)
    return [block if first <= number <= last else line for number, line in enumerate(glyph)]
