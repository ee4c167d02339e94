"""The printer port LPT1.

Implements: IBM PC/AT Technical Reference, "Serial/Parallel Adapter" (printer application: data latch, printer status,
printer controls), as far as a compatible printer cable goes: output, and the inputs of the status register.

A printer takes a byte when the strobe rises, is busy no longer than that, and acknowledges by IRQ 7 where the guest has
enabled it. Without a printer the inputs float: busy, out of paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..device import Device, IrqLine, Range, State, bit_names

BASE, LENGTH = 0x378, 3
DATA, STATUS, CONTROL = 0, 1, 2
NOT_BUSY, NO_ACK, PAPER_OUT, SELECTED, NO_ERROR = 1 << 7, 1 << 6, 1 << 5, 1 << 4, 1 << 3
_UNUSED = 7
STROBE, AUTO_FEED, NO_INIT, SELECT, IRQ_ENABLE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
CONTROL_BITS = STROBE | AUTO_FEED | NO_INIT | SELECT | IRQ_ENABLE
_CONTROL_UNUSED = 0xE0


class ParallelPort(Device):
    """`print` takes a byte and tells whether it could; None: there is no printer."""

    name = "LPT1"
    ports = (Range(BASE, LENGTH),)
    width = 1

    def __init__(self, irq: IrqLine, print: Callable[[int], bool] | None) -> None:
        self._irq, self._print = irq, print
        self.reset()

    def reset(self) -> None:
        self._data, self._control, self._busy = 0, NO_INIT | SELECT, False

    def read(self, offset: int, size: int) -> int:
        if offset == DATA:
            return self._data
        if offset == CONTROL:
            return self._control | _CONTROL_UNUSED
        if self._print is None:
            return NO_ACK | PAPER_OUT | SELECTED | NO_ERROR | _UNUSED
        if self._busy:  # the byte that nobody could take: perhaps now
            self._try()
        return (0 if self._busy else NOT_BUSY) | NO_ACK | SELECTED | NO_ERROR | _UNUSED

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == DATA:
            if not self._busy:
                self._data = value
        elif offset == CONTROL:
            before, self._control = self._control, value & CONTROL_BITS
            if not value & NO_INIT:
                self._busy = False
            elif value & STROBE and not before & STROBE and self._print is not None and not self._busy:
                self._try()

    def _try(self) -> None:
        assert self._print is not None
        self._busy = not self._print(self._data)
        if not self._busy and self._control & IRQ_ENABLE:
            self._irq.pulse()

    register_names: Mapping[int, str] = {DATA: "data", STATUS: "status", CONTROL: "control"}

    def explain(self, register: str, value: int, is_write: bool) -> str:
        if register == "status":
            return bit_names(value & 0xF8, "- - - -ERROR SELECT PE -ACK -BUSY")
        if register == "control":
            return bit_names(value & CONTROL_BITS, "STROBE AUTOFD -INIT SLCTIN IRQ")
        return ""

    def save(self) -> State:
        return {"data": self._data, "control": self._control, "busy": self._busy}

    def restore(self, state: State) -> None:
        data, control, busy = state.get("data"), state.get("control"), state.get("busy")
        if type(data) is not int or not 0 <= data <= 0xFF:
            raise ValueError(f"{self.name}: state field 'data' is {data!r:.20}, no byte")
        if type(control) is not int or not 0 <= control <= CONTROL_BITS:
            raise ValueError(f"{self.name}: state field 'control' is {control!r:.20}, not 0..{CONTROL_BITS:#x}")
        if type(busy) is not bool:
            raise ValueError(f"{self.name}: state field 'busy' is {busy!r:.20}, not a truth value")
        self._data, self._control, self._busy = data, control, busy
