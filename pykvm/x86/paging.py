"""Page tables: an identity map to start a guest on, and a walker that shows every step of a translation.

Sources: Intel SDM volume 3A, chapter 4 (sections 4.3 32-bit paging, 4.4 PAE, 4.5 4-level and 5-level paging, 4.6 access
rights); AMD APM volume 2, chapter 5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

from ..data import Data, field
from ..errors import PykvmError
from ..typed import NamedTuple
from .registers import CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA, EFER_NXE, SystemRegisters

PAGE_SIZE = 4096
PTE_P, PTE_RW, PTE_US, PTE_PWT, PTE_PCD, PTE_A, PTE_D, PTE_PS, PTE_G = (1 << bit for bit in range(9))
PTE_NX = 1 << 63

GIB = 1 << 30
IDENTITY_TOP = 4 * GIB
"""What `identity_map` covers unless told otherwise: all of RAM below 4 GiB and the chips above it."""

_FLAGS = ("P", "RW", "US", "PWT", "PCD", "A", "D", "PS", "G")


def identity_map_size(top: int = IDENTITY_TOP) -> int:
    """Bytes of page tables that `identity_map` makes: one PML4, one PDPT, and a page directory a GiB."""
    return PAGE_SIZE * (2 + -(-top // GIB))


def identity_map(base: int, top: int = IDENTITY_TOP) -> bytes:
    """4-level page tables that map linear 0..`top` to itself, supervisor, writable and executable.

    They are to be written to the page-aligned guest physical `base`, which is then also the CR3 for them. The pages are
    2 MiB large, because not every CPU has larger ones; `top` is rounded up to a GiB and at most 512 GiB.
    """
    directories = -(-top // GIB)
    if base % PAGE_SIZE or not 1 <= directories <= 512:
        raise ValueError(f"no identity map of {top:#x} bytes at {base:#x}")
    first = base + 2 * PAGE_SIZE
    pml4 = struct.pack("<Q", base + PAGE_SIZE | PTE_P | PTE_RW).ljust(PAGE_SIZE, b"\0")
    pdpt = b"".join(
        struct.pack("<Q", first + PAGE_SIZE * number | PTE_P | PTE_RW) for number in range(directories)
    ).ljust(PAGE_SIZE, b"\0")
    return b"".join([pml4, pdpt, *map(_directory, range(directories))])


@cache
def _directory(gib: int) -> bytes:
    """The page directory that maps the GiB number `gib` to itself. It does not depend on where it lies."""
    flags = PTE_P | PTE_RW | PTE_PS
    return struct.pack("<512Q", *range(gib * GIB | flags, (gib + 1) * GIB | flags, GIB // 512))


class Level(NamedTuple):
    """One entry that a walk went through: `name` as in the SDM, guest physical `address` of the entry, its `value`."""

    name: str
    address: int
    value: int

    @property
    def flags(self) -> str:
        """The bits that are set, under the manuals' names; bits 6 to 8 have a meaning only where a page is mapped."""
        names = [name for bit, name in enumerate(_FLAGS) if self.value >> bit & 1]
        if self.value & PTE_NX:
            names.append("NX")
        return " ".join(names)


class Walk(Data):
    """How the CPU translates `linear`. Either `physical` is set, or `reason` says why there is no page.

    `writable`, `user` and `executable` are what all levels together allow (SDM 4.6), before CR0.WP, SMEP and SMAP.
    `page_size` is in bytes, None without paging.
    """

    linear: int
    paging: str
    levels: list[Level] = field(default_factory=list)
    physical: int | None = None
    page_size: int | None = None
    writable: bool = True
    user: bool = True
    executable: bool = True
    reason: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.linear:#x} ({self.paging})"]
        lines += [f"  {level.name} at {level.address:#x}: {level.value:#x} {level.flags}" for level in self.levels]
        if self.reason is not None:
            lines.append(f"  no page: {self.reason}")
        elif self.physical is not None:
            size = ""
            if self.page_size is not None:
                size = f", {self.page_size >> 20} MiB page" if self.page_size >> 20 else ", 4 KiB page"
            lines.append(f"  -> {self.physical:#x}{size}")
        return "\n".join(lines)


class TableLevel(NamedTuple):
    """One level of a paging structure: `width` bits of the linear address from `shift` on select the entry."""

    name: str
    shift: int
    width: int
    leaf: bool
    """Whether PS=1 ends the walk here (in the last level every entry does)."""


class Structure(NamedTuple):
    """The levels of one paging mode, from the top down."""

    words: str
    levels: tuple[TableLevel, ...]
    entry_size: int
    root_mask: int


_PT, _PD = TableLevel("PTE", 12, 9, False), TableLevel("PDE", 21, 9, True)
_PDPT = TableLevel("PDPTE", 30, 9, True)
_PML4, _PML5 = TableLevel("PML4E", 39, 9, False), TableLevel("PML5E", 48, 9, False)
PAGE_MASK = ~0xFFF & (1 << 52) - 1

