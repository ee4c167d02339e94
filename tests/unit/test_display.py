"""Text screens: as text, as a picture (decoded again here), in a terminal (played by a small one here), and fonts."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.display import Screen
from pykvm.display.font import SYSTEM_FONTS, FontError, first_of, load
from pykvm.display.terminal import TerminalDisplay
from pykvm.display.text_mode import CP437, VGA_COLOURS
from pykvm.errors import ConfigError


def cells(text: str, attribute: int = 0x07) -> bytes:
    return b"".join(bytes((CP437.index(character), attribute)) for character in text)


def screen_of(*rows: str, attribute: int = 0x07) -> Screen:
    """A screen as wide as the longest row."""
    columns = max(map(len, rows))
    return Screen(columns, len(rows), b"".join(cells(row.ljust(columns), attribute) for row in rows))


# -- Text -------------------------------------------------------------------------------------------------------------


def test_text_without_the_blanks_at_the_ends() -> None:
    screen = screen_of("hello   ", "", "  world ", "", "")
    assert screen.lines == ["hello", "", "  world", "", ""]
    assert screen.text == "hello\n\n  world"


def test_code_page_437() -> None:
    assert len(CP437) == len(set(CP437)) + 2 == 256  # three codes are blank
    assert (CP437[0x01], CP437[0x1F], CP437[0x7F]) == ("☺", "▼", "⌂")
    assert (CP437[0x80], CP437[0xB3], CP437[0xC4], CP437[0xDB], CP437[0xE1], CP437[0xFE]) == tuple("Ç│─█ß■")
    assert Screen(3, 1, b"\x00\x07\xff\x07\xc9\x07").text == "  ╔"


def test_find_gives_column_and_row() -> None:
    screen = screen_of("Linux version", "panic: no init")
    assert screen.find("version") == (6, 0)
    assert screen.find("panic") == (0, 1)
    assert screen.find("versionpanic") is None


@pytest.mark.parametrize(
    "change",
    [{"columns": 0}, {"rows": 2}, {"cells": b"x"}, {"palette": ()}, {"cursor": (3, 0)}, {"cursor": (0, -1)}],
)
def test_a_screen_that_cannot_be(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"columns|palette"):
        replace(screen_of("abc"), **change)


# -- ANSI -------------------------------------------------------------------------------------------------------------


def test_ansi_with_the_16_colours_of_the_terminal() -> None:
    screen = Screen(4, 1, cells("a", 0x07) + cells("b", 0x1E) + cells("c", 0x1E) + cells("d", 0xC1))
    # Light grey on black; yellow on blue; blinking blue on red.
    assert screen.ansi(truecolor=False) == "\x1b[0;37;40ma\x1b[0;93;44mbc\x1b[0;5;34;41md\x1b[0m\n"


def test_ansi_with_bright_backgrounds() -> None:
    screen = replace(screen_of("x", attribute=0xC1), blink=False)
    assert screen.ansi(truecolor=False) == "\x1b[0;34;101mx\x1b[0m\n"


def test_ansi_with_exact_colours() -> None:
    screen = replace(screen_of("é", attribute=0x61), palette=((1, 2, 3), (4, 5, 6), *VGA_COLOURS[2:]))
    assert screen.ansi() == "\x1b[0;38;2;4;5;6;48;2;170;85;0mé\x1b[0m\n"


def test_ansi_of_a_screen_that_is_off() -> None:
    assert replace(screen_of("a", "b"), blank=True).ansi() == "\n\n"


# -- PNG --------------------------------------------------------------------------------------------------------------

TOP_LEFT, CHECKS, BOX = 0x41, 0x42, 0xC4


def tiny_font() -> bytes:
    """A with its top left pixel, B with every other pixel of its first line, ─ as its line 7."""
    font = bytearray(4096)
    font[16 * TOP_LEFT] = 0x80
    font[16 * CHECKS] = 0x55
    font[16 * BOX + 7] = 0xFF
    return bytes(font)


def decode(png: bytes) -> tuple[list[bytes], list[tuple[int, int, int]]]:
    """The lines of palette indices and the palette of an unfiltered 8-bit indexed picture; checks what it reads."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        data = png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length)[0] == zlib.crc32(kind + data)
        chunks.append((kind, data))
        at += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, *form = struct.unpack(">IIBBBBB", chunks[0][1])
    assert form == [8, 3, 0, 0, 0]
    palette = [(r, g, b) for r, g, b in struct.iter_unpack("BBB", chunks[1][1])]
    pixels = zlib.decompress(chunks[2][1])
    assert len(pixels) == height * (width + 1)
    lines = [pixels[start : start + width + 1] for start in range(0, len(pixels), width + 1)]
    assert all(line[0] == 0 for line in lines)
    return [line[1:] for line in lines], palette


