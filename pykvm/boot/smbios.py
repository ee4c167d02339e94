"""The SMBIOS tables: what a guest shows when somebody asks it what machine it is.

Source: DMTF DSP0134, System Management BIOS reference specification 3.0: 5.2.1 (32-bit entry point, which says 2.8),
5.2.2 (64-bit entry point), 6.1 (structures), 7.1 (BIOS), 7.2 (system), 7.4 (chassis), 7.5 (processor), 7.45 (end of
table). There is nothing about memory: the memory map says it better.
"""

from __future__ import annotations

import struct
from functools import cache

VENDOR, PRODUCT = "pykvm", "PC"
ENTRY_32, ENTRY_64, TABLE = 0x00, 0x20, 0x40
"""Offsets in `tables`."""

_VIRTUAL_MACHINE = 1 << 4
_NO_CHARACTERISTICS = 1 << 3
_UNKNOWN, _OTHER = 2, 1


@cache
def tables(base: int, cpus: int) -> bytes:
    """Entry points and structures, to be written to `base` (a multiple of 16), for a machine with `cpus` CPUs."""
    structures = [
        _structure(0, 0, struct.pack("<BBHBBQBBBBBB", 1, 2, 0xF000, 3, 0, _NO_CHARACTERISTICS, 0, _VIRTUAL_MACHINE,
                                     0, 0, 0xFF, 0xFF), VENDOR, "1", "01/01/2025"),
        _structure(1, 0x100, struct.pack("<BBBB16sBBB", 1, 2, 0, 0, bytes(16), 6, 0, 0), VENDOR, PRODUCT),
        _structure(3, 0x300, struct.pack("<BBBBBBBBBIBBBBB", 1, _OTHER, 0, 0, 0, 3, 3, 3, _UNKNOWN, 0, 0, 0, 0, 0, 0),
                   VENDOR),
        _structure(4, 0x400, _processor(cpus), "CPU", VENDOR),
        _structure(127, 0x7F00, b""),
    ]  # fmt: skip
    table = b"".join(structures)
    at, largest = base + TABLE, max(map(len, structures))
    formatted = _with_checksum(struct.pack("<5sBHIHB", b"_DMI_", 0, len(table), at, len(structures), 0x28), 5)
    entry_32 = struct.pack("<4sBBBBHB5x", b"_SM_", 0, 31, 2, 8, largest, 0) + formatted
    entry_64 = struct.pack("<5sBBBBBBxIQ", b"_SM3_", 0, 24, 3, 0, 0, 1, len(table), at)
    parts = ((ENTRY_32, _with_checksum(entry_32, 4)), (ENTRY_64, _with_checksum(entry_64, 5)), (TABLE, table))
    content = bytearray(TABLE + len(table))
    for offset, part in parts:
        content[offset : offset + len(part)] = part
    return bytes(content)


def _structure(kind: int, handle: int, fields: bytes, *strings: str) -> bytes:
    text = b"".join(string.encode() + b"\0" for string in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(fields), handle) + fields + text + b"\0"


def _processor(cpus: int) -> bytes:
    count = min(cpus, 0xFF)
    return struct.pack(
        "<BBBBQBBHHHBBHHHBBBBBBHH", 1, 3, _UNKNOWN, 2, 0, 0, 0, 0, 0, 0, 0x41, _OTHER, 0xFFFF, 0xFFFF, 0xFFFF, 0, 0, 0,
        count, count, count, 0, _UNKNOWN,
    )  # fmt: skip


def _with_checksum(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([-sum(data) & 0xFF]) + data[at + 1 :]
