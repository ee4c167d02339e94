"""INT 10h: the screen.

Sources: IBM PS/2 Hardware Interface Technical Reference ("Video Subsystem": the registers in each mode); IBM PS/2 BIOS
Interface Technical Reference (INT 10h). The graphics modes are `video_modes`'s, those of VESA `vbe`'s; setting one that
there is not leaves the screen as it is. There are no light pens. Text is put into the video memory,
which is plain RAM; the VGA's registers are told where the cursor is and which page is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bus import PortBus
from ..devices.vga import Vga
from ..devices.vga_registers import DISPI_ENABLE, DISPI_PORT, EGA_PALETTE, Mode
from ..memory import GuestMemory
from . import data
from .call import SPIN, Call, linear
from .redirect import Redirect

if TYPE_CHECKING:
    from .video_modes import Canvas

TEXT = 0xB8000
WINDOW = 0x8000
"""Bytes of video memory for text."""
PAGES = 8
TEXT_MODES = (0, 1, 2, 3)

CHARACTERS_AT_ONCE = 64
"""What function 13h writes before it has the stub call again: each may scroll the screen, and all else waits."""

BELL, BACKSPACE, LINE_FEED, RETURN = 0x07, 0x08, 0x0A, 0x0D
BLANK = 0x20

MISC, SEQUENCER, GRAPHICS_CONTROLLER, ATTRIBUTE, PEL_MASK, DAC_READ, DAC_WRITE, DAC_DATA, CRTC, STATUS_1 = (
    0x3C2, 0x3C4, 0x3CE, 0x3C0, 0x3C6, 0x3C7, 0x3C8, 0x3C9, 0x3D4, 0x3DA,
)  # fmt: skip
SCREEN_ON = 0x20
"""Bit of the attribute controller's index."""


_TEXT_GRAPHICS = bytes.fromhex("00 00 00 00 00 10 0E 00 FF")
_TEXT_ATTRIBUTE = EGA_PALETTE + bytes.fromhex("0C 00 0F 08 00")
_TEXT_40 = Mode(
    0x67,
    bytes.fromhex("03 08 03 00 02"),
    bytes.fromhex("2D 27 28 90 2B A0 BF 1F 00 4F 0D 0E 00 00 00 00 9C 8E 8F 14 1F 96 B9 A3 FF"),
    _TEXT_GRAPHICS,
    _TEXT_ATTRIBUTE,
)
_TEXT_80 = Mode(
    0x67,
    bytes.fromhex("03 00 03 00 02"),
    bytes.fromhex("5F 4F 50 82 55 81 BF 1F 00 4F 0D 0E 00 00 00 00 9C 8E 8F 28 1F 96 B9 A3 FF"),
    _TEXT_GRAPHICS,
    _TEXT_ATTRIBUTE,
)
MODES = {
    0x00: _TEXT_40,
    0x01: _TEXT_40,
    0x02: _TEXT_80,
    0x03: _TEXT_80,
}
"""The text modes; the others are in `video_modes`."""


