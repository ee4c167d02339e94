"""`pykvm qemu` with real guests: monitors, QMP, what resets and shutdowns do, and exit statuses. QEMU is the judge of
layouts."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import EXIT_AL, HALT, LIMIT, PYKVM, ROOT, SLOW, SPIN, assembled, elf32, hexcode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pykvm.errors import ConfigError
from pykvm.machine import Machine
from pykvm.qemu import door
from pykvm.qemu.reading import read

TRIPLE = hexcode("0f 0b")  # ud2, without an IDT
POWER_OFF = b"".join(hexcode(f"b0{byte:02x} 66ba0089 ee") for byte in b"Shutdown")  # al = byte; dx = 0x8900; out dx, al
RESET = hexcode("b0fe e664") + SPIN  # by the keyboard controller


def say(text: str) -> bytes:
    """Code that prints on COM1."""
    return b"".join(hexcode(f"b0{byte:02x} 66baf803 ee") for byte in text.encode())


def kernel(directory: Path, code: bytes) -> str:
    """A 32-bit Multiboot kernel of that code."""
    header = struct.pack("<III", 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
    path = directory / "kernel.elf"
    path.write_bytes(elf32(header + code, len(header)))
    return str(path)


class Host:
    """A process that the door is in."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[str] = []
        self.reports: list[str] = []
        self.reported = threading.Event()

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, text: str) -> None:
        self.shown.append(text)

    def report(self, report: object) -> None:
        self.reports.append(str(report))
        self.reported.set()

    def screen(self, machine: Machine) -> Any:
        raise AssertionError("nobody has asked for it")

    def job_control(self, machine: Machine, suspend: object, resume: object) -> AbstractContextManager[object]:
        return nullcontext()

    def ready(self) -> None:
        pass


class Run:
    """A run through the door in a thread of its own."""

    def __init__(self, *words: object) -> None:
        self.host = Host()
        self.status: int | None = None
        self._words = [str(word) for word in words]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.status = door.run(read(self._words), self.host)

    def wait(self) -> int:
        self._thread.join(LIMIT)
        assert self.status is not None
        return self.status


CLIENTS: list[Client] = []


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    """Hang up after each test what the test has not."""
    yield
    while CLIENTS:
        CLIENTS.pop().close()


class Client:
    """Somebody at a UNIX socket."""

    def __init__(self, path: Path) -> None:
        deadline = threading.Event()
        for _ in range(int(LIMIT / 0.01)):
            try:
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(LIMIT)
                self._socket.connect(os.path.relpath(path))
                break
            except OSError:
                self._socket.close()
                deadline.wait(0.01)  # the server is a thread or a process of its own
        self.text = b""
        CLIENTS.append(self)

    def until(self, text: bytes) -> bytes:
        """All that comes, up to a text."""
        while text not in self.text:
            data = self._socket.recv(65536)
            assert data, self.text
            self.text += data
        found, _, self.text = self.text.partition(text)
        return found

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


