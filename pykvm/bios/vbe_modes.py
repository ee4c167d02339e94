"""The modes of the VESA BIOS, and the card that they are of, as numbers.

Source: VESA BIOS Extension Core Functions Standard 3.0 (mode numbers; function 01h, ModeInfoBlock). Size and place of
the video memory are those of `devices.vga_registers`, of which a boot loader, who tells kernels of it, knows nothing.
"""

from __future__ import annotations

import struct

MEMORY_SIZE = 16 << 20
FRAME_BUFFER = 0xFD00_0000
SIZES = (
    (640, 400), (640, 480), (800, 600), (1024, 768), (1280, 1024), (320, 200), (1600, 1200), (1152, 864), (1280, 720),
    (1280, 800), (1360, 768), (1440, 900), (1680, 1050), (1920, 1080), (1920, 1200), (2560, 1440), (2560, 1600),
)  # fmt: skip
_STANDARD = {
    0x100: (640, 400, 8), 0x101: (640, 480, 8), 0x103: (800, 600, 8), 0x105: (1024, 768, 8), 0x107: (1280, 1024, 8),
    0x10D: (320, 200, 15), 0x10E: (320, 200, 16), 0x10F: (320, 200, 24), 0x110: (640, 480, 15), 0x111: (640, 480, 16),
    0x112: (640, 480, 24), 0x113: (800, 600, 15), 0x114: (800, 600, 16), 0x115: (800, 600, 24), 0x116: (1024, 768, 15),
    0x117: (1024, 768, 16), 0x118: (1024, 768, 24), 0x119: (1280, 1024, 15), 0x11A: (1280, 1024, 16),
    0x11B: (1280, 1024, 24),
}  # fmt: skip
"""The modes whose numbers VESA has given."""
MODES = dict(_STANDARD)
_number = 0x140
for _size in SIZES:
    for _depth in (8, 15, 16, 24, 32):
        if (*_size, _depth) not in _STANDARD.values() and _size[0] * _size[1] * (_depth + 7 >> 3) <= MEMORY_SIZE:
            MODES[_number] = (*_size, _depth)
            _number += 1
FIELDS = {
    8: (0, 0, 0, 0, 0, 0, 0, 0), 15: (5, 10, 5, 5, 5, 0, 1, 15), 16: (5, 11, 6, 5, 5, 0, 0, 0),
    24: (8, 16, 8, 8, 8, 0, 0, 0), 32: (8, 16, 8, 8, 8, 0, 8, 24),
}  # fmt: skip
"""Size and lowest bit of red, green, blue and what is left."""


def mode_block(width: int, height: int, depth: int, frame_buffer: int) -> bytes:
    """The ModeInfoBlock of a mode, 256 bytes."""
    pitch = width * (depth + 7 >> 3)
    pages = max(min(MEMORY_SIZE // (pitch * height), 256) - 1, 0)
    attributes = 0x1B | (0x80 if frame_buffer else 0)
    model = 4 if depth == 8 else 6
    fields = bytes(FIELDS[depth])
    parts = (
        struct.pack("<HBBHHHHIH", attributes, 7, 0, 64, 64, 0xA000, 0, 0, pitch),
        struct.pack("<HHBBBBBBBBB", width, height, 8, 16, 1, depth, 1, model, 0, pages, 1),
        fields,
        struct.pack("<BIIH", 2 if depth == 32 else 0, frame_buffer, 0, 0),
        struct.pack("<HBB", pitch, pages, pages),
        fields,
        struct.pack("<I", 230_000_000),
    )
    return b"".join(parts).ljust(256, b"\0")
