"""Whether a CPU went astray because it runs in another mode than its code was made for, or without its page tables.

Sources: Intel SDM volume 3A, 2.2 (modes), 3.4.5 (a code segment's D and L), 4.1 (paging modes), 9.8.5 (the way to long
mode); volume 2A, 2.2.1 (REX prefixes), and chapter 3 ("64-Bit Mode: invalid").
"""

from __future__ import annotations

import re

from ..errors import PykvmError
from ..x86.cpu import Cpu
from ..x86.descriptors import Descriptor
from ..x86.disasm import MAX_INSTRUCTION, disassemble
from ..x86.exceptions import PF, UD, Event
from ..x86.faults import fetch
from ..x86.paging import PAGE_SIZE, PTE_P
from ..x86.registers import CR0_PG, CR4_BITS, RFLAGS_VM

_REX_W = re.compile(
    rb"[\x48\x49\x4c\x4d]"
    rb"(?:[\x01\x03\x29\x2b\x31\x33\x39\x3b\x63\x81\x83\x85\x89\x8b\x8d\xb8-\xbf\xc1\xc7\xd1\xf7]|\x0f[\xaf\xb6\xb7])"
)
"""A REX.W prefix with an opcode that often has one: as 32-bit code, a DEC before it."""
AROUND = 32
"""Bytes before the instruction in which such a prefix is searched."""
_MOV_CR = b"\x0f\x22"
"""MOV to a control register."""
_CR3_FLAGS = 0x18
"""PWT and PCD."""
_FAR = ("ljmp", "lcall", "jmp ptr", "call ptr")
_NOT_64 = frozenset(("pushal", "popal", "pushaw", "popaw", "aaa", "aas", "aam", "aad", "daa", "das", "into", "bound",
                     "arpl", "les", "lds", "ljmp", "lcall", "salc"))  # fmt: skip
"""Instructions that 64-bit mode does not have; besides these, PUSH and POP of ES, CS, SS and DS."""


def wrong_mode(cpu: Cpu, event: Event | None) -> str:
    """A sentence that says so; "" if nothing is wrong. `event` is what the next instruction raises, as far as known."""
    if not cpu.protected or cpu.registers.rflags & RFLAGS_VM:
        return ""
    for check in (
        _both_bits,
        _long_code_outside,
        _long_code_as_32,
        _short_code_as_64,
        _code_as_16,
        _no_page_tables,
        _long_code_gone,
    ):
        sentence = check(cpu, event)
        if sentence:
            return sentence
    return ""


def _both_bits(cpu: Cpu, _: Event | None) -> str:
    cs = cpu.system.cs
    if not (cpu.long and cs.l and cs.db):
        return ""
    return f"CS {cs.selector:#x} has both L and D set, which is reserved: a 64-bit code segment has L=1 and D=0"


def _long_code_outside(cpu: Cpu, _: Event | None) -> str:
    """CS is a 64-bit code segment, and the CPU is not in long mode."""
    cs, on = cpu.system.cs, cpu.system.cr0 & CR0_PG
    if cpu.long or not cs.l:
        return ""
    why = "EFER.LME was not set before paging was turned on" if on else "paging is not on (CR0.PG is 0)"
    return f"EFER.LMA is 0 and CS has L=1: 64-bit code runs outside of long mode, as {cpu.mode.bits}-bit code; {why}"


def _long_code_as_32(cpu: Cpu, event: Event | None) -> str:
    """Compatibility mode in ring 0, and the code has prefixes of 64-bit code."""
    if not cpu.long or cpu.system.cs.l or cpu.cpl or _far(cpu):
        return ""
    raw = cpu.peek(cpu.pc - AROUND & cpu.width_mask, AROUND + MAX_INSTRUCTION)
    if not _REX_W.search(raw):
        return ""
    sentence = f"EFER.LMA is 1 and CS has L=0: 64-bit code runs as {cpu.mode.bits}-bit code"
    return f"{sentence} (CS is {cpu.system.cs.selector:#x}); in the end {event.why}" if event is not None else sentence


def _long_code_gone(cpu: Cpu, _: Event | None) -> str:
    """Compatibility mode in ring 0, and the CPU is nowhere; not by the instruction that has turned on paging."""
    if not cpu.long or cpu.system.cs.l or cpu.cpl or cpu.system.cs.selector < 4 or cpu.peek(cpu.pc, 1):
        return ""
    try:
        if cpu.read(cpu.pc - 3, 3)[:2] == _MOV_CR:
            return ""
    except (PykvmError, ValueError):  # nothing is there, as it must be
        pass
    sentence = "EFER.LMA is 1 and CS has L=0: most likely 64-bit code has run as 32-bit code"
    return f"{sentence} (CS is {cpu.system.cs.selector:#x}), and has led to {cpu.pc:#x}, where no code is"


