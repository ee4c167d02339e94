"""All state of a virtual machine that KVM keeps, taken and put back at once: vCPUs, interrupt chips, timer, clock.

Source: api.rst, the KVM_GET_* and KVM_SET_* pairs. States are kept in the form in which the ioctls take them, and
putting all of them back is one call into C: `SavedState.capture` and `apply`. `as_plain` and `from_plain` translate to
and from named plain data, for a file that people read.

The order of `apply` is not free. The chips come before the vCPUs, because what they still have to deliver goes to a
local APIC, whose saved state then counts; in a vCPU, the mode (SREGS) comes before what depends on it, the local APIC
after the MSRs that say where it is, the TSC deadline after the local APIC, the general registers before the events,
which setting them clears. Memory and the lines of devices come before all of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

from ..x86.lapic import (
    LVT_MASKED,
    LVT_MODE,
    LVT_ONE_SHOT,
    LVT_TIMER,
    LVT_TSC_DEADLINE,
    TIMER_CURRENT,
    TIMER_INITIAL,
)
from ._kvm import ffi, lib
from .errors import KvmError
from .structs import as_table, member, struct_as_plain, struct_from_plain, u64
from .system import System
from .vcpu import MSRS_AT_ONCE, VCPU
from .vm import VM

MSR_TSC = 0x10
MSR_TSC_DEADLINE = 0x6E0
MSR_MCG_CAP = 0x179
MCG_CMCI = 1 << 10
"""In MSR_MCG_CAP: there are IA32_MCi_CTL2. The number of banks is in bits 7:0."""
MCE_BANKS = 32
"""KVM's KVM_MAX_MCE_BANKS."""
MTRR_MSRS = (0x250, 0x258, 0x259, *range(0x268, 0x270), *range(0x200, 0x210), 0x2FF)
AMD_MSRS = (0xC0010114, 0xC0010140, 0xC0010141)
"""VM_CR, OSVW_ID_Length, OSVW_Status (AMD APM volume 2, appendix A; PPR)."""
SGX_MSRS = (0x8C, 0x8D, 0x8E, 0x8F)
"""IA32_SGXLEPUBKEYHASH0-3."""
MSR_LIMIT = 4096
"""No list of MSRs is longer."""
XSAVE_LIMIT = 1 << 16
"""Bytes; no XSAVE area is larger."""

_PLAIN = (
    ("registers", "REGS", "struct kvm_regs"),
    ("system", "SREGS", "struct kvm_sregs"),
    ("xcrs", "XCRS", "struct kvm_xcrs"),
    ("mp_state", "MP_STATE", "struct kvm_mp_state"),
    ("lapic", "LAPIC", "struct kvm_lapic_state"),
    ("events", "VCPU_EVENTS", "struct kvm_vcpu_events"),
    ("debug", "DEBUGREGS", "struct kvm_debugregs"),
)
"""The parts of a vCPU that are one structure each: (name, ioctl, type)."""

_ORDER = ("system", "xcrs", "xsave", "msrs", "registers", "mp_state", "lapic", "deadline", "events", "debug")
"""The parts of a vCPU in the order in which they are put back."""

DEFERRED = ("system", "registers", "events")
"""The parts of a vCPU that its next KVM_RUN can take from the shared page, which saves three ioctls."""
RUNNING = (*DEFERRED, "mp_state")
"""The same, and what a vCPU that has left the guest for an access has already: that it runs."""

_CHIPS = (("pic_master", lib.KVM_IRQCHIP_PIC_MASTER), ("pic_slave", lib.KVM_IRQCHIP_PIC_SLAVE),
          ("ioapic", lib.KVM_IRQCHIP_IOAPIC))  # fmt: skip

_NAMES = {getattr(lib, name): name for name in dir(lib) if name.startswith(("KVM_GET_", "KVM_SET_"))}

Call = tuple[int, int, Any]
"""Descriptor, request, argument."""


