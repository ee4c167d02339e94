"""CD images: what tutorials make with grub-mkrescue and isolinux, El Torito's emulations, and a drive that Linux reads."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from debian import KERNEL, package
from helpers import LIMIT, ROOT, assembled, elf32, flat, hexcode, pykvm
from test_boot_formats import LINUX_LIMIT, SHOW_EAX, archive, bzimage

from pykvm import ConfigError, Ending, Machine, boot
from pykvm.disk.memory import MemoryDisk
from pykvm.snapshot import Snapshot, SnapshotError
from pykvm.snapshot.trigger import Moment, snapshot_at

sys.path.append(str(ROOT / "tests/unit"))
from iso_writer import iso

EXIT_3 = SHOW_EAX + hexcode("b0 03; mov al, 3\n e6 f4; out 0xf4, al")
MULTIBOOT = elf32(struct.pack("<III", 0x1BADB002, 0, 0xE4524FFE) + EXIT_3, 12)
MULTIBOOT2 = elf32(struct.pack("<4xIIIIII", 0xE85250D6, 0, 24, 0x17ADAF12, 0, 8) + EXIT_3, 28)

needs_grub = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("grub-mkrescue", "xorriso", "mformat"))
    or not Path("/usr/lib/grub/i386-pc/boot.img").exists(),
    reason="needs grub-mkrescue for i386-pc (Debian: grub-common grub-pc-bin xorriso mtools)",
)
needs_xorriso = pytest.mark.skipif(shutil.which("xorriso") is None, reason="needs xorriso (Debian: xorriso)")


def mkisofs(image: Path, tree: Path, *options: str | Path) -> Path:
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", *options, "-o", image, tree], check=True)
    return image


def rescue(directory: Path, kernel: bytes, command: str) -> Path:
    """What a kernel tutorial makes."""
    tree = directory / "tree"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/kernel").write_bytes(kernel)
    (tree / "boot/grub/grub.cfg").write_text(f"set timeout=0\nmenuentry kernel {{\n {command} /boot/kernel words\n}}\n")
    small = ["--install-modules=normal multiboot multiboot2", "--fonts=", "--themes=", "--locales="]
    subprocess.run(
        ["grub-mkrescue", *small, "-o", directory / "os.iso", tree],
        check=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MTOOLSRC": "/dev/null", "TMPDIR": str(directory)},
        stderr=subprocess.DEVNULL,
    )
    return directory / "os.iso"


@needs_grub
@pytest.mark.needs("svm-or-vmx")  # unpacks itself for most of a minute where KVM interprets ring 0
@pytest.mark.parametrize(
    ("kernel", "command", "magic"),
    [(MULTIBOOT, "multiboot", 0x2BADB002), (MULTIBOOT2, "multiboot2", 0x36D76289)],
    ids=["multiboot", "multiboot2"],
)
def test_grub_starts_a_kernel_from_its_cd(tmp_path: Path, kernel: bytes, command: str, magic: int) -> None:
    with Machine(rescue(tmp_path, kernel, command), memory="64M") as machine:
        assert machine.entry is not None
        assert machine.entry.format == "cd"
        outcome = machine.run(LIMIT)
        assert (outcome.ending, outcome.value) == (Ending.EXITED, 3), machine.screen.text
        assert machine.pc.debug_console.output == struct.pack("<I", magic)


@needs_xorriso
@pytest.mark.needs("svm-or-vmx")  # returns from interrupts in 32-bit ring 0
def test_isolinux_comes_to_its_prompt_from_a_cd_and_as_a_disk(tmp_path: Path) -> None:
    tree, image = tmp_path / "tree", tmp_path / "os.iso"
    tree.mkdir()
    (tree / "isolinux.cfg").write_text("SAY hello by ISOLINUX\nPROMPT 1\nTIMEOUT 0\n")
    files = package("isolinux") / "usr/lib/ISOLINUX"
    shutil.copy(files / "isolinux.bin", tree)
    shutil.copy(package("syslinux-common") / "usr/lib/syslinux/modules/bios/ldlinux.c32", tree)
    started = ["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]
    mkisofs(image, tree, *started, "-isohybrid-mbr", files / "isohdpfx.bin")
    for given in ({"image": image}, {"disks": [str(image)], "format": "disk"}):
        with Machine(memory="64M", **given) as machine:
            machine.start(LIMIT)
            machine.wait_for_screen("hello by ISOLINUX", LIMIT)
            machine.wait_for_screen("boot:", LIMIT)


BOOT = """
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %dl, drive
        mov     $0x0201, %ax            # the second sector
        mov     $0x0002, %cx
        xor     %dh, %dh
        mov     $0x7E00, %bx
        int     $0x13
        jc      failed
        mov     $0x7E00, %si
