"""Puts a report together from a CPU that stands still. What cannot be had is noted, and fails nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..x86.cpu import Cpu, refusing
from ..x86.delivery import Delivery
from ..x86.descriptors import Gate, entry_words
from ..x86.disasm import MAX_INSTRUCTION, Instruction, disassemble
from ..x86.exceptions import PF, PF_ID, PF_P, PF_RSVD, PF_U, PF_W, Event
from ..x86.faults import next_event
from ..x86.paging import PAGE_SIZE, PTE_NX, PTE_RW, PTE_US
from ..x86.registers import CR0_PG
from .backtrace import backtrace
from .cause import (
    as_data,
    chain_of,
    explain_emulation,
    explain_entry,
    explain_triple_fault,
    explain_unhandled,
    first_event,
    unhandled_event,
)
from .context import CrashContext
from .event import CrashKind
from .findings import Place, StackFrame, StackWord, TableEntry, Translated
from .places import Places
from .report import CrashReport
from .storm import Storm, explain_storm, find_storm
from .stray import stray, stray_before
from .wrong_mode import wrong_mode
from .wrong_return import explain_taken, explain_unseen, taken_by_ret

Result = TypeVar("Result")

_DEATHS = (CrashKind.TRIPLE_FAULT, CrashKind.EMULATION)

BEFORE, AFTER = 5, 3
"""Instructions of the listing around the one that crashed."""
MAX_FUNCTION = 1 << 14
"""Bytes from a function's start that are disassembled to find out where its instructions begin."""
STACK_WORDS = 16


def examine(context: CrashContext) -> CrashReport:
    """The report. Never raises."""
    if context.seen == "lost":  # what the registers say now is not the guest's
        seen = f"Probably {context.trouble} (seen in a second run, before the fault)" if context.trouble else ""
        return CrashReport(
            context.crash.cause, seen, context.crash.cpu, "", context.cpu.registers, context.cpu.system, b"", None,
            Place(context.cpu.pc), seen=context.seen, notes=list(context.notes),
        )  # fmt: skip
    return _Examiner(context).report()


