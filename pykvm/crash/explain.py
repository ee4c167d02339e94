"""The report of a guest that has come to its end: what is left of it goes in, and nothing of that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import PykvmError
from ..memory import GuestMemoryError
from ..typed import TYPE_CHECKING
from ..x86.disasm import MAX_INSTRUCTION
from ..x86.registers import CR0_PE, Registers, SystemRegisters
from .context import CrashContext
from .event import Crash, CrashKind
from .handler import find_interrupted
from .interrupts import interrupts
from .places import Places
from .post_mortem import PostMortem

if TYPE_CHECKING:
    from .report import CrashReport

RESET_RIP, RESET_CS = 0xFFF0, 0xF000
"""Of a CPU after INIT, whose other registers but RDX are zero (SDM volume 3A, table 9-1)."""
MAX_KEPT = 1000
"""Instructions before a crash that a report shows at most."""
BIOS_STUB = 32
"""More instructions than there are between an exception and the BIOS's telling of it."""


@dataclass(slots=True)
class Replayed:
    """A crash that a second run of the guest met: the CPU before it, and the guest that it happened to.

    `close` gives that guest back.
    """

    end: PostMortem
    registers: Registers
    system: SystemRegisters
    last: list[tuple[Registers, SystemRegisters]]
    """The CPU before each of the instructions that led there, the oldest first."""
    exits: int
    """After how many exits of that CPU it came."""
    close: Callable[[], None]
    lapic: bytes = b""
    """The CPU's local APIC, shortly before it crashed."""


class NotMet(PykvmError):
    """A second run did not come to the fault. The text says how it went instead, and `trouble` what was wrong with the
    CPU then, as a sentence; "" if nothing was."""

    def __init__(self, text: str, trouble: str = "") -> None:
        super().__init__(text)
        self.trouble = trouble


Replay = Callable[[Crash, int, int], Replayed]
"""Runs the guest again to a crash, which came after so many exits, and keeps so many instructions before it. Raises if
the second run did not meet it."""


def explain_crash(
    end: PostMortem, crash: Crash, keep_instructions: int = 0, replay: Replay | None = None
) -> CrashReport:
    """The report of a crash.

    With `replay`, a state that KVM has forgotten is got back by it, and so are the last `keep_instructions`.
    """
    cpu = end.cpu_now(crash.cpu)
    context = context_of(end, crash, cpu.registers, cpu.system)
    lost = crash.kind is CrashKind.TRIPLE_FAULT and state_is_lost(cpu.registers, cpu.system)
    if lost:
        why = [] if replay is not None else ["no second run was made: nothing was kept to start it from"]
        context = replace(context, seen="lost", notes=why)
    if replay is not None and (lost or keep_instructions):
        return _replayed(end, context, min(max(keep_instructions, 0), MAX_KEPT), replay, lost)
    return _examine(context)


def _replayed(end: PostMortem, context: CrashContext, keep: int, replay: Replay, lost: bool) -> CrashReport:
    """The report with what a second run of the guest tells."""
    crash, exits = context.crash, end.exits[context.crash.cpu]
    more = BIOS_STUB if crash.kind is CrashKind.UNHANDLED else 0
    try:
        fault = replay(crash, exits, keep + more)
    except Exception as error:  # the first run has ended well enough to be reported, whatever befalls the second
        what = str(error) if isinstance(error, PykvmError) else f"{type(error).__name__}: {error}"
        why = f"a second run of the guest did not meet the fault: {what}"
        trouble = error.trouble if lost and isinstance(error, NotMet) else ""
        return _examine(replace(context, notes=[*context.notes, why], trouble=trouble))
    try:
        states = [*fault.last, (fault.registers, fault.system)]
        if more:  # up to the instruction that raised the exception
            at = [fault.end.cpu(*state).pc for state in states]
            states = states[: len(at) - at[::-1].index(context.cpu.pc)] if context.cpu.pc in at else states
        cpu = fault.end.cpu(*states.pop())
        last = [_last(fault.end, *state) for state in (states[-keep:] if keep else [])]
        if lost:
            found = context_of(fault.end, crash, fault.registers, fault.system, fault.lapic)
            notes = []
            if fault.exits != exits:
                other = f"the second run crashed after {fault.exits} exits, the first after {exits}"
                notes.append(f"{other}: this may be another fault")
            return _examine(replace(found, seen="by replay", symbols=context.symbols, last=last, notes=notes))
        if cpu.pc != context.cpu.pc and context.cpu.cpl > cpu.cpl == 0:
            ring = f"ring {context.cpu.cpl}"
            why = f"this KVM does not stop behind each instruction of {ring}: those before the way there are shown"
            last = [_last(fault.end, *state) for state in ([*states, (cpu.registers, cpu.system)][-keep:])]
            return _examine(replace(context, last=last, notes=[*context.notes, why]))
        if cpu.pc != context.cpu.pc:
            why = f"a second run of the guest met another fault, at {cpu.pc:#x}: its last instructions are not shown"
            return _examine(replace(context, notes=[*context.notes, why]))
        return _examine(replace(context, last=last))
    finally:
        fault.close()


def _last(end: PostMortem, registers: Registers, system: SystemRegisters) -> tuple[int, bytes, int]:
    cpu = end.cpu(registers, system)
    return cpu.pc, cpu.peek(cpu.pc, MAX_INSTRUCTION), cpu.mode.bits


def explain_halt(end: PostMortem) -> CrashReport | None:
    """The report of a guest whose CPUs all sleep, if one of them does in an exception handler."""
    places = Places(end.symbols)
    for vcpu in end.halted:
        cpu = end.cpu_now(vcpu.id)
        interrupted = find_interrupted(cpu, places.place, interrupts(end, vcpu.id))
        if interrupted is not None:
            context = context_of(end, Crash(vcpu.id, CrashKind.HALT), cpu.registers, cpu.system)
            return _examine(replace(context, interrupted=interrupted))
    return None


def _examine(context: CrashContext) -> CrashReport:
    from .examine import examine  # brings the disassembler, which takes longer than most guests run

    return examine(context)


def state_is_lost(registers: Registers, system: SystemRegisters) -> bool:
    """Whether KVM has reset the CPU."""
    at_reset = (registers.rip, system.cs.selector) == (RESET_RIP, RESET_CS) and not system.cr0 & CR0_PE
    return at_reset and not (registers.rax | registers.rsp | registers.rbp | system.cr3)


def context_of(
    end: PostMortem, crash: Crash, registers: Registers, system: SystemRegisters, lapic: bytes | None = None
) -> CrashContext:
    """All that is known of the crash of that CPU, in that state, in that guest's memory.

    `lapic` is its local APIC, if that is not what it was any more.
    """
    return CrashContext(
        cpu=end.cpu(registers, system),
        crash=crash,
        symbols=end.symbols,
        irqs=interrupts(end, crash.cpu, lapic),
        is_memory=_is_memory(end),
        unclaimed=end.unclaimed,
    )


def _is_memory(end: PostMortem) -> Callable[[int], bool]:
    def answer(gpa: int) -> bool:
        try:
            end.read(gpa, 1)
        except GuestMemoryError:
            return False
        return True

    return answer
