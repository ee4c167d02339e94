"""The remote protocol's framing, against the examples and rules of the manual (appendix E.1)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pykvm.debug.gdb.packets import MAX_PAYLOAD, Decoder, Mark, Packet, encode


def decode(*pieces: bytes) -> list[Packet | Mark]:
    decoder = Decoder()
    return [item for piece in pieces for item in decoder.feed(piece)]


def test_checksums() -> None:
    # The sum of the payload modulo 256, as two digits: 'g' is 0x67, 'O' + 'K' is 0x4f + 0x4b.
    assert encode(b"g") == b"$g#67"
    assert encode(b"OK") == b"$OK#9a"
    assert encode(b"") == b"$#00"
    assert decode(b"$g#67$OK#9a$#00") == [Packet(b"g", True), Packet(b"OK", True), Packet(b"", True)]
    assert decode(b"$OK#9A") == [Packet(b"OK", True)]


def test_wrong_checksums() -> None:
    for wrong in (b"$g#66", b"$g#zz", b"$g#-1", b"$g# 7"):
        assert decode(wrong) == [Packet(b"g", False)]


def test_marks() -> None:
    assert decode(b"+-\x03") == [Mark.ACK, Mark.NAK, Mark.INTERRUPT]
    # Inside a packet these are data; the bytes between packets that mean nothing are skipped.
    assert decode(b"\n$+-\x03#5b\r+") == [Packet(b"+-\x03", True), Mark.ACK]


def test_escapes() -> None:
    # 0x7d, then the byte exclusive-or 0x20: '#' 0x23 is 0x03, '$' 0x24 is 0x04, '}' 0x7d is 0x5d, '*' 0x2a is 0x0a.
    assert encode(b"#$}*") == b"$}\x03}\x04}\x5d}\x0a#" + b"%02x" % ((4 * 0x7D + 3 + 4 + 0x5D + 10) & 0xFF)
    assert decode(encode(b"#$}*")) == [Packet(b"#$}*", True)]


def test_a_packet_that_begins_inside_another_takes_its_place() -> None:
    assert decode(b"$half$g#67") == [Packet(b"g", True)]


def test_a_packet_that_is_too_long_is_bad_and_the_next_is_not() -> None:
    long = b"A" * (2 * MAX_PAYLOAD + 1)
    packets = decode(b"$" + long + b"AAAA#%02x" % (0x41 * (len(long) + 4) & 0xFF), b"$g#67")
    assert [getattr(packet, "good", None) for packet in packets] == [False, True]


@given(st.binary(max_size=200))
def test_payloads_come_back(payload: bytes) -> None:
    assert decode(encode(payload)) == [Packet(payload, True)]


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_in_any_pieces(data: bytes, cut: int) -> None:
    assert decode(data[:cut], data[cut:]) == decode(data)
    # Whatever came before, a whole packet behind it arrives.
    assert decode(data, b"#00$g#67")[-1] == Packet(b"g", True)
