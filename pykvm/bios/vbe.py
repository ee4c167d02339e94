"""INT 10h AH=4Fh: the VESA BIOS, on the display interface of the card.

Source: VESA BIOS Extension Core Functions Standard 3.0 (functions 00h to 0Ah, 15h); VESA Enhanced Display Data Channel
standard, EDID 1.3. There is no protected-mode interface (0Ah), and no saving of state (04h): both answer that they are
not there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from ..bus import PortBus
from ..devices import vga_registers as card
from ..devices.vga import Vga
from ..memory import GuestMemory
from . import data
from .call import Call, linear
from .vbe_modes import MODES, mode_block

OK, NOT_HERE, FAILED = 0x004F, 0x0100, 0x014F
USE_LFB, KEEP, CRTC_GIVEN = 1 << 14, 1 << 15, 1 << 11
_INFO = 512


def serve(set_mode: Callable[..., bool], call: Call, vga: Vga | None, ports: PortBus, memory: GuestMemory) -> None:
    """Serve the call; AX is 004Fh if it was done."""
    function = _FUNCTIONS.get(call.al)
    if function is None or vga is None:
        call.unanswered = True
        call.ax = NOT_HERE
        return
    call.ax = function(_Card(set_mode, vga, ports, memory), call)
    call.unanswered = call.ax == NOT_HERE


class _Card:
    """The card, as the functions need it."""

    def __init__(self, set_mode: Callable[..., bool], vga: Vga, ports: PortBus, memory: GuestMemory) -> None:
        self.set_mode, self.vga, self.ports, self.memory = set_mode, vga, ports, memory

    def write(self, index: int, value: int) -> None:
        """A register of the display interface."""
        self.ports.write(card.DISPI_PORT, 2, index)
        self.ports.write(card.DISPI_PORT + 1, 2, value)

    @property
    def on(self) -> bool:
        return bool(self.vga.dispi[card.DISPI_ENABLE] & card.DISPI_ENABLED)

    @property
    def mode(self) -> tuple[int, int, int]:
        return self.vga.dispi[card.DISPI_X], self.vga.dispi[card.DISPI_Y], self.vga.dispi[card.DISPI_BPP]


def _information(found: _Card, call: Call) -> int:
    at = linear(call.es, call.di)
    second = found.memory.read(at, 4) == b"VBE2"
    modes = b"".join(struct.pack("<H", number) for number in MODES) + b"\xff\xff"
    strings = (b"pykvm\0", b"pykvm\0", b"VGA\0", b"1\0")
    # Modes and strings are behind the fields, in the part that VBE 2.0 leaves to the BIOS; without it, in the first.
    place = 256 if second else 34
    pointers, behind = [], bytearray()
    for part in (modes, *strings):
        pointers.append((call.es << 16) + (call.di + place + len(behind) & 0xFFFF))
        behind += part
    size = _INFO if second else 256
    block = struct.pack(
        "<4sHIIIHHIII", b"VESA", 0x0300, pointers[1], 1, pointers[0], card.MEMORY_SIZE >> 16, 1, *pointers[2:5]
    )
    if not second:
        block = block[:20]
    found.memory.write(at, (block.ljust(place, b"\0") + behind)[:size].ljust(size, b"\0"))
    return OK


def _mode_information(found: _Card, call: Call) -> int:
    mode = MODES.get(call.cx & 0x1FF)
    if mode is None:
        return FAILED
    found.memory.write(linear(call.es, call.di), mode_block(*mode, found.vga.frame_buffer))
    return OK


def _set_mode(found: _Card, call: Call) -> int:
    number = call.bx & 0x1FF
    if number < 0x100:
        return OK if found.set_mode(number & 0x7F, clear=not call.bx & KEEP) else FAILED
    mode = MODES.get(number)
    if mode is None or (call.bx & USE_LFB and not found.vga.frame_buffer):
        return FAILED
    set_linear(found.vga, *mode, linear=bool(call.bx & USE_LFB), keep=bool(call.bx & KEEP))
    found.memory.write_int(data.VIDEO_MODE, 1, 0x6F)  # a graphics mode that no other function knows
    return OK


def set_linear(vga: Vga, width: int, height: int, depth: int, *, linear: bool = True, keep: bool = False) -> None:
    """Show a mode of the display interface with the palette of mode 13h."""
    from ..devices.vga_dispi import write
    from .video_modes import default_dac

    write(vga, card.DISPI_ENABLE, 0)
    write(vga, card.DISPI_X, width)
    write(vga, card.DISPI_Y, height)
    write(vga, card.DISPI_BPP, depth)
    flags = card.DISPI_ENABLED | (card.DISPI_LFB if linear else 0) | (card.DISPI_KEEP if keep else 0)
    write(vga, card.DISPI_ENABLE, flags)
    vga.dac[:] = default_dac(0x13)
    vga.pel_mask = 0xFF


def _get_mode(found: _Card, call: Call) -> int:
    if not found.on:
        call.bx = found.memory.read_int(data.VIDEO_MODE, 1)
        return OK
    call.bx = next((number for number, mode in MODES.items() if mode == found.mode), 0x1FF)
    if found.vga.dispi[card.DISPI_ENABLE] & card.DISPI_LFB:
        call.bx |= USE_LFB
    return OK


def _window(found: _Card, call: Call) -> int:
    if not found.on or call.bl:
        return FAILED
    if call.bh == 1:
        call.dx = found.vga.dispi[card.DISPI_BANK]
    elif call.dx < card.MEMORY_SIZE // card.BANK:
        found.write(card.DISPI_BANK, call.dx)
    else:
        return FAILED
    return OK


def _line_length(found: _Card, call: Call) -> int:
    if not found.on:
        return FAILED
    dispi, size = found.vga.dispi, found.mode[2] + 7 >> 3
    if call.bl in (0, 2):
        wanted = call.cx if call.bl == 0 else call.cx // size
        found.write(card.DISPI_WIDTH, max(wanted, dispi[card.DISPI_X]))
        if dispi[card.DISPI_WIDTH] < wanted:
            return FAILED
    width = dispi[card.DISPI_WIDTH]
    if call.bl == 3:
        width = min(card.MEMORY_SIZE // dispi[card.DISPI_Y] // size, 0x4000)
    call.bx, call.cx, call.dx = width * size, width, min(card.MEMORY_SIZE // (width * size), 0xFFFF)
    return OK


def _display_start(found: _Card, call: Call) -> int:
    if not found.on:
        return FAILED
    dispi = found.vga.dispi
    if call.bl & 0x7F == 1:
        call.bh, call.cx, call.dx = 0, dispi[card.DISPI_LEFT], dispi[card.DISPI_TOP]
        return OK
    if call.bl & 0x7F:
        return FAILED
    found.write(card.DISPI_LEFT, call.cx)
    found.write(card.DISPI_TOP, call.dx)
    return OK


def _dac_width(found: _Card, call: Call) -> int:
    enable = found.vga.dispi[card.DISPI_ENABLE]
    if not found.on or found.mode[2] != 8:
        return FAILED
    if call.bl == 0:
        wide = card.DISPI_8_BIT_DAC if call.bh >= 8 else 0
        enable = enable & ~card.DISPI_8_BIT_DAC | wide
        found.write(card.DISPI_ENABLE, enable | card.DISPI_KEEP)
    call.bh = 8 if enable & card.DISPI_8_BIT_DAC else 6
    return OK


def _palette(found: _Card, call: Call) -> int:
    at, first, count, dac = linear(call.es, call.di), call.dx & 0xFF, min(call.cx, 256), found.vga.dac
    count = min(count, 256 - first)
    if call.bl & 0x7F == 1:
        colours = [dac[3 * index : 3 * index + 3] for index in range(first, first + count)]
        found.memory.write(at, b"".join(bytes((blue, green, red, 0)) for red, green, blue in colours))
        return OK
    if call.bl & 0x7F:
        return NOT_HERE
    most = 0xFF if found.vga.dispi[card.DISPI_ENABLE] & card.DISPI_8_BIT_DAC else 0x3F
    entries = found.memory.read(at, 4 * count)
    for index in range(count):
        blue, green, red, _ = entries[4 * index : 4 * index + 4]
        dac[3 * (first + index) : 3 * (first + index) + 3] = bytes((red & most, green & most, blue & most))
    return OK


def edid() -> bytes:
    """A monitor of 1920 by 1080 pixels."""
    block = bytearray.fromhex("00 FF FF FF FF FF FF 00 41 ED 01 00 01 00 00 00 01 23 01 03 80 34 1D 78 0A")
    block += bytes.fromhex("EE 91 A3 54 4C 99 26 0F 50 54")  # sRGB
    block += bytes.fromhex("21 08 00")  # 640x480, 800x600 and 1024x768 at 60 Hz
    block += b"\x01\x01" * 8
    block += bytes.fromhex("02 3A 80 18 71 38 2D 40 58 2C 45 00 09 25 21 00 00 1E")  # 1920x1080 at 60 Hz, 148.5 MHz
    block += bytes.fromhex("00 00 00 FC 00") + b"pykvm\n       "
    block += bytes.fromhex("00 00 00 FD 00 32 4B 1E 51 11 00 0A 20 20 20 20 20 20")
    block += bytes.fromhex("00 00 00 10 00") + bytes(13)
    block += b"\0"
    return bytes(block) + bytes((-sum(block) & 0xFF,))


def _monitor(found: _Card, call: Call) -> int:
    if call.bl == 0:
        call.bx = 0x0103  # DDC2, and a second for a block
        return OK
    if call.bl != 1 or call.dx:
        return FAILED
    found.memory.write(linear(call.es, call.di), edid())
    return OK


_FUNCTIONS = {
    0x00: _information, 0x01: _mode_information, 0x02: _set_mode, 0x03: _get_mode, 0x05: _window, 0x06: _line_length,
    0x07: _display_start, 0x08: _dac_width, 0x09: _palette, 0x15: _monitor,
}  # fmt: skip
