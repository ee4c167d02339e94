"""What the tests of the NE2000 share: a card, its wire, and what a driver does with it."""

from __future__ import annotations

import device_rig
from device_rig import Line

from pykvm.devices.ne2000 import Ne2000
from pykvm.net import NetBackend

BASE = 0x300
MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400abcdef")
BROADCAST = b"\xff" * 6

# Page 0, and CURR of page 1.
CR, PSTART, PSTOP, BNRY, TPSR, TBCR0, TBCR1, ISR = range(8)
RSAR0, RSAR1, RBCR0, RBCR1, RCR, TCR, DCR, IMR = range(8, 16)
TSR, NCR, FIFO, RSR, CNTR0, CNTR1, CNTR2, CURR = 4, 5, 6, 12, 13, 14, 15, 7
DATA, RESET = 0x10, 0x1F

PRX, PTX, RXE, OVW, CNT, RDC, RST = 0x01, 0x02, 0x04, 0x10, 0x20, 0x40, 0x80


class Wire(NetBackend):
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def arrive(self, frame: bytes) -> None:
        assert self.deliver is not None
        self.deliver(frame)


class Rig(device_rig.Rig[Ne2000]):
    def __init__(self, backend: NetBackend | None = None) -> None:
        self.wire = Wire()
        irq = Line()
        super().__init__(Ne2000("ne0", BASE, irq=irq, backend=backend or self.wire, mac=MAC), irq, base=BASE)

    def out(self, *pairs: tuple[int, int]) -> None:
        for offset, value in pairs:
            self.outb(offset, value)

    def remote(self, address: int, count: int, command: int) -> None:
        self.out((CR, 0x22), (RBCR0, count & 0xFF), (RBCR1, count >> 8))
        self.out((RSAR0, address & 0xFF), (RSAR1, address >> 8), (CR, command))

    def dma_read(self, address: int, count: int) -> bytes:
        """As ne_block_input of Linux: words, and a byte at the end of an odd count."""
        self.remote(address, count, 0x0A)
        data = self.ins(DATA, count >> 1, 2)
        if count & 1:
            data += bytes((self.inb(DATA),))
        self.outb(ISR, RDC)
        return data

    def dma_write(self, address: int, data: bytes) -> None:
        """As ne_block_output of Linux: the count is rounded up."""
        data += bytes(len(data) & 1)
        self.remote(address, len(data), 0x12)
        self.outs(DATA, data, 2)
        self.outb(ISR, RDC)

    def start(self, rcr: int = 0x04, imr: int = 0x3F) -> None:
        """As __NS8390_init of Linux: transmit pages from 0x40, ring from 0x4C to 0x80, BNRY one behind CURR."""
        self.out((CR, 0x21), (DCR, 0x49), (RBCR0, 0), (RBCR1, 0), (RCR, 0x20), (TCR, 0x02), (TPSR, 0x40))
        self.out((PSTART, 0x4C), (BNRY, 0x7F), (PSTOP, 0x80), (ISR, 0xFF), (IMR, 0), (CR, 0x61))
        self.out(*((1 + at, byte) for at, byte in enumerate(MAC)))
        self.out((CURR, 0x4C), (CR, 0x21), (ISR, 0xFF), (IMR, imr), (CR, 0x22), (TCR, 0), (RCR, rcr))

    def current(self) -> int:
        self.outb(CR, 0x62)
        page = self.inb(CURR)
        self.outb(CR, 0x22)
        return page

    def receive(self) -> list[bytes]:
        """As ei_receive of Linux, whose checks are assertions here."""
        frames = []
        while True:
            page = self.inb(BNRY) + 1
            if page >= 0x80:
                page = 0x4C
            if page == self.current():
                self.outb(ISR, PRX | RXE)
                return frames
            status, following, low, high = self.dma_read(page << 8, 4)
            length = (low | high << 8) - 4
            expected = page + 1 + (length + 4 >> 8)
            assert following in (expected, expected + 1, expected - 52, expected + 1 - 52)
            assert 60 <= length <= 1518
            assert status & 0x0F == 0x01
            frames.append(self.dma_read((page << 8) + 4, length))
            assert following < 0x80
            self.outb(BNRY, following - 1)

    def transmit(self, frame: bytes) -> None:
        self.dma_write(0x4000, frame)
        self.out((CR, 0x20), (TBCR0, len(frame) & 0xFF), (TBCR1, len(frame) >> 8), (TPSR, 0x40), (CR, 0x26))


def frame_to(destination: bytes, size: int = 60, fill: int = 0) -> bytes:
    return (destination + OTHER + b"\x08\x00").ljust(size, bytes((fill,)))


def bitwise_crc32(data: bytes) -> int:
    """CRC-32 of IEEE 802.3 one bit at a time, as its register does it."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            feedback = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ (0xEDB88320 if feedback else 0)
    return crc ^ 0xFFFFFFFF
