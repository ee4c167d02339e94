"""What an image format says of itself. Its file in here declares it; `detect` has the table that names the file.

To add a format: write `pykvm/boot/NAME.py` with a `FORMATS` that holds its `Format`, and add its line to the table.
"""

from __future__ import annotations

from collections.abc import Callable

from ..memory import GuestMemory
from ..typed import NamedTuple
from . import EntryState, Options

COMMAND_LINE = ("command_line", "modules")
"""Options of the kernels whose boot protocol has a place for them."""


def no_doubt(image: bytes, file_name: str | None) -> str | None:
    """For a format that has a mark of its own: what bears it is meant so."""
    return None


class Format(NamedTuple):
    """An image format. `name` is what the user knows it by, `help` a line on how it is recognised.

    `matches` tells from an image whether it is one, quickly, and raises nothing. `load` puts the image into memory and
    raises ImageError if it is malformed or does not fit.
    """

    name: str
    help: str
    matches: Callable[[bytes], bool]
    load: Callable[[bytes, GuestMemory, Options], EntryState]
    takes: tuple[str, ...] = ()
    """The fields of `Options` that it listens to; who gives another is refused. Every format may ask for `cpus`."""
    from_disk: bool = False
    """Whether the image is not loaded but attached as a disk, for a BIOS to start it from."""
    doubt: Callable[[bytes, str | None], str | None] = no_doubt
    """Why an image that matches, in a file of this name (None for mere bytes), should all the same not be started
    unless the user names the format; None if nothing is against it."""
