"""Where a video card's memory is in the guest's physical addresses: a window below 1 MiB, and a linear frame buffer.

The window, 0xA0000 to 0xBFFFF, is part of the guest's RAM, and an access there is no exit, until somebody wants to see
them: then RAM is put before KVM in pieces, without the window. The frame buffer is a memory slot of its own. Slots
change only while every vCPU is out of the guest (`Board.when_at_rest`).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import suppress

from ..kvm.errors import KvmError
from ..memory import PAGE_SIZE
from .board import RAM_TOP_SLOT, Board, RamSlot

WINDOW, WINDOW_END = 0xA0000, 0xC0000
TOP_SLOT, WINDOW_SLOT, FRAME_SLOT = RAM_TOP_SLOT, RAM_TOP_SLOT + 1, RAM_TOP_SLOT + 2
_NORESERVE = 0x4000


class VideoSlots:
    """The video card's memory, `size` bytes, and where the guest sees it. With the machine's lock held."""

    def __init__(self, board: Board, size: int) -> None:
        self._board = board
        self.memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        """The card's memory. Its pages are committed when they are first touched."""
        self._trap = self._trapped = False
        self._wanted: int | None = None
        self._placed: int | None = None
        self._logged = False

    def later(self, callback: Callable[[], None]) -> None:
        """Have `callback` called before the guest's next instruction."""
        self._board.when_at_rest(callback)

    def trap(self, on: bool) -> None:
        """Have the guest's accesses to the window come to the bus, from its next instruction on, or go to RAM."""
        self._trap = on
        if on != self._trapped:  # not yet, or not any more: a run may have ended before it was done
            self._board.when_at_rest(self._apply)

    def place(self, gpa: int | None) -> None:
        """Put the card's memory at `gpa`, a multiple of 4 KiB where nothing else is; None: take it away."""
        self._wanted = gpa
        if gpa != self._placed:
            self._board.when_at_rest(self._apply)

    def written(self) -> list[int] | None:
        """The numbers of the pages that the guest has written through the frame buffer since the last call.

        None at the first call, which turns the log on.
        """
        if self._placed is None:
            return []
        vm, size = self._board.vm, len(self.memory)
        if not self._logged:
            self._logged = True
            vm.set_memory(FRAME_SLOT, self._placed, size, self.memory, log=True)
            return None
        bitmap = bytearray(size // PAGE_SIZE // 8)
        vm.get_dirty_log(FRAME_SLOT, bitmap)
        if vm.check_extension("MANUAL_DIRTY_LOG_PROTECT2") and any(bitmap):
            with suppress(KvmError):  # a machine that has not asked for it: then reading has cleared the log
                vm.clear_dirty_log(FRAME_SLOT, 0, size // PAGE_SIZE, bitmap)
        bits = int.from_bytes(bitmap, "little")
        return [page for page in range(size // PAGE_SIZE) if bits >> page & 1] if bits else []

    def _apply(self) -> None:
        board = self._board
        if self._trap != self._trapped:
            self._trapped = self._trap
            memory = board.memory
            low = memory.regions[0].size
            if low > WINDOW:
                below = RamSlot(0, 0, WINDOW, 0)
                window = RamSlot(WINDOW_SLOT, WINDOW, min(low, WINDOW_END) - WINDOW, WINDOW)
                pieces = [below] if self._trap else [below, window]
                if low > WINDOW_END:
                    pieces.append(RamSlot(TOP_SLOT, WINDOW_END, low - WINDOW_END, WINDOW_END))
                board.map_ram([*pieces, *(slot for slot in board.ram_slots if slot.gpa >= low)])
        if self._wanted != self._placed:
            if self._placed is not None:
                board.vm.delete_memory(FRAME_SLOT)
            self._placed, self._logged = self._wanted, False
            if self._placed is not None:
                board.vm.set_memory(FRAME_SLOT, self._placed, len(self.memory), self.memory)
