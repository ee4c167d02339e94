"""A vCPU's descriptor: running it, and all of its state (api.rst, vcpu ioctls; section 5 for the shared page)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial

from ..typed import Any, NamedTuple, signal
from ..x86.cpuid import CpuidEntry
from ..x86.registers import Registers, Segment, SystemRegisters, Table, code_bits, linear_pc
from ._kvm import ffi, lib
from .descriptor import Descriptor
from .errors import KvmError
from .exits import Exit, VcpuExit, decode
from .state import DebugRegisters, MpState, Translation, VcpuEvents

GUESTDBG_ENABLE = lib.KVM_GUESTDBG_ENABLE
GUESTDBG_SINGLESTEP = lib.KVM_GUESTDBG_SINGLESTEP
GUESTDBG_USE_SW_BP = lib.KVM_GUESTDBG_USE_SW_BP
GUESTDBG_USE_HW_BP = lib.KVM_GUESTDBG_USE_HW_BP
GUESTDBG_BLOCKIRQ = lib.KVM_GUESTDBG_BLOCKIRQ


class Position(NamedTuple):
    """Where a vCPU is: `linear` address of CS:RIP, the code's width in `bits` (16, 32 or 64), and CR3."""

    linear: int
    bits: int
    cr3: int


_REGISTERS = Registers.__slots__
_SEGMENT = Segment.__slots__
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
_EVENT_GROUPS = ("exception_", "interrupt_", "nmi_", "smi_")


def _event_path(name: str) -> tuple[str, str]:
    """Where the field `name` of VcpuEvents is in struct kvm_vcpu_events: (nested struct or "", field)."""
    for group in _EVENT_GROUPS:
        if name.startswith(group) and name not in ("exception_has_payload", "exception_payload"):
            return group[:-1], name.removeprefix(group)
    return "", name


_EVENTS = tuple((name, *_event_path(name)) for name in VcpuEvents.__slots__)


def registers_of(box: Any) -> Registers:
    """From a struct kvm_regs."""
    return Registers(*[getattr(box, name) for name in _REGISTERS])


def system_registers_of(box: Any) -> SystemRegisters:
    """From a struct kvm_sregs."""
    state: dict[str, Any] = {name: getattr(box, name) for name in _CONTROL}
    for name in _SEGMENTS:
        raw = getattr(box, name)
        state[name] = Segment(*[getattr(raw, part) for part in _SEGMENT])
    return SystemRegisters(gdt=Table(box.gdt.base, box.gdt.limit), idt=Table(box.idt.base, box.idt.limit), **state)


@cache
def prepare_kick(signal_number: int) -> None:
    """Make that signal take a thread out of KVM_RUN and do nothing else, in this process."""
    if lib.pykvm_ignore_signal(signal_number) < 0:
        raise OSError(ffi.errno, f"signal {signal_number} cannot be handled")


def lull(end: float) -> None:
    """Until `end` (time.monotonic()), no vCPU of this process enters the guest, but one that is to come out at once.

    Those that are inside stay there until a signal takes them out.
    """
    lib.pykvm_lull(int(end * 1e9))


MSRS_AT_ONCE = 255
"""KVM_GET_MSRS and KVM_SET_MSRS take no more (E2BIG)."""


class CpuidBlock:
    """CPUID leaves in the form in which KVM takes them, for those who give them to many vCPUs."""

    def __init__(self, entries: Iterable[CpuidEntry]) -> None:
        given = list(entries)
        self.box = ffi.new("struct kvm_cpuid2 *", {"entries": len(given)})
        self.box.nent = len(given)
        for raw, entry in zip(self.box.entries[0 : len(given)], given, strict=True):
            raw.function, raw.index, raw.flags = entry.function, entry.index, entry.flags
            raw.eax, raw.ebx, raw.ecx, raw.edx = entry.eax, entry.ebx, entry.ecx, entry.edx


