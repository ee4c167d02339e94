"""Images through the command line: command lines and modules, disks, firmware, BIOS calls told, pictures taken."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from debian import KERNEL, multiboot_example, package
from helpers import LIMIT, assembled, elf32, pykvm
from PIL import Image

from pykvm.cli import invoke
from pykvm.display import font

Guest = Callable[[str], Path]


def check_mistakes(mistakes: Sequence[tuple[Sequence[object], str]]) -> None:
    """Each of these command lines is refused, with these words."""
    for arguments, words in mistakes:
        done = pykvm(*arguments)
        assert done.returncode == 2, arguments
        assert words in done.stderr.decode(), arguments
        assert b"Traceback" not in done.stderr


needs_gcc = pytest.mark.needs("gcc")

# Command lines and modules: guests print them on COM1, as their boot protocol says where they are

PRINT = """
text:   # Prints the string at ESI and a line feed.
        mov     $0x3F8, %dx
1:      lodsb
        test    %al, %al
        jz      2f
        out     %al, %dx
        jmp     1b
2:      mov     $10, %al
        out     %al, %dx
        ret
content:  # Prints ECX bytes at ESI and a line feed.
        mov     $0x3F8, %dx
        cld
        rep     outsb
        jmp     2b
done:   xor     %al, %al
        out     %al, $0xF4
"""
STACK = "mov $0x80000, %esp\n"

MULTIBOOT_1 = f"""
        {STACK}
        mov     16(%ebx), %esi                  # cmdline
        call    text
        mov     20(%ebx), %edi                  # mods_count
        mov     24(%ebx), %ebx                  # mods_addr
1:      test    %edi, %edi
        jz      done
        mov     8(%ebx), %esi                   # string
        call    text
        mov     (%ebx), %esi                    # mod_start
        mov     4(%ebx), %ecx                   # mod_end
        sub     %esi, %ecx
        call    content
        add     $16, %ebx
        dec     %edi
        jmp     1b
{PRINT}"""

MULTIBOOT_2 = f"""
        {STACK}
        add     $8, %ebx
1:      cmpl    $0, (%ebx)                      # the end tag
        je      done
        cmpl    $1, (%ebx)                      # command line
        jne     2f
        lea     8(%ebx), %esi
        call    text
2:      cmpl    $3, (%ebx)                      # module
        jne     3f
        lea     16(%ebx), %esi
        call    text
        mov     8(%ebx), %esi                   # mod_start
        mov     12(%ebx), %ecx                  # mod_end
        sub     %esi, %ecx
        call    content
3:      mov     4(%ebx), %eax
        add     $7, %eax
        and     $~7, %eax
        add     %eax, %ebx
        jmp     1b
{PRINT}"""

PVH = f"""
        {STACK}
        mov     24(%ebx), %esi                  # cmdline_paddr
        call    text
        mov     12(%ebx), %edi                  # nr_modules
        mov     16(%ebx), %ebx                  # modlist_paddr
