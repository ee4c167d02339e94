"""The registers of an x86 vCPU as plain data, under the names of the Intel and AMD manuals.

Sources: Intel SDM volume 1, 3.4.3 (RFLAGS), volume 3A, 2.2.1 (EFER), 2.5 (control registers) and 3.4 (segment
descriptors); AMD APM volume 2, 3.1.
"""

from __future__ import annotations

from ..data import Data, field

RFLAGS_BITS = {
    "CF": 0, "PF": 2, "AF": 4, "ZF": 6, "SF": 7, "TF": 8, "IF": 9, "DF": 10, "OF": 11, "NT": 14, "RF": 16, "VM": 17,
    "AC": 18, "VIF": 19, "VIP": 20, "ID": 21,
}  # fmt: skip
CR0_BITS = {"PE": 0, "MP": 1, "EM": 2, "TS": 3, "ET": 4, "NE": 5, "WP": 16, "AM": 18, "NW": 29, "CD": 30, "PG": 31}
CR4_BITS = {
    "VME": 0, "PVI": 1, "TSD": 2, "DE": 3, "PSE": 4, "PAE": 5, "MCE": 6, "PGE": 7, "PCE": 8, "OSFXSR": 9,
    "OSXMMEXCPT": 10, "UMIP": 11, "LA57": 12, "VMXE": 13, "SMXE": 14, "FSGSBASE": 16, "PCIDE": 17, "OSXSAVE": 18,
    "SMEP": 20, "SMAP": 21, "PKE": 22, "CET": 23, "PKS": 24,
}  # fmt: skip
EFER_BITS = {"SCE": 0, "LME": 8, "LMA": 10, "NXE": 11, "SVME": 12, "LMSLE": 13, "FFXSR": 14}
"""The bits of RFLAGS, CR0, CR4 and EFER: number by name."""

CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE, CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG = (
    1 << bit for bit in CR0_BITS.values()
)
CR4_PSE, CR4_PAE, CR4_PGE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_LA57, CR4_OSXSAVE, CR4_SMEP, CR4_SMAP = (
    1 << CR4_BITS[name] for name in ("PSE", "PAE", "PGE", "OSFXSR", "OSXMMEXCPT", "LA57", "OSXSAVE", "SMEP", "SMAP")
)
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE = (1 << EFER_BITS[name] for name in ("SCE", "LME", "LMA", "NXE"))
RFLAGS_RESERVED, RFLAGS_TF, RFLAGS_IF, RFLAGS_NT, RFLAGS_RF, RFLAGS_VM, RFLAGS_AC = (
    1 << bit for bit in (1, 8, 9, 14, 16, 17, 18)
)
RFLAGS_IOPL_SHIFT = 12


class Registers(Data):
    """General-purpose registers, RIP and RFLAGS, each an unsigned 64-bit integer."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = RFLAGS_RESERVED


class Segment(Data):
    """A segment register with its hidden part. `limit` is in bytes (the granularity is already applied).

    `type` is the descriptor's 4-bit type, `dpl` 0..3; the others are the descriptor's bits of that name.
    """

    base: int = 0
    limit: int = 0xFFFF
    selector: int = 0
    type: int = 3
    present: int = 1
    dpl: int = 0
    db: int = 0
    s: int = 1
    l: int = 0  # noqa: E741  # the manuals' name
    g: int = 0
    avl: int = 0
    unusable: int = 0


class Table(Data):
    """GDTR or IDTR: linear base address and limit in bytes minus one."""

    base: int = 0
    limit: int = 0


class SystemRegisters(Data):
    """Segment, descriptor-table and control registers, EFER and the local APIC's base."""

    cs: Segment = field(default_factory=Segment)
    ds: Segment = field(default_factory=Segment)
    es: Segment = field(default_factory=Segment)
    fs: Segment = field(default_factory=Segment)
    gs: Segment = field(default_factory=Segment)
    ss: Segment = field(default_factory=Segment)
    tr: Segment = field(default_factory=lambda: Segment(type=11, s=0))
    ldt: Segment = field(default_factory=lambda: Segment(type=2, s=0))
    gdt: Table = field(default_factory=lambda: Table(0, 0xFFFF))
    idt: Table = field(default_factory=lambda: Table(0, 0xFFFF))
    cr0: int = CR0_ET
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    cr8: int = 0
    efer: int = 0
    apic_base: int = 0xFEE00900


def code_bits(system: SystemRegisters) -> int:
    """The default size of instructions, 16, 32 or 64, as CS and EFER.LMA say."""
    if system.efer & EFER_LMA and system.cs.l:
        return 64
    return 32 if system.cs.db else 16


def linear_pc(registers: Registers, system: SystemRegisters) -> int:
    """The linear address that CS:RIP stands for: in 64-bit mode CS has no base, else addresses have 32 bits."""
    if code_bits(system) == 64:
        return registers.rip
    return system.cs.base + registers.rip & 0xFFFFFFFF
