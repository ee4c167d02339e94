"""Graphics modes: what boot sectors of our own draw, as a drawn picture has it, and as QEMU's screendump has it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LIMIT, hexcode

from pykvm import Ending, Machine

EGA = (0, 1, 2, 3, 4, 5, 20, 7, 56, 57, 58, 59, 60, 61, 62, 63)
CGA_PALETTE = (0, 19, 21, 23)
FILLED = 0x400
"""Bytes of a plane that the guests fill: each is an exit."""
UNTRUE = 2
"""QEMU makes 8 bits of the DAC's 6 by doubling the last one, and so is off by as much at most."""


def sector(code: str) -> bytes:
    return hexcode(code).ljust(510, b"\0") + b"\x55\xaa"


def linear_guest(mode: int, segment: int, size: int, registers: str = "") -> bytes:
    """Fills the window: each byte is the sum of its address's bytes."""
    return sector(f"""
        b8 {mode:02x} 00 cd 10     ; mov ax, mode; int 0x10
        {registers}
        b8 00 {segment:02x} 8e c0  ; mov ax, segment; mov es, ax
        31 ff                      ; xor di, di
        89 f8 00 e0 aa             ; next: mov ax, di; add al, ah; stosb
        81 ff {size & 255:02x} {size >> 8:02x} 75 f5  ; cmp di, size; jne next
        fa f4                      ; cli; hlt
    """)


def planar_guest(mode: int, registers: str = "") -> bytes:
    """Fills the first KiB of each plane: each byte is its address times the plane's mask."""
    return sector(f"""
        b8 {mode:02x} 00 cd 10     ; mov ax, mode; int 0x10
        {registers}
        b8 00 a0 8e c0 b3 01       ; mov ax, 0xa000; mov es, ax; mov bl, 1
        ba c4 03 88 dc b0 02 ef    ; plane: mov dx, 0x3c4; mov ah, bl; mov al, 2; out dx, ax
        31 ff                      ; xor di, di
        89 f8 f6 e3 aa             ; next: mov ax, di; mul bl; stosb
        81 ff 00 04 75 f5          ; cmp di, 0x400; jne next
        d0 e3 80 fb 10 75 e4       ; shl bl, 1; cmp bl, 16; jne plane
        fa f4                      ; cli; hlt
    """)


def six_bits(value: int) -> int:
    return value << 2 | value >> 4


def ega(number: int) -> bytes:
    """One of the 64 colours rgbRGB."""
    return bytes(six_bits(42 * (number >> bit & 1) + 21 * (number >> bit + 3 & 1)) for bit in (2, 1, 0))


def linear_byte(at: int) -> int:
    return (at & 0xFF) + (at >> 8) & 0xFF


def planes_at(at: int) -> list[int]:
    return [(at & 0xFF) * (1 << plane) & 0xFF if at < FILLED else 0 for plane in range(4)]


