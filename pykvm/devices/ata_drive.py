"""One ATA disk on a cable: its task file, its commands, and its side of the PIO protocols.

Implements: ATA/ATAPI-6 (T13/1410D) section 7 (registers), section 8 (commands), sections 9.4 to 9.6 (non-data, PIO
data-in and PIO data-out protocols) and 9.12 (signature); ATA/ATAPI-5 (T13/1321D) for CHS addresses, RECALIBRATE, SEEK
and INITIALIZE DEVICE PARAMETERS. There is no DMA.

What is simpler than a real disk: a command takes no time, so BSY is never seen outside a reset. A write is complete
when the backend has it; with the write cache disabled, when the backend has flushed it. Errors of the host are reported
as UNC (reading), as a device fault with ABRT (writing) and as ABRT (flushing); a read-only disk answers writes with WP
and ABRT. A transfer stops before the DRQ block with the first bad sector, and leaves that address in the task file.
"""

from __future__ import annotations

from ..device import State
from ..disk import SECTOR, Disk
from ..errors import ConfigError
from .ata_identify import (
    LBA28_SECTORS,
    MAX_SECTORS,
    MULTIPLE_MAX,
    Geometry,
    Settings,
    default_geometry,
    identify_device,
    translated_geometry,
)

# Task file: Command Block registers by their offset.
FEATURES, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE = 1, 2, 3, 4, 5, 6

# Status register.
BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01
IDLE = DRDY | DSC

# Error register. WP shares its bit with UNC: one is for writing, the other for reading.
UNC, WP, IDNF, ABRT = 0x40, 0x40, 0x10, 0x04
PASSED = 0x01
"""The diagnostic code of a healthy disk."""

DEVICE_LBA, DEVICE_OBSOLETE = 0x40, 0xA0
"""Device register: LBA instead of CHS; the two bits that always read one."""

# What CHECK POWER MODE answers. Sleep never answers: it has no code of its own.
POWER_ACTIVE, POWER_IDLE, POWER_STANDBY, POWER_SLEEP = 0xFF, 0x80, 0x00, 0x01

COMMAND_NAMES = {
    0x00: "NOP", 0x20: "READ SECTORS", 0x21: "READ SECTORS", 0x24: "READ SECTORS EXT", 0x25: "READ DMA EXT",
    0x27: "READ NATIVE MAX ADDRESS EXT", 0x29: "READ MULTIPLE EXT", 0x30: "WRITE SECTORS", 0x31: "WRITE SECTORS",
    0x34: "WRITE SECTORS EXT", 0x35: "WRITE DMA EXT", 0x39: "WRITE MULTIPLE EXT", 0x40: "READ VERIFY SECTORS",
    0x41: "READ VERIFY SECTORS", 0x42: "READ VERIFY SECTORS EXT", 0x70: "SEEK", 0x90: "EXECUTE DEVICE DIAGNOSTIC",
    0x91: "INITIALIZE DEVICE PARAMETERS", 0x94: "STANDBY IMMEDIATE", 0x95: "IDLE IMMEDIATE", 0x96: "STANDBY",
    0x97: "IDLE", 0x98: "CHECK POWER MODE", 0x99: "SLEEP", 0xA0: "PACKET", 0xA1: "IDENTIFY PACKET DEVICE",
    0xC4: "READ MULTIPLE", 0xC5: "WRITE MULTIPLE", 0xC6: "SET MULTIPLE MODE", 0xC8: "READ DMA", 0xCA: "WRITE DMA",
    0xE0: "STANDBY IMMEDIATE", 0xE1: "IDLE IMMEDIATE", 0xE2: "STANDBY", 0xE3: "IDLE", 0xE5: "CHECK POWER MODE",
    0xE6: "SLEEP", 0xE7: "FLUSH CACHE", 0xEA: "FLUSH CACHE EXT", 0xEC: "IDENTIFY DEVICE", 0xEF: "SET FEATURES",
    0xF8: "READ NATIVE MAX ADDRESS", **dict.fromkeys(range(0x10, 0x20), "RECALIBRATE"),
}  # fmt: skip
"""What a driver may send, by its code: not all of it is implemented."""

VERIFY_CHUNK = 128
"""Sectors that READ VERIFY reads from the backend at a time."""

