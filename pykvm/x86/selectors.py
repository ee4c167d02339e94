"""The checks of a selector that an instruction loads: into a segment register, into TR, or into CS by a far transfer.

Sources: Intel SDM volume 3A, 5.5 to 5.8 (privilege levels, data segments, control transfers), and volume 2, MOV, POP,
LTR, JMP, CALL, RET, IRET; AMD APM volume 2, 4.11.
"""

from __future__ import annotations

from capstone import x86_const as x86

from .descriptors import CONFORMING, NULL_SELECTORS, RPL, TSS_TYPES, WRITABLE
from .exceptions import GP, NP, SS, UD, Event
from .instruction import SEGMENTS, Decoded
from .registers import RFLAGS_NT, RFLAGS_VM


class Selectors(Decoded):
    """An instruction whose selector is to be checked. Each method gives the exception, or None."""

    def far_target(self) -> Event | None:
        if not self.cpu.protected:
            return None
        if len(self.operands) == 2:
            selector, target = (operand.imm for operand in self.operands)
        else:
            operand = self.operands[0]
            segment, offset = self.offset(operand.mem)
            size = max(operand.size - 2, 2)
            target = self.load(segment, offset, size)
            selector = self.load(segment, offset + size, 2)
        return self.code_selector(selector & 0xFFFF, target, "jumps to", outward=False)

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
            if not found.s and not outward:
                return None  # a gate or a task: not followed
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
            return event
        if cpu.mode.bits == 64 or selector & RPL > cpu.cpl:
            stack = word(4) & 0xFFFF
            ring = selector & RPL
            if stack in NULL_SELECTORS and cpu.long and ring < 3 and stack & RPL == ring:
                return None
            return self.stack_selector(stack, ring, "returns to the stack segment")
        return None

    def stack_selector(self, selector: int, ring: int, verb: str) -> Event | None:
        if selector in NULL_SELECTORS:
            return self.event(GP, 0, f"{verb} {selector:#x}, the null selector")
        code = selector & ~RPL
        found = self.cpu.descriptor(selector)
        if isinstance(found, Event):
            return self.about(found, verb)
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
        if found.s or found.type not in (1, 9):
            busy = ": a TSS can be loaded only once" if not found.s and found.type in TSS_TYPES else ""
            return self.event(GP, selector & ~RPL, f"loads TR with {selector:#x} ({found.words}){busy}")
        if not found.present:
            return self.event(NP, selector & ~RPL, f"loads TR with {selector:#x}, which is marked not present")
        return None

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
        if not found.s or (found.is_code and not found.type & WRITABLE):
            return self.event(GP, code, f"{verb} {selector:#x} ({found.words}), which cannot be read")
        if not (found.is_code and found.type & CONFORMING) and max(selector & RPL, cpu.cpl) > found.dpl:
            return self.event(GP, code, f"{verb} {selector:#x} ({found.words}), which ring {cpu.cpl} must not use")
        if not found.present:
            return self.event(NP, code, f"{verb} {selector:#x}, which is marked not present")
        return None
