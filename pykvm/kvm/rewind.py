"""Putting one state back again and again, as fuzzers do (api.rst, KVM_CAP_SYNC_REGS, section 5 for the shared page)."""

from __future__ import annotations

from collections.abc import Sequence

from .saved import DEFERRED, RUNNING, Calls, SavedState, tsc_moves
from .vcpu import VCPU
from .vm import VM


class Rewinder:
    """Puts one state back, which `apply` has once put onto the same descriptors, again and again, in least time.

    The price is that of the ioctls, on some hosts 5 µs for each that a vCPU is asked. So none is made for what the next
    KVM_RUN can take from the shared page, nor for what is there already.

    Each that is left is for what a guest can change unseen: XCRS (XSETBV), XSAVE, MSRS (WRMSR), LAPIC, DEBUGREGS (MOV
    to DR); the chips, the PIT and kvmclock go by the VM, which costs 1-2 µs each.
    """

    def __init__(self, state: SavedState, vm: VM, vcpus: Sequence[VCPU]) -> None:
        self._pairs = list(zip(state.vcpus, vcpus, strict=True))
        self._first = list(state.vm.setters(vm))
        self._state, self._vcpus = state, list(vcpus)
        self._tsc_moves = tsc_moves(vcpus[0])
        sync = vm.check_extension("SYNC_REGS") & 7 == 7
        # A vCPU that sleeps would not take the parts of `DEFERRED` before it wakes; no APIC is at the address 0.
        self._entries = [
            (vcpu, vcpu.run, saved.parts["system"].apic_base if sync and saved.runnable else 0, saved.deferred(vcpu))
            for saved, vcpu in self._pairs
        ]
        self._calls: dict[tuple[tuple[str, ...], ...], Calls] = {}

    def __call__(self) -> None:
        """KvmError if KVM refuses a part of the state."""
        left_out = []
        for vcpu, run, apic_base, _ in self._entries:
            run.kvm_dirty_regs = 0
            # The mode may come after the local APIC's state only where that stays where it is.
            left_out.append(() if run.apic_base != apic_base else RUNNING if vcpu.is_at_access else DEFERRED)
        if self._tsc_moves:
            self._state.apply_tsc(self._vcpus)
        (self._calls.get(tuple(left_out)) or self._make_calls(left_out))()
        for (saved, vcpu), (_, run, _, defer), parts in zip(self._pairs, self._entries, left_out, strict=True):
            if parts:
                defer()
            else:
                run.apic_base = saved.parts["system"].apic_base
                vcpu.forget_exit()

    def _make_calls(self, left_out: Sequence[tuple[str, ...]]) -> Calls:
        calls = list(self._first)
        for (saved, vcpu), parts in zip(self._pairs, left_out, strict=True):
            calls += saved.setters(vcpu, parts)
        made = self._calls[tuple(left_out)] = Calls(calls)
        return made
