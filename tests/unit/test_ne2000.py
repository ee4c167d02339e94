"""The NE2000 against the DP8390D data sheet: probes, registers, remote DMA."""

from __future__ import annotations

import pytest
from device_rig import Line
from ne2000_rig import (
    BASE,
    BNRY,
    CNTR0,
    CNTR1,
    CNTR2,
    CR,
    CURR,
    DATA,
    DCR,
    IMR,
    ISR,
    MAC,
    NCR,
    PRX,
    PSTART,
    PSTOP,
    PTX,
    RBCR0,
    RBCR1,
    RCR,
    RDC,
    RESET,
    RSAR0,
    RSAR1,
    RSR,
    RST,
    TCR,
    TPSR,
    Rig,
    Wire,
    frame_to,
)

from pykvm.devices.ne2000 import Ne2000
from pykvm.errors import ConfigError

# -- Probes -----------------------------------------------------------------------------------------------------------


def test_probe_of_linux(ne2000: Rig) -> None:
    assert ne2000.inb(CR) != 0xFF
    ne2000.out((CR, 0x61), (0x0D, 0xFF), (CR, 0x20))
    ne2000.inb(CNTR0)
    assert ne2000.inb(CNTR0) == 0
    ne2000.outb(RESET, ne2000.inb(RESET))
    assert ne2000.inb(ISR) & RST
    ne2000.outb(ISR, 0xFF)
    ne2000.out((CR, 0x21), (DCR, 0x48), (RBCR0, 0), (RBCR1, 0), (IMR, 0), (ISR, 0xFF), (RCR, 0x20), (TCR, 0x02))
    ne2000.out((RBCR0, 32), (RBCR1, 0), (RSAR0, 0), (RSAR1, 0), (CR, 0x0A))
    prom = bytes(ne2000.inb(DATA) for _ in range(32))
    assert prom[::2] == prom[1::2]  # a 16-bit board
    assert prom[::2][:6] == MAC
    assert prom[::2][14:] == b"WW"
    assert ne2000.inb(ISR) & RDC

    # autoirq: a remote read of nothing completes at once.
    ne2000.outb(ISR, 0xFF)
    assert not ne2000.irq.level
    ne2000.out((IMR, 0x50), (RBCR0, 0), (RBCR1, 0), (CR, 0x0A))
    assert ne2000.irq.level
    ne2000.outb(IMR, 0)
    assert not ne2000.irq.level


def test_probe_of_the_bsds(ne2000: Rig) -> None:
    ne2000.start()
    ne2000.outb(RESET, ne2000.inb(RESET))
    ne2000.outb(CR, 0x21)
    assert ne2000.inb(CR) & 0x27 == 0x21
    assert ne2000.inb(ISR) & RST
    ne2000.outb(CR, 0x22)
    # An NE1000 has RAM at 0x2000, an NE2000 has not.
    ne2000.out((RCR, 0x20), (DCR, 0x48), (PSTART, 0x20), (PSTOP, 0x40))
    pattern = b"THIS is A memory TEST pattern\0\0\0"
    ne2000.remote(0x2000, 32, 0x12)
    ne2000.bus.write_block(BASE + DATA, 1, pattern)
    ne2000.remote(0x2000, 32, 0x0A)
    assert ne2000.bus.read_block(BASE + DATA, 1, 32) == b"\xff" * 32
    ne2000.out((DCR, 0x49), (PSTART, 0x40), (PSTOP, 0x80))
    ne2000.dma_write(0x4000, pattern)
    assert ne2000.dma_read(0x4000, 32) == pattern


def test_ipxe_polls_the_receive_status(ne2000: Rig) -> None:
    ne2000.start()
    assert ne2000.inb(RSR) & 0x01 == 0
    ne2000.wire.arrive(frame_to(MAC))
    assert ne2000.inb(RSR) == 0x01


@pytest.mark.parametrize("width", [1, 2])
def test_drivers_read_the_address_in_word_mode(ne2000: Rig, width: int) -> None:
    ne2000.outb(DCR, 0x49)
    ne2000.remote(0, 12, 0x0A)
    assert bytes(ne2000.bus.read(BASE + DATA, width) & 0xFF for _ in range(6)) == MAC


# -- Registers --------------------------------------------------------------------------------------------------------


def test_after_power_on(ne2000: Rig) -> None:
    assert ne2000.inb(CR) == 0x21
    assert ne2000.inb(ISR) == RST
    assert not ne2000.irq.level


