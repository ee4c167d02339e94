"""What graders do with QEMU, done with `pykvm-qemu-system-x86_64` under QEMU's name: written anew and in small, in the
style of those of four courses and tutorials. None of them knows that it is not QEMU.

- JOS: `make qemu-nox-gdb`, a break at a symbol by gdb's protocol over TCP, what came on the serial port, kill.
- Pintos: a script that starts the guest with a time limit, reads the serial port, and waits for "Shutdown".
- xv6: an expect script at `mon:stdio`, and the monitor behind Ctrl-A C.
- blog_os: a runner that maps exit status 33 to success, a test kernel at a time.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import LIMIT, ROOT, assembled

PROGRAM = ROOT / "bin" / "pykvm-qemu-system-x86_64"
pytestmark = pytest.mark.needs("gcc")


@pytest.fixture
def qemu(tmp_path: Path) -> Path:
    """A directory with links to the program under QEMU's names, as an installation may have it on the path."""
    home = tmp_path / "venv"
    home.mkdir()
    program = home / PROGRAM.name
    program.write_bytes(PROGRAM.read_bytes())
    program.chmod(0o755)
    python = home / "python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    links = tmp_path / "bin"
    links.mkdir()
    for name in ("qemu-system-i386", "qemu-system-x86_64"):
        (links / name).symlink_to(program)
    return links


PUTS = """
puts:   lodsb
        test %al, %al
        jz 2f
        mov %al, %ah
        mov $0x3fd, %dx
1:      in %dx, %al
        test $0x20, %al
        jz 1b
        mov $0x3f8, %dx
        mov %ah, %al
        out %al, %dx
        jmp puts
2:      ret
"""


def boot_sector(directory: Path, text: str) -> bytes:
    """A disk of one track that starts with that code."""
    code = assembled(f"xor %ax, %ax; mov %ax, %ds; mov $0x7000, %sp\n{text}\n{PUTS}", directory, 0x7C00, 16)
    assert len(code) <= 510
    return code.ljust(510, b"\0") + b"\x55\xaa" + bytes(62 * 512)


# JOS


JOS_MAKEFILE = """
QEMU ?= qemu-system-i386
GDBPORT ?= 26000
QEMUOPTS = -drive file=kernel.img,index=0,media=disk,format=raw -serial mon:stdio -gdb tcp::$(GDBPORT)
QEMUOPTS += $(shell if $(QEMU) -nographic -help | grep -q '^-D '; then echo '-D qemu.log'; fi)
QEMUOPTS += $(QEMUEXTRA)
qemu-nox: kernel.img
\t@$(QEMU) -nographic $(QEMUOPTS)
qemu-nox-gdb: kernel.img
\t@$(QEMU) -nographic $(QEMUOPTS) -S
print-qemuopts:
\t@echo $(QEMUOPTS)
"""


class Gdb:
    """As much of gdb as a grader needs."""

    def __init__(self, port: int) -> None:
        end = time.monotonic() + LIMIT
        while True:
            try:
                self.socket = socket.create_connection(("localhost", port), timeout=LIMIT)
                break
            except OSError:
                assert time.monotonic() < end
                select.select([], [], [], 0.02)
        self.text = ""

    def send(self, command: str) -> None:
        self.socket.sendall(f"${command}#{sum(map(ord, command)) % 256:02x}".encode())

    def stopped(self) -> bool:
        """Take what has come; whether a breakpoint is in it."""
        self.text += self.socket.recv(4096).decode("ascii", "replace")
        return re.search(r"\$T05[^#]*#", self.text) is not None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.needs("hw-breakpoints")
def test_a_grader_like_that_of_jos(qemu: Path, tmp_path: Path) -> None:
    text = """
        mov $one, %si
        call puts
        jmp readline
one:    .asciz "\\n6828 decimal is 15254 octal!\\ncheck_page_alloc() succeeded!\\n"
        .org 0x60
readline:
        mov $two, %si
        call puts
        jmp .
two:    .asciz "never read\\n"
    """
    (tmp_path / "kernel.img").write_bytes(boot_sector(tmp_path, text))
    (tmp_path / "GNUmakefile").write_text(JOS_MAKEFILE)
    port = free_port()
    command = ["make", "-s", "--no-print-directory", "qemu-nox-gdb", f"GDBPORT={port}"]
    environ = {**os.environ, "PATH": f"{qemu}:{os.environ['PATH']}"}
    options = subprocess.run(
        [*command[:3], "print-qemuopts"], cwd=tmp_path, env=environ, check=True, capture_output=True
    )
    assert b"-D qemu.log" in options.stdout
    make = subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    assert make.stdout is not None
    try:
        gdb = Gdb(port)
        gdb.send(f"Z1,{0x7C00 + 0x60:x},1")
        gdb.send("c")
        output, end = b"", time.monotonic() + LIMIT
        while time.monotonic() < end:
            ready, _, _ = select.select([gdb.socket, make.stdout], [], [], LIMIT)
            if make.stdout in ready:
                output += os.read(make.stdout.fileno(), 4096)
            if gdb.socket in ready and gdb.stopped():
                break
        gdb.socket.close()
    finally:
        os.killpg(make.pid, signal.SIGTERM)
        output += make.communicate(timeout=LIMIT)[0]
    assert re.search(rb"^6828 decimal is 15254 octal!$", output, re.MULTILINE)
    assert re.search(rb"^check_page_alloc\(\) succeeded!$", output, re.MULTILINE)
    assert b"never read" not in output


# Pintos


