"""The functions of a PC's chip set on PCI bus 0, as registers with their values after reset and their writable bits.

Intel 440FX host bridge (82441FX data sheet, section 3.2), PIIX3 ISA bridge and IDE controller (82371SB, section 2),
PIIX4 power management (82371AB, section 7.1), placed as in QEMU's PC, with the subsystem IDs by which firmware
recognises that PC. A write changes the bits that the data sheet calls writable, and nothing else: what they would do is
either done already, or has no meaning here.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...typed import NamedTuple

_SUBSYSTEM = 0x1100_1AF4
"""Subsystem and its vendor ID of all of QEMU's functions."""


class Function(NamedTuple):
    """A device's function on bus 0. `registers` gives, by offset, a double word after reset and its writable bits."""

    device: int
    function: int
    registers: Mapping[int, tuple[int, int]]


def _host_bridge(pam0: int, pam: int) -> Function:
    return Function(
        0,
        0,
        {
            0x00: (0x1237_8086, 0),
            0x04: (0x0280_0006, 0x0000_0140),  # status: medium DEVSEL; command: memory and bus mastering cannot be off
            0x08: (0x0600_0002, 0),
            0x0C: (0, 0x0000_F800),
            0x2C: (_SUBSYSTEM, 0),
            0x58: (pam0 << 8 | (pam & 0xFFFF) << 16, 0x7777_7000),
            0x5C: (pam, 0x7777_7777),
            0x70: (0x0002_0000, 0x0078_0000),  # SMRAM
        },
    )


# PAM0 to PAM6 at 0x59: all memory from 0xC0000 to 0xFFFFF is RAM here, and reads and writes go there.
HOST_BRIDGE = _host_bridge(0x30, 0x3333_3333)
"""As a BIOS leaves it: its shadow in RAM is writable."""
HOST_BRIDGE_AT_RESET = _host_bridge(0, 0)
"""For a machine with a firmware of its own, which takes what it reads here as the reason to copy itself into RAM."""

ISA_BRIDGE = Function(
    1,
    0,
    {
        0x00: (0x7000_8086, 0),
        0x04: (0x0280_0007, 0x0000_0108),
        0x08: (0x0601_0000, 0),
        0x0C: (0x0080_0000, 0),  # more than one function
        0x2C: (_SUBSYSTEM, 0),
        0x4C: (0x0003_004D, 0x01FF_007F),  # ISA recovery timers, BIOS chip selects
        0x60: (0x8080_8080, 0x8F8F_8F8F),  # PIRQA to PIRQD: not routed
        0x68: (0x0000_0200, 0x0000_FE00),  # top of memory for ISA bus masters
    },
)

IDE = Function(
    1,
    1,
    {
        0x00: (0x7010_8086, 0),
        0x04: (0x0280_0001, 0x0000_0001),
        0x08: (0x0101_0000, 0),  # both channels at their fixed ports and interrupts; no bus mastering, so no BAR
        0x2C: (_SUBSYSTEM, 0),
        0x40: (0x8000_8000, 0xF3FF_F3FF),  # timings; both channels decoded
    },
)
"""For a machine with ATA channels: firmware and systems that find PCI look for disks here, not at the ISA ports."""

POWER_MANAGEMENT = Function(
    1,
    3,
    {
        0x00: (0x7113_8086, 0),
        0x04: (0x0280_0000, 0x0000_0001),
        0x08: (0x0680_0003, 0),
        0x2C: (_SUBSYSTEM, 0),
        0x3C: (0x0000_0109, 0x0000_00FF),  # the SCI is IRQ 9
        0x40: (0x0000_0601, 0),  # base of the ACPI registers: they are at port 0x600 and stay there
        # APMC_EN: firmware takes it as a sign that system management mode has been set up, and leaves it alone.
        0x58: (0x0200_0000, 0),
        0x80: (0x0000_0001, 0),  # the ACPI registers are decoded
        0x90: (0x0000_0001, 0),  # base of the SMBus registers: none
    },
)

DISPLAY = Function(
    2,
    0,
    {
        0x00: (0x1111_1234, 0),
        0x04: (0x0280_0003, 0x0000_0003),
        0x08: (0x0300_0002, 0),
        0x10: (0xFD00_0008, 0xFF00_0000),  # 16 MiB of video memory, prefetchable
        0x2C: (_SUBSYSTEM, 0),
    },
)
"""The VGA, as Bochs's and QEMU's standard one: drivers find its frame buffer here."""

PC_FUNCTIONS = (HOST_BRIDGE, ISA_BRIDGE, POWER_MANAGEMENT)
"""Of a machine without disks."""
