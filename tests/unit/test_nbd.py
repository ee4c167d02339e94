"""The NBD client against servers of this file's own: honest ones, and such as lie, stall and vanish."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.disk import nbd, nbd_handshake
from pykvm.disk.image import open_disk
from pykvm.disk.nbd import FLUSH, READ, TRIM, WRITE, WRITE_ZEROES, NbdDisk
from pykvm.errors import ConfigError

GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
REPLY = struct.Struct(">QIII")
MAGIC = 0x3E889045565A9
SIZE = 1 << 20
EVERYTHING = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6
"""HAS_FLAGS, SEND_FLUSH, SEND_TRIM and SEND_WRITE_ZEROES."""


def reply(kind: int, data: bytes = b"", option: int = 7) -> bytes:
    return REPLY.pack(MAGIC, option, kind, len(data)) + data


def info(size: int = SIZE, flags: int = EVERYTHING) -> bytes:
    return reply(3, struct.pack(">HQH", 0, size, flags))


ACK = reply(1)


def exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = sock.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def agree(sock: socket.socket, answer: bytes, export: bytes = b"") -> None:
    """The server's side of the handshake."""
    sock.sendall(GREETING)
    assert struct.unpack(">I", exactly(sock, 4)) == (3,)
    assert exactly(sock, 8) == b"IHAVEOPT"
    option, length = struct.unpack(">II", exactly(sock, 8))
    assert (option, exactly(sock, length)) == (7, struct.pack(">I", len(export)) + export + b"\0\1\0\3")
    sock.sendall(answer)


@contextmanager
def served(serve: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """A socket at whose other end a thread is the server; what goes wrong there comes out at the end."""
    ours, theirs = socket.socketpair()
    wrong: list[BaseException] = []

    def run() -> None:
        with theirs:
            try:
                serve(theirs)
            except (EOFError, ConnectionError):
                pass
            except BaseException as error:
                wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with ours:
            yield ours
    finally:
        thread.join()
    assert not wrong, wrong


class Server:
    """An honest server of `content`, which remembers what it was asked."""

    def __init__(self, content: bytearray, answer: bytes = b"", export: bytes = b"") -> None:
        self.content, self.answer, self.export = content, answer or info(len(content)) + ACK, export
        self.asked: list[tuple[int, int, int]] = []
        self.said_goodbye = False

    def __call__(self, sock: socket.socket) -> None:
        agree(sock, self.answer, self.export)
        while True:
            magic, _, command, cookie, offset, length = struct.unpack(">IHHQQI", exactly(sock, 28))
            assert magic == 0x25609513
            if command == 2:
                self.said_goodbye = True
                return
            self.asked.append((command, offset, length))
            data = exactly(sock, length) if command == WRITE else b""
            sock.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie))
            if command == READ:
                sock.sendall(self.content[offset : offset + length])
            elif command == WRITE:
                self.content[offset : offset + length] = data
            elif command in (TRIM, WRITE_ZEROES):
                self.content[offset : offset + length] = bytes(length)


def test_all_requests() -> None:
    server = Server(bytearray(range(256)) * 4096, export=b"a disk")
    with served(server) as sock:
        disk = NbdDisk(sock, "nbd://here/a disk", "a disk")
        assert (disk.size, disk.read_only) == (SIZE, False)
        assert disk.read_at(513, 3) == b"\1\2\3"
        assert disk.read_at(5, 0) == b""
        disk.write_at(512, b"abc" * 100)
        assert disk.read_at(510, 5) == b"\xfe\xffabc"
        disk.write_at(0, b"")
        disk.flush()
        disk.trim(4096, 4096)
        disk.write_zeroes(0, 1024)
        assert disk.read_at(0, SIZE) == bytes(server.content) == bytes(1024) + bytes(server.content[1024:])
        disk.close()
        disk.close()
    assert server.said_goodbye
    assert [(command, length) for command, _, length in server.asked] == [
        (READ, 3), (WRITE, 300), (READ, 5), (FLUSH, 0), (TRIM, 4096), (WRITE_ZEROES, 1024), (READ, SIZE),
    ]  # fmt: skip


def test_what_the_server_does_not_offer_is_not_asked_for() -> None:
    server = Server(bytearray(b"x" * 4096), info(4096, 1) + ACK)
    with served(server) as sock:
        disk = NbdDisk(sock, "plain")
        disk.flush()
        disk.trim(0, 4096)
        disk.write_zeroes(512, 512)
        disk.close()
    assert server.asked == [(WRITE, 512, 512)]
    assert server.content == b"x" * 512 + bytes(512) + b"x" * 3072


