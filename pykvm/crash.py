"""What is known of a guest that crashed: the instruction, the registers, the mode."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from .x86.disasm import Instruction, disassemble
from .x86.mode import cpu_mode
from .x86.registers import Registers, SystemRegisters

if TYPE_CHECKING:
    from .x86.symbols import SymbolTable

_ROWS = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
)


@dataclass(frozen=True, slots=True)
class CrashReport:
    """A crash as data; `str()` of it is what people read."""

    cause: str
    """What ended the run, for example "triple fault"."""
    vcpu: int
    mode: str
    """The CPU's mode in words, for example "64-bit mode, ring 0"."""
    registers: Registers
    system: SystemRegisters
    code: bytes
    """The bytes from the instruction on; empty if they are not in RAM."""
    instruction: Instruction | None
    """The instruction that crashed; None if its bytes cannot be read."""
    symbol: str = ""
    """Where that is by the image's symbols, such as "main+0x12"."""

    @classmethod
    def make(
        cls,
        cause: str,
        vcpu: int,
        registers: Registers,
        system: SystemRegisters,
        code: bytes,
        symbols: SymbolTable | None,
    ) -> Self:
        """The report on a CPU that stands before the instruction `code` begins with."""
        mode = cpu_mode(system, registers.rflags)
        found = symbols.lookup(registers.rip) if symbols else None
        symbol = "" if found is None else found[0] + (f"+{found[1]:#x}" if found[1] else "")
        instruction = next(iter(disassemble(code, registers.rip, mode.bits, 1)), None)
        return cls(cause, vcpu, mode.words, registers, system, code, instruction, symbol)

    @property
    def summary(self) -> str:
        """One line: what happened, where, at which instruction."""
        where = f"{self.registers.rip:#x}" + (f" <{self.symbol}>" if self.symbol else "")
        what = f" ({self.instruction.text})" if self.instruction else ""
        return f"{self.cause} at {where}{what}, CPU {self.vcpu}, {self.mode}"

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON; bytes as hexadecimal text."""
        return {
            "cause": self.cause,
            "vcpu": self.vcpu,
            "mode": self.mode,
            "symbol": self.symbol,
            "code": self.code.hex(),
            "instruction": self.instruction.text if self.instruction else None,
            "registers": asdict(self.registers),
            "system": asdict(self.system),
        }

    def __str__(self) -> str:
        r, s = self.registers, self.system
        wide = bool(s.efer >> 10 & 1)
        digits = 16 if wide else 8
        lines = [
            f"{self.cause} on CPU {self.vcpu}, {self.mode}",
            f"  at {s.cs.selector:04x}:{r.rip:0{digits}x}" + (f" <{self.symbol}>" if self.symbol else ""),
        ]
        if self.instruction is not None:
            lines.append(f"  {self.instruction.code.hex(' '):<32} {self.instruction.text}")
        else:
            lines.append("  the instruction's bytes cannot be read")
        for row in _ROWS if wide else _ROWS[:2]:
            lines.append("  " + "  ".join(f"{name:<3} {getattr(r, name):0{digits}x}" for name in row))
        lines.append(
            f"  rflags {r.rflags:x}  cr0 {s.cr0:x}  cr2 {s.cr2:x}  cr3 {s.cr3:x}  cr4 {s.cr4:x}  efer {s.efer:x}"
        )
        segments = "  ".join(f"{name} {getattr(s, name).selector:04x}" for name in ("cs", "ss", "ds", "es", "fs", "gs"))
        lines.append(f"  {segments}")
        lines.append(f"  gdt {s.gdt.base:x}+{s.gdt.limit:x}  idt {s.idt.base:x}+{s.idt.limit:x}")
        return "\n".join(lines)
