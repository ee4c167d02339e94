"""The way back to a fault that KVM has forgotten, and to the instructions that led to it.

Some KVMs reset a CPU at a triple fault, before anybody can look at it (AMD's: Linux arch/x86/kvm/svm/svm.c,
shutdown_interception). So the guest is run again, from a checkpoint of its start, in a machine of its own: freely up to
an exit or two before the end, and from there on instruction by instruction, with the registers kept before each.

A second run is the same only as far as nothing from outside has a part in it: input, the time, other CPUs. Whoever
makes a report says that it is from a replay, and says so, too, when the replay met no fault.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from .crash.cause import chain_of, first_event
from .crash.event import Crash
from .crash.explain import NotMet, Replayed
from .crash.post_mortem import PostMortem
from .engine.entry import Link, Rank
from .errors import PykvmError
from .kvm.exits import Debug, Exit
from .kvm.steps import Steps
from .memory import PAGE_SIZE
from .outcome import Ending, Outcome
from .typed import Protocol
from .x86.registers import Registers, SystemRegisters

if TYPE_CHECKING:
    from .engine.engine import Engine
    from .snapshot import Snapshot
    from .snapshot.timeline import Timeline
    from .x86.cpu import Cpu
    from .x86.delivery import Delivery

EXITS_BEFORE = 2
"""Exits before the last one from which on a guest is stepped."""
MAX_COPY = 64 << 20
"""Bytes of RAM that are copied at a start for nothing but a crash that may never come."""
MAX_STEPS = 1 << 20
"""Instructions that are stepped in one attempt."""
MAX_ATTEMPTS = 8
MAX_HANDLERS = 1024
"""Handlers of which each one's first instruction faults, and that are followed."""
BATCH = 256
"""Steps between two looks at the clock and the local APIC, at most; fewer where they take longer than `BRIEF`."""
BRIEF = 0.001
"""Seconds in which no timer that was set up comes to its end unseen."""


class Guest(Protocol):
    """A machine that is about to start, as a snapshot's fork is."""

    replay_limit: float

    @property
    def engine(self) -> Engine:
        """What runs it."""

    def run(self, timeout: float | None = None) -> Outcome:
        """Run it to its end."""

    def post_mortem(self) -> PostMortem:
        """What is left of it after its end."""

    def close(self) -> None:
        """Give it back."""


class Checkpoint:
    """The state of a machine at its start, to run it a second time from. Taking one changes nothing of the machine."""

    def __init__(self, snapshot: Snapshot, pages: dict[int, bytes]) -> None:
        self._snapshot = snapshot
        self._pages = pages

    @classmethod
    def take(cls, timeline: Timeline, *, asked_for: bool) -> Checkpoint | None:
        """A checkpoint of a machine that is about to start.

        None if it cannot be had, or if nobody has `asked_for` it and it is not cheap.
        """
        try:
            base, memory = timeline.base, timeline.parts.board.memory
            if base is None:
                cheap = memory.committed() <= MAX_COPY
                return cls(timeline.take_aside(), {}) if asked_for or cheap else None
            # It was put back to a snapshot, perhaps for the thousandth time: what differs since then is little.
            snapshot = replace(base, consoles=[console.save() for console in timeline.parts.consoles])
            at = [page * PAGE_SIZE for page in sorted(memory.written or ())]
            return cls(snapshot, {start: memory.map[start : start + PAGE_SIZE] for start in at})
        except (PykvmError, OSError, ValueError):
            return None

    def fork(self) -> Guest:
        """A machine that is about to start from here. PykvmError if it cannot be made."""
        machine: Guest = self._snapshot.fork()
        machine.replay_limit = 0
        memory = machine.engine.board.memory
        for start, content in self._pages.items():
            memory.map[start : start + PAGE_SIZE] = content
        return machine