class _Examiner:
    def __init__(self, context: CrashContext) -> None:
        self.context, self.cpu = context, context.cpu
        self.notes = list(context.notes)
        self.places = Places(context.symbols)
        self.storm = self.part("the stack", self.lost_in_storm, None) if context.crash.kind in _DEATHS else None

    def report(self) -> CrashReport:
        context, cpu = self.context, self.cpu
        chain = self.parts("the chain of exceptions", self.chain)
        code = context.crash.code or self.part("the instruction", lambda: cpu.peek(cpu.pc, MAX_INSTRUCTION), b"")
        decoded = self.parts("the instruction", lambda: disassemble(code, cpu.pc, cpu.mode.bits, 1))
        instruction = decoded[0] if decoded else None
        listing = self.parts("the code around it", lambda: self.listing(instruction))
        last = self.parts("the last instructions", self.last)
        place = self.places.place(cpu.pc)
        report = CrashReport(
            cause=context.crash.cause,
            explanation=self.part("the explanation", lambda: self.explanation(chain, instruction), ""),
            vcpu=context.crash.cpu,
            mode=f"{cpu.mode.words}, ring {cpu.mode.ring}",
            registers=cpu.registers,
            system=cpu.system,
            code=code,
            instruction=instruction,
            place=place,
            seen=context.seen,
            raised=self.parts("the exceptions", lambda: as_data(chain, self.places.place)),
            listing=listing,
            interrupted=context.interrupted,
            backtrace=self.parts("the backtrace", self.backtrace),
            translations=self.parts("the page tables", lambda: self.translations(chain)),
            stack=self.parts("the stack", self.stack),
            tables=self.parts("the descriptor tables", lambda: self.tables(chain)),
            last=last,
            unclaimed=list(context.unclaimed),
            places={line.address: self.places.place(line.address) for line in (*listing, *last)},
            notes=self.notes,
        )
        self.notes += self.places.problems
        return report

    def part(self, name: str, make: Callable[[], Result], instead: Result) -> Result:
        """A part of the report; if it cannot be made, a note says so. The guest may have left anything anywhere."""
        try:
            return make()
        except Exception as error:  # whatever it is, the rest of the report is worth having
            self.notes.append(f"{name} cannot be told: {type(error).__name__}: {error}")
            return instead

    def parts(self, name: str, make: Callable[[], list[Result]]) -> list[Result]:
        """The same for a part that is a list."""
        return self.part(name, make, [])

    def chain(self) -> list[Delivery]:
        if self.context.crash.kind is CrashKind.UNHANDLED and self.context.crash.vector is not None:
            return [Delivery(unhandled_event(self.cpu, self.context.crash.vector))]
        if self.context.crash.kind is not CrashKind.TRIPLE_FAULT or self.storm is not None:
            return []
        chain = chain_of(self.cpu, first_event(self.cpu, self.context.irqs.events()))
        if not chain:
            self.notes.append(
                "the instruction raises no exception by itself: an interrupt, or something that is not known"
            )
        return chain

    def explanation(self, chain: list[Delivery], instruction: Instruction | None) -> str:
        sentence = self.sentence(chain, instruction)
        if not sentence or self.storm is not None:
            return sentence
        found, number = self.context.interrupted, self.context.crash.cpu
        image = self.places.code if self.context.symbols is not None else None
        if found is not None:
            clause = stray_before(self.cpu, found.place.address, found.stack, number, image, self.context.is_memory)
        else:
            clause = stray(self.cpu, number, image, self.context.is_memory)
        return f"{sentence}; {clause}" if clause else sentence

    def sentence(self, chain: list[Delivery], instruction: Instruction | None) -> str:
        context, cpu = self.context, self.cpu
        if self.storm is not None:
            return explain_storm(
                cpu, self.storm, str(self.places.place(self.storm.rip)), code=self.has_code(self.storm.rip)
            )
        if context.crash.kind in _DEATHS:
            taken = taken_by_ret(cpu)
            if taken is not None:
                return explain_taken(cpu, taken, context.irqs)
            astray = wrong_mode(cpu, chain[0].event if chain else next_event(cpu))
            if astray:
                return astray
        if context.crash.kind is CrashKind.TRIPLE_FAULT:
            unseen = explain_unseen(cpu, context.irqs) if not chain and context.seen == "by replay" else ""
            sentence = unseen or explain_triple_fault(cpu, chain)
            address = chain[0].event.address if chain else None
            symbol = self.places.symbol(address) if address is not None else ""
            return sentence.replace(f" {address:#x},", f" {address:#x} <{symbol}>,", 1) if symbol else sentence
        if context.crash.kind is CrashKind.UNHANDLED and chain:
            return explain_unhandled(chain[0].event)
        if context.crash.kind is CrashKind.EMULATION:
            return explain_emulation(cpu, instruction.text if instruction else "", context.is_memory)
        if context.crash.kind is CrashKind.ENTRY:
            return explain_entry(cpu)
        found = context.interrupted
        if found is not None:
            if found.came and not found.why:
                return f"{found.came}, and its handler halted; it interrupted {found.place}"
            if found.why:
                name = "" if found.why.startswith(found.name) else f", {found.name}"
                at = f"{found.place.address:#x}" + (f" <{found.place.symbol}>" if found.place.symbol else "")
                return f"{found.why[:1].upper()}{found.why[1:]} (at {at}{name}); the handler halted"
            what = f" (`{found.instruction}`)" if found.instruction else ""
            at = f"{found.place.address:#x}" + (f" <{found.place.symbol}>" if found.place.symbol else "")
            words = [f"{cpu.system.cr2:#x}: {found.error_words}"] if found.vector == PF else []
            reason = found.reason.replace(f"`{found.instruction}`", "it", 1)
            if not words or not reason.startswith("it ") or not reason.endswith(", which is not mapped"):
                words += list(filter(None, [reason or (found.error_words if not words else "")]))
            why = (", for " if found.vector == PF else ": ") + "; ".join(words) if words else ""
            return f"The CPU halted in the handler of {found.name}, which came at {at}{what}{why}"
        return ""

    # Code

    def lost_in_storm(self) -> Storm | None:
        """The storm of exceptions that has run over tables or code, if one has."""
        storm = find_storm(self.cpu, self.places.code, began=self.context.seen == "by replay")
        lost = storm is not None and (_tables_are_lost(self.cpu) or self.code_is_lost(storm.rip))
        return storm if lost else None

    def has_code(self, address: int) -> bool:
        """Whether the image has code there, or nothing is known of it."""
        return self.context.symbols is None or bool(self.places.code(address, 1))

    def code_is_lost(self, address: int) -> bool:
        """Whether something else is there now than the image had there."""
        loaded = self.places.code(address, MAX_INSTRUCTION)
        return loaded != self.cpu.peek(address, len(loaded))

    def listing(self, instruction: Instruction | None) -> list[Instruction]:
        if instruction is None:
            return []
        cpu, pc, bits = self.cpu, self.cpu.pc, self.cpu.mode.bits
        after = disassemble(cpu.peek(pc, (AFTER + 1) * MAX_INSTRUCTION), pc, bits, AFTER + 1)
        return self.before(pc, bits) + (after or [instruction])

    def before(self, pc: int, bits: int) -> list[Instruction]:
        """The instructions that end where this one begins: from the function's start on, or by trying."""
        found = self.places.function(pc)
        starts = [pc - found[1]] if found is not None and found[1] <= MAX_FUNCTION else []
        starts += range(pc - BEFORE * MAX_INSTRUCTION // 2, pc)
        for start in starts:
            if start < 0 or start == pc:
                continue
            raw = self.cpu.peek(start, pc - start)
            if len(raw) < pc - start:
                continue
            lines = disassemble(raw, start, bits)
            if lines and not any(line.text.startswith(".byte") for line in lines[-BEFORE:]):
                return lines[-BEFORE:]
        return []

    def last(self) -> list[Instruction]:
        return [line for address, code, bits in self.context.last for line in disassemble(code, address, bits, 1)]

    # Stack

    def backtrace(self) -> list[StackFrame]:
        return backtrace(self.cpu, self.places.place, self.places.function, self.context.interrupted)

    def stack(self) -> list[StackWord]:
        cpu = self.cpu
        width = cpu.mode.bits // 8
        raw = cpu.peek(cpu.stack, STACK_WORDS * width)
        if not raw:
            event = cpu.check_linear(cpu.stack, width)
            self.notes.append(
                f"the stack cannot be read at {event.why if event else f'{cpu.stack:#x}, which is not RAM'}"
            )
        words = [
            (cpu.stack + at, int.from_bytes(raw[at : at + width], "little"))
            for at in range(0, len(raw) - width + 1, width)
        ]
        return [StackWord(address, value, self.places.symbol(value)) for address, value in words]

    # Tables

    def translations(self, chain: list[Delivery]) -> list[Translated]:
        """The walks of the addresses that faults were about; else of CR2, if something is there."""
        found: dict[int, Translated] = {}
        for event in [chain[0].event, *(delivery.problem for delivery in chain)] if chain else []:
            if event is not None and event.walk is not None:
                translated = Translated(f"{event.walk.linear:#x}, for {event.name}", event.walk, _refused(event))
                found.setdefault(event.walk.linear // PAGE_SIZE, translated)
        if not found and self.cpu.system.cr2 and self.cpu.system.cr0 & CR0_PG:
            walk = self.cpu.walk(self.cpu.system.cr2)
            found[walk.linear] = Translated(f"CR2 {self.cpu.system.cr2:#x}, the last page fault's address", walk)
        return list(found.values())

    def tables(self, chain: list[Delivery]) -> list[TableEntry]:
        cpu, system = self.cpu, self.cpu.system
        entries: list[TableEntry] = []
        if not cpu.protected:
            return entries
        selectors = {"CS": system.cs.selector, "SS": system.ss.selector}
        vectors = [delivery.event.vector for delivery in chain]
        for vector in dict.fromkeys(vectors):
            entries.append(TableEntry(entry_words(vector), self.gate(vector)))
        for delivery in chain:
            if delivery.gate is not None and delivery.problem is not None:
                selectors.setdefault(f"{entry_words(delivery.event.vector)}'s code", delivery.gate.selector)
        for name, selector in selectors.items():
            if selector > 3:
                descriptor = cpu.descriptor(selector)
                words = descriptor.why if isinstance(descriptor, Event) else descriptor.words
                entries.append(TableEntry(f"{name} {selector:#x}", words))
        tss = system.tr
        if tss.selector > 3 and any(delivery.stack for delivery in chain):
            entries.append(TableEntry(f"TSS {tss.selector:#x}", f"at {tss.base:#x}, limit {tss.limit:#x}"))
        return entries

    def gate(self, vector: int) -> str:
        cpu, table = self.cpu, self.cpu.system.idt
        size = 16 if cpu.long else 8
        if size * vector + size - 1 > table.limit:
            return f"beyond the IDT's limit {table.limit:#x}"
        raw = cpu.peek(table.base + size * vector, size)
        if len(raw) < size:
            return "not readable"
        return Gate.parse(raw, cpu.long).words if any(raw) else "empty"


def _tables_are_lost(cpu: Cpu) -> bool:
    """Whether the stack, the IDT or CS's descriptor is not what it was when the CPU took it."""
    code = cpu.descriptor(cpu.system.cs.selector)
    damaged = isinstance(code, Event) or not code.is_code
    return damaged or any(cpu.walk(at).physical is None for at in (cpu.stack, cpu.system.idt.base))


def _refused(event: Event) -> str:
    """Which entry's bit forbade an access that found a page, in words."""
    if event.walk is None or event.walk.physical is None or event.error_code is None:
        return ""
    code = event.error_code
    if code & PF_RSVD or not code & PF_P:
        return ""
    if code & PF_U and not event.walk.user:
        return refusing(event.walk, PTE_US)
    if code & PF_ID and not event.walk.executable:
        return refusing(event.walk, PTE_NX)
    if code & PF_W and not event.walk.writable:
        return refusing(event.walk, PTE_RW)
    return ""
