"""An instruction that a CPU stands before, taken apart by capstone: its operands, and what they are worth now.

Source: Intel SDM volume 2, chapter 2 (instruction format) and volume 1, 3.7 (operand addressing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import capstone
from capstone import x86_const as x86

from .cpu import Cpu
from .exceptions import GP, Event

_MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")


class Unreadable(Exception):
    """Memory that the answer depends on is not RAM."""


def decoder(bits: int) -> Callable[[bytes, int], Any | None]:
    """A function of code and its address: the first instruction with all its details, as capstone gives it, if any."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, _MODES[bits])
    engine.detail = True
    return lambda code, address: next(engine.disasm(code, address, 1), None)


class Decoded:
    """The instruction `insn`, as capstone gives it, before `cpu`."""

    def __init__(self, cpu: Cpu, insn: Any) -> None:
        self.cpu, self.insn = cpu, insn
        self.name: str = insn.mnemonic.split()[-1]
        self.text = f"`{insn.mnemonic} {insn.op_str}`".replace(" `", "`")
        if insn.opcode[0] == 0xFF and self.name in ("jmp", "call") and insn.modrm >> 3 & 7 in (3, 5):
            self.name, self.text = f"l{self.name}", f"`l{self.text[1:]}"  # capstone calls many of the far ones so
        self.operands = insn.operands
        wide = insn.prefix[2] == 0x66
        bits = cpu.mode.bits
        self.width = 2 if wide else 8 if bits == 64 else 4 if bits == 32 else 2
        if bits == 16 and wide:
            self.width = 4

    def event(self, vector: int, code: int | None, does: str, **more: Any) -> Event:
        """An exception of this instruction, which `does` what is told. Real mode has no error codes."""
        return Event(vector, code if self.cpu.protected else None, f"{self.text} {does}", **more)

    def about(self, event: Event | None, verb: str) -> Event | None:
        """An access's exception as this instruction's."""
        return replace(event, why=f"{self.text} {verb} {event.why}") if event is not None else None

    def register(self, name: str) -> int:
        """What a register holds."""
        return read_register(self.cpu, name)

    def offset(self, memory: Any) -> tuple[str, int]:
        """The segment and the offset in it of an operand in memory."""
        insn = self.insn
        base = insn.reg_name(memory.base) if memory.base else ""
        index = insn.reg_name(memory.index) if memory.index else ""
        at = memory.disp + (self.register(index) * memory.scale if index not in ("", "riz", "eiz") else 0)
        if base in ("rip", "eip"):
            at += self.cpu.registers.rip + insn.size
        elif base:
            at += self.register(base)
        if memory.segment:
            segment = insn.reg_name(memory.segment)
        else:
            segment = "ss" if base in ("rsp", "esp", "sp", "rbp", "ebp", "bp") else "ds"
        return segment, at & (1 << 8 * insn.addr_size) - 1

    def value(self, operand: Any) -> int:
        """What an operand is now; Unreadable if memory does not say."""
        if operand.type == x86.X86_OP_IMM:
            return int(operand.imm)
        if operand.type == x86.X86_OP_REG:
            return self.register(self.insn.reg_name(operand.reg))
        return self.load(*self.offset(operand.mem), operand.size)

    def load(self, segment: str, offset: int, size: int) -> int:
        """The number there; Unreadable if it cannot be read."""
        value = self.cpu.peek_int(self.cpu.linear(segment, offset), size)
        if value is None:
            raise Unreadable
        return value

    def outside(self, target: int, limit: int, verb: str, long_code: bool | None = None) -> Event | None:
        """#GP for a jump's target that no code can be at."""
        if self.cpu.mode.bits == 64 if long_code is None else long_code:
            if not self.cpu.canonical(target):
                return self.event(GP, 0, f"{verb} {target:#x}, which is not a canonical address")
        elif target > limit:
            return self.event(GP, 0, f"{verb} {target:#x}, beyond the code segment's limit {limit:#x}")
        return None


_WHOLE = {
    "a": "rax",
    "b": "rbx",
    "c": "rcx",
    "d": "rdx",
    "si": "rsi",
    "di": "rdi",
    "bp": "rbp",
    "sp": "rsp",
    "ip": "rip",
}


def read_register(cpu: Cpu, name: str) -> int:
    """The value of the register that has this name, in any width; Unreadable if it is none of `cpu`'s."""
    if name in SEGMENTS:
        return int(getattr(cpu.system, name).selector)
    if name in ("cr0", "cr2", "cr3", "cr4", "cr8"):
        return int(getattr(cpu.system, name))
    if name[0] == "r" and name[1:2].isdigit():
        number, mask = name.rstrip("dwb"), {"d": 0xFFFFFFFF, "w": 0xFFFF, "b": 0xFF}.get(name[-1], (1 << 64) - 1)
        return int(getattr(cpu.registers, number)) & mask
    if name in ("rip", "eip", "ip"):
        return cpu.registers.rip
    for stem, whole in _WHOLE.items():
        value: int = getattr(cpu.registers, whole)
        long_stem = f"{stem}x" if len(stem) == 1 else stem
        if name == f"r{long_stem}":
            return value
        if name == f"e{long_stem}":
            return value & 0xFFFFFFFF
        if name == long_stem:
            return value & 0xFFFF
        if name == f"{stem}l":
            return value & 0xFF
        if name == f"{stem}h":
            return value >> 8 & 0xFF
    raise Unreadable
