"""All fuzz targets. A new one: a file in here with a function `targets`, and its line in the list."""

from __future__ import annotations

from functools import cache

from . import bios, devices, finish, gdb, images, pci, people, qemu, state, x86
from .target import Target

MODULES = (devices, pci, bios, images, state, gdb, people, qemu, x86, finish)


@cache
def every() -> list[Target]:
    """Every target."""
    return [target for module in MODULES for target in module.targets()]
