"""pykvm.kvm by itself, without a machine: each getter against its setter, events, logs and filters, and the errors.

Expectations are those of the Linux kernel's Documentation/virt/kvm/api.rst.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import hexcode

from pykvm.kvm import (
    CAPABILITIES,
    VCPU,
    VM,
    DebugRegisters,
    KvmError,
    KvmUnavailable,
    KvmUnsupported,
    MpState,
    MsrRange,
    System,
)
from pykvm.kvm.exits import PIO, Debug, Exit, Mmio, MsrAccess
from pykvm.kvm.vcpu import GUESTDBG_ENABLE, GUESTDBG_SINGLESTEP, GUESTDBG_USE_HW_BP
from pykvm.kvm.vm import IOAPIC, PIC_MASTER, PIC_SLAVE
from pykvm.x86 import cpuid
from pykvm.x86.registers import Registers, Segment, Table

PAGES = 256
CODE = 0x1000
IA32_SYSENTER_CS, STAR, LSTAR, KERNEL_GS_BASE = 0x174, 0xC0000081, 0xC0000082, 0xC0000102


class Bench:
    """A VM with one CPU in real mode, 1 MiB of RAM and all chips in the kernel."""

    def __init__(self, system: System, resources: ExitStack, chips: bool = True) -> None:
        self.system = system
        self.ram = mmap.mmap(-1, PAGES * mmap.PAGESIZE)
        self.vm: VM = system.create_vm()
        resources.callback(self.vm.close)
        if self.vm.check_extension("SET_TSS_ADDR"):
            self.vm.set_tss_address(0xFFFBD000)
        self.vm.set_memory(0, 0, len(self.ram), self.ram)
        if chips:
            self.vm.create_irqchip()
            self.vm.create_pit()
        self.vcpu: VCPU = self.vm.create_vcpu(0)
        resources.callback(self.vcpu.close)
        self.vcpu.set_cpuid(system.supported_cpuid())

    def start_at(self, code: bytes) -> None:
        """Put 16-bit code into memory and the CPU before it."""
        self.ram[CODE : CODE + len(code)] = code
        state = self.vcpu.get_system_registers()
        state.cs = state.cs.copy(base=0, selector=0)
        self.vcpu.set_system_registers(state)
        self.vcpu.set_registers(Registers(rip=CODE, rsp=CODE))

    def next_output(self) -> tuple[int, int]:
        """Enter the guest, which is to write to a port: (port, value)."""
        result = self.vcpu.enter()
        assert result >= PIO, result
        assert result >> 51 & 1
        return result >> 32 & 0xFFFF, result & 0xFFFFFFFF


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    system = System()
    yield system
    system.close()


@pytest.fixture
def bench(system: System) -> Iterator[Bench]:
    with ExitStack() as resources:
        yield Bench(system, resources)


# The system


def test_the_system_knows_itself(system: System) -> None:
    assert system.api_version() == 12
    assert system.mmap_size >= 3 * mmap.PAGESIZE
    capabilities = system.capabilities()
    assert set(capabilities) == set(CAPABILITIES)
    assert capabilities["USER_MEMORY"] == 1
    assert capabilities["NR_VCPUS"] <= capabilities["MAX_VCPUS"]
    assert all(value >= 0 for value in capabilities.values())


def test_cpuid_and_msr_lists(system: System) -> None:
    entries = list(system.supported_cpuid())
    assert len(cpuid.vendor(entries)) == 12
    assert cpuid.hypervisor(entries) == "KVMKVMKVM"
    assert system.supported_cpuid() is system.supported_cpuid()
    indices = system.msr_indices()
    assert len(set(indices)) == len(indices)
    assert STAR in indices
    assert isinstance(system.feature_msr_indices(), list)
    assert all(0 <= entry.eax < 1 << 32 for entry in system.emulated_cpuid())


def test_a_capability_that_is_missing_is_named_with_what_it_gives(system: System) -> None:
    system.require("USER_MEMORY", "IRQCHIP")
    missing = next((name for name, value in system.capabilities().items() if not value), None)
    if missing is None:
        pytest.skip("this KVM has every capability")
    with pytest.raises(KvmUnsupported, match=re.escape(CAPABILITIES[missing])):
        system.require("USER_MEMORY", missing)


# Errors


def test_a_device_file_that_is_not_there() -> None:
    with pytest.raises(KvmUnavailable, match=r"/dev/no-such-kvm is not there: "):
        System("/dev/no-such-kvm")


def test_a_device_file_that_is_not_kvms() -> None:
    with pytest.raises(KvmUnavailable, match="/dev/null is not KVM's device"):
        System("/dev/null")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "no permission to open /dev/kvm: join its group"),
        (errno.EBUSY, "/dev/kvm is busy"),
        (errno.ENODEV, "/dev/kvm is not there"),
        (
            errno.EMFILE,
            "/dev/kvm cannot be opened: this process may have no more open files: raise its limit (ulimit -n)",
        ),
    ],
)
def test_why_the_device_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(KvmUnavailable, match=re.escape(words)):
        System()


def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "kvm"
    path.touch(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may do anything
    try:
        with pytest.raises(KvmUnavailable, match="no permission"):
            System(str(path))
    finally:
        os.seteuid(user)


def test_a_failed_ioctl_names_itself_and_the_errno(bench: Bench) -> None:
    with pytest.raises(KvmError, match=r"KVM_CREATE_VCPU: EEXIST \(File exists\): the id is taken") as caught:
        bench.vm.create_vcpu(0)
    assert caught.value.ioctl == "KVM_CREATE_VCPU"
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(KvmError, match="KVM_CREATE_IRQCHIP: EEXIST"):
        bench.vm.create_irqchip()
    with pytest.raises(KvmError, match="KVM_SET_USER_MEMORY_REGION: EEXIST.*overlaps"):
        bench.vm.set_memory(1, 0, mmap.PAGESIZE, bench.ram)
    with pytest.raises(KvmError, match="KVM_SET_USER_MEMORY_REGION: EINVAL"):
        bench.vm.set_memory(1, 0x10000000, 100, bench.ram)
    with pytest.raises(KvmError, match="KVM_SET_SREGS: EINVAL"):
        bench.vcpu.set_system_registers(bench.vcpu.get_system_registers().copy(cr4=1 << 63))
    with pytest.raises(KvmError, match="KVM_GET_DIRTY_LOG: ENOENT.*no dirty log"):
        bench.vm.get_dirty_log(0, bytearray(PAGES // 8))
    with pytest.raises(KvmError, match=r"KVM_SET_MSRS: EINVAL.*MSR 0xc0de0000 does not take 0x1"):
        bench.vcpu.set_msrs({STAR: 0, 0xC0DE0000: 1})


def test_state_of_the_wrong_size_is_refused(bench: Bench) -> None:
    for setter in (bench.vcpu.set_fpu, bench.vcpu.set_lapic, bench.vm.set_irqchip, bench.vm.set_pit):
        with pytest.raises(ValueError, match="takes .* bytes, not 3"):
            setter(b"abc")
    with pytest.raises(ValueError, match="too short"):
        bench.vcpu.set_xsave(b"abc")
    with pytest.raises(ValueError, match="not within the buffer"):
        bench.vm.set_memory(1, 0x10000000, len(bench.ram) + mmap.PAGESIZE, bench.ram)
    with pytest.raises(ValueError, match="17 MSR ranges"):
        bench.vm.set_msr_filter([MsrRange(0xC0DE0000 + 8 * n, 1) for n in range(17)])


def test_a_closed_descriptor_is_an_error_and_closes_twice(system: System) -> None:
    with ExitStack() as resources:
        bench = Bench(system, resources)
        bench.vcpu.close()
        bench.vcpu.close()
        with pytest.raises(KvmError, match="KVM_GET_REGS: EBADF"):
            bench.vcpu.get_registers()


# Every getter and its setter


def test_registers(bench: Bench) -> None:
    names = [name for name in Registers.__slots__ if name not in ("rip", "rflags")]
    wanted = Registers(
        **{name: 0x1111111111111111 * n & (1 << 64) - 1 for n, name in enumerate(names)}, rip=0x1234, rflags=0x46
    )
    bench.vcpu.set_registers(wanted)
    assert bench.vcpu.get_registers() == wanted


def test_system_registers(bench: Bench) -> None:
    before = bench.vcpu.get_system_registers()
    assert before.cs.base == 0xFFFF0000  # after RESET#
    assert before.apic_base & ~0xFFF == 0xFEE00000
    data = Segment(base=0x12340, limit=0xFFFF, selector=0x1234, type=3)
    wanted = before.copy(
        cs=Segment(base=0x56780, limit=0xFFFF, selector=0x5678, type=11),
        ds=data,
        es=data.copy(base=0x23450, selector=0x2345),
        fs=data.copy(base=0x34560, selector=0x3456),
        gs=data.copy(base=0x45670, selector=0x4567),
        ss=data.copy(base=0x67890, selector=0x6789),
        gdt=Table(0x1000, 0x17),
        idt=Table(0x2000, 0x3FF),
        cr2=0xDEADBEEF,
        cr8=5,
    )
    bench.vcpu.set_system_registers(wanted)
    got = bench.vcpu.get_system_registers()
    for name in ("ds", "es", "fs", "gs", "ss", "cs"):
        one, other = getattr(got, name), getattr(wanted, name)
        assert (one.base, one.limit, one.selector, one.present) == (other.base, other.limit, other.selector, 1), name
    assert (got.gdt, got.idt, got.cr2, got.cr8) == (wanted.gdt, wanted.idt, 0xDEADBEEF, 5)
    bench.vcpu.set_system_registers(got)
    assert bench.vcpu.get_system_registers() == got


def test_fpu(bench: Bench) -> None:
    state = bytearray(bench.vcpu.get_fpu())
    state[0:16] = bytes(range(16))  # st0
    struct.pack_into("<H", state, 128, 0x027F)  # control word
    bench.vcpu.set_fpu(bytes(state))
    assert bench.vcpu.get_fpu()[0:10] == bytes(range(10))
    assert bench.vcpu.get_fpu()[128:130] == b"\x7f\x02"


def test_xsave(bench: Bench) -> None:
    size = bench.vm.check_extension("XSAVE2")
    for length in {0, size}:
        state = bytearray(bench.vcpu.get_xsave(length))
        assert len(state) == max(4096, length)
        state[0:2] = b"\x7e\x03"  # FCW
        state[160:176] = bytes(range(100, 116))  # XMM0
        struct.pack_into("<Q", state, 512, 3)  # XSTATE_BV: x87 and SSE are in use
        bench.vcpu.set_xsave(bytes(state))
        got = bench.vcpu.get_xsave(length)
        assert got[0:2] == b"\x7e\x03"
        assert got[160:176] == bytes(range(100, 116))


def test_extended_control_registers(bench: Bench) -> None:
    assert bench.vcpu.get_xcrs() == {0: 1}
    bench.vcpu.set_xcrs({0: 3})
    assert bench.vcpu.get_xcrs() == {0: 3}
    with pytest.raises(KvmError, match="KVM_SET_XCRS"):
        bench.vcpu.set_xcrs({0: 2})  # x87 state cannot be off


def test_msrs(bench: Bench) -> None:
    wanted = {
        STAR: 0x0023001000000000,
        LSTAR: 0xFFFFFFFF81000000,
        KERNEL_GS_BASE: 0x7FFF00001000,
        IA32_SYSENTER_CS: 0x10,
    }
    bench.vcpu.set_msrs(wanted)
    assert bench.vcpu.get_msrs(list(wanted)) == wanted
    # Those that there are not are left out, wherever they stand.
    mixed = [0xC0DE0000, STAR, 0xC0DE0001, 0xC0DE0002, LSTAR, 0xC0DE0003]
    assert bench.vcpu.get_msrs(mixed) == {STAR: wanted[STAR], LSTAR: wanted[LSTAR]}
    assert bench.vcpu.get_msrs([]) == {}


def test_all_msrs_of_the_state_can_be_taken_and_put_back(bench: Bench) -> None:
    everything = bench.vcpu.get_msrs(bench.system.msr_indices())
    assert STAR in everything
    bench.vcpu.set_msrs({index: everything[index] for index in (STAR, LSTAR, KERNEL_GS_BASE)})
    again = bench.vcpu.get_msrs(list(everything))
    assert set(again) == set(everything)


def test_local_apic(bench: Bench) -> None:
    state = bytearray(bench.vcpu.get_lapic())
    assert len(state) == 1024
    struct.pack_into("<I", state, 0x80, 0x50)  # TPR
    struct.pack_into("<I", state, 0xF0, 0x1FF)  # SVR: enabled
    bench.vcpu.set_lapic(bytes(state))
    got = bench.vcpu.get_lapic()
    assert struct.unpack_from("<I", got, 0x80)[0] == 0x50
    assert struct.unpack_from("<I", got, 0xF0)[0] == 0x1FF


def test_events(bench: Bench) -> None:
    events = bench.vcpu.get_events()
    assert (events.exception_injected, events.nmi_pending, events.interrupt_injected) == (0, 0, 0)
    bench.vcpu.nmi()
    assert bench.vcpu.get_events().nmi_pending == 1
    bench.vcpu.set_events(events)
    wanted = events.copy(nmi_masked=1, interrupt_shadow=1, flags=events.flags | 1 | 4)  # NMI and shadow count
    bench.vcpu.set_events(wanted)
    got = bench.vcpu.get_events()
    assert got.nmi_masked == 1
    assert bool(got.interrupt_shadow)


def test_an_interrupt_can_be_finished_by_hand(bench: Bench) -> None:
    bench.start_at(hexcode("90; nop\n f4; hlt"))
    handler = hexcode("b0 21; mov al, 0x21\n e6 d0; out 0xd0, al")
    bench.ram[0x5000 : 0x5000 + len(handler)] = handler
    bench.ram[0x21 * 4 : 0x21 * 4 + 4] = struct.pack("<HH", 0x5000, 0)
    events = bench.vcpu.get_events().copy(interrupt_injected=1, interrupt_nr=0x21, interrupt_soft=0)
    bench.vcpu.set_events(events)
    assert bench.next_output() == (0xD0, 0x21)


def test_mp_state(bench: Bench) -> None:
    assert bench.vcpu.get_mp_state() is MpState.RUNNABLE
    second = bench.vm.create_vcpu(1)
    assert second.get_mp_state() is MpState.UNINITIALIZED
    for state in (MpState.HALTED, MpState.INIT_RECEIVED, MpState.RUNNABLE):
        second.set_mp_state(state)
        assert second.get_mp_state() is state
    second.close()


def test_debug_registers(bench: Bench) -> None:
    wanted = DebugRegisters(0x1000, 0x2000, 0x3000, 0x4000, 0xFFFF0FF1, 0x401)
    bench.vcpu.set_debug_registers(wanted)
    assert bench.vcpu.get_debug_registers() == wanted


def test_cpuid_is_what_the_guest_sees(bench: Bench) -> None:
    entries = list(bench.system.supported_cpuid())
    cpuid.set_leaf(entries, 0x40000000, ebx=0x64636261)
    bench.vcpu.set_cpuid(entries)
    # mov eax, 0x40000000; cpuid; mov eax, ebx; out 0xd0, eax
    bench.start_at(hexcode("66 b8 00 00 00 40\n 0f a2\n 66 89 d8\n 66 e7 d0"))
    assert bench.next_output() == (0xD0, 0x64636261)
    with pytest.raises(KvmError, match=r"KVM_SET_CPUID2.*once the vCPU has run"):
        bench.vcpu.set_cpuid(entries[:1])


def test_interrupt_chips(bench: Bench) -> None:
    for chip in (PIC_MASTER, PIC_SLAVE, IOAPIC):
        state = bench.vm.get_irqchip(chip)
        assert struct.unpack_from("<I", state)[0] == chip
        bench.vm.set_irqchip(state)
        assert bench.vm.get_irqchip(chip) == state
    master = bytearray(bench.vm.get_irqchip(PIC_MASTER))
    master[8 + 2] = 0x5A  # struct kvm_pic_state: last_irr, irr, imr
    bench.vm.set_irqchip(bytes(master))
    assert bench.vm.get_irqchip(PIC_MASTER)[8 + 2] == 0x5A
    assert bench.vm.get_irqchip(PIC_MASTER) != bench.vm.get_irqchip(PIC_SLAVE)


def test_pit(bench: Bench) -> None:
    state = bytearray(bench.vm.get_pit())
    struct.pack_into("<I", state, 0, 0x1234)  # channel 0's count
    bench.vm.set_pit(bytes(state))
    assert struct.unpack_from("<I", bench.vm.get_pit())[0] == 0x1234


def test_clock(bench: Bench) -> None:
    bench.vm.set_clock(10**15)
    first = bench.vm.get_clock().clock
    second = bench.vm.get_clock().clock
    assert 10**15 <= first <= second


def test_tsc_frequency(bench: Bench) -> None:
    if not bench.vm.check_extension("GET_TSC_KHZ"):
        pytest.skip("this KVM does not tell the TSC's frequency")
    khz = bench.vcpu.tsc_khz()
    assert khz > 0
    bench.vcpu.set_tsc_khz(khz)
    assert bench.vcpu.tsc_khz() == khz


def test_was_paused_needs_a_guest_with_kvmclock(bench: Bench) -> None:
    with pytest.raises(KvmError, match="KVM_KVMCLOCK_CTRL: EINVAL"):
        bench.vcpu.was_paused()


# Running


def test_port_output_and_input(bench: Bench) -> None:
    bench.start_at(hexcode("b8 34 12; mov ax, 0x1234\n e7 d0; out 0xd0, ax\n e4 d1; in al, 0xd1\n e6 d2; out 0xd2, al"))
    result = bench.vcpu.enter()
    assert (result >> 32 & 0xFFFF, result >> 48 & 7, result >> 51 & 1, result & 0xFFFF) == (0xD0, 2, 1, 0x1234)
    result = bench.vcpu.enter()
    assert (result >> 32 & 0xFFFF, result >> 48 & 7, result >> 51 & 1) == (0xD1, 1, 0)
    result = bench.vcpu.enter_answering(0x2A)
    assert (result >> 32 & 0xFFFF, result & 0xFF) == (0xD2, 0x2A)


def test_immediate_exit_finishes_what_is_pending_and_nothing_more(bench: Bench) -> None:
    bench.start_at(hexcode("e6 d0; out 0xd0, al\n e6 d1; out 0xd1, al"))
    assert bench.next_output()[0] == 0xD0
    bench.vcpu.complete_access()
    assert bench.vcpu.get_registers().rip == CODE + 2
    bench.vcpu.immediate_exit(True)
    assert bench.vcpu.enter() == -errno.EINTR
    bench.vcpu.immediate_exit(False)
    assert bench.next_output()[0] == 0xD1


def test_mmio(bench: Bench) -> None:
    # mov ax, 0xf000; mov ds, ax; mov [0x10], ax; mov ax, [0x20]; out 0xd0, ax, with RAM only below 0xf0000
    bench.vm.delete_memory(0)
    bench.vm.set_memory(0, 0, 0xF0000, bench.ram)
    bench.start_at(hexcode("b8 00 f0\n 8e d8\n a3 10 00\n a1 20 00\n e7 d0"))
    assert bench.vcpu.enter() == Exit.MMIO
    assert bench.vcpu.decode_exit(Exit.MMIO) == Mmio(0xF0010, 2, 0xF000, True)
    assert bench.vcpu.enter() == Exit.MMIO
    read = bench.vcpu.decode_exit(Exit.MMIO)
    assert isinstance(read, Mmio)
    assert (read.address, read.size, read.is_write) == (0xF0020, 2, False)
    bench.vcpu.answer_mmio(2, 0xBEEF)
    assert bench.next_output() == (0xD0, 0xBEEF)


def test_read_only_memory_is_read_by_itself_and_written_by_exit(bench: Bench) -> None:
    if not bench.vm.check_extension("READONLY_MEM"):
        pytest.skip("this KVM has no read-only memory")
    rom = mmap.mmap(-1, mmap.PAGESIZE)
    rom[0:2] = b"\xcd\xab"
    bench.vm.delete_memory(0)
    bench.vm.set_memory(0, 0, 0xF0000, bench.ram)
    bench.vm.set_memory(1, 0xF0000, len(rom), rom, readonly=True)
    bench.start_at(hexcode("b8 00 f0\n 8e d8\n a1 00 00; mov ax, [0]\n e7 d0\n a3 00 00; mov [0], ax"))
    assert bench.next_output() == (0xD0, 0xABCD)
    assert bench.vcpu.enter() == Exit.MMIO
    assert bench.vcpu.decode_exit(Exit.MMIO) == Mmio(0xF0000, 2, 0xABCD, True)


def test_translate(bench: Bench) -> None:
    at = bench.vcpu.translate(0x12345)
    assert (at.physical, at.valid) == (0x12345, True)


def test_single_step(bench: Bench) -> None:
    bench.start_at(hexcode("90\n 90\n 90\n eb fe"))
    bench.vcpu.set_guest_debug(GUESTDBG_ENABLE | GUESTDBG_SINGLESTEP)
    for step in (1, 2, 3):
        assert bench.vcpu.enter() == Exit.DEBUG
        assert bench.vcpu.get_registers().rip == CODE + step
        debug = bench.vcpu.decode_exit(Exit.DEBUG)
        assert isinstance(debug, Debug)
        assert (debug.exception, debug.pc) == (1, CODE + step)
        assert debug.dr6 & 1 << 14  # BS
    bench.vcpu.set_guest_debug(0)


@pytest.mark.needs("hw-breakpoints")
def test_hardware_breakpoint(bench: Bench) -> None:
    bench.start_at(hexcode("90\n 90\n 90\n eb fe"))
    bench.vcpu.set_guest_debug(GUESTDBG_ENABLE | GUESTDBG_USE_HW_BP, [0x9999, CODE + 2], dr7=0x400 | 1 << 2)
    assert bench.vcpu.enter() == Exit.DEBUG
    debug = bench.vcpu.decode_exit(Exit.DEBUG)
    assert isinstance(debug, Debug)
    assert debug.pc == CODE + 2
    assert debug.dr6 & 0xF == 1 << 1


def test_a_triple_fault_is_a_shutdown(bench: Bench) -> None:
    bench.start_at(hexcode("0f 0b; ud2"))
    state = bench.vcpu.get_system_registers()
    state.idt = Table(0, 0)
    state.cr0 |= 1  # protected mode: real mode's table is not checked against its limit everywhere
    bench.vcpu.set_system_registers(state)
    assert bench.vcpu.enter() == Exit.SHUTDOWN


# Interrupts and events

PIC_FOR_IRQ_5 = hexcode(
    "b0 11 e6 20\n b0 20 e6 21\n b0 04 e6 21\n b0 01 e6 21\n b0 df e6 21\n fb; sti\n e6 d0; out 0xd0, al\n eb fe"
)


def interruptible(bench: Bench, vector: int) -> None:
    """Run the guest to where it takes IRQ 5 as vector 0x25; the vector's handler writes its number to port 0xd1."""
    handler = hexcode(f"b0 {vector:02x}; mov al, vector\n e6 d1; out 0xd1, al\n cf; iret")
    bench.ram[0x5000 : 0x5000 + len(handler)] = handler
    bench.ram[vector * 4 : vector * 4 + 4] = struct.pack("<HH", 0x5000, 0)
    bench.start_at(PIC_FOR_IRQ_5)
    assert bench.next_output()[0] == 0xD0


