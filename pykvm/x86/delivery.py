"""How a CPU delivers an exception or interrupt, step by step, and what goes wrong on the way.

Sources: Intel SDM volume 3A, 6.12 and 6.14 (handling in protected and 64-bit mode), 20.1.4 (real mode), table 6-5
(double fault), and volume 2A, "INT n" (the order of the checks); AMD APM volume 2, 8.7 to 8.9.

The model reads tables and stack from memory and changes nothing. Task gates (a task switch) are not followed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from .cpu import Cpu
from .descriptors import (
    CODE,
    CONFORMING,
    INTERRUPT_GATE,
    INTERRUPT_GATE_16,
    NULL_SELECTORS,
    RPL,
    TASK_GATE,
    TRAP_GATE,
    Descriptor,
    Gate,
    entry_words,
    selector_words,
    short_gates,
    table_words,
)
from .exceptions import DF, EXT, GP, IDT, NP, PF, SS, TS, Event, EventKind, doubles
from .registers import RFLAGS_IF, RFLAGS_NT, RFLAGS_RF, RFLAGS_TF, RFLAGS_VM, Registers, Segment, SystemRegisters

_AFTER_RESET = ((0, 0x3FF), (0, 0xFFFF))
"""IDTR's base and limit as boot loaders, or the reset, leave them."""
_16 = 0xFFFF
_64 = (1 << 64) - 1


class Push(NamedTuple):
    """`size` bytes that the CPU writes to a linear address."""

    linear: int
    size: int
    value: int


@dataclass(slots=True)
class Delivery:
    """What became of `event`. Either `problem` is the exception that came in its way, or the handler is entered."""

    event: Event
    gate: Gate | None = None
    handler: int | None = None
    """The linear address of the handler, once it is known."""
    problem: Event | None = None
    registers: Registers | None = None
    """What the CPU begins the handler with; not followed through a task gate."""
    system: SystemRegisters | None = None
    pushes: tuple[Push, ...] = ()
    pushing: bool = False
    """Whether it came as far as the frame: a `problem` is the stack's then, and not the tables'."""
    stack: str = ""
    """Which stack the frame goes to, where it is not simply the current one: "IST 1 of the TSS"."""


class _Refused(Exception):
    def __init__(self, event: Event) -> None:
        self.event = event


def deliver(cpu: Cpu, event: Event) -> Delivery:
    """Deliver one event."""
    result = Delivery(event)
    try:
        if cpu.protected:
            _Protected(cpu, event, result).run()
        elif cpu.registers.rflags & RFLAGS_VM:
            _refuse(event, None, "it came in virtual-8086 mode, which is not followed here")
        else:
            _real(cpu, event, result)
    except _Refused as refused:
        result.problem = refused.event
    return result


def deliver_all(cpu: Cpu, first: Event) -> list[Delivery]:
    """Deliver `first`, then what came in its way, and so on, until a handler is entered or the CPU shuts down.

    The last one has a `problem` if and only if it is the triple fault: a double fault that could not be delivered.
    """
    chain = []
    event = first
    while True:
        result = deliver(cpu, event)
        chain.append(result)
        if result.problem is None or (event.vector == DF and event.kind is EventKind.EXCEPTION):
            return chain
        second = result.problem
        if event.kind is EventKind.EXCEPTION and doubles(event.vector, second.vector):
            event = Event(DF, 0, f"{second.name} while {event.name} was delivered")
        else:
            event = second
        if len(chain) > 8:  # benign events one after the other cannot go on for ever
            return chain


def _refuse(event: Event, vector: int | None, why: str, code: int | None = None) -> None:
    raise _Refused(Event(GP if vector is None else vector, code, why))