def replay(checkpoint: Checkpoint, seconds: float, crash: Crash, exits: int, keep: int) -> Replayed:
    """Run again from `checkpoint` to a crash that came after so many exits of its CPU, in at most `seconds`.

    `keep` instructions before it are kept. Raises NotMet, or another PykvmError if no machine can be made.
    """
    cpu = crash.cpu
    deadline = time.monotonic() + seconds
    start = max(exits - 1 - max(EXITS_BEFORE, keep), 0)
    entered: set[int] = set()
    for _ in range(MAX_ATTEMPTS):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        machine = checkpoint.fork()
        met = False
        try:
            attempt = _Attempt(machine, cpu, start, keep + 1, deadline, entered)
            if attempt.run(left):
                end = machine.post_mortem()
                registers, system = attempt.states[-1]
                handler = _entered(_chain(end, registers, system))
                met = handler is None or attempt.crash_step in entered
                if met:
                    return Replayed(
                        end,
                        registers,
                        system,
                        attempt.states[:-1],
                        attempt.crashed_at or 0,
                        machine.close,
                        attempt.lapic,
                    )
                # Its handler was entered, and there no step is reported. The next time, it is we who enter it.
                entered.add(attempt.crash_step)
            elif attempt.crashed_at is not None and start > 0:
                start = max(min(attempt.crashed_at - 1 - max(EXITS_BEFORE, keep), start - 1), 0)
            else:
                raise NotMet(attempt.story, _trouble(machine.post_mortem().cpu_now(cpu)))
        finally:
            if not met:
                machine.close()
    raise NotMet(f"it took longer than {seconds:g} s")


def _trouble(cpu: Cpu) -> str:
    """What is wrong with a CPU already that has not come to its fault yet, in a sentence; "" if nothing is."""
    from .crash.stray import is_astray
    from .crash.wrong_mode import wrong_mode
    from .x86.faults import next_event

    astray = "the CPU has gone astray: it executes memory that is all zeros" if is_astray(cpu) else ""
    return wrong_mode(cpu, next_event(cpu)) or astray


def _chain(end: PostMortem, registers: Registers, system: SystemRegisters) -> list[Delivery]:
    """The chain of exceptions that begins with the next instruction of a CPU in such a state."""
    cpu = end.cpu(registers, system)
    return chain_of(cpu, first_event(cpu))


def _entered(chain: list[Delivery]) -> Delivery | None:
    """The delivery that enters a handler, if the chain ends so."""
    if not chain or not chain[0].event.certain or chain[-1].problem is not None or chain[-1].registers is None:
        return None
    return chain[-1]


