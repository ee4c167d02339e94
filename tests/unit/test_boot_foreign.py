"""What is no kernel: each kind as the real tool writes it, or by its specification, and what it must not be taken for."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
from elf_writer import Part, elf, patch
from hypothesis import given
from hypothesis import strategies as st

from pykvm.boot import ImageError, Options
from pykvm.boot.detect import choose, recognise
from pykvm.boot.foreign import TEXT_LOOKED_AT
from pykvm.cli import invoke

CODE = b"\xf4\xeb\xfd" * 200


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("kernel"))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("kernel", CODE)
    return file.getvalue()


def at(offset: int, magic: bytes, size: int = 1024) -> bytes:
    return (bytes(offset) + magic).ljust(size, b"\0")


FOREIGN = {
    "gzip": (gzip.compress(CODE), "gzip data: unpack it first, as by: gunzip"),
    "xz": (lzma.compress(CODE), "xz data: unpack it first, as by: unxz"),
    "bzip2": (bz2.compress(CODE), "bzip2 data: unpack it first, as by: bunzip2"),
    "zstd": (bytes.fromhex("28b52ffd 2004 210000") + b"abcd", "zstd data"),
    "lz4": (bytes.fromhex("04224d18 6440a7"), "LZ4 data"),
    "zip": (zipped(), "a zip archive"),
    "tar": (tar(), "a tar archive"),
    "cpio": (b"070701" + b"0" * 104, "give the kernel, and this by --initrd"),
    "ar": (b"!<arch>\nmain.o/ ", "link it into an executable"),
    "iso": (at(0x8000, b"\x01CD001\x01", 0x9000), "ISO 9660 image (a CD) without an El Torito boot record"),
    "qcow2": (b"QFI\xfb\0\0\0\3".ljust(1024, b"\0"), "the format qcow2: give it by --disk"),
    "vmdk": (b"KDMV\1\0\0\0".ljust(1024, b"\0"), "VMDK"),
    "vmdk text": (b"# Disk DescriptorFile\nversion=1\n", "VMDK"),
    "vdi": (at(0x40, bytes.fromhex("7f10dabe")), "VDI"),
    "vhd": (b"conectix".ljust(1024, b"\0"), "VHD"),
    "fixed vhd": (bytes(4096) + b"conectix".ljust(512, b"\0"), "VHD"),
    "vhdx": (b"vhdxfile".ljust(1024, b"\0"), "VHDX"),
    "uefi": (at(40, b"_FVH"), "give it by --firmware"),
    "bios": (at(0xFFF0, bytes.fromhex("ea5be000f0"), 0x10000), "it is a BIOS: give it by --firmware"),
    "pe": (at(0x3C, b"\x80\0\0\0").replace(b"\0\0", b"MZ", 1)[:0x80] + b"PE\0\0\x64\x86", "UEFI or Windows (PE)"),
    "mach-o": (bytes.fromhex("cffaedfe 07000001"), "Mach-O"),
    "arm64": (at(56, b"ARM\x64"), "AArch64"),
    "png": (b"\x89PNG\r\n\x1a\n", "picture (PNG)"),
    "shared library": (patch(elf([Part(0, CODE)], 0, file_type=3), 64 + 8, 8, 0), "it has no entry point"),
    "linux program": (
        elf([Part(0x100000, CODE), Part(0, b"\4\0\0\0\x10\0\0\0\1\0\0\0GNU\0" + bytes(16), type=4)], 0x100000),
        "a program for Linux, not a kernel",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_it_is_named_and_not_run(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, words = FOREIGN[kind]
    for options in (Options(), Options(mode=32)) if image[:4] != b"\x7fELF" else (Options(),):
        with pytest.raises(ImageError) as caught:  # from Python, too
            choose(image, options)
        assert words in str(caught.value)
    path = tmp_path / "os.bin"
    path.write_bytes(image)
    assert invoke(["disasm", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


@pytest.mark.parametrize("kind", FOREIGN)
def test_it_is_taken_as_the_format_that_is_asked_for(kind: str) -> None:
    assert choose(FOREIGN[kind][0], Options(), "flat") == "flat"


TEXT = [
    b"int main(void)\n{\n\treturn 0;\n}\n",
    b"all:\n\tgcc -c kernel.c\r\n",
    "# Größe: 4 €\n".encode(),
    b"\xff\xfeh\0i\0",
    b"x" * (TEXT_LOOKED_AT - 1) + "€".encode(),  # a character across the end of what is looked at
]


@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("name", ["kernel.c", "Makefile", "boot.S", "notes.txt"])
def test_text_in_a_file_is_not_code(text: bytes, name: str) -> None:
    with pytest.raises(ImageError, match="it is text, not code"):
        recognise(text, name)


@pytest.mark.parametrize("name", ["boot.bin", "OS.IMG", "x.com", "a.raw", None])
def test_text_may_be_code_if_its_name_says_so_or_it_has_none(name: str | None) -> None:
    assert recognise(TEXT[0], name) == "flat"


@pytest.mark.parametrize(
    "code",
    [
        CODE,
        b"\xeb\xfe",
        b"hello\0",
        b"hello \xc3",  # UTF-8 that is cut, though the file ends here
        b"MZ" + bytes(100),  # a DOS program's two letters are instructions, too
        b"MZ".ljust(0x3C, b"\0") + b"\xff\xff\xff\xff" + bytes(100),
        b"\x1f\x8b" + bytes(10),
        bytes(0x10000),
        b"",
    ],
)
@pytest.mark.parametrize("name", ["kernel", "kernel.out", None])
def test_binary_content_is_taken_for_code(code: bytes, name: str | None) -> None:
    assert recognise(code, name) == "flat"


@pytest.mark.parametrize("name", ["os.iso", "OS.ISO", "disk.qcow2", "kernel.elf", "kernel.gz"])
def test_what_is_something_else_than_its_name_says_is_not_code(name: str) -> None:
    with pytest.raises(ImageError, match="by its name it is .*, but not by its content"):
        choose(bytes(4096), Options(), None, name)
    assert choose(bytes(4096), Options(), "flat", name) == "flat"


def test_a_cd_that_starts_from_a_disk_is_a_disk() -> None:
    """As grub-mkrescue and isohybrid make them."""
    image = bytearray(FOREIGN["iso"][0])
    image[0x1FE:0x200] = b"\x55\xaa"
    assert recognise(bytes(image)) == "disk"


MAGIC = st.sampled_from([image[:0x200] for image, _ in FOREIGN.values()])


@given(st.binary(max_size=300) | MAGIC, st.binary(max_size=300), st.none() | st.text(max_size=12))
def test_any_bytes_are_recognised_or_refused_in_a_sentence(first: bytes, rest: bytes, name: str | None) -> None:
    try:
        assert recognise(first + rest, name)
    except ImageError as error:
        assert "\n" not in str(error).replace(name or "FILE", "")  # noqa: PT017  # most inputs raise nothing
