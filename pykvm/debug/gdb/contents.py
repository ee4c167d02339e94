"""The packets that read and write registers and memory, and the checksum of memory.

Source: "Debugging with GDB", appendix E.2 (g, G, p, P, m, M, X) and E.4 (qCRC).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..contents import DebugError
from .arguments import EFAULT, EINVAL, number, parts
from .packets import MAX_PAYLOAD
from .registers import Register

if TYPE_CHECKING:
    from .conversation import Conversation, Handler

CRC_CHUNK = 1 << 20
"""Bytes that are read at a time."""
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the opposite order."""


def read_registers(session: Conversation, _arguments: bytes) -> bytes:
    """`g`"""
    return b"".join(session.read(register) for register in session.layout.registers if register.in_block)


def write_registers(session: Conversation, arguments: bytes) -> bytes:
    """`G XX...`"""
    data, at = bytes.fromhex(arguments.decode("ascii")), 0
    for register in session.layout.registers:
        if register.in_block and at < len(data):
            register.write(session.state(session.cpu), data[at : at + register.bits // 8])
            at += register.bits // 8
    return b"OK"


def read_register(session: Conversation, arguments: bytes) -> bytes:
    """`p n`"""
    return session.read(_register(session, arguments))


def write_register(session: Conversation, arguments: bytes) -> bytes:
    """`P n=r`"""
    name, _, value = arguments.partition(b"=")
    _register(session, name).write(session.state(session.cpu), bytes.fromhex(value.decode("ascii")))
    return b"OK"


def _register(session: Conversation, name: bytes) -> Register:
    at = number(name)
    if at >= len(session.layout.registers):
        raise ValueError("no such register")
    return session.layout.registers[at]


def read_memory(session: Conversation, arguments: bytes) -> bytes:
    """`m addr,length`"""
    address, size = map(number, parts(arguments, b",", 2))
    size = min(size, MAX_PAYLOAD // 2)
    control = session.control
    data = control.read_physical(address, size) if session.physical else control.read(session.cpu, address, size)
    return data.hex().encode() if data or not size else EFAULT


def write_memory(session: Conversation, arguments: bytes) -> bytes:
    """`M addr,length:XX...`"""
    place, _, data = arguments.partition(b":")
    return _write_memory(session, place, bytes.fromhex(data.decode("ascii")))


def write_memory_binary(session: Conversation, arguments: bytes) -> bytes:
    """`X addr,length:data`"""
    place, _, data = arguments.partition(b":")
    return _write_memory(session, place, data)


def _write_memory(session: Conversation, place: bytes, data: bytes) -> bytes:
    address, size = map(number, parts(place, b",", 2))
    if size != len(data):
        return EINVAL
    try:
        if session.physical:
            session.control.write_physical(address, data)
        else:
            session.control.write(session.cpu, address, data)
    except DebugError:
        return EFAULT
    session.cpus.clear()
    return b"OK"


def physical_mode(session: Conversation, arguments: bytes) -> bytes:
    """`Qqemu.PhyMemMode:1` and `:0`"""
    session.physical = bool(number(arguments))
    return b"OK"


def show_physical_mode(session: Conversation, _arguments: bytes) -> bytes:
    """`qqemu.PhyMemMode`"""
    return b"%d" % session.physical


def checksum(session: Conversation, arguments: bytes) -> bytes:
    """`qCRC:addr,length`: of as much as there is RAM, at most."""
    address, size = map(number, parts(arguments, b",", 2))
    control = session.control
    if size > sum(region.size for region in control.engine.board.memory.regions):
        return EFAULT
    state = 0
    while size:
        if session.finished:
            return EINVAL
        want = min(size, CRC_CHUNK)
        data = control.read_physical(address, want) if session.physical else control.read(session.cpu, address, want)
        if len(data) < want:
            return EFAULT
        state = zlib.crc32(data.translate(_REVERSED), state)
        address, size = address + want, size - want
    return b"C%x" % _crc(state)


def _crc(state: int) -> int:
    """gdb's CRC-32 takes the highest bit first and inverts nothing at the end: zlib's of reversed bytes, undone."""
    return int(f"{state ^ 0xFFFFFFFF:032b}"[::-1], 2)


HANDLERS: Mapping[bytes, Handler] = {
    b"g": read_registers,
    b"G": write_registers,
    b"p": read_register,
    b"P": write_register,
    b"m": read_memory,
    b"M": write_memory,
    b"X": write_memory_binary,
    b"qCRC:": checksum,
    b"Qqemu.PhyMemMode:": physical_mode,
    b"qqemu.PhyMemMode": show_physical_mode,
}
