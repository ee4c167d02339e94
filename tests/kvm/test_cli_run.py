"""`pykvm run` and `pykvm info` as a shell sees them: exit status, standard output and error, no traceback anywhere."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zygote
from helpers import EXIT_AL, HALT, LIMIT, PYKVM, ROOT, SPIN, hexcode, pykvm

from pykvm.kvm import CAPABILITIES

Guest = Callable[[str], Path]
Write = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path) -> Write:
    """Writes code into a file, 64 bits flat by the options in `FLAT`."""

    def write(code: bytes) -> Path:
        path = tmp_path / "guest.bin"
        path.write_bytes(code)
        return path

    return write


FLAT = ("--format", "flat", "--mode", "64")


# How it ends


def test_output_goes_to_stdout_and_the_ending_to_stderr(guest: Guest) -> None:
    done = pykvm("run", guest("hello64"))
    assert done.returncode == 0
    assert done.stdout.replace(b"\r\n", b"\n") == b"Hello from 64-bit long mode!\n"
    assert re.fullmatch(rb"pykvm: exited: the guest powered the machine off \(\d+ ms, \d+ exits\)\n", done.stderr)


def test_quiet_says_nothing_of_its_own(guest: Guest) -> None:
    done = pykvm("run", "-q", guest("hello32"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"Hello from 32-bit protected mode!\n"


ENDINGS = {
    "halted": (HALT, 0),
    "exit 0": (hexcode("b0 00") + EXIT_AL, 1),
    "exit 1": (hexcode("b0 01") + EXIT_AL, 3),
    "exit 16": (hexcode("b0 10") + EXIT_AL, 33),
    "exit 128": (hexcode("b0 80") + EXIT_AL, 1),  # 257 modulo 256
    "rebooted": (hexcode("b0 fe e6 64"), 120),
    "crashed": (hexcode("0f 0b"), 122),
    "timed out": (SPIN, 124),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_the_exit_status_tells_the_ending(image: Write, how: str) -> None:
    code, status = ENDINGS[how]
    limit = "0.2" if how == "timed out" else str(LIMIT)
    done = pykvm("run", "--no-reboot", image(code + SPIN), *FLAT, "--timeout", limit)
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(b"pykvm: " + how.split(" ")[0].encode())
    assert done.stdout == b""


def test_a_crash_is_explained_on_stderr(guest: Guest) -> None:
    done = pykvm("run", guest("crash-divide"))
    assert done.returncode == 122
    assert b"triple fault" in done.stderr
    assert b"<average+0x" in done.stderr
    assert b"div ecx" in done.stderr
    assert b"rax " in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_boot_sector_is_recognised(guest: Guest) -> None:
    done = pykvm("run", "-q", guest("hello16"))
    assert (done.returncode, done.stdout) == (0, b"Hello from 16-bit real mode!\n")


# JSON

KEYS = {"ending", "reason", "status", "code", "value", "elapsed", "exits", "serial", "report"}


def test_json_is_all_there_is_on_stdout(guest: Guest) -> None:
    done = pykvm("run", "--json", guest("hello64"))
    facts = json.loads(done.stdout)
    assert facts.keys() >= KEYS
    assert (facts["ending"], facts["status"], facts["code"], facts["value"]) == ("exited", 0, 0, None)
    assert facts["serial"].replace("\r\n", "\n") == "Hello from 64-bit long mode!\n"
    assert facts["elapsed"] > 0
    assert facts["exits"] > 0
    assert facts["report"] is None
    assert done.stderr == b""


def test_json_of_an_exit_and_of_a_crash(image: Write) -> None:
    done = pykvm("run", "--json", image(hexcode("b0 02") + EXIT_AL + SPIN), *FLAT)
    facts = json.loads(done.stdout)
    assert (facts["ending"], facts["value"], facts["code"], facts["status"]) == ("exited", 2, 5, 5)
    assert done.returncode == 5

    done = pykvm("run", "--json", image(hexcode("bb 15 cd 5b 07; mov ebx, 123456789\n 0f 0b")), *FLAT)
    facts = json.loads(done.stdout)
    assert (facts["ending"], facts["status"], done.returncode) == ("crashed", 122, 122)
    report = facts["report"]
    assert report["vcpu"] == 0
    assert "triple fault" in report["cause"]
    assert report["registers"]["rbx"] == 123456789
    assert report["instruction"] == "ud2"
    assert report["code"].startswith("0f0b")


def test_json_with_output_that_is_no_utf_8(image: Write) -> None:
    code = hexcode("66 ba f8 03; mov dx, 0x3f8\n b0 ff; mov al, 0xff\n ee\n b0 41\n ee")
    done = pykvm("run", "--json", image(code + HALT), *FLAT)
    assert json.loads(done.stdout)["serial"] == "\N{REPLACEMENT CHARACTER}A"


# Standard input and output


def test_stdin_is_typed_into_the_guest(guest: Guest) -> None:
    done = pykvm("run", guest("echo"), stdin=b"one\ntwo\nexit 3\n")
    assert done.returncode == 7
    assert done.stdout.decode().splitlines() == ["ready", "echo: one", "echo: two"]


def test_stdin_from_a_file(guest: Guest, tmp_path: Path) -> None:
    script = tmp_path / "input"
    script.write_bytes(b"from a file\nquit\n")
    with script.open() as source:
        done = zygote.run(
            [*PYKVM, "run", str(guest("echo"))], check=False, cwd=ROOT, stdin=source, capture_output=True, timeout=LIMIT
        )
    assert done.returncode == 0
    assert b"echo: from a file" in done.stdout


def test_nothing_of_long_piped_input_is_lost(guest: Guest) -> None:
    lines = [f"{number:04} {'x' * 70}" for number in range(120)]  # more than twice what is read ahead
    with zygote.Popen(
        [*PYKVM, "run", "-q", str(guest("echo"))], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        output, _ = process.communicate(("".join(line + "\n" for line in lines) + "quit\n").encode(), timeout=LIMIT)
        assert process.returncode == 0
    assert output.decode().splitlines() == [f"echo: {line}" for line in lines]


def test_the_end_of_stdin_does_not_end_the_guest(guest: Guest) -> None:
    done = pykvm("run", "--timeout", "1", guest("echo"), stdin=b"a word\n")
    assert done.returncode == 124
    assert b"echo: a word" in done.stdout


def test_stdout_to_a_file(guest: Guest, tmp_path: Path) -> None:
    target = tmp_path / "output"
    with target.open("wb") as file:
        file.write(b"before\n")
        file.flush()
        done = zygote.run(
            [*PYKVM, "run", "-q", str(guest("hello64"))], check=False, cwd=ROOT, stdout=file, timeout=LIMIT
        )
    assert done.returncode == 0
    assert target.read_bytes() == b"before\nHello from 64-bit long mode!\n"


def test_a_reader_that_leaves_ends_the_run(guest: Guest) -> None:
    with zygote.Popen(
        [*PYKVM, "run", str(guest("flood"))], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"abcdefghijklmnopqrstuvwxyz\n"
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(LIMIT) == 0
    assert b"Traceback" not in errors
    assert b"BrokenPipe" not in errors


def test_head_may_have_the_first_line_of_json_and_info(guest: Guest) -> None:
    for arguments in (["info"], ["info", "--json"], ["run", "--json", str(guest("hello64"))]):
        with zygote.Popen([*PYKVM, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            errors = process.stderr.read()
            process.wait(LIMIT)
        assert b"Traceback" not in errors
        assert b"Exception" not in errors


PIPE_SIZE = 4096
PRINT_8_KIB = hexcode(
    """
    66 ba f8 03    ; mov dx, 0x3f8
    b9 00 20 00 00 ; mov ecx, 0x2000
    88 c8          ; again: mov al, cl
    24 3f          ; and al, 0x3f
    04 20          ; add al, 0x20
    ee             ; out dx, al
    ff c9          ; dec ecx
    75 f5          ; jnz again
    """
)


def test_a_slow_reader_gets_all_that_a_pipe_does_not_hold(image: Write) -> None:
    with zygote.Popen(
        [*PYKVM, "run", "-q", str(image(PRINT_8_KIB + HALT)), *FLAT],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pipesize=PIPE_SIZE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        output = process.stdout.read(1) + process.stdout.read()
        assert process.wait(LIMIT) == 0
    assert output == bytes((count & 0x3F) + 0x20 for count in range(0x2000, 0, -1))


# Signals


def test_sigterm_ends_it_in_order(guest: Guest, tmp_path: Path) -> None:
    with zygote.Popen(
        [*PYKVM, "run", str(guest("flood"))], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in errors


# Disks and NICs on the command line


def test_disks_and_a_nic_are_given_as_options(guest: Guest, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    done = pykvm("run", guest("demo"), "--disk", f"{disk},discard", "--nic", "loopback,mac=02:00:00:00:00:07")
    assert done.returncode == 0
    assert b"4 ok, 0 failed, 0 not there" in done.stdout
    assert b"02:00:00:00:00:07" in done.stdout
    assert disk.read_bytes() == bytes(1 << 20)
    pykvm("run", guest("demo"), "--disk", disk)
    assert b"A guest kernel was here." in disk.read_bytes()


def test_a_capture_is_an_option(guest: Guest, tmp_path: Path) -> None:
    capture = tmp_path / "demo.pcap"
    done = pykvm("run", guest("demo"), "--nic", f"loopback,pcap={capture}")
    assert done.returncode == 0
    assert b"Is anybody there?" in capture.read_bytes()


# Users' mistakes: status 2 and one line in words


def bad_command_lines(guest: Guest, tmp_path: Path) -> dict[str, list[object]]:
    hello = guest("hello64")
    (tmp_path / "broken.elf").write_bytes(hello.read_bytes()[:100])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "disk").write_bytes(bytes(4096))
    return {
        "no subcommand of that name": ["fly", hello],
        "no image": ["run"],
        "missing image": ["run", tmp_path / "missing"],
        "a directory": ["run", tmp_path],
        "an empty image": ["run", tmp_path / "empty"],
        "a broken image": ["run", tmp_path / "broken.elf"],
        "no option of that name": ["run", "--fly", hello],
        "bad memory": ["run", "-m", "lots", hello],
        "no memory": ["run", "-m", "0", hello],
        "too much memory": ["run", "-m", "99999999T", hello],
        "memory too small for the image": ["run", "-m", "64K", hello],
        "no CPUs": ["run", "-c", "0", hello],
        "too many CPUs": ["run", "-c", "100000", hello],
        "bad number": ["run", "-c", "two", hello],
        "no time": ["run", "-t", "0", hello],
        "negative time": ["run", "-t", "-1", hello],
        "no such format": ["run", "--format", "floppy", hello],
        "no such mode": ["run", "--mode", "48", hello],
        "an ELF file has its own mode": ["run", "--mode", "32", hello],
        "an ELF file has its own addresses": ["run", "--load", "0x200000", hello],
        "entry outside": ["run", "--format", "flat", "--entry", "0x10", tmp_path / "disk"],
        "real mode beyond 1 MiB": ["run", "--format", "flat", "--load", "0x200000", tmp_path / "disk"],
        "missing disk": ["run", "-d", tmp_path / "missing", hello],
        "empty disk": ["run", "-d", tmp_path / "empty", hello],
        "disk with unknown mode": ["run", "-d", f"{tmp_path}/disk,rx", hello],
        "one disk twice": ["run", "-d", tmp_path / "disk", "-d", tmp_path / "disk", hello],
        "five disks": ["run", *["-d", "none"] * 5, hello],
        "no such NIC": ["run", "-n", "carrier-pigeon", hello],
        "a NIC without its socket": ["run", "-n", "unix", hello],
        "a NIC with a bad address": ["run", "-n", "none,mac=12", hello],
        "a multicast address": ["run", "-n", "none,mac=01:00:00:00:00:00", hello],
        "a capture that cannot be": ["run", "-n", f"none,pcap={tmp_path}/no/where", hello],
        "five NICs": ["run", *["-n", "none"] * 5, hello],
    }


def test_mistakes_are_told_in_words_with_status_2(guest: Guest, tmp_path: Path) -> None:
    wrong = {}
    bad = bad_command_lines(guest, tmp_path)
    for name, arguments in bad.items():
        done = pykvm(*arguments)
        lines = done.stderr.decode().splitlines()
        told = bool(lines) and (lines[-1].startswith(("pykvm: ", "Error: ")))
        if done.returncode != 2 or not told or b"Traceback" in done.stderr or done.stdout:
            wrong[name] = (done.returncode, done.stdout[:200], done.stderr[-500:])
    assert not wrong


# pykvm info


def test_info_for_programs() -> None:
    done = pykvm("info", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    facts = json.loads(done.stdout)
    assert facts["api_version"] == 12
    assert set(facts["capabilities"]) == set(CAPABILITIES)
    assert facts["cpuid_leaves"] > 10
    assert facts["host_cpus"] >= 1


def test_info_for_people_has_no_escape_codes_in_a_pipe() -> None:
    done = pykvm("info")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    text = done.stdout.decode()
    assert text.startswith("KVM ")
    assert all(name in text and meaning in text for name, meaning in CAPABILITIES.items())


def test_help_and_version() -> None:
    lines = [["-h"], ["--help"], ["info", "-h"], ["disasm", "-h"], ["run", "-h"], ["run", "--help"]]
    *helps, done = [pykvm(*line) for line in lines]
    for shown in helps:
        assert shown.returncode == 0
        assert b"Usage: " in shown.stdout
    for status in ("120", "122", "124", "126", "130"):
        assert status in done.stdout.decode()
