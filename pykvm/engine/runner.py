"""One vCPU and its thread: the loop that enters the guest and serves its exits.

A vCPU leaves the guest for good or for a while only through `interrupt()` and `ask_out()`: `immediate_exit` is set, and
a signal whose handler does nothing takes the thread out of KVM_RUN if it is inside. On its way out KVM finishes the
access that the last exit was about, so the state that anybody sees afterwards is never half-way.
"""

from __future__ import annotations

import errno
import threading
import time

from ..errors import ADVICE, HostError
from ..kvm import VCPU, KvmError
from ..kvm.exits import (
    INTERNAL_ERROR_EMULATION,
    PIO,
    Debug,
    Exit,
    FailedEntry,
    InternalError,
    Mmio,
    MsrAccess,
    OtherExit,
    PortAccess,
    PortBlock,
    Shutdown,
    SystemEvent,
    VcpuExit,
    failed_code,
)
from ..kvm.state import MpState
from ..kvm.vcpu import prepare_kick
from ..typed import TYPE_CHECKING, Protocol, signal
from .board import Board, offered_cpuid
from .entry import EntryChain
from .gate import Gate

if TYPE_CHECKING:
    from ..bus import Claim
    from ..crash.event import Crash
    from ..finish import Finisher

INT3 = b"\xcc"
KICK = signal.SIGRTMIN
"""The signal that takes a thread out of KVM_RUN."""


class Host(Protocol):
    """Whom a runner tells what is no access to a device. With the lock held."""

    def crashed(self, crash: Crash) -> None:
        """A CPU cannot go on."""

    def failed(self, error: BaseException, who: str) -> None:
        """`who` raised `error` while it served the guest: the run ends."""

    def system_event(self, kind: int) -> None:
        """KVM_EXIT_SYSTEM_EVENT."""

    def debug_exit(self, cpu: int, left: Debug) -> None:
        """KVM_EXIT_DEBUG."""

    def is_breakpoint(self, cpu: int) -> bool:
        """Whether the INT3 that a vCPU stands before is a debugger's."""