class _Attempt(Link):
    """One run of `machine`: freely for `start` exits of the CPU, then in steps.

    A link of its entry chain, and the debugger.
    """

    rank = Rank.STEP

    def __init__(
        self,
        machine: Guest,
        cpu: int,
        start: int,
        keep: int,
        deadline: float,
        entered: set[int],
    ) -> None:
        self.states: list[tuple[Registers, SystemRegisters]] = []
        """The CPU before each of the last instructions, if it crashed while it was stepped."""
        self.lapic = b""
        """The CPU's local APIC shortly before, where KVM resets it at a triple fault."""
        self.crash_step = 0
        self.crashed_at: int | None = None
        """How many exits there were before the crash, if there was one."""
        self.story = ""
        """How the run went that met no fault."""
        self._machine, self._cpu, self._start, self._deadline = machine, cpu, start, deadline
        self._engine = machine.engine
        self._vcpu = machine.engine.board.vcpus[cpu]
        self._steps = Steps(self._vcpu, keep)
        self._entered = entered
        self._exits = 0
        self._batch = 1
        self._stepping = False
        self._half_way = False  # an instruction was stepped that KVM finishes at the next KVM_RUN
        self._end = machine.post_mortem()
        machine.engine.attach(self)
        machine.engine.runners[cpu].entry.push(self)

    def run(self, seconds: float) -> bool:
        """Whether it came to a crash of that CPU while it was stepped."""
        outcome = self._machine.run(seconds)
        if not self.states:
            if self.steps and outcome.ending in (Ending.TIMED_OUT, Ending.STOPPED):
                self.story = f"{self.steps} instructions after exit {self._start} it still ran, and time was up"
            elif outcome.ending is Ending.TIMED_OUT:
                self.story = f"it came only to exit {self._exits} of {self._start} in {seconds:.1f} s"
            else:
                self.story = f"it ended as {outcome.ending}: {outcome.reason}"
        return bool(self.states)

    @property
    def steps(self) -> int:
        """Instructions that were stepped."""
        return self._steps.count

    # The link, called by the vCPU's thread alone

    def enter(self) -> int:
        """Go on: freely, or step by step up to something that is to be served."""
        if self._stepping:
            return self._step()
        if self._exits >= self._start:
            return self._finish(self.inner.enter)
        return self._count(self.inner.enter())

    def enter_answering(self, value: int) -> int:
        """The same, with what a port input yields."""
        if self._stepping or self._exits >= self._start:
            return self._finish(partial(self.inner.enter_answering, value))
        return self._count(self.inner.enter_answering(value))

    def _count(self, result: int) -> int:
        self._exits += result >= 0
        return result

    def _finish(self, enter: Callable[[], int]) -> int:
        """Have an access finished, and nothing more executed; the next call of `enter` steps."""
        self._vcpu.immediate_exit(True)
        result = enter()
        if result == Exit.DEBUG:
            result = -errno.EINTR
        self._stepping = result == -errno.EINTR
        if self._stepping and self._half_way:
            self._half_way = False
            self._steps.finished()
        return self._count(result)

    def _step(self) -> int:
        """Step up to something that is to be served."""
        while True:
            if self.steps in self._entered:
                self._enter_handlers()
            ahead = [step - self.steps for step in self._entered if step > self.steps]
            self.lapic, began = self._vcpu.get_lapic(), time.monotonic()
            result = self._steps.run(min([self._batch, *ahead]))
            quick = time.monotonic() - began < BRIEF
            self._batch = min(2 * self._batch, BATCH) if quick else max(self._batch // 2, 1)
            if result != Exit.DEBUG:
                break
            if time.monotonic() > self._deadline or self.steps >= MAX_STEPS:
                self._engine.request_stop("the replay took too long")
                return -errno.EINTR
        if result >= 0:
            self._stepping, self._half_way = False, True
        return self._count(result)

    def _enter_handlers(self) -> None:
        """Do what the CPU does when it delivers an exception, and one of the handler's first instruction, and so on."""
        for _ in range(MAX_HANDLERS):
            handler = _entered(_chain(self._end, *self._steps.note()))
            if handler is None or handler.registers is None or handler.system is None:
                return
            cpu = self._end.cpu(handler.registers, handler.system)
            for push in handler.pushes:
                physical = cpu.walk(push.linear).physical
                if physical is not None:
                    self._end.memory.write(physical, push.value.to_bytes(push.size, "little"))
            self._vcpu.set_system_registers(handler.system)
            self._vcpu.set_registers(handler.registers)
            self._steps.finished()

    # The debugger (engine.Debugger)

    def debug_exit(self, cpu: int, left: Debug) -> None:
        """KVM_EXIT_DEBUG outside of a step: of no interest."""

    def is_breakpoint(self, cpu: int) -> bool:
        """It has none."""
        return False

    def crashed(self, crash: Crash) -> bool:
        """A CPU cannot go on."""
        if crash.cpu == self._cpu:
            self.crashed_at = self._exits
            if self._half_way:
                self.states, self.crash_step = self._steps.states(), self.steps
        return False

    def halted(self) -> bool:
        """No CPU will ever go on."""
        return False

    def reset(self) -> None:
        """Exits are counted on."""

    def ended(self) -> None:
        """The run has ended."""

    def stopped_time(self) -> float:
        """It never stops the machine."""
        return 0.0

    def close(self) -> None:
        """There is nothing to give back."""
