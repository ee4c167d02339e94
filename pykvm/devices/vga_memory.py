"""The VGA's video memory: four planes, the logic between them and the CPU, and what of it the guest sees as RAM.

Implements: IBM PS/2 Hardware Interface Technical Reference, "Video Subsystem" (graphics controller: write modes 0 to 3,
read modes 0 and 1, set/reset, rotation, functions, bit mask; sequencer: map mask, odd/even, chain 4), with the memory
beyond the planes that VBE cards have. The planes lie side by side, as in Bochs and QEMU: byte N of plane P is byte
4 N + P of the memory, so that odd/even and chain 4 are at consecutive addresses of the planes. The CRT controller's
byte, word and doubleword addressing is folded into that.

An addressing in which each byte of the window is one of the memory and no logic is in between costs no exit: the window
is the guest's RAM then, and *mirrors* part of the memory. It is carried over whenever that changes (`switch`), or
somebody looks (`settle`). In all other addressings the guest's accesses come here.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ..device import State
from ..memory import PAGE_SIZE, GuestMemory, GuestMemoryError
from .vga_registers import (
    LINEAR,
    ODD_EVEN,
    PLANE_0,
    TEXT_MIRROR,
    TRAPPED,
    WINDOW_BASES,
    WINDOW_SIZES,
    Mirror,
)

SIZE = 16 << 20
"""Bytes of video memory."""
PLANES = 4 << 16
"""Bytes that the four planes take up."""
FONT_BLOCK, GLYPH = 0x4000, 32
"""Plane 2, in text modes: distance of two fonts, and of two of their characters."""

_LANES = [sum(0xFF << 8 * plane for plane in range(4) if mask >> plane & 1) for mask in range(16)]
"""By four bits, one a plane: the same with a byte for each."""
_ALL = 0xFFFF_FFFF


class Slots(Protocol):
    """Where the guest sees the memory: `engine.video_slots`, or a test's."""

    @property
    def memory(self) -> bytearray | mmap.mmap: ...

    def later(self, callback: Callable[[], None]) -> None: ...

    def trap(self, on: bool) -> None: ...

    def place(self, gpa: int | None) -> None: ...

    def written(self) -> list[int] | None: ...


class _Saved(NamedTuple):
    """A state as it was put back, so that the next time only what was written since is."""

    packed: bytes
    content: bytes


