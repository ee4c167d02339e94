"""INT 1Ah: ticks since midnight, and the real-time clock.

Source: IBM PC/AT Technical Reference (INT 1Ah). The PCI functions (AH=B1h) are not there.
"""

from __future__ import annotations

from ..bus import PortBus
from ..memory import GuestMemory
from . import data
from .call import Call

INDEX, CMOS_DATA = 0x70, 0x71
SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, STATUS_B, CENTURY = 0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x0B, 0x32
STOP = 0x80
"""In status register B: the time stands still while it is set."""


class Clock:
    """Serves INT 1Ah."""

    def __init__(self, memory: GuestMemory, ports: PortBus) -> None:
        self._memory = memory
        self._ports = ports

    def _get(self, register: int) -> int:
        self._ports.write(INDEX, 1, register)
        return self._ports.read(CMOS_DATA, 1)

    def _set(self, *registers: tuple[int, int]) -> None:
        """Set the clock's registers while it stands."""
        status = self._get(STATUS_B)
        for register, value in ((STATUS_B, status | STOP), *registers, (STATUS_B, status & ~STOP)):
            self._ports.write(INDEX, 1, register)
            self._ports.write(CMOS_DATA, 1, value)

    @property
    def present(self) -> bool:
        """Whether there is a real-time clock."""
        return self._ports.find(INDEX) is not None

    def start(self) -> None:
        """What POST does: the ticks are those since midnight."""
        if self.present:
            hours, minutes, seconds = (
                (value >> 4) * 10 + (value & 15) for value in map(self._get, (HOURS, MINUTES, SECONDS))
            )
            ticks = ((hours * 60 + minutes) * 60 + seconds) * data.TICKS_A_DAY // 86400
            self._memory.write_int(data.TICKS, 4, ticks % data.TICKS_A_DAY)

    def serve(self, call: Call) -> None:
        memory = self._memory
        call.carry = False
        if call.ah == 0x00:
            ticks = memory.read_int(data.TICKS, 4)
            call.cx, call.dx = ticks >> 16, ticks
            call.al = memory.read_int(data.MIDNIGHT, 1)
            memory.write_int(data.MIDNIGHT, 1, 0)
        elif call.ah == 0x01:
            memory.write_int(data.TICKS, 4, call.cx << 16 | call.dx)
            memory.write_int(data.MIDNIGHT, 1, 0)
        elif not (self.present and 0x02 <= call.ah <= 0x05):
            call.carry = True
        elif call.ah == 0x02:
            call.ch, call.cl, call.dh, call.dl = *map(self._get, (HOURS, MINUTES, SECONDS)), 0
        elif call.ah == 0x03:
            self._set((HOURS, call.ch), (MINUTES, call.cl), (SECONDS, call.dh))
        elif call.ah == 0x04:
            call.ch, call.cl, call.dh, call.dl = map(self._get, (CENTURY, YEAR, MONTH, DAY))
        else:
            self._set((CENTURY, call.ch), (YEAR, call.cl), (MONTH, call.dh), (DAY, call.dl))
