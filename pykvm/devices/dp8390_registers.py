"""The numbers of a DP8390D: its registers, their bits, and what they are called (data sheet, section 10).

Sections are those of the data sheet that `dp8390` names.
"""

from __future__ import annotations

import zlib

from ..device import State, bit_names

PAGE = 256
"""The buffer ring is managed in pages of 256 bytes (section 7)."""

MIN_FRAME = 60
"""A frame on the wire is at least this long without its FCS (IEEE 802.3); what comes in shorter is padded."""
HEADER = 14
"""Two addresses and a type: fewer bytes are no frame."""
BROADCAST = b"\xff" * 6

# Command register (section 10.3). Bits 3-5 are the remote DMA command, bits 6-7 the register page.
CR_STP = 0x01
CR_STA = 0x02
CR_TXP = 0x04
CR_REMOTE = 0x38
CR_REMOTE_READ = 0x08
CR_REMOTE_WRITE = 0x10
CR_SEND_PACKET = 0x18
CR_ABORT = 0x20

ISR_PRX = 0x01
ISR_PTX = 0x02
ISR_RXE = 0x04
ISR_OVW = 0x10
ISR_CNT = 0x20
ISR_RDC = 0x40
ISR_RST = 0x80
ISR_SOURCES = 0x7F
"""RST neither interrupts nor can be written away."""

DCR_WTS = 0x01
DCR_LAS = 0x04

TCR_CRC = 0x01
TCR_LOOPBACK = 0x06

TSR_PTX = 0x01
TSR_LOOPED = (0x00, 0x53, 0x43, 0x03)
"""Transmit status by loopback mode (section 12): the inner ones see neither carrier sense nor heartbeat."""

RSR_PRX = 0x01
RSR_CRC = 0x02
RSR_MPA = 0x10
RSR_PHY = 0x20
RSR_DIS = 0x40

RCR_AB = 0x04
RCR_AM = 0x08
RCR_PRO = 0x10
RCR_MON = 0x20

TALLY_LIMIT = 192
"""Tally counters stop here; from 128 on they ask for service by ISR.CNT."""

FIFO_SIZE = 8
"""What is left of the FIFO for the receiver in loopback."""

_PAGE_1 = "CR PAR0 PAR1 PAR2 PAR3 PAR4 PAR5 CURR MAR0 MAR1 MAR2 MAR3 MAR4 MAR5 MAR6 MAR7"
_READ_NAMES = [
    page.split()
    for page in (
        "CR CLDA0 CLDA1 BNRY TSR NCR FIFO ISR CRDA0 CRDA1 - - RSR CNTR0 CNTR1 CNTR2",
        _PAGE_1,
        "CR PSTART PSTOP RNPP TPSR LNPP ACU ACL - - - - RCR TCR DCR IMR",
    )
]
_WRITE_NAMES = [
    page.split()
    for page in ("CR PSTART PSTOP BNRY TPSR TBCR0 TBCR1 ISR RSAR0 RSAR1 RBCR0 RBCR1 RCR TCR DCR IMR", _PAGE_1)
]
"""By page and offset (section 10.2)."""
_BITS = {
    "ISR": "PRX PTX RXE TXE OVW CNT RDC RST",
    "IMR": "PRXE PTXE RXEE TXEE OVWE CNTE RDCE",
    "DCR": "WTS BOS LAS LS ARM FT0 FT1",
    "TCR": "CRC LB0 LB1 ATD OFST",
    "TSR": "PTX - COL ABT CRS FU CDH OWC",
    "RCR": "SEP AR AB AM PRO MON",
    "RSR": "PRX CRC FAE FO MPA PHY DIS DFR",
}
_REMOTE = ("", "remote read", "remote write", "send packet")

REGISTERS = {
    "command": 0xFF,
    "page_start": 0xFF,
    "page_stop": 0xFF,
    "boundary": 0xFF,
    "current": 0xFF,
    "transmit_page": 0xFF,
    "transmit_count": 0xFFFF,
    "transmit_status": 0xFF,
    "receive_status": 0xFF,
    "isr": 0xFF,
    "imr": 0x7F,
    "rcr": 0x3F,
    "tcr": 0x1F,
    "dcr": 0x7F,
    "remote_address": 0xFFFF,
    "remote_count": 0xFFFF,
    "remote_next": 0xFF,
    "missed": TALLY_LIMIT,
    "fifo_at": FIFO_SIZE - 1,
}
"""Every register that is a number, with the largest value it can hold."""
BLOCKS = {"physical": 6, "multicast": 8, "fifo": FIFO_SIZE}
"""Every register that is an array of bytes, with its length."""


def frame_check_sequence(frame: bytes) -> bytes:
    """The four bytes that follow `frame` on the wire (IEEE 802.3, CRC-32, least significant byte first)."""
    return zlib.crc32(frame).to_bytes(4, "little")


def multicast_hash(address: bytes) -> int:
    """Which of the 64 bits of MAR0-7 stands for `address`: the six most significant bits of its CRC (section 10.3).

    The chip shifts its CRC register the other way round than zlib, and does not complement it at the end.
    """
    low = ~zlib.crc32(address) & 0x3F
    return int(f"{low:06b}"[::-1], 2)


def explain(register: str, value: int) -> str:
    """What `value` means in the register of that name."""
    if register != "CR":
        return bit_names(value, _BITS.get(register, ""))
    remote = "abort/complete DMA" if value & CR_ABORT else _REMOTE[(value & CR_REMOTE) >> 3]
    words = [bit_names(value & 7, "STP STA TXP"), remote, f"page {value >> 6}"]
    return ", ".join(word for word in words if word)


def register_name(command: int, offset: int, is_write: bool) -> str:
    """The data sheet's name of the register at `offset` (0..15) of the page that `command`, what CR holds, selects."""
    pages, page = _WRITE_NAMES if is_write else _READ_NAMES, command >> 6
    if offset == 0 or page >= len(pages):
        return "CR" if offset == 0 else f"page {page} register {offset:#x}"
    return pages[page][offset]


def check(state: State) -> None:
    """ValueError unless `state` can be a chip's."""
    if not isinstance(state, dict) or state.keys() != REGISTERS.keys() | BLOCKS.keys():
        raise ValueError("not the state of a DP8390")
    for name, largest in REGISTERS.items():
        value = state[name]
        if type(value) is not int or not 0 <= value <= largest:
            raise ValueError(f"{name} must be a number from 0 to {largest}, not {value!r}")
    for name, length in BLOCKS.items():
        value = state[name]
        if type(value) is not bytes or len(value) != length:
            raise ValueError(f"{name} must be {length} bytes")
