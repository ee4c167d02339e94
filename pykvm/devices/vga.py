"""A VGA: its registers, in the state in which the BIOS leaves them for mode 3, and the Bochs display interface.

Implements: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem" (registers of the CRT controller,
sequencer, graphics controller, attribute controller and DAC), with the read-back of all registers that every VGA has
since; the values are those of mode 3, 80 by 25 characters of 9 by 16 dots, as the PS/2's BIOS sets it. `Dispi` is the
interface of Bochs's and QEMU's cards (Bochs, iodev/display/vga.h, "VBE_DISPI"; QEMU, docs/specs/standard-vga.rst) to
modes of up to 2560 by 1600 pixels with a linear frame buffer.

Text in its window is ordinary RAM of the guest: what is written there is not seen here. All that needs more, the
planes and their logic, is `vga_memory`, made when a guest first goes there; what a monitor shows is `vga_picture`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..device import Device, Range, State
from ..typed import TYPE_CHECKING
from .vga_registers import (
    ATTRIBUTE_INITIAL,
    BANK,
    BANKED,
    CHAIN_4,
    CRTC_INITIAL,
    DAC_INITIAL,
    DISPI_8_BIT_DAC,
    DISPI_BANK,
    DISPI_BPP,
    DISPI_CAPS,
    DISPI_ENABLE,
    DISPI_ENABLED,
    DISPI_LFB,
    DISPI_MEMORY,
    DISPI_MOST,
    DISPI_NEWEST,
    DISPI_X,
    DISPI_Y,
    FRAME_BUFFER,
    FRAME_NS,
    GRAPHICS_INITIAL,
    LINE_NS,
    LINE_SHOWN_NS,
    LINEAR,
    LINES,
    LINES_SHOWN,
    MEMORY_SIZE,
    MISC_INITIAL,
    ODD_EVEN,
    PLANE_0,
    READ_NAMES,
    RETRACE_LINE,
    RETRACE_LINES,
    SEQUENCER_INITIAL,
    TEXT_MIRROR,
    TRAPPED,
    WINDOW_BASES,
    WINDOW_SIZES,
    WRITE_NAMES,
    CrtController,
    Mirror,
    RegisterFile,
    check_dispi,
)

if TYPE_CHECKING:
    from .vga_memory import VideoMemory

BASE = 0x3B4

MISC_COLOUR = 1 << 0
"""Miscellaneous output: the CRT controller and status 1 are at 0x3D4 and 0x3DA, and not at 0x3B4 and 0x3BA."""
STATUS_0_SENSE = 1 << 4
"""Input status 0: the comparator finds a monitor."""
STATUS_1_BLANKED, STATUS_1_RETRACE = 1 << 0, 1 << 3
ATTRIBUTE_PAS = 1 << 5
"""Bit of the attribute controller's index: the screen shows the palette, and not the border's colour all over."""
DAC_READING = 3


class Vga(Device):
    """The registers at ports 0x3B4 to 0x3DA. `now` gives nanoseconds of a monotonic clock."""

    name = "VGA"
    ports = (Range(BASE, 2), Range(0x3BA, 1), Range(0x3C0, 16), Range(0x3D4, 2), Range(0x3DA, 1))
    width = 1
    moved_by_host = False  # but for the phase of the retrace, which no guest can hold anybody to

    def __init__(
        self, now: Callable[[], int], make_memory: Callable[[bytearray, bytearray], VideoMemory] | None = None
    ) -> None:
        self._now = now
        self._make_memory = make_memory
        self.memory: VideoMemory | None = None
        """Planes and frame buffer; None as long as no guest has needed them."""
        self.frame_buffer = FRAME_BUFFER
        """Where the linear frame buffer is, while it is enabled; 0: nowhere."""
        self.mirror = TEXT_MIRROR
        """What the window is."""
        self.reset()

    def reset(self) -> None:
        if self.memory is not None:
            self.memory.place(None)
        self.sequencer = RegisterFile(SEQUENCER_INITIAL, 0x07)
        self.crtc = CrtController(CRTC_INITIAL, 0x1F)
        self.graphics = RegisterFile(GRAPHICS_INITIAL, 0x0F)
        self.attribute = RegisterFile(ATTRIBUTE_INITIAL, 0x1F)
        self.pas = ATTRIBUTE_PAS
        self.misc = MISC_INITIAL
        self.pel_mask = 0xFF
        self.dac = bytearray(DAC_INITIAL)
        self._attribute_data = False  # the flip-flop: whether the next write to 0x3C0 is data
        self._dac_read = self._dac_write = 0  # places in `dac`, three for a colour
        self._dac_latch = b""  # red and green written, while blue is still to come
        self._dac_state = 0
        self._video_enable = 1
        self._feature = 0
        self._start = self._now()
        self._retraces = 0  # begun when status 1 was last read,
        self._retrace_told = False  # and whether it told of one then
        self.dispi = [DISPI_NEWEST, *[0] * 9]
        self.dispi_index = 0
        self._connect()
        if self.memory is not None:
            self.memory.registers(self.sequencer.values, self.graphics.values)
            self.update()

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
            0x3C5: self._write_sequencer,
            0x3C6: partial(setattr, self, "pel_mask"),
            0x3C7: self._write_dac_read,
            0x3C8: self._write_dac_write,
            0x3C9: self._write_dac,
            0x3CE: self.graphics.select,
            0x3CF: self._write_graphics,
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

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        if self._port(offset) in (0x3C5, 0x3CF):  # one register again and again, of which each value may move memory
            data = data[-1:]
        super().write_block(offset, size, data)

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        port = self._port(offset)
        if port == 0x3C0:
            if value is not None and self._attribute_data:
                return f"attribute {self.attribute.index:#04x}"
            return "attribute index"
        file = {0x3C1: self.attribute, 0x3C5: self.sequencer, 0x3CF: self.graphics, 0x3D5: self.crtc}.get(port)
        name = (READ_NAMES if value is None else WRITE_NAMES).get(port) or f"port {BASE + offset:#x}"
        return name if file is None else f"{name} {file.index:#04x}"

    def _port(self, offset: int) -> int:
        """The port as that of a colour adapter; 0 for one of the adapter that the VGA is not at the moment."""
        port = BASE + offset
        if 0x3C0 <= port < 0x3D0:
            return port
        if self.misc & MISC_COLOUR:
            return port if port >= 0x3D0 else 0
        return port + 0x20 if port < 0x3C0 else 0

    # What the window is

    def _write_sequencer(self, value: int) -> None:
        self.sequencer.write(value)
        self.update()

    def _write_graphics(self, value: int) -> None:
        self.graphics.write(value)
        self.update()

    def _mirrored(self) -> Mirror:
        """What the window is, as the registers are now."""
        enable = self.dispi[DISPI_ENABLE]
        if enable & DISPI_ENABLED:
            if enable & DISPI_LFB:
                return Mirror(LINEAR, 0xA0000, BANK)
            if self.dispi[DISPI_BPP] != 4:
                return Mirror(BANKED, 0xA0000, BANK, self.dispi[DISPI_BANK] * BANK % MEMORY_SIZE)
        sequencer, graphics = self.sequencer.values, self.graphics.values
        choice = graphics[6] >> 2 & 3
        place, planes = (WINDOW_BASES[choice], WINDOW_SIZES[choice]), sequencer[2] & 15
        if sequencer[4] & 8:  # the graphics controller has no part in it
            return Mirror(CHAIN_4 if planes == 15 else TRAPPED, place[0], min(place[1], BANK))
        plain = not graphics[5] & 0x0B and not graphics[1] & 15 and not graphics[3] and graphics[8] == 0xFF
        if plain and not sequencer[4] & 4 and planes & 3 == 3 and not graphics[4] & 2:
            return Mirror(ODD_EVEN, *place)
        if plain and sequencer[4] & 4 and planes == 1 and not graphics[4] and choice == 3:
            return Mirror(PLANE_0, *place)
        return Mirror(TRAPPED, *place)

    def update(self) -> None:
        """The registers have changed that say what the window is."""
        mirror = self._mirrored()
        if mirror != self.mirror:
            old, self.mirror = self.mirror, mirror
            if (memory := self.need_memory()) is not None:
                memory.switch(old, mirror)

    def need_memory(self) -> VideoMemory | None:
        """The planes and the frame buffer, made now if there are none; None for a card without, in tests."""
        if self.memory is None and self._make_memory is not None:
            self.memory = self._make_memory(self.sequencer.values, self.graphics.values)
            self.moved_by_host = True  # the guest writes to them without asking this device
        return self.memory

    def look(self) -> VideoMemory | None:
        """The memory, with what the guest has written to the window in it; None if there are no planes yet."""
        if self.memory is not None:
            self.memory.settle(self.mirror)
        return self.memory

    def clear(self) -> None:
        """Fill video memory with zeros, but the fonts of a text mode."""
        if self.memory is not None:
            self.memory.clear(self.mirror)

    def pitch_of(self, width: int) -> int:
        """Bytes of a line of so many pixels, in the display interface's mode."""
        depth = self.dispi[DISPI_BPP]
        return width // 8 if depth == 4 else width * (depth + 7 >> 3)

    def place_frame_buffer(self) -> None:
        """Have the frame buffer be where the registers say."""
        enable = self.dispi[DISPI_ENABLE]
        if self.memory is not None:
            shown = enable & DISPI_ENABLED and enable & DISPI_LFB and self.frame_buffer
            self.memory.place(self.frame_buffer if shown else None)

    def move_frame_buffer(self, gpa: int) -> None:
        """Where the frame buffer is from now on, whenever it is enabled; 0: nowhere."""
        self.frame_buffer = gpa
        self.place_frame_buffer()

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
        self._dac_latch += bytes((value & (0xFF if self.dispi[DISPI_ENABLE] & DISPI_8_BIT_DAC else 0x3F),))
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
            "dispi": list(self.dispi),
            "memory": None if self.memory is None else self.memory.save(),
        }

    def restore(self, state: State) -> None:
        files = self._files()
        for name, file in files.items():
            saved = state.get(name)
            if not isinstance(saved, list) or len(saved) != 2 or not file.fits(*saved):
                raise ValueError(f"{self.name}: state field {name!r} is not that of its registers and its index")
        dispi = state.get("dispi", [DISPI_NEWEST, *[0] * 9])  # as in snapshots from before there was one
        if dispi != self.dispi:
            check_dispi(dispi)
        most = 0xFF if dispi[DISPI_ENABLE] & DISPI_8_BIT_DAC else 0x3F
        for name, lengths in (("dac", (len(self.dac),)), ("dac_latch", (0, 1, 2))):
            saved = state.get(name)
            if not isinstance(saved, bytes) or len(saved) not in lengths or any(value > most for value in saved):
                raise ValueError(f"{self.name}: state field {name!r} is not colours of the DAC, as many as {lengths}")
        for name, allowed in {**_NUMBERS, "elapsed": range(1 << 63)}.items():
            number = state.get(name.lstrip("_"), 0 if name == "dispi_index" else None)
            if type(number) is not int or number not in allowed:
                raise ValueError(f"{self.name}: state field {name!r} is {number!r}")
        for name, file in files.items():
            values, file.index = state[name]
            file.values[:] = values
        self.dac[:] = state["dac"]
        self._dac_latch = state["dac_latch"]
        for name in _NUMBERS:
            setattr(self, name, state.get(name.lstrip("_"), 0))
        self._start = self._now() - state["elapsed"]
        self.dispi[:] = dispi
        self.mirror = self._mirrored()
        content = state.get("memory")
        memory = self.memory if content is None and self.mirror == TEXT_MIRROR else self.need_memory()
        if memory is not None:
            memory.restore(content, self.mirror)
            self.place_frame_buffer()