class Runner:
    """Runs `vcpu` of `board` in a thread of its own, as `gate` lets it."""

    def __init__(self, vcpu: VCPU, board: Board, gate: Gate, host: Host) -> None:
        self.vcpu = vcpu
        self.entry = EntryChain(vcpu)
        """How the guest is entered. Changed while the vCPU is out."""
        self.exits = 0
        """Exits served; up to date while the vCPU is held, and once the thread has ended."""
        self.finished: dict[str, int] = {}
        """How often which instructions were finished that KVM could not emulate."""
        self.held = False
        """A debugger keeps this vCPU out of the guest while others run. Changed with the lock held."""
        self._board, self._gate, self._host = board, gate, host
        self._inside = False  # from the thread's start to its end: only then may it be signalled
        self._clock = 0
        self._was_runnable = False  # KVM_RUN has just given EAGAIN, and there is nothing to wait for any more
        self._thread: threading.Thread | None = None  # one a run
        self._turn: list[None] = []
        """Who takes its element, the thread or `withdraw`, decides whether the thread begins."""
        self._finisher: Finisher | None = None  # since the first instruction that was to be finished

    def prepare(self) -> None:
        """There is to be a thread: `start` or `withdraw` follows. With the lock held."""
        self._turn = [None]

    def withdraw(self) -> bool:
        """Have the thread not begin, if it has not; False if there is none, or it has begun.

        The handler of a signal may raise in the midst of `start`, and nobody knows then whether there is a thread.
        """
        try:
            self._turn.pop()
        except IndexError:
            return False
        self._inside = False
        return True

    def start(self) -> None:
        """Start the thread, after `prepare` and `Gate.open`. With the lock held."""
        prepare_kick(KICK)
        self.vcpu.immediate_exit(self._gate.is_held)
        self.exits, self._clock, self._was_runnable = 0, 0, False
        self.finished = {}
        self._thread = threading.Thread(target=self._main, name=f"pykvm vcpu {self.vcpu.id}", daemon=True)
        self._inside = True
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end. Without the lock."""
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def is_current(self) -> bool:
        """Whether this is called in the vCPU's own thread."""
        return self._thread is threading.current_thread()

    def ask_out(self) -> None:
        """Have the vCPU come out of the guest at its next exit. See `gate.Passer`."""
        self.vcpu.immediate_exit(True)

    def call_out(self) -> None:
        """Take the vCPU out of the guest for a moment. See `gate.Passer`."""
        ident = self._thread.ident if self._thread is not None else None
        if ident is not None and ident != threading.get_ident():
            signal.pthread_kill(ident, KICK)

    def interrupt(self) -> None:
        """Have the vCPU come out of the guest and pass the gate anew. With the lock held."""
        if self._inside:
            self.vcpu.immediate_exit(True)
            self.call_out()

    def cpu_time(self) -> int:
        """Nanoseconds that the thread has run: they stand still while the vCPU sleeps. With the lock held."""
        return time.clock_gettime_ns(self._clock) if self._inside and self._clock else 0

    def _main(self) -> None:
        try:
            self._turn.pop()
        except IndexError:
            return
        lock = self._gate.lock.inner
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            self._loop()
        except BaseException as error:
            with lock:
                self._host.failed(error, f"vCPU {self.vcpu.id}")
        finally:
            with lock:
                self._inside = False
            self._gate.left(self)

    def _loop(self) -> None:
        board, lock = self._board, self._gate.lock.inner
        acquire, release = lock.acquire, lock.release
        entry = self.entry.outermost
        enter, enter_answering = entry.enter, entry.enter_answering
        routes = board.port_routes
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
                            function, offset, size, is_output = board.route_port(result >> 32)
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
                    entry = self.entry.outermost
                    enter, enter_answering = entry.enter, entry.enter_answering
                    result = enter()
        except BaseException as error:
            with lock:
                self._host.failed(error, self._culprit(result))
            self.vcpu.complete_access()
        finally:
            self.exits = exits

    def _came_out(self, result: int) -> bool:
        """KVM_RUN failed; False if the thread is to end."""
        was_runnable, self._was_runnable = self._was_runnable, False
        if result == -errno.EINTR:
            # First clear, then look: whoever wants something says so first and then sets immediate_exit.
            self.vcpu.immediate_exit(False)
            return self._gate.came_out(self)
        if result == -errno.EAGAIN:  # it waited for a SIPI, and got one; or KVM got no thread for a work of its own
            self._was_runnable = self.vcpu.get_mp_state() == MpState.RUNNABLE
            if was_runnable:
                raise HostError(f"KVM_RUN: {ADVICE[errno.EAGAIN]}")
            return True
        raise KvmError("KVM_RUN", -result)

    def _serve(self, result: int) -> None:
        """Serve an exit that is no single port access."""
        board, vcpu = self._board, self.vcpu
        if result == Exit.INTERNAL_ERROR and board.finish:
            code = failed_code(vcpu.run)
            if code is not None and self._finish(code):
                return
        match vcpu.decode_exit(result):
            case Mmio(address, size, value, is_write):
                if is_write:
                    board.mmio.write(address, size, value)
                else:
                    vcpu.answer_mmio(size, board.mmio.read(address, size))
            case PortBlock(port, size, count, is_output, data):
                if is_output:
                    board.ports.write_block(port, size, bytes(data))
                else:
                    data[:] = board.ports.read_block(port, size, count)
            case MsrAccess(index, value):
                vcpu.answer_msr(board.access_msr(index, value))
            case Debug() as left:
                self._host.debug_exit(vcpu.id, left)
            case SystemEvent(kind):
                self._host.system_event(kind)
            case OtherExit(reason) if reason == Exit.INTR:
                pass
            case left:
                self._host.crashed(_crash(vcpu.id, left))

    def _finish(self, code: bytes) -> bool:
        """Finish the instruction that KVM could not emulate, and go on behind it; False if that cannot be."""
        board = self._board
        if code[:1] == INT3 and self._host.is_breakpoint(self.vcpu.id):
            return False
        if self._finisher is None:
            from ..finish import Finisher
            from ..finish.operand import Space

            size = board.vm.check_extension("XSAVE2")
            space = Space(board.memory, board.rom, board.mmio)
            shared = board.vm.check_extension("SYNC_REGS") & 3 == 3
            self._finisher = Finisher(self.vcpu, space, board.cpuid_in_use, offered_cpuid(), size, shared=shared)
        name = self._finisher.finish(code)
        if name is not None:
            self.finished[name] = self.finished.get(name, 0) + 1
        return name is not None

    def _culprit(self, result: int) -> str:
        """Whose turn it was when serving `result` failed."""
        claim: Claim | None = None
        match self.vcpu.decode_exit(result) if result >= 0 else None:
            case PortAccess(port) | PortBlock(port):
                claim = self._board.ports.find(port)
            case Mmio(address):
                claim = self._board.mmio.find(address)
            case MsrAccess(index):
                return f"the handler of MSR {index:#x}"
        return claim.device.display_name if claim else "pykvm"


def _crash(cpu: int, left: VcpuExit) -> Crash:
    """What it means that a CPU left the guest so."""
    from ..crash.event import Crash, CrashKind

    match left:
        case Shutdown():
            return Crash(cpu, CrashKind.TRIPLE_FAULT)
        case FailedEntry(reason):
            return Crash(cpu, CrashKind.ENTRY, detail=f"(hardware reason {reason:#x})")
        case InternalError(suberror, _, code) if suberror == INTERNAL_ERROR_EMULATION:
            return Crash(cpu, CrashKind.EMULATION, code)
        case InternalError(suberror, data):
            return Crash(cpu, CrashKind.INTERNAL, detail=f"{suberror}, data {' '.join(f'{word:#x}' for word in data)}")
        case OtherExit(_, name):
            return Crash(cpu, CrashKind.EXIT, detail=name)
    raise AssertionError(f"{left} is served")
