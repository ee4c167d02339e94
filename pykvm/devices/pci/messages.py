"""Message-signalled interrupts of a card: MSI out of its configuration space, MSI-X out of a table in a BAR.

Implements: PCI Local Bus Specification 3.0, sections 6.8.1.6 (sending, and several messages of one device), 6.8.2 and
6.8.3 (MSI-X table and pending bits). A message that is masked is pending, and is sent when the mask goes.
"""

from __future__ import annotations

from collections.abc import Callable

from ...typed import Any
from .config import MSI_ENABLE, MSIX, MSIX_ENABLE, MSIX_MASK_ALL, Capability, ConfigSpace

Send = Callable[[int, int], None]
"""`send(address, data)`: the card's memory write that is the interrupt."""

_ENTRY = 16
_VECTOR_MASKED = 1


class Msi:
    """MSI of `config`."""

    def __init__(self, config: ConfigSpace, send: Send) -> None:
        self._config, self._at, self._send = config, config.msi_at, send

    @property
    def enabled(self) -> bool:
        """Whether messages take the place of the interrupt pin."""
        return bool(self._config.data[self._at + 2] & MSI_ENABLE)

    def raise_(self, vector: int) -> None:
        """Send a vector's message; one that the driver has not been given is vector 0's."""
        config, at = self._config, self._at
        granted = 1 << (config.data[at + 2] >> 4 & 7)
        offered = 1 << (config.data[at + 2] >> 1 & 7)
        granted = min(granted, offered)
        vector = vector if vector < granted else 0
        if config.read(at + 16) >> vector & 1:
            config.set(at + 20, 4, 1 << vector, True)
            return
        self._send(config.read(at + 4, 8), config.read(at + 12, 2) & ~(granted - 1) | vector)

    def written(self) -> None:
        """The guest has written to the capability: what is pending and not masked any more is sent."""
        if self.enabled:
            ready = self._config.read(self._at + 20) & ~self._config.read(self._at + 16)
            if ready:
                self._config.set(self._at + 20, 4, ready, False)
                for vector in range(32):
                    if ready >> vector & 1:
                        self.raise_(vector)


class MsiX:
    """MSI-X of `config` with `vectors` in a table, which begins its BAR; the pending bits are in its second half."""

    def __init__(self, config: ConfigSpace, vectors: int, send: Send) -> None:
        self._config, self._at, self._send = config, config.msix_at, send
        self.vectors = vectors
        self.pba = bar_size(vectors) // 2
        self.reset()

    def reset(self) -> None:
        """All vectors masked, none pending."""
        self.table = bytearray((b"\0" * 12 + b"\1\0\0\0") * self.vectors)
        self.pending = 0

    @property
    def enabled(self) -> bool:
        """Whether messages take the place of the interrupt pin."""
        return bool(self._control & MSIX_ENABLE)

    @property
    def _control(self) -> int:
        return self._config.read(self._at + 2, 2)

    def raise_(self, vector: int) -> None:
        """Send a vector's message; nothing for one that is not in the table."""
        if vector >= self.vectors:
            return
        address, data, control = self._entry(vector)
        if control & _VECTOR_MASKED or self._control & MSIX_MASK_ALL:
            self.pending |= 1 << vector
        else:
            self._send(address, data)

    def _entry(self, vector: int) -> tuple[int, int, int]:
        entry = self.table[_ENTRY * vector : _ENTRY * (vector + 1)]
        return tuple(int.from_bytes(entry[at:end], "little") for at, end in ((0, 8), (8, 12), (12, 16)))  # type: ignore[return-value]

    def written(self) -> None:
        """The guest has written to capability or table: what is pending and not masked any more is sent."""
        if self.pending and self.enabled and not self._control & MSIX_MASK_ALL:
            for vector in range(self.vectors):
                if self.pending >> vector & 1 and not self._entry(vector)[2] & _VECTOR_MASKED:
                    self.pending &= ~(1 << vector)
                    self.raise_(vector)

    def read(self, offset: int, size: int) -> int:
        """A read of the BAR."""
        if offset >= self.pba:
            return self.pending >> 8 * (offset - self.pba) & (1 << 8 * size) - 1
        return int.from_bytes(self.table[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """A write to the BAR; the pending bits are read-only."""
        room = max(0, min(size, len(self.table) - offset))
        self.table[offset : offset + room] = (value & (1 << 8 * room) - 1).to_bytes(room, "little")
        self.written()

    def save(self) -> dict[str, Any]:
        """Table and pending bits."""
        return {"table": bytes(self.table), "pending": self.pending}

    def check(self, saved: Any) -> tuple[bytes, int]:
        """The content of a saved state; ValueError if it cannot be."""
        table, pending = (saved.get("table"), saved.get("pending")) if isinstance(saved, dict) else (None, None)
        if not isinstance(table, bytes) or len(table) != len(self.table):
            raise ValueError(f"the MSI-X table is not {len(self.table)} bytes")
        if type(pending) is not int or not 0 <= pending < 1 << self.vectors:
            raise ValueError(f"the MSI-X pending bits cannot be {pending!r:.40}")
        return table, pending


def bar_size(vectors: int) -> int:
    """Bytes of a BAR that has a table of that many vectors, and nothing else."""
    return max(4096, 1 << (2 * _ENTRY * vectors - 1).bit_length())


def msix_capability(vectors: int, bar: int) -> Capability:
    """Message control, table and pending bits, both in the BAR with that index (6.8.2.3 to 6.8.2.5)."""
    body = (vectors - 1).to_bytes(2, "little") + bar.to_bytes(4, "little")
    return Capability(MSIX, body + (bar_size(vectors) // 2 | bar).to_bytes(4, "little"), b"\0\xc0")
