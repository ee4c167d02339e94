"""`pykvm restore`: go on from a saved state, with the serial port on this terminal."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ..snapshot import Snapshot
from . import ui
from .options import (
    DISK_METAVAR,
    device_flags,
    open_all,
    open_disk,
    parse_device_options,
    split_disks,
    timeout_option,
    trust_disks_option,
)
from .run import make_saver, run_and_show, wait_for_gdb
from .saving import warn_in_words


@ui.command("restore")
@ui.argument("path", type=ui.Path(exists=True, file_okay=False))
@ui.option(
    "-d", "--disk", "disks", multiple=True, metavar=f"{DISK_METAVAR}[,bus=virtio]",
    help="Disk image in place of the one that the snapshot names. If one is given, all must be.",
)  # fmt: skip
@trust_disks_option
@device_flags
@ui.option(
    "--floppy",
    metavar=DISK_METAVAR,
    help="Floppy disk in place of the one that the snapshot names.",
)
@timeout_option
@ui.option("--verify/--no-verify", default=True, help="Whether to compare the checksums of RAM.", show_default=True)
@ui.option(
    "--display", type=ui.Choice(["serial", "terminal"]), default="serial", show_default=True,
    help="What is on this terminal: the serial port, or the VGA text screen with the keyboard.",
)  # fmt: skip
@ui.option(
    "--gdb", is_flag=False, flag_value=":1234", metavar="[:PORT|PATH]",
    help="Go on only when gdb says so, which comes to a TCP port of this host (:1234) or a UNIX socket.",
)  # fmt: skip
@ui.option("--snapshot-at", metavar="TEXT|exits:N", help="Save another snapshot, on top of this one, then.")
@ui.option("--snapshot-to", type=ui.Path(), help="Directory for that snapshot.")
@ui.option("--json", "as_json", is_flag=True, help="Print the outcome and the serial output as JSON, nothing else.")
@ui.option("-q", "--quiet", is_flag=True, help="Do not say how the run ended.")
def command(
    path: str,
    disks: tuple[str, ...],
    trust_disks: bool,
    device_options: dict[str, Any],
    floppy: str | None,
    timeout: float | None,
    verify: bool,
    display: str,
    gdb: str | None,
    snapshot_at: str | None,
    snapshot_to: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Go on from the snapshot in the directory PATH, which stays as it is. Options and exit status are those of `run`.

    NICs have no cable unless --nic gives them one. The snapshot names its disks' image files. Those outside PATH are
    opened only with --trust-disks, or if --disk gives them; what the guest writes to them is discarded at the end.
    """
    warn_in_words()
    snapshot = Snapshot.load(path, verify=verify, trust_disks=trust_disks)
    saver = make_saver(snapshot_at, snapshot_to, snapshot)
    with ExitStack() as stack:
        on_ata, on_virtio = split_disks(disks)
        values = parse_device_options(stack, device_options)
        if disks:
            values["virtio_disks"] = open_all(stack, on_virtio, open_disk)
        machine = snapshot.fork(
            disks=open_all(stack, on_ata, open_disk) if disks else None,
            floppy=open_all(stack, (floppy,), open_disk)[0] if floppy is not None else None,
            **values,
        )
        stack.pop_all()
        with machine:
            if gdb is not None:
                wait_for_gdb(machine, None, gdb)
            return run_and_show(
                machine, timeout, saver, as_json, quiet, on_screen=display == "terminal", command="restore"
            )
