"""What a PC's firmware leaves in the first MiB for the system that it starts: tables, and the pointers to them.

Sources: ACPI specification 6.5, 5.2.5.1 (finding the RSDP on IA-PC systems); MP specification 1.4, chapter 4 (where the
floating pointer is looked for); the BIOS data area's words 0x40E and 0x413 as on every PC since the PS/2.

| address | what |
|---|---|
| 0x40E, 0x413 | segment of the EBDA; KiB of conventional memory |
| 0x9FC00 | EBDA: its size in KiB, at 0x9FC10 the MP floating pointer |
| 0xE0000 | RSDP, and the other ACPI tables behind it |
| 0xEE000 | MP configuration table |

From 0xF0000 on nothing is written: that is the BIOS's own.
"""

from __future__ import annotations

from ..errors import ConfigError
from ..memory import GuestMemory
from . import acpi, mptable
from .e820 import EBDA, EXTENDED, TABLES

RSDP = TABLES.base
MP_POINTER = EBDA.base + 0x10
MP_TABLE = TABLES.base + 0xE000


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
    return RSDP
