"""One vCPU and its thread: the loop that enters the guest and serves its exits.

A vCPU leaves the guest for good or for a while only through `interrupt()`: `immediate_exit` is set, and a signal whose
handler does nothing takes the thread out of KVM_RUN if it is inside. On its way out KVM finishes the access that the
last exit was about, so the state that anybody sees afterwards is never half-way.
"""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Callable

from .kvm import VCPU, KvmError
from .kvm.vcpu import INTERNAL_ERROR_EMULATION, PIO, Exit, exit_name, prepare_kick
from .typed import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from .bus import Claim
    from .machine import Machine

KICK = signal.SIGRTMIN
"""The signal that takes a thread out of KVM_RUN."""

OUTPUT_KEY = 1 << 19
"""In a port access's key (what KVM_RUN returned, without its lower 32 bits: port, size << 16): set for output."""

TRIPLE_FAULT = "triple fault"
NOT_EMULATED = "KVM cannot emulate the instruction"
NOT_ENTERED = "the CPU cannot enter this state"
"""Why a CPU cannot go on, in words. The last has the hardware's reason behind it."""
UNHANDLED = "unhandled exception"
"""The same: the program has left it to the BIOS, which has no better idea than to stop."""

Route = tuple[Callable[..., int | None], int, int, bool]
"""How a port access is served: (function, offset, size, whether it is output: then the value is given behind them)."""


class Crash(NamedTuple):
    """A CPU cannot go on: which, why, and the instruction's bytes if KVM told them."""

    cpu: int
    cause: str
    code: bytes = b""
    vector: int | None = None
    """UNHANDLED: the exception."""


class WayIn(Protocol):
    """What `VCPU` has to enter the guest with."""

    @property
    def enter(self) -> Callable[[], int]: ...

    @property
    def enter_answering(self) -> Callable[[int], int]: ...


