"""Guest memory as an instruction reaches it: through segment and page tables, to RAM, ROM or a device.

Sources: Intel SDM volume 3A, 4.6 (access rights), 4.8 (accessed and dirty flags), 5.3 (limits); AMD APM volume 2, 5.
"""

from __future__ import annotations

from mmap import mmap
from typing import NamedTuple

from ..bus import MmioBus
from ..kvm.native import set_bits
from ..memory import GuestMemory, GuestMemoryError
from ..typed import Protocol
from ..x86.cpu import Cpu
from ..x86.exceptions import Event
from ..x86.paging import PAGE_SIZE, PTE_A, PTE_D, Walk
from ..x86.registers import CR0_PG

MMIO_WIDTH = 8
"""Bytes of the widest access that a device sees."""


class Refused(Exception):
    """The access is not allowed: `event` is the exception that it makes."""

    def __init__(self, event: Event) -> None:
        self.event = event


class Image(Protocol):
    """A ROM."""

    @property
    def gpa(self) -> int:
        """Where it begins."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def map(self) -> mmap:
        """Its content."""


class Piece(NamedTuple):
    """So many bytes at a guest physical address."""

    gpa: int
    size: int


class Space:
    """The physical addresses of a machine: RAM, ROM if there is one, and devices."""

    def __init__(self, memory: GuestMemory, rom: Image | None, mmio: MmioBus) -> None:
        self.memory, self.rom, self.mmio = memory, rom, mmio

    def table(self, gpa: int, size: int) -> bytes:
        """What is in RAM or ROM, for page tables and descriptors; GuestMemoryError where neither is."""
        rom = self.rom
        if rom is not None and rom.gpa <= gpa and gpa + size <= rom.gpa + rom.size:
            return rom.map[gpa - rom.gpa : gpa - rom.gpa + size]
        return self.memory.read(gpa, size)

    def in_ram(self, piece: Piece) -> bool:
        """Whether all of it is RAM."""
        try:
            self.memory.offset(piece.gpa, piece.size)
        except GuestMemoryError:
            return False
        return True

    def read(self, pieces: list[Piece], *, devices: bool = True) -> bytes:
        """What is there; zeros in place of what a device would be asked for, without `devices`."""
        data = b""
        for gpa, size in pieces:
            try:
                data += self.table(gpa, size)
            except GuestMemoryError:
                data += self._ask(gpa, size) if devices else bytes(size)
        return data

    def _ask(self, gpa: int, size: int) -> bytes:
        return b"".join(self.mmio.read(at, part).to_bytes(part, "little") for at, part in _parts(gpa, size))

    def write(self, pieces: list[Piece], data: bytes) -> None:
        """Store it; a ROM takes nothing."""
        at = 0
        for piece in pieces:
            part = data[at : at + piece.size]
            at += piece.size
            try:
                self.memory.write(piece.gpa, part)
            except GuestMemoryError:
                rom = self.rom
                if rom is None or not rom.gpa <= piece.gpa < rom.gpa + rom.size:
                    for where, size in _parts(piece.gpa, piece.size):
                        value = int.from_bytes(part[where - piece.gpa : where - piece.gpa + size], "little")
                        self.mmio.write(where, size, value)

    # By linear addresses

    def reach(self, cpu: Cpu, linear: int, size: int, *, write: bool, user: bool | None = None) -> list[Piece]:
        """Where `size` bytes at a linear address are, after the checks of pages. Raises Refused."""
        event = None
        for at in (linear, linear + size - 1):
            if not cpu.canonical(at & cpu.width_mask):
                event = cpu.check_linear(linear, size, write=write, user=user)
                assert event is not None
                raise Refused(event)
        pieces, walks = [], []
        at, left = linear & cpu.width_mask, size
        while left:
            part = min(left, PAGE_SIZE - at % PAGE_SIZE)
            found = cpu.walk(at)
            if found.physical is None or (found.levels and not cpu.allows(found, write=write, user=user)):
                event = cpu.check_page(at, write=write, user=user)
                assert event is not None
                raise Refused(event)
            walks.append(found)
            pieces.append(Piece(found.physical, part))
            at, left = at + part & cpu.width_mask, left - part
        if cpu.system.cr0 & CR0_PG:
            for found in walks:
                self._mark(found, write)
        return pieces

    def _mark(self, found: Walk, write: bool) -> None:
        """Set the accessed flag of all entries, and the dirty flag of the last one."""
        for level in found.levels:
            last = level is found.levels[-1]
            if level.name == "PDPTE" and found.paging == "PAE paging":
                continue
            wanted = PTE_A | (PTE_D if write and last else 0)
            if level.value & wanted != wanted:
                try:
                    set_bits(self.memory.map, self.memory.offset(level.address, 1), wanted)
                    self.memory.note(level.address, 1)
                except GuestMemoryError:
                    return  # tables in ROM

    def access(self, cpu: Cpu, segment: str, offset: int, size: int, *, write: bool) -> list[Piece]:
        """Where `size` bytes at an offset in a segment are, after the checks of segment and pages. Raises Refused."""
        if cpu.mode.bits != 64 or not cpu.canonical(cpu.linear(segment, offset)):
            event = cpu.check(segment, offset, size, write=write)
            if event is not None:
                raise Refused(event)
        try:
            return self.reach(cpu, cpu.linear(segment, offset), size, write=write)
        except Refused as refused:
            if refused.event.vector == 13:  # not canonical: the stack segment has an exception of its own
                again = cpu.check(segment, offset, size, write=write)
                raise Refused(again or refused.event) from None
            raise


def _parts(gpa: int, size: int) -> list[Piece]:
    """Accesses of at most 8 bytes, none of which crosses a multiple of 8."""
    parts = []
    while size:
        part = min(size, MMIO_WIDTH - gpa % MMIO_WIDTH)
        parts.append(Piece(gpa, part))
        gpa, size = gpa + part, size - part
    return parts
