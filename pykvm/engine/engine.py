"""Runs the CPUs of a board: starts, ends and resets them, and hears what devices, CPUs and a debugger have to say.

One lock, `gate.lock`, covers all device state and everything in here that changes while the machine runs. It is held to
serve an exit or a host event, and never across KVM_RUN. Threads: one a vCPU (`runner`), one for I/O (`eventloop`), and
the callers' own, which start, wait and look.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial

from ..errors import PykvmError, refused_by_host
from ..kvm.exits import SYSTEM_EVENT_RESET, SYSTEM_EVENT_SHUTDOWN, Debug
from ..outcome import Ending, Outcome
from ..typed import TYPE_CHECKING, Any, Protocol
from .eventloop import EventLoop
from .gate import Gate
from .run import Run
from .runner import Runner

if TYPE_CHECKING:
    from ..bios.call import Call
    from ..boot import EntryState
    from ..crash.event import Crash
    from .board import Board
    from .worker import Worker

    Loader = Callable[[], EntryState]

SIGNAL_CHECK = 0.5
"""Seconds that `wait` sleeps at most: a Ctrl-C just before it falls asleep does not wake it."""


class Debugger(Protocol):
    """What an engine tells and asks a debugger, with the lock held. See `debug.control`."""

    def debug_exit(self, cpu: int, left: Debug) -> None:
        """A vCPU hit a breakpoint or watchpoint, or finished a single step."""

    def is_breakpoint(self, cpu: int) -> bool:
        """Whether the INT3 that a CPU stands before is the debugger's."""

    def crashed(self, crash: Crash) -> bool:
        """A CPU cannot go on: whether the debugger deals with it, and the run does not end."""

    def halted(self) -> bool:
        """All CPUs sleep for ever: whether the debugger deals with it, and the run does not end."""

    def reset(self) -> None:
        """The machine has been reset, and no vCPU is in the guest."""

    def ended(self) -> None:
        """The run has ended."""

    def stopped_time(self) -> float:
        """Seconds since the start for which the machine was stopped: the time limit does not count them."""

    def close(self) -> None:
        """The machine is given back."""