class Calls:
    """Ioctls that are made together, as one call into C."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._arguments = [argument for _, _, argument in calls]  # keeps them alive
        self.count = len(calls)
        self.calls = ffi.new("struct pykvm_call[]", self.count)
        for entry, (fd, request, argument) in zip(self.calls, calls, strict=True):
            entry.fd, entry.request, entry.argument = fd, request, argument

    def __call__(self) -> None:
        """Make them; KvmError names the first that fails, and those after it are not made."""
        done = lib.pykvm_calls(self.calls, self.count)
        if done < self.count:
            number = ffi.errno
            name = _NAMES.get(self.calls[done].request, "ioctl")
            raise KvmError(name, number, "this KVM does not take the state")


class SavedVcpu:
    """The state of one vCPU: taken and put back while nobody is inside KVM_RUN and no access is pending."""

    def __init__(self, msrs: Sequence[int], xsave_size: int) -> None:
        self.parts: dict[str, Any] = {name: ffi.new(f"{ctype} *") for name, _, ctype in _PLAIN}
        self.parts["xsave"] = ffi.new("char[]", max(xsave_size, ffi.sizeof("struct kvm_xsave")))
        self._msr_lists = [_msr_list(dict.fromkeys(part, 0)) for part in _in_parts(msrs)]
        self.parts["deadline"] = _msr_list({MSR_TSC_DEADLINE: 0})
        self.tsc_offset = 0
        """Cycles between the host's TSC and this vCPU's, where KVM tells."""

    @classmethod
    def capture(cls, vcpu: VCPU, msrs: Sequence[int], xsave_size: int) -> Self:
        """The state of `vcpu` now: with those MSRs, and `xsave_size` bytes as the VM's capability XSAVE2 tells."""
        saved = cls(msrs, xsave_size)
        vcpu.flush()
        calls = Calls(list(saved.getters(vcpu)))
        calls()
        if saved._timer_runs():
            # What the timer has for the local APIC is in no ioctl's state. Taken now, a one-shot timer that is at zero
            # has been at zero before: its interrupt has arrived, and it must not start again when it is put back.
            vcpu.take_timers()
            ended = saved._timer_mode == LVT_ONE_SHOT and not saved._lapic(TIMER_CURRENT)
            calls()
            if ended:
                saved._lapic_register(TIMER_INITIAL)[:] = bytes(4)
        saved.tsc_offset = tsc_offset(vcpu)
        return saved

    def getters(self, vcpu: VCPU) -> Iterator[Call]:
        """The calls that take the state."""
        for name, ioctl, _ in _PLAIN:
            yield vcpu.fd, getattr(lib, f"KVM_GET_{ioctl}"), self.parts[name]
        large = ffi.sizeof(self.parts["xsave"]) > ffi.sizeof("struct kvm_xsave")
        yield vcpu.fd, lib.KVM_GET_XSAVE2 if large else lib.KVM_GET_XSAVE, self.parts["xsave"]
        for msrs in self._msr_lists:
            yield vcpu.fd, lib.KVM_GET_MSRS, msrs
        if MSR_TSC_DEADLINE in self.msrs:
            yield vcpu.fd, lib.KVM_GET_MSRS, self.parts["deadline"]

    def setters(self, vcpu: VCPU, but: Container[str] = ()) -> Iterator[Call]:
        """The calls that put the state back, in their order, without the parts named in `but`."""
        requests = {name: getattr(lib, f"KVM_SET_{ioctl}") for name, ioctl, _ in _PLAIN}
        requests |= {"xsave": lib.KVM_SET_XSAVE, "deadline": lib.KVM_SET_MSRS}
        for name in _ORDER:
            if name == "msrs":
                for msrs in self._msr_lists:
                    yield vcpu.fd, lib.KVM_SET_MSRS, msrs
                continue
            # Outside the deadline mode of the local APIC's timer the MSR ignores what is written to it.
            if name not in but and (name != "deadline" or self._timer_mode == LVT_TSC_DEADLINE):
                yield vcpu.fd, requests[name], self.parts[name]

    def apply(self, vcpu: VCPU) -> None:
        """Put the state back; KvmError if KVM refuses a part of it."""
        vcpu.flush()
        Calls(list(self.setters(vcpu)))()

    @property
    def runnable(self) -> bool:
        """Whether the vCPU neither sleeps nor waits for another."""
        return bool(self.parts["mp_state"].mp_state == lib.KVM_MP_STATE_RUNNABLE)

    def deferred(self, vcpu: VCPU) -> Callable[[], None]:
        """A function that leaves the parts of `DEFERRED` to the vCPU's next KVM_RUN, which takes them first of all if
        the vCPU is RUNNABLE. They count before, too, for every other call of `vcpu`."""
        parts = self.parts
        return partial(lib.pykvm_defer, vcpu.run, parts["registers"], parts["system"], parts["events"])

    @property
    def msrs(self) -> dict[int, int]:
        """The MSRs by index."""
        return {entry.index: entry.data for box in self._msr_lists for entry in box.entries[0 : box.nmsrs]}

    def _lapic_register(self, offset: int) -> memoryview:
        return memoryview(ffi.buffer(self.parts["lapic"]))[offset : offset + 4]

    def _lapic(self, offset: int) -> int:
        return int.from_bytes(self._lapic_register(offset), "little")

    @property
    def _timer_mode(self) -> int:
        return self._lapic(LVT_TIMER) & LVT_MODE

    def _timer_runs(self) -> bool:
        """Whether the local APIC's timer has been started, counts down by itself and may interrupt."""
        if self._timer_mode == LVT_TSC_DEADLINE or self._lapic(LVT_TIMER) & LVT_MASKED:
            return False
        return self._lapic(TIMER_INITIAL) != 0

    def as_plain(self) -> dict[str, Any]:
        """The state as named numbers, and bytes for what KVM itself only gives as a block."""
        state = {name: struct_as_plain(self.parts[name]) for name, _, _ in _PLAIN}
        state["xsave"] = bytes(ffi.buffer(self.parts["xsave"]))
        state["msrs"] = {f"{index:#x}": value for index, value in self.msrs.items()}
        state["tsc_deadline"] = self.parts["deadline"].entries[0].data
        state["tsc_offset"] = self.tsc_offset
        return state

    @classmethod
    def from_plain(cls, state: dict[str, Any], known_msrs: Container[int], xsave_size: int) -> Self:
        """Take back what `as_plain` returned; ValueError says what does not fit, an unknown MSR included."""
        msrs, xsave = member(state, "msrs", dict), member(state, "xsave", bytes)
        if len(msrs) > MSR_LIMIT or not ffi.sizeof("struct kvm_xsave") <= len(xsave) <= XSAVE_LIMIT:
            raise ValueError("the MSRs or the XSAVE area have no size that can be")
        values = {_msr_index(index): value for index, value in msrs.items()}
        for index in values:
            if index not in known_msrs:
                raise ValueError(f"this KVM has no MSR {index:#x}, or does not let it be set")
        saved = cls(list(values), max(len(xsave), xsave_size))  # KVM takes as many bytes as this host has
        for name, _, _ in _PLAIN:
            struct_from_plain(saved.parts[name], state.get(name), name)
        ffi.buffer(saved.parts["xsave"])[0 : len(xsave)] = xsave
        checked = {index: u64(value, "an MSR") for index, value in values.items()}
        saved._msr_lists = [_msr_list({index: checked[index] for index in part}) for part in _in_parts(list(checked))]
        saved.parts["deadline"].entries[0].data = u64(state.get("tsc_deadline"), "tsc_deadline")
        offset = state.get("tsc_offset")
        if type(offset) is not int or not -(1 << 63) <= offset < 1 << 63:
            raise ValueError("tsc_offset is not a number of 64 bits")
        saved.tsc_offset = offset
        return saved


