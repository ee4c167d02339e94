"""A VGA as text-mode software sees it: all registers, in the state in which the BIOS leaves them for mode 3.

Implements: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem" (registers of the CRT controller,
sequencer, graphics controller, attribute controller and DAC), with the read-back of all registers that every VGA has
since; the values are those of mode 3, 80 by 25 characters of 9 by 16 dots, as the PS/2's BIOS sets it.

The video memory at 0xA0000 is ordinary RAM of the guest: what is written there is not seen here, and text mode needs
no more. `text_screen` puts registers and memory together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..device import Device, Range, State
from ..typed import TYPE_CHECKING

if TYPE_CHECKING:
    from ..display import Screen

BASE = 0x3B4

MISC_COLOUR = 1 << 0
"""Miscellaneous output: the CRT controller and status 1 are at 0x3D4 and 0x3DA, and not at 0x3B4 and 0x3BA."""
STATUS_0_SENSE = 1 << 4
"""Input status 0: the comparator finds a monitor."""
STATUS_1_BLANKED, STATUS_1_RETRACE = 1 << 0, 1 << 3
CLOCKING_SCREEN_OFF = 1 << 5
CRTC_PROTECT, CRTC_LINE_COMPARE_8 = 1 << 7, 1 << 4
CURSOR_OFF, CRTC_DOUBLE_SCAN, CRTC_RUN = 1 << 5, 1 << 7, 1 << 7
ATTRIBUTE_PAS = 1 << 5
"""Bit of the attribute controller's index: the screen shows the palette, and not the border's colour all over."""
MODE_GRAPHICS, MODE_BLINK, MODE_P54_SELECT = 1 << 0, 1 << 3, 1 << 7
DAC_READING = 3

# The register files as the BIOS leaves them, and which bits exist.
_MISC = 0x67
_SEQUENCER = bytes.fromhex("03 00 03 00 02"), bytes.fromhex("03 3D 0F 3F 0E")
_CRTC = (
    bytes.fromhex("5F 4F 50 82 55 81 BF 1F 00 4F 0D 0E 00 00 00 00 9C 8E 8F 28 1F 96 B9 A3 FF"),
    bytes.fromhex("FF FF FF FF FF FF FF FF 7F FF 3F 7F FF FF FF FF FF FF FF FF 7F FF FF EF FF"),
)
_GRAPHICS = bytes.fromhex("00 00 00 00 00 10 0E 00 FF"), bytes.fromhex("0F 0F 0F 1F 03 7B 0F 0F FF")
_ATTRIBUTE = (
    bytes.fromhex("00 01 02 03 04 05 14 07 38 39 3A 3B 3C 3D 3E 3F 0C 00 0F 08 00"),
    bytes.fromhex("3F" * 16 + "EF FF 3F 0F 0F"),
)


def _ega_colour(number: int) -> bytes:
    """One of the 64 colours rgbRGB of an EGA: a capital letter gives two thirds of full, a small one a third."""
    return bytes(42 * (number >> bit & 1) + 21 * (number >> bit + 3 & 1) for bit in (2, 1, 0))


_DAC = b"".join(map(_ega_colour, range(64))) + bytes(3 * (256 - 64))

# The picture is always that of mode 3: 70 pictures a second of 449 lines, whatever the registers say.
LINE_NS = 31_778
LINE_SHOWN_NS = LINE_NS * 640 // 800
LINES, LINES_SHOWN, RETRACE_LINE, RETRACE_LINES = 449, 400, 412, 2
FRAME_NS = LINES * LINE_NS

WINDOW = 0x8000
"""Bytes of video memory in which text wraps around."""
_WINDOW_BASES = (0xA0000, 0xA0000, 0xB0000, 0xB8000)
"""Where video memory begins, by the graphics controller's memory map bits."""
MAX_ROWS = 128
"""1,024 lines of characters 8 lines high: more is a mode in the making."""


class RegisterFile:
    """Registers behind an index and a data port. Those that do not exist read 0."""

    __slots__ = ("_masks", "index", "index_mask", "values")

    def __init__(self, initial: tuple[bytes, bytes], index_mask: int) -> None:
        values, self._masks = initial
        self.values = bytearray(values)
        self.index = 0
        self.index_mask = index_mask

    def read_index(self) -> int:
        return self.index

    def select(self, value: int) -> None:
        self.index = value & self.index_mask

    def read(self) -> int:
        return self.values[self.index] if self.index < len(self.values) else 0

    def write(self, value: int) -> None:
        if self.index < len(self.values):
            self.values[self.index] = value & self._masks[self.index]

    def fits(self, values: object, index: object) -> bool:
        """Whether these can be the registers and the index."""
        return (
            isinstance(values, bytes)
            and len(values) == len(self._masks)
            and all(value & ~mask == 0 for value, mask in zip(values, self._masks, strict=True))
            and type(index) is int
            and 0 <= index <= 0xFF
            and index & ~self.index_mask == 0
        )


