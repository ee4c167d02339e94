"""The machine: what a user of the library may do. How it is done is `engine`'s, `pc`'s, `snapshot`'s and `crash`'s.

`lock` covers all device state; whatever is said here to be called with the lock held, is. See docs/internals.md.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from types import TracebackType

from . import boot
from .arguments import require_seconds
from .assembly import Assembly, DiskSource
from .boot import detect
from .boot.source import ImageSource, file_name, read_image
from .bus import MmioBus, PortBus
from .console.port import ConsolePort
from .device_options import check_names
from .engine.board import GeneralProtection as GeneralProtection
from .engine.gate import FairLock
from .engine.run import DeviceError as DeviceError
from .engine.run import Run
from .handlers import Handlers
from .kvm import VCPU
from .kvm.system import resets_at_triple_fault
from .memory import GuestMemory
from .outcome import INTERRUPTED, Ending, Outcome
from .pc import Keyboard, Mouse, Nic
from .screens import Screens
from .typed import TYPE_CHECKING, Any, Self
from .x86.cpuid import CpuidEntry

if TYPE_CHECKING:
    from .cdrom import CdRom
    from .crash.event import Crash
    from .crash.post_mortem import PostMortem
    from .crash.report import CrashReport
    from .debug.gdb import GdbServer
    from .net import NetBackend
    from .replay import Checkpoint
    from .snapshot import Snapshot
    from .snapshot.timeline import Timeline, WrittenDisks
    from .x86.symbols import SymbolTable

DEFAULT_MEMORY = "128M"


class Machine(Handlers, Screens):
    """A PC with `memory` of RAM and `cpus` CPUs, with `image` loaded into it.

    `image` is a path, the bytes of one, or None for a machine with empty RAM. Its format is recognised; `format`
    forces one, a key of `boot.detect.FORMATS`. A flat binary listens to `mode` (16, 32 or 64), `load` and `entry`
    (guest physical addresses); `command_line` and `modules` go to the kernels whose boot protocol has a place for them
    (Linux takes the first module as its initrd).

    A CD that can be started (El Torito) is in the first CD-ROM drive. An image with a boot sector is the first hard
    disk, or by its size the floppy disk, its writes are forgotten, and pykvm's own BIOS starts it. format="disk"
    without an image starts from `floppy` or the first of `disks`. `firmware`, a path or bytes, is run instead of
    pykvm's BIOS; a VGA BIOS beside it (vgabios-isavga.bin, vgabios.bin) goes along.

    `memory` is in bytes, or text such as "64M", or a GuestMemory, which the machine then owns. `disks` are up to four
    (None leaves a place empty): primary master and slave, secondary master and slave; a path is opened for reading and
    writing, and `pykvm.open_disk` has the other ways. `nics` are up to four, each a network back end or a `Nic`, which
    has a MAC address, too. `serial_ports` is the number of COM ports, 0 to 4. `floppy` is a disk that only the BIOS
    knows, as drive A. `cdrom` is the image of a CD in a CD-ROM drive, or a list of up to four of them, None for an
    empty drive. More options that bring devices: `pykvm.device_options`.

    A guest that resets the machine starts anew, as often as it likes; with `no_reboot` the run ends as REBOOTED. It
    does so, too, where there is nothing to start anew: a machine without an image, or from a kernel's snapshot.

    Instructions that KVM cannot emulate are finished (docs/finishing.md); with `finish=False` the first of them is a
    crash.

    The machine owns its back ends: `close()`, or the end of a `with` block, closes them.
    Raises ConfigError for a machine that cannot be, boot.ImageError for a bad image, kvm.KvmUnavailable without KVM.
    """

    def __init__(
        self,
        image: ImageSource | None = None,
        *,
        memory: str | int | GuestMemory = DEFAULT_MEMORY,
        cpus: int = 1,
        disks: Sequence[DiskSource] = (),
        nics: Sequence[Nic | NetBackend] = (),
        serial_ports: int = 1,
        format: str | None = None,
        mode: int | None = None,
        load: int | None = None,
        entry: int | None = None,
        command_line: str = "",
        modules: Sequence[boot.Module] = (),
        floppy: DiskSource = None,
        firmware: ImageSource | None = None,
        no_reboot: bool = False,
        finish: bool = True,
        **device_options: Any,
    ) -> None:
        check_names(device_options)
        self.keep_instructions = 0
        """How many instructions before a crash its report is to show, at most 1000: a replay finds them."""
        self.replay_limit = 5.0
        """Seconds that a crash report may take for a replay: where KVM forgets the state of a CPU at a triple fault, or
        with `keep_instructions`. 0: no replays."""
        self._image = image
        self._ending = threading.Lock()  # held to look at a machine whose run has ended, and to close it
        self._checkpoint: Checkpoint | None = None
        self._made = made = Assembly(
            image,
            boot.Options(mode, load, entry, command_line, modules, cpus),
            format,
            memory=memory,
            disks=disks,
            floppy=floppy,
            device_options={"nics": nics, "serial_ports": serial_ports, **device_options},
            firmware=firmware,
        )
        self.engine = made.engine
        """What runs it: for tools that look closer than a user does."""
        self.pc = made.pc
        """Its devices."""
        self.disks, self.floppy = made.disks, made.floppy
        self.no_reboot = no_reboot
        self.engine.board.finish = finish

    # What it is made of

    @property
    def lock(self) -> FairLock:
        """Held while an exit or a host event is served: whoever holds it sees devices that hold still."""
        return self.engine.gate.lock

    @property
    def memory(self) -> GuestMemory:
        """RAM."""
        return self.engine.board.memory

    @property
    def vcpus(self) -> list[VCPU]:
        """The CPUs. Of one that runs, nothing can be asked: pause first."""
        return self.engine.board.vcpus

    @property
    def ports(self) -> PortBus:
        """Who answers which port, and in `unclaimed` the accesses that nobody answered."""
        return self.engine.board.ports

    @property
    def mmio(self) -> MmioBus:
        """The same for physical addresses outside RAM."""
        return self.engine.board.mmio

    @property
    def cpuid(self) -> list[CpuidEntry]:
        """The CPUID leaves of all CPUs; `x86.cpuid.set_leaf` overrides one. What they say at the start counts."""
        return self.engine.board.cpuid

    @property
    def entry(self) -> boot.EntryState | None:
        """How the image was loaded, with its symbols; None without an image."""
        return self.engine.entry

    @property
    def symbols(self) -> SymbolTable | None:
        """The image's symbols; None without an image, or if it has none."""
        return self.entry.symbols if self.entry is not None else None

    def load(
        self, image: ImageSource, options: boot.Options | None = None, format: str | None = None
    ) -> boot.EntryState:
        """Load an image into RAM and have the first CPU start in it. Before `start`."""
        content, options = detect.unpacked(read_image(image), format), options or boot.Options()
        kind = detect.choose(content, options, format, file_name(image))
        return self.engine.load(partial(detect.load, content, self.memory, options, kind))

    @property
    def serial(self) -> ConsolePort:
        """The host's side of COM1: `output`, `text`, `send`, `wait_for`."""
        return self.pc.consoles[0]

    @property
    def keyboard(self) -> Keyboard:
        """The keyboard: `type`, `press`, `release`."""
        return Keyboard(self.lock, self.pc.keyboard)

    @property
    def mouse(self) -> Mouse:
        """The mouse: `move`, `scroll`, `click`, `press`, `release`."""
        return Mouse(self.lock, self.pc.keyboard)

    @property
    def cdroms(self) -> list[CdRom]:
        """The CD-ROM drives: `eject`, `insert`, `medium`, `is_open`, `is_locked`."""
        return self.pc.cdroms

    @property
    def no_reboot(self) -> bool:
        """Whether a reset ends the run."""
        return self.engine.no_reboot

    @no_reboot.setter
    def no_reboot(self, wanted: bool) -> None:
        self.engine.no_reboot = wanted

    @property
    def resets(self) -> int:
        """How often the guest has reset the machine."""
        return self.engine.resets

    def reset(self) -> None:
        """Press the reset button. As a reset by the guest: the run goes on, or ends with `no_reboot`."""
        with self.lock:
            self.engine.rebooted("reset by the host")

    def power_button(self) -> None:
        """Press the power button, of which ACPI tells the guest."""
        with self.lock:
            self.pc.acpi.press_power_button()

    # Running

    def run(self, timeout: float | None = None) -> Outcome:
        """Start, and wait for the end; `timeout` in seconds of wall-clock time ends the run as TIMED_OUT.

        Raises DeviceError if a device or handler raised. Ctrl-C ends the run and is raised again.
        """
        try:
            self.start(timeout)
            return self.wait()
        except KeyboardInterrupt:
            if self.engine.run is not None:
                self.stop(INTERRUPTED)
            raise

    def start(self, timeout: float | None = None) -> None:
        """Start all CPUs and return. A machine that has run must first be put back to a snapshot."""
        require_seconds("timeout", timeout)
        engine = self.engine
        engine.require_startable()
        engine.board.commit_cpuid()
        engine.board.filter_msrs()
        self._checkpoint = None
        if self.replay_limit > 0 and (self.keep_instructions > 0 or resets_at_triple_fault()):
            from .replay import Checkpoint

            self._checkpoint = Checkpoint.take(self.timeline, asked_for=self.keep_instructions > 0)
        engine.start(timeout)

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait for the end of the run. TimeoutError if `timeout` (seconds) is over before it; the run goes on then."""
        return self._finish(self.engine.wait(timeout))

    def _finish(self, run: Run) -> Outcome:
        assert run.outcome is not None
        with self._ending:
            if not run.explained and not self.engine.closed:
                run.explained = True
                run.outcome = run.outcome._replace(exits=self.engine.exits, finished=self.engine.finished)
                if run.outcome.ending not in (Ending.EXITED, Ending.REBOOTED):
                    from .explanation import explained

                    end = self.post_mortem()
                    run.outcome = explained(
                        run.outcome, run.crash, end, self.keep_instructions, self._checkpoint, self.replay_limit
                    )
        return run.outcome

    def post_mortem(self) -> PostMortem:
        """What is left of the guest once its run has ended: what crash reports are made of."""
        from .crash.post_mortem import PostMortem

        board = self.engine.board
        exits = [runner.exits for runner in self.engine.runners]
        unclaimed = board.ports.last_unclaimed() + board.mmio.last_unclaimed()
        return PostMortem(
            board.vm, board.vcpus, board.memory, board.cpuid_in_use, self.symbols, exits, board.rom, unclaimed
        )

    def explain(self, crash: Crash | None) -> CrashReport | None:
        """The report of a machine that a debugger has stopped as its end was near: at a `crash`, or a halt (None)."""
        from .explanation import explain_stop

        return explain_stop(crash, self.post_mortem(), self._checkpoint, self.replay_limit)

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended; None while it has not."""
        return self.engine.outcome

    def stop(self, reason: str = "stopped by the host") -> Outcome:
        """End the run, if it has not ended, and return its outcome."""
        return self._finish(self.engine.stop(reason))

    def request_stop(self, reason: str) -> None:
        """End the run without waiting for its end: for devices, handlers and the I/O thread.

        A machine that has not been started ends at its start.
        """
        self.engine.request_stop(reason)

    def pause(self) -> None:
        """Take all CPUs out of the guest and return when they are: registers and memory then hold still.

        Every access of the guest is finished; calls nest. Not from a device or handler.
        """
        self.engine.pause()

    def resume(self) -> None:
        """Undo one `pause`."""
        self.engine.resume()

    def at_rest(self, callback: Callable[[], None]) -> None:
        """Take all CPUs out of the guest, have `callback` called with the lock held, and let them go on.

        Does not wait, so devices, handlers and the I/O thread may use it. Nothing is called if the run ends first.
        """
        with self.lock:
            self.engine.gate.at_rest(callback)

    def close(self) -> None:
        """End the run and give everything back to the host, back ends included. May be called twice."""
        with self._ending:
            self._checkpoint = None
            self._made.close()

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
        from .snapshot.parts import parts_of
        from .snapshot.timeline import Timeline

        return Timeline(parts_of(self.engine, self.pc, self.disks, self.floppy, self.screen_text))

    def snapshot(self, *, written_disks: WrittenDisks = "refuse") -> Snapshot:
        """The whole state of the machine as it is now: before its start, paused, running or ended.

        A machine that runs is paused for it. A disk that is written through cannot go back: SnapshotError, or with
        `written_disks="warn"` a warning. Not from a device or handler, but from what they give to `at_rest`.
        """
        return self.timeline.snapshot(written_disks)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, of this machine or of one that is like it in memory, CPUs and devices.

        If the machine runs it goes on from there, if it is paused it stays so, and if its run has ended it can be
        started again. Only the pages that were written since the snapshot are copied. SnapshotError if it does not fit,
        and nothing has changed then. Not from a device or handler, but from what they give to `at_rest`.
        """
        self.timeline.restore(snapshot)

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot | str | os.PathLike[str], **options: Any) -> Machine:
        """A new machine that goes on from a snapshot, or from the directory of one.

        `options` are those of Snapshot.fork, and, for a directory, of Snapshot.load.
        """
        from .snapshot import Snapshot

        if not isinstance(snapshot, Snapshot):
            loading = {name: options.pop(name) for name in ("verify", "trust_disks") if name in options}
            snapshot = Snapshot.load(snapshot, **loading)
        return snapshot.fork(**options)

    # Looking inside; pause first if it runs

    def gdb(self, address: str = ":1234", *, stopped: bool = True) -> GdbServer:
        """Serve the machine to gdb, stopped, at a TCP port of this host or a UNIX socket, until it is closed.

        Without `stopped` it runs, and stops when gdb comes. See `debug.gdb.GdbServer`; its `target` is what gdb is to
        be told. ConfigError if the address cannot be used.
        """
        from .debug.gdb import GdbServer

        return GdbServer(self, address, stopped=stopped)

    def read_linear(self, address: int, size: int, cpu: int = 0) -> bytes:
        """At most `size` bytes at a linear address as that CPU's page tables have it; fewer where the mapping ends."""
        return self.engine.board.read_linear(address, size, cpu)

    def __del__(self) -> None:
        made = self.__dict__.get("_made")
        if made is not None and not made.engine.closed and not sys.is_finalizing():
            import warnings

            try:
                warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
            finally:
                self._checkpoint = None
                made.close()

    def __repr__(self) -> str:
        if self.engine.closed:
            return "<Machine, closed>"
        name = "" if self._image is None else "bytes" if isinstance(self._image, bytes) else os.fspath(self._image)
        kind = f"{self.entry.format} " if self.entry is not None else ""
        state = self.outcome or (
            "not started" if self.engine.run is None else "paused" if self.engine.gate.is_held else "runs"
        )
        return (
            f"<Machine {name or 'without an image'}: {kind}{self.memory.size >> 20}M, {len(self.vcpus)} CPU, {state}>"
        )

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_")]
