"""The host's own network without privileges: passt between the guest's wire and the sockets of an ordinary process.

passt (passt.top, Debian's package passt) runs beside this process in a sandbox of its own and speaks with it over a
pair of sockets, each frame behind its length in 4 bytes, big-endian (passt(1), "--fd"; QEMU's `-netdev stream`). The
guest finds what QEMU's user network has: it is 10.0.2.15 by DHCP, the host is 10.0.2.2, the DNS server 10.0.2.3, and
with IPv6 fec0::/64, where the host has IPv6.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress

from ..errors import ConfigError
from ..program import Program
from . import MAX_FRAME, NetBackend
from .packets import Forward, Restriction, offer_dns, unpadded

GUEST, MASK, HOST, DNS, HOST_MAC = "10.0.2.15", "24", "10.0.2.2", "10.0.2.3", bytes.fromhex("52550a000202")
GUEST6, HOST6, DNS6 = "fec0::15", "fec0::2", "fec0::3"
START_TIME = 20.0
"""Seconds after which a passt that neither answers nor ends is given up."""
_CHUNK = 64 << 10
"""Bytes that one `poll` takes over: some 40 long frames."""
_FRAME_MOST = 0xFFFF
"""Bytes that a frame of passt's has at most."""
_LENGTH = struct.Struct(">I")
_NOISE = re.compile(r"Failed to send \d+ bytes to syslog|Don't run as root\. Changing to nobody\.\.\.")
_PROBER = bytes.fromhex("525400000001")
_PROBE = (
    b"\xff" * 6 + _PROBER + struct.pack(">HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
    + _PROBER + bytes(4) + bytes(6) + socket.inet_aton(HOST)
)  # fmt: skip
"""An ARP request for the host (RFC 826; RFC 5227, 1.1: without an address of one's own)."""


def parse_forward(text: str) -> Forward:
    """`tcp:127.0.0.1:2222-:22` or `udp::53-:53`, QEMU's hostfwd; ConfigError for anything else."""
    host, dash, guest = text.rpartition("-")
    protocol, _, host = host.partition(":")
    address, _, port = host.rpartition(":")
    guest_address, colon, guest_port = guest.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    try:
        if protocol not in ("tcp", "udp") or not dash or not colon or guest_address not in ("", GUEST):
            raise ValueError
        if address:
            socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        ports = [int(number) for number in (port, guest_port) if number.isascii() and number.isdecimal()]
        if len(ports) != 2 or not all(0 < number < 0x10000 for number in ports):
            raise ValueError
    except (ValueError, OSError):
        raise ConfigError(
            f"hostfwd={text} is no forwarded port: give tcp:[ADDRESS]:PORT-:GUESTPORT, such as tcp:127.0.0.1:2222-:22, "
            "or udp: in place of tcp:"
        ) from None
    return Forward(protocol, address, *ports)


class UserNet(NetBackend):
    """A wire to a passt of its own.

    `forwards` are ports of the host that lead to the guest. With `restrict` these are all there is: the guest reaches
    nothing by itself. Without `ipv6` there is IPv4 alone; `restrict` implies that. ConfigError if there is no passt, or
    in its words what is wrong.
    """

    station = "user"

    def __init__(self, forwards: Sequence[Forward] = (), *, restrict: bool = False, ipv6: bool = True) -> None:
        self._restriction = Restriction(forwards) if restrict else None
        self._buffer = bytearray()
        self._unsent = b""
        self._dead = False  # passt has ended, or sends what is no frame: the descriptor stays readable for ever
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with theirs:
                self._program = Program(_words(forwards, ipv6 and not restrict), [theirs.fileno()], "passt")
        except BaseException:
            self._socket.close()
            raise
        try:
            self._socket.setblocking(False)
            self._await_answer()
            self._program.ready()
        except BaseException as error:
            self._socket.close()
            said = _NOISE.sub("", self._program.end(0.5)).strip()
            if isinstance(error, OSError):
                raise ConfigError(f"passt does not serve a network: {said or error}") from error
            raise

    @property
    def pid(self) -> int:
        """The number of passt's process."""
        return self._program.pid

    def send(self, frame: bytes) -> None:
        if self._restriction is not None and not self._restriction.lets_out(frame):
            return
        # A frame that the host has taken in part has to be finished. One that it takes nothing of is dropped.
        with suppress(OSError):
            if self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            if not self._unsent:
                frame = unpadded(frame)
                data = _LENGTH.pack(len(frame)) + frame
                self._unsent = data[self._socket.send(data) :]

    def fileno(self) -> int | None:
        return None if self._dead or self._socket.fileno() < 0 else self._socket.fileno()

    def poll(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._dead = True
            return
        self._buffer += data
        for frame in self._frames():
            if len(frame) <= MAX_FRAME and self.deliver is not None:
                self.deliver(self._seen(frame))

    def close(self) -> None:
        self._socket.close()
        self._program.end(1.0)

    def _seen(self, frame: bytes) -> bytes:
        if self._restriction is not None:
            self._restriction.came_in(frame)
        return offer_dns(frame, DNS)

    def _frames(self) -> list[bytes]:
        """The whole ones of what has arrived; the rest stays."""
        frames: list[bytes] = []
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > _FRAME_MOST:
                self._dead = True
                self._buffer.clear()
                return frames
            if len(self._buffer) - at - _LENGTH.size < length:
                break
            frames.append(bytes(self._buffer[at + _LENGTH.size : at + _LENGTH.size + length]))
            at += _LENGTH.size + length
        del self._buffer[:at]
        return frames

    def _await_answer(self) -> None:
        """Ask for the host's address: whoever answers has opened all the ports that it was told to."""
        self._socket.send(_LENGTH.pack(len(_PROBE)) + _PROBE)
        end = time.monotonic() + START_TIME
        while not any(frame[12:14] == b"\x08\x06" for frame in self._frames()):
            waited = max(0.0, end - time.monotonic())
            ready = select.select([self._socket.fileno(), self._program.fileno()], [], [], waited)[0]
            if not ready:
                raise TimeoutError(f"it has said nothing for {START_TIME:g} s")
            if self._program.fileno() in ready:
                raise ConnectionError("it has ended")
            self._buffer += self._socket.recv(_CHUNK)


def _words(forwards: Sequence[Forward], ipv6: bool) -> list[str]:
    words = ["passt", "--foreground", "--quiet", "--one-off", "--fd", "3", "--mtu", "1500"]
    words += ["--address", GUEST, "--netmask", MASK, "--gateway", HOST, "--dns-forward", DNS]
    words += ["--mac-addr", HOST_MAC.hex(":")]
    words += ["--address", GUEST6, "--gateway", HOST6, "--dns-forward", DNS6] if ipv6 else ["--ipv4-only"]
    if not _has_default_route():
        words += ["--interface", "lo"]
    for forward in forwards:
        ports = f"{forward.port}:{forward.guest_port}"
        words += [f"--{forward.protocol}-ports", f"{forward.address}/{ports}" if forward.address else ports]
    return words


def _has_default_route() -> bool:
    """Whether there is one for IPv4: passt takes its interface for an example, and any will do."""
    try:
        with open("/proc/net/route") as routes:
            return any(line.split()[1:2] == ["00000000"] for line in routes)
    except OSError:
        return False
