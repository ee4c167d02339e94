"""The ACPI tables, found and read as an operating system does, and judged by Intel's disassembler."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykvm.boot import acpi, asl, dsdt, firmware
from pykvm.errors import ConfigError
from pykvm.memory import GuestMemory


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    ram = GuestMemory("2M")
    yield ram
    ram.close()


def find_rsdp(memory: GuestMemory) -> int:
    """As ACPI 6.5, 5.2.5.1 says: 16-byte aligned, in the EBDA's first KiB or from 0xE0000 to 0xFFFFF."""
    ebda = memory.read_int(0x40E, 2) << 4
    for at in (*range(ebda, ebda + 1024, 16), *range(0xE0000, 0x100000, 16)):
        if memory.read(at, 8) == b"RSD PTR " and sum(memory.read(at, 20)) % 256 == 0:
            return at
    raise LookupError("there is no RSDP")


def table(memory: GuestMemory, address: int, signature: bytes) -> bytes:
    """The table at `address`, its signature, length and checksum checked."""
    data = memory.read(address, memory.read_int(address + 4, 4))
    assert data[:4] == signature
    assert sum(data) % 256 == 0
    assert data[10:16] == b"PYKVM "
    return data


def root_tables(memory: GuestMemory) -> dict[bytes, int]:
    """Addresses of the tables by signature; RSDT and XSDT agree."""
    rsdp = find_rsdp(memory)
    data = memory.read(rsdp, 36)
    assert data[15] == 2
    assert sum(data) % 256 == 0
    rsdt_at, length, xsdt_at = struct.unpack_from("<IIQ", data, 16)
    assert length == 36
    rsdt, xsdt = table(memory, rsdt_at, b"RSDT"), table(memory, xsdt_at, b"XSDT")
    addresses = [address for (address,) in struct.iter_unpack("<Q", xsdt[36:])]
    assert [address for (address,) in struct.iter_unpack("<I", rsdt[36:])] == addresses
    return {memory.read(address, 4): address for address in addresses}


def test_rsdp_is_where_install_says(memory: GuestMemory) -> None:
    assert firmware.install(memory, 1) == find_rsdp(memory) == firmware.rsdp(memory)
    assert set(root_tables(memory)) == {b"FACP", b"APIC", b"HPET"}


def test_fadt_names_the_fixed_hardware(memory: GuestMemory) -> None:
    firmware.install(memory, 1)
    fadt = table(memory, root_tables(memory)[b"FACP"], b"FACP")
    assert (len(fadt), fadt[8]) == (244, 3)
    word, double = (lambda at: int.from_bytes(fadt[at : at + 2], "little")), (lambda at: fadt[at : at + 4])
    assert word(46) == 9  # SCI_INT
    assert double(48) == bytes(4)  # SMI_CMD: always in ACPI mode
    assert (double(56), double(64), double(76)) == (b"\0\6\0\0", b"\4\6\0\0", b"\x08\6\0\0")
    assert (fadt[88], fadt[89], fadt[91]) == (4, 2, 4)
    assert fadt[108] == 0x32  # the century's place in the CMOS
    assert word(109) == 0b11  # 8042 and legacy devices
    flags = int.from_bytes(double(112), "little")
    assert flags & 1 << 10  # RESET_REG_SUP
    assert not flags & 1 << 8  # a timer of 24 bits
    assert not flags & 1 << 4  # the power button is in the fixed registers
    assert fadt[116:129] == bytes.fromhex("01 08 00 01 f9 0c 00 00 00 00 00 00 06")
    assert fadt[148:160] == bytes.fromhex("01 20 00 02 00 06 00 00 00 00 00 00")
    assert fadt[172:184] == bytes.fromhex("01 10 00 02 04 06 00 00 00 00 00 00")
    assert fadt[208:220] == bytes.fromhex("01 20 00 03 08 06 00 00 00 00 00 00")


def test_the_dsdt_is_what_its_source_says() -> None:
    assert asl.dsdt().hex() == dsdt.DSDT.hex(), "put the left one into pykvm/boot/dsdt.py"


