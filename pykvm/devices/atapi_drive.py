"""One ATAPI CD-ROM drive on a cable: its task file, the PACKET protocol, its tray and its sense data.

Implements: ATA/ATAPI-6 (T13/1410D) sections 8.9 (DEVICE RESET), 8.16 (IDENTIFY PACKET DEVICE), 8.23 (PACKET), 9.8
(PACKET protocol, PIO) and 9.12 (signature); SFF-8020i 2.6, sections 5 (register use) and 10.6 (sense keys); MMC-4 and
SPC-3 for the commands, whose answers are in `atapi_answers`. Transfers are PIO only, without overlap, and each DRQ
block is read from the medium when its turn comes.

After power-on no unit attention waits: firmware has asked for it, as a BIOS does in its self-test. One waits after a
change of the medium, for the first command that is held up by it; a reset of any kind makes none, as in QEMU. A missing
device 1 beside this drive reads as zeros, signature included.
"""

from __future__ import annotations

from collections.abc import Callable

from ..device import State
from ..disk.tray import CD_SECTOR, Tray, read_bytes
from . import atapi_answers as answers
from .ata_registers import (
    ABRT,
    COUNT,
    DEVICE,
    DEVICE_UNIT,
    DRQ,
    ERR,
    FEATURES,
    IDLE,
    LBA_HIGH,
    LBA_MID,
    PASSED,
    POWER_ACTIVE,
)

PACKET_SIZE = 12
MOST_AT_ONCE = 0xFFFE
"""Bytes of the largest DRQ block: a Byte Count of FFFFh means it, too (ATA/ATAPI-6, 8.23.3)."""

REASON_COMMAND, REASON_INPUT, REASON_STATUS = 0x01, 0x02, 0x03
"""Interrupt Reason: I/O and C/D while the packet is asked for, while data go to the host, and at the end."""
FEATURE_DMA, FEATURE_OVERLAP = 0x01, 0x02

# Sense keys, and what is behind them: (key, additional sense code, qualifier).
NO_SENSE = (0x0, 0x00, 0x00)
NO_MEDIUM_CLOSED, NO_MEDIUM_OPEN = (0x2, 0x3A, 0x01), (0x2, 0x3A, 0x02)
UNREADABLE = (0x3, 0x11, 0x00)
NO_SUCH_COMMAND, NO_SUCH_ADDRESS, BAD_FIELD = (0x5, 0x20, 0x00), (0x5, 0x21, 0x00), (0x5, 0x24, 0x00)
NOT_SAVED, LOCKED = (0x5, 0x39, 0x00), (0x5, 0x53, 0x02)
CHANGED = (0x6, 0x28, 0x00)
SENSES = (
    NO_SENSE, NO_MEDIUM_CLOSED, NO_MEDIUM_OPEN, UNREADABLE, NO_SUCH_COMMAND, NO_SUCH_ADDRESS, BAD_FIELD, NOT_SAVED,
    LOCKED, CHANGED,
)  # fmt: skip

NO_EVENT, EJECT_REQUEST, NEW_MEDIUM, REMOVAL = range(4)
"""Media events of GET EVENT STATUS NOTIFICATION (MMC-4, 6.7.2.5)."""

REQUEST_SENSE = 0x03
_WITHOUT_ATTENTION = (REQUEST_SENSE, 0x12, 0x46, 0x4A)
"""REQUEST SENSE, INQUIRY, GET CONFIGURATION and GET EVENT STATUS NOTIFICATION: a unit attention does not hold them
up."""
_WANT_MEDIUM = (0x00, 0x25, 0x28, 0x2B, 0x43, 0x51, 0xA8)
"""TEST UNIT READY, READ CAPACITY, READ (10), SEEK (10), READ TOC, READ DISC INFORMATION, READ (12)."""


class Refused(Exception):
    """A command that ends in CHECK CONDITION, with its sense."""

    def __init__(self, sense: tuple[int, int, int]) -> None:
        self.sense = sense


