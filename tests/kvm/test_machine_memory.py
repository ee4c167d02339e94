"""RAM as the guest and the host see it: what it costs, where it continues above 3 GiB, and linear addresses."""

from __future__ import annotations

import struct

import pytest
from helpers import HALT, LIMIT, SPIN, flat, hexcode

from pykvm import Ending, GuestMemoryError, Machine

GIB, MIB = 1 << 30, 1 << 20


def test_untouched_ram_costs_nothing() -> None:
    # mov edi, 16 MiB; mov ecx, 1 MiB / 8; mov eax, 1; rep stosq
    code = hexcode("bf 00 00 00 01\n b9 00 00 02 00\n b8 01 00 00 00\n fc\n f3 48 ab")
    with flat(code + HALT, memory="16G") as machine:
        before = machine.memory.committed()
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert machine.memory.read_int(17 * MIB - 8, 8) == 1
        touched = machine.memory.committed() - before
        assert MIB <= touched < 2 * MIB
        assert before < MIB


def _map_above_4_gib(machine: Machine) -> None:
    """Add the 2 MiB page at 4 GiB to the identity map (SDM volume 3A, 4.5): the PDPT's entry 4 gets a directory."""
    memory = machine.memory
    pml4 = machine.vcpus[0].get_system_registers().cr3
    pdpt = memory.read_int(pml4, 8) & 0x000FFFFFFFFFF000
    directory = 0x300000
    assert memory.read_int(pdpt + 4 * 8, 8) & 1 == 0
    memory.write_int(directory, 8, 4 * GIB | 0x83)  # present, writable, 2 MiB
    memory.write_int(pdpt + 4 * 8, 8, directory | 3)


def test_ram_above_3_gib_continues_at_4_gib() -> None:
    code = hexcode(
        """
        48 bb f8 ff ff bf 00 00 00 00 ; mov rbx, 3 GiB - 8
        48 8b 03                      ; mov rax, [rbx]
        48 83 c0 01                   ; add rax, 1
        48 89 03                      ; mov [rbx], rax
        48 8b 4b 08                   ; mov rcx, [rbx + 8]: the hole
        48 89 0c 25 00 00 20 00       ; mov [0x200000], rcx
        48 bb 10 00 00 00 01 00 00 00 ; mov rbx, 4 GiB + 16
        48 8b 03                      ; mov rax, [rbx]
        48 83 c0 01                   ; add rax, 1
        48 89 03                      ; mov [rbx], rax
        """
    )
    with flat(code + HALT, memory="5G") as machine:
        memory = machine.memory
        _map_above_4_gib(machine)
        memory.write_int(3 * GIB - 8, 8, 0x1111111111111111)
        memory.write_int(4 * GIB + 16, 8, 0x2222222222222222)
        assert machine.run(LIMIT).ending is Ending.HALTED
        assert memory.read_int(3 * GIB - 8, 8) == 0x1111111111111112
        assert memory.read_int(4 * GIB + 16, 8) == 0x2222222222222223
        assert memory.read_int(0x200000, 8) == 0xFFFFFFFFFFFFFFFF
        assert machine.mmio.unclaimed == {3 * GIB: 1}
        assert memory.read(6 * GIB - 8, 8) == bytes(8)
        for gpa, size in ((3 * GIB - 4, 8), (3 * GIB, 1), (4 * GIB - 1, 1), (6 * GIB, 1), (6 * GIB - 4, 8)):
            with pytest.raises(GuestMemoryError):
                memory.read(gpa, size)


def test_guest_stores_are_seen_by_the_host_and_back() -> None:
    # mov al, [0x200000]; inc al; mov [0x200001], al
    code = hexcode("8a 04 25 00 00 20 00\n fe c0\n 88 04 25 01 00 20 00")
    with flat(code + HALT) as machine:
        machine.memory.write(0x200000, b"\x41")
        machine.run(LIMIT)
        assert machine.memory.read(0x200000, 2) == b"AB"


def test_the_guest_starts_with_ram_of_zeros() -> None:
    # mov edi, 2 MiB; mov ecx, 1 MiB / 8; xor eax, eax; repe scasq; setne al; out 0xf4, al
    code = hexcode("bf 00 00 20 00\n b9 00 00 02 00\n 31 c0\n fc\n f3 48 af\n 0f 95 c0\n e6 f4")
    with flat(code + SPIN) as machine:
        assert machine.run(LIMIT).value == 0


def test_linear_addresses_are_read_through_the_guests_page_tables() -> None:
    with flat(HALT, memory="5G") as machine:
        _map_above_4_gib(machine)
        machine.memory.write(4 * GIB, b"above")
        machine.memory.write(0x1FFFFE, b"ab" + b"cd")
        assert machine.read_linear(4 * GIB, 5) == b"above"
        assert machine.read_linear(0x1FFFFE, 4) == b"abcd"  # across a page's border
        assert machine.read_linear(0x100000, 2) == HALT


def test_linear_addresses_that_are_not_mapped_give_what_there_is() -> None:
    with flat(HALT) as machine:
        assert machine.read_linear(1 << 46, 16) == b""
        assert machine.read_linear(1 << 63, 16) == b""
        assert machine.read_linear((1 << 64) - 8, 16) == b""
        end = machine.memory.size
        machine.memory.write(end - 4, struct.pack("<I", 0x12345678))
        assert machine.read_linear(end - 4, 16) == b"\x78\x56\x34\x12"
