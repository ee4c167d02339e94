"""The registers of an x86 vCPU as plain data, under the names of the Intel and AMD manuals.

Sources: Intel SDM volume 3A, sections 2.5 (control registers) and 3.4 (segment descriptors); AMD APM volume 2, 3.1.
"""

from __future__ import annotations

from ..data import Data, field

CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG = 1 << 16, 1 << 18, 1 << 29, 1 << 30, 1 << 31
CR4_PSE, CR4_PAE, CR4_PGE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_LA57 = 1 << 4, 1 << 5, 1 << 7, 1 << 9, 1 << 10, 1 << 12
CR4_OSXSAVE, CR4_SMEP, CR4_SMAP = 1 << 18, 1 << 20, 1 << 21
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE = 1 << 0, 1 << 8, 1 << 10, 1 << 11
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
