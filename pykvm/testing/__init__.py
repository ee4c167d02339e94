"""Kernels under test: boot once, give each test a guest of its own, and say what went wrong so that a person sees it.

    from pykvm.testing import Rig

    with Rig() as rig:
        shell = rig.boot("kernel.elf", until="$ ")
        with shell.fork() as guest:
            guest.send("echo hello\\n")
            guest.serial.expect("hello")

Nothing here but `plugin`, which pytest finds by itself, imports pytest. The names are imported when they are first
used: pytest loads the plugin in every run, even where no kernel is tested.
"""

from __future__ import annotations

from importlib import import_module

from ..typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evidence import Evidence as Evidence
    from .expect import Match as Match
    from .expect import Mismatch as Mismatch
    from .faults import Faults as Faults
    from .guest import Guest as Guest
    from .rig import Point as Point
    from .rig import Rig as Rig
    from .variables import Variable as Variable

_HOMES = {
    "Evidence": "evidence",
    "Faults": "faults",
    "Guest": "guest",
    "Match": "expect",
    "Mismatch": "expect",
    "Point": "rig",
    "Rig": "rig",
    "Variable": "variables",
}

__all__ = list(_HOMES)  # the table is the list


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value
