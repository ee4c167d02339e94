"""Kernels that others wrote, and a few bytes of our own, started by each boot protocol.

The kernels come from Debian packages. Linux needs a KVM that runs ring 0 at full speed and knows all instructions that
it uses.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from debian import KERNEL, multiboot_example, package
from helpers import LIMIT, MIB, elf32

from pykvm import Ending, Machine, boot

LINUX_LIMIT = 100.0
"""Seconds for Linux to boot and power off."""

SHOW_EAX = bytes.fromhex("e6e9 c1e808 e6e9 c1e808 e6e9 c1e808 e6e9")
"""out 0xE9, al; shr eax, 8; and so on: EAX to the debug console, lowest byte first."""
SHOW_REGISTERS = SHOW_EAX + bytes.fromhex("8b03") + SHOW_EAX + bytes.fromhex("b000 e6f4")
"""The same, then what is at [EBX], then the end."""


@pytest.mark.parametrize(
    ("name", "image", "eax", "first_word"),
    [
        (
            "multiboot",
            elf32(struct.pack("<III", 0x1BADB002, 0, 0xE4524FFE) + SHOW_REGISTERS, 12),
            0x2BADB002,
            0b1_0010_0100_1101,
        ),
        (
            "multiboot2",
            elf32(struct.pack("<4xIIIIII", 0xE85250D6, 0, 24, 0x17ADAF12, 0, 8) + SHOW_REGISTERS, 28),
            0x36D76289,
            None,
        ),
        ("pvh", elf32(SHOW_REGISTERS, 0, struct.pack("<III4sI", 4, 4, 18, b"Xen", MIB)), 0, 0x336EC578),
    ],
)
def test_kernel_gets_its_magic_and_its_information(name: str, image: bytes, eax: int, first_word: int | None) -> None:
    with Machine(image, memory="4M") as machine:
        assert machine.entry is not None
        assert machine.entry.format == name
        assert machine.run(LIMIT).ending is Ending.EXITED
        shown_eax, shown_word = struct.unpack("<II", machine.pc.debug_console.output)
    assert shown_eax == eax
    assert shown_word == first_word if first_word is not None else 100 < shown_word < 4096


# Debian's kernels


def test_example_kernel_of_the_multiboot_specification() -> None:
    kernel = multiboot_example(in_text_mode=True)
    modules = [boot.Module(b"abc" * 2000, "mod one"), boot.Module(b"x" * 10, "mod two")]
    with Machine(kernel, memory="64M", command_line="hello world", modules=modules) as machine:
        assert machine.run(LIMIT).ending is Ending.HALTED
        lines = machine.screen.lines
    # Told that there is a framebuffer of EGA text, it draws a diagonal of backslashes from the top left corner.
    assert [line[at] for at, line in enumerate(lines)] == ["\\"] * 25
    lines = [line[:at] + "?" + line[at + 1 :] for at, line in enumerate(lines)]
    assert lines[0].startswith("?lags = 0x12")
    assert lines[1] == "m?m_lower = 639KB, mem_upper = 64512KB"
    assert lines[2] == "cm?line = hello world"
    assert lines[3].startswith("mod?_count = 2")
    assert lines[4].endswith("cmdline = mod one")
    assert lines[5].endswith("cmdline = mod two")
    assert lines[6].startswith("multib?ot_elf_sec: num = 17, size = 0x28")
    assert "base_addr = 0x000100000, length = 0x003f00000, type = 0x1" in lines[12]


def test_example_kernel_of_the_multiboot_specification_in_graphics() -> None:
    """Its header asks for 1,024 by 768 dots of 32 bits, and it draws a blue diagonal into them."""
    with Machine(multiboot_example(in_text_mode=False), memory="64M") as machine:
        assert machine.run(LIMIT).ending is Ending.HALTED
        screen = machine.screen
    assert screen.size == (1024, 768)
    for at in range(1, 768, 97):
        row = screen.pixels[at * 1024 * 3 : (at + 1) * 1024 * 3]
        assert row == bytes(3 * at) + b"\0\0\xff" + bytes(3 * (1023 - at))


INIT_CODE = bytes.fromhex(
    "b801000000 bf01000000 488d351f000000 ba15000000 0f05"  # write(1, the text, 21)
    "b8a9000000 bfaddee1fe be69191228 badcfe2143 0f05"  # reboot(..., LINUX_REBOOT_CMD_POWER_OFF)
    "ebfe"
)
INIT_TEXT = b"init: Linux has come!"


def archive(files: dict[str, bytes]) -> bytes:
    """A cpio archive (format "newc") of executable files."""
    packed = b""
    for name, mode, data in (*((name, 0o100755, data) for name, data in files.items()), ("TRAILER!!!", 0, b"")):
        fields = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        packed += b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
        packed += bytes(-len(packed) % 4) + data
        packed += bytes(-len(packed) % 4)
    return packed


def initrd() -> bytes:
    """With a program /init that prints its text and powers the machine off."""
    assert (len(INIT_CODE), len(INIT_TEXT)) == (0x30, 21)
    code = INIT_CODE + INIT_TEXT
    base, headers = 0x400000, 64 + 56
    size = headers + len(code)
    program = struct.pack(
        "<7s9xHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    program += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code
    return archive({"init": program})


def bzimage() -> bytes:
    (kernel,) = (package(KERNEL) / "boot").glob("vmlinuz-*")
    return kernel.read_bytes()


def vmlinux() -> bytes:
    return (package(KERNEL) / "boot/vmlinux").read_bytes()


def protocol_32(image: bytes) -> bytes:
    """A bzImage that does not say that it has a 64-bit entry."""
    return image[:0x236] + bytes([image[0x236] & ~1]) + image[0x237:]


COMPLAINTS = ("ACPI Error", "ACPI Warning", "ACPI BIOS Error", "Kernel panic")


def boot_linux(image: bytes, format_name: str, cpus: int, command_line: str = "") -> str:
    """What Linux printed until it powered the machine off, from its initrd."""
    command_line = f"console=ttyS0 panic=-1 {command_line}"
    options = boot.Options(command_line=command_line, modules=[boot.Module(initrd())], cpus=cpus)
    with Machine(memory="256M", cpus=cpus) as machine:
        assert machine.load(image, options, format_name).format == format_name
        outcome = machine.run(LINUX_LIMIT)
        log = machine.serial.text
    assert INIT_TEXT.decode() in log
    assert (outcome.ending, outcome.code) == (Ending.EXITED, 0)
    assert not [complaint for complaint in COMPLAINTS if complaint in log]
    return log


@pytest.mark.needs("ring0-sse", "ring0-x87")
def test_linux_finds_its_cpus_and_chips() -> None:
    log = boot_linux(bzimage(), "linux", 2)
    assert "smp: Brought up 1 node, 2 CPU" in log
    assert "ACPI: PM-Timer IO Port: 0x608" in log
    assert "8254 timer not connected" not in log


@pytest.mark.needs("ring0-sse", "ring0-x87")
@pytest.mark.parametrize(
    ("kind", "format_name", "cpus"), [("32-bit", "linux", 1), ("elf", "pvh", 2), ("elf", "linux", 1)]
)
def test_linux_boots_runs_its_initrd_and_powers_off(kind: str, format_name: str, cpus: int) -> None:
    image = vmlinux() if kind == "elf" else protocol_32(bzimage())
    boot_linux(image, format_name, cpus, "quiet")  # most of the time goes into the serial port


SHELL = b"""#!/busybox sh
while echo -n "$(/busybox nproc) ready> "; read word; do
    echo "you said: $word"
    case $word in
        off) /busybox poweroff -f ;;
        reboot) /busybox reboot -f ;;
    esac
