"""`pykvm run` on a terminal: a pseudo-terminal with the process as its foreground job, read until what is expected."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import LIMIT, PYKVM, ROOT

Guest = Callable[[str], Path]


class Session:
    """A terminal with one job on it; the far side is a person at the keyboard."""

    def __init__(self) -> None:
        self.near, self._far = pty.openpty()
        self.before = termios.tcgetattr(self._far)
        self.text = b""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: object) -> None:
        """Run the command line as the terminal's foreground job."""
        self.process = subprocess.Popen(
            [*PYKVM, *map(str, arguments)],
            cwd=ROOT,
            stdin=self._far,
            stdout=self._far,
            stderr=self._far,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # no other thread runs yet
        )

    def type(self, keys: bytes) -> None:
        os.write(self.near, keys)

    def expect(self, text: bytes) -> None:
        """Read until `text` has come; the search goes on behind it."""
        deadline = time.monotonic() + LIMIT
        while text not in self.text:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.near], [], [], max(0, left))
            assert ready, f"{text!r} did not come; the last was {self.text[-500:]!r}"
            self.text += os.read(self.near, 4096)
        self.text = self.text.partition(text)[2]

    def end(self) -> int:
        """Wait for the job's end, reading on, as a terminal does; its exit status."""
        assert self.process is not None
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([self.near], [], [], 0.01)[0]:
                self.text += os.read(self.near, 4096)
        while select.select([self.near], [], [], 0)[0]:
            self.text += os.read(self.near, 4096)
        return self.process.returncode

    def mode(self) -> list[object]:
        """The terminal's modes now."""
        return termios.tcgetattr(self._far)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.near)
        os.close(self._far)


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session()
    yield session
    session.close()


def test_keys_reach_the_guest_one_by_one_and_unechoed(guest: Guest, session: Session) -> None:
    session.start("run", guest("echo"))
    session.expect(b"ready\r\n")
    assert session.mode() != session.before
    session.type(b"hello\r")
    session.expect(b"echo: hello\r\n")
    session.type(b"quit\n")
    assert session.end() == 0
    assert b"hello" not in session.text
    assert b"quit" not in session.text
    assert session.mode() == session.before


def test_ctrl_a_x_leaves_with_status_0(guest: Guest, session: Session) -> None:
    session.start("run", guest("echo"))
    session.expect(b"ready\r\n")
    session.type(b"\x01x")
    assert session.end() == 0
    assert b"Ctrl-A X" in session.text
    assert session.mode() == session.before


def test_ctrl_a_x_leaves_a_guest_that_floods(guest: Guest, session: Session) -> None:
    session.start("run", guest("flood"))
    session.expect(b"xyz\r\n")
    session.type(b"\x01")
    session.type(b"X")
    assert session.end() == 0
    assert session.mode() == session.before


@pytest.mark.parametrize("name", ["flood", "echo"])
def test_ctrl_c_interrupts_with_status_130(guest: Guest, session: Session, name: str) -> None:
    session.start("run", guest(name))
    session.expect(b"xyz\r\n" if name == "flood" else b"ready\r\n")
    session.type(b"\x03")
    assert session.end() == 130
    assert b"Traceback" not in session.text
    assert session.mode() == session.before


def test_ctrl_a_c_sends_ctrl_c_and_ctrl_a_a_sends_ctrl_a(guest: Guest, session: Session) -> None:
    session.start("run", guest("echo"))
    session.expect(b"ready\r\n")
    session.type(b"<\x01c\x01a\x01\x01>\r")
    session.expect(b"echo: <\x03\x01\x01>\r\n")
    session.type(b"quit\r")
    assert session.end() == 0


def test_an_unknown_command_key_shows_the_keys(guest: Guest, session: Session) -> None:
    session.start("run", guest("echo"))
    session.expect(b"ready\r\n")
    session.type(b"\x01?")
    session.expect(b"Ctrl-A X leaves")
    session.type(b"still here\r")
    session.expect(b"echo: still here")
    session.type(b"\x01x")
    assert session.end() == 0


def test_the_terminal_is_restored_however_it_ends(guest: Guest, session: Session, tmp_path: Path) -> None:
    session.start("run", guest("spin"), "--timeout", "0.2")
    assert session.end() == 124
    assert session.mode() == session.before
    session.start("run", guest("crash-divide"))
    assert session.end() == 122
    assert session.mode() == session.before
    session.start("run", tmp_path / "missing")
    assert session.end() == 2
    assert session.mode() == session.before


def test_sigterm_restores_the_terminal(guest: Guest, session: Session) -> None:
    session.start("run", guest("echo"))
    session.expect(b"ready\r\n")
    assert session.process is not None
    session.process.terminate()
    assert session.end() == 143
    assert session.mode() == session.before


def test_a_terminal_that_goes_away_ends_the_run(guest: Guest) -> None:
    near, far = pty.openpty()
    process = subprocess.Popen(
        [*PYKVM, "run", str(guest("echo"))],
        cwd=ROOT,
        stdin=far,
        stdout=far,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # no other thread runs yet
    )
    try:
        os.close(far)
        text = b""
        while b"ready" not in text:
            text += os.read(near, 4096)
        os.close(near)  # SIGHUP
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode != 0
        assert b"Traceback" not in errors
    finally:
        process.kill()
        process.wait()


def test_info_has_colours_on_a_terminal(session: Session) -> None:
    session.start("info")
    assert session.end() == 0
    assert b"\x1b[" in session.text
    assert b"USER_MEMORY" in session.text
