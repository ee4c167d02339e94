"""The graphics modes of INT 10h, and dots and characters in them.

Sources: IBM PS/2 Hardware Interface Technical Reference ("Video Subsystem": the registers in each mode); IBM PS/2 BIOS
Interface Technical Reference (INT 10h, "Default palette").
"""

from __future__ import annotations

from typing import NamedTuple

from ..devices.vga import (
    Vga,
)
from ..devices.vga_registers import EGA_PALETTE, TRAPPED, Mode
from ..memory import GuestMemory


class Graphics(NamedTuple):
    """A graphics mode: size in dots, bits a dot, height of a character, what sort of memory it has."""

    width: int
    height: int
    bits: int
    character: int
    registers: Mode
    segment: int = 0xA000


def _crtc(text: str) -> bytes:
    return bytes.fromhex(text)


_PLANAR, _PLANAR_320 = bytes.fromhex("03 01 0F 00 06"), bytes.fromhex("03 09 0F 00 06")
_CGA_COLOURS = bytes.fromhex("00 01 02 03 04 05 06 07 10 11 12 13 14 15 16 17 01 00 0F 00 00")
_320 = _crtc("2D 27 28 90 2B 80 BF 1F 00 C0 00 00 00 00 00 00 9C 8E 8F 14 00 96 B9 E3 FF")
_640 = _crtc("5F 4F 50 82 54 80 BF 1F 00 C0 00 00 00 00 00 00 9C 8E 8F 28 00 96 B9 E3 FF")
_350 = _crtc("5F 4F 50 82 54 80 BF 1F 00 40 00 00 00 00 00 00 83 85 5D 28 0F 63 BA E3 FF")
_480 = _crtc("5F 4F 50 82 54 80 0B 3E 00 40 00 00 00 00 00 00 EA 8C DF 28 00 E7 04 E3 FF")
_16_COLOURS, _EGA = bytes.fromhex("00 00 00 00 00 00 05 0F FF"), EGA_PALETTE + bytes.fromhex("01 00 0F 00 00")
_CGA_4 = Mode(
    0x63,
    bytes.fromhex("03 09 03 00 02"),
    _crtc("2D 27 28 90 2B 80 BF 1F 00 C1 00 00 00 00 00 00 9C 8E 8F 14 00 96 B9 A2 FF"),
    bytes.fromhex("00 00 00 00 00 30 0F 00 FF"),
    bytes.fromhex("00 13 15 17 02 04 06 07 10 11 12 13 14 15 16 17 01 00 03 00 00"),
)
_CGA_2 = Mode(
    0x63,
    bytes.fromhex("03 01 01 00 06"),
    _crtc("5F 4F 50 82 54 80 BF 1F 00 C1 00 00 00 00 00 00 9C 8E 8F 28 00 96 B9 C2 FF"),
    bytes.fromhex("00 00 00 00 00 00 0D 00 FF"),
    b"\x00" + b"\x17" * 15 + bytes.fromhex("01 00 01 00 00"),
)
_MODE_13 = Mode(
    0x63,
    bytes.fromhex("03 01 0F 00 0E"),
    _crtc("5F 4F 50 82 54 80 BF 1F 00 41 00 00 00 00 00 00 9C 8E 8F 28 40 96 B9 A3 FF"),
    bytes.fromhex("00 00 00 00 00 40 05 0F FF"),
    bytes(range(16)) + bytes.fromhex("41 00 0F 00 00"),
)
MODES = {
    0x04: Graphics(320, 200, 2, 8, _CGA_4, 0xB800),
    0x05: Graphics(320, 200, 2, 8, _CGA_4, 0xB800),
    0x06: Graphics(640, 200, 1, 8, _CGA_2, 0xB800),
    0x0D: Graphics(320, 200, 4, 8, Mode(0x63, _PLANAR_320, _320, _16_COLOURS, _CGA_COLOURS)),
    0x0E: Graphics(640, 200, 4, 8, Mode(0x63, _PLANAR, _640, _16_COLOURS, _CGA_COLOURS)),
    0x0F: Graphics(
        640, 350, 4, 14,
        Mode(0xA3, _PLANAR, _350, bytes.fromhex("00 00 00 00 00 00 05 05 FF"),
             bytes.fromhex("00 08 00 00 18 18 00 00 00 08 00 00 00 18 00 00 0B 00 05 00 00")),
    ),
    0x10: Graphics(640, 350, 4, 14, Mode(0xA3, _PLANAR, _350, _16_COLOURS, _EGA)),
    0x11: Graphics(
        640, 480, 4, 16,
        Mode(0xE3, _PLANAR, _480, bytes.fromhex("00 00 00 00 00 00 05 01 FF"),
             b"\x00" + b"\x3f" * 15 + bytes.fromhex("01 00 0F 00 00")),
    ),
    0x12: Graphics(640, 480, 4, 16, Mode(0xE3, _PLANAR, _480, _16_COLOURS, _EGA)),
    0x13: Graphics(320, 200, 8, 8, _MODE_13),
}  # fmt: skip

