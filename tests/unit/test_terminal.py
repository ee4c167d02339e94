"""The terminal between a serial port and descriptors: pipes, files and pseudo-terminals, with a loop turned by hand."""

from __future__ import annotations

import os
import pty
import select
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pykvm.console import terminal as terminal_module
from pykvm.console.port import ConsolePort
from pykvm.console.terminal import INPUT_AHEAD, OUTPUT_BUSY, Terminal


class Loop:
    """What the I/O thread does, a turn at a time."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self.soon: list[Callable[[], None]] = []
        self._poll = select.epoll()

    def on_readable(self, fd: int, callback: Callable[[], None] | None) -> None:
        self._set(self.readers, fd, callback)

    def on_writable(self, fd: int, callback: Callable[[], None] | None) -> None:
        self._set(self.writers, fd, callback)

    def _set(self, table: dict[int, Callable[[], None]], fd: int, callback: Callable[[], None] | None) -> None:
        if fd not in self.readers and fd not in self.writers and callback is not None:
            self._poll.register(fd, 0)  # PermissionError for a regular file
            self._poll.unregister(fd)
        table.pop(fd, None)
        if callback is not None:
            table[fd] = callback

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        """Call everything that is ready now."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()
        readable, writable, _ = select.select(list(self.readers), list(self.writers), [], 0)
        for fd in readable:
            if fd in self.readers:
                self.readers[fd]()
        for fd in writable:
            if fd in self.writers:
                self.writers[fd]()

    def close(self) -> None:
        self._poll.close()


class Guest:
    """A port with a terminal on it, between two pipes."""

    def __init__(self, source: int | None = None, target: int | None = None) -> None:
        self.port, self.loop = ConsolePort(threading.Condition()), Loop()
        self.left: list[str] = []
        self.fds: list[int] = []
        if source is None:
            source, self.keys = self._pipe()
        if target is None:
            self.screen, target = self._pipe()
        self.terminal = Terminal(self.port, self.loop, self.left.append, source, target)
        self.terminal.begin()

    def _pipe(self) -> tuple[int, int]:
        pair = os.pipe()
        self.fds += pair
        return pair

    def close(self) -> None:
        self.loop.close()
        for fd in self.fds:
            with suppress(OSError):
                os.close(fd)


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


def test_what_comes_between_the_mode_and_all_else_leaves_the_terminal_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near, far = pty.openpty()
    set_raw = terminal_module._set_raw

    def interrupted(tty: int, interrupts: bool) -> None:
        set_raw(tty, interrupts)
        raise SystemExit  # as of a signal's handler

    monkeypatch.setattr(terminal_module, "_set_raw", interrupted)
    loop = Loop()
    try:
        before = termios.tcgetattr(far)
        terminal = Terminal(ConsolePort(threading.Condition()), loop, lambda why: None, far, far)
        with pytest.raises(SystemExit):
            terminal.begin()
        assert termios.tcgetattr(far) != before
        terminal.close()
        assert termios.tcgetattr(far) == before
    finally:
        loop.close()
        os.close(near)
        os.close(far)


def test_output_goes_straight_through(guest: Guest) -> None:
    guest.port.write(b"hello")
    assert os.read(guest.screen, 100) == b"hello"
    assert guest.terminal.close() == 0


def test_input_comes_by_the_loop(guest: Guest) -> None:
    os.write(guest.keys, b"abc")
    guest.loop.turn()
    assert guest.port.read(10) == b"abc"
    guest.terminal.close()


def test_a_pipes_bytes_are_no_commands(guest: Guest) -> None:
    os.write(guest.keys, b"\x01x\x03")
    guest.loop.turn()
    assert guest.port.read(10) == b"\x01x\x03"
    assert guest.left == []
    guest.terminal.close()


