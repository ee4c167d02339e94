"""The VGA's registers and the text screen they make, through the ports as drivers use them."""

from __future__ import annotations

from typing import Any

import device_rig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.vga import Vga
from pykvm.devices.vga_picture import text_screen
from pykvm.display import Screen

CRTC, ATTRIBUTE, SEQUENCER, GRAPHICS, STATUS = 0x3D4, 0x3C0, 0x3C4, 0x3CE, 0x3DA
MISC_WRITE, MISC_READ = 0x3C2, 0x3CC
RETRACE, BLANKED = 8, 1
PICTURE_NS = 1_000_000_000 * 449 * 800 // 25_175_000
"""Duration of one picture of mode 3: 449 lines of 800 pixels at 25.175 MHz."""


class Rig(device_rig.Rig[Vga]):
    def __init__(self) -> None:
        self.time = 0
        super().__init__(Vga(lambda: self.time))
        self.memory = bytearray(0x20000)  # from 0xA0000 on

    def indexed(self, port: int, index: int) -> int:
        self.outb(port, index)
        return self.inb(port + 1)

    def set_indexed(self, port: int, index: int, value: int) -> None:
        """Index and data in one word, as vgacon does it."""
        self.bus.write(port, 2, value << 8 | index)

    def attribute(self, index: int) -> int:
        self.inb(STATUS)
        self.outb(ATTRIBUTE, index)
        value = self.inb(ATTRIBUTE + 1)
        self.inb(STATUS)
        self.outb(ATTRIBUTE, 0x20)
        self.inb(STATUS)
        return value

    def set_attribute(self, index: int, value: int) -> None:
        self.inb(STATUS)
        self.outb(ATTRIBUTE, index)
        self.outb(ATTRIBUTE, value)
        self.outb(ATTRIBUTE, 0x20)

    def screen(self) -> Screen:
        return text_screen(self.device, lambda gpa, size: bytes(self.memory[gpa - 0xA0000 : gpa - 0xA0000 + size]))

    def type(self, place: int, text: bytes, attribute: int = 0x07, base: int = 0x18000) -> None:
        """Put characters at the cell `place`."""
        for at, character in enumerate(text, place):
            self.memory[base + 2 * at : base + 2 * at + 2] = bytes((character, attribute))


@pytest.fixture
def rig() -> Rig:
    return Rig()


# -- Registers --------------------------------------------------------------------------------------------------------


def test_after_power_on_it_is_in_mode_3(rig: Rig) -> None:
    assert rig.inb(MISC_READ) == 0x67
    assert rig.indexed(CRTC, 0x01) == 79
    assert rig.indexed(CRTC, 0x09) & 0x1F == 15
    assert rig.indexed(CRTC, 0x13) == 40
    assert rig.indexed(GRAPHICS, 6) == 0x0E  # text, memory at 0xB8000
    assert rig.indexed(SEQUENCER, 2) == 3
    assert [rig.attribute(index) for index in (6, 8, 15, 0x10, 0x12)] == [0x14, 0x38, 0x3F, 0x0C, 0x0F]


def test_all_crtc_registers_read_back(rig: Rig) -> None:
    rig.set_indexed(CRTC, 0x11, 0x0E)
    masks = {0x08: 0x7F, 0x0A: 0x3F, 0x0B: 0x7F, 0x14: 0x7F, 0x17: 0xEF}
    for index in range(0x19):
        for value in (0x55, 0xAA, 0x00):
            rig.set_indexed(CRTC, index, value)
            assert rig.indexed(CRTC, index) == value & masks.get(index, 0xFF), hex(index)


def test_protected_timing_registers_keep_all_but_one_bit(rig: Rig) -> None:
    assert rig.indexed(CRTC, 0x11) & 0x80
    before = [rig.indexed(CRTC, index) for index in range(8)]
    for index in range(8):
        rig.set_indexed(CRTC, index, before[index] ^ 0xFF)
    assert [rig.indexed(CRTC, index) for index in range(7)] == before[:7]
    assert rig.indexed(CRTC, 7) == before[7] ^ 0x10
    rig.set_indexed(CRTC, 0x11, 0x0E)
    rig.set_indexed(CRTC, 0x01, 39)
    assert rig.indexed(CRTC, 0x01) == 39