class AtapiDrive:
    """A CD-ROM drive as device `unit` (0 or 1). The channel hands it commands and data, and watches `pending` and
    `status`.

    While DRQ is set, either `_packet` collects the command packet (None at all other times), or `_reading` is the DRQ
    block in transfer and `_position` its next byte; `_answer` and then `_left` bytes of the medium from `_at` on come
    after it. `_plain`: by the protocol of ATA's PIO data-in, without an end of its own. `moved` is called when the host
    changes something.
    """

    __slots__ = (
        "_answer", "_at", "_attention", "_event", "_left", "_limit", "_locked", "_moved", "_packet", "_plain",
        "_position", "_reading", "_sense", "current", "error", "neighbour", "pending", "previous", "serial", "status",
        "tray", "unit",
    )  # fmt: skip

    _packet: bytes | None

    def __init__(self, tray: Tray, unit: int, serial: str, neighbour: bool, moved: Callable[[], None]) -> None:
        self.tray, self.unit, self.serial, self.neighbour = tray, unit, serial, neighbour
        self._moved = moved
        self.power_on()

    def power_on(self) -> None:
        """Everything as after power-on; the tray is where it is."""
        self._locked = self._attention = False
        self._event = NO_EVENT
        self._sense = NO_SENSE
        self.reset()

    def reset(self) -> None:
        """A software reset: transfers end, the signature is posted. What the tray is told stays so (SFF-8020i, 5.9)."""
        self.pending = False
        self.diagnose()

    def diagnose(self) -> None:
        """Report good health and the signature of a PACKET device, which is not ready before its first command."""
        self._end_transfer()
        self.status = 0
        self.error = PASSED
        self.current, self.previous = [0] * 7, [0] * 7
        self._put_signature()

    def _put_signature(self) -> None:
        self.current[COUNT : LBA_HIGH + 1] = 0x01, 0x01, 0x14, 0xEB

    # The data port.

    def take(self, length: int) -> bytes:
        """The next `length` bytes that the guest reads; zeros where there is no data to read."""
        taken = b""
        while len(taken) < length and self._reading:
            part = self._reading[self._position : self._position + length - len(taken)]
            taken += part
            self._position += len(part)
            if self._position == len(self._reading):
                self._next_block()
        return taken.ljust(length, b"\0")

    def give(self, data: bytes) -> None:
        """Bytes that the guest writes: those of a packet. Others are dropped."""
        if self._packet is None:
            return
        self._packet += data[: PACKET_SIZE - len(self._packet)]
        if len(self._packet) == PACKET_SIZE:
            packet = self._packet
            self._packet = None
            self._execute(packet)

    # ATA commands.

    def command(self, code: int) -> None:
        """Execute a command, as far as it goes without data from the guest."""
        self._end_transfer()
        self.pending = False
        self.error = 0
        match code:
            case 0xA0:  # PACKET
                self._begin_packet()
            case 0xA1:  # IDENTIFY PACKET DEVICE
                self._plain = True
                self._limit = MOST_AT_ONCE
                self._answer = answers.identify(self.serial, self.unit, self.neighbour)
                self._next_block()
            case 0x08:  # DEVICE RESET
                device = self.current[DEVICE]
                self.diagnose()
                self.current[DEVICE] = device & DEVICE_UNIT
            case 0x20 | 0xEC:  # READ SECTOR(S), IDENTIFY DEVICE: so a driver sees what it is
                self._put_signature()
                self._abort()
            case 0xEF if self._knows_feature():  # SET FEATURES
                self._done()
            case 0xE5 | 0x98:  # CHECK POWER MODE
                self.current[COUNT] = POWER_ACTIVE
                self._done()
            case 0xE0 | 0xE1 | 0xE2 | 0xE3 | 0xE6 | 0xE7:  # STANDBY, IDLE, SLEEP, FLUSH CACHE: it is always awake
                self._done()
            case _:
                self._abort()

    def _knows_feature(self) -> bool:
        feature, count = self.current[FEATURES], self.current[COUNT]
        return feature in (0x66, 0xCC) or (feature == 0x03 and count in (0x00, 0x01, 0x08, 0x09, 0x0A, 0x0B, 0x0C))

    def _begin_packet(self) -> None:
        if self.current[FEATURES] & (FEATURE_DMA | FEATURE_OVERLAP):
            self._abort()
            return
        limit = self.current[LBA_HIGH] << 8 | self.current[LBA_MID]
        self._limit = min(limit, MOST_AT_ONCE)
        self._packet = b""
        self.current[COUNT] = REASON_COMMAND
        self.status = IDLE | DRQ  # without an interrupt: word 0 of IDENTIFY PACKET DEVICE says so

    def _done(self) -> None:
        self.status = IDLE
        self.pending = True

    def _abort(self) -> None:
        self._end_transfer()
        self.status = IDLE | ERR
        self.error = ABRT
        self.pending = True

    def _end_transfer(self) -> None:
        self._packet = None
        self._reading = self._answer = b""
        self._position = self._at = self._left = self._limit = 0
        self._plain = False

    # The PACKET protocol.

    def _next_block(self) -> None:
        """Offer the next DRQ block, or end."""
        self._reading, self._position = b"", 0
        total = len(self._answer) + self._left
        if total == 0:
            plain = self._plain
            self._end_transfer()
            if plain:
                self.status = IDLE
            else:
                self._succeed()
            return
        size = min(total, self._limit)
        if size < total:
            size &= ~1
        if size == 0:  # the host allows no data at all
            self._abort()
            return
        try:
            self._reading = self._read_on(size)
        except Refused as refused:
            self._check_condition(refused.sense)
            return
        if not self._plain:
            self.current[COUNT] = REASON_INPUT
            self.current[LBA_MID], self.current[LBA_HIGH] = size & 0xFF, size >> 8
        self.status = IDLE | DRQ
        self.pending = True

    def _read_on(self, size: int) -> bytes:
        if self._answer:
            block, self._answer = self._answer[:size], self._answer[size:]
            return block
        medium = self.tray.readable
        if medium is None:
            raise Refused(self._no_medium)
        try:
            block = read_bytes(medium, self._at, size)
        except OSError:
            raise Refused(UNREADABLE) from None
        self._at += size
        self._left -= size
        return block

    def _succeed(self) -> None:
        self.current[COUNT] = REASON_STATUS
        self._done()

    def _check_condition(self, sense: tuple[int, int, int]) -> None:
        self._end_transfer()
        self._sense = sense
        self.current[COUNT] = REASON_STATUS
        self.status = IDLE | ERR
        self.error = sense[0] << 4
        self.pending = True

    @property
    def _no_medium(self) -> tuple[int, int, int]:
        return NO_MEDIUM_OPEN if self.tray.is_open else NO_MEDIUM_CLOSED

    def _execute(self, packet: bytes) -> None:
        opcode = packet[0]
        try:
            if self._attention and opcode not in _WITHOUT_ATTENTION:
                self._attention = False
                raise Refused(CHANGED)
            if opcode != REQUEST_SENSE:
                self._sense = NO_SENSE
            if opcode in _WANT_MEDIUM and self.tray.readable is None:
                raise Refused(self._no_medium)
            self._answer = self._serve(opcode, packet)
        except Refused as refused:
            self._check_condition(refused.sense)
        except ValueError:
            self._check_condition(BAD_FIELD)
        else:
            self._next_block()

    def _serve(self, opcode: int, packet: bytes) -> bytes:
        """Do what the packet says; the answer, as much of it as is asked for. ValueError for a field that cannot be."""
        word, blocks = int.from_bytes(packet[7:9], "big"), self.tray.blocks
        match opcode:
            case 0x00 | 0xBB:  # TEST UNIT READY, SET CD SPEED
                return b""
            case 0x03:  # REQUEST SENSE
                return self._tell_sense()[: packet[4]]
            case 0x12:  # INQUIRY
                return answers.inquiry(packet)[: int.from_bytes(packet[3:5], "big")]
            case 0x1A:  # MODE SENSE (6)
                return self._mode_sense(packet, long=False)[: packet[4]]
            case 0x5A:  # MODE SENSE (10)
                return self._mode_sense(packet, long=True)[:word]
            case 0x1B:  # START STOP UNIT
                self._start_stop(packet[4])
                return b""
            case 0x1E:  # PREVENT ALLOW MEDIUM REMOVAL
                self._locked = bool(packet[4] & 1)
                return b""
            case 0x25:  # READ CAPACITY
                return (blocks - 1).to_bytes(4, "big") + CD_SECTOR.to_bytes(4, "big")
            case 0x28 | 0xA8 | 0x2B:  # READ (10), READ (12), SEEK (10)
                end = {0x28: 9, 0xA8: 10, 0x2B: 7}[opcode]
                self._read(
                    int.from_bytes(packet[2:6], "big"), int.from_bytes(packet[6 if end == 10 else 7 : end], "big")
                )
                return b""
            case 0x43:  # READ TOC/PMA/ATIP
                return answers.table_of_contents(packet, blocks)[:word]
            case 0x46:  # GET CONFIGURATION
                return answers.configuration(packet, 0 if self.tray.readable is None else blocks)[:word]
            case 0x4A:  # GET EVENT STATUS NOTIFICATION
                return self._tell_event(packet)[:word]
            case 0x51:  # READ DISC INFORMATION
                return answers.disc_information(packet)[:word]
            case 0xBD:  # MECHANISM STATUS
                return answers.mechanism_status(self.tray.is_open)[: int.from_bytes(packet[8:10], "big")]
        raise Refused(NO_SUCH_COMMAND)

    def _read(self, block: int, count: int) -> None:
        if block + max(count, 1) > self.tray.blocks:
            raise Refused(NO_SUCH_ADDRESS)
        self._at, self._left = block * CD_SECTOR, count * CD_SECTOR

    def _mode_sense(self, packet: bytes, *, long: bool) -> bytes:
        if packet[2] >> 6 == 3:
            raise Refused(NOT_SAVED)
        has_medium = self.tray.readable is not None
        return answers.mode_sense(packet[2] & 0x3F, long, self._locked, has_medium, self.tray.is_open)

    def _tell_sense(self) -> bytes:
        """Sense data are told once. A unit attention that waits is told here, too, and over then (SPC-3, 6.27)."""
        sense, self._sense = self._sense, NO_SENSE
        if sense == NO_SENSE and self._attention:
            self._attention, sense = False, CHANGED
        return answers.sense_data(*sense)

    def _tell_event(self, packet: bytes) -> bytes:
        if not packet[1] & 1:  # nobody is told later: only polling is possible
            raise Refused(BAD_FIELD)
        if not packet[4] & answers.MEDIA_CLASS:
            return answers.no_event()
        event, self._event = self._event, NO_EVENT
        return answers.media_event(event, self.tray.is_open, self.tray.medium is not None)

    def _start_stop(self, how: int) -> None:
        """LoEj with Start loads, LoEj alone ejects; to spin up or down takes nothing here."""
        if not how & 0x02:
            return
        if how & 0x01:
            if self.tray.is_open:
                self._close()
        elif self._locked:
            raise Refused(LOCKED)
        else:
            self.tray.is_open = True

    def _close(self) -> None:
        self.tray.is_open = False
        if self.tray.medium is not None:
            self._attention, self._event = True, NEW_MEDIUM

    # The host's hand.

    @property
    def is_locked(self) -> bool:
        """Whether the guest keeps the tray closed."""
        return self._locked

    def ask_to_eject(self) -> None:
        """Somebody pressed the button of a locked drive."""
        self._event = EJECT_REQUEST
        self._moved()

    def changed(self) -> None:
        """The host has put another medium onto the tray, and closed it, or taken it, and left it open."""
        self._locked = False
        if self.tray.medium is None:
            self.tray.is_open, self._attention, self._event = True, False, REMOVAL
        else:
            self._close()
        self._moved()

    # State.

    def save(self) -> State:
        """Everything but the medium."""
        return {
            "blocks": self.tray.blocks, "open": int(self.tray.is_open), "status": self.status, "error": self.error,
            "pending": int(self.pending), "locked": int(self._locked), "attention": int(self._attention),
            "event": self._event, "sense": list(self._sense), "current": bytes(self.current),
            "previous": bytes(self.previous), "packet": self._packet, "reading": self._reading,
            "position": self._position, "answer": self._answer, "at": self._at, "left": self._left,
            "limit": self._limit, "plain": int(self._plain),
        }  # fmt: skip

    def check(self, state: State) -> None:
        """ValueError unless `state` can be that of this drive, with the medium that is on its tray."""
        answers.check_state(state, self.tray.blocks)
        if tuple(state["sense"]) not in SENSES:
            raise ValueError("ATAPI state field 'sense' is no sense of this drive")

    def restore(self, state: State) -> None:
        """Take back what `save` returned and `check` passed."""
        self.tray.is_open = bool(state["open"])
        self.status, self.error, self.pending = state["status"], state["error"], bool(state["pending"])
        self._locked, self._attention, self._event = bool(state["locked"]), bool(state["attention"]), state["event"]
        key, code, qualifier = state["sense"]
        self._sense = key, code, qualifier
        self.current, self.previous = list(state["current"]), list(state["previous"])
        self._packet, self._reading, self._position = state["packet"], state["reading"], state["position"]
        self._answer, self._at, self._left = state["answer"], state["at"], state["left"]
        self._limit, self._plain = state["limit"], bool(state["plain"])