def planar_dot(x: int, y: int, pitch: int) -> int:
    return sum((byte >> 7 - (x & 7) & 1) << plane for plane, byte in enumerate(planes_at(y * pitch + x // 8)))


def draw(width: int, height: int, wide: int, high: int, colour: Callable[[int, int], bytes]) -> bytes:
    """A picture of so many dots, each of which is shown `wide` by `high` times as large."""
    rows = []
    for y in range(height):
        rows.append(b"".join(colour(x, y) * wide for x in range(width)) * high)
    return b"".join(rows)


# Modes whose 16 colours are the CGA's: with 200 lines, bright ones begin at 16 in the DAC.
CGA_16 = [ega(number) for number in EGA]

DIRECT_13 = """
    ba c2 03 b0 63 ee          ; miscellaneous output
    ba c4 03 b8 01 01 ef b8 02 0f ef b8 04 0e ef ; sequencer 1, 2 and 4
    ba d4 03 b8 11 0e ef b8 07 1f ef b8 09 41 ef b8 14 40 ef b8 17 a3 ef b8 04 54 ef b8 05 80 ef
    ba ce 03 b8 05 40 ef b8 06 05 ef ; graphics 5 and 6
    ba da 03 ec ba c0 03 b0 10 ee b0 41 ee b0 12 ee b0 0f ee b0 13 ee b0 00 ee b0 20 ee
    ba c8 03 30 c0 ee 42 ee ee ee  ; the DAC's first colour is black
    fe c0 75 f9                    ; the others: a grey each
"""
"""Mode 13h by registers, from text."""
UNCHAIN = """
    ba c4 03 b8 04 06 ef       ; sequencer 4: no chain
    ba d4 03 b8 14 00 ef b8 17 e3 ef  ; CRTC: bytes
"""

LINEAR_13 = linear_guest(0x13, 0xA0, 64000)
PLANAR_12 = planar_guest(0x12)
PLANAR_0D = planar_guest(0x0D)
PLANAR_0E = planar_guest(0x0E)
PLANAR_10 = planar_guest(0x10)
MODE_X = planar_guest(0x13, UNCHAIN)
CGA_4 = linear_guest(0x04, 0xB8, 0x4000)
CGA_6 = linear_guest(0x06, 0xB8, 0x4000)


def vbe_guest(number: int, code: str) -> bytes:
    """Sets a mode of VESA's and goes on in protected mode with ES flat."""
    return (
        sector(f"""
        b8 02 4f bb {number & 255:02x} {number >> 8:02x} cd 10 ; mov ax, 0x4f02; mov bx, number; int 0x10
        fa 31 c0 8e d8             ; cli; xor ax, ax; mov ds, ax
        0f 01 16 80 7c             ; lgdt [0x7c80]
        0f 20 c0 0c 01 0f 22 c0    ; mov eax, cr0; or al, 1; mov cr0, eax
        b8 08 00 8e c0             ; mov ax, 8; mov es, ax
        {code}
        f4                         ; hlt
    """)[:128]
        + hexcode("""
        0f 00 90 7c 00 00          ; GDT's limit and base
        00 00 00 00 00 00 00 00 00 00
        00 00 00 00 00 00 00 00
        ff ff 00 00 00 92 cf 00    ; flat data
    """).ljust(382, b"\0")
        + b"\x55\xaa"
    )


def fill_frame(size: int) -> str:
    return f"""
        66 bf 00 00 00 fd          ; mov edi, 0xfd000000
        66 31 c0                   ; xor eax, eax
        67 66 26 89 07             ; next: mov es:[edi], eax
        66 05 03 05 07 00          ; add eax, 0x070503
        66 83 c7 04                ; add edi, 4
        66 81 ff {(0xFD000000 + size).to_bytes(4, "little").hex()} ; cmp edi, end
        75 e8                      ; jne next
    """


VBE_24 = vbe_guest(0x4112, fill_frame(0x20000))


def shown(image: bytes) -> tuple[tuple[int, int], bytes]:
    with Machine(image, memory="4M") as machine:
        outcome = machine.run(LIMIT)
        assert outcome.ending is Ending.HALTED, outcome
        return machine.screen.size, machine.screen.pixels


def same(one: bytes, other: bytes) -> None:
    assert len(one) == len(other)
    assert one == other or next(at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b) == len(one)


@pytest.mark.parametrize(
    ("image", "width", "height", "wide", "high", "pitch"),
    [
        (PLANAR_0D, 320, 200, 2, 2, 40),
        (PLANAR_0E, 640, 200, 1, 2, 80),
        (PLANAR_10, 640, 350, 1, 1, 80),
        (PLANAR_12, 640, 480, 1, 1, 80),
    ],
    ids=["0D", "0E", "10", "12"],
)  # fmt: skip
def test_sixteen_colours(image: bytes, width: int, height: int, wide: int, high: int, pitch: int) -> None:
    size, pixels = shown(image)
    assert size == (width * wide, height * high)

    def line(y: int) -> bytes:
        return b"".join(CGA_16[planar_dot(x, y, pitch)] * wide for x in range(width)) * high

    lines = FILLED // pitch + 2
    same(pixels[: 3 * size[0] * lines * high], b"".join(map(line, range(lines))))
    assert not any(pixels[3 * size[0] * lines * high :])


def test_256_colours_are_those_of_the_dac() -> None:
    with Machine(LINEAR_13, memory="4M") as machine:
        outcome = machine.run(LIMIT)
        assert outcome.ending is Ending.HALTED
        assert outcome.exits < 100, "a mode that is linear costs no exits"
        screen, dac = machine.screen, machine.pc.vga.dac
    colours = [bytes(map(six_bits, dac[3 * at : 3 * at + 3])) for at in range(256)]
    assert (screen.size, screen.graphics, screen.text) == ((640, 400), True, "")
    same(screen.pixels, draw(320, 200, 2, 2, lambda x, y: colours[linear_byte(320 * y + x)]))


def test_mode_13h_by_registers() -> None:
    grey = [bytes((six_bits(value & 63),)) * 3 for value in range(256)]
    size, pixels = shown(linear_guest(0x03, 0xA0, 64000, DIRECT_13))
    assert size == (640, 400)
    same(pixels, draw(320, 200, 2, 2, lambda x, y: grey[linear_byte(320 * y + x)]))


def test_unchained_256_colours() -> None:
    with Machine(MODE_X, memory="4M") as machine:
        assert machine.run(LIMIT).ending is Ending.HALTED
        screen, dac = machine.screen, machine.pc.vga.dac
    colours = [bytes(map(six_bits, dac[3 * at : 3 * at + 3])) for at in range(256)]
    same(screen.pixels, draw(320, 200, 2, 2, lambda x, y: colours[planes_at(80 * y + x // 4)[x & 3]]))


def test_four_and_two_colours() -> None:
    four = [ega(number - 16 + 56 if number & 16 else number) for number in CGA_PALETTE]

    def place(y: int) -> int:
        return (y & 1) * 0x2000 + 80 * (y >> 1)

    size, pixels = shown(CGA_4)
    assert size == (640, 400)
    same(pixels, draw(320, 200, 2, 2, lambda x, y: four[linear_byte(place(y) + x // 4) >> 6 - 2 * (x & 3) & 3]))
    size, pixels = shown(CGA_6)
    two = [ega(0), ega(63)]
    same(pixels, draw(640, 200, 1, 2, lambda x, y: two[linear_byte(place(y) + x // 8) >> 7 - (x & 7) & 1]))


def frame(size: int) -> bytes:
    return b"".join((0x070503 * at & 0xFFFFFFFF).to_bytes(4, "little") for at in range(size // 4))


def test_a_linear_frame_buffer_costs_no_exits() -> None:
    with Machine(vbe_guest(0x4112, fill_frame(0x20000)), memory="4M") as machine:
        outcome = machine.run(LIMIT)
        assert outcome.ending is Ending.HALTED
        assert outcome.exits < 50
        screen = machine.screen
        before = machine.snapshot()
        with before.fork() as fork:
            assert fork.screen.pixels == screen.pixels
    memory = frame(0x20000)
    want = b"".join(memory[at : at + 3][::-1] for at in range(0, len(memory) - 2, 3))
    assert screen.size == (640, 480)
    same(screen.pixels[: len(want)], want)
    assert not any(screen.pixels[len(want) + 3 :])


def multiboot_kernel(version: int) -> bytes:
    """A kernel that asks for 800 by 600 pixels, fills the frame buffer with EAX and more, and halts."""
    code = hexcode("""
        bf 00 00 00 fd 31 c0       ; mov edi, 0xfd000000; xor eax, eax
        89 07 05 03 05 07 00       ; next: mov [edi], eax; add eax, 0x070503
        83 c7 04                   ; add edi, 4
        81 ff 00 00 02 fd 75 ee    ; cmp edi, 0xfd020000; jne next
        fa f4                      ; cli; hlt
    """)
    base = 0x100000
    if version == 1:
        flags = 0x10004
        words = [0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, base, base, 0, 0, base + 48, 0, 800, 600, 32]
        return b"".join(word.to_bytes(4, "little") for word in words) + code
    tags = [2, 24, base, base, 0, 0, 3, 12, base + 88, 0, 5, 20, 800, 600, 32, 0, 0, 8]
    head = [0xE85250D6, 0, 88, -(0xE85250D6 + 88) & 0xFFFFFFFF]
    return b"".join(word.to_bytes(4, "little") for word in head + tags) + code


@pytest.mark.parametrize("version", [1, 2])
def test_a_multiboot_kernel_that_asks_gets_a_frame_buffer(version: int) -> None:
    with Machine(multiboot_kernel(version), memory="16M") as machine:
        assert machine.entry is not None
        assert machine.entry.video == (800, 600, 32)
        information = machine.vcpus[0].get_registers().rbx
        block = machine.memory.read(information, 1024)
        assert (0xFD000000).to_bytes(8, "little") + (3200).to_bytes(4, "little") in block
        before = machine.snapshot()
        outcome = machine.run(LIMIT)
        assert outcome.ending is Ending.HALTED, outcome
        screen = machine.screen
        machine.restore(before)
        assert not any(machine.screen.pixels), "the frame buffer has gone back, too"
        machine.run(LIMIT)
        again = machine.screen
    memory = frame(0x20000)
    want = b"".join(memory[at : at + 3][::-1] for at in range(0, len(memory), 4))
    assert screen.size == (800, 600)
    same(screen.pixels[: len(want)], want)
    same(again.pixels, screen.pixels)


def test_planes_go_along_in_snapshots() -> None:
    with Machine(PLANAR_12, memory="4M") as machine:
        before = machine.snapshot()
        machine.run(LIMIT)
        drawn, after = machine.screen.pixels, machine.snapshot()
        machine.restore(before)
        assert machine.screen.size == (720, 400)
        for _ in range(2):  # the way back that copies all, and the one that copies what was written
            machine.restore(after)
            assert machine.screen.pixels == drawn
            machine.restore(before)
        machine.run(LIMIT)
        assert machine.screen.pixels == drawn
        with after.fork() as fork:
            assert fork.screen.pixels == drawn


def test_a_saved_snapshot_has_the_picture(tmp_path: Path) -> None:
    with Machine(multiboot_kernel(1), memory="16M") as machine:
        machine.run(LIMIT)
        pixels = machine.screen.pixels
        machine.snapshot().save(tmp_path / "saved")
    with Machine.from_snapshot(tmp_path / "saved") as again:
        assert again.screen.size == (800, 600)
        assert again.screen.pixels == pixels


def test_the_aspect_of_a_monitor() -> None:
    with Machine(LINEAR_13, memory="4M") as machine:
        machine.run(LIMIT)
        assert machine.screen.png(aspect=True)[16:24] == (640).to_bytes(4, "big") + (480).to_bytes(4, "big")
        assert machine.screen.png()[16:24] == (640).to_bytes(4, "big") + (400).to_bytes(4, "big")


# QEMU's own picture


def screendump(image: bytes, tmp_path: Path) -> tuple[tuple[int, int], bytes]:
    """What QEMU's emulated VGA shows once the guest has halted."""
    disk, monitor, picture = tmp_path / "disk", tmp_path / "monitor", tmp_path / "picture.ppm"
    disk.write_bytes(image.ljust(1 << 16, b"\0"))
    program = shutil.which("qemu-system-i386") or shutil.which("qemu-system-x86_64")
    assert program
    command = [
        program, "-accel", "tcg", "-m", "8", "-display", "none", "-nodefaults", "-vga", "std",
        "-drive", f"file={disk},format=raw,if=ide", "-monitor", f"unix:{monitor},server=on,wait=on",
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as qemu:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(LIMIT)
                deadline = time.monotonic() + LIMIT
                while True:
                    try:
                        line.connect(str(monitor))
                        break
                    except OSError:
                        assert time.monotonic() < deadline
                        assert qemu.poll() is None

                def ask(command: str) -> str:
                    line.sendall(command.encode() + b"\n")
                    answer = b""
                    while not answer.endswith(b"(qemu) "):
                        answer += line.recv(4096)
                    return answer.decode()

                answer = b""
                while not answer.endswith(b"(qemu) "):
                    answer += line.recv(4096)
                # Halted with interrupts off, in the boot sector: no BIOS waits so.
                while "HLT=1" not in (said := ask("info registers")) or "CS =0000" not in said or "-" not in said:
                    assert time.monotonic() < deadline
                ask(f"screendump {picture}")
        finally:
            qemu.kill()
    kind, size, most, pixels = picture.read_bytes().split(b"\n", 3)
    assert (kind, most) == (b"P6", b"255")
    width, height = map(int, size.split())
    return (width, height), pixels


@pytest.mark.needs("qemu")
@pytest.mark.parametrize(
    "image",
    [LINEAR_13, PLANAR_12, PLANAR_0D, MODE_X, CGA_4, CGA_6, VBE_24],
    ids=["13", "12", "0D", "X", "04", "06", "112"],
)
def test_qemu_shows_the_same(image: bytes, tmp_path: Path) -> None:
    theirs_size, theirs = screendump(image, tmp_path)
    size, pixels = shown(image)
    assert size == theirs_size
    assert max(abs(one - other) for one, other in zip(pixels, theirs, strict=True)) <= UNTRUE + 1
