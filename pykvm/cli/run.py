"""`pykvm run`: run an image with its serial port on this terminal, and say how it ended."""

from __future__ import annotations

import time

from ..console.terminal import Terminal
from ..errors import ConfigError, PykvmError
from ..machine import DeviceError
from ..outcome import DEVICE_ERROR_STATUS, Outcome
from ..typed import TYPE_CHECKING, Any
from . import signals, streams, ui
from .options import MachineSpec, machine_options, timeout_option

if TYPE_CHECKING:
    from ..machine import Machine
    from ..snapshot import Snapshot
    from .saving import Saver

_STYLES: dict[str, dict[str, Any]] = {
    "head": {"fg": "red", "bold": True},
    "explanation": {"bold": True},
    "title": {"fg": "cyan"},
    "here": {"fg": "yellow", "bold": True},
    "problem": {"fg": "red"},
    "symbol": {"fg": "green"},
    "dim": {"dim": True},
}
"""How the parts of a crash report look (crash.text)."""


@ui.command("run")
@machine_options(kernel_required=False)
@timeout_option
@ui.option(
    "--display", type=ui.Choice(["serial", "terminal"]), default="serial", show_default=True,
    help="What is on this terminal: the serial port, or the VGA text screen with the keyboard.",
)  # fmt: skip
@ui.option("--trace", type=ui.Choice(["bios"]), help="Tell of each BIOS call, on standard error.")
@ui.option(
    "--gdb", is_flag=False, flag_value=":1234", metavar="[:PORT|PATH]",
    help="Start stopped, and wait for gdb at a TCP port of this host (:1234) or a UNIX socket.",
)  # fmt: skip
@ui.option("--no-stop", is_flag=True, help="With --gdb: let the guest run from the start, and stop when gdb comes.")
@ui.option(
    "--last-instructions", type=ui.IntRange(0, 1000), default=0, metavar="N",
    help="Have a crash report show the N instructions before the crash.",
)  # fmt: skip
@ui.option("--snapshot-at", metavar="TEXT|exits:N", help="Save a snapshot when TEXT has come on the serial port.")
@ui.option("--snapshot-to", type=ui.Path(), help="Directory for that snapshot.")
@ui.option("--json", "as_json", is_flag=True, help="Print the outcome and the serial output as JSON, nothing else.")
@ui.option("-q", "--quiet", is_flag=True, help="Do not say how the run ended.")
def command(
    spec: MachineSpec,
    timeout: float | None,
    display: str,
    trace: str | None,
    gdb: str | None,
    no_stop: bool,
    last_instructions: int,
    snapshot_at: str | None,
    snapshot_to: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run KERNEL with its serial port on this terminal: Ctrl-A X leaves, Ctrl-C interrupts.

    Without KERNEL the first disk is started. A KERNEL that is a disk image is started, too, and keeps nothing.

    \b
    Exit status:
      0              the guest halted or powered off, or you left by Ctrl-A X
      value * 2 + 1  it wrote value to the exit port 0xF4 (modulo 256)
      2              nothing was run: bad usage, image, or host
      120            the guest reset the machine, with --no-reboot
      122            it crashed
      124            the time limit was over
      126            a device failed
      130            interrupted by Ctrl-C
    """
    if as_json and display != "serial":
        raise ConfigError("--json prints nothing else: there is no --display with it")
    if no_stop and gdb is None:
        raise ConfigError("--no-stop says how --gdb begins: there is none")
    saver = make_saver(snapshot_at, snapshot_to)
    with spec.make() as machine:
        machine.keep_instructions = last_instructions
        if gdb is not None:
            wait_for_gdb(machine, spec.kernel, gdb, stopped=not no_stop)
        if trace is not None:
            _trace_bios(machine)
        return run_and_show(machine, timeout, saver, as_json, quiet, on_screen=display == "terminal")


def make_saver(at: str | None, to: str | None, parent: Snapshot | None = None) -> Saver | None:
    """What --snapshot-at and --snapshot-to ask for, if anything."""
    if at is None and to is None:
        return None
    from .saving import Saver

    return Saver(at, to, parent=parent)


def run_and_show(
    machine: Machine,
    timeout: float | None,
    saver: Saver | None,
    as_json: bool,
    quiet: bool,
    *,
    on_screen: bool = False,
    command: str = "run",
) -> int:
    """Run the machine, on the terminal unless `as_json`, show how it ended, and return the exit status."""
    deadline = None if timeout is None else time.monotonic() + timeout
    run = _run_silently if as_json else _run_on_screen if on_screen else run_on_terminal
    try:
        outcome = run(machine, timeout, saver)
    except DeviceError as error:
        show_device_error(error)
        return DEVICE_ERROR_STATUS
    except KeyboardInterrupt:
        if machine.outcome is not None and not (as_json or quiet):
            show_outcome(machine, machine.outcome)
        raise
    with streams.patience(deadline):
        if as_json:
            from .envelope import envelope

            ui.echo(envelope(command, outcome.exit_status, _as_dict(machine, outcome)))
        elif not quiet:
            show_outcome(machine, outcome)
    show_lost_disks(machine)
    if saver is not None:
        saver.report()
    return outcome.exit_status


def show_lost_disks(machine: Machine) -> None:
    """Which disks have been lost in the run, of which the guest has seen nothing but errors."""
    for disk in (*machine.disks, *machine.pc.virtio_disks, machine.floppy):
        image: Any = getattr(disk, "base", disk)
        if lost := getattr(image, "lost", None):
            ui.echo(f"pykvm: the disk {image.location} was lost: its NBD server {lost}", err=True)


def wait_for_gdb(machine: Machine, kernel: str | None, address: str, *, stopped: bool = True) -> None:
    """Have gdb stop the machine at its start, or when it comes, and say how to call it."""
    from shlex import join

    server = machine.gdb(address, stopped=stopped)
    symbols = [kernel] if kernel and machine.symbols is not None else []
    command = join(["gdb", *symbols, "-ex", f"target remote {server.target}"])
    ui.echo(f"pykvm: {'waiting' if stopped else 'ready'} for {command}", err=True)


def _run_silently(machine: Machine, timeout: float | None, saver: Saver | None) -> Outcome:
    if saver is not None:
        saver.arm(machine)
    return machine.run(timeout)


def run_on_terminal(machine: Machine, timeout: float | None, saver: Saver | None = None) -> Outcome:
    """Run the machine with its serial port on this terminal."""
    with machine.lock:
        terminal = Terminal(machine.serial, machine.engine.loop, machine.request_stop)
    latest = None if timeout is None else time.monotonic() + timeout
    try:
        with signals.job_control(machine.lock, terminal.suspend, terminal.resume):
            with machine.lock:
                terminal.begin()
            if saver is not None:
                saver.arm(machine)
            return machine.run(timeout)
    except BaseException:
        latest = time.monotonic()  # a signal, or a device: nobody wants to wait
        raise
    finally:
        lost = terminal.close(None if latest is None else max(latest, time.monotonic()) + streams.GRACE)
        if lost:
            why = terminal.error.strerror if terminal.error is not None else "the reader was slower than the guest"
            ui.echo(f"pykvm: {lost} bytes of output were lost: {why}", err=True)


def _run_on_screen(machine: Machine, timeout: float | None, saver: Saver | None) -> Outcome:
    from .vga_terminal import VgaTerminal

    with machine.lock:
        screen = VgaTerminal(machine)
    try:
        with signals.job_control(machine.lock, screen.suspend, screen.resume, screen.redraw):
            with machine.lock:
                screen.begin()
            if saver is not None:
                saver.arm(machine)
            return machine.run(timeout)
    finally:
        with streams.patience(time.monotonic()):
            ui.echo(screen.close(time.monotonic() + streams.GRACE), nl=False)


def _trace_bios(machine: Machine) -> None:
    """Have BIOS calls told."""
    bios = machine.pc.bios
    if bios is None:
        raise ConfigError("--trace bios: pykvm's BIOS is not there under a firmware, or in less than 1M of memory")
    log = bios.log
    log.emit = lambda line: ui.secho(line, err=True, dim=True)
    machine.engine.on_end.append(lambda outcome: log.flush())


def show_outcome(machine: Machine, outcome: Outcome) -> None:
    """How it ended, on standard error, so that standard output is the guest's alone."""
    output = machine.serial.output
    if output and not output.endswith(b"\n"):
        ui.echo(err=True)
    ending = ui.style(outcome.ending, fg="green" if outcome.good else "red", bold=True)
    finished = f", {sum(outcome.finished.values())} instructions finished" if outcome.finished else ""
    detail = ui.style(f"({outcome.elapsed * 1000:.0f} ms, {outcome.exits} exits{finished})", dim=True)
    ui.echo(f"pykvm: {ending}: {outcome.reason} {detail}", err=True)
    if outcome.report is not None:
        from ..crash.text import render

        ui.echo(render(outcome.report, paint), err=True)


def paint(role: str, text: str) -> str:
    """A part of a crash report in its style, for `crash.text.render`."""
    return ui.style(text, **_STYLES[role])


def show_device_error(error: DeviceError) -> None:
    """What failed; and where, unless it was something that a user can mend."""
    ui.echo(f"{ui.style('pykvm:', fg='red', bold=True)} {error}", err=True)
    if not isinstance(error.__cause__, PykvmError):
        import traceback

        traceback.print_exception(error.__cause__)


def _as_dict(machine: Machine, outcome: Outcome) -> dict[str, Any]:
    """The outcome for programs: stable names, plain values."""
    return {
        "ending": outcome.ending,
        "reason": outcome.reason,
        "code": outcome.code,
        "value": outcome.value,
        "elapsed": outcome.elapsed,
        "exits": outcome.exits,
        "finished": dict(outcome.finished),
        "serial": machine.serial.output.decode("utf-8", "replace"),
        "report": outcome.report.as_dict() if outcome.report else None,
    }
