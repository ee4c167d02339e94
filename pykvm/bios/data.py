"""Where a PC's BIOS keeps its variables: the interrupt vectors, the BIOS data area and the extended one.

Source: IBM PC/AT Technical Reference (section 5, "BIOS data area") and its continuation for VGA and enhanced
keyboards; names as in Ralf Brown's MEMORY.LST.
"""

from __future__ import annotations

import struct

from ..memory import GuestMemory

BDA = 0x400

# Offsets are guest physical addresses.
COM_PORTS = 0x400
LPT_PORTS = 0x408
EBDA_SEGMENT = 0x40E
EQUIPMENT = 0x410
MEMORY_KIB = 0x413
SHIFT_FLAGS = 0x417
SHIFT_FLAGS_2 = 0x418
KEY_HEAD, KEY_TAIL = 0x41A, 0x41C
"""Offsets from 0x400 of the next key to take and of the next place for one: the buffer is empty if they are equal."""
KEY_BUFFER = 0x41E
KEY_BUFFER_SIZE = 32
FLOPPY_STATUS = 0x441
VIDEO_MODE, COLUMNS, PAGE_SIZE, PAGE_START = 0x449, 0x44A, 0x44C, 0x44E
CURSORS = 0x450
"""Column and row of the cursor of each of eight pages."""
CURSOR_SHAPE = 0x460
"""Last scan line, first scan line."""
ACTIVE_PAGE, CRTC_PORT = 0x462, 0x463
TICKS, MIDNIGHT = 0x46C, 0x470
RESET_FLAG = 0x472
DISK_STATUS, DISK_COUNT = 0x474, 0x475
KEY_BUFFER_START, KEY_BUFFER_END = 0x480, 0x482
ROWS_LESS_1, CHARACTER_HEIGHT = 0x484, 0x485
VIDEO_CONTROL, VIDEO_SWITCHES, VIDEO_FLAGS, DISPLAY_CODE = 0x487, 0x488, 0x489, 0x48A
KEY_FLAGS_3 = 0x496

EBDA = 0x9FC00
CONVENTIONAL_KIB = EBDA >> 10

EQUIPMENT_FLOPPY, EQUIPMENT_FPU, EQUIPMENT_MOUSE = 1 << 0, 1 << 1, 1 << 2
EQUIPMENT_DRIVES = EQUIPMENT_FLOPPY | 3 << 6
"""The bits that say how many floppy drives there are."""
TICKS_A_DAY = 0x1800B0


def write_vectors(memory: GuestMemory, vectors: list[tuple[int, int]]) -> None:
    """Fill the interrupt vector table; `vectors` are 256 times (segment, offset)."""
    memory.write(0, b"".join(struct.pack("<HH", offset, segment) for segment, offset in vectors))


def write_bda(memory: GuestMemory, com_ports: list[int], lpt_ports: list[int], floppies: int, disks: int) -> None:
    """The BIOS data area as POST leaves it, and the extended one's first byte, its size in KiB."""
    area = bytearray(0x100)

    def put(address: int, size: int, value: int) -> None:
        area[address - BDA : address - BDA + size] = value.to_bytes(size, "little")

    for number, port in enumerate(com_ports[:4]):
        put(COM_PORTS + 2 * number, 2, port)
    for number, port in enumerate(lpt_ports):
        put(LPT_PORTS + 2 * number, 2, port)
    put(EBDA_SEGMENT, 2, EBDA >> 4)
    put(EQUIPMENT, 2, EQUIPMENT_FPU | min(len(com_ports), 4) << 9 | len(lpt_ports) << 14)
    put(MEMORY_KIB, 2, CONVENTIONAL_KIB)
    buffer = KEY_BUFFER - BDA
    for at, value in (
        (KEY_HEAD, buffer),
        (KEY_TAIL, buffer),
        (KEY_BUFFER_START, buffer),
        (KEY_BUFFER_END, buffer + KEY_BUFFER_SIZE),
    ):
        put(at, 2, value)
    put(KEY_FLAGS_3, 1, 0x10)  # an enhanced keyboard
    memory.write(BDA, area)
    memory.write_int(EBDA, 1, 1)
    write_drives(memory, floppies, disks)


def write_drives(memory: GuestMemory, floppies: int, disks: int) -> None:
    """How many floppy drives and hard disks there are."""
    equipment = memory.read_int(EQUIPMENT, 2) & ~EQUIPMENT_DRIVES
    if floppies:
        equipment |= EQUIPMENT_FLOPPY | min(floppies - 1, 3) << 6
    memory.write_int(EQUIPMENT, 2, equipment)
    memory.write_int(DISK_COUNT, 1, disks)