def run_pintos(qemu: Path, disk: Path, limit: float) -> tuple[str, str]:
    """A run as `pintos -v -k -T limit -- run`: what came on the serial port, and how it ended."""
    words = ["-device", "isa-debug-exit", "-hda", disk, "-m", "4", "-net", "none", "-nographic", "-monitor", "null"]
    with subprocess.Popen(
        [qemu / "qemu-system-i386", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.terminate()
            output, _ = process.communicate(timeout=LIMIT)
            return output.decode(), "TIMEOUT"
    # isa-debug-exit makes 0x31 a 99, which the script takes for an end in order.
    return output.decode(), "ok" if process.returncode in (0, 99) else f"status {process.returncode}"


PINTOS = """
        mov $text, %si
        call puts
        {end}
        jmp .
text:   .asciz "Booting from hda1\\n(alarm) begin\\n(alarm) PASS\\n"
"""
SHUTDOWN = """
        mov $word, %si
        mov $0x8900, %dx
        mov $8, %cx
        rep outsb
        jmp .
word:   .ascii "Shutdown"
"""
EXIT_0X31 = "mov $0x31, %al; mov $0x501, %dx; out %al, %dx"


@pytest.mark.parametrize("end", [SHUTDOWN, EXIT_0X31], ids=["Shutdown", "0x31"])
def test_a_script_like_that_of_pintos(qemu: Path, tmp_path: Path, end: str) -> None:
    disk = tmp_path / "run.dsk"
    disk.write_bytes(boot_sector(tmp_path, PINTOS.format(end=end)))
    output, ending = run_pintos(qemu, disk, LIMIT)
    assert output.splitlines()[-2:] == ["(alarm) begin", "(alarm) PASS"]
    assert ending == "ok"


def test_a_script_like_that_of_pintos_gives_up(qemu: Path, tmp_path: Path) -> None:
    disk = tmp_path / "run.dsk"
    disk.write_bytes(boot_sector(tmp_path, PINTOS.format(end="")))
    with pytest.raises(AssertionError):
        assert run_pintos(qemu, disk, 3)[1] == "ok"


# xv6


XV6 = """
        mov $prompt, %si
        call puts
1:      mov $0x3fd, %dx
        in %dx, %al
        test $1, %al
        jz 1b
        mov $0x3f8, %dx
        in %dx, %al
        out %al, %dx
        cmp $'\\r', %al
        jne 1b
        mov $answer, %si
        call puts
        jmp 1b
prompt: .asciz "cpu0: starting\\ninit: starting sh\\n$ "
answer: .asciz "\\nusertests: ALL TESTS PASSED\\n$ "
"""


def expect(process: subprocess.Popen[bytes], pattern: bytes, text: bytes) -> bytes:
    """Read until the pattern has come; what is behind it."""
    assert process.stdout is not None
    while True:
        match = re.search(pattern, text)
        if match is not None:
            return text[match.end() :]
        ready, _, _ = select.select([process.stdout], [], [], LIMIT)
        data = os.read(process.stdout.fileno(), 4096) if ready else b""
        assert data, text
        text += data


def test_a_script_like_those_for_xv6(qemu: Path, tmp_path: Path) -> None:
    (tmp_path / "xv6.img").write_bytes(boot_sector(tmp_path, XV6))
    (tmp_path / "fs.img").write_bytes(bytes(1 << 20))
    words = (
        "-serial mon:stdio -drive file=fs.img,index=1,media=disk,format=raw "
        "-drive file=xv6.img,index=0,media=disk,format=raw -smp 2 -m 512 -nographic"
    )
    process = subprocess.Popen(
        [qemu / "qemu-system-i386", *words.split()], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None

    def send(data: bytes) -> None:
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.flush()

    rest = expect(process, rb"init: starting sh\n\$ ", b"")
    send(b"usertests\r")
    rest = expect(process, rb"ALL TESTS PASSED\n\$ ", rest)
    send(b"\x01c")
    rest = expect(process, rb"\(qemu\) ", rest)
    send(b"info block\n")
    rest = expect(process, rb"ide0-hd1 \(#block\d+\): fs\.img \(raw\)\r\n(?s:.*)\(qemu\) ", rest)
    send(b"xp /2xb 0x7dfe\n")
    rest = expect(process, rb"0000000000007dfe: 0x55 0xaa\r\n\(qemu\) ", rest)
    send(b"\x01x")
    expect(process, rb"QEMU: Terminated", rest)
    assert process.wait(LIMIT) == 0
    process.stdin.close()
    assert process.stdout is not None
    process.stdout.close()


# blog_os


RUN_ARGS = "-no-reboot -device isa-debug-exit,iobase=0xf4,iosize=0x04 -serial stdio -display none"
SUCCESS_EXIT_CODE = 33
BLOG_OS = """
        mov $text, %si
        call puts
        mov ${code}, %eax
        out %eax, $0xf4
        jmp .
text:   .asciz "Running 1 tests\\ntrivial_assertion...\\t[ok]\\n"
"""


@pytest.mark.parametrize(("code", "success"), [(0x10, True), (0x11, False)])
def test_a_runner_like_that_of_blog_os(qemu: Path, tmp_path: Path, code: int, success: bool) -> None:
    image = tmp_path / "bootimage-test.bin"
    image.write_bytes(boot_sector(tmp_path, BLOG_OS.format(code=code)))
    done = subprocess.run(
        [qemu / "qemu-system-x86_64", "-drive", f"format=raw,file={image}", *RUN_ARGS.split()],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
    )
    assert (done.returncode == SUCCESS_EXIT_CODE) is success
    assert done.returncode == code << 1 | 1
    assert done.stdout == b"Running 1 tests\ntrivial_assertion...\t[ok]\n"
    assert done.stderr == b""