1:      lodsb
        test    %al, %al
        jz      2f
        out     %al, $0xE9
        jmp     1b
2:      mov     $0x4B01, %ax
        mov     drive, %dl
        mov     $0x600, %si
        int     $0x13
        jc      failed
        mov     drive, %al
        out     %al, $0xF4
failed: mov     $0xEE, %al
        out     %al, $0xF4
drive:  .byte   0
        .org    446
        .byte   0x80, 0, 1, 0, 0x0C, 3, 17, 9
        .long   1, 1000
        .org    510
        .word   0xAA55
"""


def emulated(directory: Path) -> bytes:
    """A disk to start from, whose second sector has a text."""
    return (assembled(BOOT, directory, 0x7C00, 16) + b"the second sector").ljust(1440 << 10, b"\0")


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(("media", "drive"), [(2, 0x00), (4, 0x80)], ids=["floppy", "hard-disk"])
def test_an_image_on_a_cd_is_taken_for_a_disk(tmp_path: Path, media: int, drive: int) -> None:
    image = iso(emulated(tmp_path), media, sectors=1)
    with Machine(image, memory="4M", disks=[MemoryDisk(bytes(1 << 20))]) as machine:
        assert machine.run(LIMIT).value == drive
        assert machine.pc.debug_console.output == b"the second sector"
        packet = struct.unpack("<BBBBIHHHHBBB", machine.memory.read(0x600, 19))
        assert packet[:9] == (19, media, drive, 0, 20, 0, 0, 0x7C0, 1)
        assert machine.memory.read_int(0x475, 1) == (2 if media == 4 else 1), "hard disks"
        assert machine.memory.read_int(0x410, 2) & 1 == (media == 2), "a floppy drive"


@pytest.mark.needs("gcc", "svm-or-vmx")  # SeaBIOS takes 20 seconds where KVM interprets ring 0
def test_seabios_starts_it_by_a_driver_of_its_own(tmp_path: Path) -> None:
    firmware = package("seabios") / "usr/share/seabios/bios.bin"
    with Machine(iso(emulated(tmp_path), 2, sectors=1), firmware=firmware, memory="32M") as machine:
        assert machine.run(LIMIT).value == 0
        assert machine.pc.debug_console.output.endswith(b"the second sector")


@needs_xorriso
@pytest.mark.needs("gcc")
def test_xorriso_makes_a_cd_with_a_floppy_disk(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "floppy.img").write_bytes(emulated(tmp_path))
    image = mkisofs(tmp_path / "os.iso", tree, "-b", "floppy.img", "-c", "boot.cat")
    done = pykvm("run", image, "--json", "--timeout", LIMIT)
    assert b'"value": 0' in done.stdout, done
    disk = tmp_path / "hd.img"
    disk.write_bytes(bytes(1 << 20))
    for options in (["--cdrom", image], ["--cdrom", image, "--disk", disk]):  # the disk cannot be started from
        assert b'"value": 0' in pykvm("run", *options, "--json", "--timeout", LIMIT).stdout


def test_what_cannot_be_started_is_told(tmp_path: Path) -> None:
    image = tmp_path / "os.iso"
    image.write_bytes(iso(b"", catalog=b"nothing"))
    done = pykvm("run", image)
    assert (done.returncode, b"validation entry" in done.stderr, b"Traceback" in done.stderr) == (2, True, False)
    with pytest.raises(ConfigError, match="5 CD-ROM drives"):
        Machine(memory="4M", cdrom=[None] * 5)
    with pytest.raises(ConfigError, match="1 CD-ROM drives and 4 disks"):
        Machine(memory="4M", cdrom=image, disks=[MemoryDisk(bytes(512)) for _ in range(4)])


# A driver that asks for a word of each of two blocks, by PIO, and waits for a key between them.
READ_TWO = """
        .macro  port number, value
        mov     $\\number, %dx
        mov     $\\value, %al
        out     %al, %dx
        .endm
        mov     $0x177, %dx
        port    0x176, 0xA0
        port    0x174, 2048 & 0xFF
        port    0x175, 2048 >> 8
        port    0x177, 0xA0
        mov     $0x170, %dx
        mov     $packet, %esi
        mov     $6, %ecx
        rep outsw
        call    block
        call    block
        mov     $0x177, %dx
        in      %dx, %al
        out     %al, $0xF4
block:  mov     $1024, %ecx
        mov     $0x170, %dx
