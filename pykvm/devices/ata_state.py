"""What a saved state of an ATA disk can be."""

from __future__ import annotations

from ..device import State
from ..disk import SECTOR
from ..typed import IntEnum
from .ata_identify import MAX_SECTORS, MULTIPLE_MAX, Geometry
from .ata_registers import (
    BSY,
    DF,
    DRQ,
    ERR,
    IDLE,
    POWER_ACTIVE,
    POWER_IDLE,
    POWER_SLEEP,
    POWER_STANDBY,
)


class Task(IntEnum):
    """What a busy disk is at."""

    NONE = 0
    FLUSH = 1
    FLUSH_WRITTEN = 2
    """The end of a write with the cache disabled."""
    VERIFY = 3


_STATE_LIMITS = {
    "total": MAX_SECTORS, "status": 0xFF, "error": 0xFF, "pending": 1, "power": 0xFF, "keep_settings": 1,
    "cylinders": 0xFFFF, "heads": 16, "sectors": 255, "multiple": MULTIPLE_MAX, "write_cache": 1, "look_ahead": 1,
    "position": MULTIPLE_MAX * SECTOR, "lba": MAX_SECTORS, "remaining": 0x10000,
    "limit": MAX_SECTORS, "block": MULTIPLE_MAX, "extended": 1, "task": max(Task),
}  # fmt: skip
"""The numbers in a saved state and the largest value of each."""
_BLOCK_SIZES = range(0, (MULTIPLE_MAX + 1) * SECTOR, SECTOR)
_STATE_SIZES = {"current": (7,), "previous": (7,), "reading": _BLOCK_SIZES, "writing": _BLOCK_SIZES}
"""The bytes in a saved state and the lengths they can have."""


def check(state: State, total: int) -> None:
    """ValueError unless `state` can be that of a disk of `total` sectors."""
    for name, most in _STATE_LIMITS.items():
        value = state.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise ValueError(f"ATA state field {name!r} is {value!r}, not a number in 0..{most:#x}")
    for name, sizes in _STATE_SIZES.items():
        value = state.get(name)
        if type(value) is not bytes or len(value) not in sizes:
            raise ValueError(f"ATA state field {name!r} is not bytes of a length that it can have")
    if state["total"] != total:
        raise ValueError(f"the ATA state is of a disk of {state['total']} sectors, this one has {total}")
    block, task = state["reading"] or state["writing"], state["task"]
    geometry = Geometry(state["cylinders"], state["heads"], state["sectors"])
    fits = (
        0 < geometry.capacity <= total
        and state["multiple"].bit_count() <= 1
        and state["power"] in (POWER_ACTIVE, POWER_IDLE, POWER_STANDBY, POWER_SLEEP)
        and state["status"] in ((BSY,) if task else (IDLE | DRQ,) if block else (IDLE, IDLE | ERR, IDLE | ERR | DF))
        and not (state["reading"] and state["writing"])
        and not (task and (block or state["pending"]))
        and state["position"] < max(len(block), 1)
        and state["block"] > 0
        and state["lba"] <= state["limit"] <= total
        and len(state["writing"]) <= state["lba"] * SECTOR
    )
    if not fits:
        raise ValueError("the fields of this ATA state contradict each other")
