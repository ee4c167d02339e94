"""A screen, and what can be made of it: text for a terminal, a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .text_mode import TextMode


@dataclass(frozen=True)
class Screen(TextMode):
    """What a monitor shows."""

    def ansi(self, truecolor: bool = True) -> str:
        """The screen as lines for a terminal, with ECMA-48 control sequences for the colours.

        `truecolor` gives the palette's exact colours, False the terminal's own 16.
        """
        from .ansi import render

        return render(self, truecolor)

    def png(self, scale: int = 1, font: bytes | None = None) -> bytes:
        """The screen as a PNG picture: a cell is 9 by 16 pixels, each made `scale` (1 to 8) times as large.

        `font` is 256 glyphs of 16 bytes, as `display.font.load` returns them; a font of the system otherwise.
        Raises display.font.FontError if there is none.
        """
        from .png import render

        return render(self, scale, font)

    def save(self, path: str | os.PathLike[str], scale: int = 1) -> None:
        """Write the picture of `png` to a file."""
        picture = self.png(scale)
        with open(path, "wb") as file:
            file.write(picture)
