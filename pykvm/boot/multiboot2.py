"""Multiboot 2 kernels for i386.

Source: Multiboot specification 2.0: 3.1 (OS image format), 3.3 (i386 machine state), 3.6 (boot information format); where
the text and GRUB's multiboot2.h differ (ELF sections), the latter, since kernels are written against GRUB.

The image is an ELF file of either class, entered in 32-bit protected mode, or what the address tags describe. The
screen is EGA text, 80 by 25, whatever mode the kernel would prefer. There is no EFI here: tags about it say nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..memory import PAGE_SIZE, GuestMemory
from ..x86.symbols import SymbolTable
from . import EntryState, ImageError, Options, acpi, e820, elf, firmware
from .elf import Program
from .layout import Image, Layout, Loaded, c_string, enter_protected, place_modules, write_modules
from .multiboot import (
    EGA_BITS,
    EGA_COLUMNS,
    EGA_PITCH,
    EGA_ROWS,
    EGA_TEXT,
    EGA_TEXT_TYPE,
    LOADER_NAME,
    Sections,
    flat_program,
    place_sections,
)
from .record import Record

MAGIC = 0xE85250D6
LOADER_MAGIC = 0x36D76289
"""In EAX at the entry."""
SEARCH_LIMIT = 32768
I386 = 0
OPTIONAL = 1 << 0
"""The flag of a header tag that a loader may ignore."""

END, INFORMATION_REQUEST, ADDRESS, ENTRY_ADDRESS, CONSOLE, FRAMEBUFFER, MODULE_ALIGNMENT = range(7)
EFI_BOOT_SERVICES, EFI_ENTRY_32, EFI_ENTRY_64, RELOCATABLE = range(7, 11)
"""Header tags."""
CONSOLE_REQUIRED, CONSOLE_EGA_TEXT = 1 << 0, 1 << 1

INFO_END, INFO_COMMAND_LINE, INFO_LOADER_NAME, INFO_MODULE, INFO_MEMORY = range(5)
INFO_MEMORY_MAP, INFO_FRAMEBUFFER, INFO_ELF_SECTIONS = 6, 8, 9
INFO_RSDP_V1, INFO_RSDP_V2, INFO_LOAD_BASE = 14, 15, 21
LAST_INFO = INFO_LOAD_BASE

_HEADER = Record("IIII", "magic architecture header_length checksum")
_TAG = Record("HHI", "type flags size")
_ADDRESS = Record("8xIIII", "tag header_addr load_addr load_end_addr bss_end_addr")
_ENTRY = Record("8xI", "tag entry_addr")
_CONSOLE = Record("8xI", "tag console_flags")
_RELOCATABLE = Record("8xIIII", "tag min_addr max_addr align preference")
_SIZES = {ADDRESS: _ADDRESS.size, ENTRY_ADDRESS: _ENTRY.size, CONSOLE: _CONSOLE.size, RELOCATABLE: _RELOCATABLE.size}