def test_an_interrupt_line(bench: Bench) -> None:
    interruptible(bench, 0x25)
    bench.vm.irq_line(5, True)
    assert bench.next_output() == (0xD1, 0x25)
    bench.vm.irq_line(5, False)


def test_irqfd(bench: Bench) -> None:
    interruptible(bench, 0x25)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        bench.vm.irqfd(event, 5)
        os.eventfd_write(event, 1)
        assert bench.next_output() == (0xD1, 0x25)
        bench.vm.irqfd(event, 5, deassign=True)
        os.eventfd_write(event, 1)
        assert os.eventfd_read(event) == 1  # nobody took it
    finally:
        os.close(event)


def test_ioeventfd(bench: Bench) -> None:
    event, matching = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    try:
        bench.vm.ioeventfd(event, 0xD0, 1, port=True)
        bench.vm.ioeventfd(matching, 0xD1, 1, port=True, match=7)
        # out 0xd0, al twice; mov al, 7; out 0xd1, al; mov al, 8; out 0xd1, al
        bench.start_at(hexcode("e6 d0\n e6 d0\n b0 07 e6 d1\n b0 08 e6 d1"))
        assert bench.next_output() == (0xD1, 8)  # the only one that does not match
        assert os.eventfd_read(event) == 2
        assert os.eventfd_read(matching) == 1
        bench.vm.ioeventfd(event, 0xD0, 1, port=True, deassign=True)
        bench.start_at(hexcode("b0 09 e6 d0"))
        assert bench.next_output() == (0xD0, 9)
    finally:
        os.close(event)
        os.close(matching)


