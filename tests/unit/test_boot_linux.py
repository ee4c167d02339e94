"""Linux: setup headers made by hand, field by field, and the zero page as the kernel reads it.

Offsets are those of Documentation/arch/x86/boot.rst (setup header) and zero-page.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
from elf_writer import Name, Part, elf, patch

from pykvm.boot import EntryState, ImageError, Module, Options, firmware
from pykvm.boot.detect import load, recognise
from pykvm.memory import GuestMemory
from pykvm.x86 import paging
from pykvm.x86.mode import cpu_mode

MIB = 1 << 20
KERNEL = bytes(range(1, 251)) * 20
"""5000 bytes of what a protected-mode kernel could be."""
FIELDS = {
    "setup_sects": (0x1F1, 1),
    "syssize": (0x1F4, 4),
    "boot_flag": (0x1FE, 2),
    "jump": (0x200, 2),
    "header": (0x202, 4),
    "version": (0x206, 2),
    "type_of_loader": (0x210, 1),
    "loadflags": (0x211, 1),
    "code32_start": (0x214, 4),
    "ramdisk_image": (0x218, 4),
    "ramdisk_size": (0x21C, 4),
    "cmd_line_ptr": (0x228, 4),
    "initrd_addr_max": (0x22C, 4),
    "kernel_alignment": (0x230, 4),
    "relocatable_kernel": (0x234, 1),
    "min_alignment": (0x235, 1),
    "xloadflags": (0x236, 2),
    "cmdline_size": (0x238, 4),
    "pref_address": (0x258, 8),
    "init_size": (0x260, 4),
}
TODAY = {
    "setup_sects": 3,
    "syssize": -(-len(KERNEL) // 16),
    "boot_flag": 0xAA55,
    "jump": 0x6AEB,  # over 0x6A bytes: the header ends at 0x26C
    "header": 0x53726448,
    "version": 0x20F,
    "loadflags": 1,
    "code32_start": 0x100000,
    "initrd_addr_max": 0x7FFFFFFF,
    "kernel_alignment": 0x200000,
    "relocatable_kernel": 1,
    "min_alignment": 21,
    "xloadflags": 0b11,
    "cmdline_size": 2047,
    "pref_address": 16 * MIB,
    "init_size": 8 * MIB,
}


def bzimage(**changes: int) -> bytes:
    """A kernel of today with some fields changed; its setup part is filled with 0xCC outside the header's fields."""
    fields = TODAY | changes
    image = b"\xcc" * 0x1F1 + bytes(0x26C - 0x1F1)
    image = image.ljust(((fields["setup_sects"] or 4) + 1) * 512, b"\xcc") + KERNEL
    for name, value in fields.items():
        image = patch(image, *FIELDS[name], value)
    return image


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory("64M")
    yield ram
    ram.close()


def field(memory: GuestMemory, zero_page: int, name: str) -> int:
    at, size = FIELDS[name]
    return memory.read_int(zero_page + at, size)


def refused(image: bytes, message: str, options: Options | None = None, ram_size: str = "64M") -> None:
    ram = GuestMemory(ram_size)
    with pytest.raises(ImageError, match=message):
        load(image, ram, options or Options(), "linux")
    ram.close()


def has_boot_segments(memory: GuestMemory, state: EntryState, code: int) -> None:
    """__BOOT_CS is 0x10 and __BOOT_DS 0x18, in the registers and in the GDT; all flat."""
    system = state.system
    assert system.cs.selector == 0x10
    for segment in (system.ds, system.es, system.ss):
        assert (segment.selector, segment.base, segment.limit) == (0x18, 0, 0xFFFFFFFF)
    assert system.gdt.limit == 0x1F
    assert memory.read_int(system.gdt.base + 0x10, 8) == code
    assert memory.read_int(system.gdt.base + 0x18, 8) == 0x00CF93000000FFFF
    assert state.registers.rflags & 1 << 9 == 0


def test_64_bit_protocol(memory: GuestMemory) -> None:
    image = bzimage()
    assert recognise(image) == "linux"
    state = load(image, memory, Options(command_line="console=ttyS0"))
    assert (state.format, state.registers.rip) == ("linux", 16 * MIB + 0x200)
    assert memory.read(16 * MIB, len(KERNEL)) == KERNEL
    assert cpu_mode(state.system, state.registers.rflags).bits == 64
    has_boot_segments(memory, state, 0x00AF9B000000FFFF)
    zero_page = state.registers.rsi
    for address in (16 * MIB, 24 * MIB - 1, zero_page, field(memory, zero_page, "cmd_line_ptr"), 0xFEE00000):
        assert paging.translate(memory.read, state.system, address) == address


