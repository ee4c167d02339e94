"""The checks of a selector that an instruction loads: into a segment register, into TR, or into CS by a far transfer.

Sources: Intel SDM volume 3A, 5.5 to 5.8 (privilege levels, data segments, control transfers), and volume 2, MOV, POP,
LTR, JMP, CALL, RET, IRET; AMD APM volume 2, 4.11.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from capstone import x86_const as x86

from .descriptors import CONFORMING, LDT_TYPE, NULL_SELECTORS, RPL, TASK_GATE, TI, TSS_TYPES, WRITABLE, Descriptor
from .exceptions import GP, NP, SS, UD, Event
from .instruction import SEGMENTS, Decoded
from .registers import RFLAGS_NT, RFLAGS_RESERVED, RFLAGS_VM

BIOS_SEGMENT = (0xF000).to_bytes(2, "little")
_FLAGS = 0x3F7FD5
"""Bits of RFLAGS that may be set or not."""
_TARGETS, _LONG_TARGETS = (1, 4, TASK_GATE, 9, 12), (12,)
"""The system descriptors that a far jump or call may go to: tasks that are not busy, call gates, task gates."""


class Selectors(Decoded):
    """An instruction whose selector is to be checked. Each method gives the exception, or None."""

    def event(self, vector: int, code: int | None, does: str, **more: Any) -> Event:
        """As of any instruction; of what was found in a GDT at 0 that is none, no word is said."""
        gdt = self.cpu.system.gdt
        if code and not code & TI and gdt.base == 0 and "GDT is at" not in does and self._is_vectors(code):
            names = does.split(", which")[0].split(" (")[0]
            does = (
                f"{names}, and that GDT entry is empty but for real mode's interrupt vectors: the GDT is at 0x0, limit "
            )
            does += f"{gdt.limit:#x}"
        return super().event(vector, code, does, **more)

    def _is_vectors(self, at: int) -> bool:
        """Whether two vectors into a BIOS are at a linear address."""
        entry = self.cpu.peek(at, 8)
        return entry[2:4] == entry[6:8] == BIOS_SEGMENT

    def far_target(self) -> Event | None:
        if not self.cpu.protected:
            return None
        if len(self.operands) == 2:
            selector, target = (operand.imm for operand in self.operands)
        else:
            operand = self.operands[0]
            segment, offset = self.offset(operand.mem)
            size = 8 if self.insn.rex & 8 else min(self.width, 4)
            target = self.load(segment, offset, size)
            selector = self.load(segment, offset + size, 2)
        return self.code_selector(selector & 0xFFFF, target, "jumps to", outward=False)

    def nothing_there(self, selector: int) -> str:
        """The words for a selector whose entry is empty."""
        table, base, limit = self.cpu.selector_table(selector)
        return f", and that {table} entry is empty: the {table} is at {base:#x}, limit {limit:#x}"

    def through_gate(self, selector: int, found: Descriptor, verb: str) -> Event | None:
        """The checks of a far jump or call that goes to a gate or a task. The task switch itself is not followed."""
        cpu, code = self.cpu, selector & ~RPL
        what = f"{verb} {selector:#x} ({found.words})"
        if found.dpl < max(cpu.cpl, selector & RPL):
            return self.event(GP, code, f"{what}, which ring {cpu.cpl} must not use")
        if not found.present:
            return self.event(NP, code, f"{what}, which is marked not present")
        if found.type in TSS_TYPES:
            return None
        named = found.base & 0xFFFF  # a gate has its selector where a segment has the base
        what = f"{what}, which names {named:#x}"
        target = cpu.descriptor(named)
        if isinstance(target, Event):
            return self.about(target, f"{verb} {selector:#x} ({found.words}), which names")
        if target.empty:
            return self.event(GP, named & ~RPL, f"{what}{self.nothing_there(named)}")
        if found.type == TASK_GATE:
            right = not target.s and target.type in (1, 9)
        else:
            right = target.is_code and target.dpl <= cpu.cpl and (not cpu.long or bool(target.l and not target.db))
        if not right:
            return self.event(GP, named & ~RPL, f"{what}, which is {target.words}")
        if not target.present:
            return self.event(NP, named & ~RPL, f"{what}, which is marked not present")
        return None

    def far_return(self) -> Event | None:
        if not self.cpu.protected:
            return None
        at = self.cpu.registers.rsp & self.cpu.stack_mask
        target, selector = self.load("ss", at, self.width), self.load("ss", at + self.width, 2)
        return self.code_selector(selector, target, "returns to", outward=True)

    def code_selector(self, selector: int, target: int, verb: str, *, outward: bool) -> Event | None:
        """The checks of CS for a far jump, or a return (`outward`), which may lead to a less privileged ring."""
        cpu = self.cpu
        what = f"{verb} code segment {selector:#x}"
        if selector in NULL_SELECTORS:
            return self.event(GP, 0, f"{verb} code segment {selector:#x}, the null selector")
        code = selector & ~RPL
        found = cpu.descriptor(selector)
        if isinstance(found, Event):
            return self.about(found, f"{verb} code segment")
        if not found.is_code:
            if not found.s and not outward and found.type in (_LONG_TARGETS if cpu.long else _TARGETS):
                return self.through_gate(selector, found, verb)
            if found.empty:
                return self.event(GP, code, f"{what}{self.nothing_there(selector)}")
            return self.event(GP, code, f"{what}, which is {found.words}")
        if cpu.long and found.l and found.db:
            return self.event(GP, code, f"{what}, which has both L and D set")
        rpl = selector & RPL
        if outward:
            refused = rpl < cpu.cpl or (found.dpl > rpl if found.type & CONFORMING else found.dpl != rpl)
        elif found.type & CONFORMING:
            refused = found.dpl > cpu.cpl
        else:
            refused = rpl > cpu.cpl or found.dpl != cpu.cpl
        if refused:
            return self.event(GP, code, f"{what} ({found.words}), which ring {cpu.cpl} must not go to")
        if not found.present:
            return self.event(NP, code, f"{what}, which is marked not present")
        return self.outside(target, found.limit, verb, bool(cpu.long and found.l))

    def interrupt_return(self) -> Event | None:
        cpu = self.cpu
        if not cpu.protected:
            return None
        width = {"iret": 2, "iretd": 4, "iretq": 8}[self.name]
        at = cpu.registers.rsp & cpu.stack_mask

        def word(number: int) -> int:
            return self.load("ss", at + number * width & cpu.stack_mask, width)

        if cpu.registers.rflags & RFLAGS_NT:
            return (
                self.event(GP, 0, "returns from a task that long mode does not have (NT is set)") if cpu.long else None
            )
        rip, selector, flags = word(0), word(1) & 0xFFFF, word(2)
        if not cpu.long and flags & RFLAGS_VM:
            return None
        event = self.code_selector(selector, rip, "returns to", outward=True)
        if event is not None:
            mistake = self.misplaced_frame(at, width)
            return replace(
                event,
                why=f"{self.text} {mistake}: it {event.why.removeprefix(self.text).strip()}" if mistake else event.why,
            )
        if cpu.mode.bits == 64 or selector & RPL > cpu.cpl:
            stack = word(4) & 0xFFFF
            ring = selector & RPL
            if stack in NULL_SELECTORS and cpu.long and ring < 3 and stack & RPL == ring:
                return None
            return self.stack_selector(stack, ring, "returns to the stack segment")
        return None

    def misplaced_frame(self, at: int, width: int) -> str:
        """What is wrong with the stack, if a frame is near, but not where the instruction takes it."""
        cpu = self.cpu
        stack = cpu.linear("ss", at)
        if cpu.mode.bits == 64 and width != 8 and self.is_frame(stack, 8):
            return "takes words of 32 bits where the CPU has pushed 64: `iretq` is meant"
        if self.is_frame(stack + width, width):
            taken = cpu.peek_int(stack, width) or 0
            code = taken < 1 << 16 and (not taken or not taken & 7 or taken & 7 in (1, 2, 3, 4))
            what = "an error code that is still on the stack" if code else "a word that was pushed and is still there"
            return f"takes {taken:#x} for RIP, most likely {what}"
        if self.is_frame(stack - width, width):
            return "takes CS for RIP: a word too much was taken from the stack, as an error code that never was"
        return ""

    def is_frame(self, at: int, width: int) -> bool:
        """Whether RIP, CS and RFLAGS are at a linear address, as an interrupt pushes them."""
        cpu = self.cpu
        rip, selector, flags = (cpu.peek_int(at + number * width, width) for number in range(3))
        if rip is None or selector is None or flags is None:
            return False
        found = cpu.descriptor(selector) if 3 < selector < 1 << 16 else None
        code = isinstance(found, Descriptor) and found.is_code and bool(found.present)
        return code and flags & ~_FLAGS == RFLAGS_RESERVED and cpu.check_linear(rip, 1, fetch=True) is None

    def stack_selector(self, selector: int, ring: int, verb: str) -> Event | None:
        if selector in NULL_SELECTORS:
            return self.event(GP, 0, f"{verb} {selector:#x}, the null selector")
        code = selector & ~RPL
        found = self.cpu.descriptor(selector)
        if isinstance(found, Event):
            return self.about(found, verb)
        if found.empty:
            return self.event(GP, code, f"{verb} {selector:#x}{self.nothing_there(selector)}")
        if selector & RPL != ring or found.dpl != ring or not found.is_writable_data:
            return self.event(GP, code, f"{verb} {selector:#x} ({found.words}), which is no stack of ring {ring}")
        if not found.present:
            return self.event(SS, code, f"{verb} {selector:#x}, which is marked not present")
        return None

    def load_task_register(self) -> Event | None:
        selector = self.value(self.operands[0]) & 0xFFFF
        if selector in NULL_SELECTORS:
            return self.event(GP, 0, "loads TR with the null selector")
        found = self.cpu.descriptor(selector)
        if isinstance(found, Event):
            return self.about(found, "loads TR with")
        if found.empty:
            return self.event(GP, selector & ~RPL, f"loads TR with {selector:#x}{self.nothing_there(selector)}")
        if found.s or found.type not in (1, 9):
            busy = ": a TSS can be loaded only once" if not found.s and found.type in TSS_TYPES else ""
            return self.event(GP, selector & ~RPL, f"loads TR with {selector:#x} ({found.words}){busy}")
        if not found.present:
            return self.event(NP, selector & ~RPL, f"loads TR with {selector:#x}, which is marked not present")
        return None

    def load_local_table(self) -> Event | None:
        selector = self.value(self.operands[0]) & 0xFFFF
        if selector in NULL_SELECTORS:
            return None
        what = f"loads LDTR with {selector:#x}"
        if selector & TI:
            return self.event(GP, selector & ~RPL, f"{what}, a selector of the LDT itself")
        found = self.cpu.descriptor(selector)
        if isinstance(found, Event):
            return self.about(found, "loads LDTR with")
        if found.empty:
            return self.event(GP, selector & ~RPL, f"{what}{self.nothing_there(selector)}")
        if found.s or found.type != LDT_TYPE:
            return self.event(GP, selector & ~RPL, f"{what} ({found.words}), which is no LDT")
        if not found.present:
            return self.event(NP, selector & ~RPL, f"{what}, which is marked not present")
        return None

    def load_far_pointer(self) -> Event | None:
        """LSS and its like: the selector stands behind the offset."""
        register, operand = self.operands
        segment, offset = self.offset(operand.mem)
        return self.segment(self.name[1:], self.load(segment, offset + register.size, 2))

    def pop_segment(self) -> Event | None:
        name = self.insn.reg_name(self.operands[0].reg) if self.operands[0].type == x86.X86_OP_REG else ""
        if name not in SEGMENTS:
            return None
        return self.segment(name, self.load("ss", self.cpu.registers.rsp & self.cpu.stack_mask, 2))

    def segment(self, name: str, selector: int) -> Event | None:
        """The checks of a data segment register's load."""
        cpu = self.cpu
        verb = f"loads {name} with"
        if not cpu.protected:
            return None
        if name == "cs":
            return self.event(UD, None, "loads CS, which only jumps may")
        if name == "ss":
            if selector in NULL_SELECTORS and cpu.mode.bits == 64 and cpu.cpl < 3 and selector & RPL == cpu.cpl:
                return None
            return self.stack_selector(selector, cpu.cpl, verb)
        if selector in NULL_SELECTORS:
            return None
        found = cpu.descriptor(selector)
        if isinstance(found, Event):
            return self.about(found, verb)
        code = selector & ~RPL
        if found.empty:
            return self.event(GP, code, f"{verb} {selector:#x}{self.nothing_there(selector)}")
        if not found.s or (found.is_code and not found.type & WRITABLE):
            return self.event(GP, code, f"{verb} {selector:#x} ({found.words}), which cannot be read")
        if not (found.is_code and found.type & CONFORMING) and max(selector & RPL, cpu.cpl) > found.dpl:
            return self.event(GP, code, f"{verb} {selector:#x} ({found.words}), which ring {cpu.cpl} must not use")
        if not found.present:
            return self.event(NP, code, f"{verb} {selector:#x}, which is marked not present")
        return None
