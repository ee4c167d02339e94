"""`pykvm disasm` of images made here, and what the command line says to mistakes; no KVM is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from elf_writer import Name, Part, elf

from pykvm.cli import invoke

Run = Callable[..., tuple[int, str, str]]

BASE = 0x100000
# start: nop; call twice; hlt. twice: add eax, eax; ret
CODE = bytes.fromhex("90 e8 01 00 00 00 f4 01 c0 c3")
NAMES = (Name("start", BASE, 7), Name("twice", BASE + 7, 3))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Does in this process what the console script does: (exit status, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = invoke([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.elf"
    path.write_bytes(elf([Part(BASE, CODE)], BASE, names=NAMES))
    return path


@pytest.fixture
def boot_sector(tmp_path: Path) -> Path:
    path = tmp_path / "boot.bin"
    path.write_bytes(bytes.fromhex("b8 34 12 eb fe").ljust(510, b"\0") + b"\x55\xaa")
    return path


def code_lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_an_elf_file_with_its_symbols(run: Run, image: Path) -> None:
    status, out, err = run("disasm", image)
    assert (status, err) == (0, "")
    assert code_lines(out) == [
        "start:",
        "100000 90 nop",
        "100001 e8 01 00 00 00 call 0x100007",
        "100006 f4 hlt",
        "twice:",
        "100007 01 c0 add eax, eax",
        "100009 c3 ret",
    ]
    assert "\x1b" not in out


@pytest.mark.parametrize("where", ["twice", "0x100007", "1048583"])
def test_from_a_symbol_or_an_address_on(run: Run, image: Path, where: str) -> None:
    status, out, _ = run("disasm", image, "--start", where)
    assert status == 0
    assert code_lines(out) == ["twice:", "100007 01 c0 add eax, eax", "100009 c3 ret"]


def test_so_many_instructions(run: Run, image: Path) -> None:
    status, out, _ = run("disasm", image, "-n", "2")
    assert status == 0
    assert code_lines(out)[-1].endswith("call 0x100007")


def test_for_programs(run: Run, image: Path) -> None:
    status, out, _ = run("disasm", "--json", image)
    assert status == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[0] == {"address": BASE, "code": "90", "text": "nop", "symbol": "start"}
    assert rows[3] == {"address": BASE + 7, "code": "01c0", "text": "add eax, eax", "symbol": "twice"}
    assert rows[4]["symbol"] is None


def test_a_boot_sector_is_16_bit_code(run: Run, boot_sector: Path) -> None:
    status, out, _ = run("disasm", boot_sector, "-n", "2")
    assert status == 0
    assert code_lines(out) == ["7c00 b8 34 12 mov ax, 0x1234", "7c03 eb fe jmp 0x7c03"]


def test_a_flat_binary_as_its_options_say(run: Run, boot_sector: Path) -> None:
    status, out, _ = run("disasm", boot_sector, "--mode", "32", "--load", "0x200000", "-n", "1")
    assert status == 0
    assert code_lines(out) == ["200000 b8 34 12 eb fe mov eax, 0xfeeb1234"]


def test_code_longer_than_a_chunk_is_seamless(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "long.elf"
    one = bytes.fromhex("48 b8 11 22 33 44 55 66 77 88")  # ten bytes, which do not divide a chunk
    path.write_bytes(elf([Part(BASE, one * 2000)], BASE))
    status, out, _ = run("disasm", path)
    lines = code_lines(out)
    assert status == 0
    assert len(lines) == 2000
    assert all(line.endswith("movabs rax, 0x8877665544332211") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--start", "nowhere"], "'nowhere' is neither a symbol of the image nor an address"),
        (["--start", "0x5"], "0x5 is not in the image"),
        (["--start", "0x10000a"], "is not in the image"),
        (["--start", "-1"], "is not in the image"),
        (["--start", ""], "neither a symbol"),
        (["--count", "0"], "--count"),
        (["--mode", "8"], "--mode"),
        (["--format", "tape"], "tape"),
        (["--memory", "4K"], "is not in RAM"),
        (["--memory", "5000"], "not possible"),
        (["--load", "here"], "is not an address"),
    ],
)
def test_mistakes_are_told_in_words(run: Run, image: Path, arguments: list[str], words: str) -> None:
    status, out, err = run("disasm", image, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["disasm"], "Missing argument"),
        (["disasm", "/nonexistent"], "/nonexistent"),
        (["disasm", "/"], "directory"),
        (["fly"], "fly"),
        (["--fly"], "--fly"),
        (["disasm", "--fly", "/dev/null"], "--fly"),
    ],
)
def test_usage_errors(run: Run, arguments: list[str], words: str) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(57)])
def test_broken_images(run: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken"
    path.write_bytes(content)
    status, out, err = run("disasm", path)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert err


def test_help_lists_the_subcommands(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    for name in ("run", "info", "disasm"):
        assert name in out
