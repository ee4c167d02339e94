"""What people take for a kernel, and is none: containers, disk images, other systems' programs, text.

Run as code, such a file does something at once, and the fault seems to be the machine's. Sources of the magic numbers:
RFC 1952, 2.3.1 (gzip); RFC 8878, 3.1.1 (zstd); the formats of XZ 1.2, bzip2 and LZ4 frames 1.6; APPNOTE.TXT 4.3.7
(zip); POSIX, pax (ustar); Linux, driver-api/early-userspace/buffer-format.rst (cpio) and arch/arm64/booting.rst;
ECMA-119, 8.1 (ISO 9660); UEFI PI 1.8, volume 3, 3.2.1.1 (firmware volumes); PE Format, "MS-DOS Stub" and "Signature";
Mach-O's <mach-o/loader.h>; RFC 2083, 3.1 (PNG); System V ar(5). Disk images: `disk.formats`.
"""

from __future__ import annotations

import os

from ..disk import SECTOR
from ..disk.formats import container

CODE_SUFFIXES = frozenset((".bin", ".img", ".raw", ".com", ".rom", ".sys", ".mbr", ".flat"))
"""Names of files that hold code without a header: even if it looks like text."""
TEXT_LOOKED_AT = 64 << 10
"""Bytes."""

_UNPACK = "unpack it first, as by: {} FILE"
_MAGIC = (
    (0, b"\x1f\x8b\x08", "gzip data", _UNPACK.format("gunzip")),
    (0, b"\xfd7zXZ\0", "xz data", _UNPACK.format("unxz")),
    (0, b"\x28\xb5\x2f\xfd", "zstd data", _UNPACK.format("unzstd")),
    (0, b"\x04\x22\x4d\x18", "LZ4 data", _UNPACK.format("unlz4")),
    (0, b"\x02\x21\x4c\x18", "LZ4 data", _UNPACK.format("unlz4")),
    (4, b"1AY&SY", "bzip2 data", _UNPACK.format("bunzip2")),
    (0, b"PK\3\4", "a zip archive", "unpack it, and give the kernel or disk image that is in it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and give the kernel or disk image that is in it"),
    (257, b"ustar", "a tar archive", "unpack it, and give the kernel or disk image that is in it"),
    (0, b"!<arch>\n", "a library of object files (ar)", "link it into an executable"),
    (0, b"070701", "a cpio archive, such as Linux has for an initrd", "give the kernel, and this by --initrd"),
    (0, b"070702", "a cpio archive, such as Linux has for an initrd", "give the kernel, and this by --initrd"),
    (0x8001, b"CD001", "an ISO 9660 image (a CD) without an El Torito boot record, from which no PC can start",
     "give the kernel that is in it, and the image by --cdrom; or make one with grub-mkrescue"),
    (40, b"_FVH", "a UEFI firmware volume", "give it by --firmware"),
    (0, b"\xcf\xfa\xed\xfe", "a Mach-O file", "make an ELF file, as by: clang -target x86_64-unknown-none-elf"),
    (0, b"\xce\xfa\xed\xfe", "a Mach-O file", "make an ELF file, as by: clang -target i386-unknown-none-elf"),
    (0, b"\xca\xfe\xba\xbe", "a Mach-O file for several machines, or a Java class", "make an ELF file for x86"),
    (56, b"ARM\x64", "a Linux kernel for AArch64", "give one for x86: only that can be run"),
    (0, b"BC\xc0\xde", "LLVM bitcode", "compile it to an executable"),
    (0, b"\0asm", "WebAssembly", "compile for x86"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree", "give the kernel"),
    (0, b"\x89PNG\r\n\x1a\n", "a picture (PNG)", "give a kernel or a disk image"),
    (0, b"\xff\xd8\xff\xe0", "a picture (JPEG)", "give a kernel or a disk image"),
    (0, b"GIF8", "a picture (GIF)", "give a kernel or a disk image"),
    (0, b"%PDF-", "a PDF document", "give a kernel or a disk image"),
)  # fmt: skip
_NAMED = {
    ".iso": "a CD image", ".elf": "an ELF file", ".qcow2": "a disk image", ".vmdk": "a disk image",
    ".vdi": "a disk image", ".vhd": "a disk image", ".vhdx": "a disk image",
    ".gz": "gzip data", ".xz": "xz data", ".zst": "zstd data", ".zip": "a zip archive",
}  # fmt: skip
"""What a file is by its name: with another content it is damaged."""
_BIOS_ENTRY = b"\xea\x5b\xe0\x00\xf0"
"""jmp F000:E05B, where every BIOS since the IBM PC's has its reset vector."""
_TEXT_CONTROLS = frozenset(b"\t\n\v\f\r\x1b")


def foreign(image: bytes, file_name: str | None) -> str | None:
    """What the image is and what to do with it, in a sentence, if it is surely no flat binary; else None.

    Text is told only of files (`file_name` is not None) whose name does not say that they are code.
    """
    disk = container(image[:SECTOR], image[-SECTOR:])
    if disk is not None:
        return (
            f"it is a disk image in the format {disk}: give it by --disk {file_name or 'FILE'}; or convert it, as by: "
            f"qemu-img convert -O raw {file_name or 'FILE'} disk.img, and give that"
        )
    for at, magic, what, advice in _MAGIC:
        if image[at : at + len(magic)] == magic:
            return f"it is {what}: {advice.replace('FILE', file_name or 'FILE')}"
    if image[:2] == b"MZ":
        header = int.from_bytes(image[0x3C:0x40], "little")
        if image[header : header + 4] == b"PE\0\0":
            return (
                "it is a program for UEFI or Windows (PE): give a kernel as an ELF file, or a disk image with a boot "
                "sector"
            )
    if image[-16:-11] == _BIOS_ENTRY and len(image) % 0x10000 == 0:
        return "it is a BIOS: give it by --firmware"
    suffix = None if file_name is None else os.path.splitext(file_name)[1].lower()
    if suffix in _NAMED:
        return f"by its name it is {_NAMED[suffix]}, but not by its content: see that it is whole"
    if suffix is not None and suffix not in CODE_SUFFIXES and _is_text(image):
        return "it is text, not code: compile or assemble it, and give the executable"
    return None


def _is_text(image: bytes) -> bool:
    if image[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return len(image) % 2 == 0 and b"\0" in image[:64]
    head = image[:TEXT_LOOKED_AT]
    if any(byte < 0x20 and byte not in _TEXT_CONTROLS for byte in set(head)):
        return False
    try:
        # A character may be cut at the end of what is looked at: up to 3 of its 4 bytes are there.
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and len(image) > len(head)
    return bool(head)
