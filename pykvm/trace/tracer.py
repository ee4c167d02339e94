"""Watches the exits of a machine's vCPUs from the guest.

A vCPU's thread enters the guest through its entry chain (`engine.entry`). A tracer puts a link of its own into that
before the start, which takes the time around KVM_RUN and looks at each exit on its way to the loop that serves it: the
loop itself knows nothing of tracing, and a machine that is not traced runs the very same code as without this module.

    tracer = Tracer(machine, [lambda event: print(event.what)])
    machine.run()
    tracer.finish()

What never leaves the kernel is not seen: the interrupt controllers, the PIT and `hlt` are KVM's own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..engine.entry import Link, Rank
from ..kvm.exits import (
    INTERNAL_ERROR_EMULATION,
    Debug,
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
)
from ..kvm.stats import statistics
from ..machine import Machine
from . import names
from .event import Event
from .sites import INPUT, OTHER, OUTPUT, STORE, Sites

if TYPE_CHECKING:
    from ..bus import Bus, Claim
    from ..engine.runner import Runner

Sink = Callable[[Event], object]

DATA_LIMIT = 4096
"""Bytes of a block that an event keeps."""


class AddressRange(NamedTuple):
    """Addresses from `first` to `last`."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which exits are traced: those that match all of what is given; an empty collection lets everything through.

    `devices` are names, in small letters, and a name's first letters do, such as "com"; `kinds` are `event.KINDS`.
    """

    devices: tuple[str, ...] = ()
    kinds: Collection[str] = ()
    addresses: Collection[AddressRange] = ()
    cpus: Collection[int] = ()

    def passes(self, kind: str, device: str, address: int | None, cpu: int) -> bool:
        """Whether an exit is to be traced."""
        if self.cpus and cpu not in self.cpus:
            return False
        if self.kinds and kind not in self.kinds:
            return False
        if self.devices and not device.lower().startswith(self.devices):
            return False
        if self.addresses:
            return address is not None and any(span.first <= address <= span.last for span in self.addresses)
        return True


@dataclass(slots=True)
class Times:
    """Where a vCPU's thread was, in nanoseconds of wall-clock time unless said otherwise."""

    exits: int = 0
    """All of them, traced or not."""
    run: int = 0
    """In KVM_RUN: the guest's own time and the kernel's."""
    run_cpu: int = 0
    """Of `run`, the time that the thread had a CPU. For the rest it slept or had to wait for one."""
    guest: int = 0
    """Of `run_cpu`, what the kernel accounts as the guest's own: counted by its clock ticks. Where KVM emulates the
    guest's instructions instead of having the CPU run them, that is kernel time, and 0 here."""
    halted: int = 0
    """Of `run`, the time that KVM had the CPU sleep in HLT; 0 where KVM keeps no statistics."""
    served: int = 0
    """Serving exits: waiting for the machine's lock, devices, Python."""
    tracing: int = 0
    """The tracer's own."""


class Outlet:
    """Gives events to `sinks`, one at a time and numbered, and ends the run of `machine` after `limit` of them."""

    def __init__(self, machine: Machine, sinks: Sequence[Sink], limit: int | None = None) -> None:
        self.machine = machine
        self.count = 0
        """Events so far."""
        self.error: OSError | None = None
        """What a sink has raised; the run was ended for it."""
        self._sinks = sinks
        self._limit = limit
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Give an event to the sinks. From any thread; without the machine's lock."""
        with self._lock:
            if self.error is not None or self.count == self._limit:
                return
            self.count += 1
            event.number = self.count
            try:
                for sink in self._sinks:
                    sink(event)
            except OSError as error:
                self.error = error
            full = self.count == self._limit
        if self.error is not None:
            self.machine.request_stop(f"the trace cannot be written: {self.error.strerror}")
        elif full:
            self.machine.request_stop(f"{self.count} events are traced")


