"""Who owns which part of guest RAM while an image is loaded: the image's segments, and what loaders add to them.

A PC's conventional memory ends where the extended BIOS data area may begin (0x9F000 at the lowest here); up to 1 MiB
follow the video memory and the ROMs; extended memory begins at 1 MiB.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from ..memory import LOW_LIMIT, PAGE_SIZE, GuestMemory, GuestMemoryError
from ..typed import NamedTuple
from ..x86 import paging, start
from ..x86.registers import Registers, SystemRegisters
from . import ImageError, Module

STACK_SIZE = 16 << 10
"""Bytes of stack that a 32-bit or 64-bit guest starts with."""

_CONVENTIONAL_END = 0x9F000
_WINDOWS = ((0x10000, _CONVENTIONAL_END), (PAGE_SIZE, 0x10000), (1 << 20, 1 << 32))
"""Where loaders put things, best place first.

The first 64 KiB come second, because kernels take pages there for real-mode code (to start other CPUs, to call the
BIOS) without asking. Page 0 is never used: it holds the interrupt vectors and the BIOS data area.
"""


def _whole_pages(size: int) -> int:
    return max(-(-size // PAGE_SIZE), 1) * PAGE_SIZE


class _Extent(NamedTuple):
    gpa: int
    end: int
    what: str


class Layout:
    """The parts of `memory` that are taken. Extents are sorted by address and never overlap."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.reserved: list[tuple[int, int]] = []
        """(gpa, size) of everything that `place` handed out."""
        self._taken: list[_Extent] = []

    def claim(self, gpa: int, size: int, what: str) -> None:
        """Take `size` (at least 1) bytes at `gpa` for `what`, which begins the error message if they cannot be had.

        ImageError if they are not wholly in RAM or overlap what is taken already.
        """
        try:
            self.memory.offset(gpa, size)
        except GuestMemoryError:
            raise ImageError(
                f"{what}: guest physical {gpa:#x}..{gpa + size - 1:#x} is not in RAM, "
                f"which the machine has {self.memory.size >> 10} KiB of"
            ) from None
        extent = _Extent(gpa, gpa + size, what)
        at = bisect_right(self._taken, extent)
        for other in self._taken[max(at - 1, 0) : at + 1]:
            if other.gpa < extent.end and extent.gpa < other.end:
                raise ImageError(
                    f"{what}: guest physical {gpa:#x}..{gpa + size - 1:#x} overlaps {other.what} "
                    f"({other.gpa:#x}..{other.end - 1:#x})"
                )
        self._taken.insert(at, extent)

    def place(
        self,
        size: int,
        what: str,
        *,
        above: int = 0,
        below: int = 1 << 32,
        align: int = PAGE_SIZE,
        high: bool = False,
        bound: str = "",
    ) -> int:
        """Find room for `size` bytes of `what` (see `find`), take it in whole pages and return its address."""
        gpa = self.find(size, what, above=above, below=below, align=align, high=high, bound=bound)
        size = _whole_pages(size)
        self.claim(gpa, size, what)
        self.reserved.append((gpa, size))
        return gpa

    def find(
        self,
        size: int,
        what: str,
        *,
        above: int = 0,
        below: int = 1 << 32,
        align: int = PAGE_SIZE,
        high: bool = False,
        bound: str = "",
    ) -> int:
        """The address of free RAM for `size` bytes (whole pages) of `what` within `above`..`below`.

        It is a multiple of `align` (a power of two, at least a page), in the best window that has room and there as low
        as possible; or with `high` in the last window that has room, as high as possible.

        ImageError if there is none: it names `above` and `below`, and with `bound` where they come from.
        """
        size = _whole_pages(size)
        limit = min(self.memory.regions[0].size, below)
        for first, end in reversed(_WINDOWS) if high else _WINDOWS:
            gap = self._high_gap if high else self._low_gap
            gpa = gap(max(first, above), min(end, limit), size, align)
            if gpa is not None:
                return gpa
        raise self._no_room(size, what, above, below, align, bound)

    def _no_room(self, size: int, what: str, above: int, below: int, align: int, bound: str) -> ImageError:
        """The error that says what was needed, between which bounds, and what would help."""
        ram = self.memory.regions[0].size
        end = -(-above // align) * align + size
        where = f" from {above:#x} on" if above else ""
        if below < 1 << 32:
            where += f" below {below:#x}"
        if bound:
            where += f" ({bound})"
        if align > PAGE_SIZE:
            where += f" at a multiple of {align:#x}"
        if end > below < 1 << 32:
            advice = "no machine has it, for the bounds leave less: make it smaller, or the bounds wider"
        elif end > LOW_LIMIT:
            advice = f"no machine has it, whose RAM below 4 GiB ends at {LOW_LIMIT:#x} at the latest"
        elif below <= ram:
            advice = "what lies there already must be smaller, or elsewhere: more memory would not help"
        else:
            advice = "give the machine more memory"
        return ImageError(
            f"no room for {size >> 10} KiB of {what}{where} in {self.memory.size >> 10} KiB of RAM beside the image: "
            f"{advice}"
        )

    def _low_gap(self, first: int, end: int, size: int, align: int) -> int | None:
        """The lowest aligned gap of `size` bytes within `first`..`end`."""
        first = -(-first // align) * align
        for extent in self._taken:
            if first + size <= extent.gpa:
                break
            first = max(first, -(-extent.end // align) * align)
        return first if first + size <= end else None

    def _high_gap(self, first: int, end: int, size: int, align: int) -> int | None:
        """The highest aligned gap of `size` bytes within `first`..`end`."""
        for extent in reversed(self._taken):
            if (end - size) // align * align >= extent.end:
                break
            end = min(end, extent.gpa)
        gpa = (end - size) // align * align
        return gpa if gpa >= first else None


class Loaded(NamedTuple):
    """A module with its place in memory and its command line, which ends with NUL."""

    gpa: int
    data: bytes
    command_line: bytes


def place_modules(layout: Layout, modules: Sequence[Module]) -> list[Loaded]:
    """Take room for each module on a page of its own in extended memory, above the kernel if it is there, too."""
    return [
        Loaded(
            layout.place(len(module.data), f"module {number}", above=1 << 20),
            module.data,
            c_string(module.command_line, f"command line of module {number}"),
        )
        for number, module in enumerate(modules)
    ]


def write_modules(layout: Layout, modules: list[Loaded]) -> None:
    for module in modules:
        layout.memory.write(module.gpa, module.data)


class Block:
    """Data that a loader puts together for one place in memory, from the address `base` on."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.data = bytearray()

    def add(self, data: bytes, align: int = 8) -> int:
        """Append `data` at the next multiple of `align` (a power of two) and return its address."""
        self.data += bytes(-(self.base + len(self.data)) % align)
        address = self.base + len(self.data)
        self.data += data
        return address


def c_string(text: str, what: str) -> bytes:
    """A command line as the guest wants it, ending with NUL; ImageError naming `what` if the text has a NUL itself.

    Bytes of the host's command line that were not UTF-8 come out as they went in.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ImageError(f"{what}: {error}") from None
    if b"\0" in data:
        raise ImageError(f"{what}: it contains a NUL character")
    return data + b"\0"


def enter_protected(layout: Layout, entry: int) -> tuple[Registers, SystemRegisters]:
    """Put a stack and a GDT into memory and return the 32-bit state that starts at `entry`."""
    # The stack comes first and so lies lowest: one that overflows does not run into the tables.
    stack = layout.place(STACK_SIZE, "stack")
    gdt = _gdt(layout, 32)
    return start.protected_mode(entry, stack + STACK_SIZE, gdt)


def enter_long(layout: Layout, entry: int) -> tuple[Registers, SystemRegisters]:
    """Put a stack, a GDT and page tables into memory and return the 64-bit state that starts at `entry`.

    The page tables map the first 4 GiB to themselves; ImageError if `entry` is not in them.
    """
    if entry >= paging.IDENTITY_TOP:
        raise ImageError(f"the entry point {entry:#x} is above 4 GiB, where the first page tables do not reach")
    stack = layout.place(STACK_SIZE, "stack")
    gdt = _gdt(layout, 64)
    tables = layout.place(paging.identity_map_size(), "page tables")
    layout.memory.write(tables, paging.identity_map(tables))
    return start.long_mode(entry, stack + STACK_SIZE, gdt, tables)


def _gdt(layout: Layout, bits: int) -> int:
    gdt = layout.place(start.GDT_SIZE, "descriptor table")
    layout.memory.write(gdt, start.flat_gdt(bits))
    return gdt