def test_a_glyph_pixel_by_pixel() -> None:
    lines, palette = decode(screen_of("AB", attribute=0x1E).png(font=tiny_font()))
    blue = bytes((1,)) * 18
    assert len(lines) == 16
    assert lines[0] == bytes((14, 1, 1, 1, 1, 1, 1, 1, 1)) + bytes((1, 14, 1, 14, 1, 14, 1, 14, 1))
    assert lines[1:] == [blue] * 15
    assert palette[:16] == list(VGA_COLOURS)


def test_line_drawing_joins_and_letters_do_not() -> None:
    font = bytearray(tiny_font())
    font[16 * 0x45 + 7] = 0xFF  # an E that is a full line, too
    lines, _ = decode(screen_of("──E─").png(font=bytes(font)))
    assert lines[7] == bytes((7,)) * 26 + bytes((0,)) + bytes((7,)) * 9


def test_the_cursor_is_a_block_on_its_lines() -> None:
    screen = replace(screen_of("  ", "  ", attribute=0x02), cursor=(1, 1), cursor_lines=(13, 14))
    lines, _ = decode(screen.png(font=tiny_font()))
    assert [number for number, line in enumerate(lines) if any(line)] == [16 + 13, 16 + 14]
    assert lines[29] == bytes(9) + bytes((2,)) * 9


def test_bright_backgrounds_and_blinking() -> None:
    screen = screen_of(" ", attribute=0xC0)
    assert decode(screen.png(font=tiny_font()))[0][0] == bytes((4,)) * 9
    assert decode(replace(screen, blink=False).png(font=tiny_font()))[0][0] == bytes((12,)) * 9


def test_a_screen_that_is_off_is_black() -> None:
    screen = replace(screen_of("A"), blank=True, palette=((255, 255, 255),) * 16)
    lines, palette = decode(screen.png(font=tiny_font()))
    assert {palette[pixel] for line in lines for pixel in line} == {(0, 0, 0)}


def test_scaled_up() -> None:
    lines, _ = decode(screen_of("A").png(scale=3, font=tiny_font()))
    assert (len(lines), len(lines[0])) == (48, 27)
    assert lines[0] == lines[1] == lines[2] == bytes((7,)) * 3 + bytes(24)
    assert not any(lines[3])


@pytest.mark.parametrize(("scale", "font"), [(0, None), (9, None), (1, b""), (1, bytes(4097))])
def test_a_picture_that_cannot_be(scale: int, font: bytes | None) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        screen_of("x").png(scale, font)


def test_another_program_reads_the_picture() -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    screen = replace(screen_of("A─", attribute=0x1E), cursor=(0, 0))
    with image.open(io.BytesIO(screen.png(2, tiny_font()))) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (36, 32))
        colours = picture.convert("RGB")
    yellow, blue = (255, 255, 85), (0, 0, 170)
    assert [colours.getpixel((x, 0)) for x in (0, 1, 2, 35)] == [yellow, yellow, blue, blue]
    assert [colours.getpixel((18, y)) for y in (13, 14, 15, 16)] == [blue, yellow, yellow, blue]
    assert [colours.getpixel((17, y)) for y in (25, 26, 29, 30)] == [blue, yellow, yellow, blue]


# -- Fonts ------------------------------------------------------------------------------------------------------------


def glyph(number: int) -> bytes:
    """A glyph that can be told from all others, in a font of up to 512."""
    return struct.pack(">H", number) * 8


def psf1(count: int, table: bytes = b"", height: int = 16) -> bytes:
    mode = (1 if count == 512 else 0) | (2 if table else 0)
    return bytes((0x36, 0x04, mode, height)) + b"".join(map(glyph, range(count))) + table