class Tracer:
    """Traces `machine`, which has not been started, to `sinks`: each is called with every event that `filter` passes.

    A sink is called in a vCPU's thread, without the machine's lock, one call at a time. If it raises OSError the run is
    ended, and `outlet.error` says why. `limit` ends the run after so many events. With `lines` the events' sites have
    the source lines that the image's debug information tells.
    """

    def __init__(
        self,
        machine: Machine,
        sinks: Sequence[Sink],
        filter: Filter | None = None,
        limit: int | None = None,
        *,
        lines: bool = False,
    ) -> None:
        board = machine.engine.board
        board.system.require("SYNC_REGS")
        self.machine = machine
        self.filter = filter or Filter()
        self.outlet = Outlet(machine, sinks, limit)
        self.began = 0
        """When the first CPU entered the guest, in nanoseconds of time.perf_counter_ns."""
        self.sites = Sites(machine, lines)
        self.kernel: list[dict[str, int]] = []
        """What KVM counted for each CPU, since it was made: `kvm.stats`. There once `finish` has been called."""
        self._watches = [_Watch(self, runner) for runner in machine.engine.runners]

    @property
    def times(self) -> list[Times]:
        """For each CPU, once the run has ended."""
        return [watch.times for watch in self._watches]

    def finish(self) -> None:
        """After the run: tell of the exit that ended it, if a device failed to serve it, and read KVM's statistics."""
        for watch in self._watches:
            watch.close()
        for watch in self._watches:
            watch.remove()
        board = self.machine.engine.board
        if board.vm.check_extension("BINARY_STATS_FD"):
            self.kernel = [statistics(vcpu) for vcpu in board.vcpus]
        for times, counted in zip(self.times, self.kernel, strict=False):
            times.halted = counted.get("halt_wait_ns", 0)


class _Watch(Link):
    """The link of one traced vCPU. Used by its thread alone."""

    rank = Rank.TRACE

    def __init__(self, tracer: Tracer, runner: Runner) -> None:
        board = tracer.machine.engine.board
        self.times = Times()
        self._tracer = tracer
        self._lock = tracer.machine.lock.inner
        self._vcpu = runner.vcpu
        self._chain = runner.entry
        self._buses: dict[str, Bus] = {"pio": board.ports, "mmio": board.mmio}
        self._event: Event | None = None
        self._claim: Claim | None = None
        self._result = 0  # the last exit
        self._left = 0  # when the exit went on to be served; 0 if none is being served
        self._answer: int | None = None
        self._chain.push(self)
        self._vcpu.share_registers()

    def remove(self) -> None:
        """Watch no more. After the run."""
        self._chain.remove(self)

    def enter(self) -> int:
        return self._run(self.inner.enter)

    def enter_answering(self, value: int) -> int:
        self._answer = value
        return self._run(partial(self.inner.enter_answering, value))

    def _run(self, enter: Callable[[], int]) -> int:
        clock, times = time.perf_counter_ns, self.times
        back = clock()
        if self._left:
            times.served += back - self._left
        self.close(back)
        cpu, begin = time.thread_time_ns(), clock()
        if not self._tracer.began:
            self._tracer.began = begin
        result = enter()
        end = clock()
        cpu = min(time.thread_time_ns() - cpu, end - begin)  # looking at the clocks takes time, too
        times.run += end - begin
        times.run_cpu += cpu
        if result >= 0:
            times.exits += 1
            self._result = result
            self._open(result, end, end - begin, cpu)
            self._left = clock()
            times.tracing += self._left - end
        else:
            times.guest = _guest_time()
            self._left = 0
        times.tracing += begin - back
        return result

    # An exit

    def _open(self, result: int, now: int, run: int, cpu: int) -> None:
        """Look at an exit before it is served: afterwards the device may have changed."""
        vcpu, tracer = self._vcpu, self._tracer
        left = vcpu.decode_exit(result)
        access = _access(left)
        kind, address = access.kind, access.address
        bus = self._buses.get(kind)
        device = register = meaning = ""
        claim: Claim | None = None
        if address is None:
            meaning = _reason(left)
        elif bus is None:
            register = f"MSR {address:#x} {names.MSRS.get(address, '')}".rstrip()
        else:
            with self._lock:
                claim = bus.find(address)
                if claim is not None:
                    device = claim.device.display_name
                    register = claim.device.register_name(claim.offset, access.size, access.value)
            if claim is None:
                register = names.port_name(address) if kind == "pio" else names.address_name(address)
        if not tracer.filter.passes(kind, device, address, vcpu.id):
            return
        wanted = OTHER if bus is None else (STORE if kind == "mmio" else OUTPUT) if access.is_write else INPUT
        site = tracer.sites.find(vcpu, vcpu.position(), wanted, access.size, address or 0)
        self._claim = claim
        self._event = Event(
            0, now - tracer.began, vcpu.id, kind, site, address, access.size, access.items, access.is_write,
            access.value, access.data, device, register, meaning, run, cpu,
        )  # fmt: skip

    def close(self, now: int = 0) -> None:
        """The exit has been served, at the time `now`; 0 if it has not."""
        event = self._event
        if event is None:
            return
        self._event = None
        if now:
            event.served = now - self._left
            if event.address is not None and not event.is_write:
                self._take_answer(event)
            if event.kind == "internal_error":
                event.meaning = f"finished: {event.site.text}"  # else the guest would not have been entered again
        claim = self._claim
        if claim is not None and event.value is not None and event.size <= claim.width:
            event.meaning = claim.device.explain(event.register, event.value, event.is_write)
        self._tracer.outlet.emit(event)

    def _take_answer(self, event: Event) -> None:
        """What the guest is about to read."""
        match self._vcpu.decode_exit(self._result):
            case Mmio(_, _, value):
                event.value = value
            case MsrAccess():
                event.value = self._vcpu.msr_answer()
                event.meaning = "#GP" if event.value is None else ""
            case PortBlock(_, size, _, _, data):
                event.data = _head(data, size)
            case PortAccess():
                event.value, self._answer = self._answer, None


