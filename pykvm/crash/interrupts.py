"""What the interrupt controllers tell of a guest's end: what is in service, what waits, and what is masked.

Sources: Intel 8259A data sheet (IRR, ISR, IMR, ICW2), Intel SDM volume 3A, 10.8.4 (the local APIC's ISR), 82093AA data
sheet, 3.2.4 (redirection table).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..kvm import KvmError, chips
from ..typed import TYPE_CHECKING, NamedTuple
from ..x86 import lapic
from ..x86.exceptions import Event, EventKind, vector_name

if TYPE_CHECKING:
    from .post_mortem import PostMortem

_PIT_PIN = 2
_MASKED = 1 << 16
"""A redirection entry's mask."""
EXCEPTIONS = 32
FIRMWARE_RELOAD = 65536
"""Of the timer, until the program has set it up: it ticks, whether anybody waits for it or not."""
_CASCADE = 2
_LOWEST = 0x10
"""The first vector that a local APIC takes (SDM 10.5.2)."""


class Interrupts(NamedTuple):
    """The controllers as one CPU sees them. IRQs are numbered 0 to 15, as a PC's are."""

    in_service: tuple[int, ...] = ()
    """Vectors that were handed to this CPU, whose end of interrupt has not come; the latest first."""
    pic_bases: tuple[int, ...] = ()
    """The vectors of IRQ 0 and IRQ 8, if the PICs send interrupts to this CPU."""
    waiting: tuple[int, ...] = ()
    """IRQs that the PICs have not yet handed to the CPU; not a tick of a timer that nobody has set up."""
    masked: tuple[int, ...] = ()
    level: tuple[int, ...] = ()
    """IRQs that wait because their line is still high, whoever acknowledged them."""
    routed: tuple[tuple[int, int], ...] = ()
    """(vector, IRQ) of the IOAPIC's inputs that are not masked."""
    timer: int | None = None
    """The vector of the local APIC's timer, if that is set up."""
    timer_over: bool = False
    """Whether it was to tick once, and has."""

    def irq(self, vector: int) -> int | None:
        """The IRQ that comes as `vector`; None if none does."""
        for number, base in enumerate(self.pic_bases):
            if base <= vector < base + 8:
                return 8 * number + vector - base
        return dict(self.routed).get(vector)

    def vector(self, irq: int) -> int:
        """How an IRQ comes that is not masked."""
        routed = [vector for vector, number in self.routed if number == irq]
        return routed[0] if routed else self.pic_bases[irq // 8] + irq % 8

    def name(self, vector: int) -> str:
        """ "IRQ 0", or "interrupt 0x30" for what is no IRQ."""
        irq = self.irq(vector)
        return f"interrupt {vector:#x}" if irq is None else f"IRQ {irq}"

    def came(self, vector: int) -> str:
        """ "IRQ 0 came as interrupt 0x20", and if that is an exception's vector, whose mistake it is."""
        if self.irq(vector) is None:
            return f"interrupt {vector:#x} came" + (" (the local APIC's timer)" if vector == self.timer else "")
        if vector >= EXCEPTIONS:
            return f"{self.name(vector)} came as interrupt {vector:#x}"
        looks = f", so it looks like {vector_name(vector)}"
        return f"{self.name(vector)} came as interrupt {vector}: the PIC has not been remapped{looks}"

    def events(self) -> list[Event]:
        """What is in service, as what the CPU was to deliver."""
        return [Event(vector, None, self.came(vector), kind=EventKind.INTERRUPT) for vector in self.in_service]

    @property
    def like_exceptions(self) -> list[int]:
        """Vectors of exceptions that an IRQ may have come as: those in service first."""
        open_ = [base + bit for number, base in enumerate(self.pic_bases) for bit in range(8)
                 if base and 8 * number + bit not in self.masked]  # fmt: skip
        vectors = [*(vector for vector in self.in_service if self.irq(vector) is not None), *open_]
        return [vector for vector in dict.fromkeys(vectors) if vector < EXCEPTIONS]

    def only(self) -> int | None:
        """The vector of the one interrupt that can have come lately; None if several can."""
        open_ = [irq for irq in range(16) if self.pic_bases and irq not in self.masked and irq != _CASCADE]
        vectors = [*(self.vector(irq) for irq in open_), *(vector for vector, _ in self.routed)]
        found = set(self.in_service) or {*vectors, *([] if self.timer is None else [self.timer])}
        return found.pop() if len(found) == 1 else None

    def state(self, *, enabled: bool) -> list[str]:
        """What keeps a CPU from being interrupted, in clauses. `enabled` is its RFLAGS.IF."""
        words = [] if enabled else ["interrupts off"]
        for vector in self.in_service[:1]:
            end = " and was never acknowledged (no EOI)" if enabled else ""
            words.append(f"{self.name(vector)} is in service{end}")
        level = [irq for irq in self.level if enabled or self.in_service]
        if level:
            words.append(f"{_irqs(level)} comes again and again: its line is still high")
        if self.timer_over and enabled and not self.in_service:
            words.append("the local APIC's timer was to tick once, and has")
        lost = [irq for vector, irq in self.routed if vector < _LOWEST]
        if lost:
            words.append(f"{_irqs(lost)} has a vector below {_LOWEST:#x} in the IOAPIC, which no local APIC takes")
        refused = [irq for irq in self.waiting if irq in self.masked]
        held = [irq for irq in self.waiting if irq not in self.masked and irq not in level]
        if held and not enabled:
            words.append(f"{_irqs(held)} waits")
        if refused and not self.routed:
            words.append(f"{_irqs(refused)} waits, but is masked in the PIC")
        elif enabled and not self.routed and self.timer is None and set(self.masked) >= {*range(16)} - {_CASCADE}:
            words.append("the PIC masks every IRQ")
        return words


NO_INTERRUPTS = Interrupts()


def _irqs(numbers: Iterable[int]) -> str:
    return "IRQ " + ", ".join(map(str, numbers))


def interrupts(end: PostMortem, vcpu: int, page: bytes | None = None) -> Interrupts:
    """What the controllers say, as far as they can be asked; `page` is the local APIC, if that has changed since."""
    try:
        page = page or end.vcpus[vcpu].get_lapic()
        routed = tuple(
            (entry & 0xFF, 0 if pin == _PIT_PIN else pin)
            for pin, entry in enumerate(chips.ioapic(end.vm).redirections)
            if not entry & _MASKED and entry & 0xFF
        )
        vectors = lapic.vectors(page, lapic.ISR)
        timer, over = _timer(page)
        if vcpu:
            return Interrupts(tuple(vectors[::-1]), routed=routed, timer=timer, timer_over=over)
        both = chips.pics(end.vm)
        ignored = (_CASCADE, 0) if chips.pit_counters(end.vm)[0].reload == FIRMWARE_RELOAD else (_CASCADE,)
    except KvmError:
        return Interrupts()
    for pic in both:
        vectors += [pic.irq_base + bit for bit in range(8) if pic.isr >> bit & 1]

    def lines(masks: Iterable[int]) -> tuple[int, ...]:
        return tuple(8 * number + bit for number, mask in enumerate(masks) for bit in range(8)
                     if mask >> bit & 1 and (number, bit) != (0, _CASCADE))  # fmt: skip

    return Interrupts(
        in_service=tuple(vectors[::-1]),
        pic_bases=tuple(pic.irq_base for pic in both),
        waiting=tuple(irq for irq in lines(pic.irr for pic in both) if irq not in ignored),
        masked=lines(pic.imr for pic in both),
        level=lines(pic.irr & pic.elcr & ~pic.imr for pic in both),
        routed=routed,
        timer=timer,
        timer_over=over,
    )


def _timer(page: bytes) -> tuple[int | None, bool]:
    """The vector of a local APIC's timer, if it is set up, and whether it has ticked for the last time."""
    entry, initial = lapic.register(page, lapic.LVT_TIMER), lapic.register(page, lapic.TIMER_INITIAL)
    deadline = entry & lapic.LVT_MODE == lapic.LVT_TSC_DEADLINE
    enabled = lapic.register(page, lapic.SVR) & lapic.SVR_ENABLED
    if not enabled or entry & lapic.LVT_MASKED or entry & 0xFF < _LOWEST or not (initial or deadline):
        return None, False
    over = entry & lapic.LVT_MODE == lapic.LVT_ONE_SHOT and not lapic.register(page, lapic.TIMER_CURRENT)
    return entry & 0xFF, over
