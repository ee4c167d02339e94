"""One connection to the server: what it says first, and what waits to be sent to it. Nothing here waits for it."""

from __future__ import annotations

import re
import select
import socket
import time

from .packets import Decoder, Packet

RECEIVE_SIZE = 4096
"""Bytes that are served at a time, so that closing has not to wait for long."""
OPENING_LIMIT = 4096
"""Bytes of the longest first packet: gdb's is `qSupported`, of some hundreds."""
OUTPUT_LIMIT = 1 << 20
"""Bytes that may wait for a client. gdb asks one thing at a time, and no answer is larger than MAX_PAYLOAD."""

_OPENING = re.compile(rb"[+-]*(?:\$[^#$]*(?:#[0-9a-fA-F]{0,2})?)?")
_WHOLE = re.compile(rb"[+-]*(\$[^#$]*#[0-9a-fA-F]{2})")


def begins_as_protocol(data: bytes) -> bool | None:
    """Whether a whole packet with the right checksum is first in `data`, behind acknowledgements; None: not yet."""
    whole = _WHOLE.match(data)
    if whole is not None:
        return any(isinstance(item, Packet) and item.good for item in Decoder().feed(whole[1]))
    return None if len(data) < OPENING_LIMIT and _OPENING.fullmatch(data) else False


class Connection:
    """Owns a socket. It has `handshake` seconds to say its first packet, and then `patience` to take any of what waits
    for it."""

    def __init__(self, accepted: socket.socket, handshake: float, patience: float) -> None:
        accepted.setblocking(False)
        if accepted.family == socket.AF_INET:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = accepted
        self._patience = patience
        self._first = b""
        self._output = bytearray()
        self._lost = False
        self.deadline = time.monotonic() + handshake
        """When it has taken too long (time.monotonic(), seconds)."""

    @property
    def fd(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def has_output(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._output)

    @property
    def is_lost(self) -> bool:
        """Whether it is of no more use: gone, not speaking the protocol, or taking none of its answers."""
        return self._lost or time.monotonic() >= self.deadline

    def first_packet(self) -> bytes:
        """All that it has said, once that begins with a packet."""
        data = self.receive()
        self._first += data or b""
        answer = begins_as_protocol(self._first)
        if data is None or answer is False:
            self._lost = True
        elif answer:
            self.deadline = float("inf")
            return self._first
        return b""

    def receive(self) -> bytes | None:
        """What has come, if anything; None if it has hung up."""
        try:
            return self._socket.recv(RECEIVE_SIZE) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def send(self, data: bytes) -> None:
        """Send now what can be, the rest later."""
        if self._lost:
            return
        if not self._output:
            self.deadline = time.monotonic() + self._patience
        self._output += data
        self.send_more()
        if len(self._output) > OUTPUT_LIMIT:
            self._lost = True

    def send_more(self) -> None:
        """Send as much of what waits as the client takes now."""
        try:
            while self._output:
                sent = self._socket.send(self._output)
                del self._output[:sent]
                self.deadline = time.monotonic() + self._patience
        except BlockingIOError:
            return
        except OSError:
            self._lost = True
            self._output.clear()
        self.deadline = float("inf")

    def flush(self, grace: float) -> None:
        """Send what waits, within so many seconds; what is not taken by then is lost."""
        end = time.monotonic() + grace
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while self._output and not self.is_lost and poll.poll(max(0.0, end - time.monotonic()) * 1000):
            self.send_more()
            if time.monotonic() >= end:
                return

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