def test_requests_are_no_larger_than_the_server_takes() -> None:
    sizes = reply(3, struct.pack(">HIII", 3, 1, 4096, 8192))
    server = Server(bytearray(b"y" * 65536), info(65536) + sizes + ACK)
    with served(server) as sock:
        disk = NbdDisk(sock, "small")
        assert disk.read_at(512, 20000) == b"y" * 20000
        disk.write_at(1024, b"z" * 8193)
        disk.close()
    assert [length for _, _, length in server.asked] == [8192, 8192, 3616, 8192, 1]
    assert server.content[1024 : 1024 + 8194] == b"z" * 8193 + b"y"


def test_outside_the_disk_and_read_only() -> None:
    with served(Server(bytearray(4096), info(4096, 3) + ACK)) as sock:
        disk = NbdDisk(sock, "ro", read_only=True)
        with pytest.raises(ValueError, match="not within"):
            disk.read_at(4096, 1)
        for write in (lambda: disk.write_at(0, b"a"), lambda: disk.trim(0, 1), lambda: disk.write_zeroes(0, 1)):
            with pytest.raises(PermissionError):
                write()
        disk.flush()
        disk.close()
    with (
        served(Server(bytearray(4096), info(4096, 3) + ACK)) as sock,
        pytest.raises(ConfigError, match="served read-only"),
    ):
        NbdDisk(sock, "ro")


@pytest.mark.parametrize(("value", "number"), [(5, errno.EIO), (28, errno.ENOSPC), (1, errno.EPERM), (4711, errno.EIO)])
def test_an_error_of_the_server_is_one_of_that_request(value: int, number: int) -> None:
    def serve(sock: socket.socket) -> None:
        agree(sock, info() + ACK)
        cookie = struct.unpack(">IHHQQI", exactly(sock, 28))[3]
        sock.sendall(struct.pack(">IIQ", 0x67446698, value, cookie))
        cookie = struct.unpack(">IHHQQI", exactly(sock, 28))[3]
        sock.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie) + b"next")

    with served(serve) as sock:
        disk = NbdDisk(sock, "nbd://here/")
        with pytest.raises(OSError, match="the NBD server reports") as caught:
            disk.read_at(0, 512)
        assert (caught.value.errno, caught.value.filename) == (number, "nbd://here/")
        assert disk.read_at(0, 4) == b"next"
        disk.close()


def test_a_flush_keeps_no_read_waiting() -> None:
    """The server has the flush wait until the read has been served."""
    flushing = threading.Event()

    def serve(sock: socket.socket) -> None:
        agree(sock, info() + ACK)
        flush = struct.unpack(">IHHQQI", exactly(sock, 28))[3]
        flushing.set()
        read = struct.unpack(">IHHQQI", exactly(sock, 28))[3]
        sock.sendall(struct.pack(">IIQ", 0x67446698, 0, read) + b"data")
        assert struct.unpack(">IHHQQI", exactly(sock, 28))[2] == WRITE  # the client has had its data
        sock.sendall(struct.pack(">IIQ", 0x67446698, 0, flush))
        sock.sendall(struct.pack(">IIQ", 0x67446698, 0, 3))

    with served(serve) as sock:
        disk = NbdDisk(sock, "slow")
        thread = threading.Thread(target=disk.flush)
        thread.start()
        flushing.wait()
        assert disk.read_at(0, 4) == b"data"
        disk.write_at(0, b"")  # nothing is sent for it
        disk._connection.request(WRITE, 0, 0)
        thread.join()
        disk.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply(1 << 31 | 6, b"no such thing"), "has no export of that name: 'no such thing'"),
        (reply(1 << 31 | 5), "wants TLS"),
        (reply(1 << 31 | 1), "too old"),
        (reply(1 << 31 | 4711), "error 4711"),
        (ACK, "does not say how large"),
        (reply(3, b"\0\0abc") + ACK, "does not say how large"),
        (info() * 100, "does not come to an end"),
        (info(1000) + ACK, "1000 bytes: a disk has whole sectors"),
        (info(0) + ACK, "0 bytes"),
        (reply(3, struct.pack(">HIII", 3, 4096, 4096, 65536)), "blocks of 4096 to 65536"),
        (REPLY.pack(MAGIC, 7, 1, 1 << 31), "answers with 2147483648 bytes"),
        (REPLY.pack(MAGIC + 1, 7, 1, 0), "what was not asked"),
        (reply(1, option=6), "what was not asked"),
        (b"", "closed in the middle"),
        (b"\0\3", "closed in the middle"),
    ],
)  # fmt: skip
def test_a_handshake_that_fails(answer: bytes, words: str) -> None:
    with served(lambda sock: agree(sock, answer)) as sock, pytest.raises(ConfigError, match="^nbd://x/") as caught:
        NbdDisk(sock, "nbd://x/")
    assert words in str(caught.value)
    assert sock.fileno() < 0


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b"HTTP/1.1 400 Bad", "is none"),
        (b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53" + bytes(136), "no newstyle"),
        (b"NBDMAGICIHAVEOPT\0\0", "no fixed newstyle"),
        (b"NBDMAG", "closed in the middle"),
    ],
)
def test_what_is_no_server(greeting: bytes, words: str) -> None:
    with served(lambda sock: sock.sendall(greeting)) as sock, pytest.raises(ConfigError, match=words):
        NbdDisk(sock, "nbd://x/")


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd_handshake, "TIME_LIMIT", 0.05)
    with served(lambda sock: exactly(sock, 1)) as sock, pytest.raises(ConfigError, match="does not answer within"):  # type: ignore[arg-type,return-value]
        NbdDisk(sock, "nbd://x/")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda cookie: struct.pack(">IIQ", 0x668E33EF, 0, cookie), "no simple reply"),
        (lambda cookie: struct.pack(">IIQ", 0x67446698, 0, cookie + 1), "that is not outstanding"),
        (lambda cookie: struct.pack(">IIQ", 0x67446698, 0, cookie) + b"abc", "has closed the connection"),
        (lambda cookie: b"", "has closed the connection"),
    ],
)
def test_a_broken_conversation_loses_the_disk(answer: Callable[[int], bytes], words: str) -> None:
    def serve(sock: socket.socket) -> None:
        agree(sock, info() + ACK)
        sock.sendall(answer(struct.unpack(">IHHQQI", exactly(sock, 28))[3]))

    with served(serve) as sock:
        disk = NbdDisk(sock, "nbd://x/")
        for _ in range(2):
            with pytest.raises(OSError, match=f"{words}.*the disk is lost to this machine") as caught:
                disk.read_at(0, 512)
            assert caught.value.errno == errno.EIO
        for access in (disk.flush, lambda: disk.write_at(0, b"a")):
            with pytest.raises(OSError, match=words):
                access()
        assert disk.lost is not None
        disk.close()


