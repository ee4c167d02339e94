"""The tables in memory that one CPU's registers point to: GDT, LDT, IDT, TSS, page tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..machine import Machine
from ..x86.cpu import Cpu
from ..x86.pagemap import PageMap, page_map
from ..x86.registers import CR0_PE, EFER_LMA, Segment, SystemRegisters
from ..x86.tables import (
    IO_MAP_BYTES,
    Entries,
    FarPointer,
    SystemSegment,
    Tss,
    decode_tss,
    open_ports,
    read_idt,
    read_segments,
    read_vectors,
)

PORTS_LIMIT = 256
"""Ranges of open ports that are listed."""

TSS_BITS = {1: 16, 3: 16, 9: 32, 11: 32}
"""By the type of the segment that TR holds (SDM volume 3A, table 3-2)."""


@dataclass(slots=True)
class TaskState:
    """The TSS that TR holds. `tss` is None, and `problem` says why, if it cannot be read or TR holds none."""

    selector: int
    base: int
    limit: int
    tss: Tss | None = None
    ports: list[tuple[int, int]] = field(default_factory=list)
    """The first and last port of the ranges that all rings may use: at most `PORTS_LIMIT`."""
    problem: str | None = None


@dataclass(slots=True)
class DescriptorTables:
    """What a CPU's GDTR, LDTR, IDTR and TR point to. In real mode that is `vectors`, and a GDT being prepared."""

    gdt: Entries | None
    """None in real mode, while GDTR is as after a reset."""
    ldt: Entries | None
    """None while LDTR is null."""
    idt: Entries | None
    """None in real mode."""
    vectors: dict[int, FarPointer]
    """Real mode's interrupt vectors; empty in all other modes."""
    task: TaskState


def descriptor_tables(machine: Machine, cpu: int = 0) -> DescriptorTables:
    """The tables of CPU number `cpu`. What cannot be read is named in the parts' `problem`, never raised."""
    vcpu = machine.engine.board.vcpus[cpu]
    system = vcpu.get_system_registers()
    read = Cpu(vcpu.get_registers(), system, machine.memory.read).peek
    long_mode = bool(system.efer & EFER_LMA)
    protected = bool(system.cr0 & CR0_PE)
    ldt = None
    if protected and system.ldt.selector & ~7 and not system.ldt.unusable:
        ldt = read_segments(read, system.ldt.base, system.ldt.limit, long_mode)
    return DescriptorTables(
        gdt=read_segments(read, system.gdt.base, system.gdt.limit, long_mode) if protected or system.gdt.base else None,
        ldt=ldt,
        idt=read_idt(read, system.idt, long_mode) if protected else None,
        vectors={} if protected else read_vectors(read, system.idt),
        task=_task(read, system),
    )


def page_tables(machine: Machine, cpu: int = 0) -> PageMap:
    """What the page tables of CPU number `cpu` map."""
    return page_map(machine.memory.read, machine.engine.board.vcpus[cpu].get_system_registers())


def _task(read: Callable[[int, int], bytes], system: SystemRegisters) -> TaskState:
    register: Segment = system.tr
    state = TaskState(register.selector, register.base, register.limit)
    bits = TSS_BITS.get(register.type)
    if not system.cr0 & CR0_PE or not register.selector & ~7 or register.unusable or bits is None:
        state.problem = "TR is null"
        return state
    bits = 64 if system.efer & EFER_LMA else bits
    raw = read(state.base, min(state.limit + 1, 104))
    state.tss = decode_tss(raw, bits)
    if state.tss is None:
        known = SystemSegment("TSS", bits, True, state.base, state.limit, 0, True).problem
        state.problem = known or f"{state.base + len(raw):#x} cannot be read"
        return state
    start = state.tss.io_map
    if start is not None and start < state.limit:
        # The last byte of the segment is the one of all ones that ends the bitmap.
        bitmap = read(state.base + start, min(state.limit - start, IO_MAP_BYTES))
        for ports in open_ports(bitmap):
            if len(state.ports) == PORTS_LIMIT:
                break
            state.ports.append(ports)
    return state
