"""Linux: bzImage by the 64-bit boot protocol, or by the 32-bit one if it has no 64-bit entry; and vmlinux.

Images of a version of the protocol before 2.10 are entered in real mode (see `linux_real`).

Sources: Documentation/arch/x86/boot.rst (the setup header, "Loading the kernel proper", "32-bit Boot Protocol", "64-bit
Boot Protocol", versions up to 2.15) and zero-page.rst of the Linux kernel; struct boot_params of its <asm/bootparam.h>.

A vmlinux has no setup header: it is entered at its ELF entry point with a zero page, as the 64-bit protocol says for
the entry at 0x200. One that has a PVH note is better entered by that (see `pvh`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..memory import GuestMemory
from ..x86 import paging, start
from ..x86.registers import Registers, SystemRegisters
from ..x86.symbols import SymbolTable
from . import EntryState, ImageError, Module, Options, Span, Video, e820, elf, firmware, linux_real
from .format import COMMAND_LINE, Format
from .layout import STACK_SIZE, Layout, c_string
from .record import Record

SETUP = 0x1F1
"""Of the setup header, in the file and in the zero page alike."""
_HEADER = Record(
    "BHIHHHHHIHIHHBBHIIIIHBBIIIBBHIIQIIQQIII",
    "setup_sects root_flags syssize ram_size vid_mode root_dev boot_flag jump header version realmode_swtch "
    "start_sys_seg kernel_version type_of_loader loadflags setup_move_size code32_start ramdisk_image ramdisk_size "
    "bootsect_kludge heap_end_ptr ext_loader_ver ext_loader_type cmd_line_ptr initrd_addr_max kernel_alignment "
    "relocatable_kernel min_alignment xloadflags cmdline_size hardware_subarch hardware_subarch_data payload_offset "
    "payload_length setup_data pref_address init_size handover_offset kernel_info_offset",
)
BOOT_FLAG, MAGIC = 0xAA55, 0x53726448
OLDEST = 0x0202
"""The first version of the protocol that lets the command line lie anywhere."""
UNKNOWN_LOADER = 0xFF
LOADED_HIGH = 1 << 0
XLF_KERNEL_64 = 1 << 0
ENTRY_64 = 0x200
LOAD_ADDRESS = 1 << 20
"""Where a bzImage goes that does not say otherwise."""

BOOT_CS, BOOT_DS = 0x10, 0x18
PAGE = 4096
HEADER_END_LIMIT = 0x290
"""The next field of the zero page begins here, so the setup header has ended."""
INITRD_LIMIT = 0x7FFFFFFF
"""initrd_addr_max of today's kernels, for a vmlinux, which cannot say."""

OLD_INITRD_LIMIT = 0x37FFFFFF
"""initrd_addr_max before it was a field."""


def is_linux(image: bytes) -> bool:
    """A bzImage by its setup header, a 64-bit vmlinux by a note that only Linux has (since 4.20)."""
    is_bzimage = image[0x1FE:0x200] == b"\x55\xaa" and image[0x202:0x206] == b"HdrS"
    return is_bzimage or (image[4:5] == b"\2" and elf.find_note(image, b"Linux") is not None)


