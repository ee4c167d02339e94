"""A screen shown live in a terminal.

Implements: ECMA-48 cursor positioning (CUP) and the private modes of DEC and xterm that all terminals of today have:
DECTCEM (25, cursor), DECAWM (7, wrapping) and 1049 (the alternate screen).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from .ansi import RESET, attribute_sequence
from .text_mode import CP437, TextMode

if TYPE_CHECKING:
    from .picture import Picture
    from .screen import Screen

_OPEN = "\x1b[?1049h\x1b[?7l"
_CLOSE = f"{RESET}\x1b[?7h\x1b[?25h\x1b[?1049l"
_CLEAR = f"{RESET}\x1b[2J"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"


def _terminal_size() -> tuple[int, int]:
    return shutil.get_terminal_size()


class TerminalDisplay:
    """Draws screens in the terminal behind `write`, from its top left corner on.

    `size` gives the terminal's columns and rows at each draw: what is outside is left out. `truecolor` is as in
    `Screen.ansi`; without `colours` all text has the terminal's own. The terminal's own screen is back after `close`,
    or after a `with` block.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        size: Callable[[], tuple[int, int]] = _terminal_size,
        truecolor: bool = True,
        colours: bool = True,
    ) -> None:
        self._write = write
        self._size = size
        self._truecolor = truecolor
        self._colours = colours
        self._open = False
        self._shown: TextMode | None = None
        self._shown_size = (0, 0)
        self._picture: list[str] | None = None  # the lines of a graphics mode, if that is shown

    def draw(self, screen: Screen) -> None:
        """Make the terminal show `screen`, in one write of no more than what has changed since the last one."""
        if screen.graphics and screen.picture is not None:
            self._draw_picture(screen.picture)
            return
        if self._picture is not None:
            self._picture, self._shown = None, None
        size = self._size()
        old = self._shown
        parts = []
        if not self._open:
            parts.append(_OPEN)
            self._open = True
        if old is None or size != self._shown_size or _look(old) != _look(screen):
            parts.append(_CLEAR)
            old = None
        columns, rows = min(screen.columns, size[0]), min(screen.rows, size[1])
        if not screen.blank:
            self._draw_cells(screen, None if old is None else old.cells, columns, rows, parts)
        cursor = None if screen.blank else screen.cursor
        if cursor is not None and not (cursor[0] < columns and cursor[1] < rows):
            cursor = None
        if parts or old is None or old.cursor != screen.cursor:
            parts.append(_HIDE if cursor is None else f"\x1b[{cursor[1] + 1};{cursor[0] + 1}H{_SHOW}")
            self._write("".join(parts))
        self._shown, self._shown_size = screen, size

    def _draw_picture(self, picture: Picture) -> None:
        from .blocks import NO_COLOURS, half_blocks

        size = self._size()
        lines = half_blocks(picture, *size, self._truecolor) if self._colours else [NO_COLOURS[: size[0]]]
        old = self._picture if self._shown_size == size else None
        parts = []
        if old is None or len(old) != len(lines):
            parts.append(("" if self._open else _OPEN) + _CLEAR + _HIDE)
            self._open, old = True, None
        for row, line in enumerate(lines):
            if old is None or old[row] != line:
                parts.append(f"\x1b[{row + 1};1H{line}{RESET}")
        if parts:
            self._write("".join(parts))
        self._picture, self._shown, self._shown_size = lines, None, size

    def _draw_cells(self, screen: TextMode, old: bytes | None, columns: int, rows: int, parts: list[str]) -> None:
        cells = screen.cells
        current = -1
        for row in range(rows):
            start = 2 * screen.columns * row
            end = start + 2 * columns
            if old is not None and old[start:end] == cells[start:end]:
                continue
            pen = -1  # where the next character would come without being told
            for at in range(start, end, 2):
                if old is not None and old[at : at + 2] == cells[at : at + 2]:
                    continue
                if at != pen:
                    parts.append(f"\x1b[{row + 1};{(at - start) // 2 + 1}H")
                if self._colours and cells[at + 1] != current:
                    current = cells[at + 1]
                    parts.append(attribute_sequence(screen, current, self._truecolor))
                parts.append(CP437[cells[at]])
                pen = at + 2

    def close(self) -> None:
        """Give the terminal back as it was. May be called twice."""
        if self._open:
            self._open = False
            self._shown = self._picture = None
            self._write(_CLOSE)

    def __enter__(self) -> TerminalDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _look(screen: TextMode) -> tuple[object, ...]:
    """What makes all cells look different when it changes."""
    return screen.columns, screen.rows, screen.palette, screen.blink, screen.blank