@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_lets_the_time_pass(monkeypatch: pytest.MonkeyPatch, drips: bool) -> None:
    monkeypatch.setattr(nbd, "TIME_LIMIT", 1)

    def serve(sock: socket.socket) -> None:
        agree(sock, info() + ACK)
        cookie = struct.unpack(">IHHQQI", exactly(sock, 28))[3]
        if drips:
            sock.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie) + b"half")
        exactly(sock, 1)

    with served(serve) as sock:
        disk = NbdDisk(sock, "nbd://x/")
        before = time.monotonic()
        with pytest.raises(OSError, match="does not reply in time"):
            disk.read_at(0, 512)
        assert time.monotonic() - before >= 1
        disk.close()


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=80))
def test_anything_in_place_of_a_handshake(data: bytes) -> None:
    for begin in (b"", GREETING, GREETING + info(), GREETING + info() + reply(3)[:-4]):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(begin + data)
            theirs.shutdown(socket.SHUT_WR)
            with suppress(ConfigError):
                NbdDisk(ours, "nbd://x/").close()


@pytest.mark.parametrize(
    ("uri", "place", "export"),
    [
        ("nbd://host", ("host", 10809), ""),
        ("nbd://host:1/a%20b", ("host", 1), "a b"),
        ("nbd://[::1]:2//abs", ("::1", 2), "/abs"),
        ("nbd+unix:///?socket=/run/s", "/run/s", ""),
        ("nbd+unix:///e?socket=rel%3f", "rel?", "e"),
    ],
)
def test_uris(uri: str, place: object, export: str) -> None:
    assert nbd_handshake.parse_uri(uri) == (place, export)


@pytest.mark.parametrize(
    "uri",
    [
        "nbd://", "nbd:///x", "nbd://h:70000/", "nbd://h:x/", "nbd://u@h/", "nbd://h/?socket=x", "nbd+unix:///x",
        "nbd+unix:///?socket=", "nbd+unix://h/?socket=x", "nbd+unix:///?x=y&socket=z", "nbds://h/", "nbd://h/#f",
        "nbd://[h/", "nbd://h/" + "x" * 5000,
    ],
)  # fmt: skip
def test_uris_that_cannot_be(uri: str) -> None:
    with pytest.raises(ConfigError):
        open_disk(uri)


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no NBD server can be reached there"):
        open_disk(f"nbd+unix:///?socket={tmp_path}/none")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match="no NBD server can be reached there"):
        open_disk(f"nbd://127.0.0.1:{port}/")
    with pytest.raises(ConfigError, match="leave format= out"):
        open_disk("nbd://127.0.0.1/", format="qcow2")