_STATE_LIMITS = {
    "total": MAX_SECTORS, "status": 0xFF, "error": 0xFF, "pending": 1, "power": 0xFF, "keep_settings": 1,
    "cylinders": 0xFFFF, "heads": 16, "sectors": 255, "multiple": MULTIPLE_MAX, "write_cache": 1, "look_ahead": 1,
    "position": MULTIPLE_MAX * SECTOR, "lba": MAX_SECTORS, "remaining": 0x10000,
    "limit": MAX_SECTORS, "block": MULTIPLE_MAX, "extended": 1,
}  # fmt: skip
"""The numbers in a saved state and the largest value of each."""
_BLOCK_SIZES = range(0, (MULTIPLE_MAX + 1) * SECTOR, SECTOR)
_STATE_SIZES = {"current": (7,), "previous": (7,), "reading": _BLOCK_SIZES, "writing": _BLOCK_SIZES}
"""The bytes in a saved state and the lengths they can have."""


class AtaDrive:
    """A disk as device `unit` (0 or 1). The channel hands it commands and data, and watches `pending` and `status`.

    While DRQ is set, `_reading` (to the guest) or `_writing` (from the guest) is the DRQ block in transfer, `_position`
    the next byte of it, `_lba` the sector after it and `_remaining` the number of sectors after it. At all other times
    both are empty.
    """

    __slots__ = (
        "_block", "_extended", "_keep_settings", "_lba", "_limit", "_position", "_power", "_reading", "_remaining",
        "_writing", "current", "disk", "error", "neighbour", "pending", "previous", "serial", "settings", "status",
        "total", "unit",
    )  # fmt: skip

    _position: int

    def __init__(self, disk: Disk, unit: int, serial: str, neighbour: bool) -> None:
        if disk.size <= 0 or disk.size % SECTOR or disk.size // SECTOR > MAX_SECTORS:
            raise ConfigError(f"a disk of {disk.size} bytes is not possible: give a multiple of 512 below 128 PiB")
        self.disk = disk
        self.unit = unit
        self.serial = serial
        self.neighbour = neighbour
        self.total = disk.size // SECTOR
        self.power_on()

    def power_on(self) -> None:
        """Everything as after power-on."""
        self._keep_settings = False
        self.reset()

    def reset(self) -> None:
        """A software reset: transfers end, the signature is posted, settings revert unless told to stay."""
        if not self._keep_settings:
            self.settings = Settings(default_geometry(self.total))
        self.pending = False
        self.diagnose()

    def diagnose(self) -> None:
        """Report good health and the signature of an ATA disk."""
        self._end_transfer()
        self._power = POWER_ACTIVE
        self.status = IDLE
        self.error = PASSED
        # Bytes by register offset. `previous` are those that a driver reads with HOB set.
        self.current = [0, 0, 1, 1, 0, 0, DEVICE_OBSOLETE]
        self.previous = [0] * 7

    # The data port.

    def take(self, length: int) -> bytes:
        """The next `length` bytes that the guest reads; zeros where there is no data to read."""
        start = self._position
        end = start + length
        if end < len(self._reading):
            self._position = end
            return self._reading[start:end]
        taken = b""
        while len(taken) < length and self._reading:
            start = self._position
            self._position = end = start + length - len(taken)
            taken += self._reading[start:end]
            if end >= len(self._reading):
                self._next_read()
        return taken.ljust(length, b"\0")

    def give(self, data: bytes) -> None:
        """Bytes that the guest writes; dropped where none are asked for."""
        start = self._position
        end = start + len(data)
        if end < len(self._writing):
            self._writing[start:end] = data
            self._position = end
            return
        at = 0
        while at < len(data) and self._writing:
            start = self._position
            self._position = end = min(start + len(data) - at, len(self._writing))
            self._writing[start:end] = data[at : at + end - start]
            at += end - start
            if end == len(self._writing):
                self._store()

    # Commands.

    def command(self, code: int) -> None:
        """Execute a command, as far as it goes without data from the guest."""
        if self._power == POWER_SLEEP:
            return
        self._end_transfer()
        self.pending = False
        self.status = IDLE
        self.error = 0
        match code:
            case 0x20 | 0x21:  # READ SECTOR(S)
                self._read(False, 1)
            case 0x24:  # READ SECTOR(S) EXT
                self._read(True, 1)
            case 0xC4:  # READ MULTIPLE
                self._read(False, self.settings.multiple)
            case 0x29:  # READ MULTIPLE EXT
                self._read(True, self.settings.multiple)
            case 0x30 | 0x31:  # WRITE SECTOR(S)
                self._write(False, 1)
            case 0x34:  # WRITE SECTOR(S) EXT
                self._write(True, 1)
            case 0xC5:  # WRITE MULTIPLE
                self._write(False, self.settings.multiple)
            case 0x39:  # WRITE MULTIPLE EXT
                self._write(True, self.settings.multiple)
            case 0x40 | 0x41:  # READ VERIFY SECTOR(S)
                self._verify(False)
            case 0x42:  # READ VERIFY SECTOR(S) EXT
                self._verify(True)
            case 0x70:  # SEEK
                self._seek()
            case _ if code & 0xF0 == 0x10:  # RECALIBRATE
                self._complete()
            case 0xEC:  # IDENTIFY DEVICE
                self._remaining = 0
                self._send(identify_device(self.total, self.serial, self.unit, self.neighbour, self.settings))
            case 0xEF:  # SET FEATURES
                self._set_features()
            case 0xC6:  # SET MULTIPLE MODE
                self._set_multiple()
            case 0x91:  # INITIALIZE DEVICE PARAMETERS
                self._initialize_parameters()
            case 0xE7 | 0xEA:  # FLUSH CACHE, FLUSH CACHE EXT
                self._flush()
            case 0xF8:  # READ NATIVE MAX ADDRESS
                self._native_max(False)
            case 0x27:  # READ NATIVE MAX ADDRESS EXT
                self._native_max(True)
            case 0xE5 | 0x98:  # CHECK POWER MODE
                self.current[COUNT] = self._power
                self._complete()
            case 0xE0 | 0xE2 | 0x94 | 0x96:  # STANDBY IMMEDIATE, STANDBY
                self._set_power(POWER_STANDBY)
            case 0xE1 | 0xE3 | 0x95 | 0x97:  # IDLE IMMEDIATE, IDLE
                self._set_power(POWER_IDLE)
            case 0xE6 | 0x99:  # SLEEP
                self._set_power(POWER_SLEEP)
            case _:  # NOP, all that needs DMA or PACKET, and what is not implemented
                self._fail(ABRT)

    def _complete(self) -> None:
        self.status = IDLE
        self.pending = True

    def _fail(self, error: int, fault: int = 0) -> None:
        self._end_transfer()
        self.status = IDLE | ERR | fault
        self.error = error
        self.pending = True

    def _fail_at(self, lba: int, error: int, fault: int = 0) -> None:
        self._put_address(lba)
        self._fail(error, fault)

    def _end_transfer(self) -> None:
        self._reading = b""
        self._writing = bytearray()
        self._position = self._lba = self._remaining = self._limit = 0
        self._block = 1
        self._extended = False

    def _locate(self, extended: bool) -> bool:
        """Take address and count from the task file; False if that already failed the command.

        `_limit` becomes the first sector that this kind of address cannot reach.
        """
        self._power = POWER_ACTIVE
        _, _, count, low, mid, high, device = self.current
        self._extended = extended
        if extended:
            _, _, count_before, *before = self.previous[:6]
            self._remaining = count_before << 8 | count or 0x10000
            self._lba = int.from_bytes(bytes((low, mid, high, *before)), "little")
            self._limit = self.total
            return True
        self._remaining = count or 256
        if device & DEVICE_LBA:
            self._lba = (device & 0x0F) << 24 | high << 16 | mid << 8 | low
            self._limit = min(self.total, LBA28_SECTORS)
            return True
        geometry = self.settings.geometry
        head = device & 0x0F
        if head >= geometry.heads or not 1 <= low <= geometry.sectors:
            self._fail(IDNF)
            return False
        self._lba = ((high << 8 | mid) * geometry.heads + head) * geometry.sectors + low - 1
        self._limit = geometry.capacity
        return True

    def _put_address(self, lba: int) -> None:
        """Leave a sector's address in the task file, in the form that the command used.

        A guest that changed the Device register in the middle of a transfer gets as much of it as fits that form.
        """
        if self._extended:
            low, mid, high, *before = lba.to_bytes(6, "little")
            self.previous[LBA_LOW : LBA_HIGH + 1] = before
            top = self.current[DEVICE] & 0x0F
        elif self.current[DEVICE] & DEVICE_LBA:
            low, mid, high, top = (lba & 0x0FFF_FFFF).to_bytes(4, "little")
        else:
            geometry = self.settings.geometry
            track, sector = divmod(lba, geometry.sectors)
            cylinder, top = divmod(track, geometry.heads)
            low, mid, high = sector + 1, cylinder & 0xFF, cylinder >> 8 & 0xFF
        self.current[LBA_LOW:] = low, mid, high, self.current[DEVICE] & 0xF0 | top

    # Reading.

    def _read(self, extended: bool, block: int) -> None:
        if block == 0:
            self._fail(ABRT)
        elif self._locate(extended):
            self._block = block
            self._next_read()

    def _next_read(self) -> None:
        """The DRQ block is with the guest: offer the next one, or end."""
        count = min(self._block, self._remaining)
        if count == 0:
            self._end_transfer()
            self.status = IDLE  # without an interrupt: the last one announced the block, not its end
            return
        if self._lba + count > self._limit:
            self._fail_at(max(self._lba, self._limit), IDNF)
            return
        try:
            data = self.disk.read_at(self._lba * SECTOR, count * SECTOR)
        except OSError:
            self._fail_at(self._lba, UNC)
            return
        self._lba += count
        self._remaining -= count
        self._send(data)

    def _send(self, data: bytes) -> None:
        self._reading = data
        self._position = 0
        self.status = IDLE | DRQ
        self.pending = True

    def _verify(self, extended: bool) -> None:
        if not self._locate(extended):
            return
        end = self._lba + self._remaining
        while self._lba < min(end, self._limit):
            count = min(VERIFY_CHUNK, min(end, self._limit) - self._lba)
            try:
                self.disk.read_at(self._lba * SECTOR, count * SECTOR)
            except OSError:
                self._fail_at(self._lba, UNC)
                return
            self._lba += count
        if self._lba < end:
            self._fail_at(self._lba, IDNF)
        else:
            self._end_transfer()
            self._complete()

    def _seek(self) -> None:
        if self._locate(False):
            if self._lba >= self._limit:
                self._fail_at(self._lba, IDNF)
            else:
                self._end_transfer()
                self._complete()

    # Writing.

    def _write(self, extended: bool, block: int) -> None:
        if block == 0:
            self._fail(ABRT)
        elif self.disk.read_only:
            self._fail(WP | ABRT)
        elif self._locate(extended):
            self._block = block
            self._next_write()

    def _next_write(self) -> None:
        """Ask for the next DRQ block. The caller raises the interrupt, which the first block does not have."""
        count = min(self._block, self._remaining)
        if self._lba + count > self._limit:
            self._fail_at(max(self._lba, self._limit), IDNF)
            return
        self._lba += count
        self._remaining -= count
        self._writing = bytearray(count * SECTOR)
        self._position = 0
        self.status = IDLE | DRQ

    def _store(self) -> None:
        """The DRQ block is complete: give it to the backend, then ask for the next one or end."""
        first = self._lba - len(self._writing) // SECTOR
        try:
            self.disk.write_at(first * SECTOR, bytes(self._writing))
            if self._remaining == 0 and not self.settings.write_cache:
                self.disk.flush()
        except OSError:
            self._fail_at(first, ABRT, DF)
            return
        if self._remaining:
            self.pending = True
            self._next_write()
        else:
            self._end_transfer()
            self._complete()

    def _flush(self) -> None:
        try:
            self.disk.flush()
        except OSError:
            self._fail(ABRT)
        else:
            self._complete()

    # Settings.

    def _set_features(self) -> None:
        change = self.settings._replace
        match self.current[FEATURES]:
            case 0x02:  # enable the write cache
                self.settings = change(write_cache=True)
            case 0x82:  # disable it: what it holds is written first
                self.settings = change(write_cache=False)
                self._flush()
                return
            case 0x03:  # transfer mode: PIO default, PIO default without IORDY, PIO mode 0..4
                if self.current[COUNT] not in (0x00, 0x01, 0x08, 0x09, 0x0A, 0x0B, 0x0C):
                    self._fail(ABRT)
                    return
            case 0xAA:
                self.settings = change(look_ahead=True)
            case 0x55:
                self.settings = change(look_ahead=False)
            case 0x66:  # a software reset keeps the settings
                self._keep_settings = True
            case 0xCC:  # a software reset reverts them
                self._keep_settings = False
            case _:
                self._fail(ABRT)
                return
        self._complete()

    def _set_multiple(self) -> None:
        count = self.current[COUNT]
        if count > MULTIPLE_MAX or count & (count - 1):
            self.settings = self.settings._replace(multiple=0)
            self._fail(ABRT)
            return
        self.settings = self.settings._replace(multiple=count)
        self._complete()

    def _initialize_parameters(self) -> None:
        geometry = translated_geometry(self.total, (self.current[DEVICE] & 0x0F) + 1, self.current[COUNT])
        if geometry is None:
            self._fail(ABRT)
            return
        self.settings = self.settings._replace(geometry=geometry)
        self._complete()

    def _native_max(self, extended: bool) -> None:
        self._extended = extended
        self._put_address((self.total if extended else min(self.total, LBA28_SECTORS)) - 1)
        self._extended = False
        self._complete()

    def _set_power(self, power: int) -> None:
        self._power = power
        self._complete()

    # State.

    def save(self) -> State:
        """Everything but the data of the disk."""
        settings, geometry = self.settings, self.settings.geometry
        return {
            "total": self.total, "status": self.status, "error": self.error, "pending": int(self.pending),
            "power": self._power, "keep_settings": int(self._keep_settings), "cylinders": geometry.cylinders,
            "heads": geometry.heads, "sectors": geometry.sectors, "multiple": settings.multiple,
            "write_cache": int(settings.write_cache), "look_ahead": int(settings.look_ahead),
            "position": self._position, "lba": self._lba, "remaining": self._remaining, "limit": self._limit,
            "block": self._block, "extended": int(self._extended),
            "current": bytes(self.current), "previous": bytes(self.previous),
            "reading": self._reading, "writing": bytes(self._writing),
        }  # fmt: skip

    def check(self, state: State) -> None:
        """ValueError unless `restore` can take `state`."""
        for name, most in _STATE_LIMITS.items():
            value = state.get(name)
            if type(value) is not int or not 0 <= value <= most:
                raise ValueError(f"ATA state field {name!r} is {value!r}, not a number in 0..{most:#x}")
        for name, sizes in _STATE_SIZES.items():
            value = state.get(name)
            if type(value) is not bytes or len(value) not in sizes:
                raise ValueError(f"ATA state field {name!r} is not bytes of a length that it can have")
        if state["total"] != self.total:
            raise ValueError(f"the ATA state is of a disk of {state['total']} sectors, this one has {self.total}")
        block = state["reading"] or state["writing"]
        geometry = Geometry(state["cylinders"], state["heads"], state["sectors"])
        fits = (
            0 < geometry.capacity <= self.total
            and state["multiple"].bit_count() <= 1
            and state["power"] in (POWER_ACTIVE, POWER_IDLE, POWER_STANDBY, POWER_SLEEP)
            and state["status"] in ((IDLE | DRQ,) if block else (IDLE, IDLE | ERR, IDLE | ERR | DF))
            and not (state["reading"] and state["writing"])
            and state["position"] < max(len(block), 1)
            and state["block"] > 0
            and state["lba"] <= state["limit"] <= self.total
            and len(state["writing"]) <= state["lba"] * SECTOR
        )
        if not fits:
            raise ValueError("the fields of this ATA state contradict each other")

    def restore(self, state: State) -> None:
        """Take back what `save` returned and `check` passed."""
        self.settings = Settings(
            Geometry(state["cylinders"], state["heads"], state["sectors"]),
            state["multiple"],
            bool(state["write_cache"]),
            bool(state["look_ahead"]),
        )
        self.status, self.error, self.pending = state["status"], state["error"], bool(state["pending"])
        self._power, self._keep_settings = state["power"], bool(state["keep_settings"])
        self._position, self._lba, self._remaining = state["position"], state["lba"], state["remaining"]
        self._limit, self._block, self._extended = state["limit"], state["block"], bool(state["extended"])
        self.current, self.previous = list(state["current"]), list(state["previous"])
        self._reading, self._writing = state["reading"], bytearray(state["writing"])
