"""A debugger's face of a machine: stop it, look at it, change it, let all of it go on, or one CPU by one instruction.

All CPUs stop together. Everything but `interrupt` and `wait` needs a stopped machine. Sources: Linux
Documentation/virt/kvm/api.rst (KVM_SET_GUEST_DEBUG, KVM_EXIT_DEBUG); Intel SDM volume 3B, 17.2 (debug registers).

    control = Control(machine)      # stopped, before its first instruction
    machine.start()
    control.breakpoints.software.add(0x100000)
    control.resume()
    print(control.wait(), control.pc(0))

Which CPU executes what a stopped machine is told is settled by `resume`: a CPU is entered by its own thread only, so a
step is to let go of that one thread and hold the others.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..crash.event import Crash
from ..engine.engine import Engine
from ..errors import PykvmError
from ..kvm.exits import Debug
from ..kvm.quirks import BP, data_breakpoints_work, int3_works
from ..kvm.state import MpState
from ..kvm.vcpu import (
    GUESTDBG_BLOCKIRQ,
    GUESTDBG_ENABLE,
    GUESTDBG_SINGLESTEP,
    GUESTDBG_USE_HW_BP,
    GUESTDBG_USE_SW_BP,
)
from ..x86.registers import CR0_PE
from .breakpoints import DEBUG_REGISTERS, EXECUTE, INT3, Breakpoints, Placement, Watch, slots_hit
from .contents import Contents, DebugError, pc_of
from .stepper import EVERYWHERE, Stepper, StepRange

if TYPE_CHECKING:
    from ..crash.report import CrashReport
    from ..kvm import VCPU

DB = 1
"""The vector of #DB."""
DR6_BS, DR6_STATUS = 1 << 14, 0xE00F
"""DR6: single step; all bits that tell a cause."""
DR7_ENABLED = 0xFF


class Why(enum.Enum):
    """Why a machine has stopped."""

    INTERRUPTED = "interrupted"
    STEPPED = "stepped"
    BREAKPOINT = "breakpoint"
    WATCHPOINT = "watchpoint"
    CRASHED = "crashed"
    HALTED = "halted"


class Stop(NamedTuple):
    """A stop: which CPU's it is, where the breakpoint or the watched data is (linear), and a crash's cause in words."""

    why: Why
    cpu: int = 0
    address: int | None = None
    text: str = ""
    crash: Crash | None = None
    access: bool = False
    """Whether the watchpoint also stops at reads."""


class Machine(Protocol):
    """What can be debugged."""

    @property
    def engine(self) -> Engine:
        """What runs it."""

    def explain(self, crash: Crash | None) -> CrashReport | None:
        """Why it cannot go on, of a crash or, if None, a halt."""


