"""Cards in slots of a PC's PCI bus, with real buses and RAM, and a driver's ways to their configuration space."""

from __future__ import annotations

from collections.abc import Iterable

from device_rig import Line

from pykvm.bus import MmioBus, PortBus
from pykvm.device import Aside, Device, IrqLine, Range, at_once
from pykvm.devices.pci.card import PciDevice
from pykvm.devices.pci.host import PciHost
from pykvm.errors import ConfigError
from pykvm.memory import GuestMemory

COMMAND, STATUS, BAR0, LINE = 0x04, 0x06, 0x10, 0x3C
IO, MEMORY, MASTER, NO_INTX = 1, 2, 4, 1 << 10
RAM = 1 << 20


class Carrier:
    """What a card has of the board."""

    def __init__(self) -> None:
        self.memory = GuestMemory(RAM)
        self.ports, self.mmio = PortBus(), MmioBus()
        self.lines: dict[int, list[Line]] = {}
        self.messages: list[tuple[int, int]] = []
        self.levels: set[int] = set()
        self.aside: Aside = at_once

    def _bus(self, device: Device) -> PortBus | MmioBus:
        return self.ports if device.ports else self.mmio

    def place(self, window: Device) -> None:
        for span in window.mmio:
            if span.base < RAM:
                raise ConfigError("this is RAM")
        self._bus(window).place(window)

    def displace(self, window: Device) -> None:
        self._bus(window).displace(window)

    def irq(self, number: int) -> IrqLine:
        line = Line()
        self.lines.setdefault(number, []).append(line)
        return line

    def message(self, address: int, data: int) -> None:
        self.messages.append((address, data))

    def make_level_triggered(self, irqs: Iterable[int]) -> None:
        self.levels |= set(irqs)


class Board:
    """A machine's PCI bus with `cards`; `firmware` says that a firmware will give them addresses."""

    def __init__(self, *cards: PciDevice, firmware: bool = False) -> None:
        self.carrier = Carrier()
        self.host = PciHost(carrier=self.carrier, firmware=firmware)
        self.carrier.ports.attach(self.host)
        for card in cards:
            self.host.plug(card)

    @property
    def raised(self) -> set[int]:
        """The interrupt inputs that are up."""
        return {number for number, lines in self.carrier.lines.items() if any(line.level for line in lines)}

    def config(self, slot: int, register: int, size: int = 4) -> int:
        self.carrier.ports.write(0xCF8, 4, 1 << 31 | slot << 11 | register & 0xFC)
        return self.carrier.ports.read(0xCFC + (register & 3), size)

    def configure(self, slot: int, register: int, value: int, size: int = 4) -> None:
        self.carrier.ports.write(0xCF8, 4, 1 << 31 | slot << 11 | register & 0xFC)
        self.carrier.ports.write(0xCFC + (register & 3), size, value)

    def capability(self, slot: int, kind: int) -> int:
        """Where a capability is, found as a driver does; 0 if it is not there."""
        if not self.config(slot, STATUS, 2) & 1 << 4:
            return 0
        at, seen = self.config(slot, 0x34, 1), 0
        while at and self.config(slot, at, 1) != kind:
            at, seen = self.config(slot, at + 1, 1), seen + 1
            assert seen < 48
        return at

    def bar(self, slot: int, number: int) -> int:
        return self.config(slot, BAR0 + 4 * number) & ~0xF

    def read(self, address: int, size: int = 4) -> int:
        return self.carrier.mmio.read(address, size)

    def write(self, address: int, value: int, size: int = 4) -> None:
        self.carrier.mmio.write(address, size, value)

    def close(self) -> None:
        self.carrier.memory.close()


class Obstacle(Device):
    """A device that is no card, in a card's way."""

    name = "obstacle"

    def __init__(self, base: int, length: int) -> None:
        self.mmio = (Range(base, length),)
