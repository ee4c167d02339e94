"""What a CD-ROM drive answers: the data of its commands, as bytes, and what a saved state of it can be.

Implements: ATA/ATAPI-6 (T13/1410D) section 8.16 (IDENTIFY PACKET DEVICE); SFF-8020i 2.6, section 10.8 (INQUIRY, mode
page 2Ah, MECHANISM STATUS); MMC-4 sections 6.6 (GET CONFIGURATION), 6.7 (GET EVENT STATUS NOTIFICATION), 6.26 (READ
DISC INFORMATION), 6.31 (READ TOC/PMA/ATIP) and 5.3 (features); SPC-3 section 4.5.3 (sense data). The disc is one
session with one data track of mode 1. ValueError for a field of a packet that cannot be.
"""

from __future__ import annotations

import struct

from ..device import State
from ..disk.tray import CD_SECTOR, MAX_BLOCKS
from .ata_registers import DRQ, ERR, IDLE

MODEL, FIRMWARE, VENDOR = "PYKVM CD-ROM", "1.0", "PYKVM"
CD_BLOCKS = 80 * 60 * 75
"""The most on a CD; a larger medium is a DVD."""
LEAD_OUT = 0xAA
MEDIA_CLASS = 1 << 4
_DATA_TRACK = 0x14
_SPEED = 706
"""kB/s: four times that of sound."""
_ANSWER_MOST = 0x400


def identify(serial: str, unit: int, neighbour: bool) -> bytes:
    """The 512 bytes that IDENTIFY PACKET DEVICE transfers."""
    words = {
        0: 0x85C0,  # ATAPI, CD-ROM, removable, DRQ within 50 us of PACKET, packets of 12 bytes
        49: 0x0A00,  # LBA, IORDY; no DMA
        50: 0x4000,
        51: 0x0200,
        53: 0x0002,  # words 64..70 are valid
        64: 0x0003,  # PIO modes 3 and 4
        67: 120,
        68: 120,
        80: 0x0070,  # ATA/ATAPI-4 to -6
        82: 0x4218,  # NOP, DEVICE RESET, PACKET, power management
        83: 0x4000,
        84: 0x4000,
        85: 0x4218,
        87: 0x4000,
        93: 0x4B00 if unit else 0x4000 | (0x3B if neighbour else 0x4B),
        125: 0,  # a byte count limit of 0 is none
    }
    data = bytearray(512)
    for word, value in words.items():
        data[2 * word : 2 * word + 2] = value.to_bytes(2, "little")
    for at, size, text in ((20, 20, serial), (46, 8, FIRMWARE), (54, 40, MODEL)):
        padded = bytearray(text.encode("ascii", "replace")[:size].ljust(size))
        padded[0::2], padded[1::2] = padded[1::2], padded[0::2]
        data[at : at + size] = padded
    data[510] = 0xA5
    data[511] = -sum(data) & 0xFF
    return bytes(data)


def inquiry(packet: bytes) -> bytes:
    """The standard 36 bytes: CD-ROM, removable, ATAPI version 2."""
    if packet[1] & 1 or packet[2]:  # no vital product data
        raise ValueError
    text = VENDOR.ljust(8) + "CD-ROM".ljust(16) + FIRMWARE.ljust(4)
    return bytes((0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0)) + text.encode()


def sense_data(key: int, code: int, qualifier: int) -> bytes:
    """The 18 bytes of fixed format, for the current command."""
    return bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0))


def mode_sense(page: int, long: bool, locked: bool, has_medium: bool, is_open: bool) -> bytes:
    """Header and pages: 01h (error recovery), 2Ah (capabilities), or both (3Fh); by MODE SENSE (10) if `long`."""
    capabilities = struct.pack(">BBBxxxBxHxxxxH4x", 0x2A, 18, 0x0B, 0x29 | locked << 1, _SPEED, _SPEED)
    pages = {0x01: bytes((0x01, 6, 0, 5, 0, 0, 0, 0)), 0x2A: capabilities}
    if page != 0x3F and page not in pages:
        raise ValueError
    body = b"".join(pages.values()) if page == 0x3F else pages[page]
    medium = 0x71 if is_open else 0x01 if has_medium else 0x70
    if long:
        return struct.pack(">HB5x", len(body) + 6, medium) + body
    return bytes((len(body) + 3, medium, 0, 0)) + body


