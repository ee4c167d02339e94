"""National Semiconductor DP8390D Network Interface Controller, the chip of the NE2000 and of its many clones.

Data sheet DP8390D/NS32490D (July 1995): sections 7 (packet reception), 8 (transmission), 9 (remote DMA), 10
(registers), 11 (initialization) and 12 (loopback). The wire is ideal: nothing collides, no frame arrives damaged, and
sending takes no time. Hence NCR, CNTR0 and CNTR1 always read zero, and a transmission is over when the write of CR
that asks for it returns. Left out: the 68000 byte order (DCR.BOS), 32-bit addresses (DCR.LAS), the auto transmit
disable (TCR.ATD), and writing the test registers of pages 2 and 3. No driver for a PC's board uses them.
"""

from __future__ import annotations

from collections.abc import Callable

from ..device import IrqLine, Range, State
from ..net import MAX_FRAME
from .dp8390_registers import (
    BLOCKS,
    BROADCAST,
    CR_ABORT,
    CR_REMOTE,
    CR_REMOTE_READ,
    CR_REMOTE_WRITE,
    CR_SEND_PACKET,
    CR_STA,
    CR_STP,
    CR_TXP,
    DCR_LAS,
    DCR_WTS,
    FIFO_SIZE,
    HEADER,
    ISR_CNT,
    ISR_OVW,
    ISR_PRX,
    ISR_PTX,
    ISR_RDC,
    ISR_RST,
    ISR_RXE,
    ISR_SOURCES,
    MIN_FRAME,
    PAGE,
    RCR_AB,
    RCR_AM,
    RCR_MON,
    RCR_PRO,
    REGISTERS,
    RSR_CRC,
    RSR_DIS,
    RSR_MPA,
    RSR_PHY,
    RSR_PRX,
    TALLY_LIMIT,
    TCR_CRC,
    TCR_LOOPBACK,
    TSR_LOOPED,
    TSR_PTX,
    check,
    frame_check_sequence,
    multicast_hash,
)


