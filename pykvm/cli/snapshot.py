"""`pykvm snapshot`: run an image up to a moment, save the machine's whole state, and end."""

from __future__ import annotations

from contextlib import ExitStack

import click

from ..machine import DEFAULT_MEMORY, Machine
from ..outcome import Ending
from .options import SIZE, open_disk
from .run import exit_status, open_all
from .saving import Saver, warn_in_words


@click.command("snapshot", short_help="Run a guest image up to a moment and save its whole state.")
@click.argument("kernel", type=click.Path(exists=True, dir_okay=False))
@click.argument("path", type=click.Path())
@click.option("--at", required=True, metavar="TEXT|exits:N", help="When TEXT has come on the serial port, or exit N.")
@click.option("-m", "--memory", type=SIZE, default=DEFAULT_MEMORY, show_default=True, help="RAM, such as 64M or 8G.")
@click.option("-c", "--cpus", type=int, default=1, show_default=True, help="Number of CPUs.")
@click.option(
    "-d", "--disk", "disks", multiple=True, metavar="FILE,discard",
    help="Raw disk image whose writes become part of the snapshot, or FILE,ro. Up to 4; 'none' skips a place.",
)  # fmt: skip
@click.option("-t", "--timeout", type=click.FloatRange(min=0, min_open=True), help="Give up after so many seconds.")
def command(
    kernel: str, path: str, at: str, memory: int, cpus: int, disks: tuple[str, ...], timeout: float | None
) -> int:
    """Run KERNEL, without a terminal, up to the moment --at, and save its state to the directory PATH.

    Whatever else `pykvm run` can do, it can do with --snapshot-at and --snapshot-to, too.
    """
    warn_in_words()
    saver = Saver(at, path, stop=True)
    with ExitStack() as stack:
        machine = Machine(kernel, memory=memory, cpus=cpus, disks=open_all(stack, disks, open_disk))
        stack.pop_all()
        with machine:
            saver.arm(machine)
            outcome = machine.run(timeout)
    saver.report()
    return 0 if outcome.ending is Ending.STOPPED else exit_status(outcome)