def test_message_signalled_interrupt(bench: Bench) -> None:
    interruptible(bench, 0x41)
    lapic = bytearray(bench.vcpu.get_lapic())
    struct.pack_into("<I", lapic, 0xF0, 0x1FF)
    bench.vcpu.set_lapic(bytes(lapic))
    assert bench.vm.signal_msi(0xFEE00000, 0x41)  # to APIC id 0, fixed, edge: vector 0x41
    assert bench.next_output() == (0xD1, 0x41)


def test_gsi_routing(bench: Bench) -> None:
    interruptible(bench, 0x25)
    bench.vm.set_gsi_routing([(24, PIC_MASTER, 5)], [(25, 0xFEE00000, 0x41)])
    bench.vm.irq_line(24, True)
    assert bench.next_output() == (0xD1, 0x25)


def test_an_interrupt_without_chips_in_the_kernel(system: System) -> None:
    with ExitStack() as resources:
        bench = Bench(system, resources, chips=False)
        handler = hexcode("b0 33 e6 d1")
        bench.ram[0x5000 : 0x5000 + len(handler)] = handler
        bench.ram[0x33 * 4 : 0x33 * 4 + 4] = struct.pack("<HH", 0x5000, 0)
        bench.start_at(hexcode("fb; sti\n e6 d0\n eb fe"))
        assert bench.next_output()[0] == 0xD0
        bench.vcpu.complete_access()
        bench.vcpu.interrupt(0x33)
        assert bench.next_output() == (0xD1, 0x33)
        with pytest.raises(KvmError, match="KVM_IRQ_LINE.*no interrupt chip"):
            bench.vm.irq_line(5, True)


