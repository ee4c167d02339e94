"""Memory-mapped accesses that KVM cuts in two: what a device sees of one that straddles a page."""

from __future__ import annotations

import pytest
from helpers import LIMIT, flat, hexcode

from pykvm import Device, Ending, Range

BASE = 0xD0000000
BYTES = bytes(range(0x11, 0x99, 0x11))


class Probe(Device):
    """Two pages of bytes, which keep every access to them."""

    name = "probe"

    def __init__(self, width: int) -> None:
        self.mmio = (Range(BASE, 0x2000),)
        self.width = width
        self.content = bytearray(0x2000)
        self.seen: list[tuple[int, int, bool]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size, False))
        return int.from_bytes(self.content[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, True))
        self.content[offset : offset + size] = value.to_bytes(size, "little")


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("start", range(0xFF9, 0x1000))
def test_an_access_over_the_end_of_a_page_comes_in_sizes_of_the_contract(width: int, start: int) -> None:
    """Each byte once, as KVM cuts an access of 8 bytes into 1 to 7 and the rest."""
    code = hexcode(
        f"""
        bb {(BASE + start).to_bytes(4, "little").hex(" ")}  ; mov ebx, BASE + start
        48 b8 {BYTES.hex(" ")}                              ; mov rax, BYTES
        48 89 03                                            ; mov [rbx], rax
        31 c0                                               ; xor eax, eax
        48 8b 03                                            ; mov rax, [rbx]
        48 a3 00 00 20 00 00 00 00 00                       ; mov [0x200000], rax
        e7 f4                                               ; out 0xf4, eax
        """
    )
    with flat(code) as machine:
        probe = Probe(width)
        machine.add(probe)
        assert machine.run(LIMIT).ending is Ending.EXITED
        assert machine.memory.read(0x200000, 8) == BYTES
    assert probe.content[start : start + 8] == BYTES
    for is_write in (True, False):
        seen = [(offset, size) for offset, size, wrote in probe.seen if wrote is is_write]
        assert all(size in (1, 2, 4, 8) and size <= width for _, size in seen)
        assert sorted(at for offset, size in seen for at in range(offset, offset + size)) == [*range(start, start + 8)]
