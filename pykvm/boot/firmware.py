"""What a PC's firmware leaves in the first MiB for the system that it starts: tables, and the pointers to them.

Sources: ACPI specification 6.5, 5.2.5.1 (finding the RSDP on IA-PC systems); MP specification 1.4, chapter 4 (where the
floating pointer is looked for); the BIOS data area's words 0x40E and 0x413 as on every PC since the PS/2.

| address | what |
|---|---|
| 0x40E, 0x413 | segment of the EBDA; KiB of conventional memory |
| 0x9FC00 | EBDA: its size in KiB, at 0x9FC10 the MP floating pointer |
| 0xE0000 | RSDP, and the other ACPI tables behind it |
| 0xEE000 | MP configuration table |
| 0xF0000 | SMBIOS entry points and structures, in a part of the BIOS that is empty |

A kernel that was loaded directly may go back to real mode and call the BIOS, to start other CPUs or to ask for memory
and video modes. So `leave_bios` gives it vectors, data area and ROM as after POST: a copy of what `bios.rom` assembles
and `bios.data` lays out, ready made, because few call. The tests compare them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError
from ..memory import GuestMemory
from . import acpi, mptable, smbios
from .e820 import BIOS, EBDA, EXTENDED, TABLES

RSDP = TABLES.base
MP_POINTER = EBDA.base + 0x10
MP_TABLE = TABLES.base + 0xE000
SMBIOS = BIOS.base


def rsdp(memory: GuestMemory) -> int:
    """The guest physical address of the RSDP, or 0 in a machine whose RAM has no room for tables."""
    return RSDP if memory.regions[0].size >= EXTENDED else 0


def install(memory: GuestMemory, cpus: int) -> int:
    """Write all tables for a machine with `cpus` CPUs and return `rsdp(memory)`. Without a full MiB there are none.

    ConfigError if there are more CPUs than the tables have room for.
    """
    if not rsdp(memory):
        return 0
    tables = acpi.tables(RSDP, cpus)
    if RSDP + len(tables) > MP_TABLE:
        raise ConfigError(f"{cpus} CPUs are more than the ACPI tables have room for")
    memory.write_int(0x40E, 2, EBDA.base >> 4)
    memory.write_int(0x413, 2, EBDA.base >> 10)
    memory.write_int(EBDA.base, 1, EBDA.size >> 10)
    memory.write(MP_POINTER, mptable.floating_pointer(MP_TABLE))
    memory.write(RSDP, tables)
    memory.write(MP_TABLE, mptable.configuration(cpus))
    memory.write(SMBIOS, smbios.tables(SMBIOS, cpus))
    return RSDP


_ROM = BIOS.base
_CODE = bytes.fromhex("""
    faf4ebfc66601e06be01006631c08cd066c1e004660fb7d46601d0ba04b166effa89e5807e2501720d77084e74ddfbf4faebd8fbebd2071f
    666183c402cffb6a10e9c0fffb6a11e9bafffb6a12e9b4fffb6a13e9aefffb6a14e9a8fffb6a15e9a2fffb6a16e99cfffb6a17e996fffb6a
    18e990fffb6a1ae98aff6a00e985ff6a04e980ff6a06e97bff6a07e976ff50b00be620e420a8047406b020e62058cf586a0ae95fff50b00b
    e620e420a8087406b020e62058cf586a0be948ff50b00be620e420a8107406b020e62058cf586a0ce931ff50b00be620e420a8207406b020
    e62058cf586a0de91aff50b00be620e420a8407406b020e62058cf586a0ee903ff1e6650b840008ed866ff066c0066813e6c00b000180072
    0b6631c066a36c00fe067000cd1cb020e62066581fcf50b020e620586a09e9cbfe50b00be620e420a8807406b020e62058cf58cf50b020e6
    a0e62058cf50b00ce670e47158e9ecfffa31c08ed0bc007c9c0e506a19e994fefa31c08ed0bc007c9c0e506a7fe984fefa31c08ed0bc007c
    9c0e50b011e620b008e621b004e621b001e621b0b8e621b011e6a0b070e6a1b002e6a1b001e6a1b0ffe6a1b036e643b000e640b000e6406a
    7ee940fe
""")
"""The ROM from 0xE100 on."""
_PARTS = (
    (0xE05B, bytes.fromhex("e92202")),
    (0xE100, _CODE),
    (0xE6F5, bytes.fromhex("0800fc01006400000000")),
    (0xEFC7, bytes.fromhex("df022502121bff6cf60f08")),
    (0xFF53, b"\xcf"),
    (0xFFF0, bytes.fromhex("ea70e200f0") + b"01/01/25\0\xfc\0"),
)
"""(offset, content) of what the ROM has that is not zero."""

_NOTHING = bytes.fromhex("53ff00f0")
"""The vector of an interrupt that nobody serves."""
_VECTORS = (
    (
        0x00,
        bytes.fromhex("""
    7ae100f053ff00f053ff00f053ff00f07fe100f053ff00f084e100f089e100f001e200f02ee200f08ee100f0a5e100f0bce100f0d3e100f0
    eae100f039e200f03ee100f044e100f04ae100f050e100f056e100f05ce100f062e100f068e100f06ee100f060e200f074e100f0
"""),
    ),
    (0x1D, bytes.fromhex("00000000c7ef00f000000000")),
    (0x40, bytes.fromhex("50e100f0000000003ee100f000000000")),
    (0x46, bytes(4)),
    (0x70, bytes.fromhex("55e200f04ce200f04ce200f04ce200f04ce200f04ce200f04ce200f04ce200f0")),
)
"""(first vector, content) of the others."""
_DATA = (
    (0x40E, bytes.fromhex("c09f2202007f02")),
    (0x41A, bytes.fromhex("1e001e00")),
    (0x449, bytes.fromhex("03500000100000")),
    (0x460, bytes.fromhex("0e0d00d403")),
    (0x480, bytes.fromhex("1e003e00181000 60f95108")),
    (0x496, b"\x10"),
)
"""(address, content) of what the BIOS data area has that is not zero: text mode 03h, one serial port, no drives."""
_COM_PORTS, _EQUIPMENT, _DISK_COUNT = 0x400, 0x410, 0x475


def _filled(size: int, base: int, parts: Sequence[tuple[int, bytes]], filling: bytes = b"\0") -> bytearray:
    content = bytearray(filling * (size // len(filling)))
    for at, part in parts:
        content[at - base : at - base + len(part)] = part
    return content


def leave_bios(memory: GuestMemory, com_ports: Sequence[int], disks: int) -> None:
    """Put vectors, data area and ROM into memory, for a machine with those serial ports and so many hard disks."""
    low = _filled(0x400, 0, [(4 * vector, content) for vector, content in _VECTORS], _NOTHING)
    area = _filled(0x100, 0x400, _DATA)
    for number, port in enumerate(com_ports):
        area[2 * number : 2 * number + 2] = port.to_bytes(2, "little")
    area[_EQUIPMENT - 0x400 + 1] = len(com_ports) << 1
    area[_DISK_COUNT - 0x400] = disks
    memory.write(0, low + area)
    for at, content in _PARTS:
        memory.write(_ROM + at, content)
