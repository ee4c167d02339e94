"""COM1 to COM4: 16550A UARTs (see `devices.uart16550`)."""

from __future__ import annotations

from ..arguments import require_number
from ..console.port import ConsolePort
from ..devices.uart16550 import Uart16550
from ..errors import ConfigError
from ..typed import Any
from .option import Bench, DeviceOption

COM_PORTS = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))
"""COM1 to COM4: (port, IRQ)."""


class SerialPorts(DeviceOption):
    """The number of serial ports, 0 to 4."""

    name = "serial_ports"
    default = 1

    def build(self, value: Any, bench: Bench) -> int:
        require_number(self.name, value)
        if not 0 <= value <= len(COM_PORTS):
            raise ConfigError(f"{value} serial ports are not possible: a PC has 0 to {len(COM_PORTS)}")
        for number, (base, irq) in enumerate(COM_PORTS[:value]):
            console = ConsolePort(bench.lock.condition(), f"COM{number + 1}")
            bench.consoles.append(console)
            bench.board.add(Uart16550(console.name, base, bench.board.irq(irq), console))
        return int(value)

    def from_snapshot(self, plain: Any) -> int:
        if type(plain) is not int or not 0 <= plain <= len(COM_PORTS):
            raise ValueError(f"there are {plain!r:.20} serial ports")
        return plain


OPTION = SerialPorts()
