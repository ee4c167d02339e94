"""One ATA disk on a cable: its task file, its commands, and its side of the PIO protocols.

Implements: ATA/ATAPI-6 (T13/1410D) section 7 (registers), section 8 (commands), sections 9.4 to 9.6 (non-data, PIO
data-in and PIO data-out protocols) and 9.12 (signature); ATA/ATAPI-5 (T13/1321D) for CHS addresses, RECALIBRATE, SEEK
and INITIALIZE DEVICE PARAMETERS. There is no DMA.

What is simpler than a real disk: few commands take time. BSY is seen while the backend flushes, and while a long range
is verified, both of which are done aside; a software reset ends them. A write is complete when the backend has it; with
the write cache disabled, when the backend has flushed it. Errors of the host are reported
as UNC (reading), as a device fault with ABRT (writing) and as ABRT (flushing); a read-only disk answers writes with WP
and ABRT. A transfer stops before the DRQ block with the first bad sector, and leaves that address in the task file.
"""

from __future__ import annotations

from collections.abc import Callable

from ..device import Aside, Outside, State, at_once
from ..disk import SECTOR, Disk
from ..errors import ConfigError
from .ata_address import locate, put_address
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
from .ata_registers import (
    ABRT,
    BSY,
    COUNT,
    DEVICE,
    DEVICE_OBSOLETE,
    DF,
    DRQ,
    ERR,
    FEATURES,
    IDLE,
    IDNF,
    PASSED,
    POWER_ACTIVE,
    POWER_IDLE,
    POWER_SLEEP,
    POWER_STANDBY,
    UNC,
    WP,
)
from .ata_state import Task, check

VERIFY_CHUNK, VERIFY_AT_ONCE = 128, 2048
"""Sectors that READ VERIFY reads from the backend at a time, and before it lets others have their turn."""


def _make_way() -> bool:
    """Nothing is to be done without the machine's lock: others are to have it."""
    return True


