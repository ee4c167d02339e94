"""The framing of gdb's remote protocol: "$payload#checksum", acknowledgements, and the interrupt byte.

Source: "Debugging with GDB", appendix E.1 (overview) and E.10 (interrupts). Run-length encoding is never sent and, as
the manual has it, never received.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

MAX_PAYLOAD = 0x4000
"""Bytes of the longest payload, unescaped, either way: what qSupported calls PacketSize."""
_MAX_RAW = 2 * MAX_PAYLOAD
"""Every byte of it may be escaped."""

_ESCAPED = frozenset(b"#$}*")
_NOTHING, _PAYLOAD, _CHECKSUM = range(3)


class Mark(enum.Enum):
    """What is not a packet."""

    ACK = "+"
    NAK = "-"
    INTERRUPT = "\x03"


class Packet(NamedTuple):
    """A payload, and whether its checksum was right and its length allowed."""

    payload: bytes
    good: bool


_MARKS = {ord("+"): Mark.ACK, ord("-"): Mark.NAK, 3: Mark.INTERRUPT}


class Decoder:
    """Cuts a stream of bytes into packets. No input raises, and it keeps no more than one packet."""

    def __init__(self) -> None:
        self._state = _NOTHING
        self._raw = bytearray()
        self._checksum = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet | Mark]:
        """What has come to its end with `data`. Bytes between packets that mean nothing are skipped."""
        for byte in data:
            if self._state == _CHECKSUM:
                self._checksum.append(byte)
                if len(self._checksum) == 2:
                    self._state = _NOTHING
                    yield self._finish()
            elif byte == ord("$"):  # never inside a payload: the last packet got lost half-way
                self._state = _PAYLOAD
                self._raw.clear()
            elif self._state == _PAYLOAD:
                if byte == ord("#"):
                    self._state = _CHECKSUM
                    self._checksum.clear()
                elif len(self._raw) <= _MAX_RAW:
                    self._raw.append(byte)
            elif byte in _MARKS:
                yield _MARKS[byte]

    def _finish(self) -> Packet:
        try:
            good = len(self._raw) <= _MAX_RAW and int(self._checksum, 16) == sum(self._raw) & 0xFF
        except ValueError:
            good = False
        return Packet(_unescape(self._raw), good)


def _unescape(raw: bytearray) -> bytes:
    result = bytearray()
    rest = iter(raw)
    for byte in rest:
        result.append(byte if byte != ord("}") else next(rest, 0x20) ^ 0x20)
    return bytes(result)


def encode(payload: bytes) -> bytes:
    """The packet that carries `payload`."""
    if not _ESCAPED.isdisjoint(payload):
        payload = b"".join(bytes([ord("}"), byte ^ 0x20]) if byte in _ESCAPED else bytes([byte]) for byte in payload)
    return b"$%b#%02x" % (payload, sum(payload) & 0xFF)
