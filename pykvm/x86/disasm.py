"""Machine code in words, in Intel syntax, through capstone, which is imported at the first use only."""

from __future__ import annotations

from typing import NamedTuple

MAX_INSTRUCTION = 15
"""No x86 instruction is longer, in bytes (Intel SDM volume 2A, 2.3.11)."""


class Instruction(NamedTuple):
    """One instruction: its linear `address`, its `code`, and its `text`, which is ".byte 0x.." where there is none."""

    address: int
    code: bytes
    text: str

    def __str__(self) -> str:
        return f"{self.address:#x}: {self.code.hex(' '):<24} {self.text}"


def disassemble(code: bytes, address: int, bits: int, count: int | None = None) -> list[Instruction]:
    """The instructions in `code`, of which the first byte is at `address`, at most `count` of them.

    `bits` (16, 32 or 64) is the code's width; ValueError for another. Bytes that are no instruction, or only the
    beginning of one that `code` cuts off, come out one by one as ".byte".
    """
    import capstone

    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    if bits not in modes:
        raise ValueError(f"x86 code has 16, 32 or 64 bits, not {bits}")
    if count is not None and count <= 0:  # capstone takes 0 for "all"
        return []
    engine = capstone.Cs(capstone.CS_ARCH_X86, modes[bits])
    engine.skipdata = True
    found = engine.disasm_lite(code, address, count or 0)
    instructions = []
    at = 0
    for where, size, name, operands in found:
        instructions.append(Instruction(where, code[at : at + size], f"{name} {operands}".rstrip()))
        at += size
    return instructions
