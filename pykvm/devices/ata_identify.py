"""What an ATA disk says of itself: the 256 words of IDENTIFY DEVICE, and the geometry of its CHS addresses.

Implements: ATA/ATAPI-6 (T13/1410D) section 8.15 (IDENTIFY DEVICE); ATA/ATAPI-5 (T13/1321D) section 6.2 and its words
1..6 and 54..58 for CHS translation, which ATA-6 leaves out and old drivers use. The disk is PIO only: the words of
DMA (49 bit 8, 62, 63, 65, 66, 88) are 0, and there is no SMART, no security, no host protected area.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_SECTORS = (1 << 48) - 1
"""Most sectors of a disk: what words 100..103 and a 48-bit address can say."""
LBA28_SECTORS = 0x0FFF_FFFF
"""Most sectors that 28-bit commands reach (words 60..61)."""
MULTIPLE_MAX = 16
"""Most sectors in a DRQ block of READ MULTIPLE and WRITE MULTIPLE (word 47)."""

MODEL = "PYKVM HARDDISK"
FIRMWARE = "1.0"


class Geometry(NamedTuple):
    """A CHS translation: `sectors` is per track; heads 1..16, sectors 1..255, cylinders 1..65,535."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def capacity(self) -> int:
        """Sectors that have a CHS address."""
        return self.cylinders * self.heads * self.sectors


def default_geometry(total: int) -> Geometry:
    """The translation after power-on for a disk of `total` sectors: at most 16,383 cylinders, 16 heads, 63 sectors."""
    sectors = min(total, 63)
    heads = min(total // sectors, 16)
    return Geometry(min(total // (sectors * heads), 16383), heads, sectors)


def translated_geometry(total: int, heads: int, sectors: int) -> Geometry | None:
    """What INITIALIZE DEVICE PARAMETERS asks for, or None if the disk does not have even one such cylinder."""
    if sectors == 0 or heads * sectors > total:
        return None
    return Geometry(min(total // (heads * sectors), 65535), heads, sectors)


class Settings(NamedTuple):
    """What a driver can change and IDENTIFY DEVICE reports; a software reset may revert it (SET FEATURES CCh)."""

    geometry: Geometry
    multiple: int = MULTIPLE_MAX
    """Sectors in a DRQ block of READ/WRITE MULTIPLE; 0 while these are disabled."""
    write_cache: bool = True
    look_ahead: bool = True

    def with_feature(self, feature: int, count: int) -> Settings | None:
        """What SET FEATURES makes of it; None for a subcommand, or a value of Sector Count, that the disk has not."""
        match feature:
            case 0x02 | 0x82:  # write cache on, off
                return self._replace(write_cache=feature == 0x02)
            case 0x03 if count in (0x00, 0x01, 0x08, 0x09, 0x0A, 0x0B, 0x0C):
                return self  # transfer mode: PIO default, PIO default without IORDY, PIO mode 0..4
            case 0xAA | 0x55:  # look-ahead on, off
                return self._replace(look_ahead=feature == 0xAA)
        return None


def identify_device(total: int, serial: str, unit: int, neighbour: bool, now: Settings) -> bytes:
    """The 512 bytes that IDENTIFY DEVICE transfers.

    `total`: sectors of the disk; `unit`: 0 for device 0, 1 for device 1; `neighbour`: the cable has both.
    """
    default = default_geometry(total)
    lba28 = min(total, LBA28_SECTORS)
    enabled = 0x4008 | now.write_cache << 5 | now.look_ahead << 6
    reset_result = 0x4B00 if unit else 0x4000 | (0x3B if neighbour else 0x4B)
    words = {
        0: 0x0040,  # an ATA disk, not removable
        1: default.cylinders,
        2: 0xC837,  # needs no SET FEATURES to spin up, and these words are complete
        3: default.heads,
        6: default.sectors,
        47: 0x8000 | MULTIPLE_MAX,
        48: 0x0001,  # 32-bit accesses to the data port work (ATA-2)
        49: 0x0A00,  # LBA, IORDY; no DMA
        50: 0x4000,
        51: 0x0200,  # PIO mode 2 for hosts that do not read word 64
        53: 0x0003,  # words 54..58 and 64..70 are valid, 88 is not
        54: now.geometry.cylinders,
        55: now.geometry.heads,
        56: now.geometry.sectors,
        57: now.geometry.capacity & 0xFFFF,
        58: now.geometry.capacity >> 16,
        59: 0x0100 | now.multiple if now.multiple else 0,
        60: lba28 & 0xFFFF,
        61: lba28 >> 16,
        64: 0x0003,  # PIO modes 3 and 4
        67: 120,  # ns in a PIO cycle: mode 4
        68: 120,
        75: 0,  # no queue
        80: 0x0078,  # ATA-3 to ATA/ATAPI-6
        81: 0x0000,  # no particular revision
        82: 0x4068,  # NOP, look-ahead, write cache, power management
        83: 0x7400,  # FLUSH CACHE EXT, FLUSH CACHE, 48-bit addresses
        84: 0x4000,
        85: enabled,
        86: 0x3400,
        87: 0x4000,
        93: reset_result,  # who answered at reset and how numbers were given (by jumper)
        106: 0x4000,  # a physical sector is a logical sector, of 512 bytes
    }
    data = bytearray(512)
    for word, value in words.items():
        data[2 * word : 2 * word + 2] = value.to_bytes(2, "little")
    data[20:40] = _string(serial, 20)
    data[46:54] = _string(FIRMWARE, 8)
    data[54:94] = _string(MODEL, 40)
    data[200:208] = total.to_bytes(8, "little")
    data[510] = 0xA5
    data[511] = -sum(data) & 0xFF
    return bytes(data)


def _string(text: str, size: int) -> bytes:
    """An ATA string: ASCII, padded with spaces, the first character of each word in its high byte."""
    padded = bytearray(text.encode("ascii", "replace")[:size].ljust(size))
    padded[0::2], padded[1::2] = padded[1::2], padded[0::2]
    return bytes(padded)