class CrtController(RegisterFile):
    """Bit 7 of register 0x11 protects the timing in registers 0 to 7, all but bit 8 of the line compare."""

    __slots__ = ()

    def write(self, value: int) -> None:
        if self.index <= 7 and self.values[0x11] & CRTC_PROTECT:
            if self.index == 7:
                self.values[7] = self.values[7] & ~CRTC_LINE_COMPARE_8 | value & CRTC_LINE_COMPARE_8
        else:
            super().write(value)


class Vga(Device):
    """The registers at ports 0x3B4 to 0x3DA. `now` gives nanoseconds of a monotonic clock."""

    name = "VGA"
    ports = (Range(BASE, 2), Range(0x3BA, 1), Range(0x3C0, 16), Range(0x3D4, 2), Range(0x3DA, 1))
    width = 1

    moved_by_host = False  # but for the phase of the retrace, which no guest can hold anybody to

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self.reset()

    def reset(self) -> None:
        self.sequencer = RegisterFile(_SEQUENCER, 0x07)
        self.crtc = CrtController(_CRTC, 0x1F)
        self.graphics = RegisterFile(_GRAPHICS, 0x0F)
        self.attribute = RegisterFile(_ATTRIBUTE, 0x1F)
        self.pas = ATTRIBUTE_PAS
        self.misc = _MISC
        self.pel_mask = 0xFF
        self.dac = bytearray(_DAC)
        self._attribute_data = False  # the flip-flop: whether the next write to 0x3C0 is data
        self._dac_read = self._dac_write = 0  # places in `dac`, three for a colour
        self._dac_latch = b""  # red and green written, while blue is still to come
        self._dac_state = 0
        self._video_enable = 1
        self._feature = 0
        self._start = self._now()
        self._retraces = 0  # begun when status 1 was last read,
        self._retrace_told = False  # and whether it told of one then
        self._connect()

    def _connect(self) -> None:
        """Which function serves which port."""
        self._readers: dict[int, Callable[[], int]] = {
            0x3C0: lambda: self.attribute.index | self.pas,
            0x3C1: self.attribute.read,
            0x3C2: lambda: STATUS_0_SENSE,
            0x3C3: lambda: self._video_enable,
            0x3C4: self.sequencer.read_index,
            0x3C5: self.sequencer.read,
            0x3C6: lambda: self.pel_mask,
            0x3C7: lambda: self._dac_state,
            0x3C8: lambda: self._dac_write // 3,
            0x3C9: self._read_dac,
            0x3CA: lambda: self._feature,
            0x3CC: lambda: self.misc,
            0x3CE: self.graphics.read_index,
            0x3CF: self.graphics.read,
            0x3D4: self.crtc.read_index,
            0x3D5: self.crtc.read,
            0x3DA: self._read_status_1,
        }
        self._writers: dict[int, Callable[[int], None]] = {
            0x3C0: self._write_attribute,
            0x3C2: partial(setattr, self, "misc"),
            0x3C3: self._write_video_enable,
            0x3C4: self.sequencer.select,
            0x3C5: self.sequencer.write,
            0x3C6: partial(setattr, self, "pel_mask"),
            0x3C7: self._write_dac_read,
            0x3C8: self._write_dac_write,
            0x3C9: self._write_dac,
            0x3CE: self.graphics.select,
            0x3CF: self.graphics.write,
            0x3D4: self.crtc.select,
            0x3D5: self.crtc.write,
            0x3DA: self._write_feature,
        }

    def read(self, offset: int, size: int) -> int:
        reader = self._readers.get(self._port(offset))
        return 0xFF if reader is None else reader()

    def write(self, offset: int, size: int, value: int) -> None:
        writer = self._writers.get(self._port(offset))
        if writer is not None:
            writer(value)

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        port = self._port(offset)
        if port == 0x3C0:
            if value is not None and self._attribute_data:
                return f"attribute {self.attribute.index:#04x}"
            return "attribute index"
        file = {0x3C1: self.attribute, 0x3C5: self.sequencer, 0x3CF: self.graphics, 0x3D5: self.crtc}.get(port)
        name = (_READ_NAMES if value is None else _WRITE_NAMES).get(port) or f"port {BASE + offset:#x}"
        return name if file is None else f"{name} {file.index:#04x}"

    def _port(self, offset: int) -> int:
        """The port as that of a colour adapter; 0 for one of the adapter that the VGA is not at the moment."""
        port = BASE + offset
        if 0x3C0 <= port < 0x3D0:
            return port
        if self.misc & MISC_COLOUR:
            return port if port >= 0x3D0 else 0
        return port + 0x20 if port < 0x3C0 else 0

    def _write_attribute(self, value: int) -> None:
        if self._attribute_data:
            self.attribute.write(value)
        else:
            self.attribute.select(value)
            self.pas = value & ATTRIBUTE_PAS
        self._attribute_data = not self._attribute_data

    def _write_video_enable(self, value: int) -> None:
        self._video_enable = value & 1

    def _write_feature(self, value: int) -> None:
        self._feature = value & 0x0B

    def _write_dac_read(self, value: int) -> None:
        self._dac_read = 3 * value
        self._dac_state = DAC_READING
        self._dac_latch = b""

    def _write_dac_write(self, value: int) -> None:
        self._dac_write = 3 * value
        self._dac_state = 0
        self._dac_latch = b""

    def _read_dac(self) -> int:
        value = self.dac[self._dac_read]
        self._dac_read = (self._dac_read + 1) % len(self.dac)
        return value

    def _write_dac(self, value: int) -> None:
        self._dac_latch += bytes((value & 0x3F,))
        if len(self._dac_latch) == 3:
            self.dac[self._dac_write : self._dac_write + 3] = self._dac_latch
            self._dac_write = (self._dac_write + 3) % len(self.dac)
            self._dac_latch = b""

    def _read_status_1(self) -> int:
        """Where the beam is.

        The retrace lasts 64 microseconds, which a guest that polls slowly would miss. So a read also tells of a
        retrace that came and went since the last read, but never twice in a row: the bit is seen to rise and to fall.
        """
        self._attribute_data = False
        elapsed = self._now() - self._start
        line, in_line = divmod(elapsed % FRAME_NS, LINE_NS)
        retraces = (elapsed + (LINES - RETRACE_LINE) * LINE_NS) // FRAME_NS
        missed = retraces != self._retraces and not self._retrace_told
        self._retraces = retraces
        self._retrace_told = missed or RETRACE_LINE <= line < RETRACE_LINE + RETRACE_LINES
        blanked = line >= LINES_SHOWN or in_line >= LINE_SHOWN_NS or missed
        return (STATUS_1_BLANKED if blanked else 0) | (STATUS_1_RETRACE if self._retrace_told else 0)

    def _files(self) -> dict[str, RegisterFile]:
        return {
            "sequencer": self.sequencer,
            "crtc": self.crtc,
            "graphics": self.graphics,
            "attribute": self.attribute,
        }

    def save(self) -> State:
        return {
            **{name: [bytes(file.values), file.index] for name, file in self._files().items()},
            "dac": bytes(self.dac),
            "dac_latch": self._dac_latch,
            **{name.lstrip("_"): int(getattr(self, name)) for name in _NUMBERS},
            "elapsed": self._now() - self._start,
        }

    def restore(self, state: State) -> None:
        files = self._files()
        for name, file in files.items():
            saved = state.get(name)
            if not isinstance(saved, list) or len(saved) != 2 or not file.fits(*saved):
                raise ValueError(f"{self.name}: state field {name!r} is not that of its registers and its index")
        for name, lengths in (("dac", (len(self.dac),)), ("dac_latch", (0, 1, 2))):
            saved = state.get(name)
            if not isinstance(saved, bytes) or len(saved) not in lengths or any(value > 0x3F for value in saved):
                raise ValueError(f"{self.name}: state field {name!r} is not bytes of 6 bits, as many as {lengths}")
        for name, allowed in {**_NUMBERS, "elapsed": range(1 << 63)}.items():
            number = state.get(name.lstrip("_"))
            if type(number) is not int or number not in allowed:
                raise ValueError(f"{self.name}: state field {name!r} is {number!r}")
        for name, file in files.items():
            values, file.index = state[name]
            file.values[:] = values
        self.dac[:] = state["dac"]
        self._dac_latch = state["dac_latch"]
        for name in _NUMBERS:
            setattr(self, name, state[name.lstrip("_")])
        self._start = self._now() - state["elapsed"]


