"""Text screens for a terminal.

Implements: ECMA-48 (5th edition), section 8.3.117 (SGR), with aixterm's bright colours (90-97, 100-107) and the
direct colours of ISO/IEC 8613-6, as all terminals of today have them.
"""

from __future__ import annotations

from .text_mode import CP437, TextMode

RESET = "\x1b[0m"


def attribute_sequence(screen: TextMode, attribute: int, truecolor: bool) -> str:
    """The control sequence that makes what follows look as `attribute` says, whatever was before."""
    foreground, background, blinking = screen.colours(attribute)
    if truecolor:
        front = "38;2;{};{};{}".format(*screen.palette[foreground])
        back = "48;2;{};{};{}".format(*screen.palette[background])
    else:
        front, back = _ansi_colour(30, foreground), _ansi_colour(40, background)
    return f"\x1b[0;{'5;' if blinking else ''}{front};{back}m"


def _ansi_colour(base: int, colour: int) -> str:
    """The PC counts blue 1, green 2, red 4, bright 8; ECMA-48 counts red 1, green 2, blue 4."""
    return str(base + (60 if colour & 8 else 0) + (colour >> 2 & 1 | colour & 2 | (colour & 1) << 2))


def render(screen: TextMode, truecolor: bool) -> str:
    """All rows, each ending in a line feed with the terminal's own colours back."""
    if screen.blank:
        return "\n" * screen.rows
    parts = []
    width = 2 * screen.columns
    for start in range(0, len(screen.cells), width):
        current = -1
        for at in range(start, start + width, 2):
            attribute = screen.cells[at + 1]
            if attribute != current:
                parts.append(attribute_sequence(screen, attribute, truecolor))
                current = attribute
            parts.append(CP437[screen.cells[at]])
        parts.append(RESET + "\n")
    return "".join(parts)