class Video:
    """Serves INT 10h."""

    def __init__(self, memory: GuestMemory, ports: PortBus, redirect: Redirect) -> None:
        self._memory = memory
        self._ports = ports
        self._redirect = redirect

    # What the data area says; the guest may write anything there

    def _byte(self, address: int) -> int:
        return self._memory.read_int(address, 1)

    @property
    def _columns(self) -> int:
        return min(max(self._memory.read_int(data.COLUMNS, 2), 1), 132)

    @property
    def _rows(self) -> int:
        return min(self._byte(data.ROWS_LESS_1), 59) + 1

    @property
    def _page(self) -> int:
        return self._byte(data.ACTIVE_PAGE) % PAGES

    @property
    def _is_text(self) -> bool:
        return self._byte(data.VIDEO_MODE) in TEXT_MODES

    @property
    def _canvas(self) -> Canvas | None:
        """The dots of the mode that the data area names, if it is one of graphics."""
        from .video_modes import MODES as GRAPHICS_MODES
        from .video_modes import Canvas

        mode = GRAPHICS_MODES.get(self._byte(data.VIDEO_MODE))
        return None if mode is None else Canvas(mode, self._vga, self._memory)

    @property
    def _vga(self) -> Vga | None:
        claim = self._ports.find(CRTC)
        return claim.device if claim is not None and isinstance(claim.device, Vga) else None

    def _cell(self, page: int, row: int, column: int) -> int:
        """The address of a cell; whatever the numbers, it is in the video memory."""
        return TEXT + self._place(page, row, column)

    def _place(self, page: int, row: int, column: int) -> int:
        """A cell's offset in the video memory, which wraps around."""
        start = page * self._memory.read_int(data.PAGE_SIZE, 2)
        return (start + 2 * (row * self._columns + column)) % WINDOW & ~1

    def _load(self, place: int, count: int) -> bytes:
        """`count` cells, less than the video memory has, from offset `place` of it on."""
        size, head = 2 * count, WINDOW - place
        if size <= head:
            return self._memory.read(TEXT + place, size)
        return self._memory.read(TEXT + place, head) + self._memory.read(TEXT, size - head)

    def _store(self, place: int, cells: bytes | bytearray) -> None:
        """Put cells into the video memory from offset `place` on."""
        head = WINDOW - place
        self._memory.write(TEXT + place, cells[:head])
        if len(cells) > head:
            self._memory.write(TEXT, cells[head:])

    def _cursor(self, page: int) -> tuple[int, int]:
        """Row and column."""
        at = data.CURSORS + 2 * (page % PAGES)
        return self._byte(at + 1), self._byte(at)

    # The VGA

    def _write_crtc(self, register: int, value: int) -> None:
        self._ports.write(CRTC, 1, register)
        self._ports.write(CRTC + 1, 1, value & 0xFF)

    @property
    def _present(self) -> bool:
        return self._ports.find(CRTC) is not None

    def set_mode(self, number: int, *, clear: bool = True) -> bool:
        """Set the VGA and the data area for a mode; False if there is no such mode."""
        memory, vga = self._memory, self._vga
        if number in MODES:
            mode, columns, rows, height = MODES[number], 40 if number < 2 else 80, 25, 16
        else:
            from .video_modes import MODES as GRAPHICS_MODES

            if number not in GRAPHICS_MODES:
                return False
            graphics = GRAPHICS_MODES[number]
            mode, columns, height = graphics.registers, graphics.width // 8, graphics.character
            rows = graphics.height // height
        for address, size, value in (
            (data.VIDEO_MODE, 1, number),
            (data.COLUMNS, 2, columns),
            (data.PAGE_SIZE, 2, 0x800 if columns == 40 else 0x1000),
            (data.PAGE_START, 2, 0),
            (data.CURSORS, 16, 0),
            (data.CURSOR_SHAPE, 2, 0x0D0E),
            (data.ACTIVE_PAGE, 1, 0),
            (data.CRTC_PORT, 2, CRTC),
            (data.ROWS_LESS_1, 1, rows - 1),
            (data.CHARACTER_HEIGHT, 2, height),
            (data.VIDEO_CONTROL, 1, 0x60 if clear else 0xE0),
            (data.VIDEO_SWITCHES, 1, 0xF9),
            (data.VIDEO_FLAGS, 1, 0x51),
            (data.DISPLAY_CODE, 1, 0x08),
        ):
            memory.write_int(address, size, value)
        equipment = memory.read_int(data.EQUIPMENT, 1) & ~0x30
        memory.write_int(data.EQUIPMENT, 1, equipment | (0x20 if columns == 80 else 0x10))
        if vga is not None:
            if vga.dispi[DISPI_ENABLE]:
                self._ports.write(DISPI_PORT, 2, DISPI_ENABLE)
                self._ports.write(DISPI_PORT + 1, 2, 0)
            self._program(mode)
            if number not in MODES:
                vga.need_memory()
            if vga.memory is not None:
                from .video_modes import default_dac

                vga.dac[:] = default_dac(number)

                vga.pel_mask = 0xFF
            if clear:
                vga.clear()
        if clear:
            if number in MODES:
                memory.write(TEXT, b"\x20\x07" * (WINDOW // 2))
            elif vga is None and number == 0x13:
                memory.write(0xA0000, bytes(0x10000))
        self._redirect.cleared()
        return True

    def _program(self, mode: Mode) -> None:
        write = self._ports.write
        write(MISC, 1, mode.misc)
        for number, value in enumerate(mode.sequencer):
            write(SEQUENCER, 1, number)
            write(SEQUENCER + 1, 1, value)
        self._write_crtc(0x11, mode.crtc[0x11] & 0x7F)  # its bit 7 protects the first eight
        for number, value in enumerate(mode.crtc):
            self._write_crtc(number, value)
        for number, value in enumerate(mode.graphics):
            write(GRAPHICS_CONTROLLER, 1, number)
            write(GRAPHICS_CONTROLLER + 1, 1, value)
        self._ports.read(STATUS_1, 1)  # the next write to the attribute controller is an index
        for number, value in enumerate(mode.attribute):
            write(ATTRIBUTE, 1, number)
            write(ATTRIBUTE, 1, value)
        write(ATTRIBUTE, 1, SCREEN_ON)

    def _move_cursor(self, page: int, row: int, column: int) -> None:
        self._memory.write(data.CURSORS + 2 * (page % PAGES), bytes((column & 0xFF, row & 0xFF)))
        if page % PAGES == self._page and self._present:
            place = (self._cell(page % PAGES, row, column) - TEXT) // 2
            self._write_crtc(0x0E, place >> 8)
            self._write_crtc(0x0F, place)

    def _show_page(self, page: int) -> None:
        page %= PAGES
        start = page * self._memory.read_int(data.PAGE_SIZE, 2) % WINDOW
        self._memory.write_int(data.ACTIVE_PAGE, 1, page)
        self._memory.write_int(data.PAGE_START, 2, start)
        if self._present:
            self._write_crtc(0x0C, start >> 9)
            self._write_crtc(0x0D, start >> 1)
        self._move_cursor(page, *self._cursor(page))

    # Text

    def _put(self, page: int, row: int, column: int, character: int, attribute: int | None) -> None:
        if self._is_text:
            cell = self._cell(page, row, column)
            self._memory.write_int(cell, 1, character)
            if attribute is not None:
                self._memory.write_int(cell + 1, 1, attribute)
        elif (canvas := self._canvas) is not None:
            canvas.character(row, column, character, 7 if attribute is None else attribute)
        if page == self._page:
            self._redirect.print(row, column, character)

    def write(self, character: int, page: int | None = None, attribute: int | None = None) -> None:
        """Write a character at the cursor as a teletype does, and move the cursor on."""
        page = self._page if page is None else page % PAGES
        row, column = self._cursor(page)
        if character in (BELL, BACKSPACE, LINE_FEED, RETURN):
            if page == self._page:
                self._redirect.control(character, row, column)
            if character == BACKSPACE:
                column = max(column - 1, 0)
            elif character == LINE_FEED:
                row += 1
            elif character == RETURN:
                column = 0
        else:
            self._put(page, row, column, character, attribute)
            column += 1
            if column >= self._columns:
                column = 0
                row += 1
        if row >= self._rows:
            row = self._rows - 1
            fill = self._byte(self._cell(page, row, 0) + 1) if self._is_text else 0
            self._scroll(page, 1, (0, 0, row, self._columns - 1), fill)
            if page == self._page:
                self._redirect.scrolled()
        self._move_cursor(page, row, column)

    def _scroll(self, page: int, lines: int, window: tuple[int, int, int, int], attribute: int) -> None:
        """Move the text in a window (top, left, bottom, right) up, or down if `lines` is negative; 0 clears it."""
        if not self._is_text:
            if (canvas := self._canvas) is not None:
                top, left, bottom, right = window
                bottom, right = min(bottom, self._rows - 1), min(right, self._columns - 1)
                if top <= bottom and left <= right:
                    canvas.scroll(top, left, bottom, right, lines, attribute)
            return
        top, left, bottom, right = window
        columns = self._columns
        bottom, right = min(bottom, self._rows - 1), min(right, columns - 1)
        if top > bottom or left > right:
            return
        height, pitch = bottom - top + 1, 2 * columns
        place = self._place(page, top, 0)
        before = self._load(place, height * columns)
        blank = bytes((BLANK, attribute)) * columns
        if lines == 0 or abs(lines) >= height:
            after = blank * height
        elif lines > 0:
            after = before[lines * pitch :] + blank * lines
        else:
            after = blank * -lines + before[: lines * pitch]
        if right - left + 1 < columns:
            start, end = 2 * left, 2 * (right + 1)
            after = b"".join(
                before[at : at + start] + after[at + start : at + end] + before[at + end : at + pitch]
                for at in range(0, height * pitch, pitch)
            )
        self._store(place, after)

    def _scroll_call(self, call: Call) -> None:
        lines = call.al if call.ah == 0x06 else -call.al
        self._scroll(self._page, lines, (call.ch, call.cl, call.dh, call.dl), call.bh)

    def _repeat(self, call: Call) -> None:
        """Functions 09h and 0Ah: CX characters from the cursor on, which stays where it is."""
        page = call.bh % PAGES
        row, column = self._cursor(page)
        if not call.cx:
            return
        if not self._is_text:
            if (canvas := self._canvas) is not None:
                for place in range(row * self._columns + column, row * self._columns + column + min(call.cx, 80)):
                    canvas.character(*divmod(place, self._columns), call.al, call.bl)
            if call.cx == 1 and page == self._page:
                self._redirect.print(row, column, call.al)
            return
        # No further than the end of the screen.
        count = min(call.cx, max(self._rows * self._columns - (row * self._columns + column), 0))
        place = self._place(page, row, column)
        cells = bytearray(self._load(place, count))
        cells[::2] = bytes((call.al,)) * count
        if call.ah == 0x09:
            cells[1::2] = bytes((call.bl,)) * count
        self._store(place, cells)
        # A long run is a bar or a way to clear a line.
        if count == 1 and page == self._page:
            self._redirect.print(row, column, call.al)

    def _string(self, call: Call) -> None:
        """Function 13h: CX characters at ES:BP; AL bit 0 moves the cursor, bit 1 has attributes in the string.

        Between two parts of a long string interrupts are let in. ESP in the frame then holds where the cursor was
        before the call, row above column, and below these 16 bits how many characters have been written.
        """
        page = call.bh % PAGES
        size = 2 if call.al & 2 else 1
        before, done = divmod(call.esp if call.waited else 0, 0x10000)
        if not call.waited:
            row, column = self._cursor(page)
            before = row << 8 | column
            self._move_cursor(page, call.dh, call.dl)
        count = min(max(call.cx - done, 0), CHARACTERS_AT_ONCE)
        text = self._memory.read(linear(call.es, call.bp) + done * size, count * size)
        for at in range(0, len(text), size):
            self.write(text[at], page, text[at + 1] if size == 2 else call.bl)
        if done + count < call.cx:
            call.esp = before << 16 | done + count
            call.wait = SPIN
        elif not call.al & 1:
            self._move_cursor(page, before >> 8, before & 0xFF)

    # Dots

    def _dot(self, call: Call) -> None:
        canvas = self._canvas
        if canvas is None:
            return
        if call.ah == 0x0D:
            if call.cx < canvas.mode.width and call.dx < canvas.mode.height:
                call.al = canvas.get(call.cx, call.dx)
        else:
            canvas.put(call.cx, call.dx, call.al)

    # INT 10h

    def serve(self, call: Call) -> None:
        match call.ah:
            case 0x0E:
                # To the page that is shown, as all BIOSes do: BH is often garbage. In graphics BL is the colour.
                self.write(call.al, attribute=None if self._is_text else call.bl)
            case 0x00:
                number = call.al & 0x7F
                if self.set_mode(number, clear=not call.al & 0x80):
                    call.al = 0x20 if number > 7 else 0x3F if number == 6 else 0x30
                else:
                    call.unanswered = True
            case 0x01:
                self._memory.write_int(data.CURSOR_SHAPE, 2, call.cx)
                if self._present:
                    self._write_crtc(0x0A, call.ch)
                    self._write_crtc(0x0B, call.cl)
            case 0x02:
                self._move_cursor(call.bh, call.dh, call.dl)
            case 0x03:
                call.dh, call.dl = self._cursor(call.bh)
                call.cx = self._memory.read_int(data.CURSOR_SHAPE, 2)
                call.ax = 0
            case 0x05:
                self._show_page(call.al)
            case 0x06 | 0x07:
                self._scroll_call(call)
            case 0x08 if self._is_text:
                call.ax = self._memory.read_int(self._cell(call.bh % PAGES, *self._cursor(call.bh)), 2)
            case 0x09 | 0x0A:
                self._repeat(call)
            case 0x0C | 0x0D:
                self._dot(call)
            case 0x0F:
                # Bit 7: the screen was not cleared when the mode was set.
                kept = self._byte(data.VIDEO_CONTROL) & 0x80
                call.al, call.ah, call.bh = self._byte(data.VIDEO_MODE) | kept, self._columns, self._page
            case 0x10:
                if self._present:
                    from .video_palette import serve as serve_palette

                    serve_palette(call, self._ports, self._memory)
            case 0x11 if call.al == 0x30:
                call.cx, call.dl = self._byte(data.CHARACTER_HEIGHT), self._rows - 1
            case 0x12 if call.bl == 0x10:
                call.bx, call.cx = 0x0003, 0x0009  # colour, 256 KiB; a VGA's switches
            case 0x13:
                self._string(call)
            case 0x1A if call.al == 0x00:
                call.al, call.bx = 0x1A, 0x0008  # VGA with a colour monitor, no second one
            case 0x4F:
                from .vbe import serve

                serve(self.set_mode, call, self._vga, self._ports, self._memory)
            case _:
                call.unanswered = True
