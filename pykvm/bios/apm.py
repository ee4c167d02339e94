"""INT 15h AH=53h: Advanced Power Management, by which real-mode programs switch the machine off.

Source: Advanced Power Management BIOS Interface Specification 1.2, sections 4.6 (functions) and 4.7 (error codes).
There is the real-mode interface alone: the installation check says that there are no protected-mode ones.
"""

from __future__ import annotations

from ..bus import PortBus
from .call import Call

VERSION = 0x0102
OLDEST = 0x0100
"""What a connection speaks until the driver has told its version."""
PM_CONTROL, ENTER_S5 = 0x604, 0x2000
"""ACPI's PM1 control register, and what switches the machine off."""

NO_PROTECTED_16, NO_PROTECTED_32, NO_DEVICE, BAD_PARAMETER, NO_EVENT, UNSUPPORTED = (
    0x06, 0x08, 0x09, 0x0A, 0x80, 0x86,
)  # fmt: skip
BIOS, ALL = 0x0000, 0x0001
"""Device identifiers: the APM BIOS itself, and all devices that it manages."""


class Apm:
    """Serves AH=53h. Nothing of it outlives a call: a program that asks without a connection is served, too."""

    def __init__(self, ports: PortBus) -> None:
        self._ports = ports

    def serve(self, call: Call) -> None:
        error = self._serve(call)
        call.carry = error != 0
        if error:
            call.ah = error

    def _serve(self, call: Call) -> int:
        match call.al:
            case 0x00 if call.bx == BIOS:
                call.ax, call.bx, call.cx = VERSION, int.from_bytes(b"PM", "big"), 0
            case 0x01 | 0x04 | 0x05 | 0x06 | 0x08 | 0x0D | 0x0F:
                return self._simple(call)
            case 0x02:
                return NO_PROTECTED_16
            case 0x03:
                return NO_PROTECTED_32
            case 0x07:
                return self._set_state(call)
            case 0x0A if call.bx == ALL:
                call.bx, call.cx, call.dx = 0x01FF, 0x80FF, 0xFFFF  # on the mains; no battery
            case 0x0B:
                return NO_EVENT
            case 0x0C:
                call.cx = 0  # ready
            case 0x0E:
                call.ax = min(max(call.cx, OLDEST), VERSION)
            case 0x10:
                call.bl, call.cx = 0, 0  # no batteries, no capabilities
            case 0x00 | 0x0A:
                return NO_DEVICE
            case _:
                return UNSUPPORTED
        return 0

    def _simple(self, call: Call) -> int:
        """Connect and disconnect, tell that the CPU is idle or busy, enable and engage: there is nothing to do."""
        return 0 if call.al in (0x05, 0x06) or call.bx in (BIOS, ALL, 0xFFFF) else NO_DEVICE

    def _set_state(self, call: Call) -> int:
        if call.bx != ALL:
            return NO_DEVICE
        match call.cx:
            case 0x03:
                self._ports.write(PM_CONTROL, 2, ENTER_S5)
                return 0
            case 0x00 | 0x01 | 0x02:  # standby and suspend are over at once: nothing could wake the machine
                return 0
        return BAD_PARAMETER