def _real(cpu: Cpu, event: Event, result: Delivery) -> None:
    """Through the interrupt vector table: 4 bytes an entry, three words on the stack."""
    table = cpu.system.idt
    if 4 * event.vector + 3 > table.limit:
        _refuse(
            event, None, f"the interrupt table's limit is {table.limit:#x}: {entry_words(event.vector)} is beyond it"
        )
    far = cpu.peek_int(table.base + 4 * event.vector, 4)
    if far is None:
        _refuse(event, None, f"the interrupt table at {table.base:#x} is not in RAM")
        return
    r, s = cpu.registers, cpu.system
    rsp, pushes = r.rsp, []
    for value in (r.rflags & _16, s.cs.selector, r.rip & _16):
        rsp = rsp & ~_16 | rsp - 2 & _16
        if (rsp & _16) + 1 > s.ss.limit:
            _refuse(
                event, SS, f"the stack segment ends at {s.ss.limit:#x}: the frame cannot be pushed to {rsp & _16:#x}"
            )
        pushes.append(Push(cpu.linear("ss", rsp & _16), 2, value))
    selector, offset = far >> 16, far & _16
    result.handler = (selector << 4) + offset
    result.pushes = tuple(pushes)
    result.registers = replace(r, rsp=rsp, rip=offset, rflags=r.rflags & ~(RFLAGS_IF | RFLAGS_TF | RFLAGS_RF))
    result.system = replace(s, cs=replace(s.cs, selector=selector, base=selector << 4))