class People(Client):
    """At the monitor."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.banner = self.until(b"(qemu) ").decode()

    def ask(self, line: str) -> str:
        """The answer to a command, without its echo."""
        self.send(line.encode() + b"\n")
        answer = self.until(b"(qemu) ").decode().replace("\r\n", "\n")
        return answer.partition("\n")[2]


class Program(Client):
    """At QMP."""

    def __init__(self, path: Path, *, negotiate: bool = True) -> None:
        super().__init__(path)
        self.events: list[dict[str, Any]] = []
        self.greeting = self.next()
        if negotiate:
            assert self.ask("qmp_capabilities") == {}

    def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.until(b"\n"))
        return message

    def ask(self, command: str, **arguments: object) -> Any:
        """What a command returns, or its error; events before it are noted."""
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.send(json.dumps({"execute": command, **({"arguments": given} if given else {})}).encode() + b"\n")
        return self.answer()

    def answer(self) -> Any:
        while True:
            message = self.next()
            if "event" not in message:
                return message["return"] if "return" in message else message["error"]
            self.events.append(message)

    def event(self) -> dict[str, Any]:
        """The next event."""
        message = self.events.pop(0) if self.events else self.next()
        assert isinstance(message["timestamp"]["seconds"], int)
        return {name: value for name, value in message.items() if name != "timestamp"}


@contextmanager
def monitored(directory: Path, code: bytes, *words: object) -> Iterator[tuple[Run, People]]:
    path = directory / "mon"
    run = Run("-kernel", kernel(directory, code), "-display", "none", "-monitor", f"unix:{path},server,nowait", *words)
    client = People(path)
    yield run, client
    if run.status is None:
        with suppress(OSError):  # it has ended just now
            client.send(b"quit\n")
    run.wait()


@contextmanager
def qmp(directory: Path, code: bytes, *words: object) -> Iterator[tuple[Run, Program]]:
    path = directory / "qmp"
    run = Run("-kernel", kernel(directory, code), "-display", "none", "-qmp", f"unix:{path},server,nowait", *words)
    client = Program(path)
    yield run, client
    if run.status is None:
        with suppress(OSError):
            client.send(b'{"execute": "quit"}')
    run.wait()


def status_of(directory: Path, code: bytes, *words: object) -> tuple[int, Host]:
    run = Run("-kernel", kernel(directory, code), "-display", "none", *words)
    return run.wait(), run.host


# Exit statuses


def test_the_exit_port_is_the_status(tmp_path: Path) -> None:
    assert status_of(tmp_path, b"\xb0\x10" + EXIT_AL, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04")[0] == 33


def test_an_exit_port_anywhere(tmp_path: Path) -> None:
    code = hexcode("b003 66ba8006 ee")  # out 0x680, 3
    assert status_of(tmp_path, code, "-device", "isa-debug-exit,iobase=0x680,iosize=1")[0] == 7
    with pytest.raises(ConfigError, match="port 0x3f8 is of COM1"):
        door.run(read(["-kernel", kernel(tmp_path, SPIN), "-device", "isa-debug-exit,iobase=0x3f8"]), Host())


def test_power_off_and_reset_are_status_0(tmp_path: Path) -> None:
    assert status_of(tmp_path, POWER_OFF)[0] == 0
    assert status_of(tmp_path, RESET, "-no-reboot")[0] == 0


def test_a_triple_fault_without_reboot_is_status_0_and_explained(tmp_path: Path) -> None:
    log = tmp_path / "log"
    status, host = status_of(tmp_path, TRIPLE, "-no-reboot", "-d", "int,cpu_reset", "-D", log)
    assert status == 0
    assert "#UD" in host.reports[0]
    text = log.read_text()
    assert text.startswith("CPU Reset (CPU 0)\nEAX=")
    assert "#UD" in text


def test_a_triple_fault_resets_and_is_explained_once(tmp_path: Path) -> None:
    # Each start counts at a place that no reset clears, and says so: the third one leaves.
    code = hexcode("ff0500000200 833d0000020003 7202") + hexcode("eb02") + TRIPLE + hexcode("b001") + EXIT_AL
    status, host = status_of(tmp_path, code)
    assert status == 3
    assert len(host.reports) == 1
    assert "#UD" in host.reports[0]


def test_what_nobody_answered_is_logged(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = hexcode("66ba3412 ec") + POWER_OFF  # in al, 0x1234
    assert status_of(tmp_path, code, "-d", "guest_errors", "-D", log)[0] == 0
    assert "port 0x1234: nobody answered 1 accesses" in log.read_text()


# Ports


def test_serial_ports_to_files_and_the_debug_console(tmp_path: Path) -> None:
    code = say("one") + hexcode("b074 66baf802 ee b064 e6e9") + POWER_OFF  # 't' on COM2, 'd' to 0xE9
    files = [tmp_path / name for name in ("a", "b", "c")]
    words = ["-serial", f"file:{files[0]}", "-serial", f"file:{files[1]}", "-debugcon", f"file:{files[2]}"]
    assert status_of(tmp_path, code, *words)[0] == 0
    assert [path.read_text() for path in files] == ["one", "t", "d"]


def test_no_serial_port(tmp_path: Path) -> None:
    code = hexcode("66bafd03 ec") + EXIT_AL  # al = COM1's line status, or all ones where nothing is
    assert status_of(tmp_path, code, "-serial", "none")[0] == 0xFF
    assert status_of(tmp_path, code, "-serial", "null")[0] == 0x60 * 2 + 1


def test_a_serial_server_waits_for_its_client(tmp_path: Path) -> None:
    path = tmp_path / "com"
    run = Run(
        "-kernel", kernel(tmp_path, say("hello\n") + POWER_OFF), "-serial", f"unix:{path},server", "-display", "none"
    )
    client = Client(path)
    assert client.until(b"\n") == b"hello"
    assert run.wait() == 0
    assert "waiting for connection" in run.host.said[0]
    client.close()


def test_a_serial_client_and_input(tmp_path: Path) -> None:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    server.settimeout(LIMIT)
    # Wait for a byte on COM1, and leave with it.
    code = hexcode("66bafd03 ec a801 74fb 66baf803 ec") + EXIT_AL
    run = Run(
        "-kernel", kernel(tmp_path, code), "-serial", f"tcp:127.0.0.1:{server.getsockname()[1]}", "-display", "none"
    )
    client = server.accept()[0]
    client.sendall(b"\x05")
    assert run.wait() == 11
    client.close()
    server.close()


def test_a_pseudo_terminal(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    code = hexcode("66bafd03 ec a801 74fb 66baf803 ec") + EXIT_AL
    run = Run(
        "-kernel", kernel(tmp_path, code), "-serial", "pty", "-display", "none", "-qmp", f"unix:{path},server,nowait"
    )  # fmt: skip
    client = Program(path)
    match = re.fullmatch(r"char device redirected to (/dev/pts/\d+) \(label serial0\)", run.host.shown[0])
    assert match is not None
    with open(match[1], "wb", buffering=0) as terminal:
        terminal.write(b"\x02")
    assert run.wait() == 5
    client.close()


def test_a_device_that_cannot_be_is_named(tmp_path: Path) -> None:
    for words in (["-serial", "file:/nowhere/x"], ["-monitor", "unix:/nowhere/x"], ["-serial", "chardev:x"]):
        with pytest.raises(ConfigError, match=re.escape(" ".join(words))):
            door.run(read(["-kernel", kernel(tmp_path, SPIN), *words]), Host())


# The monitor


def test_stop_cont_and_status(tmp_path: Path) -> None:
    with monitored(tmp_path, SPIN) as (_, people):
        assert "monitor" in people.banner
        assert people.ask("info status") == "VM status: running\n"
        people.ask("stop")
        assert people.ask("info status") == "VM status: paused\n"
        people.ask("c")
        assert people.ask("info status") == "VM status: running\n"


def test_stopped_at_the_start(tmp_path: Path) -> None:
    with monitored(tmp_path, b"\xb0\x07" + EXIT_AL, "-S") as (run, people):
        assert people.ask("info status") == "VM status: paused (prelaunch)\n"
        assert "EIP=0010000c" in people.ask("info registers")
        people.send(b"cont\n")
        assert run.wait() == 15


def test_memory_and_expressions(tmp_path: Path) -> None:
    with monitored(tmp_path, SPIN, "-S") as (_, people):
        assert people.ask("xp /4xb 0x100000") == "0000000000100000: 0x02 0xb0 0xad 0x1b\n"
        assert people.ask("x/1xw 0x100000") == "0000000000100000: 0x1badb002\n"
        assert people.ask("x /1i $eip") == "0x0010000c:  eb fe                    jmp      0x10000c\n"
        assert people.ask("p /x $eip + 2*3") == "0x100012\n"
        assert people.ask("xp /1xw 0xfff00000ff") == "000000fff00000ff: Cannot access memory\n"
        assert people.ask("x /4") == 'unexpected end of expression\nTry "help x" for more information\n'


def test_snapshots(tmp_path: Path) -> None:
    with monitored(tmp_path, say("x") + HALT, "-S") as (_, people):
        assert "no snapshot" in people.ask("info snapshots")
        people.ask("savevm a")
        before = people.ask("info registers")
        people.ask("cont")
        while "HLT=1" not in people.ask("info registers"):  # it halts for ever, and the run goes on
            pass
        people.ask("stop")
        assert people.ask("info registers") != before
        assert people.ask("loadvm a") == ""
        assert people.ask("info registers") == before
        assert people.ask("loadvm b").startswith("Error: ")
        people.ask("delvm a")
        assert "no snapshot" in people.ask("info snapshots")


def test_a_disk_that_is_written_through_has_no_snapshots(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(4096))
    words = ["-drive", f"file={tmp_path / 'disk'},format=raw"]
    with monitored(tmp_path, SPIN, *words) as (_, people):
        assert people.ask("info block").startswith(f"ide0-hd0 (#block0): {tmp_path / 'disk'} (raw)\n")
        assert people.ask("savevm a").startswith("Error: ")
    with monitored(tmp_path, SPIN, *words, "-snapshot") as (_, people):
        assert people.ask("savevm a") == ""


def test_a_screen_and_keys(tmp_path: Path) -> None:
    # Wait for a key's scan code from the keyboard controller, and leave with it.
    code = hexcode("e464 a801 74fa e460") + EXIT_AL
    with monitored(tmp_path, code) as (run, people):
        assert people.ask(f"screendump {tmp_path / 'a.ppm'}") == ""
        content = (tmp_path / "a.ppm").read_bytes()
        assert content.startswith(b"P6\n720 400\n255\n")
        assert len(content) == 15 + 720 * 400 * 3
        assert people.ask(f"screendump {tmp_path / 'a.png'} -f png") == ""
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        assert people.ask("screendump /nowhere/x").startswith("Error: failed to open file")
        assert people.ask("sendkey ctrl-zz") == "invalid parameter: zz\n"
        people.send(b"sendkey ret\n")
        assert run.wait() == 0x1C * 2 + 1


def test_devices_and_chips(tmp_path: Path) -> None:
    with monitored(tmp_path, SPIN, "-smp", "2", "-name", "n", "-uuid", "0" * 8 + "-0000-0000-0000-" + "1" * 12) as (
        _,
        people,
    ):
        assert people.ask("info name") == "n\n"
        assert people.ask("info uuid").endswith("111111111111\n")
        assert "COM1" in people.ask("device list")
        assert people.ask("info pic").count("\n  pin ") == 24
        cpus = re.findall(r"^([* ]) CPU #(\d): thread_id=\d+$", people.ask("info cpus"), re.MULTILINE)
        assert cpus == [("*", "0"), (" ", "1")]
        assert people.ask("info registers -a").count("\nCPU#") == 2
        people.ask("cpu 1")
        assert people.ask("info registers").startswith("\nCPU#1\n")
        assert "invalid" in people.ask("cpu 2")
        assert people.ask("nonsense") == "unknown command: 'nonsense'\n"
        assert "info status" in people.ask("help info")


def test_a_reset_from_the_monitor_and_a_shut_down_that_stays(tmp_path: Path) -> None:
    with monitored(tmp_path, POWER_OFF, "-no-shutdown") as (_, people):
        while people.ask("info status") != "VM status: paused (shutdown)\n":
            pass
        assert people.ask("cont") == "Error: Resetting the Virtual Machine is required\n"
        people.ask("system_reset")
        assert people.ask("info status") == "VM status: paused\n"
        people.ask("cont")
        while people.ask("info status") != "VM status: paused (shutdown)\n":
            pass


LONG_MODE = """
        cli
        mov $0x1000, %edi               # PML4, PDPT, PD and PT at 0x1000 to 0x4fff; all that is present is accessed
        xor %eax, %eax
        mov $0x1000, %ecx
        rep stosl
        movl $0x2027, 0x1000            # PML4[0]: user, writable
        movl $0x3027, 0x2000            # PDPT[0]
        movl $0x4027, 0x3000            # PD[0]
        movl $0x2000e3, 0x3008          # PD[1]: 2 MiB at 2 MiB, for the supervisor
        movl $0x4000e5, 0x3010          # PD[2]: 2 MiB at 4 MiB, read-only, user
        movl $0x80000000, 0x3014        # not to be executed
        movl $0x2027, 0x1ff8            # PML4[511]: the same once more, at the top
        movl $0x0163, 0x4000            # PT[0]: global
        movl $0x1067, 0x4008            # PT[1] to PT[7]: user
        movl $0x2061, 0x4010            # PT[2]: read-only
        mov $0x100163, %eax
        mov $0x4800, %edi               # PT[256] on: this code
        mov $16, %ecx
