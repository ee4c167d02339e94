"""KVM's dirty log: which pages of the memory slots the guest has written (api.rst, KVM_GET_DIRTY_LOG).

Without KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 taking the log also begins the next one, in one ioctl a slot: just what going
back to a snapshot needs, as no vCPU runs meanwhile.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._kvm import ffi, lib
from .errors import KvmError
from .saved import Calls
from .vm import VM


class LoggedSlot(NamedTuple):
    """A memory slot with its log turned on: its number, and where its bytes are in the RAM as one piece."""

    slot: int
    offset: int
    size: int


class DirtyLog:
    """The logs of all slots, side by side in one `bitmap`: bit N is the page at offset N * 4096 of the RAM."""

    def __init__(self, vm: VM, slots: Sequence[LoggedSlot]) -> None:
        pages = max(slot.offset + slot.size for slot in slots) >> 12
        self.bitmap = bytearray(-(-pages // 64) * 8)
        self._held = ffi.from_buffer(self.bitmap)
        calls = []
        for slot in slots:
            log = ffi.new("struct kvm_dirty_log *", {"slot": slot.slot})
            log.dirty_bitmap = self._held + (slot.offset >> 15)  # a slot begins at a multiple of 64 pages
            calls.append((vm.fd, lib.KVM_GET_DIRTY_LOG, log))
        self._fetch = Calls(calls)
        self._words = ffi.cast("uint64_t *", self._held)
        self._size = len(self.bitmap) // 8

    def fetch(self) -> bytearray:
        """`bitmap` with what was written since the last call, or since the logs were turned on. It is used again."""
        self._fetch()
        return self.bitmap

    def undo(self, target: Any, source: Any) -> int:
        """Copy what was written since the last call from `source` to `target`, and return how many pages that were.

        Both are addresses (see `address_of`) of as many bytes as the log has pages for.
        """
        fetch = self._fetch
        copied: int = lib.pykvm_undo(fetch.calls, fetch.count, target, source, self._words, self._size)
        if copied < 0:
            raise KvmError("KVM_GET_DIRTY_LOG", ffi.errno, "the slot has no dirty log")
        return copied


def address_of(buffer: mmap.mmap) -> Any:
    """Where a mapping is in this process. It counts as long as the mapping is not closed."""
    with ffi.from_buffer(buffer) as held:
        return ffi.cast("char *", ffi.cast("uintptr_t", held))