class Dp8390:
    """The chip over its 64 KiB of `memory`, of which only `ram` can be written.

    Every frame that it hands to `send` has 14 to 1514 bytes: the chip would put any number from 0 to 65535 on the
    wire, but what is no frame never arrives anywhere, so it is dropped here, and reported as sent just the same.
    """

    def __init__(self, irq: IrqLine, send: Callable[[bytes], None], memory: bytearray, ram: Range) -> None:
        self._irq = irq
        self._send = send
        self._memory = memory
        self._ram = ram
        self.power_on()

    def power_on(self) -> None:
        """The data sheet leaves most registers undefined at power-on; here they are zero."""
        self.page_start = self.page_stop = self.boundary = self.current = 0
        self.transmit_page = self.transmit_count = self.transmit_status = 0
        self.receive_status = self.isr = self.rcr = self.tcr = self.dcr = 0
        self.remote_address = self.remote_count = self.remote_next = 0
        self.missed = self.fifo_at = 0
        self.physical = bytearray(6)
        self.multicast = bytearray(8)
        self.fifo = bytearray(FIFO_SIZE)
        self.reset()

    def reset(self) -> None:
        """The RESET pin: only these registers change (section 11)."""
        self.command = CR_ABORT | CR_STP
        self.isr |= ISR_RST
        self.imr = 0
        self.dcr |= DCR_LAS
        self.tcr &= ~TCR_LOOPBACK
        self.receive_status = 0
        self._update_irq()

    @property
    def word_wide(self) -> bool:
        """DCR.WTS: a remote DMA transfer moves two bytes instead of one."""
        return self.dcr & DCR_WTS != 0

    def _update_irq(self) -> None:
        self._irq.set(self.isr & self.imr != 0)

    # --- the host's side: registers ---

    def read(self, offset: int) -> int:
        """The register at `offset` (0..15) of the page that CR selects."""
        if offset == 0:
            return self.command
        match self.command >> 6:
            case 0:
                return self._read_page0(offset)
            case 1:
                return self._read_page1(offset)
            case 2:
                return self._read_page2(offset)
        return 0xFF

    def _read_page0(self, offset: int) -> int:
        match offset:
            case 0x7:
                return self.isr
            case 0x3:
                return self.boundary
            case 0x4:
                return self.transmit_status
            case 0x8:
                return self.remote_address & 0xFF
            case 0x9:
                return self.remote_address >> 8
            case 0xC:
                return self.receive_status | (RSR_DIS if self.rcr & RCR_MON else 0)
            case 0xF:
                missed = self.missed
                self.missed = 0
                return missed
            case 0x1 | 0x5 | 0xD | 0xE:  # CLDA0: reception ends on a page; NCR, CNTR0, CNTR1: nothing goes wrong
                return 0
            case 0x2:
                return self.current
            case 0x6:
                value = self.fifo[self.fifo_at]
                self.fifo_at = (self.fifo_at + 1) % FIFO_SIZE
                return value
        return 0xFF

    def _read_page1(self, offset: int) -> int:
        if offset == 0x7:
            return self.current
        return self.multicast[offset - 8] if offset & 8 else self.physical[offset - 1]

    def _read_page2(self, offset: int) -> int:
        match offset:
            case 0x1:
                return self.page_start
            case 0x2:
                return self.page_stop
            case 0x3:
                return self.remote_next
            case 0x4:
                return self.transmit_page
            case 0x5 | 0x6:  # local next packet pointer; address counter, which rests there too
                return self.current
            case 0x7:
                return 0
            case 0xC | 0xD | 0xE | 0xF:
                return (self.rcr, self.tcr, self.dcr, self.imr)[offset - 0xC]
        return 0xFF

    def write(self, offset: int, value: int) -> None:
        """Write one byte to the register at `offset` (0..15) of the page that CR selects."""
        if offset == 0:
            self._write_command(value)
        elif self.command < 0x40:
            self._write_page0(offset, value)
        elif self.command < 0x80:
            if offset == 0x7:
                self.current = value
            elif offset & 8:
                self.multicast[offset - 8] = value
            else:
                self.physical[offset - 1] = value

    def _write_page0(self, offset: int, value: int) -> None:
        match offset:
            case 0x7:
                self.isr &= ~(value & ISR_SOURCES)
                self._update_irq()
            case 0x8:
                self.remote_address = self.remote_address & 0xFF00 | value
            case 0x9:
                self.remote_address = self.remote_address & 0x00FF | value << 8
            case 0xA:
                self.remote_count = self.remote_count & 0xFF00 | value
            case 0xB:
                self.remote_count = self.remote_count & 0x00FF | value << 8
            case 0x3:
                self._free_up_to(value)
            case 0xF:
                self.imr = value & ISR_SOURCES
                self._update_irq()
            case 0x4:
                self.transmit_page = value
            case 0x5:
                self.transmit_count = self.transmit_count & 0xFF00 | value
            case 0x6:
                self.transmit_count = self.transmit_count & 0x00FF | value << 8
            case 0x1:
                self.page_start = value
            case 0x2:
                self.page_stop = value
            case 0xC:
                self.rcr = value & 0x3F
            case 0xD:
                self.tcr = value & 0x1F
            case 0xE:
                self.dcr = value & 0x7F

    def _free_up_to(self, boundary: int) -> None:
        """Move BNRY. RST, which a ring overflow sets too, goes away when packets are removed (section 10.3, ISR)."""
        self.boundary = boundary
        if not self.command & CR_STP:
            self.isr &= ~ISR_RST

    def _write_command(self, value: int) -> None:
        state = self.command & (CR_STP | CR_STA)
        if value & CR_STP:
            # Stopping a started chip leaves both bits set.
            state |= value & (CR_STP | CR_STA)
            self.isr |= ISR_RST
        elif value & CR_STA:
            state = CR_STA
            self.isr &= ~ISR_RST
        remote = value & CR_REMOTE or self.command & CR_REMOTE
        self.command = value & 0xC0 | remote | state
        if value & CR_REMOTE == CR_SEND_PACKET:
            header, _ = self._copy_out(self.boundary << 8, 4)
            self.remote_address = self.boundary << 8
            self.remote_next = header[1]
            self.remote_count = int.from_bytes(header[2:], "little")
        if not remote & CR_ABORT and value & CR_REMOTE and not self.remote_count:
            # Nothing to do is done at once: drivers provoke their first interrupt like this to find the IRQ.
            self._remote_done()
        if value & CR_TXP and state == CR_STA:
            self._transmit()
        self._update_irq()

    # --- the host's side: remote DMA ---

    def _plain(self, address: int, end: int) -> bool:
        """Nothing special in address..end: all RAM, no odd word, neither the ring's end nor the count's is reached."""
        stop = self.page_stop << 8
        return (
            end - address < self.remote_count
            and self._ram.base <= address
            and end <= self._ram.end
            and (end < stop or stop <= address)
            and not address & self.dcr & DCR_WTS
        )

    def _remote_ready(self, length: int) -> int:
        """How many of `length` bytes the remote DMA still has to move. In word mode only whole words move."""
        if self.dcr & DCR_WTS:
            self.remote_address &= ~1
            return min(length, self.remote_count + 1 & ~1)
        return min(length, self.remote_count)

    def remote_read(self, length: int) -> bytes:
        """The next `length` bytes of a remote read; all ones where it is not under way or over."""
        if self.command & (CR_REMOTE_READ | CR_ABORT) != CR_REMOTE_READ or not self.remote_count:
            return b"\xff" * length
        address = self.remote_address
        end = address + length
        if self._plain(address, end):
            self.remote_address = end
            self.remote_count -= length
            return bytes(self._memory[address:end])
        ready = self._remote_ready(length)
        data, self.remote_address = self._copy_out(self.remote_address, ready)
        self._remote_count_down(ready)
        return data + b"\xff" * (length - ready)

    def remote_write(self, data: bytes | bytearray) -> None:
        """Take the next bytes of a remote write; what comes when it is not under way or over is lost."""
        if self.command & CR_REMOTE != CR_REMOTE_WRITE or not self.remote_count:
            return
        address = self.remote_address
        end = address + len(data)
        if self._plain(address, end):
            self._memory[address:end] = data
            self.remote_address = end
            self.remote_count -= len(data)
            return
        ready = self._remote_ready(len(data))
        self.remote_address = self._copy_in(self.remote_address, data[:ready])
        self._remote_count_down(ready)

    def _remote_count_down(self, moved: int) -> None:
        self.remote_count = max(0, self.remote_count - moved)
        if not self.remote_count:
            self._remote_done()
            self._update_irq()

    def _remote_done(self) -> None:
        self.isr |= ISR_RDC
        if self.command & CR_REMOTE == CR_SEND_PACKET:
            self._free_up_to(self.remote_next)

    # --- the chip's own address space ---

    def _copy_out(self, address: int, length: int) -> tuple[bytes, int]:
        """`length` bytes from `address` on, and the address after them: both DMA channels go from PSTOP to PSTART."""
        pieces = []
        while length:
            run, following = self._run(address, length)
            pieces.append(self._memory[address : address + run])
            address = following
            length -= run
        return b"".join(pieces), address

    def _copy_in(self, address: int, data: bytes | bytearray) -> int:
        """Store `data` from `address` on, where there is RAM, and return the address after it."""
        done = 0
        while done < len(data):
            run, following = self._run(address, len(data) - done)
            low, high = max(address, self._ram.base), min(address + run, self._ram.end)
            if low < high:
                self._memory[low:high] = data[done + low - address : done + high - address]
            address = following
            done += run
        return address

    def _run(self, address: int, length: int) -> tuple[int, int]:
        """How far, 1..length bytes, a DMA channel gets from `address` before it jumps, and where it is then."""
        stop = self.page_stop << 8
        run = min(length, (stop if address < stop else 0x10000) - address)
        address = address + run & 0xFFFF
        return run, self.page_start << 8 if address == stop else address

    # --- the wire's side ---

    def _transmit(self) -> None:
        start = self.transmit_page << 8
        sent = bytes(self._memory[start : start + self.transmit_count])
        sent += self._memory[: self.transmit_count - len(sent)]
        self.isr |= ISR_PTX
        self.transmit_status = TSR_PTX
        if len(sent) < HEADER:
            return
        if self.tcr & TCR_LOOPBACK:
            self._loop(sent)
            return
        if self.tcr & TCR_CRC:
            # The driver brings its own FCS. Every receiver would throw the frame away if it is wrong.
            sent, fcs = sent[:-4], sent[-4:]
            if fcs != frame_check_sequence(sent):
                return
        if HEADER <= len(sent) <= MAX_FRAME:
            self._send(sent)

    def _loop(self, sent: bytes) -> None:
        """Loopback (section 12): the frame does not reach the ring, only its end stays in the FIFO, then its length.

        The one CRC circuit cannot check while it makes the FCS itself, and says "CRC error".
        """
        self.transmit_status = TSR_LOOPED[(self.tcr & TCR_LOOPBACK) >> 1]
        if not self.tcr & TCR_CRC:
            sent += frame_check_sequence(sent)
            good = False
        else:
            good = not self._accepts(sent) or sent[-4:] == frame_check_sequence(sent[:-4])
        self.receive_status = (RSR_PRX if good else RSR_CRC) | (RSR_PHY if sent[0] & 1 else 0)
        length = len(sent)
        shown = sent[-FIFO_SIZE:] + bytes((length & 0xFF, length >> 8 & 0xFF, length >> 8 & 0xFF))
        for at, byte in enumerate(shown, length + 3 - len(shown)):
            self.fifo[at % FIFO_SIZE] = byte
        self.fifo_at = 0

    def _accepts(self, frame: bytes) -> bool:
        """Address recognition (RCR, PAR0-5, MAR0-7)."""
        address = frame[:6]
        if not address[0] & 1:
            return address == self.physical or self.rcr & RCR_PRO != 0
        if address == BROADCAST:
            return self.rcr & RCR_AB != 0
        if not self.rcr & RCR_AM:
            return False
        bit = multicast_hash(address)
        return self.multicast[bit >> 3] >> (bit & 7) & 1 != 0

    def receive(self, frame: bytes) -> None:
        """A frame arrives. The FCS is stored behind it and counted in the header's length, as the chip does."""
        if self.command & (CR_STP | CR_STA) != CR_STA or self.tcr & TCR_LOOPBACK:
            return
        if not HEADER <= len(frame) <= MAX_FRAME or not self._accepts(frame):
            return
        if self.rcr & RCR_MON:
            self._miss()
        else:
            frame = frame.ljust(MIN_FRAME, b"\0")
            self._buffer(frame + frame_check_sequence(frame))
        self._update_irq()

    def _miss(self) -> None:
        """Count a frame that was for us. RSR keeps its PRX: some drivers look at that before they empty the ring."""
        self.receive_status |= RSR_MPA
        self.isr |= ISR_RXE
        self.missed = min(self.missed + 1, TALLY_LIMIT)
        if self.missed & 0x80:
            self.isr |= ISR_CNT

    def _buffer(self, data: bytes) -> None:
        """Put one frame into the ring: a header of four bytes (status, next page, length), then `data`.

        Pages from CURR up to BNRY are free. CURR never gets to BNRY by receiving, so if they are equal the driver
        made them so, and the ring is empty. Counting modulo the ring takes BNRY = PSTART - 1, which drivers that keep
        it one page behind write, for PSTOP - 1.
        """
        pages = (4 + len(data) + PAGE - 1) // PAGE
        ring = self.page_stop - self.page_start & 0xFF or 0x100
        free = (self.boundary - self.current) % ring or ring
        if pages >= free:
            self.isr |= ISR_OVW | ISR_RST
            self._miss()
            return
        start = self.current << 8
        end = self._copy_in(start, bytes(4) + data)
        following = (end + PAGE - 1) // PAGE & 0xFF
        self.current = self.page_start if following == self.page_stop else following
        self.receive_status = RSR_PRX | (RSR_PHY if data[0] & 1 else 0)
        self._copy_in(start, bytes((self.receive_status, self.current)) + len(data).to_bytes(2, "little"))
        self.isr |= ISR_PRX

    # --- snapshots ---

    def save(self) -> State:
        """All registers, as plain data."""
        state: State = {name: getattr(self, name) for name in REGISTERS}
        return state | {name: bytes(getattr(self, name)) for name in BLOCKS}

    def restore(self, state: State) -> None:
        """Take back what `save` returned; ValueError, and no change, if it is anything else."""
        check(state)
        for name in REGISTERS:
            setattr(self, name, state[name])
        for name in BLOCKS:
            setattr(self, name, bytearray(state[name]))
        self._update_irq()
