"""The NE2000 against the DP8390D data sheet: transmission and reception."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ne2000_rig import (
    BNRY,
    BROADCAST,
    CNT,
    CNTR2,
    CR,
    FIFO,
    ISR,
    MAC,
    OTHER,
    OVW,
    PRX,
    PTX,
    RBCR0,
    RBCR1,
    RSR,
    RST,
    RXE,
    TBCR0,
    TBCR1,
    TCR,
    TPSR,
    TSR,
    Rig,
    bitwise_crc32,
    frame_to,
)

from pykvm.devices.dp8390_registers import frame_check_sequence, multicast_hash
from pykvm.devices.ne2000 import FRAMES_AT_ONCE
from pykvm.net.loopback import Loopback

# -- Transmission -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2])
def test_a_block_of_transmit_commands_sends_a_bounded_number(running_ne2000: Rig, size: int) -> None:
    frame = frame_to(OTHER)
    running_ne2000.transmit(frame)
    running_ne2000.outs(CR, bytes((0x26, 0x4C)[:size]) * 4096, size)
    assert running_ne2000.wire.sent == [frame] * (1 + FRAMES_AT_ONCE)
    running_ne2000.outs(CR, bytes((0x26, 0x4C)[:size]) * 3, size)
    assert len(running_ne2000.wire.sent) == 1 + FRAMES_AT_ONCE + 3


def test_transmit(running_ne2000: Rig) -> None:
    frame = frame_to(OTHER, 61, 0x5A)
    running_ne2000.transmit(frame)
    assert running_ne2000.wire.sent == [frame]
    assert running_ne2000.inb(CR) == 0x22  # TXP is gone
    assert running_ne2000.inb(TSR) == 0x01
    assert running_ne2000.inb(ISR) == PTX
    assert running_ne2000.irq.level


@pytest.mark.parametrize(("size", "sent"), [(0, 0), (13, 0), (14, 1), (1514, 1), (1515, 0), (0xFFFF, 0)])
def test_only_frames_reach_the_wire(running_ne2000: Rig, size: int, sent: int) -> None:
    running_ne2000.out((TPSR, 0xFE), (TBCR0, size & 0xFF), (TBCR1, size >> 8), (CR, 0x26))
    assert [len(frame) for frame in running_ne2000.wire.sent] == [size] * sent
    assert running_ne2000.inb(ISR) == PTX


def test_a_driver_may_bring_its_own_fcs(running_ne2000: Rig) -> None:
    # The FCS of 802.3 makes the CRC register's final value 0xDEBB20E3 (reflected), whatever the frame.
    frame = frame_to(OTHER)
    running_ne2000.outb(TCR, 0x01)
    running_ne2000.transmit(frame + bitwise_crc32(frame).to_bytes(4, "little"))
    running_ne2000.transmit(frame + b"\0\0\0\0")
    assert running_ne2000.wire.sent == [frame]


@pytest.mark.parametrize(("mode", "tsr"), [(1, 0x53), (2, 0x43), (3, 0x03)])
def test_loopback(running_ne2000: Rig, mode: int, tsr: int) -> None:
    running_ne2000.outb(TCR, mode << 1)
    running_ne2000.inb(FIFO)
    frame = frame_to(MAC, 69) + b"\x11\x22\x33\x44"  # 8 * 9 + 5 bytes with the FCS: the FIFO ends with the length
    fcs = bitwise_crc32(frame).to_bytes(4, "little")
    running_ne2000.transmit(frame)
    running_ne2000.wire.arrive(frame_to(MAC))
    assert running_ne2000.wire.sent == []
    assert running_ne2000.inb(TSR) == tsr
    assert running_ne2000.inb(RSR) == 0x02
    assert running_ne2000.inb(ISR) == PTX
    assert bytes(running_ne2000.inb(FIFO) for _ in range(8)) == b"\x44" + fcs + b"\x4d\x00\x00"
    assert running_ne2000.receive() == []


@pytest.mark.parametrize(
    ("destination", "good", "rsr"),
    [(MAC, True, 0x01), (MAC, False, 0x02), (OTHER, False, 0x01), (BROADCAST, True, 0x21), (BROADCAST, False, 0x22)],
)
def test_loopback_checks_address_and_crc(running_ne2000: Rig, destination: bytes, good: bool, rsr: int) -> None:
    running_ne2000.outb(TCR, 0x03)
    frame = frame_to(destination)
    running_ne2000.transmit(frame + (bitwise_crc32(frame) ^ (not good)).to_bytes(4, "little"))
    assert running_ne2000.inb(RSR) == rsr


def test_a_backend_may_answer_from_within_send() -> None:
    ne2000 = Rig(Loopback())
    ne2000.start()
    frame = frame_to(MAC, 100, 7)
    ne2000.transmit(frame)
    assert ne2000.inb(ISR) == PTX | PRX
    assert ne2000.receive() == [frame]


# -- Reception --------------------------------------------------------------------------------------------------------


def bitwise_hash(address: bytes) -> int:
    """ether_crc() >> 26 of Linux: most significant bit first, each byte least significant bit first, no inversion."""
    crc = 0xFFFFFFFF
    for byte in address:
        for bit in range(8):
            feedback = (crc >> 31 ^ byte >> bit) & 1
            crc = (crc << 1 ^ (0x04C11DB7 if feedback else 0)) & 0xFFFFFFFF
    return crc >> 26


def test_crc_of_the_usual_check_string() -> None:
    assert frame_check_sequence(b"123456789") == bytes.fromhex("2639f4cb")
    assert bitwise_crc32(b"123456789") == 0xCBF43926


@given(st.binary(min_size=6, max_size=6))
def test_multicast_hash(address: bytes) -> None:
    assert multicast_hash(address) == bitwise_hash(address)


def test_what_a_frame_looks_like_in_the_ring(running_ne2000: Rig) -> None:
    frame = frame_to(MAC, 300, 0x33)
    running_ne2000.wire.arrive(frame)
    assert running_ne2000.inb(ISR) == PRX
    assert running_ne2000.current() == 0x4E  # 4 + 300 + 4 bytes: two pages
    assert running_ne2000.dma_read(0x4C00, 4) == bytes((0x01, 0x4E, 304 & 0xFF, 304 >> 8))
    assert running_ne2000.dma_read(0x4C04, 304) == frame + bitwise_crc32(frame).to_bytes(4, "little")


@pytest.mark.parametrize(("size", "pages"), [(60, 1), (248, 1), (249, 2), (504, 2), (505, 3), (1514, 6)])
def test_pages_of_a_frame(running_ne2000: Rig, size: int, pages: int) -> None:
    running_ne2000.wire.arrive(frame_to(MAC, size))
    assert running_ne2000.current() == 0x4C + pages


def test_short_frames_are_padded_and_what_is_no_frame_is_not_seen(running_ne2000: Rig) -> None:
    running_ne2000.wire.arrive(frame_to(MAC, 14))
    running_ne2000.wire.arrive(MAC + OTHER + b"\x08")
    running_ne2000.wire.arrive(frame_to(MAC, 1515))
    running_ne2000.wire.arrive(b"")
    assert running_ne2000.receive() == [frame_to(MAC, 60)]


AB, AM, PRO = 0x04, 0x08, 0x10
GROUP = bytes.fromhex("01005e000001")


@pytest.mark.parametrize(
    ("rcr", "destination", "accepted"),
    [
        (0, MAC, True),
        (0, OTHER, False),
        (0, BROADCAST, False),
        (0, GROUP, False),
        (AB, BROADCAST, True),
        (AB, GROUP, False),
        (AM, GROUP, True),
        (AM, bytes.fromhex("01005e000002"), False),
        (PRO, OTHER, True),
        (PRO, GROUP, False),
        (PRO, BROADCAST, False),
        (AB | AM | PRO, OTHER, True),
    ],
)
def test_receive_filter(ne2000: Rig, rcr: int, destination: bytes, accepted: bool) -> None:
    ne2000.start(rcr)
    bit = bitwise_hash(GROUP)
    ne2000.out((CR, 0x62), (8 + (bit >> 3), 1 << (bit & 7)), (CR, 0x22))
    ne2000.wire.arrive(frame_to(destination))
    assert ne2000.receive() == [frame_to(destination)] * accepted
    if accepted:
        assert ne2000.inb(RSR) == (0x21 if destination[0] & 1 else 0x01)


def test_monitor_mode_counts_and_buffers_nothing(ne2000: Rig) -> None:
    ne2000.start(0x24)
    for _ in range(127):
        ne2000.wire.arrive(frame_to(MAC))
    ne2000.wire.arrive(frame_to(OTHER))
    assert ne2000.inb(RSR) == 0x50  # DIS and MPA
    assert not ne2000.inb(ISR) & CNT
    ne2000.wire.arrive(frame_to(MAC))
    assert ne2000.inb(ISR) & CNT
    assert ne2000.inb(CNTR2) == 128
    assert ne2000.inb(CNTR2) == 0
    for _ in range(300):
        ne2000.wire.arrive(frame_to(MAC))
    assert ne2000.inb(CNTR2) == 192
    assert ne2000.receive() == []


def test_overflow_and_the_recovery_of_the_data_sheet(running_ne2000: Rig) -> None:
    frames = [frame_to(MAC, 1514, number) for number in range(9)]
    for frame in frames:
        running_ne2000.wire.arrive(frame)
    assert running_ne2000.inb(ISR) == PRX | RXE | OVW | RST
    assert running_ne2000.inb(RSR) == 0x11  # the last good frame's, and MPA
    assert running_ne2000.inb(CNTR2) == 1
    # 51 pages from 0x4C to BNRY = 0x7F, 6 a frame: 8 fit, the ninth would end at 0x82.
    assert running_ne2000.current() == 0x7C

    # ei_rx_overrun of Linux.
    assert not running_ne2000.inb(CR) & 0x04
    running_ne2000.outb(CR, 0x21)
    running_ne2000.out((RBCR0, 0), (RBCR1, 0), (TCR, 0x02), (CR, 0x22))
    assert running_ne2000.receive() == frames[:8]
    running_ne2000.out((ISR, OVW), (TCR, 0x00))
    assert running_ne2000.inb(ISR) == 0
    assert not running_ne2000.irq.level
    running_ne2000.wire.arrive(frames[8])
    assert running_ne2000.receive() == [frames[8]]


@pytest.mark.parametrize(("size", "fits"), [(504, True), (505, False)])
def test_the_last_page_before_the_boundary_stays_free(running_ne2000: Rig, size: int, fits: bool) -> None:
    for _ in range(8):
        running_ne2000.wire.arrive(frame_to(MAC, 1514))
    running_ne2000.wire.arrive(frame_to(MAC, size))  # 2 or 3 pages where 3 are left
    assert running_ne2000.inb(ISR) & OVW == (0 if fits else OVW)


def test_once_around_the_ring(running_ne2000: Rig) -> None:
    for number in range(110):
        assert running_ne2000.current() == 0x4C + number % 52
        running_ne2000.wire.arrive(frame_to(MAC, 60, number))
        assert running_ne2000.receive() == [frame_to(MAC, 60, number)]


def test_removing_a_packet_takes_back_the_reset_bit_of_an_overflow(running_ne2000: Rig) -> None:
    while not running_ne2000.inb(ISR) & OVW:
        running_ne2000.wire.arrive(frame_to(MAC, 1514))
    assert running_ne2000.inb(ISR) & RST
    running_ne2000.outb(BNRY, 0x51)
    assert not running_ne2000.inb(ISR) & RST


def test_a_boundary_equal_to_the_current_page_is_an_empty_ring(running_ne2000: Rig) -> None:
    # The data sheet's own initialization (section 7), kept by drivers whose BNRY is the next page to read.
    running_ne2000.outb(BNRY, 0x4C)
    frame = frame_to(MAC, 1514)
    for number in range(12):
        assert not running_ne2000.inb(ISR) & OVW, number
        running_ne2000.wire.arrive(frame)
        page = running_ne2000.inb(BNRY)
        following = running_ne2000.dma_read(page << 8, 4)[1]
        assert running_ne2000.dma_read((page << 8) + 4, 1514) == frame
        running_ne2000.outb(BNRY, following)


def test_a_boundary_one_below_the_ring_protects_it_too(running_ne2000: Rig) -> None:
    # Linux writes PSTART - 1 after the frame that ends at PSTOP.
    running_ne2000.outb(BNRY, 0x4B)
    for _ in range(100):
        running_ne2000.wire.arrive(frame_to(MAC, 1514))
    assert running_ne2000.current() == 0x7C
    assert running_ne2000.inb(CNTR2) == 92


SIZES = st.one_of(st.sampled_from((14, 60, 248, 249, 1514)), st.integers(60, 1514))


@settings(max_examples=50)
@given(st.lists(st.tuples(SIZES, st.integers(0, 9)), max_size=80), st.integers())
def test_ring_keeps_frames_whole_and_in_order(arrivals: list[tuple[int, int]], seed: int) -> None:
    ne2000 = Rig()
    ne2000.start()
    content = random.Random(seed)
    inside: deque[bytes] = deque()
    for size, drain in arrivals:
        frame = frame_to(MAC, 14) + content.randbytes(size - 14)
        ne2000.wire.arrive(frame)
        if ne2000.inb(CNTR2):
            # Dropped because all the pages between, but the one that tells full from empty, are too few.
            used = sum((len(kept) + 8 + 255) // 256 for kept in inside)
            assert used + (max(size, 60) + 8 + 255) // 256 >= 51
        else:
            inside.append(frame.ljust(60, b"\0"))
        if not drain:
            assert ne2000.receive() == list(inside)
            inside.clear()
    assert ne2000.receive() == list(inside)