class _Access(NamedTuple):
    """What an exit is about, in the terms of `Event`."""

    kind: str
    address: int | None = None
    size: int = 0
    items: int = 1
    is_write: bool = False
    value: int | None = None
    data: bytes = b""


_KINDS: dict[type, str] = {
    Debug: "debug",
    SystemEvent: "system_event",
    Shutdown: "shutdown",
    FailedEntry: "fail_entry",
    InternalError: "internal_error",
}
"""The kinds of events that are no accesses."""


def _access(left: VcpuExit) -> _Access:
    match left:
        case PortAccess(port, size, value):
            return _Access("pio", port, size, 1, value is not None, value)
        case PortBlock(port, size, count, is_output, data):
            return _Access("pio", port, size, count, is_output, None, _head(data, size) if is_output else b"")
        case Mmio(address, size, value, is_write):
            return _Access("mmio", address, size, 1, is_write, value if is_write else None)
        case MsrAccess(index, value):
            return _Access("msr", index, 8, 1, value is not None, value)
        case OtherExit(_, name):
            return _Access(name.lower())
    return _Access(_KINDS[type(left)])


def _head(block: Any, size: int) -> bytes:
    """As many whole items of a block as an event keeps."""
    return bytes(block[: DATA_LIMIT - DATA_LIMIT % size])


def _reason(left: VcpuExit) -> str:
    """What there is to say of an exit that is no access."""
    match left:
        case SystemEvent(kind):
            return f"type {kind}"
        case Shutdown():
            return "triple fault"
        case FailedEntry(reason):
            return f"hardware reason {reason:#x}"
        case InternalError(suberror):
            return "emulation failed" if suberror == INTERNAL_ERROR_EMULATION else f"suberror {suberror}"
    return ""


def _guest_time() -> int:
    """Nanoseconds that the kernel accounts this thread as a vCPU's (proc(5), /proc/pid/stat, guest_time)."""
    with open("/proc/thread-self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[40]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
