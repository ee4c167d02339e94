"""What the user network does to frames before passt has them and after, and how its ports are written."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.device_options.nics import parse_nic
from pykvm.errors import ConfigError
from pykvm.net.packets import PEERS_MOST, Forward, Restriction, offer_dns, unpadded
from pykvm.net.user import parse_forward

GUEST, HOST, OTHER = (socket.inet_aton(text) for text in ("10.0.2.15", "10.0.2.2", "198.51.100.7"))
ETHERNET = bytes(12)
SYN, ACK = 2, 16


def ipv4(
    protocol: int, source: bytes, target: bytes, payload: bytes, *, options: bytes = b"", fragment: int = 0
) -> bytes:
    size = 20 + len(options) + len(payload)
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, size, 1, fragment, 64, protocol, 0, source, target
    )
    return ETHERNET + b"\x08\x00" + header + options + payload


def udp(source: bytes, source_port: int, target: bytes, port: int, data: bytes = b"", checksum: int = 0) -> bytes:
    return ipv4(17, source, target, struct.pack(">HHHH", source_port, port, 8 + len(data), checksum) + data)


def tcp(flags: int, source_port: int, port: int = 5000, **more: object) -> bytes:
    header = struct.pack(">HHIIBBHHH", source_port, port, 1, 2, 5 << 4, flags, 100, 0, 0)
    return ipv4(6, GUEST, HOST, header, **more)  # type: ignore[arg-type]


def dhcp(operation: int, options: bytes) -> bytes:
    return bytes((operation, 1, 6, 0)) + bytes(232) + bytes((99, 130, 83, 99)) + options


def test_padding_is_taken_off() -> None:
    for length in range(60):
        frame = tcp(ACK, 22)[:54] + bytes(length)
        assert unpadded(frame) == frame[:54]
        packet = ETHERNET + b"\x86\xdd\x60" + bytes(3) + struct.pack(">H", 3) + bytes(34) + b"abc"
        assert unpadded(packet + bytes(length)) == packet
        arp = ETHERNET + b"\x08\x06" + bytes(28 + length)
        assert unpadded(arp) == arp


@pytest.mark.parametrize(
    ("frame", "passes"),
    [
        (ETHERNET + b"\x08\x06" + bytes(28), True),
        (tcp(ACK, 22), True),
        (tcp(SYN | ACK, 22), True),
        (tcp(ACK, 22, options=bytes(4)), True),
        (tcp(SYN, 22), False),
        (tcp(SYN, 22, options=bytes(40)), False),
        (tcp(ACK, 23), False),
        (tcp(ACK, 53), False),  # which is one of UDP
        (tcp(ACK, 22, fragment=0x2000), False),
        (tcp(ACK, 22, fragment=1), False),
        (tcp(ACK, 22)[:-1], False),
        (ipv4(1, GUEST, HOST, bytes(64)), False),
        (udp(GUEST, 53, HOST, 4000), False),
        (udp(bytes(4), 68, b"\xff" * 4, 67, dhcp(1, b"\x35\x01\x01\xff")), True),
        (udp(bytes(4), 68, OTHER, 67, dhcp(2, b"\x35\x01\x01\xff")), False),
        (udp(bytes(4), 68, OTHER, 67, b"anything else, to anywhere"), False),
        (ETHERNET + b"\x86\xdd" + bytes(60), False),
        (b"", False),
    ],
)
def test_what_a_restricted_guest_may_send(frame: bytes, passes: bool) -> None:
    restriction = Restriction([Forward("tcp", "", 2222, 22), Forward("udp", "", 5353, 53)])
    assert restriction.lets_out(frame) is passes


def test_a_restricted_guest_answers_the_datagrams_that_reach_it() -> None:
    restriction = Restriction([Forward("udp", "", 5353, 53)])
    restriction.came_in(udp(OTHER, 4000, GUEST, 53))
    restriction.came_in(udp(OTHER, 4001, GUEST, 54))
    assert restriction.lets_out(udp(GUEST, 53, OTHER, 4000))
    for source_port, target, port in ((53, OTHER, 4001), (54, OTHER, 4001), (53, HOST, 4000), (54, OTHER, 4000)):
        assert not restriction.lets_out(udp(GUEST, source_port, target, port))
    for port in range(PEERS_MOST):
        restriction.came_in(udp(HOST, port, GUEST, 53))
    assert not restriction.lets_out(udp(GUEST, 53, OTHER, 4000))  # too many came behind it
    assert restriction.lets_out(udp(GUEST, 53, HOST, 0))


def test_the_dns_server_of_a_dhcp_answer() -> None:
    options = b"\x35\x01\x05\0\x06\x08\x7f\0\0\x35\x08\x08\x08\x08\x03\x04\x0a\0\x02\x02\xff"
    changed = offer_dns(udp(HOST, 67, GUEST, 68, dhcp(2, options), 0x1234), "10.0.2.3")
    wanted = b"\x35\x01\x05\0\x06\x08\x0a\0\x02\x03\x0a\0\x02\x03\x03\x04\x0a\0\x02\x02\xff"
    assert changed == udp(HOST, 67, GUEST, 68, dhcp(2, wanted), 0)
    for frame in (
        udp(HOST, 67, GUEST, 69, dhcp(2, options)),
        udp(HOST, 66, GUEST, 68, dhcp(2, options)),
        udp(HOST, 67, GUEST, 68, dhcp(2, b"\x06\x05\1\2\3\4\5\xff")),
        udp(HOST, 67, GUEST, 68, dhcp(2, b"\x06\x08\1\2\3\4")),
        udp(HOST, 67, GUEST, 68, b"short"),
    ):
        assert offer_dns(frame, "10.0.2.3") == frame


@given(st.binary(max_size=400), st.booleans())
def test_any_frame(data: bytes, like_dhcp: bool) -> None:
    frame = udp(HOST, 67, GUEST, 68, dhcp(2, data)) if like_dhcp else ETHERNET + b"\x08\x00" + data
    assert len(offer_dns(frame, "10.0.2.3")) == len(frame)
    restriction = Restriction([Forward("udp", "", 1, 68)])
    restriction.came_in(frame)
    restriction.lets_out(frame)
    assert frame.startswith(unpadded(frame))


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("tcp:127.0.0.1:2222-:22", ("tcp", "127.0.0.1", 2222, 22)),
        ("udp::5353-10.0.2.15:53", ("udp", "", 5353, 53)),
        ("tcp:[::1]:80-:8080", ("tcp", "::1", 80, 8080)),
        ("tcp:::1:80-:8080", ("tcp", "::1", 80, 8080)),
    ],
)
def test_forwarded_ports(text: str, forward: tuple[str, str, int, int]) -> None:
    assert parse_forward(text) == forward


@pytest.mark.parametrize(
    "text",
    [
        "", "tcp", "tcp::22", "tcp::22-22", "sctp::1-:1", "tcp:host:1-:1", "tcp::0-:1", "tcp::1-:65536", "tcp::1-10.0.2.16:1",
        "tcp::x-:1", "tcp::1-:", "tcp::-1-:1", "tcp:[::1:80-:x", "tcp:1.2.3:1-:1", "tcp:127.0.0.1/8:1-:1",
    ],
)  # fmt: skip
def test_forwarded_ports_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="is no forwarded port: give tcp:"):
        parse_nic(f"user,hostfwd={text}")


@pytest.mark.parametrize(
    "spec", ["user:x", "user,restrict=yes", "user,ipv6=", "loopback,hostfwd=tcp::1-:1", "none,ipv6=on"]
)
def test_settings_that_cannot_be(spec: str) -> None:
    with pytest.raises(ConfigError, match="--nic"):
        parse_nic(spec)
