"""A text screen at one moment: characters, colours and cursor.

Implements: the PC's text mode cells (a character of code page 437, then an attribute byte: bits 3-0 foreground, 6-4
background, 7 blinking or a bright background), as in the IBM PS/2 Hardware Interface Technical Reference, "Video
Subsystem", section "Alphanumeric modes".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

Rgb = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

CP437 = (
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
    + bytes(range(0x20, 0x7F)).decode("ascii")
    + "⌂"
    + bytes(range(0x80, 0xFF)).decode("cp437")
    + " "
)
"""The 256 characters of the PC's own font, as they look: codes 0x00 and 0xFF are blank."""

VGA_COLOURS: tuple[Rgb, ...] = (
    (0, 0, 0),
    (0, 0, 170),
    (0, 170, 0),
    (0, 170, 170),
    (170, 0, 0),
    (170, 0, 170),
    (170, 85, 0),
    (170, 170, 170),
    (85, 85, 85),
    (85, 85, 255),
    (85, 255, 85),
    (85, 255, 255),
    (255, 85, 85),
    (255, 85, 255),
    (255, 255, 85),
    (255, 255, 255),
)
"""The colours 0 to 15 of a VGA after power-on."""

CELL_LINES = 16
"""Scan lines of a character cell."""


@dataclass(frozen=True)
class TextMode:
    """What a text screen shows. Columns and rows are counted from 0, from the top left corner on."""

    columns: int
    rows: int
    cells: bytes
    """Row after row, two bytes a cell: character and attribute."""
    cursor: tuple[int, int] | None = None
    """The cursor's column and row; None where it is off."""
    cursor_lines: tuple[int, int] = (13, 14)
    """First and last scan line of the cursor, in a cell of 16."""
    palette: tuple[Rgb, ...] = VGA_COLOURS
    """What the 16 colours look like."""
    blink: bool = True
    """Whether bit 7 of an attribute makes the character blink; it makes its background bright otherwise."""
    blank: bool = False
    """Whether the display is switched off or in a graphics mode: the cells are there, and not shown."""

    def __post_init__(self) -> None:
        if self.columns < 1 or self.rows < 1 or len(self.cells) != 2 * self.columns * self.rows:
            raise ValueError(f"{len(self.cells)} bytes are not {self.columns} columns of {self.rows} rows")
        if self.cursor is not None and not (0 <= self.cursor[0] < self.columns and 0 <= self.cursor[1] < self.rows):
            raise ValueError(f"the cursor {self.cursor} is not within {self.columns} columns of {self.rows} rows")
        if len(self.palette) != 16:
            raise ValueError(f"a palette has 16 colours, not {len(self.palette)}")

    @cached_property
    def lines(self) -> list[str]:
        """Each row as text, without the blanks at its end."""
        characters = self.cells[::2].decode("latin-1").translate(_TO_UNICODE)
        return [characters[at : at + self.columns].rstrip(" ") for at in range(0, len(characters), self.columns)]

    @property
    def text(self) -> str:
        """The rows as one text, without blanks at their ends and without the empty rows at its end."""
        return "\n".join(self.lines).rstrip("\n")

    def find(self, text: str) -> tuple[int, int] | None:
        """The column and row where `text`, which is within one row, is first; None if it is nowhere."""
        for row, line in enumerate(self.lines):
            column = line.find(text)
            if column >= 0:
                return column, row
        return None

    def colours(self, attribute: int) -> tuple[int, int, bool]:
        """Foreground, background (0 to 15 each), and whether it blinks."""
        if self.blink:
            return attribute & 0xF, attribute >> 4 & 0x7, attribute > 0x7F
        return attribute & 0xF, attribute >> 4 & 0xF, False


_TO_UNICODE = dict(enumerate(CP437))
