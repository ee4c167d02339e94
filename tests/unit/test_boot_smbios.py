"""The SMBIOS tables, as Debian's dmidecode reads them."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from debian import package

from pykvm.boot import firmware, smbios
from pykvm.memory import GuestMemory

BASE = 0xF0000


def test_entry_points_are_found_and_sum_up() -> None:
    memory = GuestMemory("64M")
    firmware.install(memory, 1)
    area = memory.read(BASE, 0x10000)
    places = [at for at in range(0, len(area), 16) if area[at:].startswith((b"_SM_", b"_SM3_"))]
    assert places == [0, 0x20]
    assert (area[:0x1F][5], sum(area[:0x1F]) & 0xFF, sum(area[0x10:0x1F]) & 0xFF) == (0x1F, 0, 0)
    assert (area[0x26], sum(area[0x20:0x38]) & 0xFF) == (0x18, 0)
    size, at, count = struct.unpack_from("<HIH", area, 0x16)
    assert struct.unpack_from("<IQ", area, 0x2C) == (size, at)
    table, found, largest = memory.read(at, size), [], 0
    while table:
        end = table.index(b"\0\0", table[1]) + 2
        found.append(table[0])
        largest = max(largest, end)
        table = table[end:]
    assert (found, len(found)) == ([0, 1, 3, 4, 127], count)
    assert struct.unpack_from("<H", area, 8) == (largest,)


@pytest.mark.parametrize("cpus", [1, 300])
def test_dmidecode_reads_them(tmp_path: Path, cpus: int) -> None:
    dump = tmp_path / "dump"
    content = smbios.tables(BASE, cpus)
    # As dmidecode dumps it: the entry point, and the structures at 0x20.
    entry = bytearray(content[:0x1F])
    struct.pack_into("<I", entry, 0x18, 0x20)
    for first, checksum in ((0x10, 0x15), (0, 4)):
        entry[checksum] = 0
        entry[checksum] = -sum(entry[first:]) & 0xFF
    dump.write_bytes(bytes(entry).ljust(0x20, b"\0") + content[smbios.TABLE :])
    dmidecode = package("dmidecode") / "usr/sbin/dmidecode"
    done = subprocess.run([dmidecode, "--from-dump", dump], capture_output=True, text=True, check=True)
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert not [line for line in lines if "OUT OF SPEC" in line or "truncated" in line or "Wrong" in line], lines
    assert "SMBIOS 2.8 present." in lines
    for line in ("Manufacturer: pykvm", "Product Name: PC", "System is a virtual machine"):
        assert line in lines, done.stdout
    assert f"Core Count: {min(cpus, 255)}" in lines
