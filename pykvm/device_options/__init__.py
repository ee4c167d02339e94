"""The devices that a PC may be made with, beside those that each has: a file each, and a line here.

An option's file brings all of it: the keyword of `Machine`, the option of the command line with its help, the devices,
and what a snapshot keeps to make a machine with the same ones. `option` says what that is; docs/contributing.md goes
through an example.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from ..typed import Any
from .option import DeviceOption

MODULES = [
    ".serial_ports",
    ".nics",
    ".cdroms",
    ".virtio_disks",
    ".devices",
]
"""In the order in which they are built. A name with a dot in front is a file here, any other a module elsewhere."""


@cache
def _option(module: str) -> DeviceOption:
    option: DeviceOption = import_module(module, __name__).OPTION
    return option


def device_options() -> list[DeviceOption]:
    """All of them."""
    return [_option(module) for module in MODULES]


def check_names(given: dict[str, Any]) -> None:
    """TypeError, as for any other keyword, if there is no such option."""
    known = [option.name for option in device_options()]
    for name in given:
        if name not in known:
            raise TypeError(f"there is no device option {name!r}: there are {', '.join(known)}")
