"""What the descriptor tables hold: segment descriptors, gates, and where in a TSS the stacks are.

Sources: Intel SDM volume 3A, 3.4.5 (segment descriptors), 3.5 (system descriptors), 6.11 and 6.14.1 (gates), 7.2.1 and
7.7 (TSS); AMD APM volume 2, 4.7 and 4.8.
"""

from __future__ import annotations

from typing import NamedTuple

from .exceptions import vector_name

NULL_SELECTORS = range(4)
RPL = 3
"""A selector's requested privilege level."""
TI = 4
"""A selector's bit for the LDT."""

CODE, CONFORMING, WRITABLE, EXPAND_DOWN = 8, 4, 2, 4
"""Bits of a code or data segment's type."""
TSS_TYPES = {1: "16-bit TSS", 3: "busy 16-bit TSS", 9: "TSS", 11: "busy TSS"}
LDT_TYPE = 2
_SYSTEM_TYPES = TSS_TYPES | {
    LDT_TYPE: "LDT", 4: "16-bit call gate", 5: "task gate", 6: "16-bit interrupt gate", 7: "16-bit trap gate",
    12: "call gate", 14: "interrupt gate", 15: "trap gate",
}  # fmt: skip

TASK_GATE, INTERRUPT_GATE_16, TRAP_GATE_16, INTERRUPT_GATE, TRAP_GATE = 5, 6, 7, 14, 15
_GATES = {
    TASK_GATE: "task gate",
    INTERRUPT_GATE_16: "16-bit interrupt gate",
    TRAP_GATE_16: "16-bit trap gate",
    INTERRUPT_GATE: "interrupt gate",
    TRAP_GATE: "trap gate",
}


class Descriptor(NamedTuple):
    """An 8-byte descriptor of a GDT or LDT; `limit` is in bytes."""

    base: int
    limit: int
    type: int
    s: int
    dpl: int
    present: int
    avl: int
    l: int  # noqa: E741  # the manuals' name
    db: int
    g: int

    @classmethod
    def parse(cls, raw: bytes) -> Descriptor:
        """From the 8 bytes in the table."""
        value = int.from_bytes(raw[:8], "little")
        limit = value & 0xFFFF | value >> 32 & 0xF0000
        granular = value >> 55 & 1
        return cls(
            base=value >> 16 & 0xFFFFFF | value >> 32 & 0xFF000000,
            limit=limit << 12 | 0xFFF if granular else limit,
            type=value >> 40 & 15,
            s=value >> 44 & 1,
            dpl=value >> 45 & 3,
            present=value >> 47 & 1,
            avl=value >> 52 & 1,
            l=value >> 53 & 1,
            db=value >> 54 & 1,
            g=granular,
        )

    @property
    def is_code(self) -> bool:
        """Whether it is a code segment."""
        return bool(self.s and self.type & CODE)

    @property
    def is_writable_data(self) -> bool:
        """Whether it may be a stack."""
        return bool(self.s and not self.type & CODE and self.type & WRITABLE)

    @property
    def empty(self) -> bool:
        """Whether nobody has filled it in."""
        return not (self.s or self.type or self.present)

    @property
    def words(self) -> str:
        """Such as "64-bit code, ring 0"."""
        if not self.s:
            if self.empty:
                return "empty"
            kind = _SYSTEM_TYPES.get(self.type, f"a system descriptor of type {self.type}")
        elif self.type & CODE:
            kind = (
                f"{64 if self.l else 32 if self.db else 16}-bit code{', conforming' if self.type & CONFORMING else ''}"
            )
        else:
            kind = f"data{'' if self.type & WRITABLE else ', read-only'}"
        return f"{kind}, ring {self.dpl}{'' if self.present else ', not present'}"


class Gate(NamedTuple):
    """An entry of an IDT, of protected or of long mode."""

    offset: int
    selector: int
    ist: int
    type: int
    s: int
    dpl: int
    present: int

    @classmethod
    def parse(cls, raw: bytes, long_mode: bool) -> Gate:
        """From its 16 bytes (long mode) or 8 bytes (protected mode)."""
        value = int.from_bytes(raw[:8], "little")
        offset = value & 0xFFFF | value >> 32 & 0xFFFF0000
        if long_mode:
            offset |= int.from_bytes(raw[8:12], "little") << 32
        elif value >> 40 & 15 in (INTERRUPT_GATE_16, TRAP_GATE_16):
            offset &= 0xFFFF
        return cls(
            offset=offset,
            selector=value >> 16 & 0xFFFF,
            ist=value >> 32 & 7 if long_mode else 0,
            type=value >> 40 & 15,
            s=value >> 44 & 1,
            dpl=value >> 45 & 3,
            present=value >> 47 & 1,
        )

    def allowed(self, long_mode: bool) -> bool:
        """Whether an IDT may hold a descriptor of this type in that mode."""
        return not self.s and self.type in ((INTERRUPT_GATE, TRAP_GATE) if long_mode else _GATES)

    @property
    def kind(self) -> str:
        """Its type in words."""
        if self.s:
            return "code or data segment"
        return _GATES.get(self.type, f"descriptor of type {self.type}")

    @property
    def words(self) -> str:
        """Such as "interrupt gate to 0008:0000000000100040, DPL 0, IST 1"."""
        text = f"{self.kind} to {self.selector:04x}:{self.offset:08x}, DPL {self.dpl}"
        text += f", IST {self.ist}" if self.ist else ""
        return text + ("" if self.present else ", not present")


def short_gates(offset: int, selector: int) -> str:
    """A clause, if a handler's address in long mode is made of two gates as protected mode has them, of 8 bytes.

    Its upper half is the second one's lower: a selector, and half of another address.
    """
    if not selector or offset >> 48 != selector:
        return ""
    return "two gates of 8 bytes, as protected mode has them, were taken for one of 16"


def entry_words(vector: int) -> str:
    """How an IDT entry is called: "IDT entry 14 (#PF)", "IDT entry 0x20"."""
    return f"IDT entry {vector} ({vector_name(vector)})" if vector < 32 else f"IDT entry {vector:#x}"


def selector_words(selector: int) -> str:
    """ "GDT selector 0x8"."""
    return f"{'LDT' if selector & TI else 'GDT'} selector {selector:#x}"


def table_words(base: int, limit: int) -> str:
    """Where a table is: "base is 0x1000 (limit 0x17)"; of one that nobody has given a place, "base is 0 (limit 0)"."""
    return f"base is {_number(base)} (limit {_number(limit)})"


def _number(value: int) -> str:
    return f"{value:#x}" if value else "0"