class Engine:
    """Runs the CPUs of `board`, as `gate` lets them."""

    def __init__(self, board: Board, gate: Gate) -> None:
        self.board, self.gate = board, gate
        self.loop = EventLoop(gate.lock, self.callback_failed, "pykvm I/O")
        board.when_at_rest, board.aside = gate.when_at_rest, self.aside
        self.runners = [Runner(vcpu, board, gate, self) for vcpu in board.vcpus]
        self.run: Run | None = None
        """The run that goes on, or has ended and is not forgotten."""
        self.debugger: Debugger | None = None
        self.no_reboot = False
        """Whether a reset ends the run."""
        self.loader: Loader | None = None
        """Puts the image into RAM; None if there is nothing to start anew after a reset."""
        self.entry: EntryState | None = None
        """How the image was loaded, with its symbols; None without an image."""
        self.on_reset: list[Callable[[], None]] = []
        """Called, with the lock held and no vCPU in the guest, when the machine is about to be reset."""
        self.before_load: list[Callable[[], None]] = []
        """Called, as `on_load`, when an image is about to be loaded."""
        self.on_load: list[Callable[[EntryState], None]] = []
        """Called, with the lock held or before the first run, when an image has been loaded."""
        self.before_end: Callable[[Outcome, Crash | None], bool] | None = None
        """Asked, with the lock held, before what the guest did ends the run: True if that is dealt with otherwise, and
        the run goes on. Of a guest that halts for ever it is asked again and again."""
        self.on_end: list[Callable[[Outcome], None]] = []
        """Called, with the lock held, when a run has ended."""
        self.resets = 0
        """How often the machine has been reset."""
        self.closed = False
        self._stop_at_start: str | None = None
        self._pauses: list[float] = []  # when each `pause` began that is not undone

    def load(self, loader: Loader) -> EntryState:
        """Load an image into RAM and have the first CPU start in it: now, and after each reset."""
        self.loader = loader
        for prepare in self.before_load:
            prepare()
        self.entry = state = loader()
        for call in self.on_load:
            call(state)
        first = self.board.vcpus[0]
        first.set_registers(state.registers)
        # KVM knows best where the local APIC is and which CPU is the first.
        first.set_system_registers(state.system.copy(apic_base=first.get_apic_base()))
        return state

    def aside(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Have `work` called by a thread, without the lock, then `done` with its result, with it (`device.Aside`)."""
        self._worker.aside(work, done)

    @cached_property
    def _worker(self) -> Worker:
        from .worker import Worker

        return Worker(self.gate.lock, partial(self.failed, who="what was set aside"), "pykvm worker")

    # Runs

    @property
    def exits(self) -> int:
        """How often a CPU has left the guest in this run; up to date while all are out."""
        return sum(runner.exits for runner in self.runners)

    @property
    def finished(self) -> dict[str, int]:
        """How often which instructions were finished that KVM could not emulate, in this run; as `exits`."""
        total: dict[str, int] = {}
        for runner in self.runners:
            for name, count in runner.finished.items():
                total[name] = total.get(name, 0) + count
        return total

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended; None while it has not, or there is none."""
        return self.run.outcome if self.run is not None else None

    def require_startable(self) -> None:
        """PykvmError if there has been a run, which is not forgotten."""
        if self.closed or self.run is not None:
            raise PykvmError("this machine has run already: make a new one for another run, or restore a snapshot")

    def start(self, limit: float | None) -> None:
        """Start all CPUs and return. HostError if the host does not give the threads: then the run has ended."""
        with self.gate.lock:
            self.require_startable()
            try:
                self._start(limit)
                return
            except BaseException as error:  # also of a signal's handler
                failure = error
                self._end(Ending.STOPPED, "it could not be started")
        self._wait_ended()
        refused = refused_by_host(failure)
        if refused is None:
            raise failure
        raise refused from failure

    def _start(self, limit: float | None) -> None:
        for runner in self.runners:
            runner.prepare()
        self.gate.open(self.runners)
        self.run = Run(
            self.runners,
            self.gate,
            self.loop,
            limit,
            stopped_time=lambda: self.debugger.stopped_time() if self.debugger is not None else 0,
            halted=self._halted,
            ended=self._ended,
        )
        self.gate.lull_elsewhere()
        for runner in self.runners:  # before the I/O thread: the guest begins at once
            runner.start()
        self.loop.start()
        if self._stop_at_start is not None:
            self.run.end(Ending.STOPPED, self._stop_at_start)

    def _wait_ended(self) -> None:
        """After the run's end, wait for that of all threads; those that have not begun never do. Without the lock."""
        for runner in self.runners:
            if runner.withdraw():
                self.gate.left(runner)
        with self.gate.lock:
            self.gate.wait_left()
        for runner in self.runners:
            runner.join()

    def wait(self, timeout: float | None = None) -> Run:
        """Wait for the run's end, and that of all threads. TimeoutError if `timeout` (seconds) is over before it.

        Raises what `Run.error` says.
        """
        with self.gate.lock:
            run = self.run
            if run is None:
                raise PykvmError("the machine has not been started")
            end = float("inf") if timeout is None else time.monotonic() + timeout
            while not self.gate.wait_left(min(SIGNAL_CHECK, max(end - time.monotonic(), 0))):
                if end <= time.monotonic():
                    raise TimeoutError(f"the machine still runs after {timeout:g} s")
        for runner in self.runners:
            runner.join()
        self.loop.stop()
        if run.error is not None:
            raise run.error
        return run

    def stop(self, reason: str) -> Run:
        """End the run, if it has not ended, and wait for the end of all threads."""
        self.request_stop(reason)
        self.gate.lull_elsewhere()
        return self.wait()

    def forget_run(self) -> None:
        """Be as before the start; all threads have ended. With the lock held."""
        self.run = None
        self._stop_at_start = None
        self.gate.forget()

    def request_stop(self, reason: str) -> None:
        """End the run without waiting for its end. An engine that has not been started ends its run at the start."""
        with self.gate.lock:
            self._stop_at_start = reason
            self._end(Ending.STOPPED, reason)

    def pause(self) -> None:
        """Take all CPUs out of the guest and return when they are; calls nest. Not from a device or handler."""
        with self.gate.lock:
            self.gate.hold()
            self.gate.wait_held()
            self._pauses.append(time.monotonic())

    def resume(self) -> None:
        """Undo one `pause`."""
        with self.gate.lock:
            if not self._pauses:
                raise PykvmError("the machine is not paused")
            began = self._pauses.pop()
            if not self._pauses:
                self.clocks_go_on(began)
            self.gate.release()

    def clocks_go_on(self, stopped_at: float) -> None:
        """The guest goes on, which has stood still since then (time.monotonic()). With all CPUs out of it."""
        from .clocks import go_on

        go_on(self.board, time.monotonic() - stopped_at)

    def close(self) -> bool:
        """End the run and wait for all threads; False if it was closed before."""
        with self.gate.lock:
            if self.closed:
                return False
            self.closed = True
            self._end(Ending.STOPPED, "closed")
            if self.run is not None:
                self.gate.lull_elsewhere()
        self._wait_ended()
        if self.debugger is not None:
            self.debugger.close()
        self.loop.close()
        if "_worker" in self.__dict__:
            self._worker.close()
        return True

    def require_open(self) -> None:
        """PykvmError if it has been closed."""
        if self.closed:
            raise PykvmError("the machine is closed")

    def is_serving(self) -> bool:
        """Whether the caller serves an access of the guest, and so nobody can wait until all vCPUs are out."""
        return not self.gate.is_at_rest and any(runner.is_current() for runner in self.runners)

    def attach(self, debugger: Debugger) -> None:
        """Let `debugger` stop the machine. PykvmError if there is one already."""
        with self.gate.lock:
            if self.debugger is not None or self.closed:
                raise PykvmError("a debugger is attached to this machine already, or it is closed")
            self.debugger = debugger

    def _end(self, ending: Ending, reason: str) -> None:
        if self.run is not None:
            self.run.end(ending, reason)

    def _guest_ends(
        self,
        ending: Ending,
        reason: str,
        *,
        code: int | None = None,
        value: int | None = None,
        crash: Crash | None = None,
    ) -> None:
        """The run ends by what the guest did, unless somebody knows better."""
        if self.run is None or self.run.outcome is not None:
            return
        if self.before_end is not None and self.before_end(Outcome(ending, reason, code, value), crash):
            return
        if crash is not None:
            self.run.crashed(crash)
        else:
            self.run.end(ending, reason, code=code, value=value)

    def _ended(self, outcome: Outcome) -> None:
        for callback in self.on_end:
            callback(outcome)
        if self.debugger is not None:
            self.debugger.ended()

    # What devices say (pc.Signals), with the lock held

    def exited(self, value: int) -> None:
        """The guest wrote `value` to the exit port."""
        reason = f"the guest wrote {value:#x} to the exit port: status {value * 2 + 1}"
        self._guest_ends(Ending.EXITED, reason, code=value * 2 + 1, value=value)

    def powered_off(self) -> None:
        """The guest switched the machine off."""
        self._guest_ends(Ending.EXITED, "the guest powered the machine off", code=0)

    def rebooted(self, reason: str) -> None:
        """The guest reset the machine."""
        if self.no_reboot or self.loader is None:
            self._guest_ends(Ending.REBOOTED, reason)
        elif not self.gate.is_expected(self._reset):
            self.gate.at_rest(self._reset)

    def _reset(self) -> None:
        assert self.loader is not None
        for call in self.on_reset:
            call()
        self.resets += 1
        for device in self.board.devices:
            try:
                device.reset()
            except Exception as error:
                self.failed(error, device.display_name)
                return
        self.board.reset()
        if self.entry is not None:
            for gpa, size in (*((span.gpa, span.size) for span in self.entry.spans), *self.entry.reserved):
                self.board.memory.zero(gpa, size)
        self.load(self.loader)
        if self.debugger is not None:
            self.debugger.reset()

    def unhandled(self, call: Call) -> None:
        """An exception came that the program has left to the BIOS. In the thread of the vCPU that met it."""
        from ..crash.event import Crash, CrashKind
        from ..crash.unhandled import back_to_caller

        vcpu = next(runner.vcpu for runner in self.runners if runner.is_current())
        if back_to_caller(vcpu, call):
            self.crashed(Crash(vcpu.id, CrashKind.UNHANDLED, vector=call.vector))

    # What runners and the I/O thread say (runner.Host), with the lock held

    def crashed(self, crash: Crash) -> None:
        """A CPU cannot go on."""
        if self.run is not None and (self.debugger is None or not self.debugger.crashed(crash)):
            self._guest_ends(Ending.CRASHED, crash.cause, crash=crash)

    def failed(self, error: BaseException, who: str) -> None:
        """`who` raised `error` while it served the guest or the host: the run ends, and `wait` raises it."""
        if self.run is not None:
            self.run.failed(error, who)

    def callback_failed(self, error: BaseException, callback: Callable[[], None]) -> None:
        """The same of a callback of the I/O thread."""
        self.failed(error, f"I/O callback {getattr(callback, '__qualname__', callback)}")

    def system_event(self, kind: int) -> None:
        """KVM_EXIT_SYSTEM_EVENT: a paravirtual request to power off or reset."""
        if kind == SYSTEM_EVENT_SHUTDOWN:
            self.powered_off()
        elif kind == SYSTEM_EVENT_RESET:
            self.rebooted("the guest asked the hypervisor for a reset")
        else:
            self._guest_ends(Ending.CRASHED, f"the guest reported its own crash (system event {kind})")

    def debug_exit(self, cpu: int, left: Debug) -> None:
        """KVM_EXIT_DEBUG."""
        if self.debugger is not None:
            self.debugger.debug_exit(cpu, left)
            return
        from ..crash.event import Crash, CrashKind

        self.crashed(Crash(cpu, CrashKind.EXIT, detail="DEBUG"))

    def is_breakpoint(self, cpu: int) -> bool:
        """Whether the INT3 that a CPU stands before is a debugger's."""
        return self.debugger is not None and self.debugger.is_breakpoint(cpu)

    def _halted(self) -> None:
        if self.debugger is None or not self.debugger.halted():
            self._guest_ends(Ending.HALTED, "every CPU is halted with interrupts off")
