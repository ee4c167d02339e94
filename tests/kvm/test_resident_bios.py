"""The BIOS under kernels that were loaded without it, and what boots by it alone."""

from __future__ import annotations

from debian import package
from helpers import LIMIT

from pykvm import Ending, Machine, boot

PRINT_A_KEY = bytes.fromhex(
    "fb"  # sti
    "b400cd16"  # mov ah, 0; int 0x16
    "b40ecd10"  # mov ah, 0x0e; int 0x10
    "f4"  # hlt
    "faf4"  # cli; hlt
)
HALT_SECTOR = bytes.fromhex("b82a0ecd10 faf4").ljust(510, b"\0") + b"\x55\xaa"  # prints "*" by INT 10h


def test_code_in_real_mode_reads_keys_by_the_bios() -> None:
    """The keyboard's interrupt is let through, as POST leaves the 8259."""
    with Machine(PRINT_A_KEY, mode=16, memory="2M") as machine:
        machine.start()
        machine.keyboard.type("k")
        assert machine.wait(LIMIT).ending is Ending.HALTED
        assert machine.serial.output == b"k"


def test_a_snapshot_has_the_services_that_were_called() -> None:
    with Machine(PRINT_A_KEY, mode=16, memory="2M") as machine:
        machine.start()
        machine.stop("before the key")
        snapshot = machine.snapshot()
    with snapshot.fork() as fork:
        fork.start()
        fork.keyboard.type("f")
        assert fork.wait(LIMIT).ending is Ending.HALTED
        assert fork.serial.output.endswith(b"f")


def test_memdisk_starts_a_floppy_image() -> None:
    """It is a bzImage of an old protocol, entered in real mode; it hooks INT 13h and starts its initrd by INT 19h's
    way."""
    memdisk = (package("syslinux-common") / "usr/lib/syslinux/memdisk").read_bytes()
    floppy = HALT_SECTOR.ljust(1440 << 10, b"\0")
    with Machine(memdisk, memory="16M", modules=[boot.Module(floppy)]) as machine:
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert b"Disk is fd0, 1440 K, C/H/S = 80/2/18" in machine.serial.output
        assert machine.serial.output.rstrip().endswith(b"booting...\r\n*")