@pytest.mark.parametrize(("port", "count"), [(CRTC, 0x19), (SEQUENCER, 5), (GRAPHICS, 9)])
def test_registers_beyond_the_last_one_are_not_there(rig: Rig, port: int, count: int) -> None:
    before = rig.device.save()
    for index in (count, 0xFF):
        rig.set_indexed(port, index, 0x5A)
        if rig.inb(port) >= count:
            assert rig.inb(port + 1) == 0
    rig.outb(port, 0)
    assert rig.device.save() == before


def test_the_attribute_controller_takes_index_and_data_by_turns(rig: Rig) -> None:
    rig.inb(STATUS)
    rig.outb(ATTRIBUTE, 0x03)
    rig.outb(ATTRIBUTE, 0x2A)
    rig.outb(ATTRIBUTE, 0x04)
    rig.inb(STATUS)  # what comes next is an index again
    rig.outb(ATTRIBUTE, 0x25)
    assert rig.inb(ATTRIBUTE) == 0x25
    assert [rig.attribute(index) for index in (3, 4, 5)] == [0x2A, 0x04, 0x05]


def test_the_registers_are_at_one_of_two_places(rig: Rig) -> None:
    rig.set_indexed(CRTC, 0x0F, 0x12)
    assert rig.inb(0x3BA) == 0xFF
    rig.set_indexed(0x3B4, 0x0F, 0x34)
    assert rig.indexed(CRTC, 0x0F) == 0x12
    rig.outb(MISC_WRITE, 0x66)
    assert rig.indexed(0x3B4, 0x0F) == 0x12
    assert rig.inb(0x3BA) != 0xFF
    assert rig.inb(CRTC) == rig.inb(CRTC + 1) == rig.inb(STATUS) == 0xFF


def test_the_dac_holds_the_ega_colours(rig: Rig) -> None:
    def colour(index: int) -> list[int]:
        rig.outb(0x3C7, index)
        return [rig.inb(0x3C9) for _ in range(3)]

    assert colour(0x07) == [42, 42, 42]
    assert colour(0x14) == [42, 21, 0]  # brown
    assert colour(0x38) == [21, 21, 21]
    assert colour(0x3F) == [63, 63, 63]


def test_the_dac_takes_three_bytes_a_colour_and_moves_on(rig: Rig) -> None:
    rig.outb(0x3C8, 255)
    for value in (1, 2, 0xFF, 4, 5, 6, 7):
        rig.outb(0x3C9, value)
    assert rig.inb(0x3C7) == 0
    rig.outb(0x3C7, 255)
    assert rig.inb(0x3C7) == 3
    assert [rig.inb(0x3C9) for _ in range(6)] == [1, 2, 63, 4, 5, 6]
    rig.outb(0x3C7, 1)
    assert rig.inb(0x3C9) == 0  # the seventh byte was no colour yet


def test_a_new_dac_index_forgets_a_colour_begun(rig: Rig) -> None:
    for index, values in ((9, (1, 2)), (9, (3, 4, 5))):
        rig.outb(0x3C8, index)
        for value in values:
            rig.outb(0x3C9, value)
    assert rig.inb(0x3C8) == 10
    rig.outb(0x3C7, 9)
    assert [rig.inb(0x3C9) for _ in range(3)] == [3, 4, 5]


def test_the_pel_mask_reads_back(rig: Rig) -> None:
    assert rig.inb(0x3C6) == 0xFF
    rig.outb(0x3C6, 0x0F)
    assert rig.inb(0x3C6) == 0x0F


def test_ports_without_a_register_read_all_ones(rig: Rig) -> None:
    for port in (0x3CB, 0x3CD):
        rig.outb(port, 0)
        assert rig.inb(port) == 0xFF


# -- The beam ---------------------------------------------------------------------------------------------------------


def test_the_retrace_comes_70_times_a_second(rig: Rig) -> None:
    rises, before = 0, False
    for _ in range(50_000):
        rig.time += 20_000
        now = bool(rig.inb(STATUS) & RETRACE)
        rises += now and not before
        before = now
    assert rises in (70, 71)


