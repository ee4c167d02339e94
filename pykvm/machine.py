"""The machine: RAM, vCPUs and devices wired together; started, paused, stopped, and told how it ended.

Locking: `lock` covers all device state and everything in here that changes while the machine runs. It is held to serve
an exit or a host event, and never across KVM_RUN. Threads: one a vCPU (`runner`), one for I/O (`eventloop`), and the
caller's own, which starts, waits and looks.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cache, cached_property, partial
from types import TracebackType

from . import boot
from .boot import detect
from .boot.rom import Rom
from .bus import UNCLAIMED_LIMIT, MmioBus, PortBus
from .console.port import ConsolePort
from .device import Access, Device, FunctionDevice, IrqLine, Range
from .disk import Disk
from .errors import ConfigError, PykvmError
from .eventloop import EventLoop, Timer
from .halts import HaltWatch
from .kvm import VCPU, VM, MsrRange, System
from .kvm.vcpu import SYSTEM_EVENT_RESET, SYSTEM_EVENT_SHUTDOWN
from .memory import PAGE_SIZE, GuestMemory, GuestMemoryError
from .outcome import Ending, Outcome
from .pc import Keyboard, Nic, Pc
from .power import make_vm, reset
from .runner import OUTPUT_KEY, UNHANDLED, Crash, Route, Runner
from .starting import Image, Loader, Start, find_vga_bios, read_image
from .typed import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from .worker import Worker
from .x86 import cpuid

if TYPE_CHECKING:
    from .bios.call import Call
    from .crash.replay import Checkpoint
    from .debug.gdb import GdbServer
    from .display import Screen
    from .net import NetBackend
    from .snapshot import Snapshot
    from .snapshot.timeline import Timeline, WrittenDisks
    from .x86.symbols import SymbolTable

DEFAULT_MEMORY = "128M"
SIGNAL_CHECK = 0.5
"""Seconds that `wait` sleeps at most: a Ctrl-C just before it falls asleep does not wake it."""
SCREEN_CHECK = 0.02
"""Seconds between two looks at the screen."""

Resource = TypeVar("Resource", bound="Closeable | None")
MsrHandler = Callable[[int | None], int | None]
AccessHandler = Callable[[Access], int | None]


class Closeable(Protocol):
    """What a machine gives back at its end."""

    def close(self) -> None: ...


class Debugger(Protocol):
    """What a machine tells and asks a debugger, with the lock held. See `debug.control`."""

    def debug_exit(self, runner: Runner) -> None:
        """A vCPU hit a breakpoint or watchpoint, or finished a single step."""

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


class DeviceError(PykvmError):
    """A device or a handler raised an exception, which is this one's `__cause__`, and the run was ended for it."""


class GeneralProtection(Exception):
    """Raised by an MSR handler: the guest's RDMSR or WRMSR gets #GP."""


