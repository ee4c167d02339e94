"""A VGA's register files, and what is in them for mode 3; sources as in `vga`."""

from __future__ import annotations

from ..typed import NamedTuple

# The picture is always that of mode 3: 70 pictures a second of 449 lines, whatever the registers say.
LINE_NS = 31_778
LINE_SHOWN_NS = LINE_NS * 640 // 800
LINES, LINES_SHOWN, RETRACE_LINE, RETRACE_LINES = 449, 400, 412, 2
FRAME_NS = LINES * LINE_NS

CRTC_PROTECT, CRTC_LINE_COMPARE_8 = 1 << 7, 1 << 4

# The register files as the BIOS leaves them, and which bits exist.
MISC_INITIAL = 0x67
SEQUENCER_INITIAL = bytes.fromhex("03 00 03 00 02"), bytes.fromhex("03 3D 0F 3F 0E")
CRTC_INITIAL = (
    bytes.fromhex("5F 4F 50 82 55 81 BF 1F 00 4F 0D 0E 00 00 00 00 9C 8E 8F 28 1F 96 B9 A3 FF"),
    bytes.fromhex("FF FF FF FF FF FF FF FF 7F FF 3F 7F FF FF FF FF FF FF FF FF 7F FF FF EF FF"),
)
GRAPHICS_INITIAL = bytes.fromhex("00 00 00 00 00 10 0E 00 FF"), bytes.fromhex("0F 0F 0F 1F 03 7B 0F 0F FF")
ATTRIBUTE_INITIAL = (
    bytes.fromhex("00 01 02 03 04 05 14 07 38 39 3A 3B 3C 3D 3E 3F 0C 00 0F 08 00"),
    bytes.fromhex("3F" * 16 + "EF FF 3F 0F 0F"),
)


def _ega_colour(number: int) -> bytes:
    """One of the 64 colours rgbRGB of an EGA: a capital letter gives two thirds of full, a small one a third."""
    return bytes(42 * (number >> bit & 1) + 21 * (number >> bit + 3 & 1) for bit in (2, 1, 0))


DAC_INITIAL = b"".join(map(_ega_colour, range(64))) + bytes(3 * (256 - 64))


WINDOW_BASES = (0xA0000, 0xA0000, 0xB0000, 0xB8000)
"""Where the window into video memory begins, by the graphics controller's memory map bits,"""
WINDOW_SIZES = (0x20000, 0x10000, 0x8000, 0x8000)
"""and its bytes."""

ODD_EVEN, CHAIN_4, PLANE_0, BANKED, LINEAR, TRAPPED = range(6)
"""What a byte of the window is: of planes 0 and 1 in turns; of all four in turns; of plane 0; of all memory, in banks
of 64 KiB; none, since there is a linear frame buffer; or something that logic decides, for each access."""


class Mirror(NamedTuple):
    """What the window is, at `base` of the guest's addresses; for `BANKED` and `CHAIN_4` from `at` of the memory on."""

    kind: int
    base: int
    size: int
    at: int = 0


TEXT_MIRROR = Mirror(ODD_EVEN, 0xB8000, 0x8000)

DISPI_ID, DISPI_X, DISPI_Y, DISPI_BPP, DISPI_ENABLE, DISPI_BANK, DISPI_WIDTH, DISPI_HEIGHT, DISPI_LEFT, DISPI_TOP = (
    range(10)
)
DISPI_MEMORY = 10
DISPI_PORT = 0x1CE
DISPI_ENABLED, DISPI_CAPS, DISPI_8_BIT_DAC, DISPI_LFB, DISPI_KEEP = 0x01, 0x02, 0x20, 0x40, 0x80
DISPI_NEWEST, DISPI_OLDEST = 0xB0C5, 0xB0C0
DISPI_MOST = (0, 2560, 1600, 32)
DISPI_DEPTHS = (4, 8, 15, 16, 24, 32)
MEMORY_SIZE = 16 << 20
BANK = 0x10000
FRAME_BUFFER = 0xE000_0000
"""Where the linear frame buffer is on a card without PCI, for all that Bochs's documentation says."""
FRAME_BUFFER_PCI = 0xFD00_0000
"""Where a PC's firmware puts it, usually; and here always, but for a guest that moves it."""


class Mode(NamedTuple):
    """The registers of the VGA for a mode."""

    misc: int
    sequencer: bytes
    crtc: bytes
    graphics: bytes
    attribute: bytes


EGA_PALETTE = bytes.fromhex("00 01 02 03 04 05 14 07 38 39 3A 3B 3C 3D 3E 3F")


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


def check_dispi(values: object) -> None:
    """ValueError if these cannot be the display interface's registers."""
    most = (0xFFFF, *DISPI_MOST[1:], 0xEF, MEMORY_SIZE // BANK - 1, 0x4000, 0xFFFF, 0xFFFF, 0xFFFF)
    if (
        not isinstance(values, list)
        or len(values) != len(most)
        or not all(type(value) is int and 0 <= value <= limit for value, limit in zip(values, most, strict=True))
        or (values[DISPI_ENABLE] & DISPI_ENABLED and not (values[DISPI_X] and values[DISPI_Y]))
        or values[DISPI_BPP] not in (0, *DISPI_DEPTHS)
        or (values[DISPI_ENABLE] & DISPI_ENABLED and not values[DISPI_BPP])
        or not DISPI_OLDEST <= values[DISPI_ID] <= DISPI_NEWEST
        or values[DISPI_X] * values[DISPI_Y] * 4 > MEMORY_SIZE * 2
        or (values[DISPI_WIDTH] < values[DISPI_X] and values[DISPI_ENABLE] & DISPI_ENABLED)
    ):
        raise ValueError("VGA: state field 'dispi' is not that of the display interface")


_NAMES = {
    0x3C1: "attribute", 0x3C3: "video enable", 0x3C4: "sequencer index", 0x3C5: "sequencer", 0x3C6: "PEL mask",
    0x3C8: "DAC write index", 0x3C9: "DAC data", 0x3CE: "graphics index", 0x3CF: "graphics", 0x3D4: "CRTC index",
    0x3D5: "CRTC",
}  # fmt: skip
READ_NAMES = {
    **_NAMES, 0x3C2: "input status 0", 0x3C7: "DAC state", 0x3CA: "feature control", 0x3CC: "miscellaneous output",
    0x3DA: "input status 1",
}  # fmt: skip
WRITE_NAMES = {**_NAMES, 0x3C2: "miscellaneous output", 0x3C7: "DAC read index", 0x3DA: "feature control"}
