"""Through the door: a machine made as QEMU's command line asks, run to its end, and QEMU's exit status.

Source: qemu-system-x86_64(1). QEMU ends with 0 however the guest or the host has ended it, with value * 2 + 1 by
isa-debug-exit, and with 1 if it could not begin.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from ..boot import Module
from ..boot.source import read_image
from ..console.port import ConsolePort
from ..errors import ConfigError
from ..machine import Machine
from ..outcome import Ending, Outcome
from ..typed import TYPE_CHECKING, Any, Protocol
from .channels import Channel, Spec, parse
from .drives import Places, open_drive, place
from .settings import Settings
from .system import System

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..console.terminal import Port
    from ..crash.report import CrashReport
    from ..debug.gdb import GdbServer

FAILED = 1
"""Exit status if nothing could be run, or a device has failed."""
GRACE = 0.5
"""Seconds that readers of the output have after the end."""
Say = Callable[[str], None]


class Screen(Protocol):
    """What shows the VGA on this terminal."""

    def begin(self) -> None:
        """Take the terminal."""

    def suspend(self) -> None:
        """Give it back for a while."""

    def resume(self) -> None:
        """Take it again."""

    def close(self, deadline: float | None) -> str:
        """Give it back; the last picture, in lines."""


class Host(Protocol):
    """What the door needs of the process that it is in."""

    def say(self, text: str) -> None:
        """Say a word on standard error."""

    def show(self, text: str) -> None:
        """Print a line on standard output."""

    def screen(self, machine: Machine) -> Screen:
        """The VGA's screen on this terminal. With the machine's lock held."""

    def job_control(
        self, machine: Machine, suspend: Callable[[], None], resume: Callable[[], None]
    ) -> AbstractContextManager[object]:
        """Has these called around a stop of the process."""

    def report(self, report: CrashReport) -> None:
        """Show a crash report on standard error."""

    def ready(self) -> None:
        """All is set up, and the run is about to start."""


def make(settings: Settings, places: Places) -> Machine:
    """The machine. Raises what `Machine` raises."""
    with ExitStack() as stack:

        def opened(drive: Any) -> Any:
            if drive is None or drive.file is None:
                return None
            disk = open_drive(drive)
            stack.callback(disk.close)
            return disk

        from_disk = settings.kernel is None and settings.firmware is None
        if from_disk and not (any(places.disks) or places.cds or places.floppy):
            raise ConfigError("nothing to start: give -kernel, or a disk by -drive, -hda, -fda or -cdrom")
        cds: list[Any] = [None if each.file is None else each.file for each in places.cds]
        options: dict[str, Any] = {}
        image: str | None = settings.kernel
        if from_disk and settings.boot[:1] == "d" and cds and cds[0] is not None:
            image = cds.pop(0)  # a CD as the image goes before all disks
        elif from_disk:
            options["format"] = "disk"
        options |= {"cdrom": cds, "cards": settings.cards, "devices": settings.devices}
        if settings.nets.all:
            from ..device_options.nics import parse_nic

            options["nics"] = [parse_nic(spec) for spec in settings.nets.all]
            for nic in options["nics"]:
                stack.callback(nic.backend.close)
        machine = Machine(
            image,
            memory=settings.memory,
            cpus=settings.cpus,
            disks=[opened(drive) for drive in places.disks],
            virtio_disks=[opened(drive) for drive in places.virtio],
            floppy=opened(places.floppy),
            command_line=settings.append,
            modules=_modules(settings.initrd),
            firmware=settings.firmware,
            no_reboot=settings.no_reboot,
            serial_ports=_serial_ports(settings.serials),
            **options,
        )
        stack.pop_all()
    return machine


def _serial_ports(serials: Sequence[str]) -> int:
    """Without those at the end that are "none"."""
    return max((number for number, text in enumerate(serials, 1) if text != "none"), default=0)


def _modules(text: str | None) -> list[Module]:
    """-initrd's: one file of that name, or Multiboot modules with their texts between commas."""
    if text is None:
        return []
    if os.path.exists(text):
        return [Module(read_image(text), text)]
    from .words import split

    return [Module(read_image(part.partition(" ")[0]), part) for part in split(text)]


def add_exit_ports(machine: Machine, settings: Settings) -> None:
    """The ports of isa-debug-exit that a machine of pykvm has not anyway."""
    from ..device import Access

    def on_exit(access: Access) -> int | None:
        if access.is_write:
            machine.engine.exited(access.value or 0)
        return 0

    for base, length in settings.exit_ports:
        there = machine.ports.find(base)
        if there is None:
            machine.port(base, length)(on_exit)
        elif not there.device.name.startswith("exit port"):
            raise ConfigError(f"-device isa-debug-exit: port {base:#x} is of {there.device.name}")
    if machine.ports.find(settings.debug_console_port) is None:

        def on_character(access: Access) -> int | None:
            if access.value is not None:
                machine.pc.debug_console.write(bytes((access.value & 0xFF,)))
            return 0xE9

        machine.port(settings.debug_console_port)(on_character)