def test_32_bit_protocol(memory: GuestMemory) -> None:
    state = load(bzimage(xloadflags=0b10), memory, Options())
    assert state.registers.rip == 16 * MIB
    assert cpu_mode(state.system, state.registers.rflags).bits == 32
    assert (state.registers.rbp, state.registers.rdi, state.registers.rbx) == (0, 0, 0)
    has_boot_segments(memory, state, 0x00CF9B000000FFFF)


def test_zero_page(memory: GuestMemory) -> None:
    memory.write(0x10000, b"\xff" * 0x20000)
    image = bzimage()
    options = Options(command_line="a b=c", modules=[Module(b"cpio" * 3000)])
    page = load(image, memory, options).registers.rsi
    assert field(memory, page, "type_of_loader") == 0xFF
    assert field(memory, page, "code32_start") == 16 * MIB
    assert memory.read(field(memory, page, "cmd_line_ptr"), 6) == b"a b=c\0"
    initrd, size = field(memory, page, "ramdisk_image"), field(memory, page, "ramdisk_size")
    assert memory.read(initrd, size) == b"cpio" * 3000
    assert initrd == 64 * MIB - 12288  # as high as it can be, on a page
    assert memory.read_int(page + 0x70, 8) == firmware.RSDP
    # screen_info: mode 3, 80 by 25, VGA
    assert [memory.read_int(page + at, 1) for at in (0x06, 0x07, 0x0E, 0x0F)] == [3, 80, 25, 1]
    areas = [
        struct.unpack("<QQI", memory.read(page + 0x2D0 + 20 * n, 20)) for n in range(memory.read_int(page + 0x1E8, 1))
    ]
    assert (areas[0], areas[-1]) == ((0, 0x9FC00, 1), (MIB, 63 * MIB, 1))
    # All else is 0, the sentinel before the header too, and what follows the header in the file is not there.
    assert memory.read_int(page + 0x1EF, 1) == 0
    assert not any(memory.read(page + 0x26C, 0x2D0 - 0x26C))
    assert not any(memory.read(page + 0x80, 0x160))
    for name in ("setup_sects", "header", "version", "loadflags", "kernel_alignment", "init_size"):
        assert field(memory, page, name) == TODAY[name]


def test_header_is_copied_as_far_as_it_says_it_goes(memory: GuestMemory) -> None:
    image = bytearray(bzimage(jump=0x60EB))  # to 0x262
    image[0x250:0x290] = b"\xdd" * 0x40
    image[0x258:0x260] = (16 * MIB).to_bytes(8, "little")
    image[0x260:0x264] = (8 * MIB).to_bytes(4, "little")
    page = load(bytes(image), memory, Options()).registers.rsi
    assert memory.read(page + 0x260, 4) == image[0x260:0x262] + b"\0\0"
    image[0x201] = 0xFF
    page = load(bytes(image), memory, Options()).registers.rsi
    assert memory.read(page + 0x28F, 2) == b"\xdd\0"  # a header has to end at 0x290


def test_initrd_stays_below_the_kernels_limit(memory: GuestMemory) -> None:
    image = bzimage(initrd_addr_max=32 * MIB - 1)
    page = load(image, memory, Options(modules=[Module(bytes(5000))])).registers.rsi
    assert field(memory, page, "ramdisk_image") == 32 * MIB - 8192
    # The kernel needs 16..24 MiB: what is left below is all that there is.
    image = bzimage(initrd_addr_max=24 * MIB)
    page = load(image, memory, Options(modules=[Module(bytes(5000))])).registers.rsi
    assert field(memory, page, "ramdisk_image") == 16 * MIB - 8192
    refused(image, "no room for 16384 KiB of initrd", Options(modules=[Module(bytes(16 * MIB))]))


def test_initrd_of_old_kernels_has_a_limit_too() -> None:
    ram = GuestMemory("2G")
    image = bzimage(version=0x202, initrd_addr_max=0xFFFFFFFF, xloadflags=0)
    load(image, ram, Options(modules=[Module(b"cpio")]))
    assert field(ram, 0x10000, "ramdisk_image") == 0x38000000 - 4096
    ram.close()


def test_command_line_has_the_length_that_the_kernel_allows(memory: GuestMemory) -> None:
    load(bzimage(cmdline_size=100), memory, Options(command_line="x" * 100))
    refused(
        bzimage(cmdline_size=100),
        r"cmdline_size \(file offset 0x238\): .* 101 bytes, and this kernel takes 100",
        Options(command_line="x" * 101),
    )
    old = bzimage(version=0x205, cmdline_size=2047, xloadflags=0)
    load(old, memory, Options(command_line="x" * 255))
    refused(old, "cmdline_size .* 256 bytes, and this kernel takes 255", Options(command_line="x" * 256))


