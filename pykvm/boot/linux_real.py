"""Linux's boot protocol from its beginning: images that are entered in real mode, in their setup code.

Source: Documentation/arch/x86/boot.rst ("Memory Layout", "The Real-Mode Kernel Header", "Loading The Rest of The
Kernel", "Running the Kernel"). Only from version 2.10 on does a header say how much memory the kernel takes, which
whoever enters it in 32-bit mode has to know. Older images (iPXE's .lkrn, memdisk, kernels before 2.6.31) ask the BIOS
for what they need to know, in their setup code, by which every boot loader starts them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from ..memory import GuestMemory
from ..x86 import start
from . import EntryState, ImageError, Options, Span
from .layout import Layout, c_string

INIT_SIZE_SINCE = 0x20A
"""The version that brought the fields pref_address and init_size."""

_SETUP_AT, _COMMAND_LINE_AT = 0x10000, 0x20000
"""The setup code, its heap and its stack have the 64 KiB between."""
_KERNEL_AT = 1 << 20
_CAN_USE_HEAP = 1 << 7
_UNKNOWN_LOADER = 0xFF
_SECTOR = 512


def load(image: bytes, memory: GuestMemory, options: Options, fields: Mapping[str, int], kernel_at: int) -> EntryState:
    """Load a checked bzImage whose kernel begins at `kernel_at` of the file; `fields` are those of its setup header.

    ImageError if it does not fit.
    """
    layout = Layout(memory)
    command_line = c_string(options.command_line, "command line")
    size = len(image) - kernel_at
    layout.claim(_SETUP_AT, _COMMAND_LINE_AT - _SETUP_AT, "the setup code with its heap and stack")
    layout.claim(_COMMAND_LINE_AT, len(command_line), "command line")
    layout.claim(_KERNEL_AT, size, "the kernel")
    if kernel_at > _COMMAND_LINE_AT - _SETUP_AT - 0x8000:
        raise ImageError(f"setup_sects (file offset 0x1f1): {kernel_at:#x} bytes of setup code are more than 32 KiB")
    setup = bytearray(image[:kernel_at])
    heap_end = _COMMAND_LINE_AT - _SETUP_AT - 0x200
    setup[0x210] = _UNKNOWN_LOADER
    setup[0x211] |= _CAN_USE_HEAP
    struct.pack_into("<H", setup, 0x224, heap_end - 0x200)  # heap_end_ptr counts from behind the boot sector
    struct.pack_into("<I", setup, 0x228, _COMMAND_LINE_AT)
    if options.modules:
        initrd = options.modules[0].data
        bound = "initrd_addr_max of the kernel"
        at = layout.place(
            len(initrd), "initrd", above=_KERNEL_AT, below=fields["initrd_addr_max"] + 1, high=True, bound=bound
        )
        memory.write(at, initrd)
        struct.pack_into("<II", setup, 0x218, at, len(initrd))
    memory.write(_SETUP_AT, setup)
    memory.write(_COMMAND_LINE_AT, command_line)
    with memoryview(image) as view:
        memory.write(_KERNEL_AT, view[kernel_at:])
    registers, system = start.real_mode(_SETUP_AT, _COMMAND_LINE_AT - 16)
    segment = _SETUP_AT >> 4
    for each in (system.ds, system.es, system.fs, system.gs, system.ss):
        each.selector, each.base = segment, _SETUP_AT
    system.cs.selector, system.cs.base = segment + _SECTOR // 16, _SETUP_AT + _SECTOR
    registers.rip, registers.rsp = 0, heap_end
    spans = [Span(_SETUP_AT, _SETUP_AT, kernel_at), Span(_KERNEL_AT, _KERNEL_AT, size)]
    reserved = [(_COMMAND_LINE_AT, len(command_line)), *layout.reserved]
    return EntryState(registers, system, "linux", None, reserved, spans)