class SavedVm:
    """The state of the interrupt chips, the i8254 and kvmclock."""

    def __init__(self) -> None:
        self.chips = {name: ffi.new("struct kvm_irqchip *", {"chip_id": number}) for name, number in _CHIPS}
        self.pit = ffi.new("struct kvm_pit_state2 *")
        self.clock = ffi.new("struct kvm_clock_data *")

    @classmethod
    def capture(cls, vm: VM) -> Self:
        """The state of `vm` now."""
        saved = cls()
        Calls(list(saved.getters(vm)))()
        saved.clock.flags = 0  # or KVM_SET_CLOCK would add the time that has passed since
        return saved

    def getters(self, vm: VM) -> Iterator[Call]:
        """The calls that take the state."""
        for chip in self.chips.values():
            yield vm.fd, lib.KVM_GET_IRQCHIP, chip
        yield vm.fd, lib.KVM_GET_PIT2, self.pit
        yield vm.fd, lib.KVM_GET_CLOCK, self.clock

    def setters(self, vm: VM) -> Iterator[Call]:
        """The calls that put the state back, in their order."""
        for chip in self.chips.values():
            yield vm.fd, lib.KVM_SET_IRQCHIP, chip
        yield vm.fd, lib.KVM_SET_PIT2, self.pit
        yield vm.fd, lib.KVM_SET_CLOCK, self.clock

    def apply(self, vm: VM) -> None:
        """Put the state back; KvmError if KVM refuses a part of it."""
        Calls(list(self.setters(vm)))()

    def as_plain(self) -> dict[str, Any]:
        """The state as plain data; the chips are the blocks that KVM gives."""
        state: dict[str, Any] = {name: bytes(ffi.buffer(chip)) for name, chip in self.chips.items()}
        return {**state, "pit": bytes(ffi.buffer(self.pit)), "clock": self.clock.clock}

    @classmethod
    def from_plain(cls, state: dict[str, Any]) -> Self:
        """Take back what `as_plain` returned; ValueError says what does not fit."""
        saved = cls()
        for name, number in _CHIPS:
            struct_from_plain(saved.chips[name], state.get(name), name)
            saved.chips[name].chip_id = number
        struct_from_plain(saved.pit, state.get("pit"), "pit")
        saved.clock.clock = u64(state.get("clock"), "clock")
        return saved


