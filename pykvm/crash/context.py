"""Where a crash happened and what is known about it: what a report is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..x86.cpu import Cpu
from ..x86.symbols import SymbolTable
from .event import Crash
from .findings import Interrupted
from .interrupts import NO_INTERRUPTS, Interrupts


@dataclass(frozen=True, slots=True)
class CrashContext:
    """A CPU that cannot go on, and what is known about it besides its state."""

    cpu: Cpu
    crash: Crash
    symbols: SymbolTable | None = None
    irqs: Interrupts = NO_INTERRUPTS
    is_memory: Callable[[int], bool] = lambda gpa: True
    """Whether RAM or ROM is at a guest physical address."""
    unclaimed: Sequence[tuple[str, int, int]] = ()
    seen: str = "directly"
    last: Sequence[tuple[int, bytes, int]] = ()
    """Linear address, bytes and width (bits) of the instructions before this one."""
    notes: Sequence[str] = ()
    trouble: str = ""
    """What was wrong with the CPU when a second run was given up, if the state is "lost"."""
    interrupted: Interrupted | None = None
