"""What people type: keys at a terminal, command lines, and the values of options. And what a NIC has written down."""

from __future__ import annotations

import os
import select
import struct
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pykvm import cli
from pykvm.cli import options, ui
from pykvm.cli.vga_terminal import KeyboardPort
from pykvm.console.terminal import ESCAPE, Terminal
from pykvm.device import IrqLine
from pykvm.device_options.nics import parse_nic
from pykvm.devices.i8042 import I8042
from pykvm.errors import ConfigError
from pykvm.memory import parse_size
from pykvm.net.loopback import Loopback
from pykvm.net.mac import format_mac, parse_mac
from pykvm.net.pcap import FILE_HEADER, RECORD, SNAPLEN, Capture
from pykvm.net.user import parse_forward
from pykvm.snapshot.trigger import Moment

from .target import Input, Parser, Random, Target, mutate, number

KEYS, SHOW, AWAY, BACK = range(4)


class Loop:
    """An event loop that the target turns by hand."""

    def __init__(self) -> None:
        self.readers: dict[int, Any] = {}
        self.writers: dict[int, Any] = {}

    def on_readable(self, fd: int, callback: Any) -> None:
        self.readers[fd] = callback

    def on_writable(self, fd: int, callback: Any) -> None:
        self.writers[fd] = callback

    def call_soon(self, callback: Any) -> None:
        callback()

    def call_at(self, when: float, callback: Any) -> None:
        callback()


class Keys(Target):
    """Keys at a pseudo-terminal, to the port and, as the keyboard's, to the keyboard controller."""

    name = "terminal"
    alone = False

    def draw(self, source: Random) -> list[Input]:
        words = (
            b"\x01",
            b"\x01x",
            b"\x01c",
            b"\x01\x01",
            b"\x1b",
            b"\x1b[",
            b"\x1b[A",
            b"\x1bOP",
            b"\x1b[15~",
            b"\x7f",
            b"\r",
            b"\xff",
            b"\xc3\xa4",
        )
        pool: list[Input] = []
        for _ in range(200):
            kind = source.choice((KEYS, KEYS, KEYS, KEYS, SHOW, AWAY, BACK))
            data = b"".join(source.choice((*words, source.randbytes(3), b"abc")) for _ in range(source.randrange(1, 6)))
            pool.append((kind, data if kind in (KEYS, SHOW) else b""))
        return source.choices(pool, k=1500)

    def run(self, inputs: Iterator[Input]) -> None:
        master, slave = os.openpty()
        reader, writer = os.pipe()
        keyboard = I8042(IrqLine(lambda level: None), IrqLine(lambda level: None), lambda: None, lambda on: None)
        port = KeyboardPort(cast("Any", SimpleNamespace(pc=SimpleNamespace(keyboard=keyboard))))
        got = bytearray()
        typed = port.send

        def send(data: bytes) -> None:
            got.extend(data)
            typed(data)

        port.send = send  # type: ignore[method-assign]
        loop = Loop()
        for fd in (master, reader):
            os.set_blocking(fd, False)
        waiting = select.poll()
        waiting.register(slave, select.POLLIN)
        pressed = escapes = seen = came = 0
        terminal = Terminal(port, loop, lambda why: None, slave, writer)
        try:
            terminal.begin()
            for kind, data in inputs:
                if kind == KEYS:
                    pressed += len(data)
                    escapes += data.count(ESCAPE)
                    with suppress(BlockingIOError):
                        os.write(master, data)
                    while waiting.poll(0) and loop.readers.get(slave) is not None:
                        del got[:]
                        loop.readers[slave]()
                        came += len(got)
                        seen += got.count(ESCAPE)
                    assert came <= pressed
                    assert seen <= escapes
                elif kind == SHOW:
                    terminal.write(data)
                elif kind == AWAY:
                    terminal.suspend()
                else:
                    terminal.resume()
                for fd in (reader, master):
                    with suppress(BlockingIOError):
                        os.read(fd, 1 << 16)
                keyboard.read(0, 1)
        finally:
            terminal.close()
            for fd in (master, slave, reader, writer):
                os.close(fd)


NUMBERS = (
    "0",
    "1",
    "-1",
    "64M",
    "8G",
    "0x10",
    "1e3",
    "nan",
    "inf",
    "1_0",
    "\u0663",
    " 4 ",
    "9" * 25,
    "9" * 5000,
    "0x",
    "16",
    "1.5",
    "",
    "M",
)
PLACES = (
    ".", "..", "none", "missing", "a,b", "file", "file,ro", "file,discard", "file,rw,format=raw", ",", "=", "a\0b", "\udcff",
    "x" * 300, "file text", "unix:", "unix:sock", "unix:" + "y" * 200, "tap:", "tap:" + "t" * 20, "loopback",
    "loopback,mac=52:54:00:12:34:56", "none,pcap=out", "none,pcap=", "loopback,mac=ff:ff:ff:ff:ff:ff", "52-54-00-12-34-56",
    "52:54:00:12:34:5", "exits:10", "exits:", "exits:-1", "text", "\n", "-", "--",
)  # fmt: skip


