"""What a monitor shows of a VGA: its registers applied to video memory.

Implements: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem" (CRT controller: start address, offset,
row scans, double scanning, line compare, the addressing of CGA's banks; attribute controller: palette, plane enable,
panning; DAC with its mask), on memory as `vga_memory` has it; the display interface's modes of 4 to 32 bits a pixel.
All lines are shown that lie within the display's enabled part, at 8 dots a character clock in graphics modes, and dots
that the hardware shows twice are here twice: mode 13h is 640 by 400.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..display.picture import Picture
from ..display.screen import Screen
from ..display.text_mode import CELL_LINES
from .vga import Vga
from .vga_memory import GLYPH, PLANES, VideoMemory, font_start
from .vga_registers import (
    DISPI_8_BIT_DAC,
    DISPI_BPP,
    DISPI_ENABLE,
    DISPI_ENABLED,
    DISPI_LEFT,
    DISPI_TOP,
    DISPI_WIDTH,
    DISPI_X,
    ODD_EVEN,
    WINDOW_BASES,
)

WINDOW = 0x8000
"""Bytes of video memory in which text wraps around."""
MAX_ROWS = 128
"""1,024 lines of characters 8 lines high: more is a mode in the making."""
CLOCKING_SCREEN_OFF = 1 << 5
CURSOR_OFF, CRTC_DOUBLE_SCAN, CRTC_RUN = 1 << 5, 1 << 7, 1 << 7
CLOCKING_8_DOTS, CLOCKING_HALF = 1 << 0, 1 << 3
MODE_GRAPHICS, MODE_BLINK, MODE_P54_SELECT = 1 << 0, 1 << 3, 1 << 7
MODE_LINE_GRAPHICS, MODE_PAN_TOP = 1 << 2, 1 << 5
_SPREAD = [bytes(byte >> bit & 1 for bit in range(7, -1, -1)) for byte in range(256)]
"""The bits of a byte, one a byte, as dots from left to right."""
_PAIRS = [bytes(byte >> bit & 3 for bit in (6, 4, 2, 0)) for byte in range(256)]


def text_screen(vga: Vga, read: Callable[[int, int], bytes], pictures: bool = True) -> Screen:
    """What the screen shows: the registers of `vga` applied to the video memory, which `read(gpa, size)` gives.

    Without `pictures` only text is looked for.
    Raises what `read` raises.
    """
    crtc, attribute = vga.crtc.values, vga.attribute.values
    height = (crtc[0x09] & 0x1F) + 1
    scans = 2 * height if crtc[0x09] & CRTC_DOUBLE_SCAN else height
    shown = crtc[0x12] | (crtc[0x07] & 0x02) << 7 | (crtc[0x07] & 0x40) << 3
    columns = crtc[0x01] + 1
    rows = min(max((shown + 1) // scans, 1), MAX_ROWS)
    palette = tuple(_rgb(vga, number) for number in range(16))
    blink = bool(attribute[0x10] & MODE_BLINK)
    is_graphics = (
        vga.dispi[DISPI_ENABLE] & DISPI_ENABLED or vga.graphics.values[6] & 1 or attribute[0x10] & MODE_GRAPHICS
    )
    if is_graphics and pictures:
        vga.need_memory()
    memory = vga.look() if pictures or vga.mirror.kind != ODD_EVEN else None
    if is_graphics:
        empty = Screen(columns, rows, b" \x07" * (columns * rows), palette=palette, blink=blink, blank=True)
        if memory is None or not pictures:
            return replace(empty, graphics=True)
        return replace(empty, picture=graphics(vga, memory), graphics=True)

    start = crtc[0x0C] << 8 | crtc[0x0D]
    pitch = 2 * crtc[0x13]
    if memory is None or vga.mirror.kind == ODD_EVEN:
        cell_memory = read(WINDOW_BASES[vga.graphics.values[6] >> 2 & 3], WINDOW)
    else:  # a guest that is about to load a font
        planes = bytearray(WINDOW)
        planes[::2], planes[1::2] = memory.bytes[0 : 2 * WINDOW : 4], memory.bytes[1 : 2 * WINDOW : 4]
        cell_memory = bytes(planes)
    lines = (2 * (start + row * pitch) % WINDOW for row in range(rows))
    cells = b"".join((cell_memory + cell_memory)[at : at + 2 * columns] for at in lines)

    cursor = None
    place = ((crtc[0x0E] << 8 | crtc[0x0F]) - start) % (WINDOW // 2)
    first, last = crtc[0x0A] & 0x1F, min(crtc[0x0B] & 0x1F, height - 1)
    if not crtc[0x0A] & CURSOR_OFF and first <= last and pitch:
        row, column = divmod(place, pitch)
        if row < rows and column < columns:
            cursor = column, row
    screen = Screen(
        columns,
        rows,
        cells,
        cursor,
        (first * CELL_LINES // height, (last + 1) * CELL_LINES // height - 1),
        palette,
        blink,
        blank=not vga.pas
        or bool(vga.sequencer.values[1] & CLOCKING_SCREEN_OFF)
        or vga.sequencer.values[0] != 3
        or not crtc[0x17] & CRTC_RUN,
    )
    if memory is None or screen.blank or not pictures:
        return screen
    return replace(screen, picture=_text_picture(vga, memory, screen, height, (first, last)))


def _text_picture(vga: Vga, memory: VideoMemory, screen: Screen, height: int, cursor_lines: tuple[int, int]) -> Picture:
    """Text in the fonts of plane 2, in cells as wide and high as the registers say."""
    clocking, attribute = vga.sequencer.values[1], vga.attribute.values
    select = vga.sequencer.values[3]
    plane = bytes(memory.bytes[2:PLANES:4])
    fonts = [font_start(select & 3 | select >> 2 & 4), font_start(select >> 2 & 3 | select >> 3 & 4)]
    dots = 8 if clocking & CLOCKING_8_DOTS else 9
    wide = 2 if clocking & CLOCKING_HALF else 1
    twice = 2 if vga.crtc.values[0x09] & CRTC_DOUBLE_SCAN else 1
    joins = range(0xC0, 0xE0) if attribute[0x10] & MODE_LINE_GRAPHICS else range(0)
    colours = [bytes(colour) * wide for colour in screen.palette]
    cells, columns = screen.cells, screen.columns
    made: dict[tuple[bytes, int], bytes] = {}

    def cell_line(cell: bytes, scan: int) -> bytes:
        dots_of = made.get((cell, scan))
        if dots_of is None:
            character, look = cell
            foreground, background, _ = screen.colours(look)
            bits = plane[fonts[look >> 3 & 1] + GLYPH * character + scan] << 1
            if character in joins:
                bits |= bits >> 1 & 1
            pair = colours[background], colours[foreground]
            dots_of = made[cell, scan] = b"".join([pair[bits >> 8 - x & 1] for x in range(dots)])
        return dots_of

    def line(y: int) -> bytes:
        row, scan = divmod(y // twice, height)
        if row >= screen.rows:
            return bytes(3 * wide * dots * columns)
        at = 2 * columns * row
        parts = [cell_line(cells[place : place + 2], scan) for place in range(at, at + 2 * columns, 2)]
        if screen.cursor is not None and screen.cursor[1] == row and cursor_lines[0] <= scan <= cursor_lines[1]:
            column = screen.cursor[0]
            foreground, _, _ = screen.colours(cells[at + 2 * column + 1])
            parts[column] = colours[foreground] * dots
        return b"".join(parts)

    return Picture(wide * dots * columns, height * twice * screen.rows, line, square=False)


def graphics(vga: Vga, memory: VideoMemory) -> Picture:
    """The picture of a graphics mode, as it is now: nothing that changes later is in it."""
    if vga.dispi[DISPI_ENABLE] & DISPI_ENABLED:
        return _dispi_picture(vga, memory)
    crtc = vga.crtc.values
    width = 8 * (crtc[0x01] + 1)
    lines = 1 + (crtc[0x12] | (crtc[0x07] & 0x02) << 7 | (crtc[0x07] & 0x40) << 3)
    shift = vga.graphics.values[5] >> 5 & 3
    if shift < 2 and vga.sequencer.values[1] & CLOCKING_HALF:
        width *= 2
    if (
        not vga.pas
        or vga.sequencer.values[1] & CLOCKING_SCREEN_OFF
        or vga.sequencer.values[0] != 3
        or not crtc[0x17] & CRTC_RUN
    ):
        return Picture(width, lines, lambda y: bytes(3 * width), square=False)
    places = _places(vga, lines)
    words = bytes(memory.bytes[:PLANES])
    clocks = crtc[0x01] + 2  # one more than is shown, for what panning brings in from the right
    draw = _chunky if shift >= 2 else _pairs if shift == 1 else _planar
    index_line = draw(vga)
    palette = _palette_256(vga) if shift >= 2 else [bytes(_rgb(vga, number)) for number in range(16)]
    each = width // (crtc[0x01] + 1) // (4 if shift >= 2 else 8)
    colours = [colour * each for colour in palette]
    made: dict[tuple[int, int], bytes] = {}

    def line(y: int) -> bytes:
        place = places[y]
        shown = made.get(place)
        if shown is None:
            address, pan = place
            at = 4 * (address & 0xFFFF)
            size = 4 * clocks * (2 if shift >= 2 else 1)
            fetched = words[at : at + size]
            if len(fetched) < size:
                fetched += words[: size - len(fetched)]
            pixels = index_line(fetched)[pan:]
            if len(made) > 1:
                made.clear()
            shown = made[place] = b"".join([colours[pixel] for pixel in pixels])[: 3 * width]
        return shown

    return Picture(width, lines, line, square=False)


def _places(vga: Vga, lines: int) -> list[tuple[int, int]]:
    """For each scan line its first address in the planes, and how many pixels of it have been panned away."""
    crtc, attribute = vga.crtc.values, vga.attribute.values
    shift = vga.graphics.values[5] >> 5 & 3
    last = crtc[0x09] & 0x1F
    twice = 1 if crtc[0x09] & CRTC_DOUBLE_SCAN else 0
    compare = crtc[0x18] | (crtc[0x07] & 0x10) << 4 | (crtc[0x09] & 0x40) << 3
    pitch, mode = 2 * crtc[0x13], crtc[0x17]
    bank = 12 + (mode >> 6 & 1)
    pan = (attribute[0x13] & 7) >> (1 if shift >= 2 else 0)
    base = (crtc[0x0C] << 8 | crtc[0x0D]) + (crtc[0x08] >> 5 & 3)
    row = min(crtc[0x08] & 0x1F, last)
    half = 0  # of a line that is shown twice
    places = []
    for y in range(lines):
        address = base
        if not mode & 1:
            address = address & ~(1 << bank) | (row & 1) << bank
        if not mode & 2:
            address = address & ~(1 << bank + 1) | (row >> 1 & 1) << bank + 1
        places.append((address, pan))
        if y == compare:
            base = row = half = 0
            if attribute[0x10] & MODE_PAN_TOP:
                pan = 0
        elif half < twice:
            half += 1
        else:
            half = 0
            row = 0 if row >= last else row + 1
            if not row:
                base += pitch
    return places


def _chunky(vga: Vga) -> Callable[[bytes], bytes]:
    return lambda fetched: fetched


def _planar(vga: Vga) -> Callable[[bytes], bytes]:
    """Four planes, a bit of each a pixel."""
    planes = [plane for plane in range(4) if vga.attribute.values[0x12] >> plane & 1]

    def line(fetched: bytes) -> bytes:
        total = 0
        for plane in planes:
            dots = b"".join([_SPREAD[byte] for byte in fetched[plane::4]])
            total |= int.from_bytes(dots, "little") << plane
        return total.to_bytes(2 * len(fetched), "little")

    return line


def _pairs(vga: Vga) -> Callable[[bytes], bytes]:
    """CGA's four colours: two bits a pixel, from planes 0 and 1 in turns; planes 2 and 3 have the upper two."""
    low, high = vga.attribute.values[0x12] & 3, vga.attribute.values[0x12] & 12

    def line(fetched: bytes) -> bytes:
        dots = bytearray()
        for at in range(0, len(fetched), 4):
            for plane in (0, 1):
                lower, upper = _PAIRS[fetched[at + plane]], _PAIRS[fetched[at + plane + 2]]
                dots += bytes([one & low | two << 2 & high for one, two in zip(lower, upper, strict=True)])
        return bytes(dots)

    return line


