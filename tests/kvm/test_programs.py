"""Boot loaders, firmware and test programs that others wrote, with their screen and their keyboard.

They come from Debian packages. Those that use the x87, or take
too long to unpack themselves where KVM interprets ring 0, need a KVM that does not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from debian import package
from helpers import LIMIT, assembled

from pykvm import Ending, Machine
from pykvm.disk.memory import MemoryDisk


@pytest.mark.needs("svm-or-vmx")
def test_grub_draws_its_menu() -> None:
    """It reads its modules by INT 13h and draws each character by INT 10h, from protected mode and back."""
    image = package("grub-rescue-pc") / "usr/lib/grub-rescue/grub-rescue-floppy.img"
    with Machine(image, memory="64M") as machine:
        machine.start(LIMIT)
        screen = machine.wait_for_screen("GNU GRUB  version", LIMIT)
        assert screen.find("GNU GRUB") == (23, 1), "in the middle of the second row"


@pytest.mark.parametrize(
    ("name", "boots_as"),
    [
        ("boot/memtest86+x64.bin", "linux"),
        ("boot/memtest86+ia32.bin", "linux"),
        ("usr/lib/memtest86+/memtest86+x64.iso", "cd"),
    ],
)
def test_memtest_draws_its_screen_and_listens_to_the_keyboard(name: str, boots_as: str) -> None:
    """As a Linux kernel, and from its CD."""
    with Machine(package("memtest86+") / name, memory="64M") as machine:
        assert machine.entry is not None
        assert machine.entry.format == boots_as
        machine.start(LIMIT)
        screen = machine.wait_for_screen("Press <F1> to configure", LIMIT)
        assert screen.lines[0].startswith("      Memtest86+ v")
        assert screen.lines[5].startswith("Memory  :   64MB"), "as the memory map says"
        red_on_white = screen.cells[2 * 6 + 1]
        assert screen.colours(red_on_white)[:2] != (7, 0), "its name has a colour"
        machine.keyboard.press("f1")
        machine.keyboard.release("f1")
        machine.wait_for_screen("Test selection", LIMIT)


HELLO = """
        xor     %ax, %ax
        mov     %ax, %ds
        mov     $text, %si
1:      lodsb
        test    %al, %al
        jz      2f
        mov     $0x0E, %ah
        xor     %bx, %bx
        int     $0x10
        jmp     1b
2:      xor     %ah, %ah
        int     $0x16
        out     %al, $0xF4
text:   .asciz  "hello by SeaBIOS; press a key"
        .org    510
        .word   0xAA55
"""


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("name", ["bios.bin", "bios-256k.bin"])
def test_seabios_starts_a_disk(tmp_path: Path, name: str) -> None:
    """It finds the VGA BIOS, the disk and the keyboard by itself, and serves a boot sector's INT 10h and 16h."""
    disk = MemoryDisk(assembled(HELLO, tmp_path, 0x7C00, 16))
    with Machine(firmware=package("seabios") / "usr/share/seabios" / name, disks=[disk], memory="32M") as machine:
        machine.start(LIMIT)
        screen = machine.wait_for_screen("press a key", LIMIT)
        assert screen.lines[0].startswith("SeaBIOS (version ")
        assert screen.find("Booting from Hard Disk...") is not None
        machine.keyboard.type("Z")
        outcome = machine.wait()
        assert (outcome.ending, outcome.value) == (Ending.EXITED, ord("Z"))


@pytest.mark.needs("svm-or-vmx")  # twice its self-test, which is slow where KVM interprets ring 0
def test_seabios_without_a_disk_says_so_and_is_reset() -> None:
    with Machine(firmware=package("seabios") / "usr/share/seabios" / "bios.bin", memory="32M") as machine:
        machine.start(LIMIT)
        machine.wait_for_screen("No bootable device.", LIMIT)
        machine.reset()
        with machine.lock:
            assert machine.screen.find("No bootable device.") is not None, "RAM outlives a reset"
        machine.memory.zero(0xB8000, 0x8000)
        machine.wait_for_screen("No bootable device.", LIMIT)
        assert machine.resets == 1
