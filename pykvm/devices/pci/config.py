"""The configuration space of a card: identity, command and status, base addresses, capabilities, MSI.

Implements: PCI Local Bus Specification 3.0, chapter 6: 6.1 (header type 0), 6.2.2 and 6.2.3 (command and status), 6.2.5
(base addresses), 6.7 (capabilities), 6.8.1 (MSI with 64-bit addresses and masks for each vector), 6.8.2 (MSI-X).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ConfigError
from ...typed import Any, NamedTuple
from .registers import Register

SIZE = 256
COMMAND, STATUS, BARS, LINE, PIN, CAPABILITIES = 0x04, 0x06, 0x10, 0x3C, 0x3D, 0x40

IO_SPACE, MEMORY_SPACE, BUS_MASTER, PARITY, SERR, NO_INTX = 1 << 0, 1 << 1, 1 << 2, 1 << 6, 1 << 8, 1 << 10
"""Bits of the command register."""
INTERRUPT, CAPABILITY_LIST, MEDIUM = 1 << 3, 1 << 4, 1 << 9
RECEIVED_TARGET_ABORT, RECEIVED_MASTER_ABORT, DETECTED_PARITY = 1 << 12, 1 << 13, 1 << 15
_STATUS_CLEARABLE = 0xF900
"""Bits of the status register, and those of them that a write of 1 clears."""

MSI, VENDOR, MSIX = 0x05, 0x09, 0x11
"""Capability IDs."""
MSI_ENABLE = 1 << 0
MSIX_ENABLE, MSIX_MASK_ALL = 1 << 15, 1 << 14
MAX_BARS = 6
MOST_IO = 256
"""Bytes of an I/O BAR at most (6.2.5.1)."""


class Bar(NamedTuple):
    """A base address register: `size` bytes, a power of 2, in "memory" or "io" space, with `registers` in them.

    `wide` memory may be anywhere within 64 bits, and takes two of the six places; `prefetchable` memory has no side
    effects of reads.
    """

    size: int
    registers: Sequence[Register] = ()
    kind: str = "memory"
    wide: bool = False
    prefetchable: bool = False

    @property
    def is_io(self) -> bool:
        """Whether it is in I/O space."""
        return self.kind == "io"

    def check(self) -> None:
        """ConfigError for a BAR that cannot be."""
        if self.kind not in ("memory", "io"):
            raise ConfigError(f'a BAR of kind {self.kind!r} is not possible: give "memory" or "io"')
        least, most = (4, MOST_IO) if self.is_io else (16, 1 << 31)
        if not least <= self.size <= most or self.size & self.size - 1:
            raise ConfigError(
                f"a BAR of {self.size} bytes is not possible: its size is a power of 2 from {least} to {most}"
            )
        if self.is_io and (self.wide or self.prefetchable):
            raise ConfigError("a BAR in I/O space is neither wide nor prefetchable")
        for register in self.registers:
            register.check(self.size)

    @property
    def flags(self) -> int:
        """The low bits, which cannot be written."""
        return 1 if self.is_io else (4 if self.wide else 0) | (8 if self.prefetchable else 0)


class Capability(NamedTuple):
    """A capability with that ID; `body` is what follows its first two bytes, `writable` the bits that can change."""

    id: int
    body: bytes
    writable: bytes = b""


class Identity(NamedTuple):
    """What a driver recognises a card by. `class_code` has base class, subclass and programming interface."""

    vendor_id: int
    device_id: int
    class_code: int = 0xFF0000
    revision: int = 0
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0


class ConfigSpace:
    """256 bytes, those of them that can be written, and what some of them mean.

    `pin` is 1 to 4 for INTA to INTD, 0 for none; `msi` the number of MSI vectors, a power of 2 up to 32, 0 for none.
    """

    def __init__(
        self, identity: Identity, bars: Sequence[Bar], pin: int, msi: int, capabilities: Sequence[Capability]
    ) -> None:
        self.bars = bars
        self.places: list[int] = []
        """The configuration address of each BAR."""
        self._reset = bytearray(SIZE)
        self._writable = bytearray(SIZE)
        self._put(0x00, identity.vendor_id, 2)
        self._put(0x02, identity.device_id, 2)
        self._put(0x08, identity.class_code << 8 | identity.revision, 4)
        self._put(0x2C, identity.subsystem_vendor_id, 2)
        self._put(0x2E, identity.subsystem_id, 2)
        io = IO_SPACE if any(bar.is_io for bar in bars) else 0
        memory = MEMORY_SPACE if any(not bar.is_io for bar in bars) else 0
        self._put(COMMAND, 0, 2, io | memory | BUS_MASTER | PARITY | SERR | (NO_INTX if pin else 0))
        self._put(0x0C, 0, 2, 0xFFFF)  # cache line size, latency timer
        self._put(LINE, 0, 1, 0xFF if pin else 0)
        self._put(PIN, pin, 1)
        at = BARS
        for bar in bars:
            bar.check()
            self.places.append(at)
            width = 8 if bar.wide else 4
            self._put(at, bar.flags, width, -bar.size & (1 << 8 * width) - 1)
            at += width
        if at > BARS + 4 * MAX_BARS:
            raise ConfigError(f"{len(bars)} BARs are too many: there are {MAX_BARS} places, and a wide one takes two")
        self.msi_at = self.msix_at = 0
        listed = [*([] if not msi else [_msi(msi)]), *capabilities]
        self._put(STATUS, MEDIUM | (CAPABILITY_LIST if listed else 0), 2)
        self._chain(listed)
        self.data = bytearray(self._reset)
        self.assigned: dict[int, int] = {}
        """What firmware has written, by BAR's place and for `LINE`: a reset by the machine leaves it so."""

    def _put(self, at: int, value: int, size: int, writable: int = 0) -> None:
        if not 0 <= value < 1 << 8 * size:
            raise ConfigError(f"{value:#x} does not fit the {size} bytes at {at:#x} of the configuration space")
        self._reset[at : at + size] = value.to_bytes(size, "little")
        self._writable[at : at + size] = writable.to_bytes(size, "little")

    def _chain(self, capabilities: Sequence[Capability]) -> None:
        at, link = CAPABILITIES, 0x34
        for capability in capabilities:
            end = at + 2 + len(capability.body)
            if end > SIZE:
                raise ConfigError("the capabilities are longer than the configuration space")
            self._reset[link] = at
            self._reset[at], link = capability.id, at + 1
            self._reset[at + 2 : end] = capability.body
            self._writable[at + 2 : end] = capability.writable.ljust(len(capability.body), b"\0")
            if capability.id == MSI:
                self.msi_at = at
            elif capability.id == MSIX:
                self.msix_at = at
            at = -(-end // 4) * 4

    def reset(self) -> None:
        """As after RST#, without addresses."""
        self.data[:] = self._reset

    def assign(self) -> None:
        """Put what firmware has assigned, and have it count."""
        for at, value in self.assigned.items():
            size = 1 if at == LINE else 8 if self.bars[self.places.index(at)].wide else 4
            self.data[at : at + size] = value.to_bytes(size, "little")
        self.data[COMMAND] |= self._writable[COMMAND] & (IO_SPACE | MEMORY_SPACE)

    def read(self, at: int, size: int = 4) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.data[at : at + size], "little")

    def write(self, at: int, size: int, value: int) -> None:
        """What the guest writes, of which only what can be written is taken."""
        for place in range(at, at + size):
            byte, value = value & 0xFF, value >> 8
            if place == STATUS + 1:
                self.data[place] &= ~(byte & _STATUS_CLEARABLE >> 8)
            else:
                lanes = self._writable[place]
                self.data[place] = self.data[place] & ~lanes | byte & lanes

    def set(self, at: int, size: int, bits: int, on: bool) -> None:
        """Turn bits on or off that the device itself turns."""
        value = self.read(at, size)
        self.data[at : at + size] = (value | bits if on else value & ~bits).to_bytes(size, "little")

    @property
    def command(self) -> int:
        """The command register."""
        return self.data[COMMAND] | self.data[COMMAND + 1] << 8

    def base(self, number: int) -> int | None:
        """Where a BAR is decoded now; None if it is not: the command register is against it, or it has no address."""
        bar, command = self.bars[number], self.command
        if not command & (IO_SPACE if bar.is_io else MEMORY_SPACE):
            return None
        base = self.read(self.places[number], 8 if bar.wide else 4) & -bar.size
        # Firmware and systems find out a BAR's size by writing ones: where that leads is nobody's.
        limit = 1 << 16 if bar.is_io else 1 << 52 if bar.wide else 0xFFFF_FFFF
        return base if base and base + bar.size <= limit else None

    def check(self, saved: Any) -> bytes:
        """The content of a saved state; ValueError if it cannot be this card's."""
        if not isinstance(saved, bytes) or len(saved) != SIZE:
            raise ValueError(f"the configuration space is not {SIZE} bytes")
        for at, (new, reset, writable) in enumerate(zip(saved, self._reset, self._writable, strict=True)):
            if (new ^ reset) & ~(writable | self._own(at)):
                raise ValueError(f"the configuration space cannot have {new:#x} at {at:#x}")
        return saved

    def _own(self, at: int) -> int:
        """The bits of a byte that the device itself changes."""
        if at in (STATUS, STATUS + 1):
            return (INTERRUPT | _STATUS_CLEARABLE) >> 8 * (at - STATUS) & 0xFF
        return 0xFF if self.msi_at and self.msi_at + 20 <= at < self.msi_at + 24 else 0


def _msi(vectors: int) -> Capability:
    """Message control with 64-bit addresses and masks, address, data, mask, pending (6.8.1)."""
    if vectors not in (1, 2, 4, 8, 16, 32):
        raise ConfigError(f"{vectors} MSI vectors are not possible: give 1, 2, 4, 8, 16 or 32")
    control = (vectors.bit_length() - 1) << 1 | 1 << 7 | 1 << 8
    writable = (0x71).to_bytes(2, "little") + (0xFFFF_FFFC).to_bytes(4, "little") + b"\xff" * 4 + b"\xff\xff\0\0"
    return Capability(
        MSI, control.to_bytes(2, "little") + bytes(20), writable + ((1 << vectors) - 1).to_bytes(4, "little")
    )
