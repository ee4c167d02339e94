"""Firmware images: a BIOS at the top of the first 4 GiB and below 1 MiB, entered at the reset vector.

Source: Intel SDM volume 3A, 10.1.4 (the first instruction is at FFFFFFF0h; CS has the selector F000h and the base
FFFF0000h); Intel 440FX data sheet, 3.2.17 (programmable attribute map: 0xE0000 to 0xFFFFF as RAM that shadows the ROM).
"""

from __future__ import annotations

import mmap

from ..memory import PAGE_SIZE, GuestMemory
from ..x86 import start
from . import EntryState, ImageError, Span

TOP = 1 << 32
MAX_SIZE = 16 << 20
"""Bytes: below them are the addresses of the local APIC and the IOAPIC."""
MIN_SIZE = 64 << 10
SHADOW_END = 1 << 20
SHADOW_SIZE = 128 << 10
"""Bytes below 1 MiB that show the end of the image."""


class Rom:
    """A firmware image, mapped for KVM to show it to the guest from `gpa` on; `size` is in bytes.

    ImageError unless the image has a size that a firmware can have.
    """

    def __init__(self, image: bytes) -> None:
        size = self.size = len(image)
        if size % PAGE_SIZE or not MIN_SIZE <= size <= MAX_SIZE:
            raise ImageError(f"{size} bytes are no firmware image: one has 64K to 16M, in whole pages of 4K")
        self.gpa = TOP - size
        self.map = mmap.mmap(-1, size)
        self.map[:] = image

    def load(self, memory: GuestMemory) -> EntryState:
        """Put the image's end below 1 MiB, for a CPU that comes out of reset. ImageError if RAM ends before."""
        if memory.regions[0].size < SHADOW_END:
            raise ImageError(f"a firmware needs 1M of memory, not {memory.size >> 10}K")
        shadow = self.map[-SHADOW_SIZE:]
        base = SHADOW_END - len(shadow)
        memory.write(base, shadow)
        registers, system = start.reset()
        return EntryState(registers, system, "firmware", spans=[Span(base, base, len(shadow))])

    def close(self) -> None:
        """Give the mapping back."""
        self.map.close()
