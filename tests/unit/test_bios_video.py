"""INT 10h against the IBM PS/2 BIOS Interface Technical Reference, and its copy on a terminal."""

from __future__ import annotations

import pytest
from bios_calls import Pc
from hypothesis import given
from hypothesis import strategies as st

from pykvm.bios.call import DONE, SPIN, Call
from pykvm.bios.video import CHARACTERS_AT_ONCE
from pykvm.devices.vga_picture import text_screen
from pykvm.display import Screen

SCREEN = 0xB8000


@pytest.fixture
def pc() -> Pc:
    return Pc()


@pytest.fixture(scope="module")
def pc_of_module() -> Pc:
    """For many examples that each set what they depend on."""
    return Pc()


def screen(pc: Pc) -> Screen:
    return text_screen(pc.vga, pc.memory.read)


def rows(pc: Pc) -> list[str]:
    cells = pc.memory.read(SCREEN, 4000)
    return [cells[at : at + 160 : 2].decode("cp437").rstrip() for at in range(0, 4000, 160)]


def teletype(pc: Pc, text: bytes) -> None:
    for character in text:
        pc.call(0x10, eax=0x0E00 | character, ebx=0x5A07)


def cursor(pc: Pc, page: int = 0) -> tuple[int, int]:
    call = pc.call(0x10, eax=0x0300, ebx=page << 8)
    return call.dh, call.dl


def move(pc: Pc, row: int, column: int, page: int = 0) -> None:
    pc.call(0x10, eax=0x0200, ebx=page << 8, edx=row << 8 | column)


def test_teletype(pc: Pc) -> None:
    teletype(pc, b"Hello\r\nworl\bd")
    assert rows(pc)[:3] == ["Hello", "word", ""]
    assert cursor(pc) == (1, 4)
    assert screen(pc).cursor == (4, 1)
    assert pc.console.output == b"Hello\r\nworl\bd"


def test_teletype_wraps_and_scrolls(pc: Pc) -> None:
    move(pc, 24, 78)
    teletype(pc, b"abc")
    assert rows(pc)[23:] == [" " * 78 + "ab", "c"]
    assert cursor(pc) == (24, 1)
    teletype(pc, b"\n")
    assert rows(pc)[22:] == [" " * 78 + "ab", "c", ""]
    assert cursor(pc) == (24, 1), "a line feed keeps the column"


def test_scrolled_in_line_has_the_last_lines_attribute(pc: Pc) -> None:
    pc.memory.write(SCREEN + 24 * 160, b"x\x1f" * 80)
    move(pc, 24, 0)
    teletype(pc, b"\n")
    assert pc.memory.read(SCREEN + 24 * 160, 4) == b" \x1f \x1f"


def test_teletype_keeps_attributes(pc: Pc) -> None:
    pc.memory.write(SCREEN, b" \x4e")
    teletype(pc, b"A")
    assert pc.memory.read(SCREEN, 2) == b"A\x4e"


def test_bell_moves_nothing(pc: Pc) -> None:
    teletype(pc, b"a\x07b")
    assert rows(pc)[0] == "ab"


@pytest.mark.parametrize(("mode", "columns"), [(0, 40), (1, 40), (2, 80), (3, 80)])
def test_text_modes(pc: Pc, mode: int, columns: int) -> None:
    teletype(pc, b"old")
    pc.call(0x10, eax=mode)
    call = pc.call(0x10, eax=0x0F00)
    assert (call.al, call.ah, call.bh) == (mode, columns, 0)
    shown = screen(pc)
    assert (shown.columns, shown.rows, shown.blank, shown.cursor) == (columns, 25, False, (0, 0))
    assert shown.cells == b" \x07" * (columns * 25)


def test_mode_bit_7_keeps_the_screen(pc: Pc) -> None:
    teletype(pc, b"kept")
    pc.call(0x10, eax=0x0083)
    assert rows(pc)[0] == "kept"
    assert pc.call(0x10, eax=0x0F00).al == 0x83


def test_graphics_mode(pc: Pc) -> None:
    pc.call(0x10, eax=0x0013)
    assert pc.vga.graphics.values[6] & 1
    pc.call(0x10, eax=0x0C2A, ecx=319, edx=199)
    assert pc.memory.read(0xA0000 + 319 + 199 * 320, 1) == b"\x2a"
    assert pc.call(0x10, eax=0x0D00, ecx=319, edx=199).al == 0x2A
    pc.call(0x10, eax=0x0C2A, ecx=320, edx=0)
    assert pc.memory.read(0xA0000 + 320, 1) == b"\0", "a dot beside the screen is none"
    pc.call(0x10, eax=0x0003)
    assert not screen(pc).blank


