"""The report of a machine whose run has ended: what the machine's parts know goes in, and nothing of them changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import PykvmError
from ..kvm import KvmError
from ..kvm.vm import PIC_MASTER, PIC_SLAVE
from ..memory import GuestMemory, GuestMemoryError
from ..outcome import Outcome
from ..runner import NOT_EMULATED, NOT_ENTERED, TRIPLE_FAULT, UNHANDLED, Crash
from ..x86.disasm import MAX_INSTRUCTION
from ..x86.registers import CR0_PE, Registers, SystemRegisters
from .frames import cpu_of, halted_cpus
from .handler import find_interrupted
from .scene import Kind, Places, Scene

if TYPE_CHECKING:
    from ..machine import Machine
    from ..x86.delivery import Delivery
    from .replay import Checkpoint
    from .report import CrashReport

RESET_RIP, RESET_CS = 0xFFF0, 0xF000
"""Of a CPU after INIT, whose other registers but RDX are zero (SDM volume 3A, table 9-1)."""
MAX_KEPT = 1000
"""Instructions before a crash that a report shows at most."""
BIOS_STUB = 32
"""More instructions than there are between an exception and the BIOS's telling of it."""
LAPIC_ISR = 0x100
IRQCHIP_STATE, PIC_ISR, PIC_BASE = 8, 3, 5
"""struct kvm_irqchip and, in it, kvm_pic_state: last_irr, irr, imr, isr, priority_add, irq_base."""


def explain(machine: Machine, outcome: Outcome, crash: Crash | None, checkpoint: Checkpoint | None) -> Outcome:
    """The outcome with its report, if there is something to report. All vCPU threads have ended.

    With a `checkpoint`, a state that KVM has forgotten is got back by a replay, and the last instructions are found.
    """
    if crash is None:
        return _explain_halt(machine, outcome)
    vcpu = machine.vcpus[crash.cpu]
    scene = scene_of(machine, crash, vcpu.get_registers(), vcpu.get_system_registers())
    lost = scene.kind is Kind.TRIPLE_FAULT and state_is_lost(scene.cpu.registers, scene.cpu.system)
    if lost:
        why = [] if checkpoint is not None else ["no second run was made: nothing was kept to start it from"]
        scene = replace(scene, seen="lost", notes=why)
    if checkpoint is not None and (lost or machine.keep_instructions):
        report = _replayed(machine, crash, checkpoint, scene, lost)
    else:
        report = _examine(scene)
    return outcome._replace(reason=report.summary, report=report)


def _replayed(machine: Machine, crash: Crash, checkpoint: Checkpoint, scene: Scene, lost: bool) -> CrashReport:
    """The report with what a second run of the guest tells."""
    from .replay import replay

    keep, exits = min(max(machine.keep_instructions, 0), MAX_KEPT), machine.runners[crash.cpu].exits
    more = BIOS_STUB if scene.kind is Kind.UNHANDLED else 0
    try:
        fault = replay(checkpoint, crash.cpu, exits, keep + more, machine.replay_limit, _chain)
    except Exception as error:  # the first run has ended well enough to be reported, whatever befalls the second
        what = str(error) if isinstance(error, PykvmError) else f"{type(error).__name__}: {error}"
        why = f"a second run of the guest did not meet the fault: {what}"
        return _examine(replace(scene, notes=[*scene.notes, why]))
    with fault.machine:
        states = [*fault.last, (fault.registers, fault.system)]
        if more:  # up to the instruction that raised the exception
            at = [cpu_of(fault.machine, *state).pc for state in states]
            states = states[: len(at) - at[::-1].index(scene.cpu.pc)] if scene.cpu.pc in at else states
        cpu = cpu_of(fault.machine, *states.pop())
        last = [_last(fault.machine, *state) for state in (states[-keep:] if keep else [])]
        if lost:
            found = scene_of(fault.machine, crash, fault.registers, fault.system)
            notes = []
            if fault.exits != exits:
                other = f"the second run crashed after {fault.exits} exits, the first after {exits}"
                notes.append(f"{other}: this may be another fault")
            return _examine(replace(found, seen="by replay", symbols=scene.symbols, last=last, notes=notes))
        if cpu.pc != scene.cpu.pc:
            why = f"a second run of the guest met another fault, at {cpu.pc:#x}: its last instructions are not shown"
            return _examine(replace(scene, notes=[*scene.notes, why]))
        return _examine(replace(scene, last=last))


