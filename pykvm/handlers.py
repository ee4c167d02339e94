"""What a user puts on a machine's board: devices, interrupt lines, functions for ports, addresses and MSRs."""

from __future__ import annotations

from collections.abc import Callable

from .arguments import require_address
from .device import Access, Device, FunctionDevice, IrqLine, Range
from .engine.board import MsrHandler
from .engine.engine import Engine
from .errors import ConfigError

AccessHandler = Callable[[Access], int | None]


class Handlers:
    """The part of a machine that has to do with them."""

    engine: Engine

    def add(self, device: Device) -> None:
        """Put a device on the bus it names ports or addresses on; ConfigError if they are taken, or are RAM."""
        with self.engine.gate.lock:
            self.engine.board.add(device)

    def remove(self, device: Device) -> None:
        """Take a device off its bus."""
        with self.engine.gate.lock:
            self.engine.board.remove(device)

    def irq(self, number: int) -> IrqLine:
        """A new line to the interrupt input `number`: 0-15 of PIC and IOAPIC, 16-23 of the IOAPIC.

        Several lines to one input are ORed.
        """
        return self.engine.board.irq(number)

    def port(self, base: int, length: int = 1) -> Callable[[AccessHandler], AccessHandler]:
        """Decorator: the function answers `length` ports from `base` on. See `device.FunctionDevice`."""
        require_address("port", base)

        def attach(function: AccessHandler) -> AccessHandler:
            self.add(FunctionDevice(function, ports=(Range(base, length),)))
            return function

        return attach

    def mmio_range(self, base: int, length: int = 1) -> Callable[[AccessHandler], AccessHandler]:
        """Decorator: the function answers `length` guest physical addresses from `base` on, which are not RAM."""
        require_address("mmio_range", base)

        def attach(function: AccessHandler) -> AccessHandler:
            self.add(FunctionDevice(function, mmio=(Range(base, length),)))
            return function

        return attach

    def msr(self, index: int) -> Callable[[MsrHandler], MsrHandler]:
        """Decorator: the function answers the guest's accesses to that MSR. Before `start`.

        It is called with the value written, or with None for a read, whose value it returns. It may raise
        GeneralProtection. KvmUnsupported at the start if this KVM cannot give MSRs to user space. ConfigError if the
        MSR has a handler, or the machine has been started.
        """
        require_address("msr", index)
        if self.engine.run is not None:
            raise ConfigError(f"MSR {index:#x}: a handler must be there before the start, when KVM is told of it")

        def attach(function: MsrHandler) -> MsrHandler:
            self.engine.board.answer_msr(index, function)
            return function

        return attach
