"""Every instruction that the guest executes, by single-stepping.

Source: Linux Documentation/virt/kvm/api.rst (KVM_SET_GUEST_DEBUG, KVM_GUESTDBG_SINGLESTEP). What that cannot show: on
VMX and SVM an interrupt's delivery suspends stepping until the handler's `iret`, and KVM's PVM back end reports no
steps from ring 3.

An instruction that leaves the guest half-way (a port, MMIO or MSR access) is finished by KVM at the next KVM_RUN, which
may go on with the following instruction before it reports a step. So such an access is finished by a KVM_RUN of its
own, with `immediate_exit` set, which executes nothing more. It ends with EINTR, and the vCPU's loop takes that as a
request to come out, which may be there as well: none gets lost.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..engine.entry import Link, Rank
from ..errors import ConfigError
from ..kvm import VCPU
from ..kvm.exits import PIO, Exit
from ..kvm.vcpu import GUESTDBG_ENABLE, GUESTDBG_SINGLESTEP, Position
from ..machine import Machine
from ..x86.registers import code_bits, linear_pc
from .event import Event, Site
from .sites import OTHER, Sites
from .tracer import Filter, Outlet

if TYPE_CHECKING:
    from ..engine.runner import Runner

Executed = Callable[[VCPU, Position], object]

HALF_WAY = frozenset({Exit.IO, Exit.MMIO, Exit.RDMSR, Exit.WRMSR})
"""The exits that the next KVM_RUN finishes."""


class InstructionTracer:
    """Single-steps `machine`, which has not been started.

    `executing(vcpu, position)` is called in the vCPU's thread, without the machine's lock, when the instruction there
    is about to be executed, `executed` when it has been. An instruction that is tried again after it could not be
    executed, because the machine was paused for example, is told of again to `executing` only.
    """

    def __init__(self, machine: Machine, executed: Executed, executing: Executed | None = None) -> None:
        engine = machine.engine
        engine.board.system.require("SYNC_REGS", "SET_GUEST_DEBUG")
        if engine.debugger is not None:
            raise ConfigError("a debugger has the CPUs' single step: instructions are traced without one")
        for runner in engine.runners:
            _Steps(runner, executed, executing)


class InstructionEvents:
    """Makes events of the instructions that `filter` passes, by their address and CPU, for `outlet`."""

    def __init__(self, machine: Machine, outlet: Outlet, filter: Filter, *, lines: bool = False) -> None:
        self._outlet = outlet
        self._filter = filter
        self._sites = Sites(machine, lines)
        self._began = 0
        self._next: list[Site | None] = [None] * len(machine.engine.runners)
        InstructionTracer(machine, self._executed, self._executing)

    def _executing(self, vcpu: VCPU, position: Position) -> None:
        if not self._began:
            self._began = time.perf_counter_ns()
        # Looked at before it is executed: afterwards its own code may be another.
        passes = self._filter.passes("instruction", "", position.linear, vcpu.id)
        self._next[vcpu.id] = self._sites.find(vcpu, position, OTHER) if passes else None

    def _executed(self, vcpu: VCPU, position: Position) -> None:
        site = self._next[vcpu.id]
        if site is not None:
            self._outlet.emit(Event(0, time.perf_counter_ns() - self._began, vcpu.id, "instruction", site))


class _Steps(Link):
    """The innermost link of one vCPU that is stepped. Used by its thread alone."""

    rank = Rank.STEP

    def __init__(self, runner: Runner, executed: Executed, executing: Executed | None) -> None:
        self._vcpu = runner.vcpu
        self._executed = executed
        self._executing = executing
        self._half_way = False
        runner.entry.push(self)
        self._vcpu.share_registers()
        self._vcpu.set_guest_debug(GUESTDBG_ENABLE | GUESTDBG_SINGLESTEP)
        self._position = _first_position(self._vcpu)

    def enter(self) -> int:
        if self._half_way:
            return self._finish(self.inner.enter)
        vcpu = self._vcpu
        while True:
            position = self._position
            if self._executing is not None:
                self._executing(vcpu, position)
            result = self.inner.enter()
            self._position = vcpu.position()
            if result < 0:
                return result
            self._executed(vcpu, position)
            if result != Exit.DEBUG:
                self._half_way = result >= PIO or result in HALF_WAY
                return result

    def enter_answering(self, value: int) -> int:
        return self._finish(partial(self.inner.enter_answering, value))

    def _finish(self, enter: Callable[[], int]) -> int:
        self._vcpu.immediate_exit(True)
        result = enter()
        self._position = self._vcpu.position()
        self._half_way = result >= PIO or result in HALF_WAY
        # Some KVMs report the step here. Others will not: the next one is that of the next instruction.
        return -errno.EINTR if result == Exit.DEBUG else result


def _first_position(vcpu: VCPU) -> Position:
    """Where the vCPU is before its first KVM_RUN."""
    registers, system = vcpu.get_registers(), vcpu.get_system_registers()
    return Position(linear_pc(registers, system), code_bits(system), system.cr3)
