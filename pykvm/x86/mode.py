"""Which mode a CPU is in, from its registers alone.

Sources: Intel SDM volume 3A, 2.2 (modes of operation) and 3.4.5 (the D/B and L bits of a code segment); AMD APM
volume 2, 1.3.
"""

from __future__ import annotations

from ..typed import NamedTuple
from .registers import CR0_PE, EFER_LMA, RFLAGS_VM, SystemRegisters, code_bits


class Mode(NamedTuple):
    """`words` names the mode, `bits` (16, 32 or 64) is the default size of its instructions, `ring` is 0..3."""

    words: str
    bits: int
    ring: int


def cpu_mode(system: SystemRegisters, rflags: int) -> Mode:
    """The mode of a CPU with these registers; no combination of them is an error.

    Real mode has 32-bit code if it was entered from protected mode with such a segment still loaded ("unreal mode").
    """
    bits = code_bits(system)
    if system.efer & EFER_LMA:
        if bits == 64:
            return Mode("64-bit mode", 64, system.ss.dpl)
        return Mode(f"compatibility mode, {bits}-bit", bits, system.ss.dpl)
    if not system.cr0 & CR0_PE:
        return Mode("real mode" if bits == 16 else "real mode, 32-bit code", bits, 0)
    if rflags & RFLAGS_VM:
        return Mode("virtual-8086 mode", 16, 3)
    return Mode(f"protected mode, {bits}-bit", bits, system.ss.dpl)
