"""`pykvm run` on a terminal: a pseudo-terminal with the process as its foreground job, read until what is expected."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest
import zygote
from helpers import LIMIT, PYKVM, ROOT, assembled, pykvm

Guest = Callable[[str], Path]


LEADER = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: (signal.signal(signal.SIGTTOU, signal.SIG_IGN), os.tcsetpgrp(0, job)))
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
_, status = os.waitpid(job, os.WUNTRACED)
if os.WIFSTOPPED(status):
    os.kill(job, signal.SIGKILL)
    sys.exit(f"stopped by signal {os.WSTOPSIG(status)}")
os._exit(os.waitstatus_to_exitcode(status))
"""
"""A session's leader with a job in the background."""


class Session:
    """A terminal with one job on it; the far side is a person at the keyboard."""

    def __init__(self) -> None:
        self.near, self._far = pty.openpty()
        self.before = termios.tcgetattr(self._far)
        self.text = b""
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self, *arguments: object, stderr: int | None = None, background: bool = False, env: dict[str, str] | None = None
    ) -> None:
        """Run the command line as the terminal's foreground job, with its standard error there, too, or as told.

        In the `background` it is the job of a leader that does what a shell does, see `LEADER`.
        """
        # LEADER starts the command for real, by execvp(3).
        leader = [sys.executable, "-c", LEADER] if background else []
        self.process = zygote.Popen(
            [*leader, *PYKVM, *map(str, arguments)],
            cwd=ROOT,
            stdin=self._far,
            stdout=self._far,
            stderr=self._far if stderr is None else stderr,
            env={**os.environ, "COLORTERM": "", "NO_COLOR": "", "TERM": "xterm", **(env or {})},
            start_new_session=True,
            terminal=True,
        )

    def to_foreground(self) -> None:
        """Have the leader bring its job to the foreground, without a signal, as bash does with a running job."""
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)

    def signal_and_wait(self, number: signal.Signals) -> None:
        """Send a signal that stops the process, and wait until it has."""
        assert self.process is not None
        self.process.send_signal(number)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def set_mode(self, mode: list[object]) -> None:
        termios.tcsetattr(self._far, termios.TCSANOW, mode)  # type: ignore[arg-type]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait, reading on, until it is so."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, self.text[-500:]
            if select.select([self.near], [], [], 0.01)[0]:
                self.text += os.read(self.near, 4096)

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

    def hang_up(self) -> None:
        """Close the terminal: SIGHUP for the job."""
        os.close(self.near)
        os.close(self._far)
        self.near = -1

    def close(self) -> None:
        if self.process is not None:
            with self.process:  # closes its pipes and waits for it
                self.process.kill()
        if self.near >= 0:
            self.hang_up()


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


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_other_ending_signals_restore_the_terminal_and_close_all(
    guest: Guest, session: Session, tmp_path: Path, number: signal.Signals
) -> None:
    socket = tmp_path / "gdb"
    session.start("run", guest("echo"), "--gdb", socket)
    session.expect(b"waiting for")
    assert session.process is not None
    session.wait_for(lambda: session.mode() != session.before)
    session.process.send_signal(number)
    assert session.end() == 128 + number
    assert session.mode() == session.before
    assert not socket.exists()


def test_after_a_stop_without_warning_keys_are_the_guests_again(guest: Guest, session: Session) -> None:
    session.start("run", guest("echo"))
    session.expect(b"ready\r\n")
    raw = session.mode()
    session.signal_and_wait(signal.SIGSTOP)
    session.set_mode(session.before)  # as a shell does
    assert session.process is not None
    session.process.send_signal(signal.SIGCONT)
    session.wait_for(lambda: session.mode() == raw)
    session.type(b"quit\r")
    assert session.end() == 0
    assert session.mode() == session.before


@pytest.mark.parametrize("own_group", [True, False])
def test_in_the_background_it_runs_and_leaves_the_terminal_alone(
    guest: Guest, session: Session, own_group: bool
) -> None:
    session.start("run", guest("hello64"), background=own_group)
    assert session.end() == 0
    assert b"Hello from 64-bit long mode!" in session.text
    assert session.mode() == session.before


def test_brought_to_the_foreground_it_takes_the_keys(guest: Guest, session: Session) -> None:
    session.start("run", guest("echo"), background=True)
    session.expect(b"ready\r\n")
    assert session.mode() == session.before
    session.to_foreground()
    session.wait_for(lambda: session.mode() != session.before)
    session.type(b"quit\r")
    assert session.end() == 0


# The screen: what the process draws is read by a terminal emulator


