"""virtio entropy source: fills buffers with the host's random bytes (virtio 1.2, section 5.4)."""

from __future__ import annotations

import os

from .queue import Chain, pieces, total
from .transport import VirtioDevice

MOST_BYTES = 64 << 10
"""Of one request: the driver learns how many it got."""


class VirtioRng(VirtioDevice):
    """The device."""

    name = "virtio rng"
    kind = 4
    class_code = 0xFF0000

    def __init__(self) -> None:
        super().__init__()

    def serve(self, number: int, chain: Chain) -> int:
        size = min(total(chain.writable), MOST_BYTES)
        for gpa, length in pieces(chain.writable, 0, size):
            self.dma.write(gpa, os.urandom(length))
        return size