def test_unknown_mode_changes_nothing(pc: Pc) -> None:
    teletype(pc, b"kept")
    pc.call(0x10, eax=0x005A)
    assert (rows(pc)[0], pc.call(0x10, eax=0x0F00).al) == ("kept", 3)


def test_pages(pc: Pc) -> None:
    move(pc, 3, 5, page=1)
    pc.memory.write(0x5000, b"hidden")
    pc.call(0x10, eax=0x1301, ebx=0x0107, ecx=6, edx=0x0305, es=0x500)
    assert (cursor(pc, 1), cursor(pc, 0)) == ((3, 11), (0, 0))
    assert pc.console.output == b"", "what is not shown is not told"
    pc.call(0x10, eax=0x0501)
    assert "hidden" in screen(pc).text
    assert screen(pc).cursor == (11, 3)
    assert pc.call(0x10, eax=0x0F00).bh == 1


def test_cursor_shape(pc: Pc) -> None:
    pc.call(0x10, eax=0x0100, ecx=0x2000)
    assert screen(pc).cursor is None
    pc.call(0x10, eax=0x0100, ecx=0x000F)
    assert screen(pc).cursor_lines == (0, 15)
    assert pc.call(0x10, eax=0x0300).cx == 0x000F


def test_cells(pc: Pc) -> None:
    move(pc, 2, 79)
    pc.call(0x10, eax=0x0941, ebx=0x1E, ecx=2)
    assert cursor(pc) == (2, 79)
    assert pc.memory.read(SCREEN + 2 * 160 + 158, 4) == b"A\x1eA\x1e"
    call = pc.call(0x10, eax=0x0800)
    assert (call.al, call.ah) == (0x41, 0x1E)
    pc.call(0x10, eax=0x0A42, ecx=1)
    assert pc.memory.read(SCREEN + 2 * 160 + 158, 2) == b"B\x1e"


def test_cells_end_with_the_screen(pc: Pc) -> None:
    move(pc, 24, 79)
    pc.call(0x10, eax=0x0941, ebx=0x1E, ecx=0xFFFF)
    assert pc.memory.read(SCREEN + 3998, 4) == b"A\x1e \x07"
    assert pc.memory.read(SCREEN, 2) == b" \x07"


@pytest.mark.parametrize(
    ("eax", "after"),
    [
        (0x0601, ["0000", "1xx1", "2xx2", "3..3", "4444"]),
        (0x0701, ["0000", "1..1", "2xx2", "3xx3", "4444"]),
        (0x0600, ["0000", "1..1", "2..2", "3..3", "4444"]),
        (0x06FF, ["0000", "1..1", "2..2", "3..3", "4444"]),
        (0x0702, ["0000", "1..1", "2..2", "3xx3", "4444"]),
    ],
)
def test_scroll(pc: Pc, eax: int, after: list[str]) -> None:
    for row in range(5):
        text = f"{row}{'xx' if 1 <= row <= 3 else str(row) * 2}{row}"
        pc.memory.write(SCREEN + 160 * row, b"".join(bytes((ord(char), 7)) for char in text))
    pc.call(0x10, eax=eax, ebx=0x7000, ecx=0x0101, edx=0x0302)
    cells = pc.memory.read(SCREEN, 5 * 160)
    found = []
    for at in range(0, len(cells), 160):
        line = (cells[at + 2 * column : at + 2 * column + 2] for column in range(4))
        found.append("".join("." if cell == b" \x70" else chr(cell[0]) for cell in line))
    assert found == after


def test_string(pc: Pc) -> None:
    pc.memory.write(0x5000, b"ab\r\nc")
    pc.call(0x10, eax=0x1300, ebx=0x1F, ecx=5, edx=0x0204, es=0x500, ebp=0)
    assert rows(pc)[2:4] == ["    ab", "c"]
    assert pc.memory.read(SCREEN + 2 * 160 + 8, 4) == b"a\x1fb\x1f"
    assert cursor(pc) == (0, 0)
    pc.memory.write(0x5000, b"x\x2ay\x3b")
    pc.call(0x10, eax=0x1303, ecx=2, edx=0x0500, es=0x500, ebp=0)
    assert pc.memory.read(SCREEN + 5 * 160, 4) == b"x\x2ay\x3b"
    assert cursor(pc) == (5, 2)


def test_what_there_is(pc: Pc) -> None:
    call = pc.call(0x10, eax=0x1A00)
    assert (call.al, call.bl) == (0x1A, 8)
    assert pc.call(0x10, eax=0x1200, ebx=0x10).bh == 0, "colour"
    assert pc.call(0x10, eax=0x4F00, es=0x3000).ax == 0x004F
    assert pc.memory.read(0x30000, 6) == b"VESA\0\x03"