def _palette_256(vga: Vga) -> list[bytes]:
    """What the DAC makes of each byte."""
    dac, mask = vga.dac, vga.pel_mask
    if not vga.dispi[DISPI_ENABLE] & DISPI_8_BIT_DAC:
        dac = bytearray(value << 2 | value >> 4 for value in dac)
    return [bytes(dac[3 * (index & mask) : 3 * (index & mask) + 3]) for index in range(256)]


def _dispi_picture(vga: Vga, memory: VideoMemory) -> Picture:
    """A mode of the display interface."""
    dispi = vga.dispi
    width, height, depth = dispi[DISPI_X], dispi[DISPI_X + 1], dispi[DISPI_BPP]
    pitch = vga.pitch_of(dispi[DISPI_WIDTH])
    start = dispi[DISPI_TOP] * pitch
    if depth == 4:
        start = 4 * (start + dispi[DISPI_LEFT] // 8)
        pitch, size = 4 * pitch, width // 2
        index_line, colours = _planar(vga), [bytes(_rgb(vga, number)) for number in range(16)]
    else:
        start += dispi[DISPI_LEFT] * (depth + 7 >> 3)
        size = width * (depth + 7 >> 3)
        index_line, colours = _chunky(vga), _palette_256(vga) if depth == 8 else []
    end = start + pitch * (height - 1) + size
    shown = bytes(memory.bytes[start:end])  # what is beyond the memory's end is black

    def line(y: int) -> bytes:
        data = shown[y * pitch : y * pitch + size]
        data += bytes(size - len(data))
        if depth > 8:
            return _true_colour(data, depth)
        return b"".join([colours[pixel] for pixel in index_line(data)])

    return Picture(width, height, line, square=True)


_RED_15 = bytes((byte >> 2 & 31) << 3 | (byte >> 2 & 31) >> 2 for byte in range(256))
_RED_16 = bytes(byte >> 3 << 3 | byte >> 5 for byte in range(256))
_BLUE = bytes((byte & 31) << 3 | (byte & 31) >> 2 for byte in range(256))
_GREEN_15 = (
    bytes((byte & 3) << 6 | (byte & 3) << 1 for byte in range(256)),
    bytes(byte >> 5 << 3 | byte >> 7 for byte in range(256)),
)
_GREEN_16 = (
    bytes((byte & 7) << 5 | (byte & 7) >> 1 for byte in range(256)),
    bytes(byte >> 5 << 2 for byte in range(256)),
)
"""What the upper and the lower byte of a pixel of 15 or 16 bits have of its colours, 8 bits each."""


def _true_colour(data: bytes, depth: int) -> bytes:
    """Pixels of 15, 16, 24 or 32 bits as red, green, blue."""
    if depth >= 24:
        step = depth // 8
        rgb = bytearray(3 * (len(data) // step))
        rgb[::3], rgb[1::3], rgb[2::3] = data[2::step], data[1::step], data[::step]
        return bytes(rgb)
    low, high = data[::2], data[1::2]
    rgb = bytearray(3 * len(low))
    upper, lower = _GREEN_15 if depth == 15 else _GREEN_16
    rgb[::3] = high.translate(_RED_15 if depth == 15 else _RED_16)
    green = int.from_bytes(high.translate(upper), "little") | int.from_bytes(low.translate(lower), "little")
    rgb[1::3] = green.to_bytes(len(low), "little")
    rgb[2::3] = low.translate(_BLUE)
    return bytes(rgb)


def _rgb(vga: Vga, number: int) -> tuple[int, int, int]:
    """One of the 16 colours: through the attribute controller's palette, then the DAC's, from 6 bits to 8."""
    attribute = vga.attribute.values
    colour, select = attribute[number & attribute[0x12] & 0x0F], attribute[0x14]
    if attribute[0x10] & MODE_P54_SELECT:
        colour = colour & 0x0F | (select & 0x03) << 4
    place = 3 * ((colour | (select & 0x0C) << 4) & vga.pel_mask)
    if vga.dispi[DISPI_ENABLE] & DISPI_8_BIT_DAC:
        red, green, blue = vga.dac[place : place + 3]
    else:
        red, green, blue = (value << 2 | value >> 4 for value in vga.dac[place : place + 3])
    return red, green, blue