def _address(block: int, msf: bool) -> bytes:
    """Four bytes: a block's number, or minute, second and frame of its place on the disc."""
    if not msf:
        return min(block, 0xFFFFFFFF).to_bytes(4, "big")
    seconds, frame = divmod(block + 150, 75)
    return bytes((0, min(seconds // 60, 255), seconds % 60, frame))


def table_of_contents(packet: bytes, blocks: int) -> bytes:
    """Formats 0 (tracks), 1 (sessions) and 2 (all of the lead-in); the format may be where SFF-8020i has it, too."""
    msf, start = bool(packet[1] & 2), packet[6]
    match packet[2] & 0x0F or packet[9] >> 6:
        case 0 if start <= 1 or start == LEAD_OUT:
            tracks = [(1, 0)] if start <= 1 else []
            entries = b"".join(
                bytes((0, _DATA_TRACK, number, 0)) + _address(at, msf) for number, at in (*tracks, (LEAD_OUT, blocks))
            )
        case 1:
            entries = bytes((0, _DATA_TRACK, 1, 0)) + _address(0, msf)
        case 2:
            points = (
                (0xA0, bytes((1, 0, 0))),
                (0xA1, bytes((1, 0, 0))),
                (0xA2, _address(blocks, True)[1:]),
                (1, _address(0, True)[1:]),
            )
            entries = b"".join(bytes((1, _DATA_TRACK, 0, point, 0, 0, 0, 0)) + where for point, where in points)
        case _:
            raise ValueError
    return struct.pack(">HBB", len(entries) + 2, 1, 1) + entries


def configuration(packet: bytes, blocks: int) -> bytes:
    """The features from the given one on: all (RT 0), the current ones (1), or that one (2). `blocks` 0: no medium."""
    kind, first = packet[1] & 3, int.from_bytes(packet[2:4], "big")
    if kind == 3:
        raise ValueError
    is_cd, is_dvd = 0 < blocks <= CD_BLOCKS, blocks > CD_BLOCKS
    profiles = struct.pack(">HBxHBx", 0x0010, is_dvd, 0x0008, is_cd)
    features = (
        # Feature, version, whether it is always so, whether it is so now, data.
        (0x0000, 0, True, True, profiles),
        (0x0001, 1, True, True, (2).to_bytes(4, "big") + bytes((1, 0, 0, 0))),  # core: on ATAPI, with media events
        (0x0003, 0, True, True, bytes((0x29, 0, 0, 0))),  # a tray that is ejected and locked
        (0x0010, 0, False, blocks > 0, struct.pack(">IHBx", CD_SECTOR, 1, 0)),
        (0x001E, 2, False, is_cd, bytes(4)),
        (0x001F, 0, False, is_dvd, b""),
    )
    chosen = b"".join(
        struct.pack(">HBB", code, version << 2 | always << 1 | now, len(data)) + data
        for code, version, always, now, data in features
        if (code == first if kind == 2 else code >= first and (kind == 0 or now))
    )
    return struct.pack(">I2xH", len(chosen) + 4, 0x0008 if is_cd else 0x0010 if is_dvd else 0) + chosen


def no_event() -> bytes:
    """None of the classes that were asked for is supported."""
    return bytes((0, 2, 0x80, MEDIA_CLASS))


def media_event(event: int, is_open: bool, present: bool) -> bytes:
    """An event of the media class, and how things are."""
    return bytes((0, 6, 0x04, MEDIA_CLASS, event, is_open | present << 1, 0, 0))


def disc_information(packet: bytes) -> bytes:
    """A complete disc of one session with one track."""
    if packet[1] & 7:
        raise ValueError
    return struct.pack(">HBBBBBB26x", 32, 0x0E, 1, 1, 1, 1, 0x20)


def mechanism_status(is_open: bool) -> bytes:
    """No changer; the door is open or closed."""
    return bytes((0, is_open << 4, 0, 0, 0, 0, 0, 0))


_NUMBERS = {
    "open": 1, "error": 0xFF, "pending": 1, "locked": 1, "attention": 1, "event": 3, "plain": 1, "position": 0xFFFE,
    "at": MAX_BLOCKS * CD_SECTOR, "left": MAX_BLOCKS * CD_SECTOR, "limit": 0xFFFE, "blocks": MAX_BLOCKS, "status": 0xFF,
}  # fmt: skip
"""The numbers in a saved state and the largest value of each."""


def check_state(state: State, blocks: int) -> None:
    """ValueError unless `state` can be that of a drive with a medium of `blocks` blocks (0: none)."""
    for name, most in _NUMBERS.items():
        value = state.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise ValueError(f"ATAPI state field {name!r} is {value!r:.20}, not a number in 0..{most:#x}")
    for name, sizes in (
        ("current", (7, 7)),
        ("previous", (7, 7)),
        ("reading", (0, 0xFFFE)),
        ("answer", (0, _ANSWER_MOST)),
    ):
        value = state.get(name)
        if type(value) is not bytes or not sizes[0] <= len(value) <= sizes[1]:
            raise ValueError(f"ATAPI state field {name!r} is not bytes of a length that it can have")
    packet, sense = state.get("packet"), state.get("sense")
    if packet is not None and (type(packet) is not bytes or len(packet) >= 12):
        raise ValueError("ATAPI state field 'packet' is not the beginning of a packet")
    if not isinstance(sense, list) or not all(type(value) is int for value in sense):
        raise ValueError("ATAPI state field 'sense' is no list of numbers")
    if state["blocks"] != blocks:
        raise ValueError(f"the ATAPI state is of a drive with a CD of {state['blocks']} blocks, this one has {blocks}")
    reading, status = state["reading"], state["status"]
    busy = bool(reading) or packet is not None
    fits = (
        not (reading and packet is not None)
        and status in ((IDLE | DRQ,) if busy else (0, IDLE, IDLE | ERR))
        and state["position"] < max(len(reading), 1)
        and (bool(reading) or not (state["answer"] or state["left"]))
        and state["at"] + state["left"] <= max(blocks, state["at"] and 1) * CD_SECTOR
        and not (state["answer"] and state["left"])
    )
    if not fits:
        raise ValueError("the fields of this ATAPI state contradict each other")