_NUMBERS = {
    "pas": (0, ATTRIBUTE_PAS),
    "misc": range(256),
    "pel_mask": range(256),
    "_attribute_data": range(2),
    "_dac_read": range(len(_DAC)),
    "_dac_write": range(0, len(_DAC), 3),
    "_dac_state": (0, DAC_READING),
    "_video_enable": range(2),
    "_feature": range(16),
    "_retraces": range(1 << 63),
    "_retrace_told": range(2),
}
"""The state's plain numbers, each with the values that it can have."""


_NAMES = {
    0x3C1: "attribute", 0x3C3: "video enable", 0x3C4: "sequencer index", 0x3C5: "sequencer", 0x3C6: "PEL mask",
    0x3C8: "DAC write index", 0x3C9: "DAC data", 0x3CE: "graphics index", 0x3CF: "graphics", 0x3D4: "CRTC index",
    0x3D5: "CRTC",
}  # fmt: skip
_READ_NAMES = {
    **_NAMES, 0x3C2: "input status 0", 0x3C7: "DAC state", 0x3CA: "feature control", 0x3CC: "miscellaneous output",
    0x3DA: "input status 1",
}  # fmt: skip
_WRITE_NAMES = {**_NAMES, 0x3C2: "miscellaneous output", 0x3C7: "DAC read index", 0x3DA: "feature control"}


