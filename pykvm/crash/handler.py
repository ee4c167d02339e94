"""Whether a CPU that sleeps for ever does so in an exception handler, and what that exception had interrupted.

Many kernels end a fault by `cli; hlt`, which looks like the end of a kernel that has nothing more to do. The evidence
that it is not: on the live part of the stack is a frame as the CPU pushes it (Intel SDM volume 3A, 6.12.1 and 6.14.2),
and the code of one of the handlers in the IDT, followed from its entry with the stack pointer that such a frame
leaves, comes to a call whose return address is where it would be now, or to where the CPU stands. A frame that is left
over from an interrupt of long ago has no such calls below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..x86.cpu import Cpu
from ..x86.descriptors import TASK_GATE, Gate
from ..x86.exceptions import WITH_ERROR_CODE
from .findings import Interrupted, Place
from .frames import ExceptionFrame, frames
from .interrupted import describe, refused
from .interrupts import EXCEPTIONS, NO_INTERRUPTS, Interrupts

MAX_BELOW = 1024
"""Bytes below the stack pointer of now that a handler may have used, and given back, on its way."""
MAX_STEPS, MAX_CODE = 8192, 2048
"""Instructions of handlers that are followed, altogether, and how many different ones."""


class _Point(NamedTuple):
    """A place in a handler's code and the stack pointer there; `rbp` if that is known."""

    address: int
    rsp: int
    rbp: int | None


def find_interrupted(cpu: Cpu, place: Callable[[int], Place], irqs: Interrupts = NO_INTERRUPTS) -> Interrupted | None:
    """What the exception handler that the CPU stands in interrupted; None if it stands in none. Never raises.

    `irqs` tells which of them IRQs come to, by mistake.
    """
    handlers: _Handlers | None = None
    for frame in frames(cpu):
        handlers = handlers or _Handlers(cpu)
        vectors = [
            vector
            for vector in range(EXCEPTIONS)
            if frame.fetch in (None, vector) and handlers.leads_here(vector, frame)
        ]
        as_irqs = [vector for vector in irqs.like_exceptions if handlers.leads_here(vector, frame, interrupt=True)]
        let_in = [vector for vector in irqs.in_service if vector >= EXCEPTIONS and refused(cpu, frame, irqs, vector)]
        let_in = [vector for vector in let_in if handlers.leads_here(vector, frame, interrupt=True)]
        if vectors or as_irqs or let_in:
            return describe(cpu, frame, vectors, as_irqs or let_in, place, irqs)
    return None