def _chain(machine: Machine, registers: Registers, system: SystemRegisters) -> list[Delivery]:
    from .cause import chain_of, first_event

    cpu = cpu_of(machine, registers, system)
    return chain_of(cpu, first_event(cpu, ()))


def _last(machine: Machine, registers: Registers, system: SystemRegisters) -> tuple[int, bytes, int]:
    cpu = cpu_of(machine, registers, system)
    return cpu.pc, cpu.peek(cpu.pc, MAX_INSTRUCTION), cpu.mode.bits


def _explain_halt(machine: Machine, outcome: Outcome) -> Outcome:
    """The outcome of a machine whose CPUs all sleep: with a report if one of them does in an exception handler."""
    places = Places(machine.symbols)
    for number, cpu in halted_cpus(machine):
        interrupted = find_interrupted(cpu, places.place)
        if interrupted is not None:
            scene = scene_of(machine, Crash(number, "halted in an exception handler"), cpu.registers, cpu.system)
            report = _examine(replace(scene, kind=Kind.HALT, interrupted=interrupted))
            return outcome._replace(reason=f"{outcome.reason}; {report.summary}", report=report)
    return outcome


def _examine(scene: Scene) -> CrashReport:
    from .examine import examine  # brings the disassembler, which takes longer than most guests run

    return examine(scene)


def state_is_lost(registers: Registers, system: SystemRegisters) -> bool:
    """Whether KVM has reset the CPU."""
    at_reset = (registers.rip, system.cs.selector) == (RESET_RIP, RESET_CS) and not system.cr0 & CR0_PE
    return at_reset and not (registers.rax | registers.rsp | registers.rbp | system.cr3)


def scene_of(machine: Machine, crash: Crash, registers: Registers, system: SystemRegisters) -> Scene:
    """All that is known of the crash of that CPU, in that state, in that machine's memory."""
    return Scene(
        cpu=cpu_of(machine, registers, system),
        kind=_kind(crash.cause),
        cause=crash.cause,
        vcpu=crash.cpu,
        code=crash.code,
        vector=crash.vector,
        symbols=machine.symbols,
        in_service=in_service(machine, crash.cpu),
        is_ram=_is_ram(machine.memory),
    )


def _kind(cause: str) -> Kind:
    if cause == TRIPLE_FAULT:
        return Kind.TRIPLE_FAULT
    if cause == NOT_EMULATED:
        return Kind.EMULATION
    if cause == UNHANDLED:
        return Kind.UNHANDLED
    return Kind.ENTRY if cause.startswith(NOT_ENTERED) else Kind.OTHER


def _is_ram(memory: GuestMemory) -> Callable[[int], bool]:
    def answer(gpa: int) -> bool:
        try:
            memory.offset(gpa, 1)
        except GuestMemoryError:
            return False
        return True

    return answer


def in_service(machine: Machine, vcpu: int) -> list[int]:
    """The vectors that the interrupt controllers have handed to that CPU and not heard the end of, if they can tell."""
    vectors = []
    try:
        lapic = machine.vcpus[vcpu].get_lapic()
        for word in range(8):
            at = LAPIC_ISR + 0x10 * word
            bits = int.from_bytes(lapic[at : at + 4], "little")
            vectors += [32 * word + bit for bit in range(32) if bits >> bit & 1]
        for chip in (PIC_MASTER, PIC_SLAVE) if vcpu == 0 else ():
            state = machine.vm.get_irqchip(chip)[IRQCHIP_STATE:]
            vectors += [state[PIC_BASE] + bit for bit in range(8) if state[PIC_ISR] >> bit & 1]
    except KvmError:
        return []
    return vectors[::-1]