class Display(Session):
    """A terminal of 80 columns and 30 rows that shows what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        fcntl.ioctl(self._far, termios.TIOCSWINSZ, struct.pack("<HHHH", 30, 80, 0, 0))
        self.screen = pyte.Screen(80, 30)
        self._stream = pyte.ByteStream(self.screen)

    def read(self) -> None:
        """Show what comes within a second."""
        if select.select([self.near], [], [], 1)[0]:
            data = os.read(self.near, 4096)
            self.text += data
            self._stream.feed(data)

    def show(self, text: str) -> int:
        """Wait until a row begins with `text`, and return which."""
        deadline = time.monotonic() + LIMIT
        while not any(row.startswith(text) for row in self.screen.display):
            assert time.monotonic() < deadline, f"{text!r} is not shown; there is:\n" + "\n".join(self.screen.display)
            self.read()
        return next(number for number, row in enumerate(self.screen.display) if row.startswith(text))


@pytest.fixture
def display() -> Iterator[Display]:
    display = Display()
    yield display
    display.close()


@pytest.mark.parametrize("where", ["serial", "terminal"])
def test_a_stop_with_warning_gives_the_terminal_back_until_it_goes_on(
    guest: Guest, display: Display, where: str
) -> None:
    display.start("run", guest("bios"), "--display", where)
    display.show("bios: two ticks; press keys")
    raw = display.mode()
    # A process group without a parent outside its session is orphaned, and the kernel stops none at SIGTSTP: this one
    # has its parent in another session, so the stop itself does not come, and the terminal is given back all the same.
    assert display.process is not None
    display.process.send_signal(signal.SIGTSTP)
    display.wait_for(lambda: display.mode() == display.before)
    display.process.send_signal(signal.SIGCONT)
    display.wait_for(lambda: display.mode() == raw)
    if where == "terminal":
        display.expect(b"\x1b[?1049h")
    display.type(b"\x01x")
    assert display.end() == 0
    assert display.mode() == display.before


def test_a_new_size_of_the_window_has_the_screen_drawn_again(guest: Guest, display: Display) -> None:
    display.start("run", guest("bios"), "--display", "terminal")
    display.show("bios: two ticks; press keys, Escape ends")
    display.text = b""
    assert display.process is not None
    display.process.send_signal(signal.SIGWINCH)  # to the same size: what is on it may be anything
    display.expect(b"press keys")
    display.type(b"\x01x")
    assert display.end() == 0


KEYS = """
        # Shows "ready", red on blue, then the code of each key that it gets, from the left in row 2; ends at "q".
        xor     %ax, %ax
        mov     %ax, %ss
        mov     $0x7C00, %sp
        mov     %ax, %ds
        mov     $0xB800, %ax
        mov     %ax, %es
        cld
        mov     $ready, %si
        xor     %di, %di
1:      lodsb
        mov     $0x14, %ah
        stosw
        cmp     $'.', %al
        jne     1b
        mov     $320, %di
2:      xor     %ah, %ah
        int     $0x16
        mov     %ax, %bx
        mov     $4, %cx
3:      rol     $4, %bx
        mov     %bl, %al
        and     $15, %al
        cmp     $10, %al
        sbb     $0x69, %al
        das
        mov     $0x0F, %ah
        stosw
        loop    3b
        add     $2, %di
        cmp     $0x1071, %bx
        jne     2b
        xor     %al, %al
        out     %al, $0xF4
ready:  .ascii  "ready."
        .org    510
        .word   0xAA55
"""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A disk image that shows keys."""
    path = tmp_path / "keys.img"
    path.write_bytes(assembled(KEYS, tmp_path, 0x7C00, 16))
    return path


@pytest.mark.needs("gcc")
def test_the_screen_is_drawn_live_and_keys_go_to_the_keyboard(keys: Path, display: Display) -> None:
    display.start("run", keys, "--display", "terminal")
    row = display.show("ready.")
    cell = display.screen.buffer[row][0]
    assert (cell.fg, cell.bg) == ("red", "blue")
    display.type(b"a")
    display.show("1E61 ")
    display.type(b"Z\r\x7f\x1b[A")
    display.show("1E61 2C5A 1C0D 0E08 4800 ")
    display.type(b"\x1b[3~\x1bOP\x1b[15~\t\x1b[D")
    display.show("1E61 2C5A 1C0D 0E08 4800 5300 3B00 3F00 0F09 4B00 ")
    display.type(
        b"\xc3\xa9\x1b[1;5A\x01c"
    )  # an accented letter and Ctrl-Up, which a US keyboard or we have not; Ctrl-C
    display.show("1E61 2C5A 1C0D 0E08 4800 5300 3B00 3F00 0F09 4B00 2E03 ")
    assert (display.screen.cursor.hidden, display.mode() != display.before) == (False, True)
    display.type(b"\x01x")
    assert display.end() == 0
    assert display.mode() == display.before


