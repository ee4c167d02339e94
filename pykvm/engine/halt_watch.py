"""Noticing a machine that sleeps for ever: with an in-kernel irqchip `hlt` never leaves the kernel."""

from __future__ import annotations

import time
from functools import partial

from ..kvm import VCPU, MpState
from ..typed import TYPE_CHECKING
from ..x86 import lapic
from ..x86.registers import RFLAGS_IF

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .eventloop import EventLoop, Timer
    from .gate import Gate
    from .runner import Runner

CHECK_MIN, CHECK_MAX = 0.001, 0.05
"""Seconds between two looks whether any CPU has run: they grow from the first to the second."""


class HaltWatch:
    """Calls `halted`, with the lock held and no vCPU in the guest, when nothing can wake the vCPUs of `runners` again.

    As long as the vCPUs' threads use time of a CPU nothing is asked of KVM. Watches from its making, with the lock held
    as all here, to `stop`.
    """

    def __init__(self, runners: Sequence[Runner], gate: Gate, loop: EventLoop, halted: Callable[[], None]) -> None:
        self._runners, self._gate, self._loop, self._halted = runners, gate, loop, halted
        self._checking = False
        self._timer: Timer | None = None
        self._watch([], 0)

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self, before: list[int], interval: float) -> None:
        """Compare the vCPU threads' run time with `before`; where nothing moved, look whether anything ever will."""
        now = [runner.cpu_time() for runner in self._runners]
        if now == before and not self._checking:
            self._checking = True
            self._gate.at_rest(self._check)
        interval = min(max(interval * 1.5, CHECK_MIN), CHECK_MAX)
        self._timer = self._loop.call_at(time.monotonic() + interval, partial(self._watch, now, interval))

    def _check(self) -> None:
        """All vCPUs are out of the guest, so what is found holds for all of them at once."""
        self._checking = False
        if all(_sleeps_for_ever(runner.vcpu) for runner in self._runners):
            self._halted()


def _sleeps_for_ever(vcpu: VCPU) -> bool:
    """Whether only another CPU could wake this one."""
    state = vcpu.get_mp_state()
    if state != MpState.HALTED:
        return state in (MpState.UNINITIALIZED, MpState.INIT_RECEIVED)
    if vcpu.get_registers().rflags & RFLAGS_IF or vcpu.get_events().nmi_pending:
        return False
    entries = lapic.lvt_entries(vcpu.get_lapic())
    return not any(entry & lapic.LVT_DELIVERY == lapic.LVT_NMI and not entry & lapic.LVT_MASKED for entry in entries)
