"""Finds the instruction that left the guest.

RIP alone does not tell. An `out` leaves RIP on itself where KVM has the CPU's own exit (VMX, SVM), and past itself
where KVM emulates; a write to memory-mapped registers is always emulated, and leaves RIP past itself; all others leave
it on themselves, and so does a string instruction that is not done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from ..crash.source import source_lines
from ..kvm import VCPU
from ..kvm.quirks import out_moves_rip
from ..kvm.vcpu import Position
from ..machine import Machine
from ..memory import PAGE_SIZE, GuestMemoryError
from ..x86.cpu import Cpu
from ..x86.disasm import MAX_INSTRUCTION, Instruction, disassemble
from ..x86.registers import Registers
from .event import Site

KNOWN_LIMIT = 1 << 14
"""Places whose instruction is remembered; when there are more, all are forgotten."""
FUNCTION_LIMIT = 4096
"""Bytes of a function that are disassembled from its beginning to find an instruction's."""

OTHER, INPUT, OUTPUT, STORE = "other", "input", "output", "store"
"""What kind of instruction is looked for: STORE is a write to memory."""

_SIZES = {1: "byte ptr", 2: "word ptr", 4: "dword ptr", 8: "qword ptr"}


class _Known(NamedTuple):
    at: int
    """Offset of its code in the memory's map, as far as that is in one page."""
    code: bytes
    site: Site


class Sites:
    """The places in `machine` that its vCPUs have left the guest at; with their source `lines` if that is asked."""

    def __init__(self, machine: Machine, lines: bool = False) -> None:
        self._memory = machine.memory
        self._symbols = machine.symbols
        self._known: dict[tuple[Position, str, int], _Known] = {}
        self._reading = threading.Lock()  # several vCPUs' threads read symbols and lines, which are not made for it
        self._lines = source_lines(self._symbols) if lines and self._symbols is not None else None
        self._past = out_moves_rip()
        disassemble(b"\x90", 0, 64)  # not at the first exit: it takes a tenth of a second to import

    def find(self, vcpu: VCPU, position: Position, kind: str, size: int = 0, port: int = 0) -> Site:
        """The site of an exit of `vcpu` that is at `position`. `size` is that of the access, in bytes."""
        key = (position, kind, port if kind == OUTPUT else size)
        known = self._known.get(key)
        if known is not None and self._memory.map[known.at : known.at + len(known.code)] == known.code:
            return known.site
        # The walk is ours: KVM's own would set accessed bits in the guest's page tables.
        cpu = Cpu(Registers(), vcpu.get_system_registers(), self._memory.read)
        instruction = self._look(cpu, position, kind, size, port)
        if instruction is None:
            return self.site(position.linear, b"", "")
        site = self.site(instruction.address, instruction.code, instruction.text)
        physical = cpu.walk(site.address).physical
        if physical is not None:
            if len(self._known) >= KNOWN_LIMIT:
                self._known.clear()
            code = site.code[: PAGE_SIZE - physical % PAGE_SIZE]
            with suppress(GuestMemoryError):  # code in a ROM that is no RAM
                self._known[key] = _Known(self._memory.offset(physical, len(code)), code, site)
        return site

    def site(self, address: int, code: bytes, text: str) -> Site:
        """A site with its symbol."""
        with self._reading:
            found = self._symbols.lookup(address) if self._symbols is not None else None
            source = self._lines.lookup(address) if self._lines is not None else ""
        symbol = "" if found is None else found[0] + (f"+{found[1]:#x}" if found[1] else "")
        return Site(address, symbol, code, text, source)

    def _look(self, cpu: Cpu, position: Position, kind: str, size: int, port: int) -> Instruction | None:
        linear, bits = position.linear, position.bits
        code = cpu.peek(linear, MAX_INSTRUCTION)
        here = next(iter(disassemble(code, linear, bits, 1)), None)
        if kind in (OTHER, INPUT):
            return here

        def fits(instruction: Instruction) -> bool:
            if kind == OUTPUT:
                return _is_output(instruction, port)
            return _SIZES.get(size, "") in instruction.text

        if here is not None and fits(here) and (
            here.text.startswith("rep") or (kind == OUTPUT and not self._past)
        ):  # fmt: skip
            return here
        return self._before(cpu, linear, bits, fits) or here

    def _before(self, cpu: Cpu, linear: int, bits: int, fits: Callable[[Instruction], bool]) -> Instruction | None:
        """The instruction that ends at `linear`: found from its function, else the longest that fits."""
        with self._reading:
            found = self._symbols.lookup(linear - 1) if self._symbols is not None else None
        if found is not None and found[1] < FUNCTION_LIMIT:
            size = found[1] + 1
            code = cpu.peek(linear - size, size)
            if len(code) == size:
                last = disassemble(code, linear - size, bits)[-1]
                if fits(last):
                    return last
        code = cpu.peek(linear - MAX_INSTRUCTION, MAX_INSTRUCTION)
        if len(code) < MAX_INSTRUCTION:  # the page before is not there
            at = linear - linear % PAGE_SIZE
            code = cpu.peek(at, linear - at)
            code = code[-MAX_INSTRUCTION:] if at + len(code) == linear else b""
        for length in range(len(code), 0, -1):
            last = disassemble(code[-length:], linear - length, bits, 1)[0]
            if len(last.code) == length and fits(last):
                return last
        return None


def _is_output(instruction: Instruction, port: int) -> bool:
    name, _, operands = instruction.text.partition(" ")
    if name == "out":
        target = operands.partition(",")[0]
        return target == "dx" or (target[:1].isdigit() and int(target, 0) == port)
    return name.startswith("outs") or (name.startswith("rep") and operands.startswith("outs"))