class _Handlers:
    """Follows the code of exception handlers."""

    def __init__(self, cpu: Cpu) -> None:
        from ..x86.instruction import decoder

        self._decode = decoder(cpu.mode.bits)
        self._cpu = cpu
        self._width = 8 if cpu.long else 4
        self._steps = 0
        self._decoded: dict[int, Any] = {}

    def leads_here(self, vector: int, frame: ExceptionFrame, *, interrupt: bool = False) -> bool:
        """Whether the CPU may be in the handler of that exception, which pushed `frame`; or, without error code, of an
        `interrupt` at the same vector."""
        cpu, table, size = self._cpu, self._cpu.system.idt, 2 * self._width
        if size * vector + size - 1 > table.limit:
            return False
        raw = cpu.peek(table.base + size * vector, size)
        if len(raw) < size:
            return False
        gate = Gate.parse(raw, cpu.long)
        if not gate.present or not gate.allowed(cpu.long) or gate.type == TASK_GATE:
            return False
        rsp = frame.address - (self._width if vector in WITH_ERROR_CODE and not interrupt else 0)
        waiting = [_Point(gate.offset, rsp, None)]
        seen: set[tuple[int, int]] = set()
        while waiting:
            point = waiting.pop()
            if (point.address, point.rsp) in seen or point.rsp < cpu.stack - MAX_BELOW:
                continue
            self._steps += 1
            if self._steps > MAX_STEPS:
                return False
            seen.add((point.address, point.rsp))
            if point.address == cpu.pc and point.rsp == cpu.stack:
                return True
            insn = self._instruction(point.address)
            if insn is None:
                continue
            if insn.mnemonic == "call" and self._word(point.rsp - self._width) == point.address + insn.size:
                return True
            waiting += self._after(point, insn)
        return False

    def _instruction(self, address: int) -> Any | None:
        if address not in self._decoded:
            code = self._cpu.peek(address, 15)
            self._decoded[address] = self._decode(code, address) if len(self._decoded) < MAX_CODE else None
        return self._decoded[address]

    def _word(self, address: int) -> int | None:
        """What is on the stack, if that is still in use."""
        return self._cpu.peek_int(address, self._width) if address >= self._cpu.stack else None

    def _after(self, point: _Point, insn: Any) -> list[_Point]:
        """Where the CPU may be after one instruction of a handler. A call is expected to come back as it was."""
        from capstone import x86_const as x86

        name, operands = insn.mnemonic, insn.operands
        following = point.address + insn.size
        rsp, rbp = point.rsp, point.rbp
        first = insn.reg_name(operands[0].reg) if operands and operands[0].type == x86.X86_OP_REG else ""
        if x86.X86_GRP_JUMP in insn.groups:
            targets = [operands[0].imm] if operands and operands[0].type == x86.X86_OP_IMM else []
            return [_Point(at, rsp, rbp) for at in (targets if name == "jmp" else [*targets, following])]
        if name in ("ret", "iret", "iretd", "iretq", "retf", "ud2"):
            return []
        if name == "push":
            rsp -= self._width
            if operands[0].type == x86.X86_OP_IMM:
                mask = (1 << 8 * self._width) - 1
                if rsp >= self._cpu.stack and self._word(rsp) != operands[0].imm & mask:
                    return []
        elif name in ("pushf", "pushfd", "pushfq"):
            rsp -= self._width
        elif name in ("pushal", "pushad"):
            rsp -= 8 * self._width
        elif name in ("pop", "popf", "popfd", "popfq"):
            rsp += self._width
            rbp = None if first in ("rbp", "ebp") else rbp
        elif name in ("popal", "popad"):
            rsp, rbp = rsp + 8 * self._width, None
        elif name == "leave":
            if rbp is None:
                return []
            rsp, rbp = rbp + self._width, None
        elif first in ("rsp", "esp"):
            moved = self._moved(point, insn)
            if moved is None:
                return []
            rsp = moved
        elif first in ("rbp", "ebp") and name not in ("cmp", "test"):
            other = insn.reg_name(operands[1].reg) if len(operands) > 1 and operands[1].type == x86.X86_OP_REG else ""
            rbp = rsp if name == "mov" and other in ("rsp", "esp") else None
        return [_Point(following, rsp, rbp)]

    def _moved(self, point: _Point, insn: Any) -> int | None:
        """The stack pointer after an instruction that computes it; None if that is not known."""
        from capstone import x86_const as x86

        source = insn.operands[1] if len(insn.operands) > 1 else None
        if insn.mnemonic in ("cmp", "test"):
            return point.rsp
        if source is None:
            return None
        if source.type == x86.X86_OP_IMM:
            amount: int = source.imm
            if insn.mnemonic == "and":
                return point.rsp & amount
            return {"sub": point.rsp - amount, "add": point.rsp + amount}.get(insn.mnemonic)
        base = source.mem.base if source.type == x86.X86_OP_MEM else source.reg
        if insn.mnemonic not in ("lea", "mov") or (insn.mnemonic == "mov") != (source.type == x86.X86_OP_REG):
            return None
        values = {"rsp": point.rsp, "esp": point.rsp, "rbp": point.rbp, "ebp": point.rbp}
        start = values.get(insn.reg_name(base) or "")
        if start is None or (source.type == x86.X86_OP_MEM and source.mem.index):
            return None
        return start + (source.mem.disp if source.type == x86.X86_OP_MEM else 0)
