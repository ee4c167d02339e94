"""PCI configuration space, reached by mechanism 1, with the chip set of a PC on bus 0 and no cards.

Implements: PCI Local Bus Specification 3.0, sections 3.2.2.3.2 (configuration mechanism 1) and 6.1 (header type 0).
Functions: Intel 440FX host bridge (82441FX data sheet, section 3.2), PIIX3 ISA bridge and IDE controller (82371SB,
section 2), PIIX4 power management (82371AB, section 7.1), placed as in QEMU's PC, with the subsystem IDs by which
firmware recognises that PC. A write changes the bits that the data sheet calls writable, and nothing else: what they
would do is either done already, or has no meaning here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..device import Device, Range, State
from ..typed import NamedTuple

CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC
ENABLE = 1 << 31
ADDRESS_MASK = 0x80FF_FFFC
"""The bits of CONFIG_ADDRESS that exist: enable, bus (8), device (5), function (3), register (6); the rest read 0."""

_ALL_ONES = 0xFFFF_FFFF
_DWORDS = 64
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

_DISPLAY = DISPLAY.device << 11 | DISPLAY.function << 8

PC_FUNCTIONS = (HOST_BRIDGE, ISA_BRIDGE, POWER_MANAGEMENT)
"""Of a machine without disks."""


class PciHost(Device):
    """The configuration ports and the configuration space of `functions`; an empty place reads all ones.

    Port 0xCF9, in the middle of CONFIG_ADDRESS, is left to the reset control register.
    """

    name = "PCI host"
    moved_by_host = False
    ports = (Range(CONFIG_ADDRESS, 1), Range(CONFIG_ADDRESS + 2, 6))
    width = 4

    def __init__(
        self, functions: Sequence[Function] = PC_FUNCTIONS, moved: Callable[[Sequence[int]], None] | None = None
    ) -> None:
        """`moved` is called with `DISPLAY`'s double words when they may have changed."""
        self._moved = moved
        self._functions = {function.device << 11 | function.function << 8: function for function in functions}
        self._masks = {
            place: [function.registers.get(4 * at, (0, 0))[1] for at in range(_DWORDS)]
            for place, function in self._functions.items()
        }
        self.reset()

    def reset(self) -> None:
        self._address = 0
        self._spaces = {
            place: [function.registers.get(4 * at, (0, 0))[0] for at in range(_DWORDS)]
            for place, function in self._functions.items()
        }
        self._tell()

    def read(self, offset: int, size: int) -> int:
        if offset >= 4:
            value = _ALL_ONES
            address = self._address
            if address & ENABLE:
                space = self._spaces.get(address & 0x00FF_FF00)
                if space is not None:
                    value = space[address >> 2 & 0x3F]
            # What reaches past the fourth byte meets no port of this device.
            return (value | _ALL_ONES << 32) >> 8 * (offset - 4) & (1 << 8 * size) - 1
        # Only an access of four bytes is to CONFIG_ADDRESS: others pass it by.
        return self._address if size == 4 and offset == 0 else (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= 4:
            address = self._address
            place = address & 0x00FF_FF00
            space = self._spaces.get(place)
            if address & ENABLE and space is not None:
                at = address >> 2 & 0x3F
                shift = 8 * (offset - 4)
                lanes = ((1 << 8 * size) - 1) << shift & self._masks[place][at]
                space[at] = space[at] & ~lanes | value << shift & lanes
                if place == _DISPLAY:
                    self._tell()
        elif size == 4 and offset == 0:
            self._address = value & ADDRESS_MASK

    def _tell(self) -> None:
        if self._moved is not None and _DISPLAY in self._spaces:
            self._moved(self._spaces[_DISPLAY])

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        if offset < 4:
            return "CONFIG_ADDRESS"
        return f"CONFIG_DATA {_place(self._address | offset - 4)}"

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return _place(value) if register == "CONFIG_ADDRESS" and value & ENABLE else ""

    def save(self) -> State:
        return {"address": self._address, "spaces": [list(space) for space in self._spaces.values()]}

    def restore(self, state: State) -> None:
        address, saved = state.get("address"), state.get("spaces")
        if type(address) is not int or address < 0 or address & ~ADDRESS_MASK:
            raise ValueError(f"{self.name}: state field 'address' is {address!r}, not a configuration address")
        if isinstance(saved, list) and len(saved) == len(self._spaces) - 1 and _DISPLAY in self._spaces:
            function = self._functions[_DISPLAY]  # a snapshot from before there was one
            saved = [*saved, [function.registers.get(4 * at, (0, 0))[0] for at in range(_DWORDS)]]
        if not isinstance(saved, list) or len(saved) != len(self._spaces):
            raise ValueError(f"{self.name}: state field 'spaces' is not that of {len(self._spaces)} functions")
        for place, space in zip(self._functions, saved, strict=True):
            registers = self._functions[place].registers
            if not isinstance(space, list) or len(space) != _DWORDS:
                raise ValueError(f"{self.name}: the space of {place:#x} is not a list of {_DWORDS} double words")
            for at, value in enumerate(space):
                initial, mask = registers.get(4 * at, (0, 0))
                if type(value) is not int or (value ^ initial) & ~mask:
                    raise ValueError(f"{self.name}: the function {place:#x} cannot have {value!r} at {4 * at:#x}")
        self._address = address
        self._spaces = {place: list(space) for place, space in zip(self._functions, saved, strict=True)}
        self._tell()


def _place(address: int) -> str:
    """What a configuration address names, in the usual words: bus:device.function, and the register."""
    return f"{address >> 16 & 0xFF:02x}:{address >> 11 & 0x1F:02x}.{address >> 8 & 7} {address & 0xFF:#04x}"