1:      test    %edi, %edi
        jz      done
        mov     16(%ebx), %esi                  # cmdline_paddr
        call    text
        mov     (%ebx), %esi                    # paddr
        mov     8(%ebx), %ecx                   # size
        call    content
        add     $32, %ebx
        dec     %edi
        jmp     1b
{PRINT}"""

HEADERS = {
    "multiboot": (MULTIBOOT_1, struct.pack("<III", 0x1BADB002, 0, 0xE4524FFE), b""),
    "multiboot2": (MULTIBOOT_2, struct.pack("<4xIIIIII", 0xE85250D6, 0, 24, 0x17ADAF12, 0, 8), b""),
    "pvh": (PVH, b"", struct.pack("<III4sI", 4, 4, 18, b"Xen", 0x100000)),
}


@needs_gcc
@pytest.mark.parametrize("protocol", HEADERS)
def test_a_kernel_gets_its_command_line_and_modules(tmp_path: Path, protocol: str) -> None:
    code, header, note = HEADERS[protocol]
    kernel, one, two = tmp_path / "kernel", tmp_path / "one", tmp_path / "two"
    kernel.write_bytes(elf32(header + assembled(code, tmp_path, 0x100000 + len(header), 32), len(header), note))
    one.write_bytes(b"first content")
    two.write_bytes(b"second " * 1000)
    done = pykvm("run", kernel, "--append", "one=1 two", "--module", f"{one} with text", "-i", two)
    assert done.returncode == 1, done.stderr
    command_line, first, first_content, second, second_content = done.stdout.decode().splitlines()
    assert command_line == (f"{kernel} one=1 two" if protocol == "multiboot" else "one=1 two")
    assert (first, first_content) == (f"{one} with text", "first content")
    assert (second, second_content) == (str(two), "second " * 1000)


def test_a_kernel_without_a_place_for_them_is_refused(guest: Guest) -> None:
    words = "which has no place for"
    options = (["--append", "x"], ["--initrd", guest("hello64")])
    check_mistakes([(["run", guest(kernel), *option], words) for kernel in ("hello64", "bios") for option in options])


def test_a_module_that_is_not_there() -> None:
    kernel = package("multiboot") / "usr/lib/multiboot/examples/kernel"
    done = pykvm("run", kernel, "--module", "/nowhere/at-all some text")
    assert (done.returncode, done.stderr) == (2, b"pykvm: /nowhere/at-all: No such file or directory\n")


@pytest.mark.needs("ring0-sse", "ring0-x87")
def test_linux_with_an_initrd(tmp_path: Path) -> None:
    from test_boot_formats import INIT_TEXT, initrd

    (kernel,) = (package(KERNEL) / "boot").glob("vmlinuz-*")
    (tmp_path / "initrd").write_bytes(initrd())
    done = pykvm("run", kernel, "-m", "256M", "-i", tmp_path / "initrd", "-a", "console=ttyS0 panic=-1 quiet")
    assert done.returncode == 0
    assert INIT_TEXT in done.stdout


# Disks

WRITER = """
        # Writes "!!!!" to the beginning of block 1 by INT 13h, shows the first byte of block 2, and ends.
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     $0x0301, %ax
        mov     $2, %cx
        xor     %dh, %dh
        mov     $0x600, %bx
        movl    $0x21212121, (%bx)
        int     $0x13
        mov     $0x0201, %ax
        mov     $3, %cx
        mov     $0x800, %bx
        int     $0x13
        mov     $0x0E, %ah
        mov     0x800, %al
        int     $0x10
        xor     %al, %al
        out     %al, $0xF4
        .org    510
        .word   0xAA55
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(assembled(WRITER, tmp_path, 0x7C00, 16) + bytes(512) + b"x" * 512)
    return path


def second_block(path: Path) -> bytes:
    return path.read_bytes()[512:516]


@needs_gcc
@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["-d", "DISK"], True),
        (["-d", "DISK,discard"], False),
        (["-d", "none", "-d", "DISK"], True),
        (["DISK"], False),
        (["DISK", "--format", "disk"], False),
        (["--floppy", "DISK"], True),
    ],
)
def test_where_a_disk_is_started_from_and_what_it_keeps(disk: Path, arguments: list[str], kept: bool) -> None:
    done = pykvm("run", *(argument.replace("DISK", str(disk)) for argument in arguments))
    assert (done.returncode, done.stdout) == (1, b"x"), done.stderr
    assert second_block(disk) == (b"!!!!" if kept else bytes(4))


@needs_gcc
def test_a_read_only_disk_is_an_error_of_the_guests(disk: Path) -> None:
    done = pykvm("run", "-d", f"{disk},ro", "--trace", "bios")
    assert (done.returncode, done.stdout) == (1, b"x")
    assert second_block(disk) == bytes(4)
    assert b"INT 13h AH=03 write 1 sectors at C/H/S 0/0/2, drive 80h, buffer 0000:0600 -> error 03h" in done.stderr


@needs_gcc
def test_nothing_to_start(disk: Path, guest: Guest) -> None:
    check_mistakes(
        [
            (["run"], "nothing to run: give a KERNEL, or what to start from by --disk, --floppy or --cdrom"),
            (["run", "-d", "none"], "there is no disk to start from"),
            (["run", "--floppy", "none"], "there is no disk to start from"),
            (["run", guest("hello64"), "--floppy", disk], "only pykvm's own BIOS knows a floppy disk"),
            (["run", disk, "-m", "512K"], "a BIOS needs 1M of memory, not 512K"),
            (["run", disk, *["-d", "none"] * 4], "5 disks are not possible"),
        ]
    )