class VideoMemory:
    """The memory of a VGA with these registers, whose window is in `ram`, or nowhere."""

    def __init__(self, sequencer: bytearray, graphics: bytearray, slots: Slots, ram: GuestMemory | None) -> None:
        self._sequencer, self._graphics = sequencer, graphics
        self._slots, self._ram = slots, ram
        self.bytes = memoryview(slots.memory)
        self.words = self.bytes.cast("I")
        """A word for each address of the planes: plane 0 in bits 7-0, and so on."""
        self.latch = 0
        self._mirror = TEXT_MIRROR
        self._wanted: Mirror | None = None  # what the window is to mirror instead
        self._end = PLANES  # nothing behind it has ever been touched
        self._by_host = False  # whether anything but the frame buffer has changed the memory since `restore`
        self._saved: _Saved | None = None
        self._load_font()

    def registers(self, sequencer: bytearray, graphics: bytearray) -> None:
        """The register files are others now."""
        self._sequencer, self._graphics = sequencer, graphics

    def _load_font(self) -> None:
        """What a BIOS leaves in plane 2: the font."""
        from ..display.font import FontError, system_font

        try:
            font = system_font()
        except FontError:
            return
        for character in range(256):
            self.load_glyph(character, font[16 * character : 16 * character + 16])

    def load_glyph(self, character: int, rows: bytes, block: int = 0) -> None:
        """Put a character's rows, at most 32, into one of the eight fonts in plane 2."""
        self._by_host = True
        at = 4 * (font_start(block) + GLYPH * (character & 0xFF)) + 2
        self.bytes[at : at + 4 * len(rows) : 4] = rows[:GLYPH]

    # The window as RAM

    def switch(self, old: Mirror, new: Mirror) -> None:
        """The registers have changed what the window mirrors: before the guest goes on, it does.

        Not at once: one exit may change registers thousands of times.
        """
        if self._wanted is None:
            self._mirror = old
        self._wanted = new
        self._slots.later(self.apply)

    def apply(self) -> None:
        """Have the window mirror what was asked for last."""
        new, self._wanted = self._wanted, None
        if new is not None and new != self._mirror:
            self._settle(self._mirror)
            self.expose(new)
            self._slots.trap(new.kind == TRAPPED)

    def settle(self, mirror: Mirror) -> None:
        """Have the memory be what the window, which mirrors part of it, has."""
        self.apply()
        self._settle(mirror)

    def _settle(self, mirror: Mirror) -> None:
        kind, base, size, at = mirror
        if kind in (TRAPPED, LINEAR) or self._ram is None:
            return
        try:
            seen = self._ram.read(base, size)
        except GuestMemoryError:
            return
        self._by_host = True
        if kind == ODD_EVEN:
            self.bytes[0 : 2 * size : 4] = seen[::2]
            self.bytes[1 : 2 * size : 4] = seen[1::2]
        elif kind == PLANE_0:
            self.bytes[0 : 4 * size : 4] = seen
        else:
            self._end = max(self._end, at + size)
            self.bytes[at : at + size] = seen

    def expose(self, mirror: Mirror) -> None:
        """Have the window be what the memory has."""
        kind, base, size, at = mirror
        if kind in (TRAPPED, LINEAR) or self._ram is None:
            return
        if kind == ODD_EVEN:
            shown = bytearray(size)
            shown[::2], shown[1::2] = self.bytes[0 : 2 * size : 4], self.bytes[1 : 2 * size : 4]
        elif kind == PLANE_0:
            shown = bytearray(self.bytes[0 : 4 * size : 4])
        else:
            shown = bytearray(self.bytes[at : at + size])
        try:
            self._ram.write(base, shown)
        except GuestMemoryError:
            return

    def clear(self, mirror: Mirror, end: int = PLANES) -> None:
        """Fill the memory up to `end` with zeros, but the fonts; the window, too."""
        self.apply()
        self._by_host = True
        self._end = max(self._end, end)
        if end > PLANES:
            self.bytes[:end] = bytes(end)
        else:
            fonts = bytes(self.bytes[2:PLANES:4])
            self.bytes[:PLANES] = bytes(PLANES)
            if self._graphics[6] & 1 == 0:
                self.bytes[2:PLANES:4] = fonts
        self.expose(mirror)

    # The window with logic: `address` counts from 0xA0000

    def _place(self, address: int) -> int:
        """The offset in the window, or -1 outside."""
        choice = self._graphics[6] >> 2 & 3
        at = address - (WINDOW_BASES[choice] - 0xA0000)
        return at & 0xFFFF if 0 <= at < WINDOW_SIZES[choice] else -1

    def read(self, address: int) -> int:
        """The byte that the guest reads; loads the latches."""
        at = self._place(address)
        if at < 0:
            return 0xFF
        sequencer, graphics = self._sequencer, self._graphics
        plane = graphics[4] & 3
        if sequencer[4] & 8:
            at, plane = at >> 2, at & 3
        elif not sequencer[4] & 4:
            at, plane = at >> 1, plane & 2 | at & 1
        latch = self.latch = self.words[at]
        if not graphics[5] & 8:
            return latch >> 8 * plane & 0xFF
        # Read mode 1: a bit for each pixel whose colour is that of register 2 in the planes of register 7.
        differ = (latch ^ _LANES[graphics[2] & 15]) & _LANES[graphics[7] & 15]
        return ~(differ | differ >> 8 | differ >> 16 | differ >> 24) & 0xFF

    def write(self, address: int, value: int) -> None:
        """Take a byte that the guest writes."""
        at = self._place(address)
        if at < 0:
            return
        sequencer, graphics = self._sequencer, self._graphics
        planes = sequencer[2] & 15
        if sequencer[4] & 8:
            at, planes = at >> 2, planes & 1 << (at & 3)
        elif not sequencer[4] & 4:
            at, planes = at >> 1, planes & (10 if at & 1 else 5)
        latch, mode = self.latch, graphics[5] & 3
        if mode == 1:
            data = latch
        else:
            bits = graphics[8]
            if mode == 2:
                data = _LANES[value & 15]
            else:
                count = graphics[3] & 7
                value = (value >> count | value << 8 - count) & 0xFF
                if mode == 3:
                    bits &= value
                    data = _LANES[graphics[0] & 15]
                else:
                    forced = _LANES[graphics[1] & 15]
                    data = value * 0x01010101 & ~forced | _LANES[graphics[0] & 15] & forced
            function = graphics[3] >> 3 & 3
            if function == 1:
                data &= latch
            elif function == 2:
                data |= latch
            elif function == 3:
                data ^= latch
            bits *= 0x01010101
            data = data & bits | latch & ~bits & _ALL
        keep = _LANES[planes]
        self.words[at] = self.words[at] & ~keep & _ALL | data & keep
        self._by_host = True

    def put(self, at: int, bits: int, colour: int) -> None:
        """Give the dots of `bits` in a byte of all planes a colour, a bit a plane."""
        bits *= 0x01010101
        self.words[at & 0xFFFF] = self.words[at & 0xFFFF] & ~bits & _ALL | _LANES[colour & 15] & bits
        self._by_host = True

    # The frame buffer

    def place(self, gpa: int | None) -> None:
        """Where the guest sees all of the memory; None: nowhere."""
        if gpa is not None:
            self._end = SIZE
        self._slots.place(gpa)

    # State

    def save(self) -> State:
        """All of it up to the last page that is not empty, compressed."""
        self.apply()
        content = bytes(self.bytes[: self._end]).rstrip(b"\0")
        if self._saved is not None and content == self._saved.content:
            return {"latch": self.latch, "memory": self._saved.packed}
        return {"latch": self.latch, "memory": zlib.compress(content, 1)}

    def restore(self, state: object, mirror: Mirror) -> None:
        """Take back what `save` returned, or None: as after power-on; ValueError if it is anything else."""
        latch: Any = 0
        packed: Any = b""
        content = b""
        if state is not None:
            saved = state if isinstance(state, dict) else {}
            latch, packed = saved.get("latch"), saved.get("memory")
            if type(latch) is not int or not 0 <= latch <= _ALL or type(packed) is not bytes:
                raise ValueError("VGA: state field 'memory' is not that of video memory")
            content = self._saved.content if self._saved and self._saved.packed is packed else _unpack(packed)
        pages = self._slots.written()
        again = self._saved is not None and self._saved.packed is packed and packed
        self._wanted = None
        self._slots.trap(mirror.kind == TRAPPED)
        self.latch = latch
        if again and pages is not None and not self._by_host:
            for page in pages:
                start = page * PAGE_SIZE
                part = content[start : start + PAGE_SIZE]
                self.bytes[start : start + PAGE_SIZE] = part + bytes(PAGE_SIZE - len(part))
        else:
            self.bytes[: len(content)] = content
            self.bytes[len(content) : self._end] = bytes(max(self._end - len(content), 0))
            self._end = max(self._end, len(content))
        self._saved, self._by_host = _Saved(packed, content), False
        if state is None:
            self._load_font()


def _unpack(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, SIZE)
        if unpacker.decompress(unpacker.unconsumed_tail, 1) or not unpacker.eof:
            raise ValueError("VGA: state field 'memory' is cut off, or more than the video memory")
    except zlib.error as error:
        raise ValueError(f"VGA: state field 'memory' cannot be unpacked: {error}") from error
    return content


def font_start(block: int) -> int:
    """Where in plane 2 one of the eight fonts begins: 0, 4, 8 and 12 KiB times four, then those in between."""
    return FONT_BLOCK * (block & 3) + (FONT_BLOCK // 2 if block & 4 else 0)
