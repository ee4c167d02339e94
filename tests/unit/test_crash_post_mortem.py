"""What a CPU of a guest that has come to its end reads: RAM, and the firmware's ROM."""

from __future__ import annotations

import pytest

from pykvm.boot.rom import Rom
from pykvm.crash.post_mortem import PostMortem
from pykvm.memory import GuestMemory, GuestMemoryError


def test_rom_can_be_read_and_executed() -> None:
    memory = GuestMemory("4M")
    rom = Rom(bytes(0xFFF0) + b"\xeb\xfe" + bytes(14))
    end = PostMortem(None, [], memory, [], None, [], rom)  # type: ignore[arg-type]  # there is no VM
    try:
        memory.write(0x1000, b"RAM")
        assert end.read(0x1000, 3) == b"RAM"
        assert end.read(0xFFFFFFF0, 2) == b"\xeb\xfe"
        for gpa, size in ((0xFFFFFFF0, 17), (0xFFFEFFFF, 2), (0x400000, 1)):
            with pytest.raises(GuestMemoryError):
                end.read(gpa, size)
    finally:
        memory.close()
        rom.close()
