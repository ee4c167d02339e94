"""What a crash report is made of, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ..x86.disasm import Instruction
from ..x86.paging import Walk
from ..x86.registers import Registers, SystemRegisters


class Place(NamedTuple):
    """An address in the guest's code, with what the image says about it: "main+0x12", "kernel.c:40"; "" if nothing."""

    address: int
    symbol: str = ""
    source: str = ""

    def __str__(self) -> str:
        parts = [f"{self.address:#x}"]
        parts += [f"<{self.symbol}>"] if self.symbol else []
        parts += [self.source] if self.source else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception or interrupt, why it came, and what became of its delivery."""

    name: str
    """ "#PF", or for what is no exception "interrupt 0x20"."""
    title: str
    """ "page fault"."""
    vector: int
    why: str
    error_code: int | None = None
    error_words: str = ""
    """The error code in words."""
    address: int | None = None
    """#PF: the linear address that could not be used."""
    gate: str = ""
    """The IDT's entry in words, as far as it could be read."""
    stack: str = ""
    """Where its stack comes from, if the delivery changes the stack: "IST 1 of the TSS"."""
    handler: Place | None = None
    problem: str = ""
    """Why it could not be delivered; "" if its handler was entered."""
    certain: bool = True
    """Whether the architecture leaves no doubt that the instruction raised it."""


@dataclass(frozen=True, slots=True)
class StackFrame:
    """One function of the backtrace, the innermost first."""

    place: Place
    found: str
    """How: "now", "frame pointer", "stack" (a word that looks like a return address: a guess), "exception"."""

    @property
    def guess(self) -> bool:
        """Whether it may be a leftover of an earlier call."""
        return self.found == "stack"


class StackWord(NamedTuple):
    """A word on the stack, at a linear address; `symbol` if it is an address that the image has a name for."""

    address: int
    value: int
    symbol: str = ""


class Translated(NamedTuple):
    """How a linear address that matters is translated; `refused` is which bit forbade the access, if one did."""

    what: str
    walk: Walk
    refused: str = ""


class TableEntry(NamedTuple):
    """A descriptor, gate or TSS that has a part in the story."""

    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What an exception handler that never returned had interrupted."""

    name: str
    """ "#PF"; "an exception" where one handler serves many and nothing says which it was."""
    vector: int | None
    error_code: int | None
    error_words: str
    place: Place
    instruction: str
    """The text of the instruction there; "" if it cannot be read."""
    stack: int
    """The stack pointer at that moment."""
    frame: int
    """The linear address of the frame that the CPU pushed."""
    why: str = ""
    """The mistake, where the exception is only what came of it: an interrupt that was not delivered, a frame spoilt."""
    reason: str = ""
    """Why the instruction raised it, as far as that is known."""
    came: str = ""
    """If it was no exception, but an IRQ at the vector of one: that in words."""


@dataclass(frozen=True, slots=True)
class Findings:
    """A crash as data."""

    cause: str
    """What ended the run, for example "triple fault"."""
    explanation: str
    """The likely reason in one sentence; "" if none was found."""
    vcpu: int
    mode: str
    """The CPU's mode in words, for example "64-bit mode, ring 0"."""
    registers: Registers
    system: SystemRegisters
    code: bytes
    """The bytes from the instruction on; empty if they are not in RAM."""
    instruction: Instruction | None
    """The instruction that crashed; None if its bytes cannot be read."""
    place: Place
    """Where that is."""
    seen: str = "directly"
    """How the state was had: "directly", "by replay", or "lost" if KVM threw it away and no replay met the fault."""
    raised: list[Raised] = field(default_factory=list)
    """The chain of exceptions, the first first."""
    listing: list[Instruction] = field(default_factory=list)
    """The instruction with its neighbours."""
    interrupted: Interrupted | None = None
    """If the CPU stands in an exception handler: what the exception came from."""
    backtrace: list[StackFrame] = field(default_factory=list)
    translations: list[Translated] = field(default_factory=list)
    stack: list[StackWord] = field(default_factory=list)
    """From the stack pointer upwards."""
    tables: list[TableEntry] = field(default_factory=list)
    last: list[Instruction] = field(default_factory=list)
    """The instructions before this one, the oldest first, where they were asked for."""
    unclaimed: list[tuple[str, int, int]] = field(default_factory=list)
    """(kind of bus, address, count) of accesses that nobody answered, the last first."""
    places: dict[int, Place] = field(default_factory=dict)
    """What the image says about the addresses of `listing` and `last`."""
    notes: list[str] = field(default_factory=list)
    """What could not be found out, and why."""

    @property
    def symbol(self) -> str:
        """Where it is by the image's symbols, such as "main+0x12"; "" if it has none for that."""
        return self.place.symbol

    @property
    def address(self) -> str:
        """The instruction's: RIP, and where its segment has a base, CS:RIP and what it stands for."""
        if self.place.address == self.registers.rip:
            return f"{self.registers.rip:#x}"
        return f"{self.system.cs.selector:04x}:{self.registers.rip:04x} ({self.place.address:#x})"

    @property
    def summary(self) -> str:
        """One line: what happened, where, at which instruction."""
        if self.seen == "lost":
            return f"{self.cause}, CPU {self.vcpu}"
        where = self.address + (f" <{self.symbol}>" if self.symbol else "")
        what = f" ({self.instruction.text})" if self.instruction else ""
        if self.interrupted is not None:
            found = self.interrupted
            name = f"{found.name}, which came as interrupt {found.vector}" if found.came else f"{found.name}, raised"
            return f"CPU {self.vcpu} died in the handler of {name} at {found.place}"
        return f"{self.cause} at {where}{what}, CPU {self.vcpu}, {self.mode}"

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON; bytes as hexadecimal text."""
        return {
            "cause": self.cause,
            "explanation": self.explanation,
            "vcpu": self.vcpu,
            "mode": self.mode,
            "seen": self.seen,
            "symbol": self.symbol,
            "source": self.place.source,
            "code": self.code.hex(),
            "instruction": self.instruction.text if self.instruction else None,
            "registers": asdict(self.registers),
            "system": asdict(self.system),
            "raised": [_plain(asdict(raised)) for raised in self.raised],
            "interrupted": _plain(asdict(self.interrupted)) if self.interrupted else None,
            "listing": [self._line(line) for line in self.listing],
            "last": [self._line(line) for line in self.last],
            "backtrace": [
                {**frame.place._asdict(), "found": frame.found, "guess": frame.guess} for frame in self.backtrace
            ],
            "translations": [
                {
                    "what": item.what,
                    "linear": item.walk.linear,
                    "paging": item.walk.paging,
                    "levels": [{**level._asdict(), "flags": level.flags} for level in item.walk.levels],
                    "physical": item.walk.physical,
                    "reason": item.walk.reason,
                    "refused": item.refused,
                }
                for item in self.translations
            ],
            "stack": [word._asdict() for word in self.stack],
            "tables": [entry._asdict() for entry in self.tables],
            "unclaimed": [dict(zip(("bus", "address", "count"), item, strict=True)) for item in self.unclaimed],
            "notes": list(self.notes),
        }

    def _line(self, line: Instruction) -> dict[str, Any]:
        place = self.places.get(line.address, Place(line.address))
        return {**place._asdict(), "code": line.code.hex(), "text": line.text}


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """`asdict` leaves named tuples as they are."""
    return {name: item._asdict() if isinstance(item, Place) else item for name, item in value.items()}