def test_the_retrace_is_within_the_blanked_part_of_the_picture(rig: Rig) -> None:
    seen = set()
    for _ in range(5_000):
        rig.time += 7_001
        seen.add(rig.inb(STATUS) & (RETRACE | BLANKED))
    assert seen == {0, BLANKED, RETRACE | BLANKED}


@settings(max_examples=60)
@given(
    # Never a whole picture at a time: such a driver would meet the beam at the same place for ever, on a real VGA too.
    st.lists(
        st.integers(1, PICTURE_NS // 2) | st.integers(PICTURE_NS * 11 // 10, PICTURE_NS * 19 // 10),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, PICTURE_NS),
    st.sampled_from([RETRACE, 0]),
)
def test_a_driver_that_waits_for_the_retrace_or_its_end_gets_there(steps: list[int], start: int, wanted: int) -> None:
    rig = Rig()
    rig.time = start
    for state in (wanted ^ RETRACE, wanted):
        waited = polls = 0
        now = None
        while now != state:
            assert polls <= 2 or waited <= 7 * PICTURE_NS
            step = max(steps[polls % len(steps)], 1_000)
            rig.time += step
            waited += step
            polls += 1
            now = rig.inb(STATUS) & RETRACE


def test_a_slow_driver_counts_no_more_pictures_than_there_were(rig: Rig) -> None:
    rises, before = 0, False
    for _ in range(1_000):
        rig.time += 3_000_000
        now = bool(rig.inb(STATUS) & RETRACE)
        rises += now and not before
        before = now
    assert rises in range(3_000_000_000 // PICTURE_NS - 1, 3_000_000_000 // PICTURE_NS + 2)


# -- The screen -------------------------------------------------------------------------------------------------------


def test_characters_are_where_they_were_written(rig: Rig) -> None:
    rig.type(0, b"top left")
    rig.type(80 * 24 + 75, b"right")
    screen = rig.screen()
    assert (screen.columns, screen.rows) == (80, 25)
    assert screen.lines[0] == "top left"
    assert screen.lines[24] == " " * 75 + "right"
    assert not screen.blank


def test_vgacon_moves_the_cursor(rig: Rig) -> None:
    assert rig.screen().cursor == (0, 0)
    rig.set_indexed(CRTC, 0x0E, 0x03)
    rig.set_indexed(CRTC, 0x0F, 0x31)  # 0x331 = 10 * 80 + 17
    rig.set_indexed(CRTC, 0x0A, 13)
    rig.set_indexed(CRTC, 0x0B, 14)
    screen = rig.screen()
    assert screen.cursor == (17, 10)
    assert screen.cursor_lines == (13, 14)


@pytest.mark.parametrize(("start", "end"), [(0x20 | 13, 14), (31, 30), (14, 13), (16, 31)])
def test_a_cursor_that_is_switched_off(rig: Rig, start: int, end: int) -> None:
    rig.set_indexed(CRTC, 0x0A, start)
    rig.set_indexed(CRTC, 0x0B, end)
    assert rig.screen().cursor is None


def test_a_cursor_beyond_the_last_row_is_hidden(rig: Rig) -> None:
    rig.set_indexed(CRTC, 0x0E, 25 * 80 >> 8)
    rig.set_indexed(CRTC, 0x0F, 25 * 80 & 0xFF)
    assert rig.screen().cursor is None


def test_scrolling_by_the_start_address_wraps_in_32_kib(rig: Rig) -> None:
    start = 0x4000 - 80  # the last whole row of the 16 Ki cells
    rig.type(start, b"first")
    rig.type(0, b"second")
    rig.set_indexed(CRTC, 0x0C, start >> 8)
    rig.set_indexed(CRTC, 0x0D, start & 0xFF)
    rig.set_indexed(CRTC, 0x0E, 0)
    rig.set_indexed(CRTC, 0x0F, 6)
    screen = rig.screen()
    assert screen.lines[:2] == ["first", "second"]
    assert screen.cursor == (6, 1)


def test_a_row_across_the_end_of_video_memory(rig: Rig) -> None:
    for start in (0x3FFD, 0x7FFD, 0xFFFD):  # the two highest bits count nothing
        rig.type(0x3FFD, b"abc")
        rig.type(0, b"def")
        rig.set_indexed(CRTC, 0x0C, start >> 8)
        rig.set_indexed(CRTC, 0x0D, start & 0xFF)
        assert rig.screen().lines[0] == "abcdef"


def test_fifty_rows_with_the_small_font(rig: Rig) -> None:
    rig.set_indexed(CRTC, 0x09, 0x47)  # 8 lines a character
    rig.set_indexed(CRTC, 0x0A, 6)
    rig.set_indexed(CRTC, 0x0B, 7)
    rig.type(80 * 49, b"last")
    screen = rig.screen()
    assert (screen.rows, screen.lines[49]) == (50, "last")
    assert screen.cursor_lines == (12, 15)  # of 16 lines, the lower quarter as before


@pytest.mark.parametrize(("end", "overflow", "height", "rows"), [(0xDF, 0x02, 16, 30), (0x57, 0x40, 16, 37)])
def test_more_lines_than_a_byte_can_count(rig: Rig, end: int, overflow: int, height: int, rows: int) -> None:
    rig.set_indexed(CRTC, 0x11, 0x0E)
    rig.set_indexed(CRTC, 0x12, end)  # 480 and 600 lines
    rig.set_indexed(CRTC, 0x07, overflow)
    rig.set_indexed(CRTC, 0x09, height - 1)
    assert rig.screen().rows == rows


def test_lines_shown_twice(rig: Rig) -> None:
    rig.set_indexed(CRTC, 0x09, 0x80 | 7)
    assert rig.screen().rows == 25


def test_forty_columns(rig: Rig) -> None:
    rig.set_indexed(CRTC, 0x11, 0x0E)
    rig.set_indexed(CRTC, 0x01, 39)
    rig.set_indexed(CRTC, 0x13, 20)
    rig.type(40, b"second row")
    screen = rig.screen()
    assert (screen.columns, screen.rows, screen.lines[1]) == (40, 25, "second row")


def test_rows_farther_apart_than_they_are_long(rig: Rig) -> None:
    rig.set_indexed(CRTC, 0x13, 64)
    rig.type(128, b"second row")
    assert rig.screen().lines[1] == "second row"


def test_a_monochrome_adapter_has_its_memory_at_b0000(rig: Rig) -> None:
    rig.set_indexed(GRAPHICS, 6, 0x0A)
    rig.type(0, b"mono", base=0x10000)
    assert rig.screen().text == "mono"


def test_colours_are_those_of_the_16_colour_adapters(rig: Rig) -> None:
    palette = rig.screen().palette
    assert palette[0] == (0, 0, 0)
    assert palette[1] == (0, 0, 170)
    assert palette[6] == (170, 85, 0)
    assert palette[7] == (170, 170, 170)
    assert palette[12] == (255, 85, 85)
    assert palette[15] == (255, 255, 255)


def test_a_colour_changed_in_either_palette(rig: Rig) -> None:
    rig.outb(0x3C8, 0x3F)
    for value in (63, 0, 32):
        rig.outb(0x3C9, value)
    rig.set_attribute(0x01, 0x3F)
    palette = rig.screen().palette
    assert palette[15] == palette[1] == (255, 0, 130)
    rig.outb(0x3C6, 0x00)
    assert rig.screen().palette == ((0, 0, 0),) * 16


def test_colour_planes_can_be_switched_off(rig: Rig) -> None:
    rig.set_attribute(0x12, 0x0B)  # no red
    palette = rig.screen().palette
    assert palette[6] == palette[2] == (0, 170, 0)


def test_colour_select_chooses_among_the_256(rig: Rig) -> None:
    rig.outb(0x3C8, 0x95)
    for value in (63, 63, 0):
        rig.outb(0x3C9, value)
    rig.set_attribute(0x10, 0x8C)
    rig.set_attribute(0x14, 0x09)  # bits 7-6 are 10, bits 5-4 are 01
    assert rig.screen().palette[5] == (255, 255, 0)


def test_blinking_or_bright_backgrounds(rig: Rig) -> None:
    assert rig.screen().blink
    rig.set_attribute(0x10, 0x04)
    assert not rig.screen().blink


def test_the_ways_to_switch_the_screen_off(rig: Rig) -> None:
    rig.type(0, b"still there")
    for off, on in (
        (lambda: (rig.inb(STATUS), rig.outb(ATTRIBUTE, 0x00)), lambda: (rig.inb(STATUS), rig.outb(ATTRIBUTE, 0x20))),
        (lambda: rig.set_indexed(SEQUENCER, 1, 0x20), lambda: rig.set_indexed(SEQUENCER, 1, 0x00)),
        (lambda: rig.set_indexed(SEQUENCER, 0, 0x01), lambda: rig.set_indexed(SEQUENCER, 0, 0x03)),
        (lambda: rig.set_indexed(CRTC, 0x17, 0x23), lambda: rig.set_indexed(CRTC, 0x17, 0xA3)),
    ):
        off()
        assert rig.screen().blank
        assert rig.screen().text == "still there"
        on()
        assert not rig.screen().blank


def test_a_graphics_mode_has_no_text(rig: Rig) -> None:
    rig.type(0, b"x" * 100, base=0)
    rig.set_indexed(GRAPHICS, 6, 0x05)
    screen = rig.screen()
    assert (screen.blank, screen.text) == (True, "")


# -- State ------------------------------------------------------------------------------------------------------------

PORTS = [0x3B4, 0x3B5, 0x3BA, *range(0x3C0, 0x3D0), 0x3D4, 0x3D5, 0x3DA]
OPERATION = st.one_of(
    st.tuples(st.just("read"), st.sampled_from(PORTS), st.sampled_from([1, 2, 4])),
    st.tuples(st.just("write"), st.sampled_from(PORTS), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFFFFFF)),
    st.tuples(st.just("index"), st.sampled_from([CRTC, SEQUENCER, GRAPHICS, ATTRIBUTE, 0x3C8]), st.integers(0, 0x18)),
    st.tuples(st.just("wait"), st.integers(0, 3 * PICTURE_NS)),
    st.tuples(st.just("screen")),
)


def perform(rig: Rig, operation: tuple[Any, ...]) -> object:
    match operation:
        case ("read", port, size):
            value = rig.bus.read(port, size)
            assert 0 <= value < 1 << 8 * size
            return value
        case ("write", port, size, value):
            rig.bus.write(port, size, value & (1 << 8 * size) - 1)
        case ("index", port, value):
            rig.outb(port, value)
        case ("wait", time):
            rig.time += time
        case _:
            screen = rig.screen()
            assert 1 <= screen.columns <= 256
            assert 1 <= screen.rows <= 128
            return screen
    return None


@settings(max_examples=100)
@given(st.lists(OPERATION, max_size=30), st.lists(OPERATION, max_size=30), st.integers(0, 1 << 50))
def test_a_restored_device_behaves_as_the_saved_one(before: list[Any], after: list[Any], clock: int) -> None:
    one, two = Rig(), Rig()
    for operation in before:
        perform(one, operation)
    two.time = clock
    two.device.restore(one.device.save())
    assert two.screen() == one.screen()
    for operation in after:
        assert perform(two, operation) == perform(one, operation), operation
    assert two.device.save() == one.device.save()


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(sorted(Rig().device.save())),
        st.one_of(
            st.none(),
            st.booleans(),
            st.floats(),
            st.integers(),
            st.integers(0, 300),
            st.binary(max_size=4),
            st.tuples(st.binary(min_size=5, max_size=5), st.integers(0, 8)).map(list),
        ),
    )
)
def test_a_hostile_state_raises_value_error_only(damage: dict[str, Any]) -> None:
    rig = Rig()
    if not rig.takes({**rig.device.save(), **damage}):
        return
    for port in PORTS:
        rig.inb(port)
        rig.outb(port, 0xFF)
    rig.screen()


@pytest.mark.parametrize(
    "change",
    [
        {"misc": 256},
        {"misc": 103.0},
        {"pas": 1},
        {"dac": bytes(767)},
        {"dac": b"\x40" * 768},
        {"dac_latch": b"\0\0\0"},
        {"dac_write": 1},
        {"dac_read": 768},
        {"crtc": [bytes(24), 0]},
        {"crtc": [b"\xff" * 25, 0]},
        {"crtc": [bytes(25), 32]},
        {"elapsed": -1},
    ],
)
def test_a_state_that_cannot_be_is_refused(rig: Rig, change: dict[str, Any]) -> None:
    rig.refuses({**rig.device.save(), **change}, "VGA")