def psf2(count: int, table: bytes = b"", width: int = 8, height: int = 16) -> bytes:
    size = height * ((width + 7) // 8)
    header = struct.pack("<8I", 0x864A_B572, 0, 32, 1 if table else 0, count, size, height, width)
    return header + b"".join(glyph(number)[:size].ljust(size, b"\0") for number in range(count)) + table


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("make", [psf1, psf2])
def test_a_psf_font_without_a_table_is_in_order(tmp_path: Path, make: object) -> None:
    assert callable(make)
    font = load(write(tmp_path / "font.psf", make(256)))
    assert font == b"".join(map(glyph, range(256)))


def test_a_psf1_table_says_where_the_characters_are(tmp_path: Path) -> None:
    # The characters stand in the font backwards, the first entry with a second character and a sequence behind.
    entries = [struct.pack("<H", ord(character)) for character in reversed(CP437)]
    entries[0] += struct.pack("<HHHH", 0x2588, 0xFFFE, 0x2591, 0x0301)
    table = b"".join(entry + b"\xff\xff" for entry in entries)
    font = load(write(tmp_path / "font.psf.gz", gzip.compress(psf1(256, table))))
    for code in (*range(1, 0x20), *range(0x21, 0xB0), *range(0xDC, 0xFF)):
        assert font[16 * code : 16 * code + 16] == glyph(255 - code), hex(code)
    assert font[16 * 0xDB : 16 * 0xDC] == glyph(0)  # the full block's first place is entry 0's second character
    assert font[16 * 0xB0 : 16 * 0xB1] == glyph(255 - 0xB0)  # a character of a sequence is not the character


def test_a_psf2_table_says_where_the_characters_are(tmp_path: Path) -> None:
    table = b"".join(character.encode() + b"\xfeo\xcc\x88\xff" for character in reversed(CP437[1:255]))
    font = load(write(tmp_path / "font.psfu", psf2(512, table + b"\xff" * 258)))
    for code in (*range(1, 0x20), *range(0x21, 0xFF)):
        assert font[16 * code : 16 * code + 16] == glyph(254 - code), hex(code)


def test_a_character_that_the_font_lacks_is_blank(tmp_path: Path) -> None:
    table = struct.pack("<HH", ord("A"), 0xFFFF) + b"\xff\xff" * 255
    font = load(write(tmp_path / "font.psf", psf1(256, table)))
    assert font[16 * 0x41 : 16 * 0x42] == glyph(0)
    assert font[16 * 0x42 : 16 * 0x43] == bytes(16)


def test_the_font_in_a_vga_bios(tmp_path: Path) -> None:
    glyphs = [glyph(number) for number in range(256)]
    glyphs[0xDB], glyphs[0xDD], glyphs[0xDE] = b"\xff" * 16, b"\xf0" * 16, b"\x0f" * 16
    font = b"".join(glyphs)
    bios = b"\x55\xaa\x40" + bytes(range(256)) * 9 + font + b"more code"
    assert load(write(tmp_path / "vgabios.bin", bios)) == font


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x55\xaa" + bytes(40_000),
        psf1(256, height=8),
        psf1(256)[:-1],
        psf1(512)[:4096],
        b"\x36\x04\x00",
        psf2(256, width=9),
        psf2(255),
        psf2(256)[:30],
        psf2(256)[:16] + b"\xff\xff\xff\xff" * 2 + psf2(256)[24:],
        psf2(256, b"\x80\xff"),
        gzip.compress(b"not a font"),
        gzip.compress(psf1(256))[:-20],
        b"\x1f\x8b\x08" + b"\xff" * 50,
        b"\xf0" * 16 + b"\x0f" * 16,
    ],
)
def test_a_file_that_is_no_font(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FontError, match=r"font\.psf is not an 8x16"):
        load(write(tmp_path / "font.psf", data))


@settings(max_examples=100)
@given(st.sampled_from([psf1(256), psf2(256, b"a\xff" * 256)]), st.integers(0, 4500), st.binary(max_size=12))
def test_a_damaged_font_is_a_font_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, damage: bytes
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "damaged.psf", data[:at] + damage + data[at + len(damage) :])
    with contextlib.suppress(FontError):
        assert len(load(path)) == 4096


def test_without_a_font_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(FontError, match="apt install seabios"):
        first_of([tmp_path / "nowhere.psf"])
    with pytest.raises(FontError, match=r"apt install seabios\); .*broken\.psf is not"):
        first_of([write(tmp_path / "broken.psf", b"")])


def test_the_first_good_font_is_taken(tmp_path: Path) -> None:
    bad, good = write(tmp_path / "bad", b""), write(tmp_path / "good", psf1(256))
    assert first_of([tmp_path / "nowhere", bad, good]) == load(good)


THERE = [path for path in SYSTEM_FONTS if Path(path).exists()]
needs_a_font = pytest.mark.skipif(not THERE, reason="needs a console font, as in the Debian package seabios")