@pytest.mark.parametrize("version", [0x202, 0x203, 0x207, 0x209])
def test_old_images_are_entered_in_real_mode(memory: GuestMemory, version: int) -> None:
    """As boot.rst's "Memory Layout" and "Running the Kernel" have it: CS is 20h above the other segments, IP is 0."""
    options = Options(command_line="quiet", modules=[Module(b"cpio" * 2000)])
    image = bzimage(version=version, xloadflags=0, loadflags=0x01)
    state = load(image, memory, options)
    system, registers = state.system, state.registers
    assert cpu_mode(system, registers.rflags).bits == 16
    assert (system.cs.selector, system.cs.base, registers.rip) == (0x1020, 0x10200, 0)
    for segment in (system.ds, system.es, system.fs, system.gs, system.ss):
        assert (segment.selector, segment.base) == (0x1000, 0x10000)
    heap_end = memory.read_int(0x10000 + 0x224, 2) + 0x200
    assert 0x8000 < heap_end <= registers.rsp < 0x10000
    assert registers.rflags & 0x200 == 0
    setup = 4 * 512
    assert memory.read(0x10000, 0x1F1) == image[:0x1F1]
    assert memory.read(0x10000 + 0x26C, setup - 0x26C) == image[0x26C:setup]
    assert memory.read(MIB, len(KERNEL)) == KERNEL
    assert field(memory, 0x10000, "type_of_loader") == 0xFF
    assert field(memory, 0x10000, "loadflags") == 0x81
    assert field(memory, 0x10000, "code32_start") == MIB
    command_line = field(memory, 0x10000, "cmd_line_ptr")
    assert memory.read(command_line, 6) == b"quiet\0"
    initrd = field(memory, 0x10000, "ramdisk_image")
    assert field(memory, 0x10000, "ramdisk_size") == 8000
    assert memory.read(initrd, 8000) == b"cpio" * 2000
    taken = sorted([*((span.gpa, span.gpa + span.size) for span in state.spans),
                    *((gpa, gpa + size) for gpa, size in state.reserved)])  # fmt: skip
    assert all(end <= begin for (_, end), (begin, _) in pairwise(taken))


def test_setup_code_of_old_images_leaves_room_for_a_heap(memory: GuestMemory) -> None:
    image = bzimage(version=0x207, xloadflags=0, setup_sects=63)
    load(image, memory, Options())
    refused(bzimage(version=0x207, setup_sects=64), r"setup_sects \(file offset 0x1f1\): 0x8200 bytes of setup code")


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({}, 16 * MIB),
        ({"pref_address": 17 * MIB}, 18 * MIB),  # aligned to 2 MiB
        ({"pref_address": 17 * MIB, "kernel_alignment": MIB}, 17 * MIB),
        ({"relocatable_kernel": 0}, MIB),
        ({"relocatable_kernel": 0, "pref_address": MIB}, MIB),
        ({"pref_address": 0}, 2 * MIB),
    ],
)
def test_place_of_the_kernel(memory: GuestMemory, changes: dict[str, int], address: int) -> None:
    state = load(bzimage(**changes, xloadflags=0), memory, Options())
    assert state.registers.rip == address
    assert memory.read(address, len(KERNEL)) == KERNEL
    assert (state.spans[0].gpa, state.spans[0].size) == (address, len(KERNEL))


def test_memory_that_the_kernel_unpacks_into_stays_free(memory: GuestMemory) -> None:
    for changes in ({}, {"relocatable_kernel": 0}):
        modules = [Module(bytes(MIB))]
        state = load(bzimage(**changes, init_size=48 * MIB - 0x1FFFFF), memory, Options(modules=modules))
        assert all(gpa + size <= 16 * MIB or gpa >= 64 * MIB - 0x1FFFFF for gpa, size in state.reserved)