@needs_gcc
def test_bios_calls_are_told_on_stderr(disk: Path) -> None:
    done = pykvm("run", disk, "--trace", "bios")
    assert done.stdout == b"x"
    assert done.stderr.decode().splitlines()[:4] == [
        "POST -> drive 80h",
        "INT 13h AH=03 write 1 sectors at C/H/S 0/0/2, drive 80h, buffer 0000:0600 -> ok",
        "INT 13h AH=02 read 1 sectors at C/H/S 0/0/3, drive 80h, buffer 0000:0800 -> ok",
        "INT 10h AH=0E print x",
    ]


# Firmware


def test_what_is_no_firmware(guest: Guest) -> None:
    seabios = package("seabios") / "usr/share/seabios/bios.bin"
    no_bios = "--trace bios: pykvm's BIOS is not there under a firmware, or in less than 1M of memory"
    check_mistakes(
        [
            (["run", "--firmware", guest("bios")], "1536 bytes are no firmware image"),
            (
                ["run", guest("hello64"), "--firmware", seabios],
                "a firmware starts from disks, and the image is 'elf64'",
            ),
            (["run", "--firmware", seabios, "-m", "512K"], "a firmware needs 1M of memory, not 512K"),
            (["run", "--firmware", seabios, "--trace", "bios"], no_bios),
        ]
    )


# Pictures


def test_a_picture_is_read_by_another_program(guest: Guest, tmp_path: Path) -> None:
    picture = tmp_path / "screen.png"
    done = pykvm("screenshot", guest("bios"), picture, "--at", "press keys", "--scale", 2, "-t", LIMIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with Image.open(picture) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (2 * 9 * 80, 2 * 16 * 25))
        colours = {colour for _, colour in image.convert("RGB").getcolors()}
        assert colours == {(0, 0, 0), (170, 170, 170)}
        first_row, last_row = image.convert("L").crop((0, 0, 1440, 32)), image.convert("L").crop((0, 768, 1440, 800))
        assert first_row.getbbox() is not None
        assert last_row.getbbox() is None


def test_the_screen_as_text_after_typing(guest: Guest) -> None:
    """Keys that were typed before the guest could read them are not lost."""
    done = pykvm("screenshot", guest("bios"), "-", "--text", "--type", "aB\x1b", "--at", "bye", "-t", LIMIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[-4:] == ["bios: key 1E61", "bios: key 3042", "bios: key 011B", "bios: bye"]


def test_a_picture_on_standard_output_at_the_guest_s_end(guest: Guest) -> None:
    done = pykvm("screenshot", guest("hello32"), "-")
    assert (done.returncode, done.stderr) == (0, b"")
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.size == (720, 400)


def test_text_that_does_not_come_is_status_1(guest: Guest, tmp_path: Path) -> None:
    for kernel, limit in (("bios", "0.2"), ("hello32", "40")):
        picture = tmp_path / f"{kernel}.png"
        done = pykvm("screenshot", guest(kernel), picture, "--at", "never comes", "-t", limit)
        assert done.returncode == 1
        assert b"'never comes' did not come on the screen; the picture shows the last one" in done.stderr
        assert picture.stat().st_size > 100


def test_a_picture_of_the_multiboot_kernel_s_screen(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(multiboot_example(in_text_mode=True))
    done = pykvm("screenshot", kernel, "-", "--text", "-a", "hello world", "-m", "16M", "-t", LIMIT)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[2].startswith(f"cm\\line = {kernel}"[:80])


def test_mistakes_are_told_in_words(guest: Guest) -> None:
    tiny = [guest("hello16"), "-", "--mode", "16", "-m", "512K"]
    check_mistakes(
        [
            (["screenshot", guest("hello64"), "/nowhere/at/all.png"], "/nowhere/at/all.png: No such file or directory"),
            (["screenshot", guest("bios"), "-", "--type", "\u20ac"], "on a US keyboard"),
            (["screenshot", guest("hello64"), "-", "--scale", "9"], "--scale"),
            (["screenshot", *tiny], "there is no screen: video memory ends at 768K, RAM at 512K"),
            (["run", guest("hello64"), "--json", "--display", "terminal"], "--json prints nothing else"),
        ]
    )


def test_a_picture_without_a_console_font(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the screen's text there is one all the same."""
    monkeypatch.setattr(font, "SYSTEM_FONTS", ())
    font.system_font.cache_clear()
    picture = tmp_path / "screen.png"
    assert invoke(["screenshot", str(guest("hello32")), str(picture)]) == 2
    assert "drawing a screen needs a console font" in capsys.readouterr().err
    assert not picture.exists()
    assert invoke(["screenshot", str(guest("hello32")), str(picture), "--text"]) == 0
    assert picture.exists()
