"""The beginning of a conversation with an NBD server, up to the first request, and how a URI names one.

Implements: the NBD protocol (doc/proto.md), "Newstyle negotiation" with NBD_OPT_GO, and the NBD URI specification
(doc/uri.md) without TLS. A server that has only NBD_OPT_EXPORT_NAME (before 2017) is refused.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress

from ..errors import ConfigError
from ..typed import NamedTuple

INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
FIXED_NEWSTYLE, NO_ZEROES = 1 << 0, 1 << 1
OPT_ABORT, OPT_GO = 2, 7
REP_ACK, REP_INFO, REP_ERROR = 1, 3, 1 << 31
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
REFUSALS = {
    1: "does not know NBD_OPT_GO: it is too old", 2: "does not allow that", 3: "takes the request for invalid",
    4: "is not made for that", 5: "wants TLS, which pykvm has not", 6: "has no export of that name",
    7: "is shutting down", 8: "wants a block size to be agreed upon", 9: "takes the request for too big",
}  # fmt: skip
OPTION_REPLY = struct.Struct(">QIII")
TIME_LIMIT = 10.0
"""Seconds that connecting may take, and the handshake."""
MOST_PAYLOAD = 32 << 20
"""Bytes of data of one request that every server takes."""
_REPLIES, _REPLY_LENGTH = 64, 8192
"""So many replies to one option, each of so many bytes, are read at most."""
PORT = 10809


class Export(NamedTuple):
    """What the server offers: bytes, transmission flags, and the most bytes of data in one request."""

    size: int
    flags: int
    most: int


class Address(NamedTuple):
    """What a URI names: a UNIX socket's path, or host and port; and the export."""

    socket: str | tuple[str, int]
    export: str


def handshake(sock: socket.socket, name: str, export: str) -> Export:
    """Agree on the export with the server; ConfigError if that fails."""
    end = time.monotonic() + TIME_LIMIT
    try:
        return _agree(sock, export, end)
    except TimeoutError as error:
        raise ConfigError(f"{name}: the NBD server does not answer within {TIME_LIMIT:g} s") from error
    except OSError as error:
        raise ConfigError(f"{name}: the connection to the NBD server broke: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{name}: the NBD server {error}") from error


def _agree(sock: socket.socket, export: str, end: float) -> Export:
    if _receive(sock, 8, end) != INIT_MAGIC:
        raise ValueError("is none: it does not greet as one")
    if _receive(sock, 8, end) != OPTION_MAGIC:
        raise ValueError("is too old: it has no newstyle negotiation")
    (flags,) = struct.unpack(">H", _receive(sock, 2, end))
    if not flags & FIXED_NEWSTYLE:
        raise ValueError("is too old: it has no fixed newstyle negotiation")
    encoded = export.encode("utf-8", "surrogateescape")
    go = struct.pack(">I", len(encoded)) + encoded + struct.pack(">HH", 1, INFO_BLOCK_SIZE)
    sock.sendall(struct.pack(">I", FIXED_NEWSTYLE | flags & NO_ZEROES))
    sock.sendall(OPTION_MAGIC + struct.pack(">II", OPT_GO, len(go)) + go)
    offered: tuple[int, int] | None = None
    most = MOST_PAYLOAD
    for _ in range(_REPLIES):
        kind, data = _option_reply(sock, end)
        if kind & REP_ERROR:
            said = data.decode("utf-8", "replace")[:200]
            with suppress(OSError):
                sock.sendall(OPTION_MAGIC + struct.pack(">II", OPT_ABORT, 0))
            why = REFUSALS.get(kind & ~REP_ERROR, f"refuses with error {kind & ~REP_ERROR}")
            raise ValueError(why + (f": {said!r}" if said else ""))
        if kind == REP_ACK:
            if offered is None:
                raise ValueError("does not say how large the export is")
            return Export(*offered, most)
        if kind == REP_INFO and data[:2] == INFO_EXPORT.to_bytes(2, "big") and len(data) == 12:
            _, size, transmission = struct.unpack(">HQH", data)
            offered = size, transmission
        elif kind == REP_INFO and data[:2] == INFO_BLOCK_SIZE.to_bytes(2, "big") and len(data) == 14:
            _, least, _, largest = struct.unpack(">HIII", data)
            if least > 512 or largest < 4096:
                raise ValueError(f"takes only blocks of {least} to {largest} bytes: a disk's have 512")
            most = min(most, largest & ~511)
    raise ValueError("does not come to an end of its answer")


def _option_reply(sock: socket.socket, end: float) -> tuple[int, bytes]:
    magic, option, kind, length = OPTION_REPLY.unpack(_receive(sock, OPTION_REPLY.size, end))
    if magic != OPTION_REPLY_MAGIC or option != OPT_GO:
        raise ValueError("answers what was not asked")
    if length > _REPLY_LENGTH:
        raise ValueError(f"answers with {length} bytes")
    return kind, _receive(sock, length, end)


def _receive(sock: socket.socket, length: int, end: float) -> bytes:
    data = b""
    while len(data) < length:
        sock.settimeout(max(end - time.monotonic(), 0.001))
        part = sock.recv(length - len(data))
        if not part:
            raise ConnectionResetError("it was closed in the middle of the handshake")
        data += part
    return data


def is_uri(text: str) -> bool:
    """Whether a disk is named by a URI, and not by a path."""
    return text.partition("://")[0] in ("nbd", "nbd+unix", "nbds", "nbds+unix")


def parse_uri(uri: str) -> Address:
    """`nbd://HOST[:PORT]/[EXPORT]` or `nbd+unix:///[EXPORT]?socket=PATH`; ConfigError for anything else."""
    from urllib.parse import parse_qs, unquote, urlsplit

    try:
        parts = urlsplit(uri)
        port, host = parts.port, parts.hostname
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise ConfigError(f"{uri} is no NBD URI: {error}") from error
    export = unquote(parts.path.removeprefix("/"), errors="surrogateescape")
    if len(export.encode("utf-8", "surrogateescape")) > 4096 or parts.fragment or parts.username is not None:
        raise ConfigError(f"{uri:.200} is no NBD URI that can be used")
    match parts.scheme:
        case "nbd" if host and not query:
            return Address((host, PORT if port is None else port), export)
        case "nbd+unix" if not parts.netloc and query.keys() == {"socket"} and query["socket"][-1]:
            return Address(query["socket"][-1], export)
        case "nbds" | "nbds+unix":
            raise ConfigError(f"{uri}: pykvm speaks NBD without TLS: have a tunnel, and give nbd:// or nbd+unix://")
    raise ConfigError(f"{uri}: give nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH")


def connect(uri: str, address: Address) -> socket.socket:
    """A socket that is connected with the server; ConfigError if there is none."""
    try:
        if isinstance(address.socket, tuple):
            sock = socket.create_connection(address.socket, TIME_LIMIT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(TIME_LIMIT)
            sock.connect(address.socket)
        except BaseException:
            sock.close()
            raise
        return sock
    except (OSError, ValueError) as error:  # ValueError: a name that IDNA has not
        raise ConfigError(f"{uri}: no NBD server can be reached there: {error}") from error