1:      mov %eax, (%edi)
        add $0x1000, %eax
        add $8, %edi
        loop 1b
        mov $0x1000, %eax
        mov %eax, %cr3
        mov %cr4, %eax
        or $0xa0, %eax                  # PAE, PGE
        mov %eax, %cr4
        mov $0xc0000080, %ecx
        mov $0x900, %eax                # LME, NXE
        xor %edx, %edx
        wrmsr
        mov %cr0, %eax
        or $0x80000000, %eax
        mov %eax, %cr0
        lgdt pointer
        ljmp $8, $2f
        .balign 8
gdt:    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
pointer: .word 23
        .long gdt
        .code64
2:      mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov %eax, %fs
        mov %eax, %gs
        mov $0x1122334455667788, %rax
        xor %ecx, %ecx
        mov %rax, %r15
        xor %ebx, %ebx
        xor %edx, %edx
        xor %esi, %esi
        xor %edi, %edi
        xor %ebp, %ebp
        xor %esp, %esp
        stc
3:      jmp 3b
"""


LOOKS = (
    "info status", "info mem", "info tlb", "x /2xg 0x1000", "xp /8xw 0x3000", "x /1xw 0x3000", "p $r15", "p /x $eip",
    "p /x 12*3", "p /c 65", "xp /5dh 0x1000", "xp /2c 0x1000", "xp /3ob 0x1000", "xp /2ub 0x1000",
)  # fmt: skip
MISTAKES = ("p 1/0", "foo", "info foo", "x", "p $nosuch", "sendkey zz")
SHAPES = ("info cpus", "info pic")


@pytest.mark.needs("qemu", "gcc")
def test_a_guest_in_long_mode_looks_as_in_qemu(tmp_path: Path) -> None:
    """Page tables, memory and registers of one guest, which has set them up by itself, in both."""
    image = kernel(tmp_path, assembled(LONG_MODE, tmp_path, 0x10000C, 32))
    paths = {name: tmp_path / name for name in ("ours", "theirs")}
    command = ["qemu-system-x86_64", "-cpu", "qemu64", "-display", "none", "-net", "none", "-kernel", image]
    with subprocess.Popen([*command, "-monitor", f"unix:{paths['theirs']},server,nowait"]) as qemu:
        try:
            run = Run("-display", "none", "-kernel", image, "-monitor", f"unix:{paths['ours']},server,nowait")
            ours, theirs = People(paths["ours"]), People(paths["theirs"])
            for people in (ours, theirs):
                while "RAX=1122334455667788" not in people.ask("info registers"):
                    pass
                people.ask("stop")
            for line in (*LOOKS, *MISTAKES):
                assert ours.ask(line) == theirs.ask(line), line
            for line in SHAPES:
                assert _shape(ours.ask(line)) == _shape(theirs.ask(line)), line
            mine, others = ours.ask("info registers").splitlines(), theirs.ask("info registers").splitlines()
            differ = [(one, other) for one, other in zip(mine, others, strict=True) if one != other]
            assert all(one[:3] in ("IDT", "LDT", "TR ") for one, _ in differ), differ  # they are what the start left
            ours.send(b"quit\n")
            assert run.wait() == 0
        finally:
            qemu.kill()


def _shape(text: str) -> str:
    return re.sub(r"\b(0x)?[0-9a-f]+\b", "N", re.sub(r" +", " ", text))


# gdb beside a monitor


def gdb_packet(client: Client, text: str) -> None:
    client.send(f"${text}#{sum(map(ord, text)) % 256:02x}".encode())


def test_gdb_and_the_monitor_stop_and_continue_one_guest(tmp_path: Path) -> None:
    with monitored(tmp_path, SPIN, "-gdb", f"unix:{tmp_path / 'gdb'}", "-S") as (_, people):
        assert people.ask("info status") == "VM status: paused\n"
        gdb = Client(tmp_path / "gdb")
        gdb_packet(gdb, "?")
        gdb.until(b"$T")
        people.ask("cont")  # the monitor lets go what gdb has
        assert people.ask("info status") == "VM status: running\n"
        people.ask("stop")
        assert people.ask("info status") == "VM status: paused\n"
        gdb_packet(gdb, "c")
        while people.ask("info status") != "VM status: running\n":
            pass


def test_gdb_without_a_stop_lets_the_guest_run(tmp_path: Path) -> None:
    assert status_of(tmp_path, POWER_OFF, "-gdb", f"unix:{tmp_path / 'gdb'}")[0] == 0


# QMP


def test_qmp_from_greeting_to_quit(tmp_path: Path) -> None:
    with qmp(tmp_path, SPIN) as (run, program):
        assert program.greeting["QMP"]["version"]["qemu"].keys() == {"major", "minor", "micro"}
        assert program.ask("query-status") == {"status": "running", "singlestep": False, "running": True}
        assert program.ask("stop") == {}
        assert program.event() == {"event": "STOP"}
        assert program.ask("query-status")["status"] == "paused"
        assert program.ask("cont") == {}
        assert program.event() == {"event": "RESUME"}
        assert program.ask("system_reset") == {}
        reset = {"guest": False, "reason": "host-qmp-system-reset"}
        assert program.event() == {"event": "RESET", "data": reset}
        assert program.ask("system_powerdown") == {}
        assert program.event() == {"event": "POWERDOWN"}
        assert program.ask("human-monitor-command", command_line="info status") == "VM status: running\r\n"
        assert {"name": "stop"} in program.ask("query-commands")
        assert program.ask("query-kvm") == {"enabled": True, "present": True}
        assert program.ask("screendump", filename=str(tmp_path / "a.ppm")) == {}
        assert program.ask("quit") == {}
        assert program.event() == {"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-qmp-quit"}}
        assert run.wait() == 0


def test_qmp_of_a_guest_that_resets_and_of_one_that_shuts_down(tmp_path: Path) -> None:
    with qmp(tmp_path, RESET, "-S") as (_, program):
        assert program.ask("query-status")["status"] == "prelaunch"
        program.ask("cont")
        assert program.event() == {"event": "RESUME"}
        assert program.event() == {"event": "RESET", "data": {"guest": True, "reason": "guest-reset"}}
        assert program.ask("stop") == {}
    with qmp(tmp_path, POWER_OFF, "-S") as (run, program):
        program.send(b'{"execute": "cont"}')
        assert program.answer() == {}
        assert program.event() == {"event": "RESUME"}
        assert program.event() == {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}}
        assert run.wait() == 0


def test_a_guest_that_cannot_go_on_stands_still(tmp_path: Path) -> None:
    with qmp(tmp_path, hexcode("b8000000c0 ffe0")) as (run, program):  # jmp 0xC0000000, where nothing is
        assert run.host.reported.wait(LIMIT)
        assert program.ask("query-status") == {"status": "internal-error", "singlestep": False, "running": False}
        assert "0xc0000000" in run.host.reports[0]
        assert "Resetting" in program.ask("cont")["desc"]


ERRORS = [
    (b'{"execute": "foo"}', "CommandNotFound"),
    (b'{"execute": "stop", "arguments": {"a": 1}}', "GenericError"),
    (b'{"exec": "foo"}', "GenericError"),
    (b'{"execute": 5}', "GenericError"),
    (b"[1]", "GenericError"),
    (b"{]", "GenericError"),
    (b"}", "GenericError"),
    (b"\xff\n", "GenericError"),
    (b'{"execute": "qmp_capabilities"}', "CommandNotFound"),
    (b'{"execute": "human-monitor-command"}', "GenericError"),
    (b'{"execute": "screendump", "arguments": {"filename": 1}}', "GenericError"),
    (b'{"execute": "screendump", "arguments": {"filename": "/nowhere/x"}}', "GenericError"),
    (b'{"execute": "send-key", "arguments": {"keys": [{"type": "qcode", "data": "zz"}]}}', "GenericError"),
    (b'{"execute": "send-key", "arguments": {"keys": [1]}}', "GenericError"),
]
NOT_JSON = [(b'{"execute": "stop", "id": 1e999}', "GenericError"), (b'{"execute": "stop", "id": NaN}', "GenericError")]
"""QEMU sends the first one's number back, as "inf"."""