def test_setup_sects_of_0_means_4(memory: GuestMemory) -> None:
    load(bzimage(setup_sects=0), memory, Options())
    assert memory.read(16 * MIB, len(KERNEL)) == KERNEL


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boot_flag": 0}, r"boot_flag \(file offset 0x1fe\): 0x0 is not 0xaa55"),
        ({"header": 0}, r"header \(file offset 0x202\)"),
        ({"version": 0x201}, r"version \(file offset 0x206\): boot protocol 0x0201 is older than 0x0202"),
        ({"loadflags": 0}, r"loadflags \(file offset 0x211\): LOADED_HIGH"),
        ({"syssize": TODAY["syssize"] + 1}, r"syssize \(file offset 0x1f4\): the file is cut off"),
        ({"kernel_alignment": 0x300000}, r"kernel_alignment \(file offset 0x230\): 0x300000 is no power of two"),
        ({"kernel_alignment": 0}, "kernel_alignment"),
        ({"kernel_alignment": 1 << 31}, "kernel_alignment"),
        ({"init_size": 0xFFFFFFFF}, "no room for 4194304 KiB of the kernel"),
        ({"pref_address": 1 << 63}, "no room for 8192 KiB of the kernel"),
        ({"pref_address": 1 << 63, "relocatable_kernel": 0}, r"the kernel's memory \(init_size\): .* not in RAM"),
    ],
)
def test_wrong_field_is_named(changes: dict[str, int], message: str) -> None:
    refused(bzimage(**changes), message)


def test_file_that_is_cut_off() -> None:
    image = bzimage()
    refused(image[:0x260], "the file ends at 0x260, within the setup header")
    refused(image[:0x7FF], r"setup_sects \(file offset 0x1f1\): the kernel would begin at 0x800")
    # 5008 bytes by syssize, 4900 in the file
    refused(image[:-100], "syssize .* about 0x6c bytes are missing")


def test_two_initrds() -> None:
    refused(bzimage(), "Linux takes one module, its initrd: 2 were given", Options(modules=[Module(b""), Module(b"")]))


def test_ram_that_is_too_small() -> None:
    refused(
        bzimage(),
        r"no room for 8192 KiB of the kernel from 0x1000000 on \(pref_address of the kernel\) at a multiple of 0x200000 "
        "in 20480 KiB of RAM beside the image: give the machine more memory",
        ram_size="20M",
    )


def test_a_bound_that_more_memory_does_not_help_is_named() -> None:
    initrd = Options(modules=[Module(bytes(2 * MIB))])
    low = bzimage(initrd_addr_max=2 * MIB - 1)
    refused(
        low,
        r"2048 KiB of initrd from 0x100000 on below 0x200000 \(initrd_addr_max of the kernel\) .*: no machine",
        initrd,
    )
    tight = bzimage(initrd_addr_max=18 * MIB - 1, pref_address=MIB, init_size=16 * MIB)
    refused(tight, "below 0x1200000 .*: what lies there already must be smaller, or elsewhere: more memory", initrd)
    refused(bzimage(pref_address=3 << 30), "no machine has it, whose RAM below 4 GiB ends at 0xc0000000 at the latest")


# vmlinux

LINUX_NOTE = struct.pack("<III", 6, 4, 0x101) + b"Linux\0\0\0" + bytes(4)


def vmlinux(bits: int = 64) -> bytes:
    base = 0xFFFF_FFFF_8100_0000 if bits == 64 else 0xC100_0000
    parts = [Part(base, KERNEL, paddr=16 * MIB, memsz=0x8000), Part(0, LINUX_NOTE, type=4)]
    return elf(parts, 16 * MIB if bits == 64 else base, bits=bits, names=[Name("startup_64", base, 64)])


def test_vmlinux_without_pvh_note_is_entered_with_a_zero_page(memory: GuestMemory) -> None:
    assert recognise(vmlinux()) == "linux"
    options = Options(command_line="quiet", modules=[Module(b"cpio")])
    state = load(vmlinux(), memory, options)
    assert state.registers.rip == 16 * MIB
    has_boot_segments(memory, state, 0x00AF9B000000FFFF)
    page = state.registers.rsi
    assert (field(memory, page, "boot_flag"), field(memory, page, "header")) == (0xAA55, 0x53726448)
    assert field(memory, page, "type_of_loader") == 0xFF
    assert memory.read(field(memory, page, "cmd_line_ptr"), 6) == b"quiet\0"
    assert memory.read(field(memory, page, "ramdisk_image"), 4) == b"cpio"
    assert state.symbols is not None
    assert state.symbols.lookup(0xFFFF_FFFF_8100_0001) == ("startup_64", 1)


def test_vmlinux_with_pvh_note_is_entered_by_it(memory: GuestMemory) -> None:
    pvh = struct.pack("<III", 4, 8, 18) + b"Xen\0" + struct.pack("<Q", 16 * MIB + 16)
    image = elf([Part(16 * MIB, KERNEL), Part(0, LINUX_NOTE + pvh, type=4)], 16 * MIB)
    assert recognise(image) == "pvh"
    assert load(image, memory, Options(), "linux").registers.rip == 16 * MIB


def test_32_bit_vmlinux() -> None:
    refused(vmlinux(32), r"EI_CLASS .* only 64-bit ones")
