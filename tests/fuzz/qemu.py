"""QEMU's command lines, what is typed at its monitor, and what comes at QMP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

from pykvm.errors import ConfigError
from pykvm.kvm.state import DebugRegisters, MpState
from pykvm.memory import GuestMemory, GuestMemoryError
from pykvm.qemu.channels import parse
from pykvm.qemu.drives import place
from pykvm.qemu.examine import BadExpression, Expression, Format, dump, read_format, shown
from pykvm.qemu.flags import FLAGS
from pykvm.qemu.info import INFO, pages
from pykvm.qemu.monitor import COMMANDS, Monitor
from pykvm.qemu.mux import Mux
from pykvm.qemu.qmp import COMMANDS as QMP_COMMANDS
from pykvm.qemu.qmp import Qmp
from pykvm.qemu.reading import read
from pykvm.x86.registers import Registers, SystemRegisters

from .target import Input, Parser, Random, Target, mutate, number

VALUES = (
    "stdio", "mon:stdio", "null", "none", "pty", "file:x", "unix:x,server,nowait", "tcp::1,server=on,wait=off", "vc",
    "file=x,index=0,media=disk,format=raw", "if=none,id=a,file=x", "file=x,if=floppy", "media=cdrom", "ide-hd,drive=a,bus=ide.1",
    "isa-debug-exit,iobase=0xf4,iosize=4", "tap,id=n,ifname=t", "ne2k_isa,netdev=n", "nic,model=ne2k_isa", "user", "none",
    "4", "1.5G", "size=64,slots=2", "cpus=2,cores=2", "pc,accel=kvm", "q35", "int,cpu_reset", "help", "order=dc,menu=on",
    "tcp::1234", "unix:x", "stdio,id=c,mux=on", "socket,id=c,path=x,server=on", "chardev:c", "chardev=c,mode=control",
    "base=utc", "0" * 8 + "-0000-0000-0000-" + "0" * 12, "reboot=shutdown,shutdown=pause", ",,", "=", "", "x" * 100,
)  # fmt: skip


def _word(source: Random) -> str:
    text = source.choice(VALUES)
    if source.randrange(2):
        return text
    return mutate(source, text.encode(), (b",", b",,", b"=", b":", b"0x", b"on")).decode("utf-8", "surrogateescape")


class Options(Parser):
    """A whole command line is read, its drives placed, and its devices named."""

    name = "qemu-options"
    errors = (ConfigError,)

    def one(self, source: Random) -> Input:
        words = []
        for _ in range(source.randrange(1, 8)):
            words.append(f"-{source.choice(list(FLAGS))}" if source.randrange(8) else _word(source))
            if source.randrange(4):
                words.append(_word(source))
        return tuple(words)

    def feed(self, given: Input) -> None:
        wanted = read(given)
        place(wanted.drives, lambda word: None)
        assert wanted.cpus >= 1
        for spec in [*wanted.serials, *(where for where, _ in wanted.monitors)]:
            parse(wanted.chardevs.get(spec.removeprefix("chardev:"), spec))


class Expressions(Parser):
    """Expressions, formats and dumps."""

    name = "qemu-expressions"
    errors = (BadExpression,)

    def one(self, source: Random) -> Input:
        parts = (
            "1",
            "0x10",
            "$eip",
            "$r8",
            "(",
            ")",
            "+",
            "-",
            "*",
            "/",
            "%",
            "&",
            "|",
            "^",
            "~",
            "'a'",
            " ",
            "077",
            "$",
            "9" * 30,
        )
        text = "".join(source.choice(parts) for _ in range(source.choice((1, 3, 9, 200))))
        form = "".join(source.choice("0123456789xduocibhwgz") for _ in range(source.randrange(6)))
        return text, form

    def feed(self, given: Input) -> None:
        text, form = given
        how = read_format(form, Format())
        expression = Expression(text, lambda name: 7 if name == "eip" else None)
        value = expression.value()
        assert 0 <= value < 1 << 64
        assert shown(value, how.letter)
        for line in dump(how, value, lambda address, size: bytes(size) if address < 1 << 20 else b""):
            assert line


class Cpu:
    """A CPU as it is after power-on."""

    def get_registers(self) -> Registers:
        return Registers(rip=0x7C00)

    def get_system_registers(self) -> SystemRegisters:
        return SystemRegisters()

    def get_debug_registers(self) -> DebugRegisters:
        return DebugRegisters(0, 0, 0, 0, 0, 0)

    def get_mp_state(self) -> MpState:
        return MpState.RUNNABLE

    def get_xsave(self, size: int) -> bytes:
        return bytes(4096)

    def nmi(self) -> None:
        pass


class Computer:
    """A machine without KVM, a keyboard and a screen."""

    def __init__(self) -> None:
        self.vcpus = [Cpu(), Cpu()]
        self.memory = GuestMemory(1 << 16)
        vm = SimpleNamespace(check_extension=lambda name: 0)
        self.engine = SimpleNamespace(board=SimpleNamespace(vm=vm))
        self.keyboard = SimpleNamespace(press=lambda key: None, release=lambda key: None)
        self.pc = SimpleNamespace(options={"nics": []})

    @property
    def screen(self) -> None:
        raise ConfigError("there is none")


class System:
    """What the monitors act on."""

    def __init__(self) -> None:
        self.listeners: list[Any] = []
        self.state = "running"
        self.snapshots: dict[str, int] = {}
        self.settings = SimpleNamespace(name="", uuid="", nets=SimpleNamespace(all=[]))
        self.places = SimpleNamespace(all=[])
        bus = SimpleNamespace(devices=[])
        self.engine = SimpleNamespace(outcome=None, board=SimpleNamespace(ports=bus, mmio=bus))
        self.machine = Computer()

    @contextmanager
    def still(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.state = "paused"
        for listener in self.listeners:
            listener("STOP", {})

    def cont(self) -> None:
        self.state = "running"

    reset = powerdown = quit = cont

    def save(self, tag: str) -> None:
        self.snapshots[tag[:1]] = 1

    def load(self, tag: str) -> None:
        pass


@contextmanager
def without_chips() -> Iterator[None]:
    """`info pic` asks KVM, which is not there."""
    pic = INFO.pop("pic")
    try:
        yield
    finally:
        INFO["pic"] = pic


class Typed(Target):
    """Keys at `mon:`, to the console, the monitor and between them."""

    name = "qemu-monitor"

    def draw(self, source: Random) -> list[Input]:
        lines = [
            *(f"{name}\n" for name in COMMANDS), *(f"info {name}\r" for name in INFO), "p 1+(2*3)\n", "p /c 65\n", "cpu 1\n",
            "sendkey ctrl-a\n", "screendump x\n", "savevm a\n", "delvm a\n", "x /9xw 0x7c00\n", "xp /3i 0\n", "x /99999c $sp\n",
            "\x01c", "\x01x", "\x01h", "\x01\x01", "\x1b[A", "\x7f", "\x03", "a" * 300, "info foo\n", "help p\n",
        ]  # fmt: skip
        return [
            mutate(source, line, (b"\x01", b"\n")) if not source.randrange(4) else line
            for line in (source.choice(lines).encode() for _ in range(400))
        ]

    def run(self, inputs: Iterator[Input]) -> None:
        system: Any = System()
        console: Any = SimpleNamespace(
            sink=None, drained=None, waiting=0, send=lambda data: None, set_ready=lambda on: None
        )
        mux = Mux(console, lambda: Monitor(system), system.quit)
        said: list[bytes] = []
        mux.sink = said.append
        with without_chips():
            for data in inputs:
                mux.send(data)
                said.clear()
        system.machine.memory.close()


class Conversation(Parser):
    """JSON, and what is nearly JSON, at QMP: each whole text is answered by JSON, and nothing raises."""

    name = "qemu-qmp"

    def one(self, source: Random) -> Input:
        name = source.choice(list(QMP_COMMANDS))
        arguments: dict[str, Any] = (
            {"command-line": source.choice(("info status", "x /4xw 0", "p 1"))}
            if name == "human-monitor-command"
            else {}
        )
        if not source.randrange(3):
            arguments[source.choice(("filename", "cpu-index", "x", "command-line"))] = source.choice(
                (1, "a", [], None, {})
            )
        request: Any = {"execute": name, "arguments": arguments, "id": source.choice((1, "a", None, [1]))}
        text = json.dumps(source.choice((request, request, request, [request], name, 7))).encode() + b"\n"
        return mutate(source, text, (b"{", b"}", b"[", b'"', b"\\", b"\n")) if not source.randrange(3) else text

    def feed(self, given: Input) -> None:
        system: Any = System()
        qmp = Qmp(system)
        said: list[bytes] = []
        qmp.sink = said.append
        qmp.opened()
        qmp.send(b'{"execute": "qmp_capabilities"}')
        with without_chips():
            qmp.send(given)
        system.machine.memory.close()
        for line in said:
            assert isinstance(json.loads(line), dict)


class Tables(Parser):
    """`info tlb` and `info mem` on page tables of any content: bounded, by rising addresses within a table."""

    name = "qemu-pages"
    count = 20

    def one(self, source: Random) -> Input:
        entries = tuple((source.randrange(4 * 512), number(source, 64) & 0x80000000000031FF | 1) for _ in range(24))
        return entries, source.choice((0, 0x20)), source.choice((0, 0x500))

    def feed(self, given: Input) -> None:
        entries, cr4, efer = given
        memory = GuestMemory(1 << 16)
        try:
            for at, entry in entries:
                memory.write_int(8 * at, 8, entry)
            system = SystemRegisters(cr0=0x80000001, cr3=0, cr4=cr4, efer=efer)

            def checked(gpa: int, size: int) -> bytes:
                return memory.read(gpa, size)

            for number_of_page, page in enumerate(pages(checked, system)):
                assert page.size in (1 << 12, 1 << 21, 1 << 22, 1 << 30)
                if number_of_page > 5000:
                    break
        except GuestMemoryError as error:
            raise AssertionError(error) from error
        finally:
            memory.close()


def targets() -> list[Target]:
    return cast("list[Target]", [Options(), Expressions(), Typed(), Conversation(), Tables()])
