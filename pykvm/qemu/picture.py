"""`screendump`: the screen as a picture, in Netpbm's PPM (P6), as QEMU writes it, or in PNG."""

from __future__ import annotations

from ..display.font import FontError
from ..errors import ConfigError, PykvmError
from ..machine import Machine


def save(machine: Machine, path: str, form: str) -> None:
    """Write the screen to a file. PykvmError if there is no screen, no such format, or no such place."""
    if form not in ("ppm", "png"):
        raise PykvmError(f"there is no format {form!r}: give ppm or png")
    try:
        screen = machine.screen
        if form == "png":
            content = screen.png()
        else:
            width, height = screen.size
            content = b"P6\n%d %d\n255\n" % (width, height) + screen.pixels
    except (ConfigError, FontError) as error:
        raise PykvmError(str(error)) from None
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise PykvmError(f"failed to open file '{path}': {error.strerror}") from None
    except ValueError as error:
        raise PykvmError(f"failed to open file {path!r}: {error}") from None
