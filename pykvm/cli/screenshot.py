"""`pykvm screenshot`: a picture of the screen."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from ..console.port import WaitFailed
from ..display import Screen
from ..errors import ConfigError
from ..machine import Machine
from . import ui
from .options import MachineSpec, machine_options
from .replacing import PNG, force_option, require_replaceable

DEFAULT_TIMEOUT = 10.0


@ui.command("screenshot")
@machine_options()
@ui.argument("picture", type=ui.Path(dir_okay=False, writable=True, allow_dash=True))
@ui.option("--at", metavar="TEXT", help="Take it as soon as TEXT is on the screen.")
@ui.option("--type", "keys", metavar="KEYS", help="Type this as soon as the guest runs.")
@ui.option(
    "-t", "--timeout", type=ui.FloatRange(min=0, min_open=True), default=DEFAULT_TIMEOUT, show_default=True,
    help="Take it after so many seconds at the latest.",
)  # fmt: skip
@ui.option("--scale", type=ui.IntRange(1, 8), default=1, show_default=True, help="Size of a dot in pixels.")
@ui.option("--aspect", is_flag=True, help="As wide and high as on a monitor: 640x400 dots become 640x480.")
@ui.option("--text", "as_text", is_flag=True, help="Save the screen's text, and no picture.")
@force_option
def command(
    spec: MachineSpec,
    picture: str,
    at: str | None,
    keys: str | None,
    timeout: float,
    scale: int,
    aspect: bool,
    as_text: bool,
    force: bool,
) -> int:
    """Run KERNEL until TEXT is on its VGA screen, or its end, or the time limit; save the screen to PICTURE as PNG.

    PICTURE may be - for standard output. A file that is no picture is not replaced without --force. The exit status is
    1 if TEXT did not come.
    """
    require_replaceable(picture, None if as_text else PNG, "screen's text" if as_text else "picture", force)
    with spec.make() as machine:
        screen, found = take(machine, at, keys, timeout)
        content = f"{screen.text}\n".encode() if as_text else screen.png(scale, aspect=aspect)
        _save(picture, content)
    if not found:
        ui.echo(f"pykvm: {at!r} did not come on the screen; the picture shows the last one", err=True)
    return 0 if found else 1


def _save(path: str, content: bytes) -> None:
    try:
        if path == "-":
            sys.stdout.buffer.write(content)
        else:
            Path(path).write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def take(machine: Machine, at: str | None, keys: str | None, timeout: float) -> tuple[Screen, bool]:
    """Run the machine up to the moment, and return its screen, and whether the text has come."""
    if keys is not None:
        try:
            machine.keyboard.type(keys)
        except ValueError as error:
            raise ConfigError(f"--type: {error}") from error
    machine.start()
    if at is None:
        with suppress(TimeoutError):
            machine.wait(timeout)
        return machine.screen, True
    try:
        return machine.wait_for_screen(at, timeout), True
    except WaitFailed:
        return machine.screen, False