class Runner:
    """Runs `vcpu` for `machine` in a thread of its own."""

    def __init__(self, machine: Machine, vcpu: VCPU) -> None:
        self.machine = machine
        self.vcpu = vcpu
        self.exits = 0
        """Exits served; up to date while the vCPU is held, and once the thread has ended."""
        self._inside = False  # from the thread's start to its end: only then may it be signalled
        self.held = False
        """A debugger keeps this vCPU out of the guest while others run. Changed with the machine's lock held."""
        self.way_in: WayIn = vcpu
        """How the guest is entered: a debugger changes it, for a single step, while the vCPU is out."""
        self._clock = 0
        self._thread: threading.Thread | None = None  # one a run

    def start(self) -> None:
        """Start the thread. With the machine's lock held."""
        prepare_kick(KICK)
        self.vcpu.immediate_exit(self.machine.is_held)
        self.exits, self._clock = 0, 0
        self._thread = threading.Thread(target=self._main, name=f"pykvm vcpu {self.vcpu.id}", daemon=True)
        self._inside = True
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end. Without the lock."""
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()

    def is_current(self) -> bool:
        """Whether this is called in the vCPU's own thread."""
        return self._thread is threading.current_thread()

    def interrupt(self) -> None:
        """Have the vCPU come out of the guest and ask the machine what to do. With the machine's lock held."""
        if self._inside and self._thread is not None:
            self.vcpu.immediate_exit(True)
            ident = self._thread.ident
            if ident is not None and ident != threading.get_ident():
                signal.pthread_kill(ident, KICK)

    def cpu_time(self) -> int:
        """Nanoseconds that the thread has run: they stand still while the vCPU sleeps. With the machine's lock held."""
        return time.clock_gettime_ns(self._clock) if self._inside and self._clock else 0

    def _main(self) -> None:
        machine = self.machine
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            self._loop()
        except Exception as error:
            with machine.lock:
                machine.failed(error, f"vCPU {self.vcpu.id}")
        finally:
            with machine.lock:
                self._inside = False
                machine.runner_left()

    def _loop(self) -> None:
        machine, lock = self.machine, self.machine.lock
        acquire, release = lock.acquire, lock.release
        enter, enter_answering = self.way_in.enter, self.way_in.enter_answering
        routes = machine.port_routes
        exits = 0
        result = 0
        try:
            result = enter()
            while True:
                if result >= PIO:
                    # The path that every guest takes all the time: no layer is visited twice on it.
                    exits += 1
                    acquire()  # `with` takes twice the time
                    try:
                        try:
                            function, offset, size, is_output = routes[result >> 32]
                        except KeyError:
                            function, offset, size, is_output = machine.route_port(result >> 32)
                        if is_output:
                            function(offset, size, result & 0xFFFFFFFF)
                            value = None
                        else:
                            value = function(offset, size)
                    finally:
                        release()
                    result = enter() if value is None else enter_answering(value)
                elif result >= 0:
                    exits += 1
                    with lock:
                        self._serve(result)
                    result = enter()
                else:
                    self.exits = exits
                    if not self._came_out(result):
                        break
                    enter, enter_answering = self.way_in.enter, self.way_in.enter_answering
                    result = enter()
        except Exception as error:
            with lock:
                machine.failed(error, self._culprit(result))
            self.vcpu.settle()
        finally:
            self.exits = exits

    def _came_out(self, result: int) -> bool:
        """KVM_RUN failed; False if the thread is to end."""
        if result == -errno.EINTR:
            # First clear, then look: whoever wants something says so first and then sets immediate_exit.
            self.vcpu.immediate_exit(False)
            return self.machine.runner_came_out(self)
        if result == -errno.EAGAIN:  # it waited for a SIPI, and got one
            return True
        raise KvmError("KVM_RUN", -result)

    def _serve(self, reason: int) -> None:
        """Serve an exit that is no single port access."""
        machine, vcpu = self.machine, self.vcpu
        if reason == Exit.MMIO:
            address, size, value, is_write = vcpu.mmio()
            if is_write:
                machine.mmio.write(address, size, value)
            else:
                vcpu.answer_mmio(size, machine.mmio.read(address, size))
        elif reason == Exit.IO:
            port, size, count, is_output, data = vcpu.pio_block()
            if is_output:
                machine.ports.write_block(port, size, bytes(data))
            else:
                data[:] = machine.ports.read_block(port, size, count)
        elif reason in (Exit.RDMSR, Exit.WRMSR):
            index, value = vcpu.msr()
            vcpu.answer_msr(machine.access_msr(index, value if reason == Exit.WRMSR else None))
        elif reason == Exit.DEBUG and machine.debugger is not None:
            machine.debugger.debug_exit(self)
        elif reason == Exit.SYSTEM_EVENT:
            machine.system_event(vcpu.system_event())
        elif reason == Exit.SHUTDOWN:
            machine.crashed(Crash(vcpu.id, TRIPLE_FAULT))
        elif reason == Exit.FAIL_ENTRY:
            machine.crashed(Crash(vcpu.id, f"{NOT_ENTERED} (hardware reason {vcpu.entry_failure():#x})"))
        elif reason == Exit.INTERNAL_ERROR:
            suberror, data = vcpu.internal_error()
            if suberror == INTERNAL_ERROR_EMULATION:
                machine.crashed(Crash(vcpu.id, NOT_EMULATED, vcpu.failed_instruction()))
            else:
                words = " ".join(f"{word:#x}" for word in data)
                machine.crashed(Crash(vcpu.id, f"KVM internal error {suberror}, data {words}"))
        elif reason != Exit.INTR:
            machine.crashed(Crash(vcpu.id, f"KVM gave up with the exit reason {exit_name(reason)}"))

    def _culprit(self, result: int) -> str:
        """Whose turn it was when serving `result` failed."""
        claim: Claim | None = None
        if result >= PIO:
            claim = self.machine.ports.find(result >> 32 & 0xFFFF)
        elif result == Exit.IO:
            claim = self.machine.ports.find(self.vcpu.pio_block()[0])
        elif result == Exit.MMIO:
            claim = self.machine.mmio.find(self.vcpu.mmio()[0])
        elif result in (Exit.RDMSR, Exit.WRMSR):
            return f"the handler of MSR {self.vcpu.msr()[0]:#x}"
        return claim.device.name or type(claim.device).__name__ if claim else "pykvm"