class Control(Contents):
    """Takes `machine` over, stopped: before its start, or where it is. Without `stopped` it lets it run until `attach`.

    `on_event` is called, with the machine's lock held and from any thread, when the machine has stopped or the run has
    ended; it must not wait. `on_close` is called, without the lock, when the machine is closed.
    """

    def __init__(
        self,
        machine: Machine,
        on_event: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
        *,
        stopped: bool = True,
    ) -> None:
        super().__init__(machine.engine.board, machine.engine.gate.lock)
        self.engine = engine = machine.engine
        self._explain = machine.explain
        self._explained: tuple[Stop, CrashReport | None] | None = None
        self._gate = engine.gate
        self.breakpoints = Breakpoints()
        self.block_interrupts = True
        """Whether a CPU that is stepped takes no interrupts meanwhile: needs Linux 5.15 or later."""
        self.stop: Stop | None = None
        """Why the machine is stopped; None while it runs, and when the run has ended."""
        self._on_event = on_event
        self._on_close = on_close
        self._closed = False
        self._changed = self._lock.condition()
        self._attached = False
        self._quiet = False  # all CPUs are out since the stop, and no INT3 is in RAM
        self._let_end = False  # the run may end as it was about to: the person has seen it
        self._pending: deque[Stop] = deque()  # stops of other CPUs at the same time, to be told one by one
        self._placement = Placement()
        self._actions: Mapping[int, StepRange | None] = {}  # what the CPUs that were let go were told
        self._steppers: dict[int, Stepper] = {}  # by CPU: the links of the entry chains that step
        self._watched: dict[Watch, bytes] = {}  # where KVM has no watchpoints: what is there now
        self._stopped_at = 0.0
        self._stopped_time = 0.0
        self._flags = self._board.vm.check_extension("SET_GUEST_DEBUG2")
        if stopped:
            self.attach()
        try:
            engine.attach(self)
        except PykvmError:
            self.detach()
            raise

    # Taking over and letting go

    def attach(self) -> None:
        """Take the machine over and stop it, if a debugger has let go of it before."""
        with self._lock:
            if not self._attached:
                self._attached = True
                self._let_end = False
        self.interrupt()

    def detach(self) -> None:
        """Forget all breakpoints and let the machine run on its own."""
        with self._lock:
            self.breakpoints.clear()
            if self._attached and self.interrupt() is not None:
                self._pending.clear()
                self.resume()
            self._attached = False

    def close(self) -> None:
        """Let go of the machine for good. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._on_close()
        with self._lock:
            self.detach()
            self.engine.debugger = None

    # Stopping and going on

    def interrupt(self) -> Stop | None:
        """Stop the machine, if it runs, and return why it is stopped; None if the run has ended."""
        with self._lock:
            if self.stop is None and self.engine.outcome is None:
                self._stop(Stop(Why.INTERRUPTED))
            self._quiesce()
            return self.stop

    def wait(self, timeout: float | None = None) -> Stop | None:
        """Wait until the machine has stopped; None if the run has ended. TimeoutError after `timeout` seconds."""
        with self._lock:
            if not self._changed.wait_for(lambda: self.stop or self.engine.outcome, timeout):
                raise TimeoutError(f"the machine still runs after {timeout:g} s")
            self._quiesce()
            return self.stop

    def step(self, cpu: int) -> Stop | None:
        """Have that CPU alone execute one instruction, and wait for it; a breakpoint there does not count."""
        self.resume({cpu: StepRange()})
        return self.wait()

    def resume(self, actions: Mapping[int, StepRange | None] | None = None) -> None:
        """Let CPUs go: all, or those in `actions`, where None stands for going on, and a `StepRange` for stepping.

        A code breakpoint where a CPU is stops it at once, but if one CPU is stepped alone: step over it first. After a
        crash, or when all CPUs are halted, the run ends now, if registers and memory were left as they were.
        Raises breakpoints.BreakpointError, and stays stopped, if there are too many breakpoints.
        """
        with self._lock:
            stop = self.require_stopped()
            if self._pending:
                self.stop = self._pending.popleft()
                self._tell()
                return
            runners = self.engine.runners
            if actions is None:
                actions = dict.fromkeys(range(len(runners)))
            self._let_end = stop.why in (Why.CRASHED, Why.HALTED) and not self._touched
            if self._let_end and stop.crash is not None:
                self.engine.crashed(stop.crash)
            if self.engine.outcome is None:
                self._prepare(actions)
                self.engine.clocks_go_on(self._stopped_at)
                self._gate.release()
            self.stop = None
            self._quiet = self._touched = False
            self._stopped_time += time.monotonic() - self._stopped_at
            for cpu, runner in enumerate(runners):
                runner.held = cpu not in actions

    def _prepare(self, actions: Mapping[int, StepRange | None]) -> None:
        self._actions = actions
        moves = list(actions.values())
        # Where one CPU goes that is stepped alone is looked at anyway.
        placement = self._place(code=len(moves) != 1 or moves[0] is None)
        self._watched = {}
        if self.breakpoints.watches and not data_breakpoints_work():
            self._watched = {watch: self._content(watch) for watch in self.breakpoints.watches}
        common = (GUESTDBG_USE_SW_BP if placement.patches else 0) | (GUESTDBG_USE_HW_BP if placement.slots else 0)
        addresses = [slot.address for slot in placement.slots]
        for cpu, action in actions.items():
            vcpu, flags = self._board.vcpus[cpu], common
            if action is not None:
                # A CPU in HLT waits for nothing but an interrupt.
                block = self.block_interrupts and vcpu.get_mp_state() != MpState.HALTED
                flags |= GUESTDBG_SINGLESTEP | (self._flags & GUESTDBG_BLOCKIRQ if block else 0)
                self._step(cpu, action)
            elif self._watched:
                flags |= GUESTDBG_SINGLESTEP
                self._step(cpu, EVERYWHERE)
            vcpu.set_guest_debug(flags and flags | GUESTDBG_ENABLE, addresses, placement.dr7)
        self._placement = placement
        placement.patch(self._board.memory)

    def _step(self, cpu: int, step: StepRange) -> None:
        stepper = self._steppers[cpu] = Stepper(self._board.vcpus[cpu], step)
        self.engine.runners[cpu].entry.push(stepper)

    def _stop_stepping(self) -> None:
        """With all CPUs out."""
        for cpu, stepper in self._steppers.items():
            self.engine.runners[cpu].entry.remove(stepper)
        self._steppers.clear()

    def _place(self, code: bool = True) -> Placement:
        placed = Breakpoints()
        if code:
            placed.software, placed.hardware = self.breakpoints.software, self.breakpoints.hardware
        if self.breakpoints.watches and data_breakpoints_work():
            placed.watches = self.breakpoints.watches
        placement = placed.place(self._board.memory, self._translate, self._free_debug_registers())
        if placement.patches and not self._int3_works():
            placement.missing += placement.patches
            placement.patches.clear()
        return placement

    def _int3_works(self) -> bool:
        """Whether an INT3 stops all CPUs that run, in the mode that each is in."""
        awake = [vcpu for vcpu in self._board.vcpus if vcpu.get_mp_state() != MpState.UNINITIALIZED]
        return all(int3_works(bool(vcpu.get_system_registers().cr0 & CR0_PE)) for vcpu in awake)

    def check_breakpoints(self) -> None:
        """Raise BreakpointError or DebugError if not all breakpoints can be placed as things are."""
        missing = self._place().missing
        if missing:
            raise DebugError(f"no debug register is free for {missing[0]:#x}, and an INT3 does not do there")

    def _free_debug_registers(self) -> int:
        """How many debug registers may be used where an INT3 would do, too: none if the guest itself uses them."""
        used = any(vcpu.get_debug_registers().dr7 & DR7_ENABLED for vcpu in self._board.vcpus)
        return 0 if used else DEBUG_REGISTERS

    def _translate(self, linear: int) -> int | None:
        """Through the page tables of the CPU that stopped, or else of any that maps it."""
        first = self.stop.cpu if self.stop else 0
        vcpus = self._board.vcpus
        for vcpu in (vcpus[first], *vcpus):
            page = vcpu.translate(linear)
            if page.valid:
                return page.physical
        return None

    def _stop(self, stop: Stop) -> None:
        if self.stop is not None:
            # Breakpoints are met again when the CPU goes on; what happened once has to be kept.
            if stop.why in (Why.WATCHPOINT, Why.CRASHED):
                self._pending.append(stop)
            return
        self.stop = stop
        self._stopped_at = time.monotonic()
        self._gate.hold()
        self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        self._on_event()

    def _quiesce(self) -> None:
        """After a stop: wait until all CPUs are out, and give RAM back what belongs there."""
        if self.stop is None or self._quiet:
            return
        self._gate.wait_held()
        if self.stop is not None and not self._quiet:  # the lock was free meanwhile
            self._placement.unpatch(self._board.memory)
            self._quiet = True
            self._stop_stepping()
            for runner in self.engine.runners:
                runner.held = False

    def require_stopped(self) -> Stop:
        """Why the machine is stopped, once all its CPUs are out of the guest; DebugError if it is not stopped."""
        self._quiesce()
        if self.stop is None:
            raise DebugError("the run has ended" if self.engine.outcome else "the machine runs: interrupt it first")
        return self.stop

    # What the engine says (engine.Debugger)

    def debug_exit(self, cpu: int, left: Debug) -> None:
        """KVM_EXIT_DEBUG, or what a `Stepper` made of another exit."""
        stepper, vcpu = self._steppers.get(cpu), self._board.vcpus[cpu]
        if stepper is not None and stepper.take_done():
            self._stepped(stepper, cpu)
            return
        if left.exception == BP:
            if left.pc in self._placement.patches:
                self._stop(Stop(Why.BREAKPOINT, cpu, left.pc))
            else:
                _inject(vcpu, BP)
            return
        for slot in slots_hit(self._placement.slots, left.dr6):
            if slot.kind == EXECUTE:
                self._stop(Stop(Why.BREAKPOINT, cpu, slot.address))
            elif slot.watch is not None:
                self._stop(Stop(Why.WATCHPOINT, cpu, slot.watch.address, access=slot.watch.access))
            return
        if stepper is not None and left.dr6 & DR6_BS:
            self._stepped(stepper, cpu)
        elif self._attached and self.stop is None:
            debug = vcpu.get_debug_registers()
            debug.dr6 = debug.dr6 & ~DR6_STATUS | left.dr6 & DR6_STATUS
            vcpu.set_debug_registers(debug)
            _inject(vcpu, DB)

    def _content(self, watch: Watch) -> bytes:
        return self._board.read_linear(watch.address, watch.size, self.stop.cpu if self.stop else 0)

    def _stepped(self, stepper: Stepper, cpu: int) -> None:
        pc = pc_of(self._board.vcpus[cpu])
        for watch, before in self._watched.items():
            now = self._board.read_linear(watch.address, watch.size, cpu)
            if now != before:
                self._watched[watch] = now
                self._stop(Stop(Why.WATCHPOINT, cpu, watch.address))
        if stepper.step.low <= pc < stepper.step.high and self.stop is None:
            if not self.breakpoints.has_code(pc):
                stepper.again()
                return
            self._stop(Stop(Why.BREAKPOINT, cpu, pc))
        else:
            self._stop(Stop(Why.STEPPED, cpu, pc))
        stepper.finish()

    def is_breakpoint(self, cpu: int) -> bool:
        """Whether the INT3 there is one of the breakpoints."""
        return pc_of(self._board.vcpus[cpu]) in self._placement.patches

    def explain(self) -> CrashReport | None:
        """Why the stopped machine cannot go on; None if it can, or nothing is known."""
        stop = self.stop
        if stop is None or stop.why not in (Why.CRASHED, Why.HALTED):
            return None
        if self._explained is None or self._explained[0] is not stop:  # a second run of the guest may be needed for it
            self._explained = stop, self._explain(stop.crash)
        return self._explained[1]

    def crashed(self, crash: Crash) -> bool:
        """A CPU cannot go on. Where KVM does not report INT3 but fails to emulate it, this is a breakpoint."""
        if not self._attached or self._let_end:
            return False
        pc = pc_of(self._board.vcpus[crash.cpu])
        if pc in self._placement.patches and (not crash.code or crash.code.startswith(INT3)):
            self._stop(Stop(Why.BREAKPOINT, crash.cpu, pc))
        else:
            self._stop(Stop(Why.CRASHED, crash.cpu, pc, crash.cause, crash))
        return True

    def halted(self) -> bool:
        """No CPU will ever go on. Asked again and again while they halt."""
        if not self._attached or self._let_end:
            return False
        if self.stop is None:
            self._stop(Stop(Why.HALTED, text="every CPU is halted with interrupts off"))
        return True

    def reset(self) -> None:
        """The machine has been reset: CPUs that run meet the breakpoints after it, too."""
        self._touched = True
        if self.stop is None:
            self._placement.unpatch(self._board.memory)
            self._stop_stepping()
            self._prepare(self._actions)

    def ended(self) -> None:
        """The run has ended; what is in RAM now is the guest's again."""
        if not self._quiet:
            self._placement.unpatch(self._board.memory)
        self.stop = None
        self._tell()

    def stopped_time(self) -> float:
        """Seconds for which the machine was stopped."""
        return self._stopped_time + (time.monotonic() - self._stopped_at if self.stop is not None else 0.0)


def _inject(vcpu: VCPU, vector: int) -> None:
    """Have the guest take an exception that was its own, not the debugger's."""
    events = vcpu.get_events()
    events.exception_injected, events.exception_nr, events.exception_has_error_code = 1, vector, 0
    vcpu.set_events(events)
