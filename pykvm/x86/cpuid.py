"""What CPUID answers, as a list of leaves: looking one up, overriding one, and making a list for each of several CPUs.

Sources: Intel SDM volume 2A, CPUID; volume 3A, 8.9 (topology enumeration); AMD APM volume 3, appendix E. The leaves
from 0x40000000 on belong to the hypervisor.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..data import Data

SIGNIFICANT_INDEX = 1 << 0
"""In `CpuidEntry.flags`: the leaf depends on the index in ECX (the KVM API's number for it)."""

HYPERVISOR_LEAF = 0x40000000
HYPERVISOR_PRESENT = 1 << 31
"""Leaf 1, ECX: always 0 on a CPU, 1 in a virtual machine. Without it guests do not look at the leaf above."""
_BRAND_LEAVES = (0x80000002, 0x80000003, 0x80000004)
_TOPOLOGICAL = (0x1, 0x4, 0x80000008, 0x8000001E)
"""Leaves in which the topology is something besides others; 0xB and 0x1F are nothing else."""
_AMD_VENDORS = ("AuthenticAMD", "HygonGenuine")


class CpuidEntry(Data):
    """What CPUID returns for the leaf `function` and, if `flags` says that it matters, the sub-leaf `index`."""

    function: int
    index: int = 0
    flags: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


def find(entries: list[CpuidEntry], function: int, index: int = 0) -> CpuidEntry | None:
    """The entry that answers the leaf, or None."""
    for entry in entries:
        if entry.function == function and (entry.index == index or not entry.flags & SIGNIFICANT_INDEX):
            return entry
    return None


def set_leaf(
    entries: list[CpuidEntry],
    function: int,
    index: int | None = None,
    *,
    eax: int | None = None,
    ebx: int | None = None,
    ecx: int | None = None,
    edx: int | None = None,
) -> CpuidEntry:
    """Override the registers that are given (32 bits each) in the leaf, and return its entry.

    A leaf that is not there is added, its other registers zero; it has sub-leaves if `index` is given. ValueError for a
    number that does not fit 32 bits.
    """
    entry = find(entries, function, index or 0)
    registers = {"eax": eax, "ebx": ebx, "ecx": ecx, "edx": edx}
    given = {name: value for name, value in registers.items() if value is not None}
    for name, value in {"function": function, "index": index or 0, **given}.items():
        if not 0 <= value < 1 << 32:
            raise ValueError(f"{name} {value:#x} does not fit 32 bits")
    if entry is None:
        entry = CpuidEntry(function, index or 0, 0 if index is None else SIGNIFICANT_INDEX)
        entries.append(entry)
    for name, value in given.items():
        setattr(entry, name, value)
    return entry


def for_cpu(entries: list[CpuidEntry], apic_id: int, cpus: int) -> list[CpuidEntry]:
    """The list for one of `cpus` (at least 1) CPUs: cores of one package, without hyper-threading.

    Whatever `entries` said of the host's topology is replaced; leaves that it does not have are not added, except for
    the sub-leaves of 0xB and 0x1F. Entries that say nothing of it are shared with `entries`.
    """
    width = (cpus - 1).bit_length()  # how many bits of an APIC ID number the cores of a package
    result = [
        entry.copy() if entry.function in _TOPOLOGICAL else entry
        for entry in entries
        if entry.function not in (0xB, 0x1F)
    ]
    for function in (0xB, 0x1F):
        if find(entries, function) is not None:
            result += _topology(function, apic_id, cpus, width)
    amd = vendor(entries) in _AMD_VENDORS
    for entry in result:
        match entry.function:
            case 0x1:
                count = min(1 << width, 255)
                entry.ebx = entry.ebx & 0xFFFF | count << 16 | (apic_id & 0xFF) << 24
                entry.edx = entry.edx & ~(1 << 28) | (1 << 28 if cpus > 1 else 0)  # HTT: more than one APIC ID
            case 0x4 if entry.eax & 0x1F:  # a cache: the last level is shared by all cores, the others by none
                sharing = (1 << width) - 1 if entry.eax >> 5 & 7 >= 3 else 0
                cores = min((1 << width) - 1, 0x3F)
                entry.eax = entry.eax & 0x3FFF | (sharing & 0xFFF) << 14 | cores << 26
            case 0x80000008 if amd:
                entry.ecx = entry.ecx & ~0xF0FF | min(cpus - 1, 0xFF) | min(width, 0xF) << 12
            case 0x8000001E if amd:
                entry.eax, entry.ebx, entry.ecx = apic_id, apic_id & 0xFF, 0
    return result


def _topology(function: int, apic_id: int, cpus: int, width: int) -> list[CpuidEntry]:
    """The levels thread (type 1) and core (type 2), and the one of type 0 that ends the list."""
    return [
        CpuidEntry(function, 0, SIGNIFICANT_INDEX, eax=0, ebx=1, ecx=1 << 8, edx=apic_id),
        CpuidEntry(function, 1, SIGNIFICANT_INDEX, eax=width, ebx=cpus, ecx=1 | 2 << 8, edx=apic_id),
        CpuidEntry(function, 2, SIGNIFICANT_INDEX, ecx=2, edx=apic_id),
    ]


def vendor(entries: list[CpuidEntry]) -> str:
    """The 12 letters of leaf 0, such as "GenuineIntel" or "AuthenticAMD"; empty if there is no such leaf."""
    entry = find(entries, 0)
    return "" if entry is None else _text(entry.ebx, entry.edx, entry.ecx)


def brand(entries: list[CpuidEntry]) -> str:
    """The processor's name from leaves 0x80000002 to 0x80000004; empty if it has none."""
    leaves = [find(entries, function) for function in _BRAND_LEAVES]
    words = [word for leaf in leaves if leaf is not None for word in (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx)]
    return _text(*words)


def in_virtual_machine(entries: Sequence[CpuidEntry]) -> list[CpuidEntry]:
    """The list with leaf 1 saying that there is a hypervisor, which most KVMs leave to user space to say."""
    return [entry.copy(ecx=entry.ecx | HYPERVISOR_PRESENT) if entry.function == 1 else entry for entry in entries]


def hypervisor(entries: list[CpuidEntry]) -> str:
    """The hypervisor's signature, such as "KVMKVMKVM", by which guests choose paravirtual features; empty for none."""
    entry = find(entries, HYPERVISOR_LEAF)
    return "" if entry is None else _text(entry.ebx, entry.ecx, entry.edx)


def set_hypervisor(entries: list[CpuidEntry], signature: str) -> None:
    """Put `signature`, at most 12 ASCII letters, into the hypervisor's leaf. ValueError for another."""
    letters = signature.encode("ascii")
    if len(letters) > 12:
        raise ValueError(f"the signature {signature!r} has more than 12 letters")
    ebx, ecx, edx = struct.unpack("<III", letters.ljust(12, b"\0"))
    set_leaf(entries, HYPERVISOR_LEAF, ebx=ebx, ecx=ecx, edx=edx)


def _text(*words: int) -> str:
    """What the registers spell, up to the first NUL; a byte that is no ASCII letter becomes U+FFFD."""
    letters = struct.pack(f"<{len(words)}I", *words)
    return letters.split(b"\0")[0].decode("ascii", "replace").strip()
