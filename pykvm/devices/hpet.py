"""The high precision event timer: a counter of 100 MHz, and three comparators that interrupt.

Implements: IA-PC HPET specification 1.0a, sections 2.3.1 to 2.3.9 (registers; 2.3.9.2.2 for what is written to the
comparator of a periodic timer) and 2.4.1 (interrupt routing, legacy replacement), at the address and with the frequency
and number of timers of QEMU's. The comparators have 64 bits; all three can be periodic. There is no FSB delivery.

The counter is the host's clock. A period may be shorter than what the host can serve: interrupts come no closer than
`CLOSEST` then, and one stands for all that were due.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..device import Device, IrqLine, Range, State, bit_names

BASE, LENGTH = 0xFED00000, 0x400
TIMERS = 3
TICK_NS = 10
_PERIOD_FS = TICK_NS * 1_000_000
LEGACY_TIMERS = 2
"""So many timers have a line of their own under legacy replacement: IRQ 0, IRQ 8."""
ROUTES = range(16, 24)
"""The IOAPIC inputs that a timer can be routed to: nothing else is there."""
CLOSEST = 50_000
"""Nanoseconds."""

CAPABILITIES, CONFIGURATION, STATUS, COUNTER, FIRST_TIMER, TIMER_SIZE = 0x000, 0x010, 0x020, 0x0F0, 0x100, 0x20
_CAPABILITIES = _PERIOD_FS << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | TIMERS - 1 << 8 | 1
"""Legacy replacement, a 64-bit counter."""
ENABLE, LEGACY = 1 << 0, 1 << 1
LEVEL, INTERRUPT, PERIODIC, SET_VALUE, MODE_32 = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 8
_ROUTE_AT, _ROUTE = 9, 31
_WRITABLE = LEVEL | INTERRUPT | PERIODIC | SET_VALUE | MODE_32 | _ROUTE << _ROUTE_AT
_FIXED = sum(1 << route for route in ROUTES) << 32 | 1 << 5 | 1 << 4
"""What of a timer's configuration cannot be changed: its routes, 64 bits, periods."""
_MASK_64, _MASK_32 = (1 << 64) - 1, (1 << 32) - 1


class _Timer:
    """A timer's registers. `due` is the tick, counted on without a wrap, at which it interrupts; None while it does
    not run."""

    __slots__ = ("comparator", "configuration", "due", "period")

    def __init__(self) -> None:
        self.configuration, self.comparator, self.period = 0, _MASK_64, 0
        self.due: int | None = None

    @property
    def mask(self) -> int:
        return _MASK_32 if self.configuration & MODE_32 else _MASK_64

    @property
    def route(self) -> int:
        return self.configuration >> _ROUTE_AT & _ROUTE


