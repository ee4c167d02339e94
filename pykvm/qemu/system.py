"""A machine as QEMU's user knows it: running, paused or shut down; reset and powered down; told of in events.

Sources: qemu-system-x86_64(1), -no-reboot, -no-shutdown, -action, -S; QEMU QMP Reference Manual, "RunState" and the
events STOP, RESUME, RESET, SHUTDOWN and POWERDOWN. What the guest does, QEMU's way:

- A triple fault resets the machine, as a PC's chipset does. Here the first is explained on standard error, too.
- A guest that halts for ever goes on doing so: a monitor, gdb or a person may still want it.
- An instruction that cannot be emulated stops the machine ("internal-error"); a reset brings it back.

All is called with the machine's lock held unless it says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager

from ..errors import PykvmError
from ..outcome import Ending, Outcome
from ..typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..crash.event import Crash
    from ..crash.report import CrashReport
    from ..debug.control import Control
    from ..machine import Machine
    from ..snapshot import Snapshot
    from .drives import Places
    from .settings import Settings

RUNNING, PAUSED, PRELAUNCH, SHUTDOWN, BROKEN = "running", "paused", "prelaunch", "shutdown", "internal-error"
"""States, as QMP names them."""
SNAPSHOTS_MOST = 64
Event = Callable[[str, dict[str, Any]], None]


class System:
    """`machine`, made from `settings`, whose drives are in `places`. Before the start, without the lock.

    `explained` is called, without the lock, with a crash's report; `log` with what -d asks for.
    """

    def __init__(
        self,
        machine: Machine,
        settings: Settings,
        places: Places,
        control: Control | None = None,
        explained: Callable[[CrashReport], None] = lambda report: None,
    ) -> None:
        self.machine, self.settings, self.places = machine, settings, places
        self.engine = machine.engine
        self.listeners: list[Event] = []
        """Are told of each event, with its data."""
        self.snapshots: dict[str, Snapshot] = {}
        """By their tags: they live as long as this does."""
        self.log: Callable[[str, Callable[[], str]], None] = lambda item, text: None
        """Is given each item of -d that there is something for, and what gives the text if it is wanted."""
        self._control, self._show_report = control, explained
        self._state = RUNNING
        self._stopped_at: float | None = None  # since when this keeps the vCPUs out of the guest
        self._told_crash = False
        self._reset_reason = "guest-reset"
        self._threads: list[Any] = []
        self.engine.before_end = self._before_end
        self.engine.on_reset.append(self._was_reset)
        if settings.stopped and control is None:
            with machine.lock:
                self._hold(PRELAUNCH)

    # What it is doing

    @property
    def state(self) -> str:
        """One of QMP's run states."""
        if self._stopped_at is not None:
            return self._state
        if self._control is not None and self._control.stop is not None:
            return PRELAUNCH if self.engine.run is None else PAUSED
        return RUNNING

    @property
    def is_running(self) -> bool:
        """Whether the guest may run."""
        return self.state == RUNNING

    def emit(self, event: str, **data: Any) -> None:
        """Tell the listeners."""
        for listener in self.listeners:
            listener(event, data)

    def _hold(self, state: str) -> None:
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self.engine.gate.hold()
        self._state = state

    def _release(self) -> None:
        if self._stopped_at is not None:
            self.engine.clocks_go_on(self._stopped_at)
            self._stopped_at = None
            self.engine.gate.release()

    @contextmanager
    def still(self) -> Iterator[None]:
        """While it is entered no vCPU is in the guest: registers and memory can be read. Not in a vCPU's thread."""
        with self.engine.gate.held():
            yield

    # What monitors do

    def stop(self) -> None:
        """Have the guest stand still."""
        if not self.is_running:
            return
        if self._control is not None:
            self._control.interrupt()
        else:
            self._hold(PAUSED)
            self.engine.gate.wait_held()
        self.emit("STOP")

    def cont(self) -> None:
        """Have the guest go on. PykvmError if it cannot."""
        if self.is_running:
            return
        if self._stopped_at is not None and self._state in (SHUTDOWN, BROKEN):
            raise PykvmError("Resetting the Virtual Machine is required")
        if self._control is not None and self._control.stop is not None:
            self._control.resume()
        if self._stopped_at is not None:
            self.engine.gate.wait_held()
            self._release()
        self.emit("RESUME")

    def reset(self) -> None:
        """Press the reset button."""
        self._reset_reason = "host-qmp-system-reset"
        with self.still():
            self.machine.reset()
        self._reset_reason = "guest-reset"
        if self._stopped_at is not None and self._state in (SHUTDOWN, BROKEN):
            self._state = PAUSED

    def powerdown(self) -> None:
        """Press the power button."""
        self.machine.power_button()
        self.emit("POWERDOWN")

    def quit(self, reason: str = "host-qmp-quit") -> None:
        """End the run."""
        if self.engine.outcome is None:
            self.emit("SHUTDOWN", guest=False, reason=reason)
            self.engine.request_stop(reason)

    def save(self, tag: str) -> None:
        """Keep the state under a tag. PykvmError if it cannot be had, or there are too many."""
        if tag not in self.snapshots and len(self.snapshots) >= SNAPSHOTS_MOST:
            raise PykvmError(f"there are {SNAPSHOTS_MOST} snapshots: delvm forgets one")
        with self.still():
            self.snapshots[tag] = self.machine.snapshot()

    def load(self, tag: str) -> None:
        """Go back to the state of a tag. PykvmError if there is none."""
        if tag not in self.snapshots:
            raise PykvmError(f"there is no snapshot {tag!r}: see info snapshots")
        with self.still():
            self.machine.restore(self.snapshots[tag])
        if self._state in (SHUTDOWN, BROKEN):
            self._state = PAUSED

    # What the guest does, in a vCPU's thread or the I/O thread

    def _was_reset(self) -> None:
        self.log("cpu_reset", self._cpu_resets)
        self.emit("RESET", guest=self._reset_reason == "guest-reset", reason=self._reset_reason)

    def _cpu_resets(self) -> str:
        from .registers import registers

        cpus = range(len(self.machine.vcpus))
        return "".join(f"CPU Reset (CPU {number})\n{registers(self.machine, number)}" for number in cpus)

    def _before_end(self, outcome: Outcome, crash: Crash | None) -> bool:
        """Whether the run goes on for all that."""
        ending = outcome.ending
        if ending is Ending.HALTED:
            return True
        if ending is Ending.EXITED and outcome.value is not None:
            return False  # isa-debug-exit ends QEMU at once
        reboots = ending is Ending.REBOOTED
        if crash is not None:
            from ..crash.event import CrashKind

            reboots = crash.kind is CrashKind.TRIPLE_FAULT
        if (ending is Ending.EXITED or reboots) and (crash is None or self.settings.no_reboot):
            return self._shut_down("guest-reset" if reboots else "guest-shutdown", crash)
        self._hold(RUNNING if reboots else BROKEN)
        if not reboots:
            self.emit("STOP")
        self._in_thread(crash, self._restart if reboots else None)
        return True

    def _shut_down(self, reason: str, crash: Crash | None) -> bool:
        by_guest = self._reset_reason == "guest-reset"
        self.emit("SHUTDOWN", guest=by_guest, reason=reason if by_guest else self._reset_reason)
        if not self.settings.no_shutdown:
            return False
        self._hold(SHUTDOWN)
        self.emit("STOP")
        if crash is not None:
            self._in_thread(crash, None)
        return True

    def _restart(self) -> None:
        """After a triple fault."""
        if self.engine.outcome is None and self._stopped_at is not None:
            self.machine.reset()
            if self._state == RUNNING:  # nobody has stopped it meanwhile
                self._release()

    def _in_thread(self, crash: Crash | None, then: Callable[[], None] | None) -> None:
        """Explain a crash, the first at least, and do `then`: it takes long, and waits for the vCPUs to be out."""
        import threading

        thread = threading.Thread(target=self._explain, args=(crash, then), name="pykvm crash")
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _explain(self, crash: Crash | None, then: Callable[[], None] | None) -> None:
        with self.machine.lock:
            if self.engine.outcome is not None:
                return
            self.engine.gate.wait_held()
            first, self._told_crash = not self._told_crash, True
        if first and crash is not None:
            report = self.machine.explain(crash)
            if report is not None:
                self.explained(report)
        with self.machine.lock:
            if then is not None:
                self.engine.gate.wait_held()
                then()

    def explained(self, report: CrashReport) -> None:
        """Show a crash's report, and log it. Without the lock."""
        self.log("int", lambda: f"{report}\n")
        self._show_report(report)

    def ended(self, outcome: Outcome) -> None:
        """The run has ended: tell of a crash that was its end. Without the lock."""
        if outcome.ending in (Ending.CRASHED, Ending.REBOOTED):
            self.log("cpu_reset", self._cpu_resets)
        if outcome.report is not None:
            self.explained(outcome.report)

    def close(self) -> None:
        """Wait for what is being explained. Without the lock, after the run."""
        for thread in self._threads:
            thread.join()
