"""INT 10h AH=10h: colours of the attribute controller and the DAC.

Source: IBM PS/2 BIOS Interface Technical Reference (INT 10h).
"""

from __future__ import annotations

from ..bus import PortBus
from ..memory import GuestMemory
from .call import Call, linear

ATTRIBUTE, PEL_MASK, DAC_READ, DAC_WRITE, DAC_DATA, STATUS_1 = 0x3C0, 0x3C6, 0x3C7, 0x3C8, 0x3C9, 0x3DA
SCREEN_ON = 0x20
"""Bit of the attribute controller's index."""


def serve(call: Call, ports: PortBus, memory: GuestMemory) -> None:
    """Function 10h: colours of the attribute controller and the DAC."""
    write = ports.write
    match call.al:
        case 0x00 if call.bl < 0x15:
            _attribute(ports, call.bl, call.bh)
        case 0x01:
            _attribute(ports, 0x11, call.bh)
        case 0x03:
            _attribute(ports, 0x10, 0x04 | (call.bl & 1) << 3)
        case 0x10:
            write(DAC_WRITE, 1, call.bl)
            for value in (call.dh, call.ch, call.cl):
                write(DAC_DATA, 1, value)
        case 0x12:
            count = min(call.cx, 256)
            colours = memory.read(linear(call.es, call.dx), 3 * count)
            write(DAC_WRITE, 1, call.bl)
            for value in colours:
                write(DAC_DATA, 1, value)
        case 0x15:
            write(DAC_READ, 1, call.bl)
            call.dh, call.ch, call.cl = (ports.read(DAC_DATA, 1) for _ in range(3))
        case 0x17:
            write(DAC_READ, 1, call.bl)
            values = bytes(ports.read(DAC_DATA, 1) for _ in range(3 * min(call.cx, 256)))
            memory.write(linear(call.es, call.dx), values)
        case 0x18:
            write(PEL_MASK, 1, call.bl)
        case 0x19:
            call.bl = ports.read(PEL_MASK, 1)
        case _:
            call.unanswered = True


def _attribute(ports: PortBus, register: int, value: int) -> None:
    ports.read(STATUS_1, 1)
    ports.write(ATTRIBUTE, 1, register)
    ports.write(ATTRIBUTE, 1, value)
    ports.write(ATTRIBUTE, 1, SCREEN_ON)