_LEVEL_5 = Structure("5-level paging", (_PML5, _PML4, _PDPT, _PD, _PT), 8, PAGE_MASK)
_LEVEL_4 = Structure("4-level paging", (_PML4, _PDPT, _PD, _PT), 8, PAGE_MASK)
PAE = Structure("PAE paging", (TableLevel("PDPTE", 30, 2, False), _PD, _PT), 8, 0xFFFFFFE0)
_PTE_32 = TableLevel("PTE", 12, 10, False)
_PSE_32 = Structure("32-bit paging", (TableLevel("PDE", 22, 10, True), _PTE_32), 4, 0xFFFFF000)
_PLAIN_32 = Structure("32-bit paging", (TableLevel("PDE", 22, 10, False), _PTE_32), 4, 0xFFFFF000)


def structure_of(system: SystemRegisters) -> Structure | None:
    """The paging structure in use; None without paging."""
    if not system.cr0 & CR0_PG:
        return None
    if not system.cr4 & CR4_PAE:
        return _PSE_32 if system.cr4 & CR4_PSE else _PLAIN_32
    if not system.efer & EFER_LMA:
        return PAE
    return _LEVEL_5 if system.cr4 & CR4_LA57 else _LEVEL_4


def paging_mode(system: SystemRegisters) -> str:
    """ "no paging", "32-bit paging", "PAE paging", "4-level paging" or "5-level paging" (SDM 4.1.1)."""
    structure = structure_of(system)
    return "no paging" if structure is None else structure.words


def walk(read: Callable[[int, int], bytes], system: SystemRegisters, linear: int, physical_bits: int = 52) -> Walk:
    """Translate `linear` as the CPU would, keeping every entry on the way.

    `read(gpa, size)` reads guest RAM and raises a PykvmError where there is none: a table there is a reason for the
    walk to end, as is any other corruption. `physical_bits` is the CPU's MAXPHYADDR: entry bits above it are reserved.
    Under PAE the PDPTE comes from memory, while a CPU uses the copy that it took when CR3 was loaded.
    """
    structure = structure_of(system)
    if structure is None:
        linear &= 0xFFFFFFFF
        return Walk(linear, "no paging", physical=linear)
    linear &= (1 << 64) - 1 if system.efer & EFER_LMA else 0xFFFFFFFF
    result = Walk(linear, structure.words)
    if system.efer & EFER_LMA:
        top = structure.levels[0].shift + structure.levels[0].width - 1
        if linear >> top not in (0, (1 << 64 - top) - 1):
            result.reason = f"the address is not canonical (bits 63 to {top} differ)"
            return result
    no_execute = bool(system.efer & EFER_NXE) and structure.entry_size == 8
    table = system.cr3 & structure.root_mask
    size = structure.entry_size
    for level in structure.levels:
        address = table + size * (linear >> level.shift & (1 << level.width) - 1)
        try:
            data = read(address, size)
        except PykvmError as error:
            result.reason = f"the {level.name} at {address:#x} cannot be read: {error}"
            return result
        value = int.from_bytes(data[:size], "little")
        result.levels.append(Level(level.name, address, value))
        if len(data) != size:
            result.reason = f"the {level.name} at {address:#x} cannot be read: only {len(data)} bytes of it are there"
            return result
        if not value & PTE_P:
            result.reason = f"the {level.name} at {address:#x} is not present"
            return result
        last = level is structure.levels[-1] or bool(level.leaf and value & PTE_PS)
        reserved = value & reserved_bits(structure, level, last, no_execute, physical_bits)
        if reserved:
            result.reason = f"the {level.name} at {address:#x} has reserved bits set ({reserved:#x})"
            return result
        if structure is not PAE or level is not PAE.levels[0]:  # a PAE PDPTE has no access rights
            result.writable = result.writable and bool(value & PTE_RW)
            result.user = result.user and bool(value & PTE_US)
            result.executable = result.executable and not (no_execute and value & PTE_NX)
        if last:
            result.page_size = 1 << level.shift
            result.physical = page_frame(structure, level, value) | linear & result.page_size - 1
            return result
        table = value & PAGE_MASK
    raise AssertionError("the last level always ends the walk")


def page_frame(structure: Structure, level: TableLevel, entry: int) -> int:
    """The physical address of the page that an entry of this level maps (SDM volume 3A, 4.3 to 4.5)."""
    frame = entry & PAGE_MASK & -(1 << level.shift)
    if structure.entry_size == 4 and level.shift == 22:  # PSE-36: bits 20:13 are the address's bits 39:32
        frame |= (entry >> 13 & 0xFF) << 32
    return frame


def reserved_bits(structure: Structure, level: TableLevel, last: bool, no_execute: bool, physical_bits: int) -> int:
    """The bits that must be zero in an entry of this kind (SDM volume 3A, 4.3 to 4.5)."""
    if structure.entry_size == 4:
        return 1 << 21 if last and level.shift == 22 else 0
    high = (1 << 52) - (1 << physical_bits)
    if structure is PAE:
        if level is PAE.levels[0]:
            return high | (1 << 64) - (1 << 52) | 0x1E6
        high |= (1 << 63) - (1 << 52)
    if not no_execute:
        high |= PTE_NX
    if last and level.shift > 12:
        return high | (1 << level.shift) - (1 << 13)
    if level.shift >= 39:
        return high | PTE_PS
    return high


def translate(read: Callable[[int, int], bytes], system: SystemRegisters, linear: int) -> int | None:
    """The guest physical address behind `linear`, or None where nothing is mapped. `read` as for `walk`."""
    return walk(read, system, linear).physical