def test_pages(ne2000: Rig) -> None:
    ne2000.out((PSTART, 0x4C), (PSTOP, 0x80), (BNRY, 0x55), (TPSR, 0x40), (RCR, 0xFF), (TCR, 0xFF), (DCR, 0xFF))
    ne2000.out((IMR, 0xFF), (CR, 0x61))
    ne2000.out(*((at, 0x10 + at) for at in range(1, 16)))
    assert [ne2000.inb(at) for at in range(1, 16)] == [0x10 + at for at in range(1, 16)]
    ne2000.outb(CR, 0xA1)
    assert [ne2000.inb(at) for at in (PSTART, PSTOP, TPSR)] == [0x4C, 0x80, 0x40]
    assert [ne2000.inb(at) for at in (RCR, TCR, DCR, IMR)] == [0x3F, 0x1F, 0x7F, 0x7F]
    ne2000.outb(CR, 0x21)
    assert ne2000.inb(BNRY) == 0x55
    assert [ne2000.inb(at) for at in (NCR, CNTR0, CNTR1, CNTR2)] == [0, 0, 0, 0]
    ne2000.outb(CR, 0xE1)
    assert ne2000.inb(CR) == 0xE1


def test_stop_and_start(running_ne2000: Rig) -> None:
    assert running_ne2000.inb(CR) == 0x22
    assert running_ne2000.inb(ISR) == 0
    running_ne2000.outb(CR, 0x21)
    assert running_ne2000.inb(CR) == 0x23  # both remain set
    running_ne2000.outb(ISR, 0xFF)
    assert running_ne2000.inb(ISR) == RST
    running_ne2000.wire.arrive(frame_to(MAC))
    running_ne2000.outb(CR, 0x25)
    assert running_ne2000.wire.sent == []
    assert running_ne2000.inb(ISR) == RST
    running_ne2000.outb(BNRY, 0x7F)
    assert running_ne2000.inb(ISR) == RST
    running_ne2000.outb(CR, 0x20)  # neither: stays as it is
    assert running_ne2000.inb(ISR) == RST
    running_ne2000.outb(CR, 0x22)
    assert running_ne2000.inb(ISR) == 0
    assert running_ne2000.receive() == []


@pytest.mark.parametrize("touch", ["read", "write"])
@pytest.mark.parametrize("offset", [0x18, 0x1F])
def test_reset_port(running_ne2000: Rig, touch: str, offset: int) -> None:
    running_ne2000.wire.arrive(frame_to(MAC))
    assert running_ne2000.irq.level
    if touch == "read":
        running_ne2000.inb(offset)
    else:
        running_ne2000.outb(offset, 0xFF)
    assert running_ne2000.inb(CR) == 0x21
    assert running_ne2000.inb(ISR) & RST
    assert running_ne2000.inb(RSR) == 0
    assert not running_ne2000.irq.level
    running_ne2000.outb(CR, 0x61)
    assert bytes(running_ne2000.inb(1 + at) for at in range(6)) == MAC  # the pin leaves it alone
    running_ne2000.outb(CR, 0xA1)
    assert running_ne2000.inb(IMR) == 0


def test_interrupt_is_the_level_of_isr_and_imr(running_ne2000: Rig) -> None:
    running_ne2000.outb(IMR, PTX)
    running_ne2000.wire.arrive(frame_to(MAC))
    assert running_ne2000.inb(ISR) == PRX
    assert not running_ne2000.irq.level
    running_ne2000.outb(IMR, PRX)
    assert running_ne2000.irq.level
    running_ne2000.outb(ISR, PTX)
    assert running_ne2000.irq.level
    running_ne2000.outb(ISR, PRX)
    assert not running_ne2000.irq.level


def test_wide_accesses_of_registers_are_byte_accesses(ne2000: Rig) -> None:
    ne2000.bus.write(BASE + RSAR0, 4, 0x0102_4321)
    assert ne2000.inb(RSAR0) == 0x21
    assert ne2000.inb(RSAR1) == 0x43
    assert ne2000.bus.read(BASE + RSAR0, 2) == 0x4321
    assert ne2000.bus.read(BASE, 1) == ne2000.bus.read(BASE, 2) & 0xFF


def test_configuration_is_checked() -> None:
    with pytest.raises(ConfigError, match="6 bytes"):
        Ne2000("ne0", irq=Line(), backend=Wire(), mac=b"\x52\x54")