class SavedState:
    """A VM with all its vCPUs."""

    def __init__(self, vm: SavedVm, vcpus: Sequence[SavedVcpu], tsc: int) -> None:
        self.vm = vm
        self.vcpus = list(vcpus)
        self.tsc = tsc
        """The first vCPU's TSC."""

    @classmethod
    def capture(cls, vm: VM, vcpus: Sequence[VCPU], msrs: Sequence[int]) -> Self:
        """The state now; `msrs` from `state_msrs`."""
        size = vm.check_extension("XSAVE2")
        saved = [SavedVcpu.capture(vcpu, msrs, size) for vcpu in vcpus]
        return cls(SavedVm.capture(vm), saved, vcpus[0].get_msrs((MSR_TSC,)).get(MSR_TSC, 0))

    def apply(self, vm: VM, vcpus: Sequence[VCPU]) -> None:
        """Put the state back; KvmError if KVM refuses a part of it."""
        self.apply_tsc(vcpus)
        calls = list(self.vm.setters(vm))
        for saved, vcpu in zip(self.vcpus, vcpus, strict=True):
            vcpu.flush()
            calls += saved.setters(vcpu)
        Calls(calls)()
        for saved, vcpu in zip(self.vcpus, vcpus, strict=True):
            vcpu.run.apic_base = saved.parts["system"].apic_base  # where Rewinder looks
            vcpu.forget_exit()

    def apply_tsc(self, vcpus: Sequence[VCPU]) -> None:
        """Have the TSCs go on from where they were, with their distances from each other. Where KVM cannot move them
        (see `tsc_moves`), they run on."""
        now, offset = vcpus[0].get_msrs((MSR_TSC,)).get(MSR_TSC, 0), tsc_offset(vcpus[0])
        shift = offset + self.tsc - now - self.vcpus[0].tsc_offset
        for saved, vcpu in zip(self.vcpus, vcpus, strict=True):
            set_tsc_offset(vcpu, saved.tsc_offset + shift)

    def as_plain(self) -> dict[str, Any]:
        """The state as plain data."""
        return {"tsc": self.tsc, "vm": self.vm.as_plain(), "vcpus": [vcpu.as_plain() for vcpu in self.vcpus]}

    @classmethod
    def from_plain(cls, state: dict[str, Any], system: System) -> Self:
        """Take back what `as_plain` returned; ValueError says what does not fit, or what this KVM lacks for it."""
        msrs, size = frozenset(known_msrs(system)), system.check_extension("XSAVE2")
        vcpus = [SavedVcpu.from_plain(as_table(vcpu, "a vCPU"), msrs, size) for vcpu in member(state, "vcpus", list)]
        return cls(SavedVm.from_plain(member(state, "vm", dict)), vcpus, u64(state.get("tsc"), "tsc"))


def _mce_msrs(banks: int, ctl2: bool) -> list[int]:
    """CTL, STATUS, ADDR and MISC of so many machine-check banks, and CTL2 (Intel SDM volume 3B, 16.3.2)."""
    return [*range(0x400, 0x400 + 4 * banks), *(range(0x280, 0x280 + banks) if ctl2 else ())]


def _with_unlisted(system: System, mce: Sequence[int]) -> list[int]:
    """What KVM_GET_MSR_INDEX_LIST names, and what it leaves out though guests can change it; but for the TSC, which
    `SavedState.apply_tsc` has."""
    indices = dict.fromkeys((*system.msr_indices(), *MTRR_MSRS, *AMD_MSRS, *SGX_MSRS, *mce))
    return [index for index in indices if index != MSR_TSC]