1:      in      %dx, %ax
        cmp     $1024, %ecx
        jne     2f
        out     %al, $0xE9
        mov     %ax, %bx
2:      loop    1b
        mov     %bx, %ax
        mov     $0x3F8, %dx
        out     %al, %dx
        ret
packet: .byte   0x28, 0, 0, 0, 0, 20, 0, 0, 2, 0, 0, 0
"""


def two_blocks(letters: bytes) -> bytes:
    return iso(b"".join(bytes((letter,)) * 2048 for letter in letters))


@pytest.mark.needs("gcc")
def test_snapshot_in_the_middle_of_a_transfer_and_after_a_change(tmp_path: Path) -> None:
    """The medium goes along by its name: put back where it was changed, opened anew where it is another machine."""
    first, second = tmp_path / "first.iso", tmp_path / "second.iso"
    first.write_bytes(two_blocks(b"ab"))
    second.write_bytes(two_blocks(b"xyz"))
    code = assembled(READ_TWO, tmp_path, 0x100000, 32)
    taken: list[Snapshot] = []
    with flat(code, 32, cdrom=str(first)) as machine:
        with machine.lock:
            snapshot_at(machine, Moment(text=b"a"), taken.append)
        assert machine.run(LIMIT).value == 0x50
        assert machine.pc.debug_console.output == b"ab"
        machine.cdroms[0].insert(str(second))
        machine.restore(taken[0])
        assert machine.run(LIMIT).value == 0x50
        assert machine.pc.debug_console.output == b"ab"
    taken[0].save(tmp_path / "saved")
    with pytest.raises(SnapshotError, match="trust"):
        Snapshot.load(tmp_path / "saved").fork()
    for snapshot in (taken[0], Snapshot.load(tmp_path / "saved", trust_disks=True)):
        with snapshot.fork() as fork:
            assert fork.run(LIMIT).value == 0x50
            assert fork.pc.debug_console.output == b"ab"
    with pytest.raises(SnapshotError, match="bytes"):
        taken[0].fork(cdrom=str(second))


INIT = b"""#!/busybox sh
/busybox mkdir -p /dev /mnt /proc
/busybox mount -t devtmpfs none /dev
for module in MODULES; do /busybox insmod /$module.ko; done
while ! [ -b /dev/sr0 ]; do /busybox sleep 0.1; done
while :; do
    /busybox mount -t iso9660 -o ro /dev/sr0 /mnt && /busybox cat /mnt/hello.txt && /busybox umount /mnt
    echo "next?"
    read word
    [ "$word" = off ] && /busybox poweroff -f
done
"""


@needs_xorriso
@pytest.mark.needs("ring0-sse", "ring0-x87")
def test_linux_reads_a_cd_and_its_change(tmp_path: Path) -> None:
    names = ["scsi_common", "scsi_mod", "cdrom", "sr_mod", "libata", "ata_piix", "isofs"]
    (modules,) = (package(KERNEL) / "lib/modules").iterdir()
    files = {f"{name}.ko": next(modules.rglob(f"{name}.ko")).read_bytes() for name in names}
    files["busybox"] = (package("busybox-static") / "bin/busybox").read_bytes()
    files["init"] = INIT.replace(b"MODULES", " ".join(names).encode())
    for number in (1, 2):
        tree = tmp_path / f"tree{number}"
        tree.mkdir()
        (tree / "hello.txt").write_text(f"hello from CD {number}\n")
        mkisofs(tmp_path / f"{number}.iso", tree)
    modules_of_boot = [boot.Module(archive(files))]
    with Machine(
        bzimage(), memory="256M", command_line="console=ttyS0 panic=-1 quiet", modules=modules_of_boot,
        cdrom=str(tmp_path / "1.iso"),
    ) as machine:  # fmt: skip
        machine.start(2 * LINUX_LIMIT)
        serial, (cdrom,) = machine.serial, machine.cdroms
        serial.wait_for("hello from CD 1", LINUX_LIMIT)
        serial.wait_for("next?", LINUX_LIMIT)
        cdrom.insert(str(tmp_path / "2.iso"))
        serial.send("again\n")
        serial.wait_for("hello from CD 2", LINUX_LIMIT)
        serial.wait_for("next?", LINUX_LIMIT)
        cdrom.eject()
        serial.send("none\n")
        serial.wait_for("No medium found", LINUX_LIMIT)
        serial.wait_for("next?", LINUX_LIMIT)
        cdrom.insert(str(tmp_path / "1.iso"))
        serial.send("on\n")
        serial.wait_for("hello from CD 1", LINUX_LIMIT)
        serial.send("off\n")
        assert machine.wait().code == 0