def test_facs_and_dsdt(memory: GuestMemory) -> None:
    firmware.install(memory, 1)
    fadt = table(memory, root_tables(memory)[b"FACP"], b"FACP")
    facs, dsdt = struct.unpack_from("<II", fadt, 36)
    assert facs % 64 == 0
    assert memory.read(facs, 8) == b"FACS" + (64).to_bytes(4, "little")
    assert struct.unpack_from("<Q", fadt, 140) == (dsdt,)
    # Name (_S5_, Package (4) {0, 0, 0, 0})
    assert b"\x08_S5_\x12\x06\x04\0\0\0\0" in table(memory, dsdt, b"DSDT")


def madt_entries(memory: GuestMemory) -> list[tuple[int, bytes]]:
    madt = table(memory, root_tables(memory)[b"APIC"], b"APIC")
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    entries, at = [], 44
    while at < len(madt):
        entries.append((madt[at], madt[at + 2 : at + madt[at + 1]]))
        at += madt[at + 1]
    assert at == len(madt)
    return entries


def test_madt_of_two_cpus(memory: GuestMemory) -> None:
    firmware.install(memory, 2)
    assert madt_entries(memory) == [
        (0, bytes.fromhex("00 00 01000000")),
        (0, bytes.fromhex("01 01 01000000")),
        (1, bytes.fromhex("00 00 0000c0fe 00000000")),
        (2, bytes.fromhex("00 00 02000000 0000")),
        (2, bytes.fromhex("00 09 09000000 0d00")),
        (4, bytes.fromhex("ff 0000 01")),
    ]


def test_cpus_beyond_8_bits_are_x2apics(memory: GuestMemory) -> None:
    firmware.install(memory, 300)
    entries = madt_entries(memory)
    assert sum(kind == 0 for kind, _ in entries) == 255
    x2apics = [data for kind, data in entries if kind == 9]
    assert len(x2apics) == 45
    assert x2apics[0] == struct.pack("<HIII", 0, 255, 1, 255)
    assert entries[-1] == (10, bytes.fromhex("0000 ffffffff 01 000000"))


def test_more_cpus_than_there_is_room_for(memory: GuestMemory) -> None:
    with pytest.raises(ConfigError, match="100000 CPUs are more than"):
        firmware.install(memory, 100000)
    assert memory.committed() == 0


def test_small_machine_has_no_tables() -> None:
    ram = GuestMemory("1020K")
    assert firmware.install(ram, 1) == firmware.rsdp(ram) == 0
    assert ram.committed() == 0
    ram.close()


def test_nothing_is_written_into_the_bios_s_code_or_video_memory(memory: GuestMemory) -> None:
    for cpus in (1, 255, 1024):
        firmware.install(memory, cpus)
    assert not any(memory.read(0xA0000, 0x40000))
    assert not any(memory.read(0xFE000, 0x102000))


@pytest.mark.skipif(shutil.which("iasl") is None, reason="needs iasl (Debian: apt-get install acpica-tools)")
@pytest.mark.parametrize("signature", [b"DSDT", b"FACP", b"APIC", b"RSDT", b"XSDT", b"FACS"])
def test_disassembler_accepts_the_table(tmp_path: Path, signature: bytes) -> None:
    data = acpi.tables(0xE0000, 3)
    at = data.index(signature)
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    name = signature.decode().lower()
    (tmp_path / f"{name}.aml").write_bytes(data[at : at + size])
    done = subprocess.run(
        ["iasl", "-d", f"{name}.aml"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    for complaint in ("Error", "Warning", "Invalid", "Incorrect"):
        assert complaint not in done.stdout + done.stderr
    source = (tmp_path / f"{name}.dsl").read_text()
    assert "Invalid" not in source
    assert "Unknown" not in source
    if signature == b"DSDT":
        assert 'EisaId ("PNP0501") /* 16550A-compatible COM Serial Port */' in source
        # What was disassembled can be compiled again: the AML is whole.
        subprocess.run(["iasl", f"{name}.dsl"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, check=True)