done
"""


def linux_with_a_shell(command_line: str = "", **options: Any) -> Machine:
    """Linux, whose init reads words from the console, and answers."""
    busybox = (package("busybox-static") / "bin/busybox").read_bytes()
    modules = [boot.Module(archive({"busybox": busybox, "init": SHELL}))]
    command_line = f"console=ttyS0 panic=-1 quiet {command_line}"
    return Machine(bzimage(), memory="256M", command_line=command_line, modules=modules, **options)


@pytest.mark.needs("ring0-sse", "ring0-x87")
def test_linux_on_its_console_and_after_a_reboot() -> None:
    with linux_with_a_shell(cpus=2) as machine:
        machine.start(2 * LINUX_LIMIT)
        serial = machine.serial
        for word in ("hello", "reboot"):
            serial.wait_for("2 ready> ", LINUX_LIMIT)
            serial.send(f"{word}\n")
            serial.wait_for(f"you said: {word}", LINUX_LIMIT)
        serial.wait_for("2 ready> ", LINUX_LIMIT)
        assert machine.resets == 1, serial.text
        serial.send("off\n")
        outcome = machine.wait()
        assert (outcome.ending, outcome.code) == (Ending.EXITED, 0)


@pytest.mark.needs("ring0-sse", "ring0-x87")
@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("k", "reset by the keyboard controller"),
        ("a", "hard reset by 0x06 to port 0xcf9"),
        ("p", "hard reset by 0x0e to port 0xcf9"),
    ],
)
def test_linux_reboots_each_way(way: str, reason: str) -> None:
    """By the keyboard controller, by ACPI's reset register, by the PCI bridge's (arch/x86/kernel/reboot.c)."""
    with linux_with_a_shell(f"quiet reboot={way}", no_reboot=True) as machine:
        machine.start(LINUX_LIMIT)
        machine.serial.wait_for("ready> ", LINUX_LIMIT)
        machine.serial.send("reboot\n")
        outcome = machine.wait()
        assert (outcome.ending, outcome.reason) == (Ending.REBOOTED, reason)
