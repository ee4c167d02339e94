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
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..errors import PykvmError
from ..kvm.quirks import BP, data_breakpoints_work, int3_works
from ..kvm.state import MpState
from ..kvm.vcpu import (
    GUESTDBG_BLOCKIRQ,
    GUESTDBG_ENABLE,
    GUESTDBG_SINGLESTEP,
    GUESTDBG_USE_HW_BP,
    GUESTDBG_USE_SW_BP,
)
from ..memory import PAGE_SIZE
from ..runner import Crash
from ..x86.paging import Walk, walk
from ..x86.registers import CR0_PE, EFER_LMA, Registers, SystemRegisters
from .breakpoints import DEBUG_REGISTERS, EXECUTE, INT3, Breakpoints, Placement, Watch, slots_hit
from .stepper import EVERYWHERE, Step, Stepper

if TYPE_CHECKING:
    from ..kvm import VCPU
    from ..machine import Machine
    from ..runner import Runner

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


class DebugError(PykvmError):
    """What was asked of a debugger cannot be done now."""


class Control:
    """Takes `machine` over, stopped: before its start, or where it is.

    `on_event` is called, with the machine's lock held and from any thread, when the machine has stopped or the run has
    ended; it must not wait. `on_close` is called, without the lock, when the machine is closed.
    """

    def __init__(
        self,
        machine: Machine,
        on_event: Callable[[], None] = lambda: None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.machine = machine
        self.breakpoints = Breakpoints()
        self.block_interrupts = True
        """Whether a CPU that is stepped takes no interrupts meanwhile: needs Linux 5.15 or later."""
        self.stop: Stop | None = None
        """Why the machine is stopped; None while it runs, and when the run has ended."""
        self._on_event = on_event
        self._on_close = on_close
        self._closed = False
        self._changed = threading.Condition(machine.lock)
        self._attached = False
        self._settled = False  # all CPUs are out since the stop, and no INT3 is in RAM
        self._touched = False  # the debugger changed registers or memory since the stop
        self._let_end = False  # the run may end as it was about to: the person has seen it
        self._pending: deque[Stop] = deque()  # stops of other CPUs at the same time, to be told one by one
        self._placement = Placement()
        self._actions: Mapping[int, Step | None] = {}  # what the CPUs that were let go were told
        self._watched: dict[Watch, bytes] = {}  # where KVM has no watchpoints: what is there now
        self._stopped_at = 0.0
        self._stopped_time = 0.0
        self._flags = machine.vm.check_extension("SET_GUEST_DEBUG2")
        self.attach()
        try:
            machine.attach(self)
        except PykvmError:
            self.detach()
            raise

    # Taking over and letting go

    def attach(self) -> None:
        """Take the machine over and stop it, if a debugger has let go of it before."""
        with self.machine.lock:
            if not self._attached:
                self._attached = True
                self._let_end = False
        self.interrupt()

    def detach(self) -> None:
        """Forget all breakpoints and let the machine run on its own."""
        with self.machine.lock:
            self.breakpoints.clear()
            if self._attached and self.interrupt() is not None:
                self._pending.clear()
                self.resume()
            self._attached = False

    def close(self) -> None:
        """Let go of the machine for good. May be called twice."""
        with self.machine.lock:
            if self._closed:
                return
            self._closed = True
        self._on_close()
        with self.machine.lock:
            self.detach()
            self.machine.debugger = None

    # Stopping and going on

    def interrupt(self) -> Stop | None:
        """Stop the machine, if it runs, and return why it is stopped; None if the run has ended."""
        with self.machine.lock:
            if self.stop is None and self.machine.outcome is None:
                self._stop(Stop(Why.INTERRUPTED))
            self._settle()
            return self.stop

    def wait(self, timeout: float | None = None) -> Stop | None:
        """Wait until the machine has stopped; None if the run has ended. TimeoutError after `timeout` seconds."""
        with self.machine.lock:
            if not self._changed.wait_for(lambda: self.stop or self.machine.outcome, timeout):
                raise TimeoutError(f"the machine still runs after {timeout:g} s")
            self._settle()
            return self.stop

    def step(self, cpu: int) -> Stop | None:
        """Have that CPU alone execute one instruction, and wait for it; a breakpoint there does not count."""
        self.resume({cpu: Step()})
        return self.wait()

    def resume(self, actions: Mapping[int, Step | None] | None = None) -> None:
        """Let CPUs go: all, or those in `actions`, where None stands for going on, and a `Step` for stepping.

        A code breakpoint where a CPU is stops it at once, but if one CPU is stepped alone: step over it first. After a
        crash, or when all CPUs are halted, the run ends now, if registers and memory were left as they were.
        Raises breakpoints.BreakpointError, and stays stopped, if there are too many breakpoints.
        """
        with self.machine.lock:
            stop = self.require_stopped()
            if self._pending:
                self.stop = self._pending.popleft()
                self._tell()
                return
            runners = self.machine.runners
            if actions is None:
                actions = dict.fromkeys(range(len(runners)))
            self._let_end = stop.why in (Why.CRASHED, Why.HALTED) and not self._touched
            if self._let_end and stop.crash is not None:
                self.machine.crashed(stop.crash)
            if self.machine.outcome is None:
                self._prepare(actions)
                self.machine.release()
            self.stop = None
            self._settled = self._touched = False
            self._stopped_time += time.monotonic() - self._stopped_at
            for cpu, runner in enumerate(runners):
                runner.held = cpu not in actions

    def _prepare(self, actions: Mapping[int, Step | None]) -> None:
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
            vcpu, runner = self.machine.vcpus[cpu], self.machine.runners[cpu]
            flags, runner.way_in = common, vcpu
            if action is not None:
                # A CPU in HLT waits for nothing but an interrupt.
                block = self.block_interrupts and vcpu.get_mp_state() != MpState.HALTED
                flags |= GUESTDBG_SINGLESTEP | (self._flags & GUESTDBG_BLOCKIRQ if block else 0)
                runner.way_in = Stepper(vcpu, action)
            elif self._watched:
                flags |= GUESTDBG_SINGLESTEP
                runner.way_in = Stepper(vcpu, EVERYWHERE)
            vcpu.set_guest_debug(flags and flags | GUESTDBG_ENABLE, addresses, placement.dr7)
        self._placement = placement
        placement.patch(self.machine.memory)

    def _place(self, code: bool = True) -> Placement:
        placed = Breakpoints()
        if code:
            placed.software, placed.hardware = self.breakpoints.software, self.breakpoints.hardware
        if self.breakpoints.watches and data_breakpoints_work():
            placed.watches = self.breakpoints.watches
        placement = placed.place(self.machine.memory, self._translate, self._free_debug_registers())
        if placement.patches and not self._int3_works():
            placement.missing += placement.patches
            placement.patches.clear()
        return placement

    def _int3_works(self) -> bool:
        """Whether an INT3 stops all CPUs that run, in the mode that each is in."""
        awake = [vcpu for vcpu in self.machine.vcpus if vcpu.get_mp_state() != MpState.UNINITIALIZED]
        return all(int3_works(bool(vcpu.get_system_registers().cr0 & CR0_PE)) for vcpu in awake)

    def check_breakpoints(self) -> None:
        """Raise BreakpointError or DebugError if not all breakpoints can be placed as things are."""
        missing = self._place().missing
        if missing:
            raise DebugError(f"no debug register is free for {missing[0]:#x}, and an INT3 does not do there")

    def _free_debug_registers(self) -> int:
        """How many debug registers may be used where an INT3 would do, too: none if the guest itself uses them."""
        used = any(vcpu.get_debug_registers().dr7 & DR7_ENABLED for vcpu in self.machine.vcpus)
        return 0 if used else DEBUG_REGISTERS

    def _translate(self, linear: int) -> int | None:
        """Through the page tables of the CPU that stopped, or else of any that maps it."""
        first = self.stop.cpu if self.stop else 0
        vcpus = self.machine.vcpus
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
        self.machine.hold()
        self._tell()

    def _tell(self) -> None:
        self._changed.notify_all()
        self._on_event()

    def _settle(self) -> None:
        """After a stop: wait until all CPUs are out, and give RAM back what belongs there."""
        if self.stop is None or self._settled:
            return
        self.machine.wait_held()
        if self.stop is not None and not self._settled:  # the lock was free meanwhile
            self._placement.unpatch(self.machine.memory)
            self._settled = True
            for runner in self.machine.runners:
                runner.held = False
                runner.way_in = runner.vcpu

    def require_stopped(self) -> Stop:
        """Why the machine is stopped, once all its CPUs are out of the guest; DebugError if it is not stopped."""
        self._settle()
        if self.stop is None:
            raise DebugError("the run has ended" if self.machine.outcome else "the machine runs: interrupt it first")
        return self.stop

    def _stopped(self, cpu: int) -> VCPU:
        """A CPU whose state holds still: KVM would make whoever asks a running one wait until it comes out."""
        with self.machine.lock:
            self.require_stopped()
        return self.machine.vcpus[cpu]

    # What the machine says (machine.Debugger)

    def debug_exit(self, runner: Runner) -> None:
        """KVM_EXIT_DEBUG, or what a `Stepper` made of another exit."""
        stepper = runner.way_in if isinstance(runner.way_in, Stepper) else None
        cpu = runner.vcpu.id
        if stepper is not None and stepper.take_done():
            self._stepped(stepper, cpu)
            return
        exception, pc, dr6 = runner.vcpu.debug_exit()
        if exception == BP:
            if pc in self._placement.patches:
                self._stop(Stop(Why.BREAKPOINT, cpu, pc))
            else:
                _inject(runner.vcpu, BP)
            return
        for slot in slots_hit(self._placement.slots, dr6):
            if slot.kind == EXECUTE:
                self._stop(Stop(Why.BREAKPOINT, cpu, slot.address))
            elif slot.watch is not None:
                self._stop(Stop(Why.WATCHPOINT, cpu, slot.watch.address, access=slot.watch.access))
            return
        if stepper is not None and dr6 & DR6_BS:
            self._stepped(stepper, cpu)
        elif self._attached and self.stop is None:
            debug = runner.vcpu.get_debug_registers()
            debug.dr6 = debug.dr6 & ~DR6_STATUS | dr6 & DR6_STATUS
            runner.vcpu.set_debug_registers(debug)
            _inject(runner.vcpu, DB)

    def _content(self, watch: Watch) -> bytes:
        return self.machine.read_linear(watch.address, watch.size, self.stop.cpu if self.stop else 0)

    def _stepped(self, stepper: Stepper, cpu: int) -> None:
        pc = _pc(self.machine.vcpus[cpu])
        for watch, before in self._watched.items():
            now = self.machine.read_linear(watch.address, watch.size, cpu)
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

    def crashed(self, crash: Crash) -> bool:
        """A CPU cannot go on. Where KVM does not report INT3 but fails to emulate it, this is a breakpoint."""
        if not self._attached or self._let_end:
            return False
        pc = _pc(self.machine.vcpus[crash.cpu])
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
            self._placement.unpatch(self.machine.memory)
            self._prepare(self._actions)

    def ended(self) -> None:
        """The run has ended; what is in RAM now is the guest's again."""
        if not self._settled:
            self._placement.unpatch(self.machine.memory)
        self.stop = None
        self._tell()

    def stopped_time(self) -> float:
        """Seconds for which the machine was stopped."""
        return self._stopped_time + (time.monotonic() - self._stopped_at if self.stop is not None else 0.0)

    # Looking and changing

    def registers(self, cpu: int) -> Registers:
        """General registers, RIP and RFLAGS."""
        return self._stopped(cpu).get_registers()

    def set_registers(self, cpu: int, registers: Registers) -> None:
        """Set them. A CPU that sleeps in HLT wakes up if RIP changes."""
        with self.machine.lock:
            vcpu = self._stopped(cpu)
            if vcpu.get_registers().rip != registers.rip and vcpu.get_mp_state() == MpState.HALTED:
                vcpu.set_mp_state(MpState.RUNNABLE)
            vcpu.set_registers(registers)
            self._touched = True

    def system_registers(self, cpu: int) -> SystemRegisters:
        """Segments, tables, control registers."""
        return self._stopped(cpu).get_system_registers()

    def set_system_registers(self, cpu: int, system: SystemRegisters) -> None:
        """Set them; KvmError for a state that cannot be."""
        with self.machine.lock:
            self._stopped(cpu).set_system_registers(system)
            self._touched = True

    def xsave(self, cpu: int) -> bytes:
        """The XSAVE area: x87, SSE and whatever else the CPU has."""
        return self._stopped(cpu).get_xsave(self.machine.vm.check_extension("XSAVE2"))

    def set_xsave(self, cpu: int, area: bytes) -> None:
        """Set it; KvmError for a state that cannot be."""
        with self.machine.lock:
            self._stopped(cpu).set_xsave(area)
            self._touched = True

    def msr(self, cpu: int, index: int) -> int | None:
        """A model-specific register; None if KVM does not give it."""
        return self._stopped(cpu).get_msrs([index]).get(index)

    def set_msr(self, cpu: int, index: int, value: int) -> None:
        """Set it; KvmError for a value that cannot be."""
        with self.machine.lock:
            self._stopped(cpu).set_msrs({index: value})
            self._touched = True

    def pc(self, cpu: int) -> int:
        """The linear address of the next instruction."""
        return _pc(self._stopped(cpu))

    def walk(self, cpu: int, linear: int) -> Walk:
        """How that CPU translates a linear address, step by step."""
        return walk(self.machine.memory.read, self.system_registers(cpu), linear)

    def read(self, cpu: int, linear: int, size: int) -> bytes:
        """At most `size` bytes as that CPU maps them; fewer, or none, where RAM or the mapping ends."""
        with self.machine.lock:
            self.require_stopped()
            return self.machine.read_linear(linear, size, cpu)

    def write(self, cpu: int, linear: int, data: bytes) -> None:
        """Write through that CPU's page tables, even to read-only pages; nothing is written if any byte cannot be."""
        with self.machine.lock:
            self.require_stopped()
            parts, at = [], 0
            while at < len(data):
                address = linear + at & (1 << 64) - 1
                size = min(len(data) - at, PAGE_SIZE - address % PAGE_SIZE)
                page = self.machine.vcpus[cpu].translate(address)
                if not page.valid:
                    raise DebugError(f"linear {address:#x} is not mapped")
                self.machine.memory.offset(page.physical, size)
                parts.append((page.physical, data[at : at + size]))
                at += size
            for gpa, part in parts:
                self.machine.memory.write(gpa, part)
            self._touched = True

    def read_physical(self, gpa: int, size: int) -> bytes:
        """At most `size` bytes of RAM from a guest physical address on; fewer, or none, where RAM ends."""
        with self.machine.lock:
            self.require_stopped()
            for region in self.machine.memory.regions:
                if region.gpa <= gpa < region.gpa + region.size:
                    return self.machine.memory.read(gpa, min(size, region.gpa + region.size - gpa))
            return b""

    def write_physical(self, gpa: int, data: bytes) -> None:
        """Write to RAM; memory.GuestMemoryError if that is not RAM."""
        with self.machine.lock:
            self.require_stopped()
            self.machine.memory.write(gpa, data)
            self._touched = True


def linear_pc(registers: Registers, system: SystemRegisters) -> int:
    """The linear address that CS:RIP stands for."""
    if system.efer & EFER_LMA and system.cs.l:
        return registers.rip
    return system.cs.base + registers.rip & 0xFFFFFFFF


def _pc(vcpu: VCPU) -> int:
    return linear_pc(vcpu.get_registers(), vcpu.get_system_registers())


def _inject(vcpu: VCPU, vector: int) -> None:
    """Have the guest take an exception that was its own, not the debugger's."""
    events = vcpu.get_events()
    events.exception_injected, events.exception_nr, events.exception_has_error_code = 1, vector, 0
    vcpu.set_events(events)
