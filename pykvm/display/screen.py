"""A screen, and what can be made of it: text for a terminal, a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from .text_mode import TextMode

if TYPE_CHECKING:
    from .picture import Picture


@dataclass(frozen=True)
class Screen(TextMode):
    """What a monitor shows."""

    picture: Picture | None = field(default=None, compare=False)
    """What is shown where that is not text in the PC's own font: a graphics mode, or text in the guest's font."""
    graphics: bool = False
    """Whether a graphics mode is shown, which has no text."""

    def ansi(self, truecolor: bool = True) -> str:
        """The screen as lines for a terminal, with ECMA-48 control sequences for the colours.

        `truecolor` gives the palette's exact colours, False the terminal's own 16.
        """
        from .ansi import render

        return render(self, truecolor)

    @cached_property
    def _shown(self) -> Picture:
        if self.picture is not None:
            return self.picture
        from .png import picture

        return picture(self)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in the monitor's dots, such as (720, 400) in text mode."""
        return self._shown.width, self._shown.height

    @property
    def pixels(self) -> bytes:
        """The picture, line by line from the top, three bytes a dot: red, green, blue."""
        return self._shown.pixels

    def png(
        self,
        scale: int = 1,
        font: bytes | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        aspect: bool = False,
    ) -> bytes:
        """The screen as a PNG picture, each of the monitor's dots made `scale` (1 to 8) times as large.

        `path` is a file that it is written to, too. With `aspect` it is as wide and high as on a monitor, whose dots
        are not square in most of VGA's modes: 640 by 400 become 640 by 480. `font` is 256 glyphs of 16 bytes, as
        `display.font.load` returns them, for text whose font the guest has not touched; a font of the system otherwise.
        Raises display.font.FontError if there is none.
        """
        if self.picture is not None:
            content = self.picture.png(scale, aspect)
        else:
            from .png import picture, render

            content = picture(self, font).png(scale, aspect) if aspect else render(self, scale, font)
        if path is not None:
            with open(path, "wb") as file:
                file.write(content)
        return content

    def save(self, path: str | os.PathLike[str], scale: int = 1, *, aspect: bool = False) -> None:
        """Write the picture of `png` to a file."""
        self.png(scale, path=path, aspect=aspect)
