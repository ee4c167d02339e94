"""`pykvm run`: run an image with its serial port on this terminal, and say how it ended."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from ..console.terminal import Terminal
from ..machine import DEFAULT_MEMORY, DeviceError, Machine
from ..outcome import Ending, Outcome
from .options import ADDRESS, SIZE, open_disk, open_nic

if TYPE_CHECKING:
    from types import FrameType

STATUS = {
    Ending.HALTED: 0,
    Ending.REBOOTED: 120,
    Ending.CRASHED: 122,
    Ending.TIMED_OUT: 124,
    Ending.STOPPED: 0,
}
"""Exit status by the way the run ended; EXITED has the guest's own. All are even: `value * 2 + 1` never is."""

DEVICE_ERROR_STATUS = 126


def exit_status(outcome: Outcome) -> int:
    """The process's exit status for an outcome: what README promises."""
    return outcome.code & 0xFF if outcome.code is not None else STATUS[outcome.ending]


@click.command("run", short_help="Run a guest image and show its serial port.")
@click.argument("kernel", type=click.Path(exists=True, dir_okay=False))
@click.option("-m", "--memory", type=SIZE, default=DEFAULT_MEMORY, show_default=True, help="RAM, such as 64M or 8G.")
@click.option("-c", "--cpus", type=int, default=1, show_default=True, help="Number of CPUs.")
@click.option(
    "-d", "--disk", "disks", multiple=True, metavar="FILE[,ro|,discard]",
    help="Raw disk image: read-write, read-only, or with its writes forgotten. Up to 4; 'none' skips a place.",
)  # fmt: skip
@click.option(
    "-n", "--nic", "nics", multiple=True, metavar="KIND[,mac=M][,pcap=FILE]",
    help="NE2000 card on none, loopback, unix:PATH or tap:NAME; pcap= captures its traffic. Up to 4.",
)  # fmt: skip
@click.option("-t", "--timeout", type=click.FloatRange(min=0, min_open=True), help="End the run after so many seconds.")
@click.option("--format", "image_format", help="Image format, instead of what the image looks like.")
@click.option("--mode", type=click.Choice(["16", "32", "64"]), help="CPU mode a flat binary starts in.")
@click.option("--load", type=ADDRESS, help="Address a flat binary is loaded at.")
@click.option("--entry", type=ADDRESS, help="Address a flat binary is entered at.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome and the serial output as JSON, nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say how the run ended.")
def command(
    kernel: str,
    memory: int,
    cpus: int,
    disks: tuple[str, ...],
    nics: tuple[str, ...],
    timeout: float | None,
    image_format: str | None,
    mode: str | None,
    load: int | None,
    entry: int | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run KERNEL with its serial port on this terminal: Ctrl-A X leaves, Ctrl-C interrupts.

    \b
    Exit status:
      0              the guest halted or powered off, or you left by Ctrl-A X
      value * 2 + 1  it wrote value to the exit port 0xF4 (modulo 256)
      2              nothing was run: bad usage, image, or host
      120            the guest reset the machine
      122            it crashed
      124            the time limit was over
      126            a device failed
      130            interrupted by Ctrl-C
    """
    signal.signal(signal.SIGTERM, _terminate)
    with ExitStack() as stack:
        machine = Machine(
            kernel,
            memory=memory,
            cpus=cpus,
            disks=_open_all(stack, disks, open_disk),
            nics=_open_all(stack, nics, open_nic),
            format=image_format,
            mode=int(mode) if mode else None,
            load=load,
            entry=entry,
        )
        stack.pop_all()
        with machine:
            try:
                outcome = machine.run(timeout) if as_json else _run_on_terminal(machine, timeout)
            except DeviceError as error:
                _show_device_error(error)
                return DEVICE_ERROR_STATUS
            if as_json:
                print(json.dumps(_as_dict(machine, outcome)))
            elif not quiet:
                _show(machine, outcome)
            return exit_status(outcome)


def _open_all(stack: ExitStack, specs: tuple[str, ...], open_one: Any) -> list[Any]:
    """Back ends for the specs; the ones already open are closed if a later one, or the machine, cannot be made."""
    opened = []
    for spec in specs:
        made = open_one(spec)
        opened.append(made)
        if made is not None:
            stack.callback(getattr(made, "backend", made).close)
    return opened


def _run_on_terminal(machine: Machine, timeout: float | None) -> Outcome:
    with machine.lock:
        terminal = Terminal(machine.serial, machine.loop, machine.request_stop)
    try:
        return machine.run(timeout)
    finally:
        lost = terminal.close()
        if lost:
            click.echo(f"pykvm: {lost} bytes of output were lost: the reader was slower than the guest", err=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _show(machine: Machine, outcome: Outcome) -> None:
    """How it ended, on standard error, so that standard output is the guest's alone."""
    output = machine.serial.output
    if output and not output.endswith(b"\n"):
        click.echo(err=True)
    good = outcome.ending in (Ending.HALTED, Ending.EXITED, Ending.STOPPED)
    ending = click.style(outcome.ending, fg="green" if good else "red", bold=True)
    detail = click.style(f"({outcome.elapsed * 1000:.0f} ms, {outcome.exits} exits)", dim=True)
    click.echo(f"pykvm: {ending}: {outcome.reason} {detail}", err=True)
    if outcome.report is not None:
        click.echo(str(outcome.report), err=True)


def _show_device_error(error: DeviceError) -> None:
    import traceback

    click.echo(f"{click.style('pykvm:', fg='red', bold=True)} {error}", err=True)
    traceback.print_exception(error.__cause__)


def _as_dict(machine: Machine, outcome: Outcome) -> dict[str, Any]:
    """The outcome for programs: stable names, plain values."""
    return {
        "ending": outcome.ending,
        "reason": outcome.reason,
        "status": exit_status(outcome),
        "code": outcome.code,
        "value": outcome.value,
        "elapsed": outcome.elapsed,
        "exits": outcome.exits,
        "serial": machine.serial.output.decode("utf-8", "replace"),
        "report": outcome.report.as_dict() if outcome.report else None,
    }