_GREYS = bytes.fromhex("00 05 08 0B 0E 11 14 18 1C 20 24 28 2D 32 38 3F")
_LEVELS = [
    bytes.fromhex(levels)
    for levels in (
        "00 10 1F 2F 3F", "1F 27 2F 37 3F", "2D 31 36 3A 3F", "00 07 0E 15 1C", "0E 11 15 18 1C", "14 16 18 1A 1C",
        "00 04 08 0C 10", "08 0A 0C 0E 10", "0B 0C 0D 0F 10",
    )
]  # fmt: skip
"""Five steps of a colour, for each of three intensities in three saturations."""
_WHEEL = (
    *((step, 0, 4) for step in range(4)), *((4, 0, 4 - step) for step in range(4)),
    *((4, step, 0) for step in range(4)), *((4 - step, 4, 0) for step in range(4)),
    *((0, 4, step) for step in range(4)), *((0, 4 - step, 4) for step in range(4)),
)  # fmt: skip
"""24 hues from blue over red and green: the steps of red, green and blue."""


def _ega(number: int) -> bytes:
    return bytes(42 * (number >> bit & 1) + 21 * (number >> bit + 3 & 1) for bit in (2, 1, 0))


def default_dac(number: int) -> bytes:
    """The 256 colours, three values of 6 bits each, that setting a mode puts into the DAC."""
    if number == 0x13:
        colours = b"".join(_ega(code) for code in EGA_PALETTE) + bytes(grey for grey in _GREYS for _ in range(3))
        colours += bytes(levels[step] for levels in _LEVELS for hue in _WHEEL for step in hue)
    elif MODES.get(number, MODES[0x13]).height == 200:  # the 16 colours of a CGA, whose bright ones begin at 16
        dark = b"".join(_ega(code) for code in EGA_PALETTE[:8])
        bright = b"".join(_ega(code) for code in EGA_PALETTE[8:])
        colours = (dark * 2 + bright * 2) * 2
    else:
        colours = b"".join(map(_ega, range(64)))
    return colours + bytes(768 - len(colours))


def font_8x8() -> bytes:
    """256 characters of 8 rows, made of the system's font by joining rows; empty without one."""
    from ..display.font import FontError, system_font

    try:
        font = system_font()
    except FontError:
        return bytes(2048)
    return bytes(font[at] | font[at + 1] for at in range(0, len(font), 2))


def glyph(character: int, height: int) -> bytes:
    """The rows of a character."""
    from ..display.font import FontError, system_font

    if height == 8:
        return font_8x8()[8 * character : 8 * character + 8]
    try:
        rows = system_font()[16 * character : 16 * character + 16]
    except FontError:
        rows = bytes(16)
    return rows if height == 16 else rows[1:15]