class VCPU(Descriptor):
    """One vCPU. Every call but `kick` waits while another thread is inside `enter`."""

    def __init__(self, fd: int, vcpu_id: int, mmap_size: int) -> None:
        super().__init__(fd)
        self.id = vcpu_id
        self._mmap_size = mmap_size
        run = lib.pykvm_map_run(fd, mmap_size)
        if not run:
            raise KvmError("mmap of the vCPU", ffi.errno)
        self.run = run
        """The shared page, struct kvm_run: read its unions only after an exit of that kind."""
        self.enter: Callable[[], int] = partial(lib.pykvm_run, fd, self.run)
        """KVM_RUN once: -errno, an exit reason, or from `PIO` on one port access (shim.c has the bits)."""
        self.enter_answering: Callable[[int], int] = partial(lib.pykvm_run_input, fd, self.run)
        """The same, after a port input: its argument is what the guest reads."""

    def close(self) -> None:
        if "run" in self.__dict__:  # not where mapping it has failed
            run = self.run
            del self.enter, self.enter_answering, self.run
            lib.pykvm_unmap_run(run, self._mmap_size)
        super().close()

    def ioctl(self, name: str, argument: Any, hint: str = "") -> int:
        if self.fd >= 0 and self.run.kvm_dirty_regs:
            self.flush()
        return super().ioctl(name, argument, hint)

    def flush(self) -> None:
        """Give the vCPU the state that was left for its next KVM_RUN to take (`saved.SavedVcpu.defer`), if any."""
        if self.run.kvm_dirty_regs and lib.pykvm_flush(self.fd, self.run) < 0:
            raise KvmError("KVM_SET_SREGS", ffi.errno, "this KVM does not take the state")

    # Running

    def immediate_exit(self, on: bool) -> None:
        """Have the next KVM_RUN finish what is pending and return EINTR without entering the guest. Any thread may."""
        self.run.immediate_exit = on

    def complete_access(self) -> None:
        """Finish a port, MMIO or MSR access that the last exit left pending, so that the state can be read or changed.

        The guest executes nothing more.
        """
        before = self.run.immediate_exit
        self.run.immediate_exit = 1
        try:
            self.enter()
        finally:
            self.run.immediate_exit = before

    @property
    def is_at_access(self) -> bool:
        """Whether it left the guest for an access, and has not been inside since: then it is RUNNABLE."""
        return self.run.exit_reason in (Exit.IO, Exit.MMIO)

    def forget_exit(self) -> None:
        """Have `is_at_access` be False: somebody has changed whether the vCPU runs."""
        self.run.exit_reason = Exit.UNKNOWN

    def take_timers(self) -> None:
        """Have interrupts of KVM's timers that came since the last KVM_RUN arrive at the local APIC.

        After `complete_access`; the guest executes nothing. Until the next KVM_RUN they are nowhere in the state
        otherwise.
        """
        prepare_kick(signal.SIGRTMIN)
        if lib.pykvm_take_timers(self.fd, self.run, signal.SIGRTMIN) < 0:
            raise KvmError("KVM_RUN", ffi.errno, "it was to return for a signal")

    def decode_exit(self, result: int) -> VcpuExit:
        """What the exit is about for which `enter` has just returned `result`, which is not negative."""
        return decode(self.run, result)

    def answer_mmio(self, size: int, value: int) -> None:
        """What the guest's MMIO read yields."""
        ffi.buffer(self.run.mmio.data, size)[:] = value.to_bytes(size, "little")

    def answer_msr(self, value: int | None) -> None:
        """What the guest's RDMSR yields (any number for a WRMSR); None gives the guest #GP."""
        self.run.msr.error = value is None
        self.run.msr.data = value or 0

    def msr_answer(self) -> int | None:
        """What `answer_msr` was given last."""
        value: int = self.run.msr.data
        return None if self.run.msr.error else value

    # Registers

    def share_registers(self) -> None:
        """Have every exit from now on leave the registers in the shared page, for `position`; needs SYNC_REGS."""
        self.run.kvm_valid_regs = lib.KVM_SYNC_X86_REGS | lib.KVM_SYNC_X86_SREGS

    def position(self) -> Position:
        """Where the vCPU was at its last exit, without an ioctl; after `share_registers`."""
        shared = lib.pykvm_shared_registers(self.run)  # its fields have the names of Registers and SystemRegisters
        return Position(linear_pc(shared.regs, shared.sregs), code_bits(shared.sregs), shared.sregs.cr3)

    def get_registers(self) -> Registers:
        """KVM_GET_REGS."""
        box = ffi.new("struct kvm_regs *")
        self.ioctl("KVM_GET_REGS", box)
        return registers_of(box)

    def set_registers(self, registers: Registers) -> None:
        """KVM_SET_REGS; clears a pending exception, as the ioctl does."""
        box = ffi.new("struct kvm_regs *")
        for name in _REGISTERS:
            setattr(box, name, getattr(registers, name))
        self.ioctl("KVM_SET_REGS", box)

    def get_apic_base(self) -> int:
        """IA32_APIC_BASE."""
        box = ffi.new("struct kvm_sregs *")
        self.ioctl("KVM_GET_SREGS", box)
        base: int = box.apic_base
        return base

    def get_system_registers(self) -> SystemRegisters:
        """KVM_GET_SREGS, without the interrupt bitmap, which an in-kernel irqchip never uses."""
        box = ffi.new("struct kvm_sregs *")
        self.ioctl("KVM_GET_SREGS", box)
        return system_registers_of(box)

    def set_system_registers(self, system: SystemRegisters) -> None:
        """KVM_SET_SREGS."""
        box = ffi.new("struct kvm_sregs *")
        for name in _CONTROL:
            setattr(box, name, getattr(system, name))
        for name in _SEGMENTS:
            raw, segment = getattr(box, name), getattr(system, name)
            for part in _SEGMENT:
                setattr(raw, part, getattr(segment, part))
        for name in ("gdt", "idt"):
            raw, table = getattr(box, name), getattr(system, name)
            raw.base, raw.limit = table.base, table.limit
        self.ioctl("KVM_SET_SREGS", box, "the state is not one that this CPU can be in")
        self.run.apic_base = system.apic_base  # as KVM_RUN would tell

    def get_fpu(self) -> bytes:
        """struct kvm_fpu; `get_xsave` has all of it and more."""
        return self.read_blob("KVM_GET_FPU", "struct kvm_fpu")

    def set_fpu(self, state: bytes) -> None:
        """Take back what `get_fpu` returned."""
        self.write_blob("KVM_SET_FPU", "struct kvm_fpu", state)

    def get_xsave(self, size: int = 0) -> bytes:
        """The XSAVE area (SDM volume 1, 13.4). `size` is what the VM answers to check_extension("XSAVE2"), if any."""
        if size <= ffi.sizeof("struct kvm_xsave"):
            return self.read_blob("KVM_GET_XSAVE", "struct kvm_xsave")
        box = ffi.new("char[]", size)
        self.ioctl("KVM_GET_XSAVE2", box)
        return bytes(ffi.buffer(box))

    def set_xsave(self, state: bytes) -> None:
        """Take back what `get_xsave` returned."""
        if len(state) < ffi.sizeof("struct kvm_xsave"):
            raise ValueError(f"an XSAVE area of {len(state)} bytes is too short")
        with ffi.from_buffer(state) as held:
            self.ioctl("KVM_SET_XSAVE", held, "the state has features that this host lacks")

    def get_xcrs(self) -> dict[int, int]:
        """Extended control registers by number."""
        box = ffi.new("struct kvm_xcrs *")
        self.ioctl("KVM_GET_XCRS", box)
        return {entry.xcr: entry.value for entry in box.xcrs[0 : box.nr_xcrs]}

    def set_xcrs(self, values: Mapping[int, int]) -> None:
        """Set extended control registers."""
        box = ffi.new("struct kvm_xcrs *", {"nr_xcrs": len(values)})
        for entry, (number, value) in zip(box.xcrs, values.items(), strict=False):
            entry.xcr, entry.value = number, value
        self.ioctl("KVM_SET_XCRS", box)

    def get_msrs(self, indices: Sequence[int]) -> dict[int, int]:
        """Those of the MSRs that can be read, in as few calls as KVM allows."""
        values: dict[int, int] = {}
        at = 0
        while at < len(indices):
            rest = indices[at : at + MSRS_AT_ONCE]
            box = ffi.new("struct kvm_msrs *", {"entries": len(rest)})
            box.nmsrs = len(rest)
            for entry, index in zip(box.entries[0 : len(rest)], rest, strict=True):
                entry.index = index
            done = self.ioctl("KVM_GET_MSRS", box)
            values.update((entry.index, entry.data) for entry in box.entries[0:done])
            at += done + (done < len(rest))  # the one after `done` is refused
        return values

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """Set MSRs; KvmError naming the first that KVM refuses."""
        box = ffi.new("struct kvm_msrs *", {"entries": len(values)})
        box.nmsrs = len(values)
        for entry, (index, data) in zip(box.entries[0 : len(values)], values.items(), strict=True):
            entry.index, entry.data = index, data
        done = self.ioctl("KVM_SET_MSRS", box)
        if done < len(values):
            refused = box.entries[done]
            raise KvmError("KVM_SET_MSRS", 22, f"MSR {refused.index:#x} does not take {refused.data:#x}")

    def set_cpuid(self, entries: Iterable[CpuidEntry] | CpuidBlock) -> None:
        """What CPUID shows the guest; before the vCPU's first run."""
        box = (entries if isinstance(entries, CpuidBlock) else CpuidBlock(entries)).box
        self.ioctl("KVM_SET_CPUID2", box, "CPUID can no longer be changed once the vCPU has run")

    def get_lapic(self) -> bytes:
        """The local APIC's register page: struct kvm_lapic_state, 1 KiB."""
        return self.read_blob("KVM_GET_LAPIC", "struct kvm_lapic_state")

    def set_lapic(self, state: bytes) -> None:
        """Take back what `get_lapic` returned."""
        self.write_blob("KVM_SET_LAPIC", "struct kvm_lapic_state", state)

    def get_events(self) -> VcpuEvents:
        """KVM_GET_VCPU_EVENTS."""
        box = ffi.new("struct kvm_vcpu_events *")
        self.ioctl("KVM_GET_VCPU_EVENTS", box)
        return VcpuEvents(
            **{name: getattr(getattr(box, group) if group else box, part) for name, group, part in _EVENTS}
        )

    def set_events(self, events: VcpuEvents) -> None:
        """KVM_SET_VCPU_EVENTS."""
        box = ffi.new("struct kvm_vcpu_events *")
        for name, group, part in _EVENTS:
            setattr(getattr(box, group) if group else box, part, getattr(events, name))
        self.ioctl("KVM_SET_VCPU_EVENTS", box)

    def get_mp_state(self) -> MpState:
        """Running, halted, or waiting for INIT or SIPI."""
        box = ffi.new("struct kvm_mp_state *")
        self.ioctl("KVM_GET_MP_STATE", box)  # on the way it takes an INIT that has come from another vCPU
        state = MpState(box.mp_state)
        if state is not MpState.RUNNABLE:
            self.forget_exit()
        return state

    def set_mp_state(self, state: MpState) -> None:
        """KVM_SET_MP_STATE."""
        self.forget_exit()
        self.ioctl("KVM_SET_MP_STATE", ffi.new("struct kvm_mp_state *", {"mp_state": state}))

    # Debugging

    def get_debug_registers(self) -> DebugRegisters:
        """The guest's own debug registers."""
        box = ffi.new("struct kvm_debugregs *")
        self.ioctl("KVM_GET_DEBUGREGS", box)
        dr0, dr1, dr2, dr3 = ffi.unpack(box.db, 4)
        return DebugRegisters(dr0, dr1, dr2, dr3, box.dr6, box.dr7)

    def set_debug_registers(self, registers: DebugRegisters) -> None:
        """KVM_SET_DEBUGREGS."""
        box = ffi.new("struct kvm_debugregs *")
        for at in range(4):
            box.db[at] = getattr(registers, f"dr{at}")
        box.dr6, box.dr7 = registers.dr6, registers.dr7
        self.ioctl("KVM_SET_DEBUGREGS", box)

    def set_guest_debug(self, control: int, breakpoints: Sequence[int] = (), dr7: int = 0) -> None:
        """KVM_SET_GUEST_DEBUG: `control` is a sum of GUESTDBG_*; up to four linear addresses for DR0-DR3."""
        box = ffi.new("struct kvm_guest_debug *", {"control": control})
        for at, address in enumerate(breakpoints):
            box.arch.debugreg[at] = address
        box.arch.debugreg[7] = dr7
        self.ioctl("KVM_SET_GUEST_DEBUG", box)

    def translate(self, linear: int) -> Translation:
        """Walk the vCPU's page tables for a linear address."""
        box = ffi.new("struct kvm_translation *", {"linear_address": linear})
        self.ioctl("KVM_TRANSLATE", box)
        return Translation(box.physical_address, bool(box.valid), bool(box.writeable), bool(box.usermode))

    def physical(self, linear: int) -> int | None:
        """The guest physical address of a linear one; None if it is not mapped."""
        page = self.translate(linear)
        return page.physical if page.valid else None

    # Events and time

    def interrupt(self, vector: int) -> None:
        """Queue an external interrupt; only without an in-kernel irqchip."""
        self.ioctl("KVM_INTERRUPT", ffi.new("struct kvm_interrupt *", {"irq": vector}))

    def nmi(self) -> None:
        """Queue a non-maskable interrupt."""
        self.ioctl_int("KVM_NMI")

    def tsc_khz(self) -> int:
        """The guest's TSC frequency in kHz."""
        return self.ioctl_int("KVM_GET_TSC_KHZ")

    def set_tsc_khz(self, khz: int) -> None:
        """Scale the guest's TSC (needs TSC_CONTROL unless it is the host's)."""
        self.ioctl_int("KVM_SET_TSC_KHZ", khz, "this host cannot scale the TSC")

    def was_paused(self) -> None:
        """Tell the guest's watchdogs that it was stopped from outside (KVM_KVMCLOCK_CTRL)."""
        self.ioctl_int("KVM_KVMCLOCK_CTRL")