class Ports:
    """The machine's serial ports, debug console and monitors, each joined to its character device."""

    def __init__(self, system: System, host: Host) -> None:
        self._system, self._host = system, host
        self._loop = system.engine.loop
        self.channels: list[Channel] = []
        self._stdio = False

    def join_all(self) -> None:
        """Open every device that is asked for. ConfigError if one cannot be. With the lock held."""
        settings, machine = self._system.settings, self._system.machine
        for number, (text, console) in enumerate(zip(settings.serials, machine.pc.consoles, strict=False)):
            self._join(f"-serial {text}", f"serial{number}", text, console)
        if settings.debugcon is not None:
            self._join(f"-debugcon {settings.debugcon}", "debugcon", settings.debugcon, machine.pc.debug_console)
        for number, (text, mode) in enumerate(settings.monitors):
            front = self._monitor() if mode == "readline" else self._qmp(pretty=mode == "pretty")
            self._join(f"-monitor {text}", f"compat_monitor{number}", text, front, front.opened)

    def _monitor(self) -> Any:
        from .monitor import Monitor

        return Monitor(self._system)

    def _qmp(self, *, pretty: bool) -> Any:
        from .qmp import Qmp

        return Qmp(self._system, pretty=pretty)

    def _join(self, option: str, label: str, text: str, port: Port, opened: Callable[[], None] = lambda: None) -> None:
        chardevs = self._system.settings.chardevs
        name = text.removeprefix("chardev:")
        if name != text and name not in chardevs:
            raise ConfigError(f"{option}: there is no -chardev with id={name}")
        try:
            spec = parse(chardevs[name] if name != text else text)
            if spec.mux and isinstance(port, ConsolePort):
                from .mux import Mux

                system = self._system
                port = Mux(port, self._monitor, lambda: system.quit("host-ui"), system.settings.escape)
            self._open(spec, label, port, opened)
        except ConfigError as error:
            raise ConfigError(f"{option}: {error}") from None

    def _open(self, spec: Spec, label: str, port: Port, opened: Callable[[], None]) -> None:
        from . import channels

        loop = self._loop
        channel: Channel
        match spec.kind:
            case "stdio":
                if self._stdio:
                    raise ConfigError("cannot use stdio by multiple character devices")
                self._stdio = True
                channel = channels.Stdio(port, loop, spec, self._system.engine.request_stop)
                opened()
            case "file":
                channel = channels.File(port, spec, self._host.say)
            case "unix" | "tcp":
                channel = channels.Socket(port, loop, spec, f"a {label}", opened)
            case "pty":
                channel = channels.open_pty(port, loop, label, opened, self._host.show)
            case "pipe":
                channel = channels.open_pipe(port, loop, spec.where, opened)
            case _:
                channel = channels.Null()
        self.channels.append(channel)
        if isinstance(channel, channels.Socket) and spec.server and spec.wait:
            self._host.say(f"QEMU waiting for connection on: {spec.kind}:{spec.where},server=on")
            channel.wait()

    def begin(self) -> None:
        """The run is about to start."""
        for channel in self.channels:
            channel.begin()

    def suspend(self) -> None:
        """The process is about to be stopped."""
        for channel in self.channels:
            channel.suspend()

    def resume(self) -> None:
        """The process goes on."""
        for channel in self.channels:
            channel.resume()

    def close(self, deadline: float | None) -> None:
        """Let go of all. Without the lock, after the run."""
        for channel in self.channels:
            channel.close(deadline)


def exit_status(outcome: Outcome) -> int:
    """QEMU's: that of isa-debug-exit, else 0."""
    return outcome.exit_status if outcome.ending is Ending.EXITED else 0


def run(settings: Settings, host: Host) -> int:
    """Make the machine and run it; the exit status. Raises what `make` raises, and DeviceError."""
    for word in settings.words:
        host.say(word)
    places = place(settings.drives, host.say)
    with make(settings, places) as machine, ExitStack() as stack:
        add_exit_ports(machine, settings)
        server: GdbServer | None = None
        if settings.gdb is not None:
            server = machine.gdb(settings.gdb, stopped=settings.stopped)
        system = System(machine, settings, places, server.control if server else None, host.report)
        if settings.log:
            from .log import Log

            log = stack.enter_context(Log(settings.log, settings.log_file, machine))
            system.log = log.write
        ports = Ports(system, host)
        stack.callback(system.close)
        try:
            with machine.lock:
                ports.join_all()
                screen = host.screen(machine) if settings.display == "curses" else None
            if settings.pidfile is not None:
                stack.enter_context(_pidfile(settings.pidfile))
            outcome = _run(system, ports, screen, host)
        finally:
            ports.close(time.monotonic() + GRACE)
        system.ended(outcome)
    return exit_status(outcome)


def _run(system: System, ports: Ports, screen: Screen | None, host: Host) -> Outcome:
    machine = system.machine
    ends: Sequence[Ports | Screen] = (ports,) if screen is None else (ports, screen)

    def suspend() -> None:
        for end in ends:
            end.suspend()

    def resume() -> None:
        for end in ends:
            end.resume()

    try:
        with host.job_control(machine, suspend, resume):
            with machine.lock:
                for end in ends:
                    end.begin()
            host.ready()
            machine.start()
            return _ended(system, host)
    finally:
        if machine.pc.bios is not None:
            machine.pc.bios.log.flush()
        if screen is not None:
            host.show(screen.close(time.monotonic() + GRACE).rstrip("\n"))


def _ended(system: System, host: Host) -> Outcome:
    """Wait for the run's end; a signal that would end the process ends it in QEMU's way."""
    try:
        return system.machine.wait()
    except (KeyboardInterrupt, SystemExit) as signalled:
        number = 2 if isinstance(signalled, KeyboardInterrupt) else int(signalled.code or 0) - 128
        host.say(f"terminating on signal {number}")
        with system.machine.lock:
            system.quit("host-signal")
        return system.machine.wait()


@contextmanager
def _pidfile(path: str) -> Iterator[None]:
    """The process's number in a file, while it runs; another that runs has it locked."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot create PID file: {path}: {error.strerror}") from error
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"cannot create PID file: {path}: another process has it") from error
        try:
            os.ftruncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())
            yield
        finally:
            with suppress(OSError):  # somebody else has removed it
                os.unlink(path)
    finally:
        os.close(fd)
