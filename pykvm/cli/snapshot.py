"""`pykvm snapshot`: run an image up to a moment, save the machine's whole state, and end."""

from __future__ import annotations

from . import ui
from .options import Limit, MachineSpec, limit_option, machine_options
from .saving import Saver, warn_in_words


@ui.command("snapshot")
@machine_options()
@ui.argument("path", type=ui.Path())
@ui.option("--at", required=True, metavar="TEXT|exits:N", help="When TEXT has come on the serial port, or exit N.")
@limit_option
def command(spec: MachineSpec, path: str, at: str, timeout: Limit) -> int:
    """Run KERNEL, without a terminal, up to the moment --at, and save its state to the directory PATH.

    A disk must be attached with its writes discarded, which then become part of the snapshot, or read-only.
    """
    warn_in_words()
    saver = Saver(at, path, stop=True)
    with spec.make() as machine:
        saver.arm(machine)
        outcome = machine.run(timeout.seconds)
    saver.report()
    return outcome.exit_status
