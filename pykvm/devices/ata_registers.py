"""The numbers of an ATA disk: its registers, their bits, the codes of its commands (ATA/ATAPI-6, sections 7 and 8)."""

from __future__ import annotations

# Task file: Command Block registers by their offset.
FEATURES, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE = 1, 2, 3, 4, 5, 6

# Status register.
BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01
IDLE = DRDY | DSC

# Error register. WP shares its bit with UNC: one is for writing, the other for reading.
UNC, WP, IDNF, ABRT = 0x40, 0x40, 0x10, 0x04
PASSED = 0x01
"""The diagnostic code of a healthy disk."""

DEVICE_LBA, DEVICE_OBSOLETE, DEVICE_UNIT = 0x40, 0xA0, 0x10
"""Device register: LBA instead of CHS; the two bits that always read one; which device is selected."""

# What CHECK POWER MODE answers. Sleep never answers: it has no code of its own.
POWER_ACTIVE, POWER_IDLE, POWER_STANDBY, POWER_SLEEP = 0xFF, 0x80, 0x00, 0x01

COMMAND_NAMES = {
    0x00: "NOP", 0x08: "DEVICE RESET",
    0x20: "READ SECTORS", 0x21: "READ SECTORS", 0x24: "READ SECTORS EXT", 0x25: "READ DMA EXT",
    0x27: "READ NATIVE MAX ADDRESS EXT", 0x29: "READ MULTIPLE EXT", 0x30: "WRITE SECTORS", 0x31: "WRITE SECTORS",
    0x34: "WRITE SECTORS EXT", 0x35: "WRITE DMA EXT", 0x39: "WRITE MULTIPLE EXT", 0x40: "READ VERIFY SECTORS",
    0x41: "READ VERIFY SECTORS", 0x42: "READ VERIFY SECTORS EXT", 0x70: "SEEK", 0x90: "EXECUTE DEVICE DIAGNOSTIC",
    0x91: "INITIALIZE DEVICE PARAMETERS", 0x94: "STANDBY IMMEDIATE", 0x95: "IDLE IMMEDIATE", 0x96: "STANDBY",
    0x97: "IDLE", 0x98: "CHECK POWER MODE", 0x99: "SLEEP", 0xA0: "PACKET", 0xA1: "IDENTIFY PACKET DEVICE",
    0xC4: "READ MULTIPLE", 0xC5: "WRITE MULTIPLE", 0xC6: "SET MULTIPLE MODE", 0xC8: "READ DMA", 0xCA: "WRITE DMA",
    0xE0: "STANDBY IMMEDIATE", 0xE1: "IDLE IMMEDIATE", 0xE2: "STANDBY", 0xE3: "IDLE", 0xE5: "CHECK POWER MODE",
    0xE6: "SLEEP", 0xE7: "FLUSH CACHE", 0xEA: "FLUSH CACHE EXT", 0xEC: "IDENTIFY DEVICE", 0xEF: "SET FEATURES",
    0xF8: "READ NATIVE MAX ADDRESS", **dict.fromkeys(range(0x10, 0x20), "RECALIBRATE"),
}  # fmt: skip
"""What a driver may send, by its code: not all of it is implemented."""
