"""Exceptions: their names, their error codes in words, and what two of them in a row make.

Sources: Intel SDM volume 3A, 6.13 (error codes), 6.15 (each exception; table 6-4 and 6-5 under interrupt 8, double
fault) and 4.7 (the page fault's error code); AMD APM volume 2, 8.2 and 8.4.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .paging import Walk

DE, DB, NMI, BP, OF, BR, UD, NM, DF = range(9)
TS, NP, SS, GP, PF = range(10, 15)
MF, AC, MC, XM, VE, CP = range(16, 22)

_NAMES = {
    DE: ("#DE", "divide error"),
    DB: ("#DB", "debug exception"),
    NMI: ("NMI", "non-maskable interrupt"),
    BP: ("#BP", "breakpoint"),
    OF: ("#OF", "overflow"),
    BR: ("#BR", "bound range exceeded"),
    UD: ("#UD", "invalid opcode"),
    NM: ("#NM", "device not available"),
    DF: ("#DF", "double fault"),
    TS: ("#TS", "invalid TSS"),
    NP: ("#NP", "segment not present"),
    SS: ("#SS", "stack fault"),
    GP: ("#GP", "general protection fault"),
    PF: ("#PF", "page fault"),
    MF: ("#MF", "x87 floating-point error"),
    AC: ("#AC", "alignment check"),
    MC: ("#MC", "machine check"),
    XM: ("#XM", "SIMD floating-point exception"),
    VE: ("#VE", "virtualization exception"),
    CP: ("#CP", "control protection exception"),
}

WITH_ERROR_CODE = frozenset({DF, TS, NP, SS, GP, PF, AC, CP})
_CONTRIBUTORY = frozenset({DE, TS, NP, SS, GP, CP})

EXT, IDT, TI = 1 << 0, 1 << 1, 1 << 2
"""Bits of an error code that names a selector."""
PF_P, PF_W, PF_U, PF_RSVD, PF_ID = (1 << bit for bit in range(5))
"""Bits of the page fault's error code."""


class EventKind(enum.Enum):
    """What makes the CPU look into its IDT."""

    EXCEPTION = "exception"
    SOFTWARE = "software interrupt"
    """INT n, INT3, INTO: the gate's DPL counts, and RIP is behind the instruction."""
    INTERRUPT = "interrupt"
    """From outside: a PIC, an APIC."""


@dataclass(frozen=True, slots=True)
class Event:
    """An exception or interrupt that is to be delivered; `why` says in words what made the CPU raise it."""

    vector: int
    error_code: int | None = None
    why: str = ""
    address: int | None = None
    """#PF: the linear address that could not be used, which CR2 gets."""
    walk: Walk | None = None
    """#PF: how the address was looked up."""
    kind: EventKind = EventKind.EXCEPTION
    certain: bool = True
    """Whether the manuals leave no doubt; else it is what most likely happened."""

    @property
    def name(self) -> str:
        """ "#PF"; for what is no exception, "interrupt 0x20"."""
        return vector_name(self.vector) if self.kind is EventKind.EXCEPTION else f"{self.kind.value} {self.vector:#x}"

    @property
    def predicate(self) -> str:
        """ "0x60 is not mapped", of what an access's `why` calls "0x60, which is not mapped"."""
        return self.why.replace(", which is ", " is ", 1)


def vector_name(vector: int) -> str:
    """ "#PF" for 14; a vector without a name is "vector N"."""
    return _NAMES[vector][0] if vector in _NAMES else f"vector {vector}"


def vector_title(vector: int) -> str:
    """ "page fault" for 14."""
    return _NAMES[vector][1] if vector in _NAMES else "reserved" if vector < 32 else "interrupt"


def error_code_words(vector: int, code: int) -> str:
    """What an error code says: of a page fault the access, of the others that have one the descriptor."""
    if vector == PF:
        who = "ring 3" if code & PF_U else "ring 0"
        what = "fetched an instruction" if code & PF_ID else "wrote" if code & PF_W else "read"
        if code & PF_RSVD:
            where = "reserved bits are set in the page tables"
        elif code & PF_P:
            where = "the page is present, but its rights forbid it"
        else:
            where = "the page is not present"
        return f"{who} {what}; {where}"
    if vector in (DF, AC, CP):
        return ""
    if not code & ~EXT:
        return "no descriptor" + (", while another event was delivered" if code & EXT else "")
    if code & IDT:
        what = f"IDT entry {code >> 3} ({vector_name(code >> 3)})" if code >> 3 < 32 else f"IDT entry {code >> 3:#x}"
    else:
        what = f"{'LDT' if code & TI else 'GDT'} entry {code & 0xFFF8:#x}"
    return what + (", while another event was delivered" if code & EXT else "")


def doubles(first: int, second: int) -> bool:
    """Whether the exception `second`, raised while `first` was delivered, makes a double fault (SDM table 6-5)."""
    if first == PF:
        return second == PF or second in _CONTRIBUTORY
    return first in _CONTRIBUTORY and second in _CONTRIBUTORY
