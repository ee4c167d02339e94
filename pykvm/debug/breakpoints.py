"""Which breakpoints and watchpoints there are, and what each is made of: a debug register or an INT3 in RAM.

Sources: Intel SDM volume 3B, 17.2 (debug registers: DR7's fields in 17.2.4, the alignment of data breakpoints in
17.2.5) and volume 2A, INT3 (0xCC).

There are four debug registers. Watchpoints must have one. A code breakpoint gets one of the rest, even if a software
breakpoint was asked for: it works before paging is on, in ROM, and when a loader writes the code afterwards. Only what
is left over becomes an INT3. It is in RAM only while the guest runs: who looks at a stopped machine never sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import PykvmError
from ..memory import GuestMemory, GuestMemoryError

INT3 = b"\xcc"
DEBUG_REGISTERS = 4
MAX_CODE = 1024
"""Most code breakpoints at a time."""

EXECUTE, WRITE, ACCESS = 0b00, 0b01, 0b11
"""DR7's R/W field: on execution, on data writes, on data reads and writes."""
_LENGTHS = {1: 0b00, 2: 0b01, 4: 0b11, 8: 0b10}
DR7_FIXED = 1 << 10


class BreakpointError(PykvmError):
    """The breakpoint cannot be had: no debug register is free, and an INT3 cannot be put there."""


class Watch(NamedTuple):
    """`size` bytes of data at linear `address`: stop after a write, or with `access` after any access."""

    address: int
    size: int
    access: bool = False

    def pieces(self) -> list[Slot]:
        """The naturally aligned parts that a debug register can watch."""
        kind = ACCESS if self.access else WRITE
        pieces, at, end = [], self.address, self.address + self.size
        while at < end:
            size = next(size for size in (8, 4, 2, 1) if at % size == 0 and at + size <= end)
            pieces.append(Slot(at, kind, size, self))
            at += size
        return pieces


class Slot(NamedTuple):
    """What one debug register is for."""

    address: int
    kind: int
    size: int = 1
    watch: Watch | None = None


@dataclass(slots=True)
class Placement:
    """What the breakpoints are made of for one stretch of running."""

    slots: list[Slot] = field(default_factory=list)
    """DR0 onwards."""
    patches: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    """INT3s by linear address: guest physical address, and the byte that belongs there."""
    missing: list[int] = field(default_factory=list)
    """Code breakpoints that have no place now."""

    @property
    def dr7(self) -> int:
        """Each slot globally enabled, with its kind and size."""
        value = DR7_FIXED
        for at, slot in enumerate(self.slots):
            value |= 2 << 2 * at | (_LENGTHS[slot.size] << 2 | slot.kind) << 16 + 4 * at
        return value

    def patch(self, memory: GuestMemory) -> None:
        """Put the INT3s into RAM."""
        for gpa, _ in self.patches.values():
            memory.write(gpa, INT3)

    def unpatch(self, memory: GuestMemory) -> None:
        """Take them out, but for those that the guest has overwritten: what it wrote is what belongs there."""
        for gpa, original in self.patches.values():
            if memory.read(gpa, 1) == INT3:
                memory.write(gpa, original)
        self.patches.clear()


class Breakpoints:
    """All of them, by linear address. `software` and `hardware` are what was asked for, not what they are made of."""

    def __init__(self) -> None:
        self.software: set[int] = set()
        self.hardware: set[int] = set()
        self.watches: set[Watch] = set()

    def __bool__(self) -> bool:
        return bool(self.software or self.hardware or self.watches)

    def has_code(self, address: int) -> bool:
        """Whether a code breakpoint is at that linear address."""
        return address in self.software or address in self.hardware

    def clear(self) -> None:
        """Forget all."""
        self.software.clear()
        self.hardware.clear()
        self.watches.clear()

    def place(
        self, memory: GuestMemory, translate: Callable[[int], int | None], registers: int = DEBUG_REGISTERS
    ) -> Placement:
        """Give each its place, with that many debug registers; `translate` gives guest physical addresses.

        Raises BreakpointError if those that must have a debug register are too many.
        """
        placement = Placement()
        slots = placement.slots
        slots += [piece for watch in sorted(self.watches) for piece in watch.pieces()]
        slots += [Slot(address, EXECUTE) for address in sorted(self.hardware)]
        if len(slots) > DEBUG_REGISTERS:
            raise BreakpointError(f"{len(slots)} debug registers are needed, and a CPU has {DEBUG_REGISTERS}")
        reachable = []
        for address in sorted(self.software - self.hardware):
            original = _byte_at(memory, translate, address)
            if original is not None:
                reachable.append((address, original))
            elif len(slots) < DEBUG_REGISTERS:
                slots.append(Slot(address, EXECUTE))
            else:
                placement.missing.append(address)
        for address, original in reachable:
            if len(slots) < registers:
                slots.append(Slot(address, EXECUTE))
            else:
                placement.patches[address] = original
        return placement


def _byte_at(memory: GuestMemory, translate: Callable[[int], int | None], address: int) -> tuple[int, bytes] | None:
    """Where in RAM the linear address is, and the byte there; None if it is not in RAM."""
    gpa = translate(address)
    if gpa is None:
        return None
    try:
        return gpa, memory.read(gpa, 1)
    except GuestMemoryError:
        return None


def slots_hit(slots: Iterable[Slot], dr6: int) -> list[Slot]:
    """Those whose bit (B0 to B3) is set in DR6."""
    return [slot for at, slot in enumerate(slots) if dr6 >> at & 1]