@pytest.mark.needs("gcc")
def test_the_last_picture_stays_on_the_terminal(keys: Path, display: Display) -> None:
    display.start("run", keys, "--display", "terminal")
    display.show("ready.")
    display.text = b""
    display.type(b"\x01X")
    assert display.end() == 0
    own, picture = display.text.split(b"\x1b[?1049l")
    assert b"\x1b[?25h" in own[-20:], "the cursor is shown again"
    terminal = pyte.Screen(80, 30)
    pyte.ByteStream(terminal).feed(picture)
    assert terminal.display[0].startswith("ready.")
    assert terminal.buffer[0][0].fg == "red"
    assert any("left by Ctrl-A X" in row for row in terminal.display)


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(("how", "status"), [("ctrl-c", 130), ("sigterm", 143), ("time limit", 124)])
def test_the_terminal_is_given_back_whatever_ends_it(keys: Path, display: Display, how: str, status: int) -> None:
    display.start("run", keys, "--display", "terminal", *(["--timeout", "1"] if how == "time limit" else []))
    display.show("ready.")
    assert display.process is not None
    if how == "ctrl-c":
        display.type(b"\x03")
    elif how == "sigterm":
        display.process.terminate()
    display.text = b""
    assert display.end() == status
    assert b"\x1b[?7h\x1b[?25h\x1b[?1049l" in display.text
    assert b"Traceback" not in display.text
    assert display.mode() == display.before


@pytest.mark.needs("gcc")
def test_a_terminal_smaller_than_the_screen_shows_a_part(keys: Path, display: Display) -> None:
    fcntl.ioctl(display.near, termios.TIOCSWINSZ, struct.pack("<HHHH", 10, 40, 0, 0))
    display.screen.resize(10, 40)
    display.start("run", keys, "--display", "terminal")
    assert display.show("ready.") == 0
    display.type(b"\x01x")
    assert display.end() == 0


@pytest.mark.parametrize("kind", ["serial", "terminal"])
def test_a_terminal_that_goes_away_ends_the_run(guest: Guest, display: Display, kind: str) -> None:
    display.start("run", guest("bios"), "--display", kind, stderr=subprocess.PIPE)
    display.show("bios: two ticks; press keys, Escape ends")
    display.hang_up()
    assert display.process is not None
    _, errors = display.process.communicate(timeout=LIMIT)
    assert display.process.returncode != 0
    assert b"Traceback" not in errors


def test_a_machine_without_a_screen_is_refused_in_words(display: Display, guest: Guest) -> None:
    display.start("run", guest("hello16"), "--mode", "16", "-m", "512K", "--display", "terminal")
    assert display.end() == 2
    assert b"there is no screen: video memory ends at 768K, RAM at 512K" in display.text
    assert b"\x1b[?1049h" not in display.text
    assert display.mode() == display.before


@pytest.mark.needs("gcc")
def test_where_there_is_no_terminal_the_last_picture_is_plain_text(keys: Path) -> None:
    done = pykvm("run", keys, "--display", "terminal", stdin=b"abq")
    assert done.returncode == 1
    assert done.stdout.decode().splitlines()[:3] == ["ready.", "", "1E61 3062 1071"]
    assert b"\x1b" not in done.stdout


COLOURED = re.compile(rb"\x1b\[[0-9;]*[1-9][0-9;]*m")
"""A colour or weight (ECMA-48, SGR): not the terminal's own, which is 0."""
COMMANDS = [
    (["info"], None, b"USER_MEMORY"),
    (["run"], "crash-null-call", b"crashed"),
    (["trace"], "hello64", b"COM1"),
    (["inspect"], "hello64", b"CPU 0"),
    (["disasm"], "hello64", b"main"),
    (["run", "--display", "terminal"], "hello64", b"powered the machine off"),
]


@pytest.mark.parametrize(("command", "name", "words"), COMMANDS)
def test_colours_are_for_terminals_and_people_who_want_them(
    session: Session, guest: Guest, command: list[str], name: str | None, words: bytes
) -> None:
    arguments = [*command, *([] if name is None else [guest(name)])]
    session.start(*arguments)
    session.end()
    assert COLOURED.search(session.text)
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = Session()
        try:
            plain.start(*arguments, env=env)
            plain.end()
            assert words in plain.text
            assert not COLOURED.search(plain.text)
            assert env.get("TERM") != "dumb" or b"\x1b" not in plain.text
        finally:
            plain.close()


def test_the_terminal_of_qemus_door(guest: Guest, session: Session) -> None:
    session.start("qemu", "-kernel", guest("echo"), "-nographic")
    session.expect(b"ready\r\n")
    session.type(b"a\x03b\r")  # as in QEMU, Ctrl-C is the guest's
    session.expect(b"echo: a\x03b\r\n")
    session.type(b"\x01c")
    session.expect(b"(qemu) ")
    session.type(b"info statuz\x7fs\r")
    session.expect(b"VM status: running")
    session.type(b"\x01cquit\r")
    assert session.end() == 0
    assert session.mode() == session.before


def test_qemus_door_shows_the_screen_in_place_of_a_window(guest: Guest, session: Session) -> None:
    session.start("qemu", "-kernel", guest("demo"))
    session.expect(b"\x1b[")
    session.type(b"\x01x")
    assert session.end() == 0
    assert session.mode() == session.before