def test_palette(pc: Pc) -> None:
    pc.call(0x10, eax=0x1010, ebx=7, edx=63 << 8, ecx=0)
    assert screen(pc).palette[7][0] == 255
    pc.memory.write(0x5000, bytes((0, 63, 0, 0, 0, 63)))
    pc.call(0x10, eax=0x1012, ebx=1, ecx=2, es=0x500, edx=0)
    assert screen(pc).palette[1:3] == ((0, 255, 0), (0, 0, 255))
    assert screen(pc).blink
    pc.call(0x10, eax=0x1003, ebx=0)
    assert not screen(pc).blink
    assert not screen(pc).blank
    pc.call(0x10, eax=0x1000, ebx=0x3F01)
    assert pc.vga.attribute.values[1] == 0x3F


def test_terminal_follows_a_screen_that_is_written_cell_by_cell(pc: Pc) -> None:
    for row, column, text in ((2, 4, b"one"), (2, 8, b"two"), (3, 0, b"three")):
        for at, character in enumerate(text):
            move(pc, row, column + at)
            pc.call(0x10, eax=0x0900 | character, ebx=7, ecx=1)
    assert pc.console.text == "\n    one two\nthree"


def test_terminal_overwrites_in_a_line(pc: Pc) -> None:
    teletype(pc, b"50%")
    move(pc, 0, 0)
    teletype(pc, b"99%")
    assert pc.console.output == b"50%\b\b\b99%"


def test_terminal_is_given_unicode(pc: Pc) -> None:
    teletype(pc, b"\xc9\xcd\xbb")
    assert pc.console.text == "╔═╗"


def test_terminal_scrolls_with_the_screen(pc: Pc) -> None:
    for number in range(30):
        teletype(pc, b"%d\r\n" % number)
    assert pc.console.text == "".join(f"{number}\n" for number in range(30))


def test_terminal_gets_a_new_line_when_the_screen_is_cleared(pc: Pc) -> None:
    teletype(pc, b"a")
    pc.call(0x10, eax=0x0003)
    teletype(pc, b"b")
    assert pc.console.text == "a\nb"


def test_works_without_a_vga() -> None:
    pc = Pc()
    pc.bus.detach(pc.vga)
    pc.call(0x10, eax=0x0003)
    for function in (0x0500, 0x0100, 0x0200, 0x1010, 0x1003):
        pc.call(0x10, eax=function)
    teletype(pc, b"text")
    assert pc.console.text == "text"
    assert not pc.bus.unclaimed


# Long strings


