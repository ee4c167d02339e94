"""`info registers`: a CPU's registers in QEMU's layout, which scripts take apart. The CPU is out of the guest.

Source: what QEMU 7.2 prints; names and flags as in the Intel SDM volume 3A, 3.4.5.
"""

from __future__ import annotations

import struct

from ..kvm.state import MpState
from ..machine import Machine
from ..x86.registers import CR0_PE, EFER_LMA, RFLAGS_BITS, Registers, Segment, SystemRegisters, code_bits

_XSAVE = struct.Struct("<HHBxH8x8xI4x128s256s")
"""The XSAVE area's legacy region (SDM volume 1, 10.5.1): KVM_GET_FPU would not tell MXCSR."""
_SYSTEM_32 = (
    "Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate", "IntGate16", "TrapGate16", "Reserved",
    "TSS32-avl", "Reserved", "TSS32-busy", "CallGate32", "Reserved", "IntGate32", "TrapGate32",
)  # fmt: skip
_SYSTEM_64 = (
    "<hiword>", "Reserved", "LDT", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved", "TSS64-avl",
    "Reserved", "TSS64-busy", "CallGate64", "Reserved", "IntGate64", "TrapGate64",
)  # fmt: skip
CODE, CONFORMING_OR_EXPAND, READ_OR_WRITE, ACCESSED = 8, 4, 2, 1
"""Bits of a segment's type."""


def registers(machine: Machine, cpu: int) -> str:
    """All of them, in lines."""
    vcpu = machine.vcpus[cpu]
    general, system = vcpu.get_registers(), vcpu.get_system_registers()
    debug = vcpu.get_debug_registers()
    wide = code_bits(system) == 64
    halted = vcpu.get_mp_state() in (MpState.HALTED, MpState.UNINITIALIZED, MpState.INIT_RECEIVED)
    lines = [_general(general, system, wide, halted)]
    lines += [
        _segment(name, getattr(system, name), system, wide)
        for name in ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr")
    ]
    digits = 16 if wide else 8
    lines += [
        f"{name}=     {table.base:0{digits}x} {table.limit:08x}"
        for name, table in (("GDT", system.gdt), ("IDT", system.idt))
    ]
    lines.append(f"CR0={system.cr0:08x} CR2={system.cr2:0{digits}x} CR3={system.cr3:0{digits}x} CR4={system.cr4:08x}")
    lines.append("".join(f"DR{at}={getattr(debug, f'dr{at}'):016x} " for at in range(4)))
    lines.append(f"DR6={debug.dr6:016x} DR7={debug.dr7:016x}")
    lines.append(f"EFER={system.efer:016x}")
    lines += _floating(vcpu.get_xsave(machine.engine.board.vm.check_extension("XSAVE2")), 16 if wide else 8)
    return "\n".join(lines) + "\n"


def _general(r: Registers, system: SystemRegisters, wide: bool, halted: bool) -> str:
    flags = "".join(
        letter if r.rflags >> RFLAGS_BITS[name] & 1 else "-"
        for letter, name in zip("DOSZAPC", ("DF", "OF", "SF", "ZF", "AF", "PF", "CF"), strict=True)
    )
    ring = system.ss.dpl if system.cr0 & CR0_PE else 0
    rest = f"[{flags}] CPL={ring} II=0 A20=1 SMM=0 HLT={int(halted)}"
    names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
    if not wide:
        words = [f"E{name[1:].upper()}={getattr(r, name) & 0xFFFFFFFF:08x}" for name in names]
        last = f"EIP={r.rip & 0xFFFFFFFF:08x} EFL={r.rflags:08x} {rest}"
    else:
        words = [f"{name.upper():<3}={getattr(r, name):016x}" for name in (*names, *(f"r{at}" for at in range(8, 16)))]
        last = f"RIP={r.rip:016x} RFL={r.rflags:08x} {rest}"
    return "\n".join([*(" ".join(words[at : at + 4]) for at in range(0, len(words), 4)), last])


def _segment(name: str, s: Segment, system: SystemRegisters, wide: bool) -> str:
    present = s.present and not s.unusable
    flags = s.type << 8 | s.s << 12 | s.dpl << 13 | present << 15 | s.avl << 20 | s.l << 21 | s.db << 22 | s.g << 23
    flags |= s.limit >> (12 if s.g else 0) & 0xF0000
    line = f"{name.upper():<3}={s.selector:04x} {s.base:0{16 if wide else 8}x} {s.limit:08x} {flags:08x}"
    if not system.cr0 & CR0_PE or not present:
        return line
    if not s.s:
        kinds = _SYSTEM_64 if system.efer & EFER_LMA else _SYSTEM_32
        return f"{line} DPL={s.dpl} {kinds[s.type]}"
    if s.type & CODE:
        words = ("CS64" if s.l else "CS32" if s.db else "CS16", "C", "R")
    else:
        words = ("DS  " if s.db or system.efer & EFER_LMA else "DS16", "E", "W")
    bits = "".join(
        letter if s.type & bit else "-"
        for letter, bit in zip((*words[1:], "A"), (CONFORMING_OR_EXPAND, READ_OR_WRITE, ACCESSED), strict=True)
    )
    return f"{line} DPL={s.dpl} {words[0]} [{bits}]"


def _floating(state: bytes, vectors: int) -> list[str]:
    fcw, fsw, ftw, _, mxcsr, fpr, xmm = _XSAVE.unpack(state[: _XSAVE.size])
    lines = [f"FCW={fcw:04x} FSW={fsw:04x} [ST={fsw >> 11 & 7}] FTW={ftw:02x} MXCSR={mxcsr:08x}"]
    stack = [struct.unpack_from("<QH", fpr, 16 * at) for at in range(8)]
    words = [f"FPR{at}={fraction:016x} {exponent:04x}" for at, (fraction, exponent) in enumerate(stack)]
    for at in range(vectors):
        low, high = struct.unpack_from("<QQ", xmm, 16 * at)
        words.append(f"XMM{at:02}={high:016x} {low:016x}")
    return lines + [" ".join(words[at : at + 2]) for at in range(0, len(words), 2)]
