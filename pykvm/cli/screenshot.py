"""`pykvm screenshot`: a picture of the text screen."""

from __future__ import annotations

from contextlib import suppress

import click

from ..console.port import WaitFailed
from ..display import Screen
from ..machine import Machine
from .options import MachineSpec, machine_options

DEFAULT_TIMEOUT = 10.0


@click.command("screenshot", short_help="Save a picture of a guest's text screen.")
@machine_options()
@click.argument("picture", type=click.Path(dir_okay=False, writable=True, allow_dash=True))
@click.option("--at", metavar="TEXT", help="Take it as soon as TEXT is on the screen.")
@click.option("--type", "keys", metavar="KEYS", help="Type this as soon as the guest runs.")
@click.option(
    "-t", "--timeout", type=click.FloatRange(min=0, min_open=True), default=DEFAULT_TIMEOUT, show_default=True,
    help="Take it after so many seconds at the latest.",
)  # fmt: skip
@click.option("--scale", type=click.IntRange(1, 8), default=1, show_default=True, help="Size of a dot in pixels.")
@click.option("--text", "as_text", is_flag=True, help="Save the screen's text, and no picture.")
def command(
    spec: MachineSpec, picture: str, at: str | None, keys: str | None, timeout: float, scale: int, as_text: bool
) -> int:
    """Run KERNEL until TEXT is on its VGA screen, or its end, or the time limit; save the screen to PICTURE as PNG.

    PICTURE may be - for standard output. The exit status is 1 if TEXT did not come.
    """
    with spec.make() as machine:
        screen, found = take(machine, at, keys, timeout)
        content = f"{screen.text}\n".encode() if as_text else screen.png(scale)
        with click.open_file(picture, "wb") as file:
            file.write(content)
    if not found:
        click.echo(f"pykvm: {at!r} did not come on the screen; the picture shows the last one", err=True)
    return 0 if found else 1


def take(machine: Machine, at: str | None, keys: str | None, timeout: float) -> tuple[Screen, bool]:
    """Run the machine up to the moment, and return its screen, and whether the text has come."""
    machine.start()
    if keys is not None:
        machine.keyboard.type(keys)
    if at is None:
        with suppress(TimeoutError):
            machine.wait(timeout)
        return machine.screen, True
    try:
        return machine.wait_for_screen(at, timeout), True
    except WaitFailed:
        return machine.screen, False
