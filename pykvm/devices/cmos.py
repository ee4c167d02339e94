"""The PC's real-time clock and CMOS memory.

Implements: Motorola MC146818A data sheet with the 32.768 kHz time base; 128 bytes of memory and what they mean to a
BIOS as in the IBM PC/AT Technical Reference (section 5, "CMOS RAM"), the sizes of memory above 16 MiB and above 4 GiB
where Bochs and QEMU put them. Not modelled: the square wave, daylight saving, a weekday that disagrees with the date.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..device import Device, IrqLine, Range, State, bit_names

SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM = 1, 3, 5
REG_A, REG_B, REG_C, REG_D = 10, 11, 12, 13
CENTURY = 0x32
TIME_REGISTERS = frozenset({SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY})

A_UIP, A_RATE = 0x80, 0x0F
A_DIVIDER_RESET = 0x60
"""With both bits set the divider chain is held in reset."""
B_SET, B_PIE, B_AIE, B_UIE, B_BINARY, B_24_HOURS = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02
C_IRQF, C_PF, C_AF, C_UF = 0x80, 0x40, 0x20, 0x10
D_VRT = 0x80
HOUR_PM = 0x80
ALARM_ANY = 0xC0
"""An alarm byte with both bits set matches anything."""

CRYSTAL_HZ = 32768
UPDATE_CYCLES = 8 + 65
"""UIP is set for 244 µs before the update cycle and for the 1984 µs of it."""

_NAMES = {
    SECONDS: "seconds", SECONDS_ALARM: "seconds alarm", MINUTES: "minutes", MINUTES_ALARM: "minutes alarm",
    HOURS: "hours", HOURS_ALARM: "hours alarm", WEEKDAY: "weekday", DAY: "day", MONTH: "month", YEAR: "year",
    REG_A: "register A", REG_B: "register B", REG_C: "register C", REG_D: "register D", 0x0F: "shutdown status",
    0x10: "floppy drives", 0x14: "equipment", CENTURY: "century",
}  # fmt: skip
_BITS = {
    "register A": "RS0 RS1 RS2 RS3 DV0 DV1 DV2 UIP",
    "register B": "DSE 24h binary SQWE UIE AIE PIE SET",
    "register C": "- - - - UF AF PF IRQF",
    "register D": "- - - - - - - VRT",
}

_KIB, _MIB = 1 << 10, 1 << 20
_MOST = 10**12
"""Bound in seconds on a restored clock: far beyond year 9999, well within what the arithmetic can take."""


def _register(index: int) -> str:
    return _NAMES.get(index) or f"CMOS {index:#04x}"


class Cmos(Device):
    """Clock and CMOS memory at ports 0x70 and 0x71, on IRQ 8.

    `now` gives UNIX time in seconds; the guest may set its clock, which then differs from it by a constant. `low_ram`
    and `high_ram` are the bytes of RAM below and from 4 GiB on, which the CMOS memory tells of. While `next_event`
    gives a time, the machine calls `tick` then.
    """

    name = "RTC"
    moved_by_host = False  # but by `tick`, which its caller knows of
    ports = (Range(0x70, 2),)
    width = 1

    def __init__(self, irq: IrqLine, now: Callable[[], float], low_ram: int, high_ram: int = 0) -> None:
        self._irq = irq
        self._now = now
        self._low_ram = low_ram
        self._high_ram = high_ram
        self.nvram = bytearray(128)
        """All 128 bytes. The machine may fill in more, for a firmware, at 0x0E and above."""
        self._base = now() // 1
        """When, on `now`'s clock, the divider chain was at its cycle 0."""
        self._cycles = 0
        """Crystal cycles since `_base` up to which the flags in register C are right."""
        self._epoch = int(self._base)
        """What the clock showed at cycle 0, as UNIX time. While the clock is stopped, its registers hold the time."""
        self.reset()

    def reset(self) -> None:
        """The reset pin, and what a BIOS fills in at power-on. The battery keeps the time and all other memory."""
        self._index = 0
        ram = self.nvram
        self._set_registers(0x26, ram[REG_B] & (B_BINARY | B_24_HOURS))  # a stopped clock goes on from its registers
        self._set_registers(0x26, B_24_HOURS)
        ram[REG_C] = 0
        ram[REG_D] = D_VRT
        ram[0x10] = 0  # no floppy drives
        ram[0x14] = 0x02  # equipment: a coprocessor, a VGA, no floppy drives
        base = min(self._low_ram // _KIB, 640)
        extended = min(max(self._low_ram - _MIB, 0) // _KIB, 0xFFFF)
        above_16m = min(max(self._low_ram - 16 * _MIB, 0) >> 16, 0xFFFF)
        ram[0x15:0x17] = base.to_bytes(2, "little")
        ram[0x17:0x19] = ram[0x30:0x32] = extended.to_bytes(2, "little")
        ram[0x34:0x36] = above_16m.to_bytes(2, "little")
        ram[0x5B:0x5E] = min(self._high_ram >> 16, 0xFFFFFF).to_bytes(3, "little")
        self._drive_irq()

    # -- What the guest does ------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        if offset == 0:
            return 0xFF
        self._advance()
        index = self._index
        if index in TIME_REGISTERS:
            if self._counting():
                self._latch_time()
        elif index == REG_A:
            in_progress = self._counting() and self._cycles % CRYSTAL_HZ >= CRYSTAL_HZ - UPDATE_CYCLES
            return self.nvram[REG_A] | (A_UIP if in_progress else 0)
        elif index == REG_C:
            flags = self.nvram[REG_C] | (C_IRQF if self._irq.level else 0)
            self.nvram[REG_C] = 0
            self._drive_irq()
            return flags
        return self.nvram[index]

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self._index = value & 0x7F  # bit 7 is the AT's NMI mask
            return
        self._advance()
        index = self._index
        if index in TIME_REGISTERS:
            if self._counting():
                self._latch_time()
                self.nvram[index] = value
                self._load_time()
            else:
                self.nvram[index] = value
        elif index == REG_A:
            self._set_registers(value & ~A_UIP, self.nvram[REG_B])
        elif index == REG_B:
            self._set_registers(self.nvram[REG_A], value)
        elif index not in (REG_C, REG_D):
            self.nvram[index] = value

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        return "index" if offset == 0 else _register(self._index)

    def explain(self, register: str, value: int, is_write: bool) -> str:
        if register == "index":
            return _register(value & 0x7F) + (", NMI off" if value & 0x80 else "")
        return bit_names(value, _BITS.get(register, ""))

    # -- Time ---------------------------------------------------------------------------------------------------------

    def next_event(self) -> float | None:
        """When `tick` is due on `now`'s clock; None while no enabled interrupt can come.

        It is a microsecond late, so that no rounding of floats makes it early.
        """
        reg_b = self.nvram[REG_B]
        waiting = reg_b & ~self.nvram[REG_C]
        if self._irq.level or self._divider_stopped():
            return None
        due = []
        if waiting & B_PIE and (period := self._period()):
            due.append((self._cycles // period + 1) * period)
        if self._counting():
            second = self._cycles // CRYSTAL_HZ
            if waiting & B_UIE:
                due.append((second + 1) * CRYSTAL_HZ)
            if waiting & B_AIE and (alarm := self._next_alarm(self._epoch + second)) is not None:
                due.append((alarm - self._epoch) * CRYSTAL_HZ)
        return self._base + min(due) / CRYSTAL_HZ + 1e-6 if due else None

    def tick(self) -> None:
        """Raise the interrupts that are due."""
        self._advance()

    def _advance(self) -> None:
        """Let the clock run up to now: set the flags of all that happened since the last call."""
        if self._divider_stopped():
            return
        before, self._cycles = self._cycles, int((self._now() - self._base) * CRYSTAL_HZ // 1)
        period = self._period()
        if period and self._cycles // period > before // period:
            self.nvram[REG_C] |= C_PF
        if self._counting():
            last, second = before // CRYSTAL_HZ, self._cycles // CRYSTAL_HZ
            if second > last:
                self.nvram[REG_C] |= C_UF
                alarm = self._next_alarm(self._epoch + last)
                if alarm is not None and alarm <= self._epoch + second:
                    self.nvram[REG_C] |= C_AF
        self._drive_irq()

    def _drive_irq(self) -> None:
        self._irq.set(self.nvram[REG_B] & self.nvram[REG_C] & (C_PF | C_AF | C_UF) != 0)

    def _divider_stopped(self) -> bool:
        return self.nvram[REG_A] & A_DIVIDER_RESET == A_DIVIDER_RESET

    def _counting(self) -> bool:
        """Whether the time advances; if not, it is what the time registers in `nvram` say."""
        return not (self.nvram[REG_B] & B_SET or self._divider_stopped())

    def _period(self) -> int:
        """Crystal cycles between two periodic interrupts, 0 for none."""
        rate = self.nvram[REG_A] & A_RATE
        if rate in (1, 2):
            rate += 7
        return 1 << rate - 1 if rate else 0

    def _set_registers(self, reg_a: int, reg_b: int) -> None:
        """Write registers A and B: stops or starts the clock, if that is what they say."""
        was_counting, was_stopped = self._counting(), self._divider_stopped()
        if was_counting:
            self._latch_time()
        self.nvram[REG_A] = reg_a
        self.nvram[REG_B] = reg_b & ~B_UIE if reg_b & B_SET else reg_b
        if was_stopped and not self._divider_stopped():
            # The first update comes half a second after the divider chain has been let go.
            self._base = self._now() - 0.5
            self._cycles = CRYSTAL_HZ // 2
        if self._counting() and not was_counting:
            self._load_time()
        self._drive_irq()

    def _latch_time(self) -> None:
        """Put the running clock's time into its registers."""
        now = time.gmtime(self._epoch + self._cycles // CRYSTAL_HZ)
        hour = now.tm_hour
        if self.nvram[REG_B] & B_24_HOURS:
            hours = self._encode(hour)
        else:
            hours = self._encode(hour % 12 or 12) | (HOUR_PM if hour >= 12 else 0)
        self.nvram[HOURS] = hours
        for register, value in (
            (SECONDS, now.tm_sec),
            (MINUTES, now.tm_min),
            (WEEKDAY, (now.tm_wday + 1) % 7 + 1),  # Sunday is 1 here, Monday 0 there
            (DAY, now.tm_mday),
            (MONTH, now.tm_mon),
            (YEAR, now.tm_year % 100),
            (CENTURY, now.tm_year // 100 % 100),
        ):
            self.nvram[register] = self._encode(value)

    def _load_time(self) -> None:
        """Set the running clock from its registers. Any bytes give some time: 61 seconds are a minute and a second."""
        from datetime import date  # slow to import, and few guests set the clock

        field = {register: self._decode(self.nvram[register]) for register in TIME_REGISTERS}
        year = min(max(field[CENTURY] * 100 + field[YEAR], 1), 9999)
        days = date(year, (field[MONTH] - 1) % 12 + 1, 1).toordinal() - date(1970, 1, 1).toordinal() + field[DAY] - 1
        hours = self._decode_hours(self.nvram[HOURS])
        seconds = ((days * 24 + hours) * 60 + field[MINUTES]) * 60 + field[SECONDS]
        self._epoch = seconds - self._cycles // CRYSTAL_HZ

    def _encode(self, value: int) -> int:
        return value if self.nvram[REG_B] & B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, byte: int) -> int:
        return byte if self.nvram[REG_B] & B_BINARY else (byte >> 4) * 10 + (byte & 0x0F)

    def _decode_hours(self, byte: int) -> int:
        if self.nvram[REG_B] & B_24_HOURS:
            return self._decode(byte)
        return self._decode(byte & ~HOUR_PM) % 12 + (12 if byte & HOUR_PM else 0)

    def _next_alarm(self, second: int) -> int | None:
        """The first second (UNIX time) after `second` that the alarm registers match, or None if none ever does."""
        ram = self.nvram

        def matches(byte: int, value: int, count: int) -> Sequence[int]:
            """The values of 0..count-1 that an alarm byte stands for, ascending."""
            return range(count) if byte & ALARM_ANY == ALARM_ANY else (value,) if value < count else ()

        hours = matches(ram[HOURS_ALARM], self._decode_hours(ram[HOURS_ALARM]), 24)
        minutes = matches(ram[MINUTES_ALARM], self._decode(ram[MINUTES_ALARM]), 60)
        seconds = matches(ram[SECONDS_ALARM], self._decode(ram[SECONDS_ALARM]), 60)
        if not (hours and minutes and seconds):
            return None
        midnight, at = (second + 1) // 86400 * 86400, (second + 1) % 86400
        hour, minute, from_second = at // 3600, at // 60 % 60, at % 60
        # The earliest of: this minute, a later minute of this hour, a later hour of today, tomorrow.
        if hour in hours:
            if minute in minutes and seconds[-1] >= from_second:
                found = next(value for value in seconds if value >= from_second)
                return midnight + hour * 3600 + minute * 60 + found
            if minutes[-1] > minute:
                found = next(value for value in minutes if value > minute)
                return midnight + hour * 3600 + found * 60 + seconds[0]
        if hours[-1] > hour:
            found = next(value for value in hours if value > hour)
        else:
            found = 24 + hours[0]
        return midnight + found * 3600 + minutes[0] * 60 + seconds[0]

    # -- State --------------------------------------------------------------------------------------------------------

    def save(self) -> State:
        """Times are on `now`'s clock: where that has gone on when the state is restored, so has the guest's."""
        self._advance()
        return {
            "index": self._index,
            "nvram": bytes(self.nvram),
            "base": self._base,
            "cycles": self._cycles,
            "epoch": self._epoch,
        }

    def restore(self, state: State) -> None:
        index, nvram, base = state.get("index"), state.get("nvram"), state.get("base")
        cycles, epoch = state.get("cycles"), state.get("epoch")
        if type(index) is not int or not 0 <= index < 128:
            raise ValueError(f"{self.name}: state field 'index' is {index!r}, not 0..127")
        if type(nvram) is not bytes or len(nvram) != 128:
            raise ValueError(f"{self.name}: state field 'nvram' is not 128 bytes")
        if nvram[REG_A] & A_UIP or nvram[REG_C] & ~(C_PF | C_AF | C_UF) or nvram[REG_D] != D_VRT:
            raise ValueError(f"{self.name}: state field 'nvram' has bits in registers A, C or D that are never stored")
        if type(base) is not float or not -_MOST <= base <= _MOST:
            raise ValueError(f"{self.name}: state field 'base' is {base!r}, not a time in seconds")
        if type(epoch) is not int or abs(epoch) > _MOST:
            raise ValueError(f"{self.name}: state field 'epoch' is {epoch!r}, not a time in seconds")
        if type(cycles) is not int or abs(cycles) > _MOST * CRYSTAL_HZ:
            raise ValueError(f"{self.name}: state field 'cycles' is {cycles!r}, not a number of crystal cycles")
        self._index = index
        self.nvram[:] = nvram
        self._base, self._cycles, self._epoch = base, cycles, epoch
        self._drive_irq()
        self._advance()
