"""Single steps: a link of the entry chain that comes back after each instruction, whatever the instruction does."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..engine.entry import Link, Rank
from ..kvm import VCPU
from ..kvm.exits import Exit


class StepRange(NamedTuple):
    """Have a CPU execute one instruction, and go on as long as it is at linear `low` up to below `high`."""

    low: int = 0
    high: int = 0


EVERYWHERE = StepRange(0, 1 << 64)
"""A step that goes on for ever."""


class Stepper(Link):
    """The innermost link while a vCPU is stepped. The vCPU's thread alone calls `enter` and `enter_answering`.

    An instruction that leaves the guest half-way (port, MMIO or MSR access) is finished by KVM at the next KVM_RUN, and
    not every KVM reports a single step then: it may execute another instruction first. So the access is finished with
    `immediate_exit` set, and if RIP has moved, the step is done.
    """

    rank = Rank.STEP

    def __init__(self, vcpu: VCPU, step: StepRange) -> None:
        self.step = step
        self._vcpu = vcpu
        self._finished = self._done = False
        self.again()

    def again(self) -> None:
        """Step once more."""
        self._start = self._vcpu.get_registers().rip
        self._whole = True  # no access is half-way

    def finish(self) -> None:
        """The step is over: from now on this link does nothing."""
        self._finished = True

    def take_done(self) -> bool:
        """Whether the last result was a step that KVM did not report; once."""
        done, self._done = self._done, False
        return done

    def enter(self) -> int:
        """As `VCPU.enter`."""
        if self._finished:
            return self.inner.enter()
        if self._whole:
            self._whole = False
            return self.inner.enter()
        return self._complete(self.inner.enter)

    def enter_answering(self, value: int) -> int:
        """As `VCPU.enter_answering`."""
        return self._complete(partial(self.inner.enter_answering, value))

    def _complete(self, enter: Callable[[], int]) -> int:
        self._vcpu.immediate_exit(True)
        result = enter()
        self._whole = True
        if result == -errno.EINTR and self._vcpu.get_registers().rip != self._start:
            self._done = True
            return Exit.DEBUG
        return result
