"""What IRET does, in protected and in long mode.

Sources: Intel SDM volume 2A, IRET (operation); volume 3A, 5.8.3 and 6.14.3; AMD APM volume 3, IRET. Returns to
virtual-8086 mode and from a nested task are not followed.
"""

from __future__ import annotations

from collections.abc import Callable

from .cpu import Cpu
from .descriptors import CODE, CONFORMING, NULL_SELECTORS, RPL, Descriptor
from .exceptions import GP, NP, SS, Event
from .registers import (
    RFLAGS_IF,
    RFLAGS_IOPL_SHIFT,
    RFLAGS_NT,
    RFLAGS_RESERVED,
    RFLAGS_VM,
    Registers,
    Segment,
    SystemRegisters,
)

_FLAGS = 0x257FD5
"""CF PF AF ZF SF TF IF DF OF IOPL NT RF AC ID."""
_FLAGS_16 = 0x7FD5
_IOPL = 3 << RFLAGS_IOPL_SHIFT
_64 = (1 << 64) - 1


def interrupt_return(
    cpu: Cpu, width: int, load: Callable[[int, int], int]
) -> tuple[Registers, SystemRegisters] | Event | None:
    """The state behind IRET with operands of `width` bytes (2, 4 or 8), or its exception; None if it is not followed.

    `load(offset, size)` reads the stack segment, and raises what it likes if that is not allowed.
    """
    registers, system = cpu.registers, cpu.system
    if not cpu.protected:
        return None
    if registers.rflags & RFLAGS_NT:
        return Event(GP, 0) if cpu.long else None
    at = registers.rsp & cpu.stack_mask
    count = 5 if cpu.mode.bits == 64 else 3

    def word(number: int) -> int:
        return load(at + number * width & cpu.stack_mask, width)

    rip, selector, flags = word(0), word(1) & 0xFFFF, word(2)
    if width == 4 and not cpu.long and flags & RFLAGS_VM and cpu.cpl == 0:
        return None
    outer = selector & RPL > cpu.cpl
    rsp = stack = 0
    if outer or count == 5:
        count, rsp, stack = 5, word(3), word(4) & 0xFFFF
    found = _code(cpu, selector, rip)
    if isinstance(found, Event):
        return found
    ring = selector & RPL
    ss = system.ss
    if count == 5:
        segment = _stack(cpu, stack, ring, bool(cpu.long and found.l))
        if isinstance(segment, Event):
            return segment
        ss = segment
    else:
        rsp = at + 3 * width
    mask = cpu.stack_mask if count == 3 else _64 if cpu.mode.bits == 64 and width == 8 else _stack_bits(ss, width)
    allowed = _FLAGS_16 if width == 2 else _FLAGS
    if cpu.cpl:
        allowed &= ~_IOPL
        if cpu.cpl > registers.rflags >> RFLAGS_IOPL_SHIFT & 3:
            allowed &= ~RFLAGS_IF
    changed = registers.copy(
        rip=rip,
        rsp=registers.rsp & ~mask & _64 | rsp & mask if mask != 0xFFFFFFFF else rsp & mask,
        rflags=registers.rflags & ~allowed | flags & allowed | RFLAGS_RESERVED,
    )
    cs = Segment(
        base=found.base, limit=found.limit, selector=selector, type=found.type | 1, dpl=ring, db=found.db, l=found.l,
        g=found.g, avl=found.avl,
    )  # fmt: skip
    after = system.copy(cs=cs, ss=ss.copy(dpl=ring) if count == 5 else ss)
    if outer:  # what the outer ring may not have is taken away
        for name in ("es", "fs", "gs", "ds"):
            held: Segment = getattr(after, name)
            if held.dpl < ring and not (held.type & CODE and held.type & CONFORMING) and not held.unusable:
                setattr(after, name, Segment(selector=0, type=0, present=0, s=0, limit=0, unusable=1))
    return changed, after


def _stack_bits(ss: Segment, width: int) -> int:
    return 0xFFFFFFFF if ss.db or width == 4 else 0xFFFF


def _code(cpu: Cpu, selector: int, rip: int) -> Descriptor | Event:
    code = selector & ~RPL
    if selector in NULL_SELECTORS:
        return Event(GP, 0)
    found = cpu.descriptor(selector)
    if isinstance(found, Event):
        return found
    ring = selector & RPL
    wrong_ring = ring < cpu.cpl or (found.dpl > ring if found.type & CONFORMING else found.dpl != ring)
    if not found.is_code or wrong_ring or (cpu.long and found.l and found.db):
        return Event(GP, code)
    if not found.present:
        return Event(NP, code)
    if cpu.long and found.l:
        return found if cpu.canonical(rip) else Event(GP, 0)
    return found if rip <= found.limit else Event(GP, 0)


def _stack(cpu: Cpu, selector: int, ring: int, long_code: bool) -> Segment | Event:
    if selector in NULL_SELECTORS:
        if long_code and ring < 3 and selector & RPL == ring:
            return Segment(selector=selector, type=0, present=0, s=0, limit=0, dpl=ring, unusable=1)
        return Event(GP, 0)
    found = cpu.descriptor(selector)
    if isinstance(found, Event):
        return found
    if selector & RPL != ring or found.dpl != ring or not found.is_writable_data:
        return Event(GP, selector & ~RPL)
    if not found.present:
        return Event(SS, selector & ~RPL)
    return Segment(
        base=found.base, limit=found.limit, selector=selector, type=found.type | 1, dpl=ring, db=found.db, l=found.l,
        g=found.g, avl=found.avl,
    )  # fmt: skip
