"""A crash report as text, for eyes. What is what is told to `paint`, so that a terminal may have it in colour."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from ..x86.disasm import Instruction
from ..x86.registers import CR0_BITS, CR4_BITS, EFER_BITS, RFLAGS_BITS
from .findings import Findings, Place, Raised, StackFrame, Translated

Paint = Callable[[str, str], str]
"""(role, text) to the text to print. Roles: "head", "explanation", "title", "here", "dim", "problem", "symbol"."""

_ROWS = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
)
_SEEN = {
    "by replay": "seen in a second run, stepped to the fault: this host's KVM forgets a CPU that died",
    "lost": "this host's KVM forgets a CPU that died: its state is lost",
}
_HANGING = "  "


def plain(role: str, text: str) -> str:
    """No colours."""
    return text


def render(report: Findings, paint: Paint = plain) -> str:
    """The whole report."""
    return "\n".join(_Text(report, paint).lines())


def bits(value: int, names: dict[str, int]) -> str:
    """The names of the bits that are set."""
    return " ".join(name for name, bit in names.items() if value >> bit & 1)


class _Text:
    def __init__(self, report: Findings, paint: Paint) -> None:
        self.report, self.paint = report, paint
        self.wide = bool(report.system.efer >> 10 & 1)
        self.digits = 16 if self.wide else 8

    def lines(self) -> list[str]:
        report, paint = self.report, self.paint
        lines = [paint("head", ", ".join(filter(None, (f"{report.cause} on CPU {report.vcpu}", report.mode))))]
        if report.explanation:
            lines.append(_HANGING + paint("explanation", f"{report.explanation}."))
        if report.seen in _SEEN:
            lines.append(_HANGING + paint("dim", f"({_SEEN[report.seen]})"))
        if report.seen != "lost":
            for title, part in (
                ("", self.code()),
                ("interrupted", self.interrupted()),
                ("last instructions", [self.line(line) for line in report.last]),
                ("exceptions", self.exceptions()),
                ("backtrace", self.backtrace()),
                ("registers", self.registers()),
                ("page walks", [line for item in report.translations for line in self.translation(item)]),
                ("tables", self.tables()),
                ("stack", self.stack()),
                ("nobody answered at, the last first", self.unclaimed()),
            ):
                if part:
                    lines += [paint("title", f"{title}:")] if title else []
                    lines += [_HANGING + line for line in part]
        if report.notes:
            lines.append(paint("title", "not known:"))
            lines += [_HANGING + note for note in report.notes]
        return lines

    def number(self, value: int) -> str:
        return f"{value:0{self.digits}x}"

    def where(self, place: Place) -> str:
        text = ""
        if place.symbol:
            text += " " + self.paint("symbol", f"<{place.symbol}>")
        if place.source:
            text += f" {place.source}"
        return text

    def code(self) -> list[str]:
        report = self.report
        based = report.place.address != report.registers.rip
        linear = f" ({report.place.address:#x})" if based else ""
        at = f"{report.system.cs.selector:04x}:{self.number(report.registers.rip)}{linear}"
        lines = [f"at {at}{self.where(report.place)}"]
        if report.instruction is None:
            return [*lines, self.paint("problem", "the instruction's bytes cannot be read")]
        here = report.instruction.address
        for line in report.listing or [report.instruction]:
            text = self.line(line, "> " if line.address == here else "  ")
            lines.append(self.paint("here", text) if line.address == here else text)
        return lines

    def line(self, line: Instruction, mark: str = "") -> str:
        place = self.report.places.get(line.address)
        source = f"  {place.source}" if place is not None and place.source else ""
        return f"{mark}{line.address:x}  {line.code.hex():<22} {line.text:<40}{source}".rstrip()

    def interrupted(self) -> list[str]:
        found = self.report.interrupted
        if found is None:
            return []
        lines = [f"{found.name} at {found.place.address:#x}{self.where(found.place)}  {found.instruction}".rstrip()]
        if found.error_code is not None:
            lines.append(f"error code {found.error_code:#x}: {found.error_words}")
        lines.append(f"stack pointer {found.stack:#x}; the exception's frame is at {found.frame:#x}")
        return lines

    def exceptions(self) -> list[str]:
        return [line for number, item in enumerate(self.report.raised, 1) for line in self.raised(number, item)]

    def raised(self, number: int, item: Raised) -> list[str]:
        head = f"{number}. {item.name} ({item.title})" + ("" if item.certain else ", most likely")
        lines = [f"{head}: {item.why}"]
        if item.error_words:
            lines.append(f"   error code {item.error_code:#x}: {item.error_words}")
        if item.gate:
            lines.append(f"   {item.gate}" + (f", stack from {item.stack}" if item.stack else ""))
        if item.problem:
            lines.append("   " + self.paint("problem", f"not delivered: {item.problem}"))
        elif item.handler is not None:
            lines.append(f"   handler {item.handler.address:#x}{self.where(item.handler)}")
        return lines

    def backtrace(self) -> list[str]:
        """A line a frame; of many of the same function in a row, the first two and how many more."""
        lines: list[str] = []
        frames = list(enumerate(self.report.backtrace))
        for _, group in groupby(frames, key=lambda item: item[1].place):
            same = list(group)
            lines += [self.frame(number, frame) for number, frame in same[:2]]
            if len(same) > 2:
                lines.append(self.paint("dim", f"   {len(same) - 2} more of the same"))
        return lines

    def frame(self, number: int, frame: StackFrame) -> str:
        guess = self.paint("dim", " (a guess: this address is on the stack)") if frame.guess else ""
        return f"#{number} {frame.place.address:#x}{self.where(frame.place)}{guess}"

    def registers(self) -> list[str]:
        r, s = self.report.registers, self.report.system
        lines = ["  ".join(f"{name:<3} {self.number(getattr(r, name))}" for name in row)
                 for row in (_ROWS if self.wide else _ROWS[:2])]  # fmt: skip
        lines.append(f"rflags {r.rflags:x} [{bits(r.rflags, RFLAGS_BITS)}]  cr2 {s.cr2:x}  cr3 {s.cr3:x}")
        lines.append(f"cr0 {s.cr0:x} [{bits(s.cr0, CR0_BITS)}]  cr4 {s.cr4:x} [{bits(s.cr4, CR4_BITS)}]  "
                     f"efer {s.efer:x} [{bits(s.efer, EFER_BITS)}]")  # fmt: skip
        names = ("cs", "ss", "ds", "es", "fs", "gs")
        lines.append("  ".join(f"{name} {getattr(s, name).selector:04x}" for name in names)
                     + f"  tr {s.tr.selector:04x}  ldt {s.ldt.selector:04x}")  # fmt: skip
        if not self.wide:
            bases = "  ".join(f"{name} {getattr(s, name).base:x}+{getattr(s, name).limit:x}" for name in names[:3])
            lines.append(f"bases and limits: {bases}")
        return lines

    def translation(self, item: Translated) -> list[str]:
        lines = [f"{item.what} ({item.walk.paging})"]
        lines += [
            f"  {level.name:<5} at {level.address:#x}: {level.value:#x} {level.flags}" for level in item.walk.levels
        ]
        if item.walk.reason is not None:
            lines.append("  " + self.paint("problem", item.walk.reason))
        elif item.refused:
            lines.append("  " + self.paint("problem", item.refused))
        elif item.walk.physical is not None:
            lines.append(f"  -> {item.walk.physical:#x}")
        return lines

    def tables(self) -> list[str]:
        s = self.report.system
        lines = [f"GDT at {s.gdt.base:#x}, limit {s.gdt.limit:#x}; IDT at {s.idt.base:#x}, limit {s.idt.limit:#x}"]
        return lines + [f"{entry.name}: {entry.words}" for entry in self.report.tables]

    def unclaimed(self) -> list[str]:
        return [f"{bus} {address:#x}: {count} accesses" for bus, address, count in self.report.unclaimed]

    def stack(self) -> list[str]:
        width = self.report.stack[1].address - self.report.stack[0].address if len(self.report.stack) > 1 else 8
        return [
            f"{word.address:x}  {word.value:0{2 * width}x}{self.where(Place(word.value, word.symbol))}"
            for word in self.report.stack
        ]
