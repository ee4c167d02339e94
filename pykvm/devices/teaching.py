"""A card to learn driver writing with: registers, interrupts, DMA to and from a buffer of its own, factorials.

An own design, in the spirit of QEMU's "edu" device; docs/pci.md is its data sheet. PCI 1234:7EAC, BAR 0 has the
registers, BAR 1 the buffer, BAR 2 the MSI-X table.
"""

from __future__ import annotations

from math import factorial

from ..device import State
from .pci.card import PciDevice
from .pci.config import Bar
from .pci.dma import DmaError
from .pci.registers import RO, W1C, WO, Register

BUFFER = 4096
"""Bytes of the buffer."""
MOST = 20
"""The largest number whose factorial has 64 bits."""
TO_DEVICE, TO_RAM = 1, 2
"""Values of DMA_COMMAND."""
FACTORIAL, DMA, SOFTWARE = range(3)
"""Causes of interrupts: bits of INTERRUPT_STATUS and INTERRUPT_ENABLE, and vectors of messages."""
_OVERFLOW, _DMA_FAILED = 1 << 0, 1 << 1
_CAUSES = "factorial dma software"


class Teaching(PciDevice):
    """The card. A driver that waits for nothing is right, too: what it asks for is done at once."""

    name = "teaching"
    vendor_id, device_id = 0x1234, 0x7EAC
    msi, msix = 4, 3
    bars = (
        Bar(
            4096,
            (
                Register("IDENT", 0x00, access=RO, reset=0x5459_4B01),
                Register("SCRATCH", 0x04),
                Register("STATUS", 0x08, access=RO, bits="overflow dma-failed"),
                Register("INTERRUPT_ENABLE", 0x0C, mask=7, bits=_CAUSES),
                Register("INTERRUPT_STATUS", 0x10, access=W1C, bits=_CAUSES),
                Register("INTERRUPT_RAISE", 0x14, access=WO, bits=_CAUSES),
                Register("NUMBER", 0x20),
                Register("FACTORIAL", 0x28, width=8, access=RO),
                Register("DMA_ADDRESS", 0x40, width=8),
                Register("DMA_LENGTH", 0x48),
                Register("DMA_OFFSET", 0x4C),
                Register("DMA_COMMAND", 0x50, access=WO, bits="to-device to-ram"),
            ),
        ),
        Bar(BUFFER, prefetchable=True),
    )

    def __init__(self) -> None:
        self.buffer = bytearray(BUFFER)
        super().__init__()

    def on_write_number(self, value: int) -> None:
        """Compute."""
        fits = value <= MOST
        self.registers["FACTORIAL"] = factorial(value) if fits else 0
        self._set_status(_OVERFLOW, not fits)
        self._happened(1 << FACTORIAL)

    def on_write_dma_command(self, command: int) -> None:
        """Transfer DMA_LENGTH bytes between RAM at DMA_ADDRESS and the buffer at DMA_OFFSET."""
        address, length, offset = (self.registers[f"DMA_{name}"] for name in ("ADDRESS", "LENGTH", "OFFSET"))
        good = command in (TO_DEVICE, TO_RAM) and offset + length <= BUFFER
        try:
            if good and command == TO_DEVICE:
                self.buffer[offset : offset + length] = self.dma.read(address, length)
            elif good:
                self.dma.write(address, self.buffer[offset : offset + length])
        except DmaError:
            good = False
        self._set_status(_DMA_FAILED, not good)
        self._happened(1 << DMA)

    def on_write_interrupt_raise(self, causes: int) -> None:
        """Have these causes be there."""
        self._happened(causes & 7)

    def on_write_interrupt_enable(self, _: int) -> None:
        """Causes that are there already count from now on."""
        self._happened(0)

    def on_write_interrupt_status(self, _: int) -> None:
        """Some have been seen to."""
        if not self.registers["INTERRUPT_STATUS"] & self.registers["INTERRUPT_ENABLE"]:
            self.lower_interrupt()

    def _set_status(self, bits: int, on: bool) -> None:
        status = self.registers["STATUS"]
        self.registers["STATUS"] = status | bits if on else status & ~bits

    def _happened(self, causes: int) -> None:
        registers = self.registers
        registers["INTERRUPT_STATUS"] |= causes
        wanted = registers["INTERRUPT_STATUS"] & registers["INTERRUPT_ENABLE"]
        for cause in (FACTORIAL, DMA, SOFTWARE):
            if wanted >> cause & 1 and (causes >> cause & 1 or not causes):
                self.raise_interrupt(cause)
        if not wanted:
            self.lower_interrupt()

    def read_bar(self, bar: int, offset: int, size: int) -> int:
        if bar == 1:
            return int.from_bytes(self.buffer[offset : offset + size], "little")
        return super().read_bar(bar, offset, size)

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> None:
        if bar == 1:
            self.buffer[offset : offset + size] = value.to_bytes(size, "little")
        else:
            super().write_bar(bar, offset, size, value)

    def reset_device(self) -> None:
        self.buffer[:] = bytes(BUFFER)

    def save(self) -> State:
        return {**super().save(), "buffer": bytes(self.buffer)}

    def restore(self, state: State) -> None:
        buffer = state.get("buffer")
        if not isinstance(buffer, bytes) or len(buffer) != BUFFER:
            raise ValueError(f"{self.name}: 'buffer' is not {BUFFER} bytes")
        super().restore(state)
        self.buffer[:] = buffer
