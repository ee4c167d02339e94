"""An ATA channel of a PC: the ports and the interrupt that two drives share.

Implements: ATA/ATAPI-6 (T13/1410D) section 7 (registers), 9.2 (software reset), 9.10 (EXECUTE DEVICE DIAGNOSTIC) and
9.16 (one device on the cable), at the PC's two places: 1F0h/3F6h with IRQ 14, and 170h/376h with IRQ 15. The disks
themselves are in `ata_drive`, what they say of themselves in `ata_identify`, CD-ROM drives in `atapi_drive`. Transfers
are PIO only.

Both disks hear what is written to the Command Block; the selected one executes commands and owns data port and INTRQ.
Device 0 answers for a missing device 1, with a Status of 0. A channel or a device 0 that is missing reads all zeros,
which no driver takes for a disk: neither ready nor busy, and the 55h/AAh that probes write do not come back.

While the selected disk is busy, what is written to the Command Block is ignored: a driver that does it gets what it
asks for ("indeterminate", section 7), and a software reset through the Control Block brings the disk back.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..device import Aside, Device, IrqLine, Range, State, at_once, bit_names
from ..disk import Disk
from ..typed import TYPE_CHECKING
from .ata_drive import AtaDrive
from .ata_registers import BSY, COMMAND_NAMES, DEVICE, DEVICE_OBSOLETE

if TYPE_CHECKING:
    from ..disk.tray import Tray
    from .atapi_drive import AtapiDrive

PRIMARY = (0x1F0, 0x3F6)
"""Command Block and Control Block of the primary channel, IRQ 14."""
SECONDARY = (0x170, 0x376)
"""Command Block and Control Block of the secondary channel, IRQ 15."""

DATA, ERROR, STATUS, COMMAND = 0, 1, 7, 7

CONTROL_NIEN, CONTROL_SRST, CONTROL_HOB = 0x02, 0x04, 0x80
"""Device Control: INTRQ off, software reset, read the previous content of the 48-bit registers."""

EXECUTE_DEVICE_DIAGNOSTIC = 0x90

_READ_NAMES = ("DATA", "ERROR", "SECTOR COUNT", "LBA LOW", "LBA MID", "LBA HIGH", "DEVICE", "STATUS")
_WRITE_NAMES = ("DATA", "FEATURES", "SECTOR COUNT", "LBA LOW", "LBA MID", "LBA HIGH", "DEVICE", "COMMAND")
_BITS = {
    "STATUS": "ERR - - DRQ DSC DF DRDY BSY",
    "ALTERNATE STATUS": "ERR - - DRQ DSC DF DRDY BSY",
    "ERROR": "- - ABRT MCR IDNF MC UNC/WP ICRC",
    "DEVICE CONTROL": "- nIEN SRST - - - - HOB",
}


class AtaChannel(Device):
    """The channel whose Command Block is at port `base` and whose Control Block is at port `control`.

    `master` is device 0 and `slave` device 1; None where no disk is. `trays` are the CD-ROM drives', by the number of
    the device. Disks are flushed through `aside`. ConfigError for a disk whose size cannot be.
    """

    width = 4
    moved_by_host = False

    def __init__(
        self,
        name: str,
        base: int,
        control: int,
        irq: IrqLine,
        master: Disk | None,
        slave: Disk | None = None,
        aside: Aside = at_once,
        trays: Mapping[int, Tray] = {},
    ) -> None:
        self.name = name
        self.ports = (Range(base, 8), Range(control, 1))
        self._alternate = control - base
        self._irq = irq
        disks = (master, slave)
        both = all(disk is not None or unit in trays for unit, disk in enumerate(disks))
        self._units: list[AtaDrive | AtapiDrive | None] = [
            None if disk is None else AtaDrive(disk, unit, f"PYKVM-{base:03X}-{unit}", both, self._finished, aside)
            for unit, disk in enumerate(disks)
        ]
        self.cd_drives: list[AtapiDrive] = []
        if trays:
            from .atapi_drive import AtapiDrive

            for unit, tray in trays.items():
                made = AtapiDrive(tray, unit, f"PYKVM-{base:03X}-{unit}", both, self._finished)
                self.cd_drives.append(made)
                self._units[unit] = made
        self._drives = [drive for drive in self._units if drive is not None]
        self._control = 0
        self._select(0)

    def read(self, offset: int, size: int) -> int:
        if offset == DATA:
            return int.from_bytes(self.read_block(DATA, size, 1), "little")
        if size > 1:
            return sum(self.read(offset + lane, 1) << 8 * lane for lane in range(size))
        drive = self._answering
        if offset == STATUS or offset == self._alternate:
            if drive is None or self._selected is None:
                return 0
            if self._control & CONTROL_SRST:
                return BSY
            if offset == STATUS:
                drive.pending = False
                self._irq.set(False)
            return drive.status
        if not ERROR <= offset <= DEVICE:
            return 0xFF
        if drive is None:
            return 0
        if offset == ERROR:
            return drive.error
        if self._control & CONTROL_HOB and offset != DEVICE:
            return drive.previous[offset]
        return drive.current[offset]

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        if offset == self._alternate:
            return "ALTERNATE STATUS" if value is None else "DEVICE CONTROL"
        return (_READ_NAMES if value is None else _WRITE_NAMES)[offset]

    def explain(self, register: str, value: int, is_write: bool) -> str:
        if register == "COMMAND":
            return COMMAND_NAMES.get(value, "")
        if register == "DEVICE":
            return f"device {value >> 4 & 1}, {'LBA' if value & 0x40 else 'CHS'}"
        return bit_names(value, _BITS.get(register, ""))

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == DATA:
            if self._selected is not None:
                self._selected.give(value.to_bytes(size, "little"))
                self._update_irq()
        elif size > 1:
            for lane in range(size):
                self.write(offset + lane, 1, value >> 8 * lane & 0xFF)
        elif offset == self._alternate:
            self._set_control(value)
        elif offset <= COMMAND and not self._control & CONTROL_SRST and not self._busy:
            self._control &= ~CONTROL_HOB
            if offset == COMMAND:
                self._command(value)
            elif offset == DEVICE:
                for drive in self._drives:
                    drive.current[DEVICE] = value | DEVICE_OBSOLETE
                self._select(value >> 4 & 1)
            else:
                for drive in self._drives:
                    drive.previous[offset] = drive.current[offset]
                    drive.current[offset] = value

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        if offset != DATA:
            return super().read_block(offset, size, count)
        drive = self._selected
        if drive is None:
            return bytes(size * count)
        data = drive.take(size * count)
        self._update_irq()
        return data

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        if offset != DATA:
            super().write_block(offset, size, data)
        elif self._selected is not None:
            self._selected.give(data)
            self._update_irq()

    def reset(self) -> None:
        self._control = 0
        for drive in self._drives:
            drive.power_on()
        self._select(0)

    def save(self) -> State:
        return {
            "control": self._control,
            "unit": self._unit,
            "drives": [None if drive is None else drive.save() for drive in self._units],
        }

    def restore(self, state: State) -> None:
        control, unit, drives = state.get("control"), state.get("unit"), state.get("drives")
        if type(control) is not int or control & ~(CONTROL_NIEN | CONTROL_SRST | CONTROL_HOB):
            raise ValueError(f"{self.name}: state field 'control' is {control!r}, no value of Device Control")
        if type(unit) is not int or unit not in (0, 1):
            raise ValueError(f"{self.name}: state field 'unit' is {unit!r}, neither 0 nor 1")
        if not isinstance(drives, list) or [type(entry) for entry in drives] != [
            type(None) if drive is None else dict for drive in self._units
        ]:
            raise ValueError(f"{self.name}: the state is of a channel with other disks")
        pairs = [(drive, entry) for drive, entry in zip(self._units, drives, strict=True) if drive is not None]
        for drive, entry in pairs:
            drive.check(entry)
        for drive, entry in pairs:
            drive.restore(entry)
        self._control = control
        self._select(unit)
        self.moved_by_host = False

    def _select(self, unit: int) -> None:
        self._unit = unit
        self._selected = self._units[unit]
        self._answering = self._selected
        if self._selected is None and self._units[0] not in self.cd_drives:
            self._answering = self._units[0]
        self._update_irq()

    def _update_irq(self) -> None:
        drive = self._selected
        self._irq.set(drive is not None and drive.pending and not self._control & CONTROL_NIEN)

    @property
    def _busy(self) -> bool:
        return self._selected is not None and self._selected.status == BSY

    def _finished(self) -> None:
        self.moved_by_host = True
        self._update_irq()

    def _set_control(self, value: int) -> None:
        started = value & ~self._control & CONTROL_SRST
        self._control = value & (CONTROL_NIEN | CONTROL_SRST | CONTROL_HOB)
        if started:
            for drive in self._drives:
                drive.reset()
            self._select(0)
        self._update_irq()

    def _command(self, code: int) -> None:
        if code == EXECUTE_DEVICE_DIAGNOSTIC:
            # Both disks execute it whichever is selected; device 0 reports for both.
            for drive in self._drives:
                drive.diagnose()
                drive.pending = drive.unit == 0
            self._select(0)
        elif self._selected is not None:
            # The write itself withdraws INTRQ, so that the next one is an edge.
            self._irq.set(False)
            self._selected.command(code)
            self._update_irq()
