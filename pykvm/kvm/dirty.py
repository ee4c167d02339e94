"""KVM's dirty log: which pages of the memory slots the guest has written (api.rst, KVM_GET_DIRTY_LOG).

A page that has been marked clean makes the guest's next write to it a fault, which costs more than copying the page ten
times. So where KVM lets the caller say when (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2), `undo` leaves the pages dirty that it
copies, and copies them again the next time: whoever goes back a thousand times dirties the same pages each time. Only
when they have become many more than one round dirties are all of them marked clean.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._kvm import ffi, lib
from .errors import KvmError
from .saved import Calls
from .vm import VM

ENOUGH = 4
"""How many times as many pages as the first round after a cleaning had are copied before the next cleaning."""
FEW = 64
"""So many pages are not worth a cleaning."""


class LoggedSlot(NamedTuple):
    """A memory slot with its log turned on: its number, and where its bytes are in the RAM as one piece."""

    slot: int
    offset: int
    size: int


class DirtyLog:
    """The logs of all slots, side by side in one `bitmap`: bit N is the page at offset N * 4096 of the RAM.

    The slots are given by rising offsets: KVM writes whole words, and what it writes of pages behind a slot's last one
    is put right by the next slot.
    """

    def __init__(self, vm: VM, slots: Sequence[LoggedSlot]) -> None:
        pages = max(slot.offset + slot.size for slot in slots) >> 12
        # A slot that does not begin at a multiple of 64 pages has its last word reach past its end.
        spare = any(slot.offset >> 12 & 63 for slot in slots)
        self.bitmap = bytearray((-(-pages // 64) + spare) * 8)
        self._held = ffi.from_buffer(self.bitmap)
        self._words = ffi.cast("uint64_t *", self._held)
        self._size = len(self.bitmap) // 8
        cleaned_apart = vm.check_extension("MANUAL_DIRTY_LOG_PROTECT2") & 1
        if cleaned_apart:
            vm.enable_capability("MANUAL_DIRTY_LOG_PROTECT2", 1)
        get, clear = [], []
        for number, offset, size in slots:
            part = self._held + (offset >> 15)  # a slot begins at a multiple of 8 pages
            log = ffi.new("struct kvm_dirty_log *", {"slot": number})
            log.dirty_bitmap = part
            get.append((vm.fd, lib.KVM_GET_DIRTY_LOG, log))
            clean = ffi.new("struct kvm_clear_dirty_log *", {"slot": number, "num_pages": size >> 12})
            clean.dirty_bitmap = part
            clear.append((vm.fd, lib.KVM_CLEAR_DIRTY_LOG, clean))
        self._get, self._clear = Calls(get), Calls(clear) if cleaned_apart else None
        self._limit = 0
        """Pages above which `undo` cleans; 0 if it has just done so, and the next round is to tell."""

    def fetch(self) -> bytearray:
        """`bitmap` with what was written since the last call, or since the logs were turned on, and perhaps more.

        It is used again.
        """
        self._get()
        self._clean()
        return self.bitmap

    def undo(self, target: Any, source: Any) -> int:
        """Copy what was written since the last call from `source` to `target`, and return how many pages that were.

        Both are addresses (see `address_of`) of as many bytes as the log has pages for, and alike but for these pages.
        """
        get = self._get
        copied: int = lib.pykvm_undo(get.calls, get.count, target, source, self._words, self._size)
        if copied < 0:
            raise KvmError("KVM_GET_DIRTY_LOG", ffi.errno, "the slot has no dirty log")
        if not self._limit:
            self._limit = ENOUGH * copied + FEW
        elif copied > self._limit:
            self._clean()
        return copied

    def _clean(self) -> None:
        self._limit = 0
        if self._clear is not None:
            self._clear()


def address_of(buffer: mmap.mmap) -> Any:
    """Where a mapping is in this process. It counts as long as the mapping is not closed."""
    with ffi.from_buffer(buffer) as held:
        return ffi.cast("char *", ffi.cast("uintptr_t", held))