@pytest.mark.needs("qemu")
def test_qmp_answers_are_qemus(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("ours", "theirs")}
    command = ["qemu-system-x86_64", "-S", "-display", "none", "-net", "none"]
    with subprocess.Popen([*command, "-qmp", f"unix:{paths['theirs']},server,nowait"]) as qemu:
        try:
            run = Run("-S", "-kernel", kernel(tmp_path, SPIN), "-qmp", f"unix:{paths['ours']},server,nowait")
            both = [Program(path) for path in paths.values()]
            for text, kind in ERRORS:
                answers = []
                for program in both:
                    program.send(text)
                    answers.append(program.answer())
                assert answers[0]["class"] == answers[1]["class"] == kind, text
            for request in ({"execute": "query-status"}, {"execute": "stop", "id": [1]}, {"execute": "cont"}):
                answers = []
                for program in both:
                    program.send(json.dumps(request).encode())
                    message = program.next()
                    while "event" in message:
                        message = program.next()
                    answers.append(message)
                assert answers[0] == answers[1], request
            both[0].ask("quit")
            assert run.wait() == 0
        finally:
            qemu.kill()


def test_qmp_errors_and_ids(tmp_path: Path) -> None:
    with qmp(tmp_path, SPIN) as (_, program):
        for text, kind in ERRORS + NOT_JSON:
            program.send(text)
            answer = program.answer()
            assert answer["class"] == kind, text
            assert answer["desc"]
        program.send(b'{"execute": "query-name", "id": {"a": [1]}}')
        assert program.next() == {"return": {}, "id": {"a": [1]}}
        program.send(b"[" * 1000)
        assert "deep" in program.answer()["desc"]
    path = tmp_path / "qmp"
    run = Run("-kernel", kernel(tmp_path, SPIN), "-display", "none", "-qmp", f"unix:{path},server,nowait")
    early = Program(path, negotiate=False)
    assert early.ask("query-status")["class"] == "CommandNotFound"
    early.close()
    again = Program(path)  # the next client is greeted anew
    again.ask("quit")
    assert run.wait() == 0
    again.close()