class _Protected:
    """Delivery through the IDT, in protected and in long mode. Each method is a step of the manual's pseudo-code."""

    def __init__(self, cpu: Cpu, event: Event, result: Delivery) -> None:
        self.cpu, self.event, self.result = cpu, event, result
        self.ext = 0 if event.kind is EventKind.SOFTWARE else EXT
        self.what = entry_words(event.vector)
        self.width = 8 if cpu.long else 4
        self.stack_words = ""
        self.no_tss = ""

    def run(self) -> None:
        gate = self.gate()
        self.result.gate = gate
        if gate.type == TASK_GATE:
            return
        code = self.code_segment(gate)
        new_cpl = self.cpu.cpl if code.type & CONFORMING else code.dpl
        if self.cpu.system.efer >> 10 & 1:
            stack, base = self.long_stack(gate, new_cpl), 0
            segment = replace(self.cpu.system.ss, selector=new_cpl, dpl=new_cpl) if new_cpl < self.cpu.cpl else None
            limit: Segment | None = None
        else:
            if gate.type not in (INTERRUPT_GATE, TRAP_GATE):
                self.width = 2
            stack, segment = self.protected_stack(new_cpl)
            limit = segment or self.cpu.system.ss
            base = limit.base
        rsp, pushes = self.push(stack, base, limit, new_cpl)
        mask = _64 if self.cpu.long else 0xFFFFFFFF
        self.result.handler = gate.offset + (0 if self.cpu.long else code.base) & mask
        if self.cpu.long and not self.cpu.canonical(gate.offset):
            short = short_gates(gate.offset, gate.selector)
            what = f"{self.what} leads to {gate.offset:#x}, which is not a canonical address"
            self.fail(GP, f"{what}: {short}" if short else what, self.ext)
        if not self.cpu.long and gate.offset > code.limit:
            self.fail(
                GP, f"{self.what} leads to {gate.offset:#x}, beyond its code segment's limit {code.limit:#x}", self.ext
            )
        self.enter(gate, code, new_cpl, rsp, segment)
        self.result.pushes = tuple(pushes)

    def fail(self, vector: int, why: str, code: int | None) -> None:
        raise _Refused(Event(vector, code, self.no_tss or why))

    def refer(self, event: Event | None, why: str) -> None:
        """Fail as reading or writing a table or stack did."""
        if event is not None:
            raise _Refused(replace(event, why=self.no_tss or why))

    def gate(self) -> Gate:
        cpu, vector = self.cpu, self.event.vector
        size = 16 if cpu.long else 8
        code = 8 * vector + IDT + self.ext
        table = cpu.system.idt
        if size * vector + size - 1 > table.limit:
            if table.limit < size - 1:
                self.fail(GP, f"the IDT's limit is {table.limit}: no handler could be found", code)
            self.fail(GP, f"{self.what} is beyond the IDT's limit {table.limit:#x}", code)
        at = table.base + size * vector & cpu.width_mask
        event = cpu.check_linear(at, size, user=False)
        after_reset = (table.base, table.limit) in _AFTER_RESET
        never = "no IDT was loaded: IDTR still leads to real mode's interrupt table"
        unreadable = never if after_reset else f"the IDT cannot be read: its {table_words(table.base, table.limit)}"
        self.refer(event, f"{unreadable}, and {event.predicate if event else ''}")
        raw = cpu.peek(at, size)
        if len(raw) < size:
            self.fail(GP, f"{unreadable}, and {at:#x} is not in RAM", code)
        gate = Gate.parse(raw, cpu.long)
        self.result.gate = gate
        if after_reset and not gate.allowed(cpu.long):
            self.fail(GP, never, code)
        forgotten = "" if table.base else f" (the IDT's {table_words(table.base, table.limit)})"
        if not any(raw):
            self.fail(GP, f"{self.what} is empty: nobody has set a handler{forgotten}", code)
        if not gate.allowed(cpu.long):
            mode = "long" if cpu.long else "protected"
            self.fail(GP, f"{self.what} is a {gate.kind}, which is no gate of {mode} mode{forgotten}", code)
        if self.event.kind is EventKind.SOFTWARE and gate.dpl < cpu.cpl:
            self.fail(GP, f"{self.what} has DPL {gate.dpl}: ring {cpu.cpl} must not call it", code)
        if not gate.present:
            self.fail(NP, f"{self.what} is marked not present", code)
        return gate

    def code_segment(self, gate: Gate) -> Descriptor:
        selector, cpu = gate.selector, self.cpu
        words = f"{self.what} names the code segment {selector_words(selector)}"
        if selector in NULL_SELECTORS:
            self.fail(GP, f"{self.what} names the null selector as its code segment", self.ext)
        code = (selector & ~RPL) + self.ext
        found = cpu.descriptor(selector)
        if isinstance(found, Event):
            if found.vector == PF:
                self.refer(found, f"{self.what} names the code segment {found.why}")
            self.fail(found.vector, f"{self.what} names the code segment {found.why}", code)
        assert isinstance(found, Descriptor)
        if not found.is_code:
            self.fail(GP, f"{words}, which is {found.words}: no code", code)
        if found.dpl > cpu.cpl:
            self.fail(GP, f"{words} of ring {found.dpl}, less privileged than the interrupted code", code)
        if cpu.long and (not found.l or found.db):
            self.fail(GP, f"{words}, which is {found.words}: long mode enters 64-bit code only", code)
        if not found.present:
            self.fail(NP, f"{words}, which is marked not present", code)
        return found

    def long_stack(self, gate: Gate, new_cpl: int) -> int:
        """The stack pointer, before it is aligned."""
        if gate.ist:
            return self.from_tss(28 + 8 * gate.ist, 8, f"IST {gate.ist}")
        if new_cpl < self.cpu.cpl:
            return self.from_tss(4 + 8 * new_cpl, 8, f"RSP{new_cpl}")
        return self.cpu.registers.rsp

    def protected_stack(self, new_cpl: int) -> tuple[int, Segment | None]:
        cpu = self.cpu
        if new_cpl >= cpu.cpl:
            return cpu.registers.rsp & cpu.stack_mask, None
        if cpu.system.tr.type & 8:
            pointer = self.from_tss(4 + 8 * new_cpl, 4, f"ESP{new_cpl}")
            selector = self.from_tss(8 + 8 * new_cpl, 2, f"SS{new_cpl}")
        else:
            pointer = self.from_tss(2 + 4 * new_cpl, 2, f"SP{new_cpl}")
            selector = self.from_tss(4 + 4 * new_cpl, 2, f"SS{new_cpl}")
        self.stack_words = f"ring {new_cpl}'s stack in the TSS"
        words = f"the TSS's stack segment for ring {new_cpl} is {selector:#x}"
        if selector in NULL_SELECTORS:
            self.fail(TS, f"{words}, the null selector", self.ext)
        code = (selector & ~RPL) + self.ext
        found = cpu.descriptor(selector)
        if isinstance(found, Event):
            if found.vector == PF:
                self.refer(found, f"the TSS's stack segment for ring {new_cpl} is {found.why}")
            self.fail(TS, f"the TSS's stack segment for ring {new_cpl} is {found.why}", code)
        assert isinstance(found, Descriptor)
        if selector & RPL != new_cpl or found.dpl != new_cpl or not found.is_writable_data:
            self.fail(TS, f"{words} ({found.words}): no stack for ring {new_cpl}", code)
        if not found.present:
            self.fail(SS, f"{words}, which is marked not present", code)
        return pointer, Segment(
            base=found.base,
            limit=found.limit,
            selector=selector,
            type=found.type,
            dpl=found.dpl,
            db=found.db,
            g=found.g,
        )

    def from_tss(self, offset: int, size: int, name: str) -> int:
        tss, cpu = self.cpu.system.tr, self.cpu
        self.stack_words = f"{name} of the TSS"
        if tss.selector in NULL_SELECTORS:  # since the reset: the CPU takes what is at address 0 for one
            user = f"an {'interrupt' if self.event.kind is EventKind.INTERRUPT else 'exception'} in ring {cpu.cpl}"
            user = self.what if name.startswith("IST") else user
            self.no_tss = f"no TSS is loaded (TR is {tss.selector}), and {user} needs its {name}"
        code = (tss.selector & ~RPL) + self.ext
        if offset + size - 1 > tss.limit:
            where = f"(limit {tss.limit:#x}, base {tss.base:#x})"
            self.fail(TS, f"{name} is to come from the TSS, which ends before it {where}", code)
        at = tss.base + offset & cpu.width_mask
        event = cpu.check_linear(at, size, user=False)
        unreadable = f"the TSS cannot be read: its {table_words(tss.base, tss.limit)}"
        self.refer(event, f"{unreadable}, and {event.predicate if event else ''}")
        value = cpu.peek_int(at, size)
        if value is None:
            self.fail(TS, f"{unreadable}, and {at:#x} is not in RAM", code)
            return 0
        return value

    def push(self, stack: int, base: int, limit: Segment | None, new_cpl: int) -> tuple[int, list[Push]]:
        """The frame, word by word: the stack pointer then, and what was pushed."""
        self.result.pushing, self.result.stack = True, self.stack_words
        cpu, r, s = self.cpu, self.cpu.registers, self.cpu.system
        changes = new_cpl < cpu.cpl
        values = [s.ss.selector, r.rsp] if changes or cpu.long else []
        values += [r.rflags | (RFLAGS_RF if self.event.kind is EventKind.EXCEPTION else 0), s.cs.selector, r.rip]
        if self.event.error_code is not None and self.event.kind is EventKind.EXCEPTION:
            values.append(self.event.error_code)
        mask = _64 if cpu.long else 0xFFFFFFFF if limit is not None and limit.db else _16
        at = stack & ~15 if cpu.long else stack & mask
        pushes = []
        where = f"{self.stack_words} is" if self.stack_words else "the stack pointer is"
        for value in values:
            at = at - self.width & mask
            if limit is not None:
                expands_down = limit.type & (CODE | 4) == 4
                top = at + self.width - 1
                if top > (mask if expands_down else limit.limit) or (expands_down and at <= limit.limit):
                    why = f"{where} {stack:#x}, beyond the stack segment's limit {limit.limit:#x}"
                    self.fail(SS, why, (limit.selector & ~RPL if changes else 0) + self.ext)
            elif not cpu.canonical(at):
                self.fail(SS, f"{where} {stack:#x}, which is not a canonical address", self.ext)
            event = cpu.check_linear(base + at, self.width, write=True, user=new_cpl == 3)
            self.refer(event, f"{where} {stack:#x}: the frame cannot be pushed to {event.why if event else ''}")
            pushes.append(Push(base + at & cpu.width_mask, self.width, value & (1 << 8 * self.width) - 1))
        return at, pushes

    def enter(self, gate: Gate, code: Descriptor, new_cpl: int, rsp: int, stack: Segment | None) -> None:
        cpu, r = self.cpu, self.cpu.registers
        clear = RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM
        if gate.type in (INTERRUPT_GATE, INTERRUPT_GATE_16):
            clear |= RFLAGS_IF
        self.result.registers = replace(r, rip=gate.offset, rsp=rsp, rflags=r.rflags & ~clear)
        segment = Segment(
            base=code.base, limit=code.limit, selector=gate.selector & ~RPL | new_cpl, type=code.type | 1, dpl=new_cpl,
            db=code.db, l=code.l, g=code.g,
        )  # fmt: skip
        system = replace(cpu.system, cs=segment)
        if stack is not None:
            system = replace(system, ss=stack)
        if self.event.vector == PF and self.event.kind is EventKind.EXCEPTION and self.event.address is not None:
            system = replace(system, cr2=self.event.address)
        self.result.system = system