@needs_a_font
def test_the_system_s_fonts_are_the_pc_s() -> None:
    for path in THERE:
        font = load(path)
        drawn = {character: font[16 * code : 16 * code + 16] for code, character in enumerate(CP437)}
        assert drawn["█"] == b"\xff" * 16
        assert drawn["▌"] == b"\xf0" * 16
        assert not any(drawn[" "])
        assert len(set(drawn["│"])) == 1
        assert set(drawn["─"]) == {0x00, 0xFF}
        assert drawn["┼"][0] == drawn["│"][0]
        assert len({drawn[character] for character in map(chr, range(0x21, 0x7F))}) == 94


@needs_a_font
def test_a_picture_with_the_system_s_font(tmp_path: Path) -> None:
    screen_of("┌─┐", "│█│").save(tmp_path / "screen.png", scale=2)
    lines, _ = decode((tmp_path / "screen.png").read_bytes())
    assert (len(lines), len(lines[0])) == (64, 54)
    middle = [line[18:36] for line in lines[32:]]
    assert set(b"".join(middle)) == {7}  # the full block fills its cell, the ninth column as well


# -- Terminal ---------------------------------------------------------------------------------------------------------

SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class FakeTerminal:
    """Plays what a terminal does with the sequences that are used here; anything else fails."""

    def __init__(self, columns: int = 80, rows: int = 25) -> None:
        self.columns, self.rows = columns, rows
        self.modes = {7: True, 25: True, 1049: False}
        self.cells: dict[tuple[int, int], tuple[str, str]] = {}
        self.column = self.row = 0
        self.style = "0"
        self.written: list[str] = []

    def size(self) -> tuple[int, int]:
        return self.columns, self.rows

    def write(self, text: str) -> None:
        self.written.append(text)
        at = 0
        while at < len(text):
            match = SEQUENCE.match(text, at)
            if match is None:
                self._character(text[at])
                at += 1
                continue
            at = match.end()
            match match.groups():
                case ("?", mode, ("h" | "l") as switch):
                    self.modes[int(mode)] = switch == "h"
                case ("", "2", "J"):
                    assert self.style == "0", "the terminal would be cleared in a colour"
                    self.cells.clear()
                case ("", style, "m"):
                    self.style = style
                case ("", place, "H"):
                    row, column = map(int, place.split(";"))
                    assert 1 <= row <= self.rows
                    assert 1 <= column <= self.columns
                    self.column, self.row = column - 1, row - 1
                case other:
                    pytest.fail(f"a sequence that not all terminals know: {other}")

    def _character(self, character: str) -> None:
        assert character.isprintable(), f"{character!r} would move the cursor"
        assert self.column < self.columns, "the line would wrap or be overwritten at its end"
        assert self.modes[1049]
        self.cells[self.column, self.row] = character, self.style
        self.column += 1

    @property
    def cursor(self) -> tuple[int, int] | None:
        return (self.column, self.row) if self.modes[25] else None

    def assert_shows(self, screen: Screen) -> None:
        columns, rows = min(screen.columns, self.columns), min(screen.rows, self.rows)
        expected = {}
        for row in range(0 if screen.blank else rows):
            for column in range(columns):
                character, attribute = screen.cells[2 * (row * screen.columns + column) :][:2]
                foreground, background, blinking = screen.colours(attribute)
                colours = (38, 2, *screen.palette[foreground], 48, 2, *screen.palette[background])
                style = ";".join(map(str, (0, 5, *colours) if blinking else (0, *colours)))
                expected[column, row] = CP437[character], style
        assert self.cells == expected
        inside = screen.cursor is not None and screen.cursor[0] < columns and screen.cursor[1] < rows
        assert self.cursor == (screen.cursor if inside and not screen.blank else None)


@pytest.fixture
def terminal() -> FakeTerminal:
    return FakeTerminal()


def test_a_screen_is_drawn_and_the_terminal_given_back(terminal: FakeTerminal) -> None:
    screen = replace(screen_of("hello", "world"), cursor=(3, 1))
    with TerminalDisplay(terminal.write, terminal.size) as display:
        display.draw(screen)
        terminal.assert_shows(screen)
        assert terminal.modes == {7: False, 25: True, 1049: True}
    assert terminal.modes == {7: True, 25: True, 1049: False}
    assert terminal.style == "0"
    display.close()
    assert len(terminal.written) == 2