def _text(source: Random) -> str:
    word = source.choice((*NUMBERS, *PLACES))
    if source.randrange(2):
        return word
    return (
        mutate(source, word.encode("utf-8", "surrogateescape"), (b",", b"=", b":", b"K", b"0x"))
        .replace(b"/", b"")
        .decode("utf-8", "surrogateescape")
    )


class Values(Parser):
    """Sizes, station addresses, disks, NICs, modules and triggers, in an empty directory with one file."""

    name = "values"
    errors = (ConfigError, ValueError)
    count = 400

    def one(self, source: Random) -> Input:
        return source.randrange(8), _text(source)

    def run(self, inputs: Iterator[Input]) -> None:
        before = os.getcwd()
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            try:
                super().run(inputs)
            finally:
                os.chdir(before)

    def feed(self, given: Input) -> None:
        kind, text = given
        match kind:
            case 0:
                assert parse_size(text) >= 0
            case 1:
                assert parse_mac(format_mac(parse_mac(text))) == parse_mac(text)
            case 2:
                Path("file").write_bytes(bytes(512))
                disk = options.open_disk(text)
                if disk is not None:
                    disk.close()
            case 3:
                if text.startswith("user"):  # each would be a process
                    parse_forward(text.removeprefix("user,hostfwd="))
                elif not text.startswith("tap:") or len(text) > 19:
                    parse_nic(text).backend.close()
            case 4:
                Path("file").write_bytes(bytes(512))
                options.make_module(text)
            case 5:
                Moment.parse(text)
            case 6:
                options.SECONDS.convert(text)
                ui.IntRange(0, 1000).convert(text)
            case _:
                options.Memory("size").convert(text)
                options.ADDRESS.convert(text)


class CommandLines(Parser):
    """`cli.invoke` on any words, with commands that do nothing: the grammar, and the kinds of values."""

    name = "cli"
    count = 150

    def __init__(self) -> None:
        self._names: list[str] = [
            "-h",
            "--help",
            "-V",
            "--version",
            "--",
            "-",
            "--no-such",
            "-machine",
            "-cdrom",
            "-smp",
            "-m64M",
            "-qq",
        ]
        for name in cli.COMMANDS:
            for option in cli.find_command(name).options:
                self._names += option.names

    def one(self, source: Random) -> Input:
        words = [source.choice((*cli.COMMANDS, "run", "run", "rum", ""))] if source.randrange(8) else []
        for _ in range(source.randrange(7)):
            word = source.choice(self._names) if source.randrange(2) else _text(source)
            words.append(f"{word}={_text(source)}" if not source.randrange(6) else word)
        return tuple(words)

    def run(self, inputs: Iterator[Input]) -> None:
        commands = [cli.find_command(name) for name in cli.COMMANDS]
        functions = [command.function for command in commands]
        try:
            for command in commands:
                command.function = lambda **values: 0
            super().run(inputs)
        finally:
            for command, function in zip(commands, functions, strict=True):
                command.function = function

    def feed(self, given: Input) -> None:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
            status = cli.invoke(given)
        assert status in (0, ui.ERROR_STATUS), status
        assert status == 0 or said.getvalue(), "no word of what is wrong"


class Captures(Target):
    """Frames of any length through a `Capture`: the file is well-formed, and has all of them."""

    name = "pcap"

    def draw(self, source: Random) -> list[Input]:
        sizes = (0, 1, 13, 14, 60, 1514, 9000, SNAPLEN - 1, SNAPLEN, SNAPLEN + 1)
        return [
            (source.choice(sizes) if not source.randrange(40) else number(source, 10), source.getrandbits(8))
            for _ in range(2000)
        ]

    def run(self, inputs: Iterator[Input]) -> None:
        fd = os.memfd_create("pcap")
        capture = Capture(Loopback(), f"/proc/self/fd/{fd}")
        arrived: list[bytes] = []
        capture.connect(arrived.append)
        sent = []
        try:
            for size, filling in inputs:
                frame = bytes((filling,)) * size
                sent.append(frame)
                capture.send(frame)
            assert capture.warning is None
            assert arrived == sent
            content = os.pread(fd, os.fstat(fd).st_size, 0)
            at = struct.calcsize("<IHHiIII")
            assert content[:at] == FILE_HEADER
            for frame in (frame for frame in sent for _ in range(2)):  # out and back
                _, nanoseconds, kept, length = RECORD.unpack_from(content, at)
                assert nanoseconds < 10**9
                assert (kept, length) == (min(len(frame), SNAPLEN), len(frame))
                assert content[at + 16 : at + 16 + kept] == frame[:kept]
                at += 16 + kept
            assert at == len(content)
        finally:
            capture.close()
            os.close(fd)


def targets() -> list[Target]:
    return [Keys(), Values(), CommandLines(), Captures()]