class AtaDrive:
    """A disk as device `unit` (0 or 1). The channel hands it commands and data, and watches `pending` and `status`.

    While DRQ is set, `_reading` (to the guest) or `_writing` (from the guest) is the DRQ block in transfer, `_position`
    the next byte of it, `_lba` the sector after it and `_remaining` the number of sectors after it. At all other times
    both are empty.

    While BSY is set, `_task` is what the disk is at; `_lba` and `_remaining` are what is left of a VERIFY, `_lba` the
    first sector of a FLUSH_WRITTEN. The channel keeps the guest off it. `finished` is called when a task ends, unless
    that is within another call.
    """

    __slots__ = (
        "_block", "_extended", "_keep_settings", "_lba", "_limit", "_outside", "_position", "_power", "_reading",
        "_remaining", "_task", "_writing", "current", "disk", "error", "neighbour", "pending", "previous", "serial",
        "settings", "status", "total", "unit",
    )  # fmt: skip

    _position: int

    def __init__(
        self,
        disk: Disk,
        unit: int,
        serial: str,
        neighbour: bool,
        finished: Callable[[], None],
        aside: Aside = at_once,
    ) -> None:
        if disk.size <= 0 or disk.size % SECTOR or disk.size // SECTOR > MAX_SECTORS:
            raise ConfigError(f"a disk of {disk.size} bytes is not possible: give a multiple of 512 below 128 PiB")
        self.disk = disk
        self.unit = unit
        self.serial = serial
        self.neighbour = neighbour
        self._outside = Outside(aside, finished)
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
        self._forget_task()
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
            case 0x20 | 0x21 | 0x24 | 0xC4 | 0x29:  # READ SECTOR(S), SECTOR(S) EXT, MULTIPLE, MULTIPLE EXT
                self._read(code in (0x24, 0x29), self.settings.multiple if code in (0xC4, 0x29) else 1)
            case 0x30 | 0x31 | 0x34 | 0xC5 | 0x39:  # WRITE, the same
                self._write(code in (0x34, 0x39), self.settings.multiple if code in (0xC5, 0x39) else 1)
            case 0x40 | 0x41 | 0x42:  # READ VERIFY SECTOR(S), SECTOR(S) EXT
                self._verify(code == 0x42)
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
                self._begin(Task.FLUSH)
            case 0xF8 | 0x27:  # READ NATIVE MAX ADDRESS, ADDRESS EXT
                self._native_max(code == 0x27)
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
        """Fail, and leave the sector's address in the task file, in the form that the command used."""
        put_address(self.current, self.previous, self.settings.geometry, lba, self._extended)
        self._fail(error, fault)

    def _end_transfer(self) -> None:
        self._reading = b""
        self._writing = bytearray()
        self._position = self._lba = self._remaining = self._limit = 0
        self._block = 1
        self._extended = False

    def _locate(self, extended: bool) -> bool:
        """Take address and count from the task file; False if that already failed the command."""
        self._power = POWER_ACTIVE
        self._extended = extended
        place = locate(self.current, self.previous, self.settings.geometry, self.total, extended)
        if place is None:
            self._fail(IDNF)
            return False
        self._lba, self._remaining, self._limit = place
        return True

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
        if self._locate(extended):
            self._go_on_verifying()

    def _go_on_verifying(self) -> None:
        end = min(self._lba + min(self._remaining, VERIFY_AT_ONCE), self._limit)
        while self._lba < end:
            count = min(VERIFY_CHUNK, end - self._lba)
            try:
                self.disk.read_at(self._lba * SECTOR, count * SECTOR)
            except OSError:
                self._fail_at(self._lba, UNC)
                return
            self._lba += count
            self._remaining -= count
        if not self._remaining:
            self._end_transfer()
            self._complete()
        elif self._lba >= self._limit:
            self._fail_at(self._lba, IDNF)
        else:
            self._begin(Task.VERIFY)

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
        except OSError:
            self._fail_at(first, ABRT, DF)
            return
        if self._remaining:
            self.pending = True
            self._next_write()
        elif self.settings.write_cache:
            self._end_transfer()
            self._complete()
        else:
            self._writing, self._position, self._lba = bytearray(), 0, first
            self._begin(Task.FLUSH_WRITTEN)

    # What takes time.

    def _begin(self, task: Task) -> None:
        self._task = task
        self.status = BSY
        self.pending = False
        self._outside.begin(_make_way if task is Task.VERIFY else self._flush, self._came_back)

    def _flush(self) -> bool:
        try:
            self.disk.flush()
        except OSError:
            return False
        return True

    def _came_back(self, succeeded: bool) -> None:
        task, self._task = self._task, Task.NONE
        if task is Task.VERIFY:
            self._go_on_verifying()
        elif succeeded:
            self._end_transfer()
            self._complete()
        elif task is Task.FLUSH:
            self._fail(ABRT)
        else:
            self._fail_at(self._lba, ABRT, DF)

    def _forget_task(self) -> None:
        self._task = Task.NONE
        self._outside.forget()

    # Settings.

    def _set_features(self) -> None:
        feature = self.current[FEATURES]
        if feature in (0x66, 0xCC):  # whether a software reset keeps the settings
            self._keep_settings = feature == 0x66
        elif (settings := self.settings.with_feature(feature, self.current[COUNT])) is not None:
            self.settings = settings
        else:
            self._fail(ABRT)
            return
        if feature == 0x82:  # what the write cache held is written before it is off
            self._begin(Task.FLUSH)
        else:
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
        last = (self.total if extended else min(self.total, LBA28_SECTORS)) - 1
        put_address(self.current, self.previous, self.settings.geometry, last, extended)
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
            "task": int(self._task), "current": bytes(self.current), "previous": bytes(self.previous),
            "reading": self._reading, "writing": bytes(self._writing),
        }  # fmt: skip

    def check(self, state: State) -> None:
        """ValueError unless `state` can be that of this disk."""
        check(state, self.total)

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
        self._forget_task()
        if state["task"]:
            self._begin(Task(state["task"]))
