"""A frame buffer for a kernel that asks its boot loader for one.

Sources: Multiboot specification 0.6.96, 3.1.4 and 3.3 (framebuffer_*, vbe_*); Multiboot specification 2.0, 3.1.10 and
3.6.12; Linux Documentation/admin-guide/svga.rst ("vga=") and struct screen_info of <linux/screen_info.h>.
"""

from __future__ import annotations

import struct

from ..bios.vbe_modes import FIELDS, FRAME_BUFFER, MEMORY_SIZE, MODES, SIZES, mode_block
from . import ImageError, Video

DEFAULT = (1024, 768)
"""For a kernel to which any size is right."""
RGB = 1
"""The frame buffer's type in both Multiboots' information."""
LINUX_VBE = 0x200
"""What Linux's numbers of modes have above VESA's."""
_VLFB = 0x23


def choose(width: int, height: int, depth: int) -> Video:
    """The mode that comes nearest to a wish, in which 0 means any: never larger, if there is one that is not."""
    wanted = width or DEFAULT[0], height or DEFAULT[1]
    sizes = sorted(SIZES, key=lambda size: size[0] * size[1])
    fitting = [size for size in sizes if size[0] <= wanted[0] and size[1] <= wanted[1]]
    return Video(*(fitting[-1] if fitting else sizes[0]), depth if depth in (15, 16, 24) else 32)


def pitch(video: Video) -> int:
    """Bytes of a line."""
    return video.width * (video.depth + 7 >> 3)


def colours(video: Video) -> bytes:
    """The lowest bit and the size of red, green and blue, as both Multiboots have them."""
    red, red_at, green, green_at, blue, blue_at, _, _ = FIELDS[video.depth]
    return bytes((red_at, red, green_at, green, blue_at, blue))


def framebuffer(video: Video) -> bytes:
    """Address, pitch, width, height, depth and type, as both Multiboots have them."""
    return struct.pack("<QIIIBB", FRAME_BUFFER, pitch(video), video.width, video.height, video.depth, RGB)


def vbe_mode(video: Video) -> bytes:
    """VESA's description of the mode."""
    return mode_block(*video, FRAME_BUFFER)


def mode_number(video: Video) -> int:
    """VESA's number of the mode, with a linear frame buffer."""
    return next(number for number, mode in MODES.items() if mode == tuple(video)) | 1 << 14


def linux_mode(command_line: str) -> Video | None:
    """The mode that `vga=` asks for, if it is one with a frame buffer; ImageError if there is no such mode."""
    words = [word[4:] for word in command_line.split() if word.startswith("vga=")]
    if not words or words[-1] in ("normal", "ext", "ask", "current"):
        return None
    try:
        number = int(words[-1], 0)
    except ValueError:
        raise ImageError(f"command line: vga={words[-1]} is no number of a mode, such as vga=0x318") from None
    if number < LINUX_VBE:
        return None
    mode = MODES.get(number - LINUX_VBE)
    if mode is None or mode[2] == 8:
        known = ", ".join(f"{each + LINUX_VBE:#x} ({w}x{h}x{d})" for each, (w, h, d) in MODES.items() if d == 32)
        raise ImageError(f"command line: there is no mode vga={words[-1]} here: give one of {known}")
    return Video(*mode)


def describe_to_linux(page: bytearray, video: Video) -> None:
    """Put the frame buffer into the zero page's screen_info."""
    red, red_at, green, green_at, blue, blue_at, rest, rest_at = FIELDS[video.depth]
    page[0x0F] = _VLFB
    struct.pack_into("<HHHII", page, 0x12, video.width, video.height, video.depth, FRAME_BUFFER, MEMORY_SIZE >> 16)
    struct.pack_into("<H8B", page, 0x24, pitch(video), red, red_at, green, green_at, blue, blue_at, rest, rest_at)
    struct.pack_into("<HH", page, 0x32, 1, 0x9B)
