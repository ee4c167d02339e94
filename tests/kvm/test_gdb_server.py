"""gdb's server against clients that are none, that do not read, and hosts that have no room."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers import HALT, LIMIT, SPIN, flat
from hypothesis import given
from hypothesis import strategies as st

from pykvm import ConfigError, Ending, Machine
from pykvm.debug.gdb import GdbServer, connection, server
from pykvm.debug.gdb.connection import begins_as_protocol
from pykvm.debug.gdb.packets import Decoder, Packet, encode
from pykvm.debug.gdb.sockets import Listener


@contextmanager
def serving(address: str = ":0") -> Iterator[tuple[Machine, GdbServer]]:
    """A machine that runs, though a server is there: nobody has connected."""
    with flat(SPIN) as machine, GdbServer(machine, address, stopped=False) as gdb:
        machine.start(LIMIT)
        yield machine, gdb


def connect(gdb: GdbServer, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    client.settimeout(LIMIT)
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(("127.0.0.1", int(gdb.target[1:])))
    return client


def answer(client: socket.socket, payload: bytes) -> bytes:
    client.sendall(b"+" + encode(payload))
    decoder = Decoder()
    while True:
        data = client.recv(4096)
        assert data
        for item in decoder.feed(data):
            if isinstance(item, Packet):
                return item.payload


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


POST = b"POST / HTTP/1.1\r\nHost: localhost:1234\r\nContent-Length: 30\r\n\r\n"
STRANGERS = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    POST + encode(b"M100000,2:ebfd"),
    bytes.fromhex("160301020001"),  # a TLS hello
    b"$qSupported#00",  # the checksum is wrong
    b"$" + b"A" * 5000,
    b"\n" + encode(b"?"),
    b"+" * 5000,
]


def test_a_guest_that_is_not_stopped_runs_until_gdb_comes() -> None:
    code = bytes.fromhex("b061 e6e9") + SPIN  # al = 'a'; out 0xE9, al
    with flat(code) as machine:
        gdb = machine.gdb(":0", stopped=False)
        machine.start(LIMIT)
        machine.pc.debug_console.wait_for("a", LIMIT)
        with connect(gdb) as client:
            assert answer(client, b"?").startswith(b"T02")
            with machine.lock:
                assert machine.engine.gate.is_held
    with flat(HALT) as machine:  # nobody is there to be asked whether the run may end
        machine.gdb(":0", stopped=False)
        assert machine.run(LIMIT).ending is Ending.HALTED


@pytest.mark.parametrize("words", STRANGERS)
def test_a_stranger_is_closed_and_stops_nothing(words: bytes) -> None:
    with serving() as (machine, gdb):
        with connect(gdb) as stranger:
            stranger.sendall(words)
            assert is_closed(stranger)
        assert gdb.control.stop is None
        assert machine.memory.read(0x100000, 2) == SPIN
        with connect(gdb) as client:
            assert answer(client, b"?").startswith(b"T02")


def test_silent_connections_keep_nobody_out() -> None:
    with serving() as (_, gdb):
        silent = [connect(gdb) for _ in range(server.PENDING_LIMIT + 3)]
        assert all(is_closed(stranger) for stranger in silent[:2])  # the oldest have to go
        assert gdb.control.stop is None
        with connect(gdb) as client:
            assert answer(client, b"?").startswith(b"T02")
            for stranger in silent:
                assert is_closed(stranger)
                stranger.close()


def test_a_silent_connection_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIME", 0.05)
    with serving() as (_, gdb), connect(gdb) as stranger:
        assert is_closed(stranger)
        assert gdb.control.stop is None


def test_a_first_packet_in_pieces() -> None:
    with serving() as (_, gdb), connect(gdb) as client:
        for byte in b"+$?#3":
            client.sendall(bytes([byte]))
        client.sendall(b"f")
        assert client.recv(1) == b"+"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", None), (b"+", None), (b"+$", None), (b"$qSup", None), (b"$?#", None), (b"$?#3", None),
        (b"$?#3f", True), (b"+-$?#3Ftrailing", True), (b"$?#3e", False), (b"$?#zz", False), (b"G", False),
        (b"+G", False), (b"\x03", False), (b"$a$?#3f", False), (b"$" + b"a" * connection.OPENING_LIMIT, False),
    ],
)  # fmt: skip
def test_how_a_debugger_begins(data: bytes, expected: bool | None) -> None:
    assert begins_as_protocol(data) is expected


@given(st.binary(max_size=60), st.binary(max_size=20), st.integers(0, 80))
def test_only_a_packet_in_front_makes_a_debugger(front: bytes, payload: bytes, cut: int) -> None:
    data = front + encode(payload)
    answers = {begins_as_protocol(data[:end]) for end in range(cut)}
    if front.strip(b"+-") and front.strip(b"+-")[:1] != b"$":
        assert True not in answers
    assert begins_as_protocol(encode(payload)) is True


@pytest.mark.parametrize("packet", [b"g", b"?", b"m100000,2000"])
def test_a_client_that_does_not_read_holds_nothing_up(packet: bytes) -> None:
    with serving() as (machine, gdb), connect(gdb, 2048) as client:
        assert answer(client, b"?").startswith(b"T02")

        def ask() -> None:
            with suppress(OSError):
                client.sendall(encode(packet) * 20000)

        asking = threading.Thread(target=ask)
        asking.start()
        machine.request_stop("enough")
        assert machine.wait(LIMIT).ending is Ending.STOPPED
        began = time.monotonic()
        gdb.close()
        assert time.monotonic() - began < LIMIT / 4
        client.close()
        asking.join()


def test_a_client_that_takes_nothing_is_dropped() -> None:
    with serving() as (_, gdb):
        with connect(gdb, 2048) as client:
            assert answer(client, b"?").startswith(b"T02")
            with pytest.raises(OSError, match="reset|Broken pipe"):
                client.sendall(encode(b"m100000,2000") * 1000000)
        with connect(gdb) as client:
            assert answer(client, b"?").startswith(b"T02")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ECONNABORTED, errno.ENOMEM])
def test_an_accept_that_fails_ends_nothing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as (machine, gdb):
        accept, failures = gdb._listener.accept, iter([True, True])

        def fails_twice() -> socket.socket:
            if next(failures, False):
                raise OSError(number, os.strerror(number))
            return accept()

        monkeypatch.setattr(gdb._listener, "accept", fails_twice)
        with connect(gdb) as client:
            assert answer(client, b"?").startswith(b"T02")
        assert machine.outcome is None


def test_the_socket_is_its_owners_alone_and_only_its_own_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    before = os.umask(0)
    try:
        with serving(str(path)):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            path.unlink()  # somebody tidies up
            path.write_text("another's")
        assert path.read_text() == "another's"
        path.unlink()
        with serving(str(path)):
            path.unlink()
    finally:
        os.umask(before)


def test_of_many_servers_at_a_dead_socket_one_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "gdb")
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        listeners: list[Listener] = []
        together = threading.Barrier(4)

        def listen(listeners: list[Listener] = listeners, together: threading.Barrier = together) -> None:
            together.wait()
            with suppress(ConfigError):
                listeners.append(Listener(path))

        threads = [threading.Thread(target=listen) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(listeners) == 1
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        listeners[0].close()
        assert not os.path.exists(path)
