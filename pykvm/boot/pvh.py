"""PVH kernels: the x86/HVM direct boot ABI of Xen, which QEMU, Firecracker and others speak, too.

Source: Xen, docs/misc/pvh.pandoc; its public headers arch-x86/hvm/start_info.h (version 1 of the structure) and
elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY). A kernel says by that note where it wants to be entered, in 32-bit protected mode
whatever its ELF class; Linux's vmlinux does if it was configured with CONFIG_PVH.
"""

from __future__ import annotations

import struct

from ..memory import GuestMemory
from ..x86.symbols import SymbolTable
from . import EntryState, ImageError, Options, e820, elf, firmware
from .format import COMMAND_LINE, Format
from .layout import Block, Layout, Loaded, c_string, enter_protected, place_modules, write_modules

NOTE_NAME, PHYS32_ENTRY = b"Xen", 18
START_MAGIC = 0x336EC578
VERSION = 1

_TSS_LIMIT = 0x67
"""The ABI promises a TSS of this limit at address 0, which nobody uses."""


def is_pvh(image: bytes) -> bool:
    return elf.find_note(image, NOTE_NAME, PHYS32_ENTRY) is not None


def load(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
    """Load an ELF file by its PVH note, with modules and command line; ImageError if it is malformed or too large."""
    program = elf.read(image)
    note = elf.find_note(image, NOTE_NAME, PHYS32_ENTRY)
    if note is None:
        raise ImageError('p_type: no PT_NOTE has a note of type 18 (PHYS32_ENTRY) of "Xen": this is no PVH kernel')
    if note.size not in (4, 8):
        raise ImageError(f"PHYS32_ENTRY (file offset {note.offset:#x}): its size {note.size} is neither 4 nor 8")
    address = int.from_bytes(image[note.offset : note.offset + note.size], "little")
    entry = address + program.bias
    if not any(segment.paddr <= entry < segment.paddr + segment.memsz for segment in program.segments):
        raise ImageError(f"PHYS32_ENTRY (file offset {note.offset:#x}): {address:#x} is in no segment that is loaded")
    layout = Layout(memory)
    program.claim(layout)
    modules = place_modules(layout, options.modules)
    command_line = c_string(options.command_line, "command line")
    base = layout.place(len(_start_info(0, memory, command_line, modules)), "start information")
    registers, system = enter_protected(layout, entry)
    registers.rbx = base
    system.tr.limit = _TSS_LIMIT
    program.write(image, memory)
    write_modules(layout, modules)
    memory.write(base, _start_info(base, memory, command_line, modules))
    symbols = SymbolTable(image, program.bias)
    return EntryState(registers, system, "pvh", symbols, layout.reserved, program.spans)


def _start_info(base: int, memory: GuestMemory, command_line: bytes, modules: list[Loaded]) -> bytes:
    """hvm_start_info, to be written to `base`, with all that it points to behind it."""
    block = Block(base)
    header = struct.Struct("<IIIIQQQQI4x")
    block.add(bytes(header.size))
    module_list = b"".join(
        struct.pack("<QQQ8x", module.gpa, len(module.data), block.add(module.command_line)) for module in modules
    )
    areas = e820.memory_map(memory)
    memory_map = b"".join(struct.pack("<QQI4x", *area) for area in areas)
    addresses = [block.add(module_list) if modules else 0, block.add(command_line)]
    addresses += [firmware.rsdp(memory), block.add(memory_map)]
    header.pack_into(block.data, 0, START_MAGIC, VERSION, 0, len(modules), *addresses, len(areas))
    return bytes(block.data)


FORMATS = (Format("pvh", 'an ELF note "Xen" of type 18', is_pvh, load, COMMAND_LINE),)