# -- Remote DMA -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4])
def test_single_and_block_accesses_agree(ne2000: Rig, size: int) -> None:
    data = bytes(range(64))
    ne2000.outb(DCR, 0x49 if size > 1 else 0x48)
    ne2000.remote(0x4100, 64, 0x12)
    for at in range(0, 64, size):
        assert not ne2000.inb(ISR) & RDC
        ne2000.bus.write(BASE + DATA, size, int.from_bytes(data[at : at + size], "little"))
    assert ne2000.inb(ISR) & RDC
    ne2000.outb(ISR, RDC)
    ne2000.remote(0x4100, 64, 0x0A)
    single = b"".join(ne2000.bus.read(BASE + DATA, size).to_bytes(size, "little") for _ in range(64 // size))
    assert ne2000.inb(ISR) & RDC
    assert ne2000.inb(RSAR0) | ne2000.inb(RSAR1) << 8 == 0x4140
    ne2000.remote(0x4100, 64, 0x0A)
    assert single == data == ne2000.bus.read_block(BASE + DATA, size, 64 // size)


def test_byte_mode_moves_one_byte_a_cycle(ne2000: Rig) -> None:
    ne2000.outb(DCR, 0x48)
    ne2000.remote(0x4000, 4, 0x12)
    ne2000.outs(DATA, b"a?b?c?d?", 2)
    assert ne2000.inb(ISR) & RDC
    ne2000.remote(0x4000, 4, 0x0A)
    assert ne2000.ins(DATA, 4, 2) == b"a\xffb\xffc\xffd\xff"


def test_word_mode_moves_two_bytes_an_access(ne2000: Rig) -> None:
    ne2000.outb(DCR, 0x49)
    ne2000.remote(0x4000, 4, 0x12)
    ne2000.bus.write_block(BASE + DATA, 1, b"ab")
    assert ne2000.inb(ISR) & RDC
    assert ne2000.dma_read(0x4000, 4) == b"a\0b\0"


def test_beyond_the_count_nothing_moves(ne2000: Rig) -> None:
    ne2000.outb(DCR, 0x48)
    ne2000.remote(0x4000, 4, 0x12)
    ne2000.bus.write_block(BASE + DATA, 1, b"abcdef")
    ne2000.remote(0x4000, 6, 0x0A)
    assert ne2000.bus.read_block(BASE + DATA, 1, 8) == b"abcd\0\0\xff\xff"
    assert ne2000.inb(DATA) == 0xFF
    assert ne2000.inb(RSAR0) == 6


def test_words_at_an_odd_count_or_address(ne2000: Rig) -> None:
    ne2000.outb(DCR, 0x49)
    ne2000.remote(0x4000, 5, 0x12)
    ne2000.outs(DATA, b"abcdefgh", 2)
    assert ne2000.inb(ISR) & RDC
    ne2000.remote(0x4000, 7, 0x0A)
    assert ne2000.ins(DATA, 5, 2) == b"abcdef\0\0\xff\xff"
    ne2000.remote(0x4003, 4, 0x0A)
    assert ne2000.ins(DATA, 2, 2) == b"cdef"


def test_the_page_can_be_changed_during_a_transfer(running_ne2000: Rig) -> None:
    running_ne2000.dma_write(0x4000, b"abcdefgh")
    running_ne2000.remote(0x4000, 8, 0x0A)
    assert running_ne2000.ins(DATA, 2, 2) == b"abcd"
    running_ne2000.outb(CR, 0x42)  # no remote command: the one under way goes on
    assert running_ne2000.inb(CURR) == 0x4C
    running_ne2000.outb(CR, 0x02)
    assert running_ne2000.ins(DATA, 2, 2) == b"efgh"


def test_abort_and_the_wrong_direction(ne2000: Rig) -> None:
    ne2000.outb(DCR, 0x48)
    ne2000.remote(0x4000, 4, 0x0A)
    ne2000.outb(DATA, 0x77)
    assert ne2000.inb(DATA) == 0
    ne2000.outb(CR, 0x22)
    assert ne2000.inb(DATA) == 0xFF
    assert not ne2000.inb(ISR) & RDC


def test_prom_and_empty_space_cannot_be_written(ne2000: Rig) -> None:
    ne2000.outb(DCR, 0x49)
    before = ne2000.dma_read(0, 64)
    assert before[32:] == b"\xff" * 32
    ne2000.dma_write(0, bytes(64))
    assert ne2000.dma_read(0, 64) == before
    ne2000.dma_write(0x3FFE, b"abcd")
    assert ne2000.dma_read(0x3FFE, 4) == b"\xff\xffcd"
    ne2000.dma_write(0x7FFE, b"efgh")
    assert ne2000.dma_read(0x7FFE, 4) == b"ef\xff\xff"


def test_remote_read_wraps_at_the_end_of_the_ring(running_ne2000: Rig) -> None:
    running_ne2000.dma_write(0x7F00, b"end of ring,".rjust(256, b"."))
    running_ne2000.dma_write(0x4C00, b"start of ring")
    assert running_ne2000.dma_read(0x7FF4, 12 + 13) == b"end of ring,start of ring"
    assert running_ne2000.inb(RSAR1) == 0x4C


def test_send_packet_command_removes_the_frame_at_the_boundary(running_ne2000: Rig) -> None:
    running_ne2000.outb(BNRY, 0x4C)
    frames = [frame_to(MAC, 300, 1), frame_to(MAC, 60, 2)]
    for frame in frames:
        running_ne2000.wire.arrive(frame)
    for frame, following in zip(frames, (0x4E, 0x4F), strict=True):
        running_ne2000.out((RBCR1, 0x0F), (CR, 0x1A))
        data = running_ne2000.ins(DATA, (len(frame) + 4) // 2, 2)
        assert data[4:] == frame
        assert running_ne2000.inb(ISR) & RDC
        assert running_ne2000.inb(BNRY) == following
        running_ne2000.outb(ISR, RDC)
