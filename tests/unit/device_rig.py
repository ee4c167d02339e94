"""What device tests share: a device on a port bus, its IRQ line with a memory, and the way of its state to another."""

from __future__ import annotations

from typing import Generic, TypeVar

import pytest

from pykvm.bus import PortBus
from pykvm.device import Device, IrqLine, State

AnyDevice = TypeVar("AnyDevice", bound=Device)


class Line(IrqLine):
    """An IRQ line that keeps each new level in `edges`."""

    def __init__(self) -> None:
        self.edges: list[bool] = []
        super().__init__(self.edges.append)


def bus_with(*devices: Device) -> PortBus:
    bus = PortBus()
    for device in devices:
        bus.attach(device)
    return bus


class Rig(Generic[AnyDevice]):
    """`device` on a bus, with those that stand `beside` it, as a driver meets it. Port numbers here count from `base`.

    `irq` is the line that the device was made with; a device without one never moves it.
    """

    def __init__(self, device: AnyDevice, irq: Line | None = None, *, base: int = 0, beside: tuple[Device, ...] = ()):
        self.device, self.irq, self.base = device, irq or Line(), base
        self.bus = bus_with(*beside, device)

    @property
    def edges(self) -> list[bool]:
        return self.irq.edges

    @property
    def rises(self) -> int:
        """Rising edges of the line so far: interrupts, to an edge-triggered PIC."""
        return self.edges.count(True)

    def inb(self, port: int) -> int:
        return self.bus.read(self.base + port, 1)

    def outb(self, port: int, value: int) -> None:
        self.bus.write(self.base + port, 1, value)

    def ins(self, port: int, count: int, size: int = 1) -> bytes:
        """`rep ins` of `count` items of `size` bytes."""
        return self.bus.read_block(self.base + port, size, count)

    def outs(self, port: int, data: bytes, size: int = 1) -> None:
        """`rep outs` of items of `size` bytes."""
        self.bus.write_block(self.base + port, size, data)

    def save_into(self, other: Rig[AnyDevice]) -> State:
        """Restore this device's state in `other`'s, which then is the same and has its line where this one has it."""
        state = self.device.save()
        other.device.restore(state)
        assert other.device.save() == state
        assert other.irq.level == self.irq.level
        return state

    def takes(self, state: State) -> bool:
        """Whether the device takes a hostile state. It refuses with ValueError and nothing else, and is as before."""
        before = self.device.save()
        try:
            self.device.restore(state)
        except ValueError:
            assert self.device.save() == before
            return False
        return True

    def refuses(self, state: State, match: str) -> None:
        """Assert that the device refuses `state` with a ValueError that says `match`, and is as before."""
        before = self.device.save()
        with pytest.raises(ValueError, match=match):
            self.device.restore(state)
        assert self.device.save() == before
