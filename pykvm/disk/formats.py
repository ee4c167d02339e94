"""Disk images that are not raw, by their magic numbers.

Sources: QEMU, docs/interop/qcow2 and qed_spec; VMware, Virtual Disk Format 1.1 (sparse extents "KDMV" and "COWD", the
descriptor file); VirtualBox, VDICore.h (u32Signature behind the 64 bytes of text); Microsoft, Virtual Hard Disk Image
Format Specification 1.0 (footer at the end, in dynamic images copied to the beginning), and MS-VHDX, 2.2.1.
"""

from __future__ import annotations

from . import SECTOR

_MAGIC = (
    ("qcow2", 0, b"QFI\xfb"),
    ("QED", 0, b"QED\0"),
    ("VMDK", 0, b"KDMV"),
    ("VMDK", 0, b"COWD"),
    ("VMDK", 0, b"# Disk DescriptorFile"),
    ("VDI", 0x40, b"\x7f\x10\xda\xbe"),
    ("VHDX", 0, b"vhdxfile"),
    ("VHD", 0, b"conectix"),
)

FORMATS = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vhd": "vpc", "vhdx": "vhdx", "vpc": "vpc"}
"""The formats of images that can be opened, and QEMU's names of them; both names of one are taken."""


def container(first: bytes, last: bytes = b"") -> str | None:
    """The name of the disk format that the `first` and the `last` 512 bytes of an image are of; None if it is raw."""
    for name, at, magic in _MAGIC:
        if first[at : at + len(magic)] == magic:
            return name
    return "VHD" if last[-SECTOR:].startswith(b"conectix") else None


def named(path: str) -> str | None:
    """The key of FORMATS that the name of an image ends with; None if it says nothing of a format."""
    suffix = path.rpartition("/")[2].rpartition(".")[2].lower()
    return suffix if suffix in FORMATS and suffix != "raw" and "." in path else None