# Dirty log

DIRTY_TWO_PAGES = hexcode(
    "b8 00 20; mov ax, 0x2000\n 8e d8; mov ds, ax\n a2 00 00; mov [0], al\n a2 00 50; mov [0x5000], al\n e6 d0"
)


def dirty_pages(bench: Bench) -> list[int]:
    bitmap = bytearray(PAGES // 8)
    bench.vm.get_dirty_log(0, bitmap)
    return [page for page in range(PAGES) if bitmap[page // 8] >> page % 8 & 1]


def test_dirty_log(bench: Bench) -> None:
    bench.vm.set_memory(0, 0, len(bench.ram), bench.ram, log=True)
    dirty_pages(bench)
    bench.start_at(DIRTY_TWO_PAGES)
    assert bench.next_output()[0] == 0xD0
    assert {0x20, 0x25} <= set(dirty_pages(bench))
    assert not {0x20, 0x25} & set(dirty_pages(bench))


def test_dirty_log_that_is_cleared_by_hand(bench: Bench) -> None:
    if not bench.vm.check_extension("MANUAL_DIRTY_LOG_PROTECT2"):
        pytest.skip("this KVM's dirty log cannot be cleared piecemeal")
    bench.vm.enable_capability("MANUAL_DIRTY_LOG_PROTECT2", 1)
    bench.vm.set_memory(0, 0, len(bench.ram), bench.ram, log=True)
    bench.start_at(DIRTY_TWO_PAGES)
    assert bench.next_output()[0] == 0xD0
    assert {0x20, 0x25} <= set(dirty_pages(bench))
    assert {0x20, 0x25} <= set(dirty_pages(bench))  # as it was
    bitmap = bytearray(8)
    bitmap[0x20 // 8] |= 1 << 0x20 % 8
    bench.vm.clear_dirty_log(0, 0, 64, bitmap)
    left = dirty_pages(bench)
    assert 0x20 not in left
    assert 0x25 in left


# MSR filter


def test_msr_filter(bench: Bench) -> None:
    bench.system.require("X86_USER_SPACE_MSR", "X86_MSR_FILTER")
    bench.vm.exit_on_msr()
    bench.vm.set_msr_filter([MsrRange(IA32_SYSENTER_CS, 3, read=True, write=False), MsrRange(0xC0DE0000, 1)])
    bench.start_at(
        hexcode(
            """
            66 b9 74 01 00 00 ; mov ecx, 0x174
            66 b8 44 33 00 00 ; mov eax, 0x3344: a selector, some CPUs keep no more
            66 31 d2          ; xor edx, edx
            0f 30             ; wrmsr: KVM's own
            0f 32             ; rdmsr: comes out
            66 e7 d0          ; out 0xd0, eax
            66 b9 00 00 de c0 ; mov ecx, 0xc0de0000
            0f 30             ; wrmsr: comes out
            e6 d1             ; out 0xd1, al
            """
        )
    )
    assert bench.vcpu.enter() == Exit.RDMSR
    assert bench.vcpu.decode_exit(Exit.RDMSR) == MsrAccess(0x174, None)
    bench.vcpu.answer_msr(0x55667788)
    assert bench.next_output() == (0xD0, 0x55667788)
    assert bench.vcpu.get_msrs([0x174]) == {0x174: 0x3344}
    assert bench.vcpu.enter() == Exit.WRMSR
    assert bench.vcpu.decode_exit(Exit.WRMSR) == MsrAccess(0xC0DE0000, 0x55667788)
    bench.vcpu.answer_msr(0)
    assert bench.next_output()[0] == 0xD1


def test_a_refused_msr_faults(bench: Bench) -> None:
    bench.system.require("X86_USER_SPACE_MSR")
    bench.vm.exit_on_msr()
    code = hexcode("66 b9 00 00 de c0\n 0f 32; rdmsr\n f4")
    handler = hexcode("b0 0d; mov al, 13\n e6 d0")
    bench.ram[13 * 4 : 13 * 4 + 4] = struct.pack("<HH", 0x5000, 0)
    bench.ram[0x5000 : 0x5000 + len(handler)] = handler
    bench.start_at(code)
    assert bench.vcpu.enter() == Exit.RDMSR
    bench.vcpu.answer_msr(None)
    assert bench.next_output() == (0xD0, 13)


def test_ram_is_the_callers_and_outlives_the_vm(system: System) -> None:
    with ExitStack() as resources:
        bench = Bench(system, resources)
        bench.start_at(hexcode("c6 06 00 30 5a; mov byte [0x3000], 0x5a\n e6 d0"))
        assert bench.next_output()[0] == 0xD0
        ram = bench.ram
    assert ram[0x3000] == 0x5A
    ram.close()
