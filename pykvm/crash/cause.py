"""Why a guest crashed: the chain of exceptions as the architecture has it, and the sentence that sums it up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..x86.cpu import Cpu
from ..x86.delivery import Delivery, deliver, deliver_all
from ..x86.exceptions import DB, UD, Event, EventKind, error_code_words, vector_name, vector_title
from ..x86.faults import fetch, next_event
from ..x86.paging import PAGE_SIZE
from ..x86.registers import CR0_PG, EFER_LMA, RFLAGS_IF, RFLAGS_TF
from .findings import Place, Raised
from .storm import nested


def first_event(cpu: Cpu, in_service: Iterable[Event] = ()) -> Event | None:
    """What the CPU was to deliver first: what the instruction raises, or else an interrupt that had just come.

    `in_service` are those that an interrupt controller has handed to the CPU and that are not finished yet. While
    RFLAGS.IF is 0 none comes, unless the CPU stands before an STI: what is in service then is being handled.
    """
    event = next_event(cpu)
    if event is not None and event.certain:
        return event
    if cpu.registers.rflags & RFLAGS_IF or (event is None and _before_sti(cpu)):
        for interrupt in in_service:
            return interrupt
    if event is None and cpu.registers.rflags & RFLAGS_TF:
        return Event(DB, None, "RFLAGS.TF is set, so each instruction ends in a debug exception", certain=False)
    return event


def _before_sti(cpu: Cpu) -> bool:
    code = fetch(cpu)
    return not isinstance(code, Event) and code[:1] == b"\xfb"


def chain_of(cpu: Cpu, first: Event | None) -> list[Delivery]:
    """The chain that begins with `first`. One that ends in a handler that cannot be entered is the first of many."""
    return deliver_all(cpu, first) if first is not None else []


def as_data(chain: list[Delivery], place: Callable[[int], Place]) -> list[Raised]:
    """The chain for the report."""
    result = []
    for delivery in chain:
        event = delivery.event
        code = event.error_code
        result.append(
            Raised(
                name=event.name,
                title=vector_title(event.vector) if event.kind is EventKind.EXCEPTION else event.kind.value,
                vector=event.vector,
                why=event.why,
                error_code=code,
                error_words=error_code_words(event.vector, code) if code is not None else "",
                address=event.address,
                gate=delivery.gate.words if delivery.gate is not None else "",
                stack=delivery.stack,
                handler=place(delivery.handler) if delivery.handler is not None else None,
                problem=delivery.problem.why if delivery.problem is not None else "",
                certain=event.certain,
            )
        )
    return result


def explain_triple_fault(cpu: Cpu, chain: list[Delivery]) -> str:
    """The sentence for a triple fault."""
    if not chain:
        return _unexplained(cpu)
    first = chain[0]
    what = f"{first.event.why} ({first.event.name})" if first.event.kind is EventKind.EXCEPTION else first.event.why
    failed = [delivery for delivery in chain if delivery.problem is not None]
    entered = chain[-1]
    if entered.problem is None:
        return _capital(f"{what}, and {_endless(cpu, entered)}")
    if not failed or failed[0].problem is None or failed[-1].problem is None:
        return _capital(what)
    if first.gate is not None and isinstance(fetch(cpu), Event) and first.gate.offset == cpu.registers.rip:
        where = first.event.why.removeprefix("the CPU is to execute at ")
        return (
            f"The handler of {first.event.name} is at {where}: each fault led to the next, until the stack was used up"
        )
    problem = failed[0].problem.why
    overflow = _overflow(cpu, failed[0])
    sentence = f"{what}, and {overflow or problem}"
    last = failed[-1].problem.why
    if _alike(problem) != _alike(last):
        sentence += f"; the double fault was lost, too: {last}"
    return _capital(sentence)


def _unexplained(cpu: Cpu) -> str:
    """No exception of the instruction is known: at least what stands in the way of any."""
    table = cpu.system.idt
    if table.limit < 8:
        return f"An exception or interrupt came, and the IDT's limit is {table.limit:#x}: no handler could be found"
    return ""


def _endless(cpu: Cpu, delivery: Delivery) -> str:
    """A handler was entered, as far as can be told, and yet the machine died."""
    if delivery.registers is None or delivery.system is None:
        return "it was to switch to another task, which is not followed here"
    event = fetch(replace(cpu, registers=delivery.registers, system=delivery.system))
    if isinstance(event, Event):
        return f"its handler cannot be executed: {event.why.removeprefix('the CPU is to execute at ')}"
    if nested(cpu):
        return (
            f"its handler at {delivery.handler or 0:#x} was interrupted again and again before it had ended, until the "
            "stack was used up"
        )
    return f"its handler at {delivery.handler or 0:#x} was entered: what happened in it is not known"


def _overflow(cpu: Cpu, delivery: Delivery) -> str:
    """If the frame went to an unmapped page right below one that is mapped: that the stack is full."""
    if (
        not delivery.pushing
        or delivery.stack
        or delivery.problem is None
        or delivery.problem.address is None
        or delivery.problem.walk is None
    ):
        return ""
    if not cpu.system.cr0 & CR0_PG or delivery.problem.walk.physical is not None:
        return ""
    above = (delivery.problem.address // PAGE_SIZE + 1) * PAGE_SIZE
    if above - cpu.stack > PAGE_SIZE or cpu.check_page(above & cpu.width_mask, write=True, user=False) is not None:
        return ""
    return f"the stack has overflowed: the stack pointer is {cpu.stack:#x}, and the page it ran into is not mapped"


def _alike(problem: str) -> str:
    """A problem without what differs from entry to entry."""
    return re.sub(r"IDT entry \w+( \(\S+\))?|: .*", "", problem)


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def unhandled_event(cpu: Cpu, vector: int) -> Event:
    """The exception `vector` of the instruction that the CPU stands before, with its reason as far as that is clear."""
    event = next_event(cpu)
    if event is not None and event.vector == vector:
        return event
    return Event(vector, None, f"the CPU raised {vector_name(vector)}, {vector_title(vector)}")


def explain_unhandled(event: Event) -> str:
    """The sentence for an exception in real mode that the program has left to the BIOS."""
    name = "" if event.name in event.why else f" ({event.name})"
    return _capital(
        f"{event.why}{name}, and the program has no handler for it: vector {event.vector:#x} leads to the BIOS"
    )


def explain_emulation(cpu: Cpu, text: str, is_memory: Callable[[int], bool]) -> str:
    """The sentence for an instruction that KVM could not carry out."""
    fetched = fetch(cpu)
    if isinstance(fetched, Event):
        return _capital(fetched.why)
    physical = cpu.walk(cpu.pc).physical
    if physical is not None and not is_memory(physical):
        off = "; paging is off, and so high an address needs page tables first" if cpu.pc >> 31 else ""
        off = "" if cpu.system.cr0 & CR0_PG else off
        return f"The CPU is to execute at {cpu.pc:#x}, where there is no RAM (guest physical {physical:#x}){off}"
    event = next_event(cpu)
    if event is not None and event.kind is EventKind.SOFTWARE:
        done = deliver(cpu, event)
        leads = f"its handler is at {done.handler:#x}" if done.problem is None and done.handler is not None else ""
        problem = done.problem.why if done.problem is not None else leads or "it leads to another task"
        return _capital(f"{event.why}, which the interpreter of this host's KVM does not do; {problem}")
    if event is not None and event.vector != UD and event.kind is EventKind.EXCEPTION and event.certain:
        return _capital(f"{event.why} ({event.name}), while KVM interpreted the instruction")
    if event is not None and event.vector == UD:
        return _capital(event.why)
    what = f"`{text}`" if text else "the instruction"
    return f"This host's KVM interprets the guest's code here, and its interpreter does not know {what}"


def explain_entry(cpu: Cpu) -> str:
    """The sentence for a state that the CPU refused to run."""
    system = cpu.system
    if cpu.long and not system.cr0 & CR0_PG:
        return "EFER.LMA is set without CR0.PG: no CPU can be in such a state"
    if cpu.long and system.cs.l and system.cs.db:
        return "The code segment has both L and D set: no CPU can be in such a state"
    if bool(system.efer & EFER_LMA) and not cpu.canonical(cpu.pc):
        return f"RIP is {cpu.pc:#x}, which is not a canonical address"
    for back in (0, 3, 4):  # an emulated CPU may take what it refuses only when it is to run
        event = next_event(replace(cpu, registers=replace(cpu.registers, rip=cpu.registers.rip - back)))
        if event is not None and event.certain and " loads cr" in event.why:
            return _capital(event.why)
    return "Registers contradict each other, so that no CPU can be in such a state"