class Hpet(Device):
    """`legacy` are the lines of IRQ 0 and IRQ 8, `routed` those of `ROUTES`. `replace` is called with whether the
    timers stand in for the interrupts of 8254 and RTC. `now` gives nanoseconds of a monotonic clock. While `next_event`
    gives a time, the machine calls `tick` then.
    """

    name = "HPET"
    mmio = (Range(BASE, LENGTH),)
    width = 8

    def __init__(
        self,
        legacy: Sequence[IrqLine],
        routed: Sequence[IrqLine],
        replace: Callable[[bool], None],
        now: Callable[[], int],
    ) -> None:
        self._legacy, self._routed, self._replace, self._now = legacy, routed, replace, now
        self._configuration = 0
        self.reset()

    def reset(self) -> None:
        self._configure(0)
        self._status = 0
        self._counter = 0
        """What the counter holds while it stands; while it runs, what it held at `_since`, in nanoseconds."""
        self._since = 0
        self._fired = self._now() - CLOSEST
        self._timers = [_Timer() for _ in range(TIMERS)]
        self._drive()

    # The counter

    def _ticks(self) -> int:
        """The counter, which is not cut to 64 bits here."""
        if not self._configuration & ENABLE:
            return self._counter
        return self._counter + (self._now() - self._since) // TICK_NS

    def _arm(self, timer: _Timer) -> None:
        """Find out when the comparator is met next: at once if it is met now, after a wrap if it was."""
        if not self._configuration & ENABLE:
            timer.due = None
            return
        ticks = self._ticks()
        timer.due = ticks + (timer.comparator - ticks & timer.mask)

    def _arm_all(self) -> None:
        for timer in self._timers:
            self._arm(timer)

    def next_event(self) -> int | None:
        """When `tick` is due, in nanoseconds of `now`; None while no timer interrupts."""
        dues = [timer.due for timer in self._timers if timer.due is not None and timer.configuration & INTERRUPT]
        if not dues:
            return None
        return max(self._since + (min(dues) - self._counter) * TICK_NS, self._fired + CLOSEST)

    def tick(self) -> None:
        """Have those timers interrupt that are due."""
        ticks = self._ticks()
        for number, timer in enumerate(self._timers):
            if timer.due is not None and timer.due <= ticks:
                self._meet(timer, ticks)
                self._fire(number, timer)

    def _meet(self, timer: _Timer, ticks: int) -> None:
        """The comparator has been met: it is a period further on, or comes again when the counter has wrapped."""
        assert timer.due is not None
        step = timer.mask + 1
        if timer.configuration & PERIODIC and timer.period & timer.mask:
            step = timer.period & timer.mask
        periods = (ticks - timer.due) // step + 1
        timer.due += periods * step
        if timer.configuration & PERIODIC:
            timer.comparator = timer.comparator & ~timer.mask | timer.due & timer.mask

    def _fire(self, number: int, timer: _Timer) -> None:
        self._fired = self._now()
        if timer.configuration & LEVEL:
            self._status |= 1 << number
            self._drive()
        elif timer.configuration & INTERRUPT:
            line = self._line(number)
            if line is not None:
                line.pulse()

    def _line(self, number: int) -> IrqLine | None:
        if self._configuration & LEGACY and number < LEGACY_TIMERS:
            return self._legacy[number]
        route = self._timers[number].route
        return self._routed[route - ROUTES.start] if route in ROUTES else None

    def _drive(self) -> None:
        """Have the lines at the levels of the timers that hold theirs."""
        high = {
            id(self._line(number))
            for number, timer in enumerate(self._timers)
            if self._status >> number & 1 and timer.configuration & LEVEL and timer.configuration & INTERRUPT
        }
        for line in (*self._legacy, *self._routed):
            line.set(id(line) in high)

    # Registers

    def read(self, offset: int, size: int) -> int:
        self.tick()
        register, shift = offset & ~7, 8 * (offset & 7)
        return self._register(register) >> shift & (1 << 8 * size) - 1

    def _register(self, register: int) -> int:
        if register == CAPABILITIES:
            return _CAPABILITIES
        if register == CONFIGURATION:
            return self._configuration
        if register == STATUS:
            return self._status
        if register == COUNTER:
            return self._ticks() & _MASK_64
        number, part = divmod(register - FIRST_TIMER, TIMER_SIZE)
        if 0 <= number < TIMERS:
            timer = self._timers[number]
            return (timer.configuration | _FIXED, timer.comparator & timer.mask, 0, 0)[part >> 3]
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.tick()
        register, shift = offset & ~7, 8 * (offset & 7)
        mask = (1 << 8 * size) - 1 << shift
        bits = value << shift
        number, part = divmod(register - FIRST_TIMER, TIMER_SIZE)
        if register == CONFIGURATION:
            self._configure((self._configuration & ~mask | bits) & (ENABLE | LEGACY))
        elif register == STATUS:
            self._status &= ~bits
            self._drive()
        elif register == COUNTER:
            counter = (self._ticks() & ~mask | bits) & _MASK_64
            self._counter, self._since = counter, self._now()
            self._arm_all()
        elif 0 <= number < TIMERS and part == 0:
            self._set_up(number, self._timers[number].configuration & ~mask | bits)
        elif 0 <= number < TIMERS and part == 8:
            self._compare(self._timers[number], mask, bits)

    def _configure(self, value: int) -> None:
        changed = value ^ self._configuration
        if changed & ENABLE:
            self._counter, self._since = self._ticks() & _MASK_64, self._now()
        self._configuration = value
        if changed & ENABLE:
            self._arm_all()
        if changed & LEGACY:
            self._replace(bool(value & LEGACY))
            self._drive()

    def _set_up(self, number: int, value: int) -> None:
        timer = self._timers[number]
        timer.configuration = value & _WRITABLE
        if not timer.configuration & LEVEL:
            self._status &= ~(1 << number)
        self._arm(timer)
        self._drive()

    def _compare(self, timer: _Timer, mask: int, bits: int) -> None:
        periodic = timer.configuration & PERIODIC
        if periodic:
            timer.period = (timer.period & ~mask | bits) & _MASK_64
        if not periodic or timer.configuration & SET_VALUE:
            timer.comparator = (timer.comparator & ~mask | bits) & _MASK_64
            # An access of 64 bits is over; of two of 32 the second one is.
            if mask >> 32 or timer.configuration & MODE_32:
                timer.configuration &= ~SET_VALUE
            self._arm(timer)

    register_names: Mapping[int, str] = {
        CAPABILITIES: "GCAP_ID", CAPABILITIES + 4: "COUNTER_CLK_PERIOD", CONFIGURATION: "GEN_CONF", STATUS: "GINTR_STA",
        COUNTER: "MAIN_CNT", COUNTER + 4: "MAIN_CNT+4",
        **{
            FIRST_TIMER + TIMER_SIZE * number + at: f"T{number}_{name}"
            for number in range(TIMERS)
            for at, name in ((0, "CONF"), (4, "CONF+4"), (8, "COMPARATOR"), (12, "COMPARATOR+4"))
        },
    }  # fmt: skip

    def explain(self, register: str, value: int, is_write: bool) -> str:
        if register == "GEN_CONF":
            return bit_names(value & 3, "ENABLE LEG_RT")
        if register.endswith("_CONF"):
            names = bit_names(value & 0x14E, "- INT_TYPE INT_ENB TYPE - - VAL_SET - 32MODE")
            return f"{names} route {value >> _ROUTE_AT & _ROUTE}".strip()
        return ""

    # State

    def save(self) -> State:
        self.tick()
        ticks = self._ticks()
        return {
            "configuration": self._configuration,
            "status": self._status,
            "counter": ticks & _MASK_64,
            "timers": [
                [timer.configuration, timer.comparator, timer.period, timer.due == ticks + timer.mask + 1]
                for timer in self._timers
            ],
        }

    def restore(self, state: State) -> None:
        for name, most in (("configuration", ENABLE | LEGACY), ("status", (1 << TIMERS) - 1), ("counter", _MASK_64)):
            value = state.get(name)
            if type(value) is not int or not 0 <= value <= most:
                raise ValueError(f"{self.name}: state field {name!r} is {value!r:.30}, not 0..{most:#x}")
        timers = state.get("timers")
        if not isinstance(timers, list) or len(timers) != TIMERS:
            raise ValueError(f"{self.name}: state field 'timers' has not {TIMERS} timers")
        for registers in timers:
            if not isinstance(registers, list) or len(registers) != 4 or type(registers[3]) is not bool:
                raise ValueError(f"{self.name}: state field 'timers' has no timer of three registers")
            for value, most in zip(registers[:3], (_WRITABLE, _MASK_64, _MASK_64), strict=True):
                if type(value) is not int or value < 0 or value & ~most:
                    raise ValueError(f"{self.name}: state field 'timers' holds {value!r:.30}")
        self._configure(0)
        self._status = state["status"]
        for timer, registers in zip(self._timers, timers, strict=True):
            timer.configuration, timer.comparator, timer.period = registers[:3]
        self._counter = state["counter"]
        self._configure(state["configuration"])
        for timer, (*_, met) in zip(self._timers, timers, strict=True):
            if met and timer.due is not None:  # in this very tick, and it has interrupted
                timer.due = self._counter + timer.mask + 1
        self._fired = self._now() - CLOSEST
        self._drive()