@settings(
    max_examples=5 if SLOW else 30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([text for text, _ in ERRORS]), max_size=6))
def test_no_input_of_qmp_ends_anything(conversation: tuple[Run, Path], data: list[bytes]) -> None:
    run, path = conversation
    client = Program(path)
    client.send(b"".join(data))
    client.close()
    again = Program(path)
    assert again.ask("query-status")["running"]
    again.close()
    assert run.status is None


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Path]]:
    directory = tmp_path_factory.mktemp("q")
    path = directory / "qmp"
    run = Run("-kernel", kernel(directory, SPIN), "-display", "none", "-qmp", f"unix:{path},server,nowait")
    yield run, path
    last = Program(path)
    last.ask("quit")
    run.wait()
    last.close()


# The process


def start(*words: object, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PYKVM, "qemu", *map(str, words)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_the_monitor_and_the_console_share_the_terminal(tmp_path: Path) -> None:
    process = start("-kernel", kernel(tmp_path, SPIN), "-nographic")
    output, errors = process.communicate(b"\x01cinfo name\ninfo status\n\x01c\x01h\x01x", LIMIT)
    assert process.returncode == 0
    assert b"VM status: running\r\n" in output
    assert b"C-a x" in output
    assert output.endswith(b"QEMU: Terminated\r\n")
    assert not errors


def test_a_signal_is_status_0(tmp_path: Path) -> None:
    process = start("-kernel", kernel(tmp_path, say("up\n") + SPIN), "-nographic")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.terminate()
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert b"terminating on signal 15" in errors


def test_in_the_background_with_a_pid_file(tmp_path: Path) -> None:
    path, pid_file = tmp_path / "qmp", tmp_path / "pid"
    words = ["-kernel", kernel(tmp_path, SPIN), "-display", "none", "-daemonize", "-pidfile", pid_file]
    process = start(*words, "-qmp", f"unix:{path},server,nowait")
    assert process.communicate(timeout=LIMIT) == (b"", b"")
    assert process.returncode == 0
    assert int(pid_file.read_text()) != process.pid
    second = start(*words)
    assert b"another process has it" in second.communicate(timeout=LIMIT)[1]
    assert second.returncode == 1
    program = Program(path)
    assert program.ask("query-status")["running"]
    program.ask("quit")
    program.close()
    for _ in range(int(LIMIT / 0.01)):
        if not pid_file.exists():
            break
        threading.Event().wait(0.01)
    assert not pid_file.exists()