class Canvas:
    """The dots of a graphics mode. Places outside are left alone; `page` of 0 is all there is."""

    def __init__(self, mode: Graphics, vga: Vga | None, memory: GuestMemory) -> None:
        self.mode, self._vga, self._memory = mode, vga, memory

    def _place(self, x: int, y: int) -> int:
        """The address of the byte that has a dot in it."""
        mode = self.mode
        if mode.bits == 8:
            return mode.width * y + x
        if mode.segment == 0xB800:
            return 0xB8000 + (y & 1) * 0x2000 + 80 * (y >> 1) + x * mode.bits // 8
        return y * (mode.width // 8) + x // 8

    def put(self, x: int, y: int, colour: int) -> None:
        """Colour a dot; with bit 7 its colour becomes the exclusive or of both, but where there are 256."""
        mode = self.mode
        if not (0 <= x < mode.width and 0 <= y < mode.height):
            return
        if colour & 0x80 and mode.bits < 8:
            colour = self.get(x, y) ^ colour & 0x7F
        at = self._place(x, y)
        if mode.bits == 8:
            self._memory.write_int(0xA0000 + at, 1, colour)
        elif mode.segment == 0xB800:
            shift = 8 - mode.bits - x * mode.bits % 8
            mask = (1 << mode.bits) - 1 << shift
            old = self._memory.read_int(at, 1)
            self._memory.write_int(at, 1, old & ~mask | colour << shift & mask)
        elif self._vga is not None and self._vga.memory is not None and self._vga.mirror.kind == TRAPPED:
            self._vga.memory.put(at, 0x80 >> (x & 7), colour)

    def get(self, x: int, y: int) -> int:
        """The colour of a dot; 0 outside."""
        mode = self.mode
        if not (0 <= x < mode.width and 0 <= y < mode.height):
            return 0
        at = self._place(x, y)
        if mode.bits == 8:
            return self._memory.read_int(0xA0000 + at, 1)
        if mode.segment == 0xB800:
            return self._memory.read_int(at, 1) >> 8 - mode.bits - x * mode.bits % 8 & (1 << mode.bits) - 1
        if self._vga is None or self._vga.memory is None:
            return 0
        word = self._vga.memory.words[at] >> 7 - (x & 7)
        return sum((word >> 8 * plane & 1) << plane for plane in range(4))

    def character(self, row: int, column: int, character: int, colour: int) -> None:
        """Draw a character in a cell; its background becomes black, or with bit 7 of the colour stays."""
        rows = glyph(character, self.mode.character)
        for y, bits in enumerate(rows, row * self.mode.character):
            for x in range(8):
                if bits >> 7 - x & 1:
                    self.put(8 * column + x, y, colour)
                elif not colour & 0x80 or self.mode.bits == 8:
                    self.put(8 * column + x, y, 0)

    def scroll(self, top: int, left: int, bottom: int, right: int, lines: int, colour: int) -> None:
        """Move a window of cells up by `lines`, down if negative, or fill it (0)."""
        height, mode = self.mode.character, self.mode
        first, end = top * height, min((bottom + 1) * height, mode.height)
        x, x_end = 8 * left, min(8 * (right + 1), mode.width)
        moved = [self._row(y, x, x_end) for y in range(first, end)]
        blank = bytes([colour & (1 << mode.bits) - 1]) * (x_end - x)
        count = min(abs(lines) * height, len(moved)) or len(moved)
        after = moved[count:] + [blank] * count if lines >= 0 else [blank] * count + moved[: len(moved) - count]
        for y, dots in enumerate(after, first):
            self._set_row(y, x, dots)

    def _row(self, y: int, x: int, end: int) -> bytes:
        if self.mode.bits == 8:
            return self._memory.read(0xA0000 + self.mode.width * y + x, end - x)
        return bytes(self.get(at, y) for at in range(x, end))

    def _set_row(self, y: int, x: int, dots: bytes) -> None:
        if self.mode.bits == 8:
            self._memory.write(0xA0000 + self.mode.width * y + x, dots)
            return
        for at, colour in enumerate(dots, x):
            self.put(at, y, colour)
