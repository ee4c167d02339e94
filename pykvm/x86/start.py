"""The CPU states in which a guest may be started, complete and consistent enough for VMX and SVM to enter them.

Sources: Intel SDM volume 3A, 9.1 (state after reset), 9.8 and 9.9 (what each mode needs); volume 3C, 26.3.1 (the
checks on guest state at a VM entry); AMD APM volume 2, 14.1 and 15.5. Every state here has interrupts off. In protected
and long mode the IDT is empty, so that an exception before the guest has its own becomes a clean triple fault.

These functions only compute: whoever calls them puts the descriptor table and the page tables into memory.
"""

from __future__ import annotations

import struct

from .registers import (
    CR0_CD,
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    Registers,
    Segment,
    SystemRegisters,
    Table,
)

REAL_MODE_TOP = 1 << 20
"""Real mode's addresses end here: 1 MiB."""

CODE_SELECTOR, DATA_SELECTOR = 0x08, 0x10
GDT_SIZE = 0x18

_CODE, _DATA = 11, 3
"""Descriptor types: execute/read and read/write, both already accessed, so that the CPU need not write to the GDT."""


def _flat(selector: int, kind: int, *, long_code: bool = False) -> Segment:
    """A 4 GiB ring 0 segment. Long mode wants L=1 with D/B=0 in code, and ignores both in data."""
    return Segment(selector=selector, limit=0xFFFFFFFF, type=kind, g=1, l=int(long_code), db=int(not long_code))


def _descriptor(segment: Segment) -> bytes:
    """The 8 bytes of a segment descriptor (SDM volume 3A, figure 3-8)."""
    limit = segment.limit >> 12 if segment.g else segment.limit
    access = segment.present << 7 | segment.dpl << 5 | segment.s << 4 | segment.type
    flags = segment.g << 3 | segment.db << 2 | segment.l << 1 | segment.avl
    return struct.pack(
        "<HHBBBB",
        limit & 0xFFFF,
        segment.base & 0xFFFF,
        segment.base >> 16 & 0xFF,
        access,
        flags << 4 | limit >> 16,
        segment.base >> 24,
    )


def flat_gdt(bits: int) -> bytes:
    """The GDT that `protected_mode` (`bits` 32) and `long_mode` (64) rely on: null, code at 0x08, data at 0x10."""
    code = _flat(CODE_SELECTOR, _CODE, long_code=bits == 64)
    return bytes(8) + _descriptor(code) + _descriptor(_flat(DATA_SELECTOR, _DATA))


def far(address: int) -> tuple[int, int]:
    """Segment and offset of a physical address below 1 MiB, else ValueError.

    The first 64 KiB are 0000:address, as boot sectors expect (0000:7C00); above, the segment is the highest there is,
    so that as much as possible can be reached behind the address.
    """
    if not 0 <= address < REAL_MODE_TOP:
        raise ValueError(f"{address:#x} is not in the first MiB, the only one that real mode reaches")
    return (0, address) if address < 0x10000 else (address >> 4, address & 0xF)


def real_mode(entry: int, stack: int = 0x7C00) -> tuple[Registers, SystemRegisters]:
    """Real mode at the physical address `entry`, with the stack below the physical address `stack` (a multiple of 16).

    DS and ES are CS. ValueError if either address is beyond 1 MiB.
    """
    code, offset = far(entry)
    if stack % 16 or not 0 < stack <= REAL_MODE_TOP:
        raise ValueError(f"a real-mode stack cannot end at {stack:#x}")
    # Above 64 KiB SP is as high as it can be, so that as much as possible can be reached below it.
    stack_segment = max(stack - 0xFFF0, 0) >> 4
    system = SystemRegisters(
        cs=_real_segment(code, _CODE),
        ss=_real_segment(stack_segment),
        idt=Table(0, 0x3FF),  # the interrupt vector table: 256 far pointers
        ds=_real_segment(code),
        es=_real_segment(code),
    )
    return Registers(rip=offset, rsp=stack - (stack_segment << 4)), system


def _real_segment(selector: int, kind: int = _DATA) -> Segment:
    return Segment(base=selector << 4, selector=selector, type=kind)


def reset() -> tuple[Registers, SystemRegisters]:
    """The state after RESET#: F000:FFF0 with the code segment's base 0xFFFF0000, so the last 16 bytes below 4 GiB.

    DX is what CPUID leaf 1 gives in EAX on a CPU of family 6; caching is off (SDM volume 3A, table 9-1).
    """
    system = SystemRegisters(cs=Segment(base=0xFFFF0000, selector=0xF000, type=_CODE), cr0=CR0_ET | CR0_NW | CR0_CD)
    return Registers(rip=0xFFF0, rdx=0x600), system


def protected_mode(entry: int, stack: int, gdt: int) -> tuple[Registers, SystemRegisters]:
    """32-bit protected mode, ring 0, flat 4 GiB segments, no paging: what Multiboot and PVH promise their kernels.

    `stack` is the first address above the stack, `gdt` where `flat_gdt(32)` is in memory.
    """
    system = _flat_segments(gdt, long_code=False)
    system.cr0 = CR0_PE | CR0_ET
    return Registers(rip=entry, rsp=stack), system


def long_mode(entry: int, stack: int, gdt: int, page_tables: int) -> tuple[Registers, SystemRegisters]:
    """64-bit mode, ring 0, flat segments, paging with `page_tables` as CR3 (see `paging.identity_map`).

    SSE is switched on, since the x86-64 ABI makes it part of every compiler's output. `stack` and `gdt` as for
    `protected_mode`, with `flat_gdt(64)`; all are guest physical addresses.
    """
    system = _flat_segments(gdt, long_code=True)
    system.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG
    system.cr3 = page_tables
    system.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT
    system.efer = EFER_LME | EFER_LMA
    return Registers(rip=entry, rsp=stack), system


def _flat_segments(gdt: int, *, long_code: bool) -> SystemRegisters:
    return SystemRegisters(
        cs=_flat(CODE_SELECTOR, _CODE, long_code=long_code),
        gdt=Table(gdt, GDT_SIZE - 1),
        idt=Table(0, 0),
        ds=_flat(DATA_SELECTOR, _DATA),
        es=_flat(DATA_SELECTOR, _DATA),
        fs=_flat(DATA_SELECTOR, _DATA),
        gs=_flat(DATA_SELECTOR, _DATA),
        ss=_flat(DATA_SELECTOR, _DATA),
    )