def test_closing_what_was_never_drawn_writes_nothing(terminal: FakeTerminal) -> None:
    TerminalDisplay(terminal.write, terminal.size).close()
    assert terminal.written == []


def test_only_what_changed_is_written(terminal: FakeTerminal) -> None:
    display = TerminalDisplay(terminal.write, terminal.size, truecolor=False)
    first = Screen(80, 25, cells(" " * 2000))
    display.draw(first)
    display.draw(first)
    assert len(terminal.written) == 1
    second = replace(first, cells=first.cells[: 2 * 805] + cells("ab") + first.cells[2 * 807 :], cursor=(7, 10))
    display.draw(second)
    assert terminal.written[1:] == ["\x1b[11;6H\x1b[0;37;40mab\x1b[11;8H\x1b[?25h"]
    display.draw(replace(second, cursor=None))
    assert terminal.written[2:] == ["\x1b[?25l"]


def test_all_is_drawn_again_when_all_looks_different(terminal: FakeTerminal) -> None:
    display = TerminalDisplay(terminal.write, terminal.size)
    screen = replace(screen_of("abc", attribute=0x9C), cursor=(1, 0))
    for change in ({"blank": True}, {"blink": False}, {"palette": VGA_COLOURS[::-1]}):
        for shown in (screen, replace(screen, **change)):
            display.draw(shown)
            terminal.assert_shows(shown)


def test_a_cursor_that_only_moves(terminal: FakeTerminal) -> None:
    display = TerminalDisplay(terminal.write, terminal.size)
    display.draw(replace(screen_of("abc"), cursor=(0, 0)))
    display.draw(replace(screen_of("abc"), cursor=(2, 0)))
    assert terminal.written[1:] == ["\x1b[1;3H\x1b[?25h"]


def test_one_refresh_is_bounded_whatever_changes(terminal: FakeTerminal) -> None:
    display = TerminalDisplay(terminal.write, terminal.size)
    for change in (0, 1):
        # Every cell in another colour than its neighbours.
        worst = Screen(80, 25, bytes(value for at in range(2000) for value in (0x41 + change, 0x80 | at & 0x7F)))
        display.draw(worst)
        terminal.assert_shows(worst)
    assert max(map(len, terminal.written)) < 2000 * 50


def test_a_small_terminal_shows_the_top_left_corner() -> None:
    terminal = FakeTerminal(3, 2)
    display = TerminalDisplay(terminal.write, terminal.size)
    screen = replace(screen_of("abcdef", "ghijkl", "mnopqr"), cursor=(5, 0))
    display.draw(screen)
    terminal.assert_shows(screen)
    terminal.columns, terminal.rows = 20, 10
    display.draw(screen)
    terminal.assert_shows(screen)


def test_a_terminal_without_room() -> None:
    terminal = FakeTerminal(0, 0)
    display = TerminalDisplay(terminal.write, terminal.size)
    display.draw(replace(screen_of("abc"), cursor=(0, 0)))
    assert terminal.cells == {}
    assert terminal.cursor is None


SCREENS = st.builds(
    lambda columns, rows, pattern, cursor, palette, blink, blank: Screen(
        columns,
        rows,
        (pattern * (2 * columns * rows))[: 2 * columns * rows],
        None if cursor is None else (cursor[0] % columns, cursor[1] % rows),
        palette=palette,
        blink=blink,
        blank=blank,
    ),
    st.sampled_from([3, 4]),
    st.sampled_from([2, 3]),
    st.lists(st.sampled_from([0x00, 0x07, 0x1B, 0x41, 0x9B, 0xFF]), min_size=1, max_size=24).map(bytes),
    st.one_of(st.none(), st.tuples(st.integers(0, 3), st.integers(0, 2))),
    st.sampled_from([VGA_COLOURS, VGA_COLOURS, VGA_COLOURS[::-1]]),
    st.sampled_from([True, True, False]),
    st.sampled_from([False, False, False, True]),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(SCREENS, st.sampled_from([(80, 25), (80, 25), (3, 3), (2, 1), (0, 0)])), max_size=8))
def test_the_terminal_always_shows_the_last_screen(draws: list[tuple[Screen, tuple[int, int]]]) -> None:
    terminal = FakeTerminal()
    display = TerminalDisplay(terminal.write, terminal.size)
    for screen, (terminal.columns, terminal.rows) in draws:
        display.draw(screen)
        terminal.assert_shows(screen)
