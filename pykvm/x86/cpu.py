"""A CPU that stands still, seen from its registers and from memory: what it could read, write and execute now.

Sources: Intel SDM volume 3A, 3.3.7 (canonical addresses), 4.6 and 4.7 (access rights of pages, the page fault's error
code), 5.3 to 5.5 (limit, type and privilege checks of segments); AMD APM volume 2, 4.5, 4.12 and 5.6.

Nothing here changes anything, and nothing raises: what memory does not give is an answer like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..errors import PykvmError
from .descriptors import CODE, EXPAND_DOWN, NULL_SELECTORS, RPL, TI, WRITABLE, Descriptor, table_words
from .exceptions import GP, PF, PF_ID, PF_P, PF_RSVD, PF_U, PF_W, SS, Event
from .mode import Mode, cpu_mode
from .paging import PAGE_SIZE, PTE_NX, PTE_P, PTE_RW, PTE_US, Level, Walk, walk
from .registers import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    RFLAGS_AC,
    RFLAGS_VM,
    Registers,
    Segment,
    SystemRegisters,
    linear_pc,
)

_64 = (1 << 64) - 1
_32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Cpu:
    """`read(gpa, size)` reads guest RAM, and raises a PykvmError where there is none."""

    registers: Registers
    system: SystemRegisters
    read: Callable[[int, int], bytes]
    physical_bits: int = 52
    """MAXPHYADDR: bits of a page table entry above it are reserved."""
    mode: Mode = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", cpu_mode(self.system, self.registers.rflags))

    # Modes

    @property
    def long(self) -> bool:
        """Whether long mode is active: 64-bit or compatibility mode."""
        return bool(self.system.efer & EFER_LMA)

    @property
    def protected(self) -> bool:
        """Whether segments come from descriptor tables: all modes but real and virtual-8086 mode."""
        return bool(self.system.cr0 & CR0_PE) and (self.long or not self.registers.rflags & RFLAGS_VM)

    @property
    def cpl(self) -> int:
        """The current privilege level."""
        return self.mode.ring

    @property
    def width_mask(self) -> int:
        """The bits of a linear address."""
        return _64 if self.long else _32

    @property
    def stack_mask(self) -> int:
        """The bits of the stack pointer that count."""
        return _64 if self.mode.bits == 64 else _32 if self.system.ss.db else 0xFFFF

    # Addresses

    def canonical(self, linear: int) -> bool:
        """Whether the linear address may be used at all; always, outside long mode."""
        if not self.long:
            return True
        top = 56 if self.system.cr4 & CR4_LA57 else 47
        return linear >> top in (0, (1 << 64 - top) - 1)

    def linear(self, segment: str, offset: int) -> int:
        """The linear address of an offset in the segment named ("cs", "ss", ...)."""
        if self.mode.bits == 64:
            base = int(getattr(self.system, segment).base) if segment in ("fs", "gs") else 0
            return base + offset & _64
        base = getattr(self.system, segment).base
        return int(base) + offset & _32

    @property
    def pc(self) -> int:
        """The linear address of the next instruction."""
        return linear_pc(self.registers, self.system)

    @property
    def stack(self) -> int:
        """The linear address that the stack pointer stands for."""
        return self.linear("ss", self.registers.rsp & self.stack_mask)

    def walk(self, linear: int) -> Walk:
        """How the linear address is translated."""
        return walk(self.read, self.system, linear, self.physical_bits)

    def peek(self, linear: int, size: int) -> bytes:
        """At most `size` bytes at a linear address; fewer where the mapping, or RAM, ends."""
        data = b""
        while len(data) < size:
            at = linear + len(data) & self.width_mask
            physical = self.walk(at).physical
            part = min(size - len(data), PAGE_SIZE - at % PAGE_SIZE)
            if physical is None:
                break
            try:
                got = self.read(physical, part)
            except PykvmError:
                break
            data += got[:part]
            if len(got) < part:
                break
        return data

    def peek_int(self, linear: int, size: int) -> int | None:
        """The little-endian number there; None if not all of it can be read."""
        data = self.peek(linear, size)
        return int.from_bytes(data, "little") if len(data) == size else None

    # Access rights

    def check_page(
        self, linear: int, *, write: bool = False, fetch: bool = False, user: bool | None = None
    ) -> Event | None:
        """The page fault that an access to that one byte makes; None if it is allowed.

        `user` is whether the access has ring 3's rights: the CPU's own, to its tables, never have.
        """
        if not self.system.cr0 & CR0_PG:
            return None
        user = self.cpl == 3 if user is None else user
        found = self.walk(linear)
        code = (PF_W if write else 0) | (PF_U if user else 0)
        no_execute = bool(self.system.efer & EFER_NXE and self.system.cr4 & CR4_PAE)
        if fetch and (no_execute or self.system.cr4 & CR4_SMEP):
            code |= PF_ID
        if found.physical is None:
            last = found.levels[-1] if found.levels else None
            if last is not None and last.value & PTE_P and found.reason and "reserved" in found.reason:
                code |= PF_P | PF_RSVD
                no_nxe = last.value & PTE_NX and self.system.cr4 & CR4_PAE and not self.system.efer & EFER_NXE
                bits = "bit 63 (NX) set, which is reserved while EFER.NXE is 0" if no_nxe else "reserved bits set"
                why = f"{linear:#x}, whose {last.name} has {bits}"
            elif found.reason and "cannot be read" in found.reason:
                leads = f"its {last.name} is {last.value:#x}" if last is not None else f"CR3 is {self.system.cr3:#x}"
                why = f"{linear:#x}, whose page tables are not in RAM: {leads}"
            else:
                why = f"{linear:#x}, which is not mapped"
            return Event(PF, code, why, linear, found)
        why = self._forbidden(found, write, fetch, user)
        return Event(PF, code | PF_P, f"{linear:#x}, {why}", linear, found) if why else None

    def allows(self, found: Walk, *, write: bool = False, user: bool | None = None) -> bool:
        """Whether the rights of a page that is there allow an access; `user` as for `check_page`."""
        return not self._forbidden(found, write, False, self.cpl == 3 if user is None else user)

    def _forbidden(self, found: Walk, write: bool, fetch: bool, user: bool) -> str:
        if user and not found.user:
            return f"which is the kernel's: {refusing(found, PTE_US)}"
        if fetch and not found.executable:
            return f"which must not be executed: {refusing(found, PTE_NX)}"
        if write and not found.writable and (user or self.system.cr0 & CR0_WP):
            return f"which is read-only: {refusing(found, PTE_RW)}"
        if found.user and not user:
            if fetch and self.system.cr4 & CR4_SMEP:
                return "which is ring 3's: CR4.SMEP forbids ring 0 to execute it"
            if not fetch and self.system.cr4 & CR4_SMAP and not self.registers.rflags & RFLAGS_AC:
                return "which is ring 3's: CR4.SMAP forbids ring 0 to touch it"
        return ""

    def check_linear(
        self, linear: int, size: int, *, write: bool = False, fetch: bool = False, user: bool | None = None
    ) -> Event | None:
        """The exception that an access to `size` bytes at a linear address makes; None if it is allowed."""
        for at in (linear, linear + max(size, 1) - 1):
            if not self.canonical(at & self.width_mask):
                return Event(GP, 0, f"{at & self.width_mask:#x}, which is not a canonical address")
        first = linear & self.width_mask
        event = self.check_page(first, write=write, fetch=fetch, user=user)
        if event is None and first % PAGE_SIZE + size > PAGE_SIZE:
            second = (first // PAGE_SIZE + 1) * PAGE_SIZE & self.width_mask
            event = self.check_page(second, write=write, fetch=fetch, user=user)
        return event

    def check(self, segment: str, offset: int, size: int, *, write: bool = False) -> Event | None:
        """The exception that an access of a program to an offset in a segment makes; None if it is allowed."""
        vector = SS if segment == "ss" else GP
        if self.mode.bits != 64:
            why = self._outside(segment, getattr(self.system, segment), offset, size, write)
            if why:
                return Event(vector, 0 if self.protected else None, why)
        linear = self.linear(segment, offset)
        event = self.check_linear(linear, size, write=write)
        if event is not None and segment in ("fs", "gs") and not getattr(self.system, segment).base:
            event = replace(event, why=f"{event.why} (the base of {segment} is 0)")
        if event is not None and event.vector == GP:
            return Event(vector, 0, event.why)
        return event

    def _outside(self, name: str, segment: Segment, offset: int, size: int, write: bool) -> str:
        where = f"{name}:{offset:#x}"
        if self.protected and (segment.unusable or not segment.present):
            return f"{where}, where {name} holds the null selector"
        if self.protected:
            if segment.type & CODE:
                if write:
                    return f"{where}, a code segment, which nobody may write to"
                if name != "cs" and not segment.type & WRITABLE:
                    return f"{where}, a code segment that may not be read"
            elif write and not segment.type & WRITABLE:
                return f"{where}, a segment that is read-only"
        last = offset + size - 1
        if not segment.type & CODE and segment.type & EXPAND_DOWN and segment.s:
            top = _32 if segment.db else 0xFFFF
            return "" if segment.limit < offset and last <= top else f"{where}, which is outside the segment"
        if last > segment.limit:
            return f"{where}, which is beyond the segment's limit {segment.limit:#x}"
        return ""

    # Descriptor tables

    def selector_table(self, selector: int) -> tuple[str, int, int]:
        """The table that a selector is for: its name, its base and its limit, which is -1 if there is none."""
        if selector & TI:
            ldt = self.system.ldt
            return "LDT", ldt.base, -1 if ldt.unusable or not ldt.present else ldt.limit
        return "GDT", self.system.gdt.base, self.system.gdt.limit

    def descriptor(self, selector: int) -> Descriptor | Event:
        """The descriptor of a selector, or what goes wrong when the CPU reads it. The null selector has none."""
        if selector in NULL_SELECTORS:
            return Event(GP, 0, "the null selector")
        table, base, limit = self.selector_table(selector)
        index = selector & 0xFFF8
        if index + 7 > limit:
            has = f"whose limit is {limit:#x} and whose base is {base:#x}" if limit >= 0 else "of which there is none"
            return Event(GP, selector & ~RPL, f"{selector:#x}, which is beyond the {table}, {has}")
        event = self.check_linear(base + index, 8, user=False)
        unreadable = f"{selector:#x}, and the {table} cannot be read: its {table_words(base, limit)}"
        if event is not None:
            return replace(event, why=f"{unreadable}, and {event.predicate}")
        raw = self.peek(base + index, 8)
        if len(raw) < 8:
            return Event(GP, selector & ~RPL, f"{unreadable}, and {base + index:#x} is not in RAM")
        return Descriptor.parse(raw)


def refusing(found: Walk, bit: int) -> str:
    """Which entry of a walk takes that right (PTE_RW, PTE_US or PTE_NX) away."""
    level = refusing_level(found, bit)
    if level is None:
        return "by the page tables"
    return f"its {level.name} has {_BIT_NAMES[bit]}={int(bit == PTE_NX)}"


_BIT_NAMES = {PTE_RW: "RW", PTE_US: "US", PTE_NX: "NX"}


def refusing_level(found: Walk, bit: int) -> Level | None:
    """The first entry of a walk that takes that right away."""
    for level in found.levels:
        if bool(level.value & bit) == (bit == PTE_NX) and not (level.name == "PDPTE" and found.paging == "PAE paging"):
            return level
    return None
