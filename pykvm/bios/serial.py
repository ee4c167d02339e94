"""INT 14h, serial ports, and INT 17h, printers.

Source: IBM PC/AT Technical Reference (INT 14h, INT 17h).
"""

from __future__ import annotations

from ..bus import PortBus
from ..memory import GuestMemory
from . import data
from .call import Call
from .redirect import COM1, Redirect

LSR, MSR = 5, 6
LSR_DATA_READY, LSR_THR_EMPTY = 0x01, 0x20
TIMEOUT = 0x80
PRINTER_TIMEOUT, NOT_BUSY, STROBE = 0x01, 0x80, 0x01
PRINTER_RESET, PRINTER_READY = 0x08, 0x0C
"""Controls: select the printer, with and without the line that initialises it."""
_DIVISORS = (1047, 768, 384, 192, 96, 48, 24, 12)
"""For 110, 150, 300, 600, 1200, 2400, 4800 and 9600 baud."""


class Serial:
    """Serves INT 14h and INT 17h."""

    def __init__(self, memory: GuestMemory, ports: PortBus, redirect: Redirect) -> None:
        self._memory = memory
        self._ports = ports
        self._redirect = redirect

    def serve(self, call: Call) -> None:
        """INT 14h for the port whose number is DX."""
        port = self._memory.read_int(data.COM_PORTS + 2 * call.dx, 2) if call.dx < 4 else 0
        if port == 0 or self._ports.find(port) is None:
            call.ah = TIMEOUT
            return
        if port == COM1:
            self._redirect.on = False
        read, write = self._ports.read, self._ports.write
        match call.ah:
            case 0x00:
                write(port + 3, 1, 0x80)
                divisor = _DIVISORS[call.al >> 5]
                write(port, 1, divisor & 0xFF)
                write(port + 1, 1, divisor >> 8)
                write(port + 3, 1, call.al & 0x1F)
                write(port + 1, 1, 0)
                call.ax = read(port + LSR, 1) << 8 | read(port + MSR, 1)
            case 0x01:
                status = read(port + LSR, 1)
                if status & LSR_THR_EMPTY:
                    write(port, 1, call.al)
                call.ah = status & 0x7F if status & LSR_THR_EMPTY else status | TIMEOUT
            case 0x02:
                status = read(port + LSR, 1)
                if status & LSR_DATA_READY:
                    call.al = read(port, 1)
                call.ah = status & 0x1E if status & LSR_DATA_READY else status | TIMEOUT
            case 0x03:
                call.ax = read(port + LSR, 1) << 8 | read(port + MSR, 1)
            case _:
                call.ah = TIMEOUT

    def printer(self, call: Call) -> None:
        """INT 17h for the port whose number is DX: a printer that is busy, or not there, times out at once."""
        port = self._memory.read_int(data.LPT_PORTS + 2 * call.dx, 2) if call.dx < 3 else 0
        if port == 0 or self._ports.find(port) is None:
            call.ah = PRINTER_TIMEOUT
            return
        read, write = self._ports.read, self._ports.write
        timeout = 0
        match call.ah:
            case 0x00 if read(port + 1, 1) & NOT_BUSY:
                write(port, 1, call.al)
                write(port + 2, 1, PRINTER_READY | STROBE)
                write(port + 2, 1, PRINTER_READY)
            case 0x00:
                timeout = PRINTER_TIMEOUT
            case 0x01:
                write(port + 2, 1, PRINTER_RESET)
                write(port + 2, 1, PRINTER_READY)
            case 0x02:
                pass
            case _:
                call.unanswered = True
                return
        call.ah = (read(port + 1, 1) & 0xF8) ^ 0x48 | timeout
