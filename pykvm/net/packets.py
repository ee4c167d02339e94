"""What passt does not do to a wire: take the padding off short frames, keep a guest from reaching out, and name the DNS
server that QEMU's guests know.

Implements: IEEE 802.3, 4.2.3.3 (frames of at least 60 bytes); RFC 791 (IPv4 headers); RFC 8200, 3 (IPv6 headers);
RFC 793, 3.1 (TCP flags); RFC 768 (UDP); RFC 826 (ARP); RFC 2131 and 2132 (DHCP's message and its option 6).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from ..typed import NamedTuple

ARP, IPV4, IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
TCP, UDP = 6, 17
SYN, ACK = 0x02, 0x10
DHCP_SERVER, DHCP_CLIENT = 67, 68
DHCP_OPTIONS = 236
"""Offset in a DHCP message of the magic cookie, behind which the options are."""
DHCP_COOKIE = bytes((99, 130, 83, 99))
OPTION_PAD, OPTION_DNS, OPTION_END = 0, 6, 255
PEERS_MOST = 1024
"""So many who have sent a datagram to the guest are remembered."""


class Forward(NamedTuple):
    """A port of the host that leads to one of the guest: `protocol` is tcp or udp, `address` empty for all of them."""

    protocol: str
    address: str
    port: int
    guest_port: int


def unpadded(frame: bytes) -> bytes:
    """The frame without what it has been filled up with, to 60 bytes or to a card's whole words: passt takes that for a
    part of the TCP segment in it."""
    if frame[12:14] == IPV4:
        return frame[: 14 + int.from_bytes(frame[16:18], "big")]
    if frame[12:14] == IPV6:
        return frame[: 54 + int.from_bytes(frame[18:20], "big")]
    return frame


class Packet(NamedTuple):
    """What is asked of an unfragmented IPv4 packet with TCP or UDP: addresses, ports, and where its payload is."""

    protocol: int
    source: bytes
    target: bytes
    source_port: int
    target_port: int
    at: int
    """The offset of the TCP or UDP header in the frame."""


def parse(frame: bytes) -> Packet | None:
    """None for anything but whole TCP and UDP headers in an IPv4 packet that is no fragment."""
    if frame[12:14] != IPV4 or len(frame) < 34 or frame[14] >> 4 != 4:
        return None
    at = 14 + (frame[14] & 0x0F) * 4
    fragment = int.from_bytes(frame[20:22], "big") & 0x3FFF
    if at < 34 or fragment or frame[23] not in (TCP, UDP) or len(frame) < at + (20 if frame[23] == TCP else 8):
        return None
    ports = int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big")
    return Packet(frame[23], frame[26:30], frame[30:34], *ports, at)


class Restriction:
    """The guest may answer those who have reached it through `forwards`, ask for its address, and nothing else."""

    def __init__(self, forwards: Sequence[Forward]) -> None:
        self._tcp = {forward.guest_port for forward in forwards if forward.protocol == "tcp"}
        self._udp = {forward.guest_port for forward in forwards if forward.protocol == "udp"}
        self._peers: dict[tuple[bytes, int, int], None] = {}
        """Who has sent datagrams to the guest, and to which port, the last one last."""

    def lets_out(self, frame: bytes) -> bool:
        """Whether a frame of the guest's may go to the host."""
        if frame[12:14] == ARP:
            return True
        packet = parse(frame)
        if packet is None:
            return False
        if packet.protocol == TCP:
            # A connection begins with a SYN that acknowledges nothing, and only the guest's own would.
            return packet.source_port in self._tcp and frame[packet.at + 13] & (SYN | ACK) != SYN
        if (packet.source_port, packet.target_port) == (DHCP_CLIENT, DHCP_SERVER):
            message = frame[packet.at + 8 :]
            return message[:1] == b"\1" and message[DHCP_OPTIONS : DHCP_OPTIONS + 4] == DHCP_COOKIE
        return (packet.target, packet.target_port, packet.source_port) in self._peers

    def came_in(self, frame: bytes) -> None:
        """Take note of a frame that the host sends to the guest."""
        packet = parse(frame)
        if packet is None or packet.protocol != UDP or packet.target_port not in self._udp:
            return
        peer = (packet.source, packet.source_port, packet.target_port)
        self._peers.pop(peer, None)
        self._peers[peer] = None
        if len(self._peers) > PEERS_MOST:
            del self._peers[next(iter(self._peers))]


def offer_dns(frame: bytes, server: str) -> bytes:
    """The frame, with `server` as the only DNS server if it is a DHCP server's answer that names any.

    passt names those of the host, which the guest may not be able to reach: one at 127.0.0.53, say.
    """
    packet = parse(frame) if frame[36:38] == b"\0\x44" else None  # without IP options, as passt sends it
    if packet is None or packet.protocol != UDP or packet.source_port != DHCP_SERVER:
        return frame
    at = packet.at + 8 + DHCP_OPTIONS
    if frame[at : at + 4] != DHCP_COOKIE:
        return frame
    at += 4
    changed = bytearray(frame)
    while at + 2 <= len(frame) and frame[at] != OPTION_END:
        if frame[at] == OPTION_PAD:
            at += 1
            continue
        length = frame[at + 1]
        if frame[at] == OPTION_DNS and at + 2 + length <= len(frame) and length % 4 == 0:
            changed[at + 2 : at + 2 + length] = socket.inet_aton(server) * (length // 4)
            changed[packet.at + 6 : packet.at + 8] = bytes(2)  # no checksum
        at += 2 + length
    return bytes(changed)
