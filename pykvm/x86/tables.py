"""Whole tables for people to look at: every entry of a GDT, LDT or IDT with what is wrong with it, and the TSS.

Sources: Intel SDM volume 3A, 3.4.5 (segment descriptors), 3.5 and table 3-2 (system descriptors), 5.8.3 (call gates),
6.11 and 6.14.1 (the IDT), 7.2 (32-bit TSS and its descriptor), 7.6 (16-bit TSS), 7.7 (64-bit TSS), 20.1.4 (real mode's
interrupt vectors); AMD APM volume 2, 4.7, 4.8 and 12.2.

Any bytes decode to something: what the CPU would refuse is told by `problem`, never raised. Whoever reads a table gives
a function `read(address, size)` for linear addresses, which returns fewer bytes, or none, where the mapping ends.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .descriptors import Descriptor as Fields
from .registers import Table

ReadLinear = Callable[[int, int], bytes]

VECTORS = 256
IO_MAP_BYTES = 0x2000
"""Of a TSS's I/O permission bitmap: one bit a port."""
ENTRY = 8
"""Bytes of a descriptor; system descriptors take two of them in long mode."""

_CODE = ("execute-only", "execute-only, accessed", "execute/read", "execute/read, accessed")
_DATA = ("read-only", "read-only, accessed", "read/write", "read/write, accessed")

_LDT = 2
_TSS = {1: (16, False), 3: (16, True), 9: (32, False), 11: (32, True)}
"""Type to (bits, busy)."""
_GATES = {
    4: ("call", 16), 5: ("task", 16), 6: ("interrupt", 16), 7: ("trap", 16),
    12: ("call", 32), 14: ("interrupt", 32), 15: ("trap", 32),
}  # fmt: skip
_LONG_TYPES = (2, 9, 11, 12, 14, 15)
"""The system types that are left in long mode; they have 64 bits there."""


@dataclass(frozen=True, slots=True)
class SegmentDescriptor:
    """A code or data segment. `limit` is the last valid offset in bytes (the granularity is already applied).

    `type` has the descriptor's 4 bits, `dpl` is 0..3; the others are the descriptor's bits of that name.
    """

    base: int
    limit: int
    type: int
    dpl: int
    present: bool
    avl: bool
    l: bool  # noqa: E741  # the manuals' name
    db: bool
    g: bool

    @property
    def is_code(self) -> bool:
        """Whether code may run in it."""
        return bool(self.type & 8)

    @property
    def bits(self) -> int:
        """16, 32 or 64: the default size of code, or of a stack's pointer."""
        return 64 if self.l and self.is_code else 32 if self.db else 16

    @property
    def problem(self) -> str | None:
        """Why the CPU does not load it, in words."""
        if not self.present:
            return "not present"
        if self.is_code and self.l and self.db:
            return "L and D are both set"
        return None

    def __str__(self) -> str:
        if self.is_code:
            words = f"{self.bits}-bit code, {_CODE[self.type & 3]}{', conforming' if self.type & 4 else ''}"
        else:
            words = f"{self.bits}-bit data, {_DATA[self.type & 3]}{', expand-down' if self.type & 4 else ''}"
        return f"{words}, DPL {self.dpl}, base {self.base:#x}, limit {self.limit:#x}"


@dataclass(frozen=True, slots=True)
class SystemSegment:
    """The descriptor of an LDT or a TSS. `bits` is 16, 32 or 64; `busy` counts for a TSS only. Limit as above."""

    kind: str
    """ "LDT" or "TSS"."""
    bits: int
    busy: bool
    base: int
    limit: int
    dpl: int
    present: bool
    reserved: int = 0
    """The bits that must be zero in the upper half of a 64-bit one, and are not."""

    @property
    def problem(self) -> str | None:
        """Why the CPU does not load it, in words."""
        if not self.present:
            return "not present"
        if self.reserved:
            return f"reserved bits set ({self.reserved:#x})"
        if self.bits == 64 and not is_canonical(self.base):
            return "the base is not canonical"
        needed = 0 if self.kind == "LDT" else _TSS_SIZES[self.bits] - 1
        return f"the limit is less than {needed:#x}" if self.limit < needed else None

    def __str__(self) -> str:
        state = "" if self.kind == "LDT" else ", busy" if self.busy else ", available"
        name = self.kind if self.kind == "LDT" and self.bits != 64 else f"{self.bits}-bit {self.kind}"
        return f"{name}{state}, DPL {self.dpl}, base {self.base:#x}, limit {self.limit:#x}"


