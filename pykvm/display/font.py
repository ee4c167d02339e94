"""The PC's font, 8 by 16 pixels in the order of code page 437, out of a file that the system has.

Implements: PC Screen Font versions 1 and 2 (the kbd project's psf.h) with their Unicode tables. The VGA BIOS of
SeaBIOS has the font as a plain table of 256 glyphs, which is found by the half blocks in it.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Sequence
from functools import cache

from ..errors import PykvmError
from .text_mode import CELL_LINES, CP437

FONT_SIZE = 256 * CELL_LINES

SYSTEM_FONTS = (
    "/usr/share/seabios/vgabios-stdvga.bin",
    "/usr/share/seabios/vgabios.bin",
    "/usr/share/seavgabios/vgabios-stdvga.bin",
    "/usr/share/qemu/vgabios-stdvga.bin",
    "/usr/share/kbd/consolefonts/default8x16.psfu.gz",
    "/usr/lib/kbd/consolefonts/default8x16.psfu.gz",
    "/usr/share/consolefonts/default8x16.psf.gz",
    "/usr/share/consolefonts/FullGreek-VGA16.psf.gz",
)
"""Where distributions have the font, the complete ones first."""

FILE_LIMIT = 1 << 20
"""Bytes of the largest font file that is read, unpacked."""

_PSF1, _PSF2 = b"\x36\x04", b"\x72\xb5\x4a\x86"
_PSF1_512_GLYPHS, _PSF1_UNICODE = 1 << 0, 1 << 1 | 1 << 2
_PSF1_SEQUENCE, _PSF1_END = 0xFFFE, 0xFFFF
_PSF2_UNICODE = 1 << 0
_PSF2_SEQUENCE, _PSF2_END = b"\xfe", b"\xff"


class FontError(PykvmError):
    """There is no font, or the file is none."""


@cache
def system_font() -> bytes:
    """The first of `SYSTEM_FONTS` that there is; FontError, saying what to install, if there is none."""
    return first_of(SYSTEM_FONTS)


def first_of(paths: Sequence[str | os.PathLike[str]]) -> bytes:
    """The first font there is among `paths`; FontError if there is none."""
    problems = []
    for path in paths:
        if os.path.exists(path):
            try:
                return load(path)
            except FontError as error:
                problems.append(str(error))
    raise FontError(
        "drawing a screen needs a console font, and this system has none: install SeaBIOS, whose VGA BIOS has one "
        "(Debian: apt install seabios)" + "".join(f"; {problem}" for problem in problems)
    )


def load(path: str | os.PathLike[str]) -> bytes:
    """256 glyphs of 16 bytes from a PSF font (also gzipped) or a VGA BIOS. FontError if there is no 8x16 font in it."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_LIMIT)
        if data[:2] == b"\x1f\x8b":
            with gzip.open(path) as packed:
                data = packed.read(FILE_LIMIT)
        if data.startswith(_PSF1):
            return _psf1(data)
        if data.startswith(_PSF2):
            return _psf2(data)
        return _vga_bios(data)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise FontError(f"{os.fspath(path)} is not an 8x16 console font: {error}") from error


def _psf1(data: bytes) -> bytes:
    mode, height = struct.unpack_from("<BB", data, 2)
    count = 512 if mode & _PSF1_512_GLYPHS else 256
    table = data[4 + count * height :]
    places: dict[str, int] = {}
    glyph, single = 0, True
    for (code,) in struct.iter_unpack("<H", table[: len(table) & ~1] if mode & _PSF1_UNICODE else b""):
        if code == _PSF1_END:
            glyph, single = glyph + 1, True
        elif code == _PSF1_SEQUENCE:
            single = False
        elif single:
            places.setdefault(chr(code), glyph)
    return _arrange(data[4:], count, 8, height, places)


def _psf2(data: bytes) -> bytes:
    header, flags, count, size, height, width = struct.unpack_from("<6I", data, 8)
    if size != height * ((width + 7) // 8):
        raise ValueError(f"{size} bytes are not a glyph of {width}x{height}")
    places: dict[str, int] = {}
    if flags & _PSF2_UNICODE:
        for glyph, entry in enumerate(data[header + count * size :].split(_PSF2_END)):
            for character in entry.split(_PSF2_SEQUENCE)[0].decode("utf-8"):
                places.setdefault(character, glyph)
    return _arrange(data[header:], count, width, height, places)


def _arrange(glyphs: bytes, count: int, width: int, height: int, places: dict[str, int]) -> bytes:
    """The glyphs in the order of code page 437; without a Unicode table they are in it. A missing one is blank."""
    if (width, height) != (8, CELL_LINES):
        raise ValueError(f"it is {width}x{height}")
    if count < 256 or len(glyphs) < count * CELL_LINES:
        raise ValueError("it has too few glyphs")
    if not places:
        return glyphs[:FONT_SIZE]
    blank = bytes(CELL_LINES)
    return b"".join(
        glyphs[CELL_LINES * place : CELL_LINES * (place + 1)]
        if (place := places.get(character, count)) < count
        else blank
        for character in CP437
    )


def _vga_bios(data: bytes) -> bytes:
    left_half, right_half = b"\xf0" * CELL_LINES, b"\x0f" * CELL_LINES
    start = data.find(left_half + right_half) - CELL_LINES * CP437.index("▌")
    font = data[max(start, 0) :][:FONT_SIZE]
    full = CELL_LINES * CP437.index("█")
    if start < 0 or len(font) < FONT_SIZE or font[full : full + CELL_LINES] != b"\xff" * CELL_LINES:
        raise ValueError("it has neither a PSF header nor a VGA BIOS's table of glyphs")
    return font