def text_screen(vga: Vga, read: Callable[[int, int], bytes]) -> Screen:
    """What the screen shows: the registers of `vga` applied to the video memory, which `read(gpa, size)` gives.

    Raises what `read` raises.
    """
    from ..display.screen import Screen
    from ..display.text_mode import CELL_LINES

    crtc, attribute = vga.crtc.values, vga.attribute.values
    height = (crtc[0x09] & 0x1F) + 1
    scans = 2 * height if crtc[0x09] & CRTC_DOUBLE_SCAN else height
    shown = crtc[0x12] | (crtc[0x07] & 0x02) << 7 | (crtc[0x07] & 0x40) << 3
    columns = crtc[0x01] + 1
    rows = min(max((shown + 1) // scans, 1), MAX_ROWS)
    palette = tuple(_rgb(vga, number) for number in range(16))
    blink = bool(attribute[0x10] & MODE_BLINK)
    if vga.graphics.values[6] & 1 or attribute[0x10] & MODE_GRAPHICS:
        return Screen(columns, rows, b" \x07" * (columns * rows), palette=palette, blink=blink, blank=True)

    start = crtc[0x0C] << 8 | crtc[0x0D]
    pitch = 2 * crtc[0x13]
    memory = read(_WINDOW_BASES[vga.graphics.values[6] >> 2 & 3], WINDOW) * 2
    lines = (2 * (start + row * pitch) % WINDOW for row in range(rows))
    cells = b"".join(memory[at : at + 2 * columns] for at in lines)

    cursor = None
    place = ((crtc[0x0E] << 8 | crtc[0x0F]) - start) % (WINDOW // 2)
    first, last = crtc[0x0A] & 0x1F, min(crtc[0x0B] & 0x1F, height - 1)
    if not crtc[0x0A] & CURSOR_OFF and first <= last and pitch:
        row, column = divmod(place, pitch)
        if row < rows and column < columns:
            cursor = column, row
    return Screen(
        columns,
        rows,
        cells,
        cursor,
        (first * CELL_LINES // height, (last + 1) * CELL_LINES // height - 1),
        palette,
        blink,
        blank=not vga.pas
        or bool(vga.sequencer.values[1] & CLOCKING_SCREEN_OFF)
        or vga.sequencer.values[0] != 3
        or not crtc[0x17] & CRTC_RUN,
    )


def _rgb(vga: Vga, number: int) -> tuple[int, int, int]:
    """One of the 16 colours: through the attribute controller's palette, then the DAC's, from 6 bits to 8."""
    attribute = vga.attribute.values
    colour, select = attribute[number & attribute[0x12] & 0x0F], attribute[0x14]
    if attribute[0x10] & MODE_P54_SELECT:
        colour = colour & 0x0F | (select & 0x03) << 4
    place = 3 * ((colour | (select & 0x0C) << 4) & vga.pel_mask)
    red, green, blue = (value << 2 | value >> 4 for value in vga.dac[place : place + 3])
    return red, green, blue