@dataclass(frozen=True, slots=True)
class Gate:
    """A call, task, interrupt or trap gate to `selector`:`offset`. A task gate has no offset that counts."""

    kind: str
    """ "call", "task", "interrupt" or "trap"."""
    bits: int
    """16, 32 or 64."""
    selector: int
    offset: int
    dpl: int
    present: bool
    ist: int = 0
    """64-bit gates in an IDT: which of the TSS's stacks IST1 to IST7 is switched to; 0 for none."""
    parameters: int = 0
    """Call gates of 16 and 32 bits: how many words or doublewords are copied to the new stack."""
    reserved: int = 0
    """The bits that must be zero in the upper half of a 64-bit call gate, and are not."""

    @property
    def problem(self) -> str | None:
        """Why the CPU cannot go through it, as far as the gate itself tells, in words."""
        if not self.present:
            return "not present"
        if self.reserved:
            return f"reserved bits set ({self.reserved:#x})"
        if self.selector < 4:
            return "the null selector"
        if self.bits == 64 and not is_canonical(self.offset):
            return "the offset is not canonical"
        return None

    def __str__(self) -> str:
        if self.kind == "task":
            return f"task gate to {self.selector:04x}, DPL {self.dpl}"
        extra = f", IST{self.ist}" if self.ist else f", {self.parameters} parameters" if self.parameters else ""
        return f"{self.bits}-bit {self.kind} gate to {self.selector:04x}:{self.offset:#x}, DPL {self.dpl}{extra}"


@dataclass(frozen=True, slots=True)
class ReservedDescriptor:
    """A type that means nothing in this mode."""

    type: int
    dpl: int
    present: bool

    @property
    def problem(self) -> str | None:
        """Why the CPU does not load it, in words."""
        return f"the system type {self.type} is reserved in this mode"

    def __str__(self) -> str:
        return f"reserved type {self.type}"


Descriptor = SegmentDescriptor | SystemSegment | Gate | ReservedDescriptor


class FarPointer(NamedTuple):
    """An entry of real mode's interrupt vector table."""

    segment: int
    offset: int

    @property
    def linear(self) -> int:
        """The address that it leads to."""
        return (self.segment << 4) + self.offset

    def __str__(self) -> str:
        return f"{self.segment:04x}:{self.offset:04x}"


def is_canonical(address: int) -> bool:
    """Whether bits 63 to 47 of a linear address are the same, as 4-level paging wants them."""
    return address >> 47 in (0, (1 << 17) - 1)


def decode(raw: bytes, long_mode: bool = False) -> Descriptor:
    """The descriptor that `raw` begins with: 8 bytes, or 16 for a system descriptor in long mode (EFER.LMA).

    Bytes that are missing count as zeros.
    """
    low = int.from_bytes(raw[:8], "little")
    high = int.from_bytes(raw[8:16], "little") if long_mode else 0
    fields = Fields.parse(raw)
    kind, dpl, present, base, limit = fields.type, fields.dpl, bool(fields.present), fields.base, fields.limit
    if fields.s:
        avl, long, db, granular = map(bool, (fields.avl, fields.l, fields.db, fields.g))
        return SegmentDescriptor(base, limit, kind, dpl, present, avl, long, db, granular)
    if long_mode and kind not in _LONG_TYPES:
        return ReservedDescriptor(kind, dpl, present)
    if kind == _LDT:
        return SystemSegment(
            "LDT", 64 if long_mode else 32, False, base | (high & 0xFFFFFFFF) << 32, limit, dpl, present, _zeros(high)
        )
    if kind in _TSS:
        bits, busy = _TSS[kind]
        return SystemSegment(
            "TSS", 64 if long_mode else bits, busy, base | (high & 0xFFFFFFFF) << 32, limit, dpl, present, _zeros(high)
        )
    if kind in _GATES:
        name, bits = _GATES[kind]
        selector, offset = low >> 16 & 0xFFFF, low & 0xFFFF
        if name == "task":
            return Gate(name, bits, selector, 0, dpl, present)
        if bits == 32:
            offset |= (low >> 48) << 16
        count = low >> 32 & 0x1F
        if long_mode:
            offset |= (high & 0xFFFFFFFF) << 32
            if name == "call":
                return Gate(name, 64, selector, offset, dpl, present, reserved=_zeros(high))
            return Gate(name, 64, selector, offset, dpl, present, ist=count & 7)
        return Gate(name, bits, selector, offset, dpl, present, parameters=count if name == "call" else 0)
    return ReservedDescriptor(kind, dpl, present)


def _zeros(high: int) -> int:
    """What is set of the type field of a 16-byte descriptor's second half: so that it is no descriptor of its own."""
    return high >> 32 & 0x1F00


# Tables


class Entry(NamedTuple):
    """`number` is the offset in the table for GDT and LDT (a selector without TI and RPL), the vector for an IDT."""

    number: int
    descriptor: Descriptor


@dataclass(slots=True)
class Entries:
    """What a table holds. Entries that are all zeros are left out."""

    base: int
    size: int
    """Bytes, by its limit; an IDT's at most what 256 vectors take."""
    readable: int
    """Bytes from `base` on that could be read; entries behind them are missing."""
    entries: list[Entry] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """Which part of the table could not be read, in words."""
        if self.readable >= self.size:
            return None
        return f"{self.base + self.readable:#x}..{self.base + self.size - 1:#x} cannot be read"


