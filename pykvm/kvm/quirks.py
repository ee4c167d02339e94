"""How this host's KVM behaves where KVMs differ: found by trying, once a process, and only when somebody asks.

Sources: Linux Documentation/virt/kvm/api.rst (KVM_SET_GUEST_DEBUG, KVM_RUN: when an access is finished); Intel SDM
volume 3B, 17.2.4 (DR7).
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import cache

from ..x86 import start
from ..x86.paging import GIB, identity_map, identity_map_size
from ..x86.registers import Registers, SystemRegisters
from .exits import Exit
from .system import System
from .vcpu import GUESTDBG_ENABLE, GUESTDBG_USE_HW_BP, GUESTDBG_USE_SW_BP, VCPU
from .vm import IDENTITY_MAP_ADDRESS, TSS_ADDRESS

BP = 3
"""The vector of #BP."""

_CODE, _STACK, _GDT, _TABLES = 0x7C00, 0x7000, 0x8000, 0x9000
_SIZE = _TABLES + identity_map_size(GIB)
_WATCHED = 0x500
_DR7_WRITE_BYTE = 1 << 10 | 0b01 << 16 | 1 << 1
"""DR7: breakpoint 0 globally enabled, on writes of one byte."""


@cache
def data_breakpoints_work() -> bool:
    """Whether this KVM reports watchpoints in ring 0: where it emulates ring 0, it may not."""

    def run(vcpu: VCPU) -> bool:
        vcpu.set_guest_debug(GUESTDBG_ENABLE | GUESTDBG_USE_HW_BP, [_WATCHED], _DR7_WRITE_BYTE)
        return _enter(vcpu) == Exit.DEBUG

    return _try("a20005 e6f4", False, run)  # mov [0x500], al; out 0xf4, al


@cache
def int3_works(protected: bool) -> bool:
    """Whether INT3 in real mode, or in ring 0 above it, gets out of this KVM in one way or another."""

    def run(vcpu: VCPU) -> bool:
        vcpu.set_guest_debug(GUESTDBG_ENABLE | GUESTDBG_USE_SW_BP)
        return _enter(vcpu) in (Exit.DEBUG, Exit.INTERNAL_ERROR)

    return _try("cc e6f4", protected, run)  # int3; out 0xf4, al: where real mode's INT3 leads if it does not get out


@cache
def out_moves_rip() -> bool:
    """Whether this KVM leaves RIP past an `out` that left the guest."""

    def run(vcpu: VCPU) -> bool:
        _enter(vcpu)
        return vcpu.get_registers().rip != _CODE

    return _try("e680 f4", True, run)  # out 0x80, al; hlt


def _try(code: str, long: bool, run: Callable[[VCPU], bool]) -> bool:
    """What `run` finds with a vCPU that is about to execute `code`, in 64-bit or real mode."""
    with ExitStack() as stack:
        system = stack.enter_context(closing(System()))
        vm = stack.enter_context(closing(system.create_vm()))
        memory = mmap.mmap(-1, _SIZE)  # left to the garbage collector: the VM may still map it here
        memory[_CODE : _CODE + len(bytes.fromhex(code))] = bytes.fromhex(code)
        memory[4 * BP : 4 * BP + 4] = (_CODE + 1).to_bytes(4, "little")
        vm.set_memory(0, 0, _SIZE, memory)
        if vm.check_extension("SET_TSS_ADDR"):
            vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            vm.set_tss_address(TSS_ADDRESS)
        vcpu = stack.enter_context(closing(vm.create_vcpu(0)))
        vcpu.set_cpuid(system.supported_cpuid())
        registers, special = _long_mode(memory) if long else start.real_mode(_CODE)
        vcpu.set_system_registers(special)
        vcpu.set_registers(registers)
        return run(vcpu)


def _long_mode(memory: mmap.mmap) -> tuple[Registers, SystemRegisters]:
    gdt, tables = start.flat_gdt(64), identity_map(_TABLES, GIB)
    memory[_GDT : _GDT + len(gdt)] = gdt
    memory[_TABLES : _TABLES + len(tables)] = tables
    return start.long_mode(_CODE, _STACK, _GDT, _TABLES)


def _enter(vcpu: VCPU) -> int:
    while (result := vcpu.enter()) in (-errno.EINTR, -errno.EAGAIN):
        pass
    return result
