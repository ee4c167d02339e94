"""Descriptors, gates and task-state segments decoded: values worked out by hand from the SDM's figures."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.x86.registers import Table
from pykvm.x86.tables import (
    Gate,
    ReservedDescriptor,
    SegmentDescriptor,
    SystemSegment,
    decode,
    decode_tss,
    is_canonical,
    open_ports,
    read_idt,
    read_segments,
    read_vectors,
)


def raw(text: str) -> bytes:
    """Bytes as a dump has them: lowest address first."""
    return bytes.fromhex(text)


def memory(content: bytes, base: int = 0x1000):
    """Linear memory that has `content` at `base`, and nothing elsewhere."""

    def read(address: int, size: int) -> bytes:
        start = address - base
        return content[start : start + size] if 0 <= start < len(content) else b""

    return read


# Segments (SDM volume 3A, figure 3-8)


def test_the_flat_code_segment_that_every_kernel_has() -> None:
    found = decode(raw("ff ff 00 00 00 9a cf 00"))
    assert found == SegmentDescriptor(
        0, 0xFFFFFFFF, 0xA, 0, present=True, avl=False, l=False, db=True, g=True
    )  # fmt: skip
    assert found.is_code
    assert found.problem is None
    assert str(found) == "32-bit code, execute/read, DPL 0, base 0x0, limit 0xffffffff"


def test_base_and_limit_come_from_all_their_places() -> None:
    # limit 0xabcde in bytes, base 0x12345678, data read/write, DPL 3, 16 bits
    found = decode(raw("de bc 78 56 34 f2 0a 12"))
    assert isinstance(found, SegmentDescriptor)
    assert (found.base, found.limit, found.dpl, found.bits) == (0x12345678, 0xABCDE, 3, 16)
    assert str(found) == "16-bit data, read/write, DPL 3, base 0x12345678, limit 0xabcde"


def test_what_code_and_data_bits_say() -> None:
    assert "expand-down" in str(decode(raw("00 00 00 00 00 96 40 00")))
    assert "conforming" in str(decode(raw("00 00 00 00 00 9e 40 00")))
    assert "read-only, accessed" in str(decode(raw("00 00 00 00 00 91 40 00")))
    assert "execute-only" in str(decode(raw("00 00 00 00 00 98 40 00")))
    assert str(decode(raw("00 00 00 00 00 9b 20 00"), True)).startswith("64-bit code, execute/read, accessed")


def test_what_the_cpu_would_refuse() -> None:
    assert decode(raw("ff ff 00 00 00 1a cf 00")).problem == "not present"
    assert decode(raw("ff ff 00 00 00 9a ef 00")).problem == "L and D are both set"


# System descriptors (SDM volume 3A, table 3-2 and figure 7-4)


def test_a_tss_of_32_bits() -> None:
    found = decode(raw("67 00 00 20 10 89 00 00"))
    assert found == SystemSegment("TSS", 32, False, 0x102000, 0x67, 0, True)
    assert found.problem is None
    assert decode(raw("66 00 00 20 10 8b 00 00")).problem == "the limit is less than 0x67"
    assert "busy" in str(decode(raw("67 00 00 20 10 8b 00 00")))


def test_a_tss_of_64_bits_takes_16_bytes() -> None:
    found = decode(raw("67 00 00 20 10 89 00 00  80 ff ff ff 00 00 00 00"), True)
    assert isinstance(found, SystemSegment)
    assert (found.bits, found.base) == (64, 0xFFFFFF8000102000)
    assert found.problem is None
    assert "reserved bits" in (decode(raw("67 00 00 20 10 89 00 00  80 ff ff ff 00 1f 00 00"), True).problem or "")
    assert decode(raw("67 00 00 20 10 89 00 00  00 00 80 00 00 00 00 00"), True).problem == "the base is not canonical"


def test_an_ldt() -> None:
    found = decode(raw("0f 00 00 30 00 82 00 00"))
    assert isinstance(found, SystemSegment)
    assert str(found) == "LDT, DPL 0, base 0x3000, limit 0xf"


@pytest.mark.parametrize("kind", [0, 1, 3, 4, 5, 6, 7, 8, 10, 13])
def test_types_that_long_mode_has_not(kind: int) -> None:
    found = decode(bytes((0, 0, 0, 0, 0, 0x80 | kind, 0, 0)), True)
    assert found == ReservedDescriptor(kind, 0, True)
    assert "reserved" in (found.problem or "")


# Gates (SDM volume 3A, figures 6-2 and 6-8)


def test_gates() -> None:
    assert decode(raw("78 56 08 00 00 8e 34 12")) == Gate("interrupt", 32, 8, 0x12345678, 0, True)
    assert decode(raw("78 56 08 00 00 ef 34 12")) == Gate("trap", 32, 8, 0x12345678, 3, True)
    assert decode(raw("00 00 28 00 00 85 00 00")) == Gate("task", 16, 0x28, 0, 0, True)
    assert decode(raw("34 12 08 00 05 ec 00 00")) == Gate("call", 32, 8, 0x1234, 3, True, parameters=5)
    assert decode(raw("34 12 08 00 00 86 ff ff")) == Gate("interrupt", 16, 8, 0x1234, 0, True)


def test_a_gate_of_64_bits() -> None:
    found = decode(raw("00 10 08 00 02 8e 20 80  ff ff ff ff 00 00 00 00"), True)
    assert found == Gate("interrupt", 64, 8, 0xFFFFFFFF80201000, 0, True, ist=2)
    assert str(found) == "64-bit interrupt gate to 0008:0xffffffff80201000, DPL 0, IST2"
    assert (
        decode(raw("00 10 08 00 00 8e 20 80  00 00 80 00 00 00 00 00"), True).problem == "the offset is not canonical"
    )
    assert decode(raw("00 10 00 00 00 8e 20 80")).problem == "the null selector"


# Tables


def test_a_gdt_of_long_mode() -> None:
    table = bytes(8) + raw("00 00 00 00 00 9a 20 00") + raw("67 00 00 20 10 8b 00 00  00 00 00 00 00 00 00 00")
    found = read_segments(memory(table), 0x1000, len(table) - 1, True)
    assert [(number, type(descriptor).__name__) for number, descriptor in found.entries] == [
        (0x08, "SegmentDescriptor"),
        (0x10, "SystemSegment"),
    ]
    assert found.problem is None


def test_a_table_that_ends_where_memory_ends() -> None:
    found = read_segments(memory(raw("ff ff 00 00 00 9a cf 00") * 2), 0x1000, 0xFFFF, False)
    assert len(found.entries) == 2
    assert found.problem == "0x1010..0x10fff cannot be read"
    nothing = read_idt(memory(b""), Table(0xDEAD0000, 0x7FF), False)
    assert nothing.entries == []
    assert nothing.problem == "0xdead0000..0xdead07ff cannot be read"


def test_an_idt_has_256_vectors_at_most() -> None:
    table = raw("78 56 08 00 00 8e 34 12") * 300
    found = read_idt(memory(table), Table(0x1000, len(table) - 1), False)
    assert len(found.entries) == 256
    assert found.size == 2048


def test_the_vectors_of_real_mode() -> None:
    found = read_vectors(memory(struct.pack("<HHHH", 0x1234, 0xF000, 0, 0x7C0) + b"\1"), Table(0x1000, 0x3FF))
    assert [str(pointer) for pointer in found.values()] == ["f000:1234", "07c0:0000"]
    assert found[1].linear == 0x7C00


# Task-state segments (SDM volume 3A, figures 7-2, 7-10 and 7-11)


def test_the_tss_of_64_bits() -> None:
    content = bytearray(104)
    struct.pack_into("<3Q", content, 4, 0x1000, 0x2000, 0x3000)
    struct.pack_into("<7Q", content, 36, *range(0x10, 0x80, 0x10))
    struct.pack_into("<H", content, 102, 0x68)
    found = decode_tss(bytes(content), 64)
    assert found is not None
    assert found.stacks == ((0, 0x1000), (0, 0x2000), (0, 0x3000))
    assert found.ist == (0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70)
    assert found.io_map == 0x68
    assert decode_tss(bytes(content[:-1]), 64) is None


def test_the_tss_of_32_bits() -> None:
    content = bytearray(104)
    struct.pack_into("<I", content, 0, 0x12340018)  # the upper half is reserved
    struct.pack_into("<IIIIII", content, 4, 0x9000, 0x10, 0x8000, 0x11, 0x7000, 0x12)
    struct.pack_into("<II", content, 28, 0xABC000, 0x100123)
    struct.pack_into("<I", content, 40, 0xEA)
    struct.pack_into("<I", content, 76, 0x1B)
    struct.pack_into("<H", content, 96, 0x28)
    struct.pack_into("<HH", content, 100, 1, 104)
    found = decode_tss(bytes(content), 32)
    assert found is not None
    assert found.link == 0x18
    assert found.stacks == ((0x10, 0x9000), (0x11, 0x8000), (0x12, 0x7000))
    saved = dict(found.saved)
    assert (saved["cr3"], saved["eip"], saved["eax"], saved["cs"], saved["ldt"]) == (
        0xABC000,
        0x100123,
        0xEA,
        0x1B,
        0x28,
    )
    assert found.io_map == 104


def test_the_tss_of_16_bits() -> None:
    words = [0x18, 0x9000, 0x10, 0, 0, 0, 0, 0x1234, 2, *range(1, 9), 0x20, 0x21, 0x22, 0x23, 0x28]
    found = decode_tss(struct.pack("<22H", *words), 16)
    assert found is not None
    assert found.stacks[0] == (0x10, 0x9000)
    saved = dict(found.saved)
    assert (saved["ip"], saved["ax"], saved["di"], saved["ds"], saved["ldt"]) == (0x1234, 1, 8, 0x23, 0x28)
    assert found.io_map is None


def test_no_other_tss() -> None:
    with pytest.raises(ValueError, match="not 8"):
        decode_tss(bytes(200), 8)


def test_ports_that_a_bitmap_opens() -> None:
    assert list(open_ports(b"\xff\xff")) == []
    assert list(open_ports(b"\xfe\x0f\xff")) == [(0, 0), (12, 15)]
    assert list(open_ports(bytes(0x2000) + b"more")) == [(0, 0xFFFF)]


def test_canonical() -> None:
    assert is_canonical(0x7FFFFFFFFFFF)
    assert not is_canonical(0x800000000000)
    assert is_canonical(0xFFFF800000000000)


# Anything at all


@given(st.binary(max_size=20), st.booleans())
def test_any_bytes_are_some_descriptor(data: bytes, long_mode: bool) -> None:
    found = decode(data, long_mode)
    assert str(found)
    assert found.problem is None or found.problem


@given(st.binary(max_size=300), st.integers(0, 1 << 64), st.integers(0, 0xFFFF), st.booleans())
def test_any_table_has_bounded_entries(data: bytes, base: int, limit: int, long_mode: bool) -> None:
    read = memory(data, base)
    segments = read_segments(read, base, limit, long_mode)
    assert len(segments.entries) <= len(data) // 8
    assert len(read_idt(read, Table(base, limit), long_mode).entries) <= 256
    assert len(read_vectors(read, Table(base, limit))) <= 256


@given(st.binary(max_size=120), st.sampled_from([16, 32, 64]))
def test_any_tss(data: bytes, bits: int) -> None:
    found = decode_tss(data, bits)
    assert (found is None) == (len(data) < {16: 44, 32: 104, 64: 104}[bits])