def _short_code_as_64(cpu: Cpu, event: Event | None) -> str:
    """64-bit mode, and the instruction is one that only 32-bit code has, or takes an absolute address."""
    if cpu.mode.bits != 64 or event is None or event.vector not in (UD, PF):
        return ""
    code = cpu.peek(cpu.pc, MAX_INSTRUCTION)
    short, long = (next(iter(disassemble(code, cpu.pc, bits, 1)), None) for bits in (32, 64))
    if short is None or long is None:
        return ""
    runs = "32-bit code runs as 64-bit code: EFER.LMA is 1 and CS has L=1"
    name, _, operand = short.text.partition(" ")
    if event.vector == UD and long.text.startswith(".byte"):
        if name in _NOT_64 or (name in ("push", "pop") and operand in ("es", "cs", "ss", "ds")):
            return f"{runs}, and 64-bit mode has no `{short.text}`"
        return ""
    absolute = re.search(r"\[(0x[0-9a-f]+)\]", short.text)
    if event.walk is not None and "[rip + " in long.text and absolute and event.walk.physical is None:
        at = int(absolute[1], 16)
        if cpu.check_page(at) is None:
            return f"Probably {runs}; `{short.text}` became `{long.text}`, and {event.why}"
    return ""


def _code_as_16(cpu: Cpu, event: Event | None) -> str:
    """A code segment of protected mode whose D bit was forgotten, or one that is still real mode's."""
    cs = cpu.system.cs
    if cpu.mode.bits != 16 or cpu.long or _far(cpu):
        return ""
    if cs.base == cs.selector << 4 and (event is None or " loads " not in event.why):
        return (
            f"CS is {cs.selector:#x} and still real mode's: most likely the far jump behind the change of CR0.PE is "
            "missing, and 32-bit code runs as 16-bit code"
        )
    if cs.selector < 4:
        return ""
    found = cpu.descriptor(cs.selector)
    if not isinstance(found, Descriptor) or not found.is_code or (found.base, found.db) != (cs.base, 0):
        return ""
    sure = "" if cpu.registers.rip >> 16 else "probably "
    return f"CS {cs.selector:#x} has D=0, so it is 16-bit code: {sure}32-bit code runs as 16-bit code"


def _no_page_tables(cpu: Cpu, event: Event | None) -> str:
    """Nothing at all is mapped: neither the code, nor the stack, nor the GDT."""
    system = cpu.system
    if event is None or event.vector != PF or event.walk is None or event.walk.physical is not None:
        return ""
    unmapped = [cpu.walk(at).physical is None for at in (cpu.pc, cpu.stack - 8 & cpu.width_mask, system.gdt.base)]
    if not isinstance(fetch(cpu), Event) or not all(unmapped):
        return ""
    table = system.cr3 & ~(PAGE_SIZE - 1)
    try:
        raw = cpu.read(table, PAGE_SIZE)
    except PykvmError:
        what = "there is no RAM there, and CR3 takes a physical address"
    else:
        what = "these are no page tables for the code that runs" if any(raw) else "all entries there are zero"
    return (
        f"CR3 is {system.cr3:#x}, and {what}: the code at {cpu.pc:#x} is not mapped, nor are the stack and the GDT"
        f"{_end_of_walk(cpu)}"
    )


def _end_of_walk(cpu: Cpu) -> str:
    """A clause: which entry it is that leads nowhere; "" if all are zero."""
    levels, offset = cpu.walk(cpu.pc).levels, cpu.system.cr3 & (PAGE_SIZE - 1) & ~_CR3_FLAGS
    if offset and cpu.long and not cpu.system.cr4 >> CR4_BITS["PCIDE"] & 1:
        return (
            f"; a table begins at a page: the lower 12 bits of CR3 are not its address, and here they are {offset:#x}"
        )
    if not levels or not any(level.value for level in levels):
        return ""
    words = [f"the {level.name} is {level.value:#x}" for level in levels]
    absent = "" if levels[-1].value & PTE_P or not levels[-1].value else ", with P=0"
    return f"; {', '.join(words)}{absent}"


def _far(cpu: Cpu) -> bool:
    """Whether the CPU is about to change its code segment: what it runs until then is as it should be."""
    lines = disassemble(cpu.peek(cpu.pc, MAX_INSTRUCTION), cpu.pc, cpu.mode.bits, 1)
    return bool(lines) and lines[0].text.startswith((*_FAR, "retf", "iret"))
