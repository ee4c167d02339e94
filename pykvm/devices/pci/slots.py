"""The slots of bus 0: where cards are decoded, and which interrupt input each pin of each slot leads to.

Sources: PCI Local Bus Specification 3.0, 2.2.6 (the pins of the slots are rotated); 82371SB (PIIX3) data sheet, PIRQRC
(one of PIRQA to PIRQD to one IRQ); 82093AA (IOAPIC) data sheet, its inputs 16 to 19 for PIRQ0 to PIRQ3. Slot and pin
lead to the PIRQ that they have on QEMU's PC: (slot - 1 + pin) mod 4. A PIRQ reaches the IRQ that PIRQRC says, at the
8259s and the IOAPIC, and the IOAPIC's input 16 + PIRQ besides.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...device import Aside, Device, IrqLine
from ...errors import ConfigError
from ...memory import GuestMemory
from ...typed import Protocol
from .card import PciDevice, Window
from .config import LINE

FIRST_INPUT = 16
"""The IOAPIC's input for PIRQA."""
ROUTABLE = (3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15)
"""What PIRQRC can name."""
MEMORY_WINDOW, IO_WINDOW = range(0xE000_0000, 0xFC00_0000), range(0xC000, 0x1_0000)
"""Where firmware would give cards their addresses: between RAM and the display, and above all ISA ports."""
SLOTS = range(32)


class Carrier(Protocol):
    """The board."""

    @property
    def memory(self) -> GuestMemory:
        """RAM."""

    @property
    def aside(self) -> Aside:
        """Who does what takes long."""

    def place(self, window: Device) -> None:
        """Have a device answer what its ranges say; ConfigError if somebody else does."""

    def displace(self, window: Device) -> None:
        """Undo that."""

    def irq(self, number: int) -> IrqLine:
        """A new line to an interrupt input."""

    def message(self, address: int, data: int) -> None:
        """A message to the local APICs."""

    def make_level_triggered(self, irqs: Iterable[int]) -> None:
        """Have the 8259s take these as levels."""


def pirq_of(slot: int, pin: int) -> int:
    """0 to 3 for the PIRQ that INTA to INTD (`pin` 1 to 4) of a slot is."""
    return (slot - 1 + pin - 1) & 3


class Slots:
    """The slots of `carrier` that are not `taken` by the chip set. With `assign` cards have addresses from the start,
    as a PC's firmware leaves them."""

    FIRMWARE_ROUTES = 0x0A0B_0A0B
    """PIRQRC as firmware leaves it: IRQ 11 for PIRQA and PIRQC, IRQ 10 for the others."""

    def __init__(self, carrier: Carrier, taken: Iterable[int], *, assign: bool) -> None:
        self._carrier, self._taken, self._assign = carrier, frozenset(taken), assign
        self.cards: list[PciDevice] = []
        self._placed: list[Window] = []
        self._decoded: list[tuple[Window, int]] = []
        self._inputs = [carrier.irq(FIRST_INPUT + pirq) for pirq in range(4)]
        self._irqs = {number: carrier.irq(number) for number in ROUTABLE}
        self._routes = 0x8080_8080
        if assign:
            carrier.make_level_triggered({self.FIRMWARE_ROUTES >> 8 * pirq & 15 for pirq in range(4)})

    @property
    def memory(self) -> GuestMemory:
        """RAM."""
        return self._carrier.memory

    @property
    def aside(self) -> Aside:
        """Who does what takes long."""
        return self._carrier.aside

    def plug(self, device: Device) -> None:
        """Put a card into its slot, or the first free one."""
        if not isinstance(device, PciDevice):
            raise ConfigError(f"{type(device).__name__} says that it is a card, and is no PciDevice")
        used = self._taken | {card.slot for card in self.cards}
        if device in self.cards:
            raise ConfigError(f"{device.name} is in slot {device.slot} already")
        slot = device.slot if device.slot is not None else next((at for at in SLOTS if at not in used), None)
        if slot is None:
            raise ConfigError(f"{device.name}: all {len(SLOTS)} slots are taken")
        if slot not in SLOTS or slot in used:
            raise ConfigError(f"{device.name}: slot {slot} is taken or not there: give 3 to 31, or none")
        if self._assign:
            self._give_addresses(device, slot)
        self.cards.append(device)
        self.cards.sort(key=lambda card: card.slot if card.slot is not None else slot)
        device.plugged(self, slot)
        device.reset()

    def unplug(self, device: Device) -> None:
        """Take a card out."""
        if not isinstance(device, PciDevice) or device not in self.cards:
            raise ConfigError(f"{device.name} is in no slot of this machine")
        device.hot_reset()
        self.cards.remove(device)
        device.plugged(None, None)

    def _give_addresses(self, card: PciDevice, slot: int) -> None:
        config = card.config
        config.assigned.clear()
        for bar, at in zip(config.bars, config.places, strict=True):
            window = IO_WINDOW if bar.is_io else MEMORY_WINDOW
            taken = sorted(
                (base, base + other.config.bars[number].size)
                for other in (*self.cards, card)
                for number, place in enumerate(other.config.places)
                if (base := other.config.assigned.get(place)) is not None and base in window
            )
            base = -(-window.start // bar.size) * bar.size
            for first, end in taken:
                if base < end and first < base + bar.size:
                    base = -(-end // bar.size) * bar.size
            if base + bar.size > window.stop:
                raise ConfigError(f"{card.name}: there is no room for its BAR of {bar.size:#x} bytes beside the others")
            config.assigned[at] = base | bar.flags
        if card.interrupt_pin:
            config.assigned[LINE] = self.FIRMWARE_ROUTES >> 8 * pirq_of(slot, card.interrupt_pin) & 15

    # What cards say

    def decode(self) -> None:
        """Put the BARs onto the buses where they are decoded now.

        Which of two that overlap answers is a matter of slots and BARs, the lower ones first, and not of time: so a
        state that is restored has the same ones. A BAR over RAM, or over a device that is no card, is not decoded.
        """
        wanted = [
            (window, base)
            for card in self.cards
            for number, window in enumerate(card.windows)
            if (base := card.config.base(number)) is not None
        ]
        if wanted == self._decoded:
            return
        self._decoded = wanted
        for window in self._placed:
            self._carrier.displace(window)
            window.move(None)
        self._placed = []
        for window, base in wanted:
            window.move(base)
            try:
                self._carrier.place(window)
            except ConfigError:
                window.move(None)
            else:
                self._placed.append(window)
        for card in self.cards:
            card.show_spans()

    def interrupt(self) -> None:
        """Drive the interrupt inputs as the pins are."""
        raised = 0
        for card in self.cards:
            if card.slot is not None and card.pin_level:
                raised |= 1 << pirq_of(card.slot, card.interrupt_pin)
        irqs = {self._routes >> 8 * pirq & 0xFF for pirq in range(4) if raised >> pirq & 1}
        for pirq, line in enumerate(self._inputs):
            line.set(bool(raised >> pirq & 1))
        for number, line in self._irqs.items():
            line.set(number in irqs)

    def message(self, address: int, data: int) -> None:
        """A message to the local APICs."""
        self._carrier.message(address, data)

    def route(self, pirqrc: int) -> None:
        """The guest has written to PIRQRC: a byte for each PIRQ, of which bit 7 says that it leads nowhere."""
        if pirqrc != self._routes:
            self._routes = pirqrc
            self.interrupt()
