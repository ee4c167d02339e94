"""The ACPI fixed hardware: PM1 event and control registers and the power management timer.

Implements: ACPI specification 6.5, sections 4.8.3.1 (PM1 event group), 4.8.3.2 (PM1 control) and 4.8.3.3 (PM timer,
24 bits here), at the offsets of the Intel PIIX4 (82371AB data sheet, section 7.2), where QEMU's PC has them. The
machine is always in ACPI mode: SCI_EN reads 1 and there is no SMI command port, so the FADT's SMI_CMD must be 0.
SLP_TYP 0 is S5, as in QEMU's PC: `outw(0x604, 0x2000)` powers the machine off, and so does its S4 (SLP_TYP 2), in which
the guest has written all of itself to its disk. Other sleep states do not exist, and the tables name none of them: who
asks for one all the same is awake again at once, and finds WAK_STS set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..device import Device, IrqLine, Range, State, bit_names

PM_BASE = 0x600
PM_LENGTH = 12

PM1_STATUS = 0
PM1_ENABLE = 2
PM1_CONTROL = 4
PM_TIMER = 8

TMR_STS, GBL_STS, PWRBTN_STS, SLPBTN_STS, RTC_STS, WAK_STS = 1 << 0, 1 << 5, 1 << 8, 1 << 9, 1 << 10, 1 << 15
STATUS_MASK = TMR_STS | GBL_STS | PWRBTN_STS | SLPBTN_STS | RTC_STS | WAK_STS
ENABLE_MASK = TMR_STS | GBL_STS | PWRBTN_STS | SLPBTN_STS | RTC_STS
"""Each event's enable bit is at its status bit's place; waking up has none."""

SCI_EN, BM_RLD, SLP_TYP, SLP_EN = 1 << 0, 1 << 1, 7 << 10, 1 << 13
SLP_TYP_S5, SLP_TYP_S4 = 0 << 10, 2 << 10

TIMER_HZ = 3_579_545
TIMER_BITS = 24
_HALF = 1 << TIMER_BITS - 1
"""TMR_STS is set each time the timer's top bit changes: after this many ticks."""
_NS = 1_000_000_000


class AcpiPm(Device):
    """The fixed hardware at ports 0x600 to 0x60B.

    `sci` is the level-triggered system control interrupt; `on_poweroff` is called when the guest enters S5; `now`
    gives nanoseconds of a monotonic clock. While `next_event` gives a time, the machine calls `tick` then.
    """

    name = "ACPI PM"
    ports = (Range(PM_BASE, PM_LENGTH),)
    register_names: Mapping[int, str] = {
        PM1_STATUS: "PM1_STS", PM1_ENABLE: "PM1_EN", PM1_CONTROL: "PM1_CNT", PM_TIMER: "PM_TMR",
    }  # fmt: skip

    def __init__(self, sci: IrqLine, on_poweroff: Callable[[], None], now: Callable[[], int]) -> None:
        self._sci = sci
        self._on_poweroff = on_poweroff
        self._now = now
        self.reset()

    def reset(self) -> None:
        self._status = 0
        self._enable = 0
        self._control = SCI_EN
        self._start = self._now()
        self._halves = 0
        """Changes of the timer's top bit that TMR_STS has been told of."""
        self._update()

    def read(self, offset: int, size: int) -> int:
        if offset == PM_TIMER and size == 4:
            return self._ticks() & (1 << TIMER_BITS) - 1
        self._update()
        registers = self._status | self._enable << 16 | self._control << 32
        if offset + size > PM_TIMER:
            registers |= (self._ticks() & (1 << TIMER_BITS) - 1) << 64
        return registers >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self._update()
        bits = value << 8 * offset
        lanes = (1 << 8 * size) - 1 << 8 * offset
        self._status &= ~bits
        lane = lanes >> 8 * PM1_ENABLE
        self._enable = (self._enable & ~lane | bits >> 8 * PM1_ENABLE) & ENABLE_MASK
        lane = lanes >> 8 * PM1_CONTROL & (BM_RLD | SLP_TYP)
        self._control = self._control & ~lane | bits >> 8 * PM1_CONTROL & lane
        if bits >> 8 * PM1_CONTROL & SLP_EN:
            if self._control & SLP_TYP in (SLP_TYP_S5, SLP_TYP_S4):
                self._on_poweroff()
            else:
                self._status |= WAK_STS
        self._update()

    def explain(self, register: str, value: int, is_write: bool) -> str:
        if register == "PM1_CNT":
            sleep = f" SLP_TYP={value >> 10 & 7}" if value & SLP_EN else ""
            return bit_names(value & ~SLP_TYP, "SCI_EN BM_RLD GBL_RLS - - - - - - - - - - SLP_EN") + sleep
        if register in ("PM1_STS", "PM1_EN"):
            return bit_names(value, "TMR - - - BM GBL - - PWRBTN SLPBTN RTC - - - PCIEXP WAK")
        return ""

    def press_power_button(self) -> None:
        """The user presses the power button: a guest that enabled its event shuts down in its own way."""
        self._status |= PWRBTN_STS
        self._update()

    def next_event(self) -> int | None:
        """When `tick` is due, in nanoseconds of `now`; None while the guest does not want the timer's interrupt."""
        if not self._enable & TMR_STS or self._status & TMR_STS:
            return None
        return self._start + -(-(self._halves + 1) * _HALF * _NS // TIMER_HZ)

    def tick(self) -> None:
        """Raise the timer's event if it is due."""
        self._update()

    def _ticks(self) -> int:
        return (self._now() - self._start) * TIMER_HZ // _NS

    def _update(self) -> None:
        halves = self._ticks() // _HALF
        if halves != self._halves:
            self._halves = halves
            self._status |= TMR_STS
        self._sci.set(self._status & self._enable != 0)

    def save(self) -> State:
        self._update()
        return {
            "status": self._status,
            "enable": self._enable,
            "control": self._control,
            "elapsed": self._now() - self._start,
        }

    def restore(self, state: State) -> None:
        allowed = {
            "status": STATUS_MASK,
            "enable": ENABLE_MASK,
            "control": SCI_EN | BM_RLD | SLP_TYP,
            "elapsed": (1 << 63) - 1,
        }
        for name, mask in allowed.items():
            value = state.get(name)
            if type(value) is not int or value < 0 or value & ~mask:
                raise ValueError(f"{self.name}: state field {name!r} is {value!r}, which has bits outside {mask:#x}")
        if not state["control"] & SCI_EN:
            raise ValueError(f"{self.name}: state field 'control' lacks SCI_EN, which is always set")
        self._status = state["status"]
        self._enable = state["enable"]
        self._control = state["control"]
        self._start = self._now() - state["elapsed"]
        self._halves = state["elapsed"] * TIMER_HZ // _NS // _HALF
        self._update()