class Dispi(Device):
    """The display interface's ports: index and data, which has its place at 0x1CF and at 0x1D0."""

    name = "DISPI"
    ports = (Range(0x1CE, 1), Range(0x1CF, 1), Range(0x1D0, 1))
    width = 2
    moved_by_host = has_state = False
    register_names = {0: "DISPI index", 1: "DISPI data", 2: "DISPI data"}  # noqa: RUF012

    def __init__(self, vga: Vga, write: Callable[[int, int], None]) -> None:
        """`write` takes the number of a register and its value: see `vga_dispi`."""
        self._vga, self._write = vga, write

    def read(self, offset: int, size: int) -> int:
        mask = (1 << 8 * size) - 1
        if not offset:
            return self._vga.dispi_index & mask
        dispi = self._vga.dispi
        if self._vga.dispi_index == DISPI_MEMORY:
            return MEMORY_SIZE // BANK & mask
        if self._vga.dispi_index >= len(dispi):
            return 0
        if dispi[DISPI_ENABLE] & DISPI_CAPS and self._vga.dispi_index in (DISPI_X, DISPI_Y, DISPI_BPP):
            return DISPI_MOST[self._vga.dispi_index] & mask
        return dispi[self._vga.dispi_index] & mask

    def write(self, offset: int, size: int, value: int) -> None:
        if not offset:
            self._vga.moved_by_host, self._vga.dispi_index = True, value
        else:
            self._vga.moved_by_host = True
            self._write(self._vga.dispi_index, value)

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        super().write_block(offset, size, data[-size:])  # to one register: only the last one stays


class VgaWindow(Device):
    """The window into video memory, where accesses to it come here (see `vga_memory`)."""

    name = "VGA memory"
    mmio = (Range(0xA0000, 0x20000),)
    width = 1
    moved_by_host = has_state = False

    def __init__(self, vga: Vga) -> None:
        self._vga = vga

    def read(self, offset: int, size: int) -> int:
        return 0xFF if self._vga.memory is None else self._vga.memory.read(offset)

    def write(self, offset: int, size: int, value: int) -> None:
        if self._vga.memory is not None:
            self._vga.memory.write(offset, value)


_NUMBERS = {
    "pas": (0, ATTRIBUTE_PAS),
    "misc": range(256),
    "pel_mask": range(256),
    "_attribute_data": range(2),
    "_dac_read": range(len(DAC_INITIAL)),
    "_dac_write": range(0, len(DAC_INITIAL), 3),
    "_dac_state": (0, DAC_READING),
    "_video_enable": range(2),
    "_feature": range(16),
    "_retraces": range(1 << 63),
    "_retrace_told": range(2),
    "dispi_index": range(0x10000),
}
"""The state's plain numbers, each with the values that it can have."""