class Machine:
    """A PC with `memory` of RAM and `cpus` CPUs, with `image` loaded into it.

    `image` is a path, the bytes of one, or None for a machine with empty RAM. Its format is recognised; `format`
    forces one, a key of `boot.detect.FORMATS`. A flat binary listens to `mode` (16, 32 or 64), `load` and `entry`
    (guest physical addresses); `command_line` and `modules` go to the kernels whose boot protocol has a place for them
    (Linux takes the first module as its initrd).

    An image with a boot sector is the first hard disk, or by its size the floppy disk, its writes are forgotten, and
    pykvm's own BIOS starts it. format="disk" without an image starts from `floppy` or the first of `disks`. `firmware`,
    a path or bytes, is run instead of pykvm's BIOS; a VGA BIOS beside it (vgabios-isavga.bin, vgabios.bin) goes along.

    `memory` is in bytes, or text such as "64M", or a GuestMemory, which the machine then owns. `disks` are up to four
    (None leaves a place empty): primary master and slave, secondary master and slave; a path is opened for reading and
    writing, and `pykvm.open_disk` has the other ways. `nics` are up to four, each a network back end or a `Nic`, which
    has a MAC address, too. `serial_ports` is the number of COM ports, 0 to 4. `floppy` is a disk that only the BIOS
    knows, as drive A.

    A guest that resets the machine starts anew, as often as it likes; with `no_reboot` the run ends as REBOOTED. It
    does so, too, where there is nothing to start anew: a machine without an image, or from a kernel's snapshot.

    The machine owns its back ends: `close()`, or the end of a `with` block, closes them.
    Raises ConfigError for a machine that cannot be, boot.ImageError for a bad image, kvm.KvmUnavailable without KVM.
    """

    def __init__(
        self,
        image: Image | None = None,
        *,
        memory: str | int | GuestMemory = DEFAULT_MEMORY,
        cpus: int = 1,
        disks: Sequence[Disk | str | os.PathLike[str] | None] = (),
        nics: Sequence[Nic | NetBackend] = (),
        serial_ports: int = 1,
        format: str | None = None,
        mode: int | None = None,
        load: int | None = None,
        entry: int | None = None,
        command_line: str = "",
        modules: Sequence[boot.Module] = (),
        floppy: Disk | str | os.PathLike[str] | None = None,
        firmware: Image | None = None,
        no_reboot: bool = False,
    ) -> None:
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._left = threading.Condition(self.lock)  # for those who wait for the end alone: no pause wakes them
        self._outcome: Outcome | None = None
        self._error: DeviceError | None = None
        self._crash: Crash | None = None
        self._checkpoint: Checkpoint | None = None
        self.keep_instructions = 0
        """How many instructions before a crash its report is to show, at most 1000: a replay finds them."""
        self.replay_limit = 5.0
        """Seconds that a crash report may take for a replay: where KVM forgets the state of a CPU at a triple fault, or
        with `keep_instructions`. 0: no replays."""
        self._ending = threading.Lock()  # held to look at a machine whose run has ended, and to close it
        self._explained = False  # the outcome is complete, with its report
        self._stop_at_start: str | None = None
        self._started = 0.0
        self._live = 0  # vCPU threads that have not ended
        self._holds = 0  # reasons for the vCPUs to stay out of the guest
        self._parked = 0  # vCPU threads that wait for the last hold to go
        self._at_rest: list[Callable[[], None]] = []  # what is to be called once all vCPUs are out of the guest
        self._limit: Timer | None = None
        self._halts = HaltWatch(self, self._halted)
        self._closed = False
        self.debugger: Debugger | None = None
        self._msrs: dict[int, MsrHandler] = {}
        self.runners: list[Runner] = []
        self.vcpus: list[VCPU] = []
        self.ports = PortBus()
        self.mmio = MmioBus()
        self.port_routes: dict[int, Route] = {}
        self.lines: dict[int, list[IrqLine]] = {}
        """The interrupt lines by number, those that share one in the order in which they were made."""
        self._resources = ExitStack()  # closed in reverse order: the VM before the RAM that it maps
        self.entry: boot.EntryState | None = None
        """How the image was loaded, with its symbols; None without an image."""
        self._loader: Loader | None = None
        self.no_reboot = no_reboot
        self.resets = 0
        """How often the guest has reset the machine."""
        try:
            self.system = _system()
            self.memory = self._own(memory if isinstance(memory, GuestMemory) else GuestMemory(memory))
            self.rom = None if firmware is None else self._own(Rom(read_image(firmware)))
            self.vga_bios = None if firmware is None else find_vga_bios(firmware)
            self.loop = self._own(EventLoop(self.lock, self._loop_failed, "pykvm I/O"))
            cards = [nic if isinstance(nic, Nic) else Nic(nic) for nic in nics]
            for card in cards:
                self._own(card.backend)
            self.disks = [self._own_disk(disk) for disk in disks]
            self.floppy = self._own_disk(floppy)
            options = boot.Options(mode, load, entry, command_line, modules, cpus)
            start = Start(image, options, format, self.rom)
            self._insert(start)
            self._create(cpus)
            self.worker = self._own(Worker(self.lock, partial(self.failed, who="what was set aside"), "pykvm worker"))
            self.pc = Pc(self, serial_ports, cards, has_bios=start.has_bios)
            self._loader = start.loader(self.memory, (self.floppy, *self.disks))
            if self._loader is not None and not self.memory.private:  # RAM that begins as an image has it all
                self._load(self._loader)
        except BaseException:
            self.close()
            raise

    # What it is made of

    def _own(self, resource: Resource) -> Resource:
        if resource is not None:
            self._resources.callback(resource.close)
        return resource

    def _own_disk(self, disk: Disk | str | os.PathLike[str] | None) -> Disk | None:
        if isinstance(disk, (str, os.PathLike)):
            from .disk.image import open_disk

            disk = open_disk(disk)
        return self._own(disk)

    def _insert(self, start: Start) -> None:
        """Attach the image that is a disk to start from."""
        disk = self._own(start.open_disk())
        if disk is not None and start.kind == detect.DISK:
            self.disks.insert(0, disk)
        elif disk is not None:
            if self.floppy is not None:
                raise ConfigError("the image is a floppy disk, and there is one already")
            self.floppy = disk
        if self.floppy is not None and not start.has_bios:
            raise ConfigError("only pykvm's own BIOS knows a floppy disk: neither kernel nor firmware sees it")

    def _create(self, cpus: int) -> None:
        most = self.system.check_extension("MAX_VCPUS")
        if not 1 <= cpus <= most:
            raise ConfigError(f"{cpus} CPUs are not possible: this KVM takes 1 to {most}")
        self.vm, self.vcpus = make_vm(self.system, self._resources, cpus, self._map_memory)
        self.runners = [Runner(self, vcpu) for vcpu in self.vcpus]
        self.set_cpuid(cpuid.in_virtual_machine(self.system.supported_cpuid()))

    def _map_memory(self, vm: VM) -> None:
        for slot, region in enumerate(self.memory.regions):
            vm.set_memory(slot, region.gpa, region.size, self.memory.map, region.offset)
        if self.rom is not None:
            readonly = vm.check_extension("READONLY_MEM") > 0
            slot = len(self.memory.regions)
            vm.set_memory(slot, self.rom.gpa, self.rom.size, self.rom.map, readonly=readonly)

    def set_cpuid(self, entries: list[cpuid.CpuidEntry]) -> None:
        """Have the CPUs answer CPUID with these leaves, which nobody changes any more. Before the first run."""
        for vcpu in self.vcpus:
            vcpu.set_cpuid(cpuid.for_cpu(entries, vcpu.id, len(self.vcpus)))
        self.cpuid_in_use = entries

    def settle_cpuid(self) -> None:
        """Have what was changed in `cpuid` count from now on."""
        if "cpuid" in self.__dict__ and self.cpuid != self.cpuid_in_use:
            self.set_cpuid([entry.copy() for entry in self.cpuid])

    @cached_property
    def cpuid(self) -> list[cpuid.CpuidEntry]:
        """The CPUID leaves of all CPUs; `x86.cpuid.set_leaf` overrides one. What they say at the start counts."""
        return [entry.copy() for entry in self.cpuid_in_use]

    def load(self, image: Image, options: boot.Options | None = None, format: str | None = None) -> boot.EntryState:
        """Load an image into RAM and have the first CPU start in it. Before `start`."""
        return self._load(partial(detect.load, read_image(image), self.memory, options or boot.Options(), format))

    def _load(self, loader: Loader) -> boot.EntryState:
        self._loader = loader
        self.entry = state = loader()
        first = self.vcpus[0]
        first.set_registers(state.registers)
        # KVM knows best where the local APIC is and which CPU is the first.
        first.set_system_registers(state.system.copy(apic_base=first.get_system_registers().apic_base))
        return state

    @property
    def serial(self) -> ConsolePort:
        """The host's side of COM1: `output`, `text`, `send`, `wait_for`."""
        return self.pc.consoles[0]

    @property
    def screen(self) -> Screen:
        """What the VGA shows now: `text`, `lines`, `find`, `png()`, `save`, `ansi`.

        ConfigError if the machine's RAM has no room for video memory.
        """
        from .devices.vga import text_screen

        with self.lock:
            try:
                return text_screen(self.pc.vga, self.memory.read)
            except GuestMemoryError as error:
                have = self.memory.size >> 10
                raise ConfigError(f"there is no screen: video memory ends at 768K, RAM at {have}K") from error

    def wait_for_screen(self, text: str, timeout: float | None = None) -> Screen:
        """Wait until a row of the screen has `text` in it, and return the screen.

        WaitFailed if it cannot come any more, because the run has ended, or after `timeout` seconds. What is on the
        screen is looked at 50 times a second: writing to it does not leave the guest.
        """
        from .console.port import WaitFailed

        limit = None if timeout is None else time.monotonic() + timeout
        with self.lock:
            while True:
                ended = self._outcome
                screen = self.screen
                if screen.find(text) is not None:
                    return screen
                if ended is not None or (limit is not None and time.monotonic() >= limit):
                    why = f"the run has ended ({ended})" if ended else f"{timeout:g} s are over"
                    raise WaitFailed(f"{text!r} did not come on the screen: {why}. It shows:\n{screen.text}")
                self._changed.wait(SCREEN_CHECK)

    @property
    def keyboard(self) -> Keyboard:
        """The keyboard: `type`, `press`, `release`."""
        return Keyboard(self.lock, self.pc.keyboard)

    def reset(self) -> None:
        """Press the reset button. As a reset by the guest: the run goes on, or ends with `no_reboot`."""
        with self.lock:
            self.rebooted("reset by the host")

    def power_button(self) -> None:
        """Press the power button, of which ACPI tells the guest."""
        with self.lock:
            self.pc.acpi.press_power_button()

    def add(self, device: Device) -> None:
        """Put a device on the bus it names ports or addresses on; ConfigError if they are taken, or are RAM."""
        with self.lock:
            if bool(device.ports) == bool(device.mmio):
                raise ConfigError(f"{type(device).__name__} must name either ports or mmio ranges")
            for span in device.mmio:
                for region in self.memory.regions:
                    if span.base < region.gpa + region.size and region.gpa < span.end:
                        raise ConfigError(f"{span.base:#x}..{span.end - 1:#x} is RAM; MMIO needs addresses outside it")
            (self.ports if device.ports else self.mmio).attach(device)
            self.port_routes.clear()

    def remove(self, device: Device) -> None:
        """Take a device off its bus."""
        with self.lock:
            (self.ports if device.ports else self.mmio).detach(device)
            self.port_routes.clear()

    def irq(self, number: int) -> IrqLine:
        """A new line to the interrupt input `number`: 0-15 of PIC and IOAPIC, 16-23 of the IOAPIC.

        Several lines to one input are ORed.
        """
        if not 0 <= number < 24:
            raise ConfigError(f"there is no interrupt input {number}: a PC has 0 to 23")
        lines = self.lines.setdefault(number, [])
        lines.append(IrqLine(partial(self._move_line, number, lines)))
        return lines[-1]

    def _move_line(self, number: int, lines: list[IrqLine], level: bool) -> None:
        if len(lines) == 1 or sum(line.level for line in lines) == level:
            self.vm.irq_line(number, level)

    def port(self, base: int, length: int = 1) -> Callable[[AccessHandler], AccessHandler]:
        """Decorator: the function answers `length` ports from `base` on. See `device.FunctionDevice`."""

        def attach(function: AccessHandler) -> AccessHandler:
            self.add(FunctionDevice(function, ports=(Range(base, length),)))
            return function

        return attach

    def mmio_range(self, base: int, length: int) -> Callable[[AccessHandler], AccessHandler]:
        """Decorator: the function answers `length` guest physical addresses from `base` on, which are not RAM."""

        def attach(function: AccessHandler) -> AccessHandler:
            self.add(FunctionDevice(function, mmio=(Range(base, length),)))
            return function

        return attach

    def msr(self, index: int) -> Callable[[MsrHandler], MsrHandler]:
        """Decorator: the function answers the guest's accesses to that MSR. Before `start`.

        It is called with the value written, or with None for a read, whose value it returns. It may raise
        GeneralProtection. KvmError at the start if this KVM cannot give MSRs to user space.
        """

        def attach(function: MsrHandler) -> MsrHandler:
            self._msrs[index] = function
            return function

        return attach

    # Running

    def run(self, timeout: float | None = None) -> Outcome:
        """Start, and wait for the end; `timeout` in seconds of wall-clock time ends the run as TIMED_OUT.

        Raises DeviceError if a device or handler raised. Ctrl-C ends the run and is raised again.
        """
        self.start(timeout)
        try:
            return self.wait()
        except KeyboardInterrupt:
            self.stop("interrupted")
            raise

    def start(self, timeout: float | None = None) -> None:
        """Start all CPUs and return. A machine that has run must first be put back to a snapshot."""
        if self._closed or self._started:
            raise PykvmError("this machine has run already: make a new one for another run, or restore a snapshot")
        self.settle_cpuid()
        if self._msrs:
            self.system.require("X86_USER_SPACE_MSR", "X86_MSR_FILTER")
            self.vm.exit_on_msr()
            self.vm.set_msr_filter([MsrRange(index, 1) for index in self._msrs])
        self._checkpoint = None
        if self.replay_limit > 0 and (self.keep_instructions > 0 or kvm_forgets()):
            from .crash.replay import Checkpoint

            self._checkpoint = Checkpoint.take(self)
        with self.lock:
            self._started = time.monotonic()
            self._live = len(self.runners)
            if timeout is not None:
                self._limit = self.loop.call_at(self._started + timeout, partial(self._time_is_up, timeout))
            self._halts.start()
            for runner in self.runners:  # before the I/O thread: the guest begins at once
                runner.start()
            self.loop.start()
            if self._stop_at_start is not None:
                self._end(Ending.STOPPED, self._stop_at_start)

    def _time_is_up(self, limit: float) -> None:
        due = self._started + limit + (self.debugger.stopped_time() if self.debugger is not None else 0)
        if due > time.monotonic():
            self._limit = self.loop.call_at(due, partial(self._time_is_up, limit))
        else:
            self._end(Ending.TIMED_OUT, f"the time limit of {limit:g} s is over")

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait for the end of the run. TimeoutError if `timeout` (seconds) is over before it; the run goes on then."""
        with self.lock:
            if not self._started:
                raise PykvmError("the machine has not been started")
            end = float("inf") if timeout is None else time.monotonic() + timeout
            while self._live:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"the machine still runs after {timeout:g} s")
                self._left.wait(min(left, SIGNAL_CHECK))
        for runner in self.runners:
            runner.join()
        self.loop.stop()
        if self._error is not None:
            raise self._error
        assert self._outcome is not None
        with self._ending:
            if not self._explained and not self._closed:
                self._explain(self._outcome)
        return self._outcome

    def _explain(self, outcome: Outcome) -> None:
        """Complete the outcome: all threads have ended, so that everything holds still."""
        self._explained = True
        outcome = outcome._replace(exits=sum(runner.exits for runner in self.runners))
        if outcome.ending is Ending.CRASHED or (outcome.ending is Ending.HALTED and self._may_be_in_handler()):
            from .crash.explain import explain

            outcome = explain(self, outcome, self._crash, self._checkpoint)
        elif outcome.ending is Ending.TIMED_OUT:
            from .crash.whereabouts import whereabouts

            outcome = outcome._replace(reason=f"{outcome.reason}; {whereabouts(self)}")
        self._outcome = outcome

    def _may_be_in_handler(self) -> bool:
        from .crash.suspect import any_frames

        return any_frames(self)

    @property
    def symbols(self) -> SymbolTable | None:
        """The image's symbols; None without an image, or if it has none."""
        return self.entry.symbols if self.entry is not None else None

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended; None while it has not."""
        return self._outcome

    def stop(self, reason: str = "stopped by the host") -> Outcome:
        """End the run, if it has not ended, and return its outcome."""
        self.request_stop(reason)
        return self.wait()

    def request_stop(self, reason: str) -> None:
        """End the run without waiting for its end: for devices, handlers and the I/O thread.

        A machine that has not been started ends at its start.
        """
        with self.lock:
            self._stop_at_start = reason
            self._end(Ending.STOPPED, reason)

    def pause(self) -> None:
        """Take all CPUs out of the guest and return when they are: registers and memory then hold still.

        Every access of the guest is finished; calls nest. Not from a device or handler.
        """
        with self.lock:
            self.hold()
            self.wait_held()

    def resume(self) -> None:
        """Undo one `pause`."""
        with self.lock:
            if not self._holds:
                raise PykvmError("the machine is not paused")
            self.release()

    def close(self) -> None:
        """End the run and give everything back to the host, back ends included. May be called twice."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
            self._end(Ending.STOPPED, "closed")
            self._left.wait_for(lambda: not self._live)
        for runner in self.runners:
            runner.join()
        with self._ending:
            self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Snapshots

    @cached_property
    def timeline(self) -> Timeline:
        """The machine's snapshots."""
        from .snapshot.timeline import Timeline

        return Timeline(self)

    def snapshot(self, *, written_disks: WrittenDisks = "refuse") -> Snapshot:
        """The whole state of the machine as it is now: before its start, paused, running or ended.

        A machine that runs is paused for it. A disk that is written through cannot go back: SnapshotError, or with
        `written_disks="warn"` a warning. Not from a device or handler, but from what they give to `at_rest`.
        """
        with self.lock:
            self._require_no_access()
            self.hold()
            try:
                self.wait_held()
                self._require_open()
                return self.timeline.take(written_disks)
            finally:
                self.release()

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, of this machine or of one that is like it in memory, CPUs and devices.

        If the machine runs it goes on from there, if it is paused it stays so, and if its run has ended it can be
        started again. Only the pages that were written since the snapshot are copied. SnapshotError if it does not fit,
        and nothing has changed then. Not from a device or handler, but from what they give to `at_rest`.
        """
        while True:
            if self._outcome is not None and self.loop.running:
                with suppress(DeviceError):
                    self.wait()
            with self.lock:
                self._require_no_access()
                self.hold()
                try:
                    self.wait_held()
                    self._require_open()
                    if self._outcome is None or not self.loop.running:
                        self.timeline.go_back(snapshot)
                        if self._outcome is not None:
                            self._forget_run()
                        return
                finally:
                    self.release()

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot | str | os.PathLike[str], **options: Any) -> Machine:
        """A new machine that goes on from a snapshot, or from the directory of one; `options` as for Snapshot.fork."""
        from .snapshot import Snapshot

        return (snapshot if isinstance(snapshot, Snapshot) else Snapshot.load(snapshot)).fork(**options)

    def _require_no_access(self) -> None:
        """With the lock held: PykvmError in a device or handler that serves an access, which nobody can wait for."""
        if self._parked != self._live and any(runner.is_current() for runner in self.runners):
            raise PykvmError("a device or handler takes and restores snapshots in a function given to machine.at_rest")

    def _require_open(self) -> None:
        if self._closed:
            raise PykvmError("the machine is closed")

    def _forget_run(self) -> None:
        """Be as before the start; all threads have ended."""
        self._outcome = self._error = self._crash = None
        self._explained = False
        self._stop_at_start = None
        self._started = 0.0
        self._holds -= len(self._at_rest)
        self._at_rest.clear()
        self._halts.stop()
        if self._limit is not None:
            self._limit.cancel()

    # Looking inside; pause first if it runs

    def attach(self, debugger: Debugger) -> None:
        """Let `debugger` stop the machine. It is closed with the machine; PykvmError if there is one already."""
        with self.lock:
            if self.debugger is not None or self._closed:
                raise PykvmError("a debugger is attached to this machine already, or it is closed")
            self.debugger = self._own(debugger)

    def gdb(self, address: str = ":1234") -> GdbServer:
        """Serve the machine to gdb, stopped, at a TCP port of this host or a UNIX socket, until it is closed.

        See `debug.gdb.GdbServer`; its `target` is what gdb is to be told. ConfigError if the address cannot be used.
        """
        from .debug.gdb import GdbServer

        return GdbServer(self, address)

    def read_linear(self, address: int, size: int, cpu: int = 0) -> bytes:
        """At most `size` bytes at a linear address as that CPU's page tables have it; fewer where the mapping ends."""
        data = b""
        while len(data) < size:
            at = address + len(data) & (1 << 64) - 1
            if 1 << 47 <= at < (1 << 64) - (1 << 47):  # not canonical: KVM would look only at the low bits
                break
            page = self.vcpus[cpu].translate(at)
            part = min(size - len(data), PAGE_SIZE - at % PAGE_SIZE)
            try:
                if not page.valid:
                    break
                data += self.memory.read(page.physical, part)
            except GuestMemoryError:
                break
        return data

    # What devices say

    def exited(self, value: int) -> None:
        """The guest wrote `value` to the exit port."""
        reason = f"the guest wrote {value:#x} to the exit port: status {value * 2 + 1}"
        self._end(Ending.EXITED, reason, code=value * 2 + 1, value=value)

    def powered_off(self) -> None:
        """The guest switched the machine off."""
        self._end(Ending.EXITED, "the guest powered the machine off", code=0)

    def rebooted(self, reason: str) -> None:
        """The guest reset the machine."""
        if self.no_reboot or self._loader is None:
            self._end(Ending.REBOOTED, reason)
        elif self._reset not in self._at_rest:
            self.at_rest(self._reset)

    def _reset(self) -> None:
        assert self._loader is not None
        self.resets += 1
        reset(self)
        if self.entry is not None:
            for gpa, size in (*((span.gpa, span.size) for span in self.entry.spans), *self.entry.reserved):
                self.memory.zero(gpa, size)
        self._load(self._loader)
        if self.debugger is not None:
            self.debugger.reset()

    # What runners say and ask, with the lock held unless said otherwise

    def route_port(self, key: int) -> Route:
        """How to serve a port access with that key (see `runner`); remembered until a device comes or goes.

        So are those to ports that nobody answers, but only some: there are 400,000, and a guest may try them all.
        """
        ports, port, size = self.ports, key & 0xFFFF, key >> 16 & 7
        claim = ports.find(port)
        if claim is not None and size <= claim.width:
            read, write, offset = claim.read, claim.write, claim.offset
        elif ports.is_free(port, size):
            read, write, offset = ports.read_unclaimed, ports.write_unclaimed, port
        else:  # it must be split: the long way through the bus
            read, write, offset = ports.read, ports.write, port
        is_output = bool(key & OUTPUT_KEY)
        route: Route = (write if is_output else read, offset, size, is_output)
        if claim is not None or len(self.port_routes) < UNCLAIMED_LIMIT:
            self.port_routes[key] = route
        return route

    def access_msr(self, index: int, value: int | None) -> int | None:
        """A guest's RDMSR (`value` None) or WRMSR that KVM left to us; None for #GP."""
        handler = self._msrs.get(index)
        if handler is None:
            return None
        try:
            answer = handler(value)
        except GeneralProtection:
            return None
        return (answer or 0) & (1 << 64) - 1

    def system_event(self, kind: int) -> None:
        """KVM_EXIT_SYSTEM_EVENT: a paravirtual request to power off or reset."""
        if kind == SYSTEM_EVENT_SHUTDOWN:
            self.powered_off()
        elif kind == SYSTEM_EVENT_RESET:
            self.rebooted("the guest asked the hypervisor for a reset")
        else:
            self._end(Ending.CRASHED, f"the guest reported its own crash (system event {kind})")

    def unhandled(self, frame: Call) -> None:
        """An exception came that the program has left to the BIOS. In the thread of the vCPU that met it."""
        from .crash.unhandled import back_to_caller

        vcpu = next(runner.vcpu for runner in self.runners if runner.is_current())
        if back_to_caller(vcpu, frame):
            self.crashed(Crash(vcpu.id, UNHANDLED, vector=frame.vector))

    def crashed(self, crash: Crash) -> None:
        """A CPU cannot go on."""
        if self.debugger is not None and self.debugger.crashed(crash):
            return
        self._crash = crash
        self._end(Ending.CRASHED, f"{crash.cause}, CPU {crash.cpu}")

    def failed(self, error: Exception, who: str) -> None:
        """`who` raised `error` while it served the guest or the host: the run ends, and `wait` raises it."""
        if self._error is None:
            self._error = DeviceError(f"{who} raised {type(error).__name__}: {error}")
            self._error.__cause__ = error
        self._end(Ending.STOPPED, str(self._error))

    def _loop_failed(self, error: Exception, callback: Callable[[], None]) -> None:
        self.failed(error, f"I/O callback {getattr(callback, '__qualname__', callback)}")

    def runner_came_out(self, runner: Runner) -> bool:
        """A vCPU was taken out of the guest: wait here while it must stay out; False if it must end.

        Without the lock.
        """
        with self.lock:
            while (self._holds or runner.held) and self._outcome is None:
                self._parked += 1
                self._changed.notify_all()
                try:
                    if self._parked == self._live:
                        self._run_at_rest()
                    while (self._holds or runner.held) and self._outcome is None:
                        self._changed.wait()
                finally:
                    self._parked -= 1
            return self._outcome is None

    def runner_left(self) -> None:
        """A vCPU's thread is about to end."""
        self._live -= 1
        self._changed.notify_all()
        self._left.notify_all()

    # Ending and holding, with the lock held

    def _end(self, ending: Ending, reason: str, *, code: int | None = None, value: int | None = None) -> None:
        """The first to call it decides how the run ended."""
        if self._outcome is not None or not self._started:
            return
        elapsed = time.monotonic() - self._started
        self._outcome = Outcome(ending, reason, code, value, elapsed=elapsed)
        for console in (*self.pc.consoles, self.pc.debug_console):
            console.end(f"the run has ended ({self._outcome})")
        if self.debugger is not None:
            self.debugger.ended()
        self._interrupt()
        self._changed.notify_all()

    def _interrupt(self) -> None:
        for runner in self.runners:
            runner.interrupt()

    @property
    def is_held(self) -> bool:
        """Whether the vCPUs are to stay out of the guest."""
        return self._holds > 0

    def hold(self) -> None:
        """Have all vCPUs come out of the guest and stay out, without waiting for it. Calls nest."""
        self._holds += 1
        if self._parked != self._live:  # those that are out look again before they go in
            self._interrupt()

    def wait_held(self) -> None:
        """After `hold`, wait until all vCPUs are out. Not from a device or handler."""
        while self._parked != self._live:
            self._changed.wait()

    def release(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1
        self._changed.notify_all()

    def at_rest(self, callback: Callable[[], None]) -> None:
        """Take all CPUs out of the guest, have `callback` called with the lock held, and let them go on.

        Does not wait, so devices, handlers and the I/O thread may use it. Nothing is called if the run ends first.
        """
        self._at_rest.append(callback)
        self.hold()
        if self._parked == self._live:
            self._run_at_rest()

    def _run_at_rest(self) -> None:
        """All vCPUs are out, and none goes back in while the lock is held."""
        while self._at_rest and self._outcome is None:
            callback = self._at_rest.pop(0)
            try:
                callback()
            finally:
                self.release()

    def _halted(self) -> None:
        if self.debugger is None or not self.debugger.halted():
            self._end(Ending.HALTED, "every CPU is halted with interrupts off")


@cache
def kvm_forgets() -> bool:
    """Whether this host's KVM may be one that resets a CPU at a triple fault. That it has, only the crash shows."""
    return os.path.exists("/sys/module/kvm_amd")


@cache
def _system() -> System:
    """/dev/kvm, opened once a process: it holds no state, and what it can do does not change."""
    system = System()
    system.require("USER_MEMORY", "IRQCHIP", "PIT2", "MP_STATE", "VCPU_EVENTS", "IMMEDIATE_EXIT")
    return system