def test_a_slow_reader_stops_nobody_and_gets_all_in_order(guest: Guest) -> None:
    total = b"".join(b"%06d\n" % number for number in range(40_000))  # more than a pipe holds
    for at in range(0, len(total), 700):
        guest.port.write(total[at : at + 700])
    assert guest.port.ready
    got = b""
    while len(got) < len(total):
        got += os.read(guest.screen, 5000)
        guest.loop.turn()
    assert got == total
    assert guest.loop.writers == {}
    assert guest.terminal.close() == 0


def test_the_transmitter_is_busy_while_too_much_waits(guest: Guest) -> None:
    while guest.port.ready:
        guest.port.write(b"x" * 4096)
    got = 0
    while not guest.port.ready:
        got += len(os.read(guest.screen, 65536))
        guest.loop.turn()
    assert got < 2 * OUTPUT_BUSY
    while guest.loop.writers:
        got += len(os.read(guest.screen, 65536))
        guest.loop.turn()
    assert guest.terminal.close() == 0


def test_what_a_guest_sends_regardless_is_lost_and_counted(guest: Guest) -> None:
    sent = 0
    for _ in range(5 * OUTPUT_BUSY // 4096):
        guest.port.write(b"x" * 4096)
        sent += 4096
    held: list[int] = []

    def drain() -> None:
        while True:
            data = os.read(guest.screen, 65536)
            held.append(len(data))
            if not data:
                return

    reader = threading.Thread(target=drain)
    reader.start()
    lost = guest.terminal.close()
    os.close(guest.fds[3])  # the pipe's other end
    reader.join()
    assert lost > 0
    assert sum(held) == sent - lost
    assert sum(held) >= 2 * OUTPUT_BUSY


def test_no_more_is_read_than_the_guest_takes(guest: Guest) -> None:
    writer = os.dup(guest.keys)
    os.set_blocking(writer, False)
    total = bytes(range(256)) * 128  # 32 KiB
    assert os.write(writer, total) == len(total)
    os.close(writer)
    got = b""
    for _ in range(10_000):
        guest.loop.turn()
        assert guest.port.waiting < 2 * INPUT_AHEAD
        got += guest.port.read(16)
        if len(got) == len(total):
            break
    assert got == total
    guest.terminal.close()


def test_the_end_of_input_is_left_alone(guest: Guest) -> None:
    os.write(guest.keys, b"last")
    os.close(guest.keys)
    for _ in range(3):
        guest.loop.turn()
    assert guest.loop.readers == {}
    assert guest.port.read(10) == b"last"
    guest.loop.turn()
    assert guest.left == []
    guest.terminal.close()


def test_a_reader_that_is_gone_ends_the_run(guest: Guest) -> None:
    os.close(guest.screen)
    guest.port.write(b"anybody?")
    assert len(guest.left) == 1
    assert "standard output is closed" in guest.left[0]
    guest.port.write(b"more")
    assert len(guest.left) == 1
    guest.terminal.close()


def test_a_reader_that_goes_while_output_waits(guest: Guest) -> None:
    guest.port.write(b"x" * 200_000)
    assert guest.loop.writers
    os.close(guest.screen)
    guest.loop.turn()
    assert len(guest.left) == 1
    assert guest.loop.writers == {}
    guest.terminal.close()


def test_input_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "input"
    total = bytes(range(256)) * 64
    path.write_bytes(total)
    with path.open("rb") as file:
        guest = Guest(source=file.fileno())
        got = b""
        for _ in range(10_000):
            guest.loop.turn()
            got += guest.port.read(64)
            if len(got) == len(total):
                break
        assert got == total
        guest.loop.turn()
        assert guest.port.waiting == 0
        guest.terminal.close()
        guest.close()


def test_output_to_a_file_goes_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "output"
    with path.open("wb") as file:
        file.write(b"before ")
        file.flush()
        guest = Guest(target=file.fileno())
        guest.port.write(b"guest ")
        guest.terminal.close()
        guest.close()
        file.write(b"after")
    assert path.read_bytes() == b"before guest after"


def test_output_to_a_socket() -> None:
    near, far = socket.socketpair()
    guest = Guest(target=near.fileno())
    guest.port.write(b"hello")
    assert far.recv(10) == b"hello"
    guest.terminal.close()
    guest.close()
    near.close()
    far.close()


def test_the_shells_descriptor_keeps_its_flags(guest: Guest) -> None:
    assert os.get_blocking(guest.fds[1])
    assert os.get_blocking(guest.fds[3])
    guest.port.write(b"x")
    assert os.get_blocking(guest.fds[3])
    guest.terminal.close()


# A terminal


class Tty(Guest):
    """The same with a pseudo-terminal at both ends."""

    def __init__(self) -> None:
        self.near, self.far = pty.openpty()
        self.before = termios.tcgetattr(self.far)
        super().__init__(self.far, self.far)

    def press(self, keys: bytes) -> bytes:
        """Type, and return what reaches the guest."""
        os.write(self.near, keys)
        while select.select([self.far], [], [], 0)[0]:
            self.loop.turn()
        return self.port.read(1000)

    def shown(self) -> bytes:
        """What is on the screen since the last call."""
        text = b""
        while select.select([self.near], [], [], 0)[0]:
            text += os.read(self.near, 1000)
        return text

    def close(self) -> None:
        super().close()
        os.close(self.near)
        os.close(self.far)


@pytest.fixture
def tty() -> Iterator[Tty]:
    tty = Tty()
    yield tty
    tty.close()


def test_keys_come_at_once_unchanged_and_unechoed(tty: Tty) -> None:
    assert tty.press(b"a\r\n\x7f\x04\x11\x13\x1a\x1c") == b"a\r\n\x7f\x04\x11\x13\x1a\x1c"
    assert tty.shown() == b""
    tty.terminal.close()


def test_the_mode_comes_back(tty: Tty) -> None:
    assert termios.tcgetattr(tty.far) != tty.before
    tty.terminal.close()
    assert termios.tcgetattr(tty.far) == tty.before


@pytest.mark.parametrize(
    ("keys", "guest"),
    [
        (b"\x01\x01", b"\x01"),
        (b"\x01a", b"\x01"),
        (b"\x01A", b"\x01"),
        (b"\x01c", b"\x03"),
        (b"\x01C", b"\x03"),
        (b"x\x01cy", b"x\x03y"),
        (b"\x01\x01\x01c", b"\x01\x03"),
    ],
)
def test_commands_that_are_keys(tty: Tty, keys: bytes, guest: bytes) -> None:
    assert tty.press(keys) == guest
    assert tty.left == []
    tty.terminal.close()


@pytest.mark.parametrize("key", [b"x", b"X"])
def test_the_command_that_leaves(tty: Tty, key: bytes) -> None:
    assert tty.press(b"\x01") == b""
    assert tty.press(key) == b""
    assert len(tty.left) == 1
    assert "Ctrl-A X" in tty.left[0]
    tty.terminal.close()


def test_any_other_key_shows_the_commands(tty: Tty) -> None:
    assert tty.press(b"\x01?") == b""
    assert b"Ctrl-A X leaves" in tty.shown()
    assert tty.press(b"x") == b"x"
    assert tty.left == []
    tty.terminal.close()


def test_line_ends_are_shown_as_such(tty: Tty) -> None:
    tty.port.write(b"one\ntwo\r\n")
    assert tty.shown().split(b"\n")[0].rstrip(b"\r") == b"one"
    tty.terminal.close()


@pytest.mark.parametrize("interrupts", [False, True])
def test_keys_without_commands(interrupts: bool) -> None:
    near, far = pty.openpty()
    loop = Loop()
    port = ConsolePort(threading.Condition())
    terminal = Terminal(port, loop, lambda why: None, far, far, commands=False, interrupts=interrupts)
    try:
        terminal.begin()
        assert (termios.tcgetattr(far)[6][termios.VINTR] == b"\3") is interrupts
        os.write(near, b"\1x\1c")
        loop.turn()
        assert port.read(10) == b"\1x\1c"
    finally:
        terminal.close()
        loop.close()
        os.close(near)
        os.close(far)