def string(pc: Pc, text: bytes, at: int = 0x20000, **registers: int) -> list[Call]:
    """Function 13h as the stub calls it, again and again until it is done: all answers."""
    pc.memory.write(at, text)
    size = 2 if registers.get("eax", 0x1300) & 2 else 1
    registers = {"eax": 0x1300, "ebx": 0x0007, "ecx": len(text) // size, "edx": 0, "ebp": 0} | registers
    answers = [pc.call(0x10, es=at >> 4, **registers)]
    while answers[-1].wait:
        last = answers[-1]
        assert {name: getattr(last, name) for name in registers} == registers, "the caller's registers stay"
        answers.append(pc.call(0x10, es=at >> 4, waited=last.wait, esp=last.esp, **registers))
    return answers


@pytest.mark.parametrize("function", [0x1300, 0x1301, 0x1302, 0x1303])
def test_a_long_string_is_what_its_characters_are(pc: Pc, function: int) -> None:
    text = bytes(0x20 + at % 0x5F for at in range(3000)) + b"\r\n" * 40 + b"end"
    cells = b"".join(bytes((character, 0x1E)) for character in text) if function & 2 else text
    move(pc, 3, 9)
    string(pc, cells, eax=function, ebx=0x001E, edx=0x0205)
    other = Pc()
    for at, character in enumerate(text):
        if at == 0:
            move(other, 2, 5)
        string(other, bytes((character, 0x1E)) if function & 2 else bytes((character,)), eax=function | 1, ebx=0x001E,
               edx=int.from_bytes(bytes(reversed(cursor(other))), "little"))  # fmt: skip
    assert pc.memory.read(SCREEN, 4000) == other.memory.read(SCREEN, 4000)
    assert cursor(pc) == (cursor(other) if function & 1 else (3, 9))
    assert pc.console.output == other.console.output


def test_no_exit_of_a_long_string_does_more_than_a_bounded_part(pc: Pc) -> None:
    """65,535 line feeds on the largest screen there is: each scrolls all of it."""
    pc.memory.write_int(0x484, 1, 59)
    pc.memory.write_int(0x44A, 2, 132)
    answers = string(pc, b"\n" * 0xFFFF, eax=0x1301, edx=0x3B00)
    assert len(answers) == -(-0xFFFF // CHARACTERS_AT_ONCE)
    assert [answer.wait for answer in answers] == [SPIN] * (len(answers) - 1) + [DONE]


def test_a_string_that_leaves_memory_says_so(pc: Pc) -> None:
    answer = pc.call(0x10, eax=0x1301, ecx=0xFFFF, es=0xFFFF, ebp=0xFFFF, waited=SPIN, esp=0xFFFF_FFFF)
    assert answer.wait == DONE


def test_a_program_that_spoils_the_place_in_a_string_harms_only_itself(pc: Pc) -> None:
    for esp in (0, 0xFFFF, 0xFFFF_FFFF, 0x1234_0005):
        answer = pc.call(0x10, eax=0x1301, ebx=7, ecx=10, es=0x2000, waited=SPIN, esp=esp)
        assert answer.wait == DONE


# Scrolling and filling, against cells that are moved one by one


@given(
    columns=st.integers(1, 140),
    rows=st.integers(0, 70),
    page=st.integers(0, 9),
    page_size=st.integers(0, 0xFFFF),
    window=st.tuples(*[st.integers(0, 140)] * 4),
    lines=st.integers(0, 70),
    down=st.booleans(),
)
def test_scrolling_moves_cells(
    pc_of_module: Pc,
    columns: int,
    rows: int,
    page: int,
    page_size: int,
    window: tuple[int, int, int, int],
    lines: int,
    down: bool,
) -> None:
    pc = pc_of_module
    for address, size, value in ((0x44A, 2, columns), (0x484, 1, rows), (0x462, 1, page), (0x44C, 2, page_size)):
        pc.memory.write_int(address, size, value)
    content = bytes(at * 7 & 0xFF for at in range(0x8000))
    pc.memory.write(SCREEN, content)
    top, left, bottom, right = window
    pc.call(0x10, eax=(0x0700 if down else 0x0600) | lines, ebx=0x1700, ecx=top << 8 | left, edx=bottom << 8 | right)

    columns, rows = min(columns, 132), min(rows, 59) + 1
    expected = bytearray(content)

    def cell(row: int, column: int) -> int:
        return (page % 8 * page_size + 2 * (row * columns + column)) % 0x8000 & ~1

    bottom, right = min(bottom, rows - 1), min(right, columns - 1)
    for row in range(top, bottom + 1):
        source = row - lines if down else row + lines
        for column in range(left, right + 1):
            inside = lines and top <= source <= bottom
            at = cell(source, column)
            expected[cell(row, column) : cell(row, column) + 2] = content[at : at + 2] if inside else b" \x17"
    assert pc.memory.read(SCREEN, 0x8000) == expected


@given(
    row=st.integers(0, 80), column=st.integers(0, 140), count=st.integers(0, 0xFFFF), page_size=st.integers(0, 0xFFFF),
    page=st.integers(0, 7), with_attribute=st.booleans(),
)  # fmt: skip
def test_repeating_fills_cells(
    pc_of_module: Pc, row: int, column: int, count: int, page_size: int, page: int, with_attribute: bool
) -> None:
    pc = pc_of_module
    for address, size, value in ((0x44A, 2, 132), (0x484, 1, 59), (0x44C, 2, page_size)):
        pc.memory.write_int(address, size, value)
    pc.memory.write(0x450 + 2 * page, bytes((column, row)))
    content = bytes(at * 7 & 0xFF for at in range(0x8000))
    pc.memory.write(SCREEN, content)
    pc.call(0x10, eax=0x0958 if with_attribute else 0x0A58, ebx=page << 8 | 0x2F, ecx=count)
    expected = bytearray(content)
    first = row * 132 + column
    for at in range(first, min(first + count, 60 * 132)):
        cell = (page * page_size + 2 * at) % 0x8000 & ~1
        expected[cell] = 0x58
        if with_attribute:
            expected[cell + 1] = 0x2F
    assert pc.memory.read(SCREEN, 0x8000) == expected


def test_a_function_that_is_not_there_is_traced_as_such(pc: Pc) -> None:
    said: list[str] = []
    pc.bios.log.emit = said.append
    pc.call(0x10, eax=0x0055)
    pc.call(0x10, eax=0x4F0A)
    pc.bios.log.flush()
    assert len(said) == 2
    assert all("nothing done" in line for line in said), said
