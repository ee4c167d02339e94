"""Telling a guest's clocks that it stood still, when it goes on after a pause or a debugger's stop.

kvmclock runs on meanwhile, and the guest is told so (api.rst, KVM_KVMCLOCK_CTRL: Linux's watchdogs look for it). The
i8254 in the kernel keeps the interrupts that were due and would deliver all of them at once: they are dropped, and its
period begins anew (i8254.c, create_pit_timer). The local APIC's timer keeps one at most, and so does the RTC, whose
periodic interrupt stays pending until the guest reads register C.
"""

from __future__ import annotations

import errno

from ..kvm import KvmError, chips
from .board import Board

PIT_HZ = 1_193_182
PERIODIC = (2, 3)
"""Modes of the i8254 that go on by themselves (data sheet, "Mode definitions")."""


def go_on(board: Board, seconds: float) -> None:
    """The guest is about to go on after so many seconds. With the lock held and no vCPU in the guest."""
    for vcpu in board.vcpus:
        try:
            vcpu.was_paused()
        except KvmError as error:
            if error.errno != errno.EINVAL:  # the guest has no kvmclock
                raise
    counter = chips.pit_counters(board.vm)[0]
    if counter.mode in PERIODIC and seconds * PIT_HZ >= counter.reload:
        board.vm.set_pit(board.vm.get_pit())
