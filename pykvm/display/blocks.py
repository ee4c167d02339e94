"""A picture in a terminal: each character is two pixels, the upper half block in one colour on another.

Implements: U+2580; ECMA-48 SGR with the direct and the 256 indexed colours of ISO/IEC 8613-6 (of the latter the cube of
6 by 6 by 6 from 16 on, as xterm has it).
"""

from __future__ import annotations

from .picture import Picture

NO_COLOURS = "A graphics mode, which this terminal without colours cannot show: pykvm screenshot saves it as a picture."
_LEVELS = (0, 95, 135, 175, 215, 255)
_NEAREST = bytes(min(range(6), key=lambda step: abs(_LEVELS[step] - value)) for value in range(256))


def half_blocks(picture: Picture, columns: int, rows: int, truecolor: bool) -> list[str]:
    """Lines of at most `columns` characters, at most `rows` of them, with the picture as large as fits, at its aspect.

    Colours are those of the middle of what a half block covers. Each line ends in the last one's.
    """
    wide, high = picture.at_aspect()
    width = max(min(columns, 2 * rows * wide // high, wide), 1)
    height = max(min(2 * rows, width * high // wide, high), 2) & ~1
    small = picture.resized(width, height)
    lines = []
    for y in range(0, height, 2):
        upper, lower = small.line(y), small.line(y + 1)
        parts, last = [], b""
        for at in range(0, 3 * width, 3):
            pair = upper[at : at + 3] + lower[at : at + 3]
            if pair != last:
                parts.append(_colours(pair, truecolor))
                last = pair
            parts.append("\u2580")
        lines.append("".join(parts))
    return lines


def _colours(pair: bytes, truecolor: bool) -> str:
    if truecolor:
        return "\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*pair)
    front, back = (16 + 36 * _NEAREST[r] + 6 * _NEAREST[g] + _NEAREST[b] for r, g, b in (pair[:3], pair[3:]))
    return f"\x1b[38;5;{front};48;5;{back}m"