def read_segments(read: ReadLinear, base: int, limit: int, long_mode: bool) -> Entries:
    """The GDT or LDT at the linear address `base`; `limit` is its last valid offset, at most 0xFFFF."""
    size = min(limit, 0xFFFF) + 1
    raw = read(base, size)
    result = Entries(base, size, len(raw))
    at = 0
    while at + ENTRY <= len(raw):
        part = raw[at : at + 2 * ENTRY]
        step = ENTRY
        if any(part[:ENTRY]):
            descriptor = decode(part, long_mode)
            if isinstance(descriptor, SystemSegment | Gate) and long_mode:
                step = 2 * ENTRY
            result.entries.append(Entry(at, descriptor))
        at += step
    return result


def read_idt(read: ReadLinear, idt: Table, long_mode: bool) -> Entries:
    """The IDT of protected mode or, with `long_mode` (EFER.LMA), of long mode."""
    width = 16 if long_mode else ENTRY
    size = min(idt.limit + 1, VECTORS * width)
    raw = read(idt.base, size)
    result = Entries(idt.base, size, len(raw))
    for vector in range(len(raw) // width):
        part = raw[vector * width : (vector + 1) * width]
        if any(part):
            result.entries.append(Entry(vector, decode(part, long_mode)))
    return result


def read_vectors(read: ReadLinear, idt: Table) -> dict[int, FarPointer]:
    """Real mode's interrupt vectors, as far as the limit goes and they can be read."""
    raw = read(idt.base, min(idt.limit + 1, VECTORS * 4))
    words = struct.iter_unpack("<HH", raw[: len(raw) & ~3])
    return {vector: FarPointer(segment, offset) for vector, (offset, segment) in enumerate(words)}


# The task-state segment

_TSS_SIZES = {16: 44, 32: 104, 64: 104}

_SAVED_16 = "ip flags ax cx dx bx sp bp si di es cs ss ds ldt"
_SAVED_32 = "cr3 eip eflags eax ecx edx ebx esp ebp esi edi es cs ss ds fs gs ldt"


@dataclass(frozen=True, slots=True)
class Tss:
    """A task-state segment."""

    bits: int
    """16, 32 or 64."""
    stacks: tuple[tuple[int, int], ...]
    """(SS, ESP) for rings 0 to 2; the SS of a 64-bit TSS is 0, since it has none."""
    ist: tuple[int, ...] = ()
    """IST1 to IST7 of a 64-bit TSS."""
    io_map: int | None = None
    """Offset of the I/O permission bitmap; beyond the segment's limit there is none. A 16-bit TSS has no such field."""
    link: int = 0
    """The selector of the task that this one returns to; 0 in a 64-bit TSS."""
    saved: tuple[tuple[str, int], ...] = ()
    """(name, value) of the registers that a hardware task switch left here; none in a 64-bit TSS."""


def decode_tss(raw: bytes, bits: int) -> Tss | None:
    """The TSS of `bits` 16, 32 or 64 that `raw` begins with; None if it is too short. ValueError for other bits."""
    if bits not in _TSS_SIZES:
        raise ValueError(f"a TSS has 16, 32 or 64 bits, not {bits}")
    if len(raw) < _TSS_SIZES[bits]:
        return None
    if bits == 64:
        rsp = struct.unpack_from("<3Q", raw, 4)
        return Tss(
            64, tuple((0, pointer) for pointer in rsp), struct.unpack_from("<7Q", raw, 36), raw[102] | raw[103] << 8
        )
    if bits == 16:
        link, *words = struct.unpack_from("<22H", raw)
        stacks = words[:6]
        saved = tuple(zip(_SAVED_16.split(), words[6:21], strict=True))
        io_map = None
    else:
        # Selectors have 16 bits, and what lies above them is reserved.
        link, *words = struct.unpack_from("<25I", raw)
        names = _SAVED_32.split()
        link &= 0xFFFF
        stacks = [word & 0xFFFF if at % 2 else word for at, word in enumerate(words[:6])]
        saved = tuple(
            (name, word & 0xFFFF if len(name) == 2 or name == "ldt" else word)
            for name, word in zip(names, words[6:24], strict=True)
        )
        io_map = raw[102] | raw[103] << 8
    pairs = tuple((stacks[at + 1], stacks[at]) for at in (0, 2, 4))
    return Tss(bits, pairs, (), io_map, link, saved)


def open_ports(bitmap: bytes) -> Iterator[tuple[int, int]]:
    """The (first, last) port of each run that an I/O permission bitmap opens to every ring: its bits are 0.

    The byte behind the bitmap must be all ones and belong to the segment (SDM volume 1, 19.5.2): a caller cuts
    `bitmap` at the segment's limit and leaves out its last byte.
    """
    first: int | None = None
    for port in range(8 * min(len(bitmap), IO_MAP_BYTES)):
        closed = bitmap[port >> 3] >> (port & 7) & 1
        if not closed and first is None:
            first = port
        elif closed and first is not None:
            yield first, port - 1
            first = None
    if first is not None:
        yield first, 8 * min(len(bitmap), IO_MAP_BYTES) - 1
