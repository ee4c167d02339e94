"""What the tests of the 16550A share: a wire, and a UART on it."""

from __future__ import annotations

from collections.abc import Callable

import device_rig
from device_rig import Line

from pykvm.devices.uart16550 import Uart16550

RBR = THR = 0
IER, IIR, LCR, MCR, LSR, MSR, SCR = 1, 2, 3, 4, 5, 6, 7
FCR = 2
COM1 = 0x3F8


class Wire:
    """A character backend in memory: the far end of the serial line."""

    def __init__(self) -> None:
        self.ready = True
        self.sent: list[bytes] = []
        self.waiting = b""
        self.room: int | None = None
        """Writes taken until the wire turns not ready; None for no end."""
        self.on_input: Callable[[], None] = lambda: None
        self.on_ready: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        assert self.ready
        self.sent.append(data)
        if self.room is not None:
            self.room -= 1
            self.ready = self.room > 0

    def read(self, limit: int) -> bytes:
        data, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return data

    def connect(self, on_input: Callable[[], None], on_ready: Callable[[], None]) -> None:
        self.on_input, self.on_ready = on_input, on_ready

    def type(self, data: bytes) -> None:
        self.waiting += data
        self.on_input()

    def unblock(self) -> None:
        self.ready, self.room = True, None
        self.on_ready()

    @property
    def text(self) -> bytes:
        return b"".join(self.sent)


class Rig(device_rig.Rig[Uart16550]):
    """A UART, its wire, and its registers as ports 0 to 7."""

    def __init__(self, wire: Wire | None = None) -> None:
        self.wire = wire or Wire()
        irq = Line()
        super().__init__(Uart16550("COM1", COM1, irq, self.wire), irq, base=COM1)


def fifo_rig(trigger: int = 0) -> Rig:
    """FIFOs on and cleared, DTR, RTS and OUT2 on, 8N1: as a driver leaves it."""
    rig = Rig()
    rig.outb(LCR, 0x03)
    rig.outb(FCR, trigger << 6 | 0x07)
    rig.outb(MCR, 0x0B)
    return rig
