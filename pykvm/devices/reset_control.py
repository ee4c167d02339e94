"""The reset control register at port 0xCF9, through which a guest restarts the machine.

Implements: Intel 82371SB (PIIX3) data sheet, "RC - Reset Control Register"; ICH and its successors kept it. The port
lies inside the four bytes of the PCI configuration address register at 0xCF8: an access of one byte is to this
register, and one of four bytes from 0xCF8 on to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..device import Device, Range, State, bit_names

SRST = 1 << 1
"""System reset: the reset that RCPU starts is a hard one, of all devices; without it, of the CPU alone."""
RCPU = 1 << 2
"""Reset CPU: going from 0 to 1 starts the reset."""


class ResetControl(Device):
    """Calls `on_reset` with a sentence saying which kind of reset it was."""

    name = "reset control"
    ports = (Range(0xCF9, 1),)
    width = 1
    moved_by_host = False
    register_names: Mapping[int, str] = {0: "RC"}

    def __init__(self, on_reset: Callable[[str], None]) -> None:
        self._on_reset = on_reset
        self._value = 0

    def read(self, offset: int, size: int) -> int:
        return self._value

    def write(self, offset: int, size: int, value: int) -> None:
        started = value & ~self._value & RCPU
        self._value = value & (SRST | RCPU)
        if started:
            self._on_reset(f"{'hard' if value & SRST else 'soft'} reset by {value:#04x} to port 0xcf9")

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return bit_names(value, "- SRST RCPU")

    def reset(self) -> None:
        self._value = 0

    def save(self) -> State:
        return {"value": self._value}

    def restore(self, state: State) -> None:
        value = state.get("value")
        if type(value) is not int or value < 0 or value & ~(SRST | RCPU):
            raise ValueError(f"{self.name}: state field 'value' is {value!r}, which has bits outside {SRST | RCPU:#x}")
        self._value = value