def known_msrs(system: System) -> list[int]:
    """The MSRs that may be part of a state, whatever vCPU it is of."""
    return _with_unlisted(system, _mce_msrs(MCE_BANKS, True))


def state_msrs(system: System, vcpu: VCPU) -> list[int]:
    """Those of them that can be read from and set on `vcpu`: all that a guest can change is among them.

    Each is set to the value that it has: of some, KVM tells the value and takes none. KVM does not tell which MSRs have
    been written, so each restore sets all: some 0.04 µs each, beside the price of the ioctl.
    """
    cap = vcpu.get_msrs((MSR_MCG_CAP,)).get(MSR_MCG_CAP, 0)
    mce = _mce_msrs(min(cap & 0xFF, MCE_BANKS), bool(cap & MCG_CMCI))
    rest = list(vcpu.get_msrs(_with_unlisted(system, mce)).items())
    usable: list[int] = []
    while rest:
        part = rest[:MSRS_AT_ONCE]
        done = vcpu.ioctl("KVM_SET_MSRS", _msr_list(dict(part)))
        usable += [index for index, _ in part[:done]]
        rest = rest[done + (done < len(part)) :]  # the one after `done` is refused
    return usable


def tsc_offset(vcpu: VCPU) -> int:
    """Cycles from the host's TSC to the vCPU's; 0 where KVM does not tell."""
    box = ffi.new("int64_t *")
    return int(box[0]) if lib.pykvm_tsc_offset(vcpu.fd, box, 0) == 0 else 0


def set_tsc_offset(vcpu: VCPU, offset: int) -> None:
    """Move the vCPU's TSC; without effect where KVM cannot."""
    offset = (offset + (1 << 63)) % (1 << 64) - (1 << 63)
    if lib.pykvm_tsc_offset(vcpu.fd, ffi.new("int64_t *", offset), 1) < 0 and ffi.errno not in (
        errno.ENXIO, errno.ENOTTY, errno.EINVAL, errno.EPERM,
    ):  # fmt: skip
        raise KvmError("KVM_SET_DEVICE_ATTR", ffi.errno, os.strerror(ffi.errno))


def tsc_moves(vcpu: VCPU) -> bool:
    """Whether `set_tsc_offset` has an effect: not on KVM's PVM back end, whose guests read the host's own TSC."""
    before = tsc_offset(vcpu)
    set_tsc_offset(vcpu, before - (1 << 30))
    moved = tsc_offset(vcpu) != before
    set_tsc_offset(vcpu, before)
    return moved


def copy_pages(target: Any, source: Any, bitmap: bytes | bytearray) -> int:
    """Copy the pages of 4 KiB marked in `bitmap` (bit 0 of byte 0 is the first; a multiple of 8 bytes); how many.

    `target` (writable) and `source` are buffers in which every marked page lies whole: the last one is checked.
    """
    last = int.from_bytes(bitmap, "little").bit_length()
    if len(bitmap) % 8 or last << 12 > min(_size(target), _size(source)):
        raise ValueError(f"page {last - 1} is not within the buffers, or the bitmap has no whole words")
    with ffi.from_buffer(target, require_writable=True) as to, ffi.from_buffer(source) as of:
        words = ffi.from_buffer("uint64_t[]", bitmap)
        return int(lib.pykvm_copy_pages(to, of, words, len(bitmap) // 8))


def _size(buffer: Any) -> int:
    with memoryview(buffer) as view:
        return view.nbytes


def _in_parts(indices: Sequence[int]) -> list[Sequence[int]]:
    return [indices[at : at + MSRS_AT_ONCE] for at in range(0, len(indices), MSRS_AT_ONCE)]


def _msr_list(values: Mapping[int, int]) -> Any:
    box = ffi.new("struct kvm_msrs *", {"entries": len(values)})
    box.nmsrs = len(values)
    for entry, (index, data) in zip(box.entries[0 : len(values)], values.items(), strict=True):
        entry.index, entry.data = index, data
    return box


def _msr_index(text: Any) -> int:
    if type(text) is str and len(text) <= len("0x12345678"):
        with suppress(ValueError):
            return int(text, 16)
    raise ValueError(f"{text!r:.40} is no index of an MSR")
