"""A picture of pixels: what a monitor shows of a graphics mode, line by line, and as PNG.

Implements: PNG (W3C recommendation, second edition), sections 5 and 11.2: true colour, 8 bits a sample.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cached_property

from ..errors import ConfigError

MAX_SCALE = 8


class Picture:
    """`width` by `height` pixels; `line(y)` gives those of a line, three bytes each: red, green, blue.

    `square` says whether the pixels are as high as wide; the picture fills a monitor of 4:3 otherwise.
    """

    def __init__(self, width: int, height: int, line: Callable[[int], bytes], *, square: bool) -> None:
        self.width, self.height, self.line, self.square = width, height, line, square

    @cached_property
    def pixels(self) -> bytes:
        """All lines, one after the other."""
        return b"".join(map(self.line, range(self.height)))

    def at_aspect(self) -> tuple[int, int]:
        """The size in pixels that are square: no line or column is lost."""
        if self.square or not self.width or not self.height:
            return self.width, self.height
        width = max(self.width, -(-4 * self.height // 3))
        return width, -(-3 * width // 4)

    def resized(self, width: int, height: int) -> Picture:
        """The picture with another number of pixels, each that of the old one which is nearest."""
        columns = [(2 * x + 1) * self.width // (2 * width) for x in range(width)]
        same = columns == list(range(self.width))

        def line(y: int) -> bytes:
            old = self.line((2 * y + 1) * self.height // (2 * height))
            return old if same else b"".join([old[3 * x : 3 * x + 3] for x in columns])

        return Picture(width, height, line, square=True)

    def png(self, scale: int = 1, aspect: bool = False) -> bytes:
        """The PNG file, each pixel `scale` (1 to 8) times as large; with `aspect` stretched to what a monitor shows."""
        if not 1 <= scale <= MAX_SCALE:
            raise ConfigError(f"a scale of {scale} is not possible: give 1 to {MAX_SCALE}")
        width, height = self.at_aspect() if aspect else (self.width, self.height)
        shown = self
        if scale > 1 or (width, height) != (self.width, self.height):
            shown = self.resized(width * scale, height * scale)
        packer = zlib.compressobj(6)
        data = b"".join(packer.compress(b"\0" + shown.line(y)) for y in range(shown.height)) + packer.flush()
        header = struct.pack(">IIBBBBB", shown.width, shown.height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            chunk(kind, part) for kind, part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
        )


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