def load(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
    """Load a Linux kernel with its command line and its initrd, the only module that it can have.

    ImageError if it is malformed or does not fit.
    """
    if len(options.modules) > 1:
        raise ImageError(f"Linux takes one module, its initrd: {len(options.modules)} were given")
    load_kernel = _load_vmlinux if image[:4] == b"\x7fELF" else _load_bzimage
    return load_kernel(image, memory, options)


def _load_bzimage(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
    if len(image) < SETUP + _HEADER.size:
        raise ImageError(f"the file ends at {len(image):#x}, within the setup header")
    fields = _HEADER.read(image, SETUP)
    kernel_at = _check(fields, len(image))
    version = fields["version"]
    for field, since in (("cmdline_size", 0x206), ("xloadflags", 0x20C)):
        if version < since:
            fields[field] = 0
    if version < 0x203:
        fields["initrd_addr_max"] = OLD_INITRD_LIMIT
    command_line = c_string(options.command_line, "command line")
    limit = fields["cmdline_size"] or 255
    if len(command_line) - 1 > limit:
        raise _HEADER.error(
            "cmdline_size", SETUP, f"the command line has {len(command_line) - 1} bytes, and this kernel takes {limit}"
        )
    if version < linux_real.INIT_SIZE_SINCE:
        return linux_real.load(image, memory, options, fields, kernel_at)
    layout = Layout(memory)
    size = len(image) - kernel_at
    address = _claim_kernel(layout, fields, size)
    page = bytearray(PAGE)
    # The header's length stands in the jump over it, the two bytes at 0x200.
    end = min(0x202 + image[0x201], HEADER_END_LIMIT, len(image))
    page[SETUP:end] = image[SETUP:end]
    struct.pack_into("<I", page, 0x214, address)
    is_64 = bool(fields["xloadflags"] & XLF_KERNEL_64)
    video = _video(page, options.command_line)
    registers, system = _enter(
        layout,
        address + ENTRY_64 if is_64 else address,
        page,
        command_line,
        options.modules,
        64 if is_64 else 32,
        fields["initrd_addr_max"],
    )
    with memoryview(image) as view:
        memory.write(address, view[kernel_at:])
    spans = [Span(address, address, size)]
    return EntryState(registers, system, "linux", None, layout.reserved, spans, video)


def _check(fields: dict[str, int], file_size: int) -> int:
    """Check what must be right for any loading, and return the file offset of the protected-mode kernel."""
    if fields["boot_flag"] != BOOT_FLAG:
        raise _HEADER.error("boot_flag", SETUP, f"{fields['boot_flag']:#x} is not {BOOT_FLAG:#x}")
    if fields["header"] != MAGIC:
        raise _HEADER.error("header", SETUP, 'the magic "HdrS" is missing: this is no Linux kernel, or an ancient one')
    if fields["version"] < OLDEST:
        raise _HEADER.error("version", SETUP, f"boot protocol {fields['version']:#06x} is older than {OLDEST:#06x}")
    if not fields["loadflags"] & LOADED_HIGH:
        raise _HEADER.error("loadflags", SETUP, "LOADED_HIGH is not set: a zImage is not supported, make a bzImage")
    # For historical reasons 0 means 4. The boot sector itself is not counted.
    kernel_at = ((fields["setup_sects"] or 4) + 1) * 512
    if kernel_at >= file_size:
        raise _HEADER.error("setup_sects", SETUP, f"the kernel would begin at {kernel_at:#x}, past the file's end")
    # Up to 2.03 the field had 16 bits only. The last unit of 16 bytes need not be full.
    if fields["version"] >= 0x204 and fields["syssize"] * 16 > file_size - kernel_at + 15:
        missing = fields["syssize"] * 16 - (file_size - kernel_at)
        raise _HEADER.error("syssize", SETUP, f"the file is cut off: about {missing:#x} bytes are missing")
    return kernel_at


def _claim_kernel(layout: Layout, fields: dict[str, int], size: int) -> int:
    """Take the memory in which the kernel unpacks itself, and return where it has to be loaded."""
    preferred = fields["pref_address"] or LOAD_ADDRESS
    init_size = fields["init_size"]
    if not fields["relocatable_kernel"]:
        # It moves itself from here to where it wants to be.
        layout.claim(LOAD_ADDRESS, size, "the kernel")
        begin, end = max(preferred, LOAD_ADDRESS + size), preferred + init_size
        if end > begin:
            layout.claim(begin, end - begin, "the kernel's memory (init_size)")
        return LOAD_ADDRESS
    align = fields["kernel_alignment"]
    if align & align - 1 or not PAGE <= align <= 1 << 30:
        raise _HEADER.error("kernel_alignment", SETUP, f"{align:#x} is no power of two between 4 KiB and 1 GiB")
    # Loaded below its preferred address it would move itself there, too.
    address = layout.find(
        max(size, init_size), "the kernel", above=preferred, align=align, bound="pref_address of the kernel"
    )
    layout.claim(address, max(size, init_size), "the kernel")
    return address


def _load_vmlinux(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
    program = elf.read(image)
    if program.bits != 64:
        raise ImageError("EI_CLASS (file offset 0x4): of the vmlinux kernels only 64-bit ones can be loaded")
    layout = Layout(memory)
    program.claim(layout)
    page = bytearray(PAGE)
    struct.pack_into("<H", page, 0x1FE, BOOT_FLAG)
    struct.pack_into("<I", page, 0x202, MAGIC)
    command_line = c_string(options.command_line, "command line")
    video = _video(page, options.command_line)
    registers, system = _enter(layout, program.entry, page, command_line, options.modules, 64, INITRD_LIMIT)
    program.write(image, memory)
    symbols = SymbolTable(image, program.bias)
    return EntryState(registers, system, "linux", symbols, layout.reserved, program.spans, video)


def _enter(
    layout: Layout,
    entry: int,
    page: bytearray,
    command_line: bytes,
    modules: Sequence[Module],
    bits: int,
    initrd_limit: int,
) -> tuple[Registers, SystemRegisters]:
    """Put the initrd, the command line and the zero page `page`, to be completed here, into memory; the entry state."""
    memory = layout.memory
    stack = layout.place(STACK_SIZE, "stack") + STACK_SIZE
    gdt = layout.place(start.GDT_SIZE + 8, "descriptor table")
    tables = layout.place(paging.identity_map_size(), "page tables") if bits == 64 else 0
    zero_page = layout.place(PAGE, "zero page")
    command_line_at = layout.place(len(command_line), "command line")
    if modules:
        initrd = modules[0].data
        bound = "initrd_addr_max of the kernel"
        at = layout.place(len(initrd), "initrd", above=LOAD_ADDRESS, below=initrd_limit + 1, high=True, bound=bound)
        memory.write(at, initrd)
        struct.pack_into("<II", page, 0x218, at, len(initrd))
    page[0x210] = UNKNOWN_LOADER
    struct.pack_into("<I", page, 0x228, command_line_at)
    _describe_machine(page, memory)
    memory.write(command_line_at, command_line)
    memory.write(zero_page, page)
    # The protocol wants code at 0x10 and data at 0x18, so the table has two null descriptors.
    memory.write(gdt, bytes(8) + start.flat_gdt(bits))
    if bits == 64:
        memory.write(tables, paging.identity_map(tables))
        registers, system = start.long_mode(entry, stack, gdt, tables)
    else:
        registers, system = start.protected_mode(entry, stack, gdt)
    system.gdt.limit += 8
    system.cs.selector = BOOT_CS
    for segment in (system.ds, system.es, system.fs, system.gs, system.ss):
        segment.selector = BOOT_DS
    registers.rsi = zero_page
    return registers, system


def _video(page: bytearray, command_line: str) -> Video | None:
    """The mode that `vga=` asks the boot loader for, told in the zero page."""
    if "vga=" not in command_line:
        return None
    from . import video

    mode = video.linux_mode(command_line)
    if mode is not None:
        video.describe_to_linux(page, mode)
    return mode


def _describe_machine(page: bytearray, memory: GuestMemory) -> None:
    """Fill in the zero page what does not come from the kernel's file: the screen, the RSDP, the memory map."""
    page[0x06], page[0x07], page[0x0E] = 3, 80, 25  # video mode, columns, lines
    page[0x0F], page[0x10] = page[0x0F] or 1, 16  # a VGA, if nobody has asked for more; lines of a character
    struct.pack_into("<Q", page, 0x70, firmware.rsdp(memory))
    areas = e820.memory_map(memory)
    page[0x1E8] = len(areas)
    for number, area in enumerate(areas):
        struct.pack_into("<QQI", page, 0x2D0 + 20 * number, *area)


FORMATS = (Format("linux", "a bzImage's setup header, or a vmlinux with Linux's note", is_linux, load, COMMAND_LINE),)
