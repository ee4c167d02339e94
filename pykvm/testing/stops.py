"""Stopping a guest where a test wants it, and calling its functions.

Sources for calls: System V ABI for AMD64, section 3.2 (registers, stack frame, red zone) and 3.2.3 (parameters), and
for i386, section 2.2: what gcc and clang compile C kernels to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..debug.breakpoints import Watch
from ..debug.control import Control, Stop, Why
from ..errors import ConfigError
from ..kvm.state import MpState
from ..x86.registers import RFLAGS_IF, Registers, code_bits
from .expect import Mismatch

if TYPE_CHECKING:
    from ..crash.report import CrashReport
    from ..machine import Machine

DIRECTION = 1 << 10
"""RFLAGS.DF, which is clear when a function is called."""
RED_ZONE = 128
"""Bytes below RSP that belong to the function that was interrupted (AMD64; a kernel has none, but who knows)."""
IN_REGISTERS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
STACK_LIMIT = 4096
"""Bytes of arguments in all."""


class Changed(NamedTuple):
    """Memory has changed: what it was and is, the CPU, and the address behind the instruction that wrote it."""

    old: bytes
    new: bytes
    cpu: int
    pc: int


class Stops:
    """Stops the guest of `machine`. `place` puts an address in words; `timeout` tells seconds where none are given."""

    def __init__(self, machine: Machine, place: Callable[[int], str], timeout: Callable[[], float]) -> None:
        self._machine, self._place, self._timeout = machine, place, timeout
        self._control: Control | None = None

    @property
    def stop(self) -> Stop | None:
        """Why the guest is stopped; None if it runs or its run has ended."""
        return None if self._control is None else self._control.stop

    def explain(self) -> CrashReport | None:
        """Why it cannot go on; None if it can."""
        return None if self._control is None else self._control.explain()

    def go_on(self) -> None:
        """Let the guest go on, if it is stopped; nothing stops it any more."""
        control, self._control = self._control, None
        if control is not None:
            control.close()

    def here(self) -> Control:
        """Stop the guest where it is, if it runs. Mismatch if its run has ended."""
        __tracebackhide__ = True
        if self._control is None:
            self._control = Control(self._machine)
        if self._control.stop is None:
            raise Mismatch(f"the guest cannot be stopped: the run has ended ({self._machine.outcome})")
        return self._control

    def run_until(self, address: int, timeout: float | None = None) -> Stop:
        """Let it run until a CPU is about to execute the instruction at a linear `address`, and stop it there.

        One that is there already executes that instruction first. Mismatch if it does not come there.
        """
        __tracebackhide__ = True
        control = self.here()
        self._step_off(control, address)
        stop = self._run(control, address, self._deadline(timeout))
        if stop.why is not Why.BREAKPOINT:
            raise Mismatch(f"{self._place(address)} was not reached: {self._why(stop)}")
        return stop

    def run_until_changed(self, address: int, size: int, timeout: float | None = None) -> Changed:
        """Let it run until `size` bytes at a linear `address` are not what they were. Mismatch if they stay."""
        __tracebackhide__ = True
        control, deadline = self.here(), self._deadline(timeout)
        stop = control.require_stopped()
        cpu = control.stop.cpu if control.stop is not None else 0
        old = control.read(cpu, address, size)
        if len(old) < size:
            raise ConfigError(f"{self._place(address)}: not mapped, or no RAM: nothing changes there")
        watch = Watch(address, size)
        control.breakpoints.watches.add(watch)
        try:
            while True:
                control.check_breakpoints()
                stop = self._resume(control, deadline)
                new = control.read(stop.cpu, address, size)
                if new != old:
                    return Changed(old, new, stop.cpu, control.pc(stop.cpu))
                if stop.why is not Why.WATCHPOINT:
                    raise Mismatch(f"the {size} bytes at {self._place(address)} did not change: {self._why(stop)}")
        finally:
            control.breakpoints.watches.discard(watch)

    # Calling

    def call(
        self, address: int, arguments: list[Argument], timeout: float | None = None, cpu: int = 0
    ) -> tuple[int, int]:
        """Call the function at a linear `address` on that CPU, which then is as it was: (RAX, RDX) or (EAX, EDX).

        Interrupts are taken meanwhile as ever. Mismatch if it does not return; the guest is left where it is then.
        """
        __tracebackhide__ = True
        control, deadline = self.here(), self._deadline(timeout)
        before, system = control.registers(cpu), control.system_registers(cpu)
        bits = code_bits(system)
        if bits == 16 or system.cs.selector & 3:
            where = "runs 16-bit code" if bits == 16 else "is in ring 3"
            raise ConfigError(
                f"CPU {cpu} {where} at {self._place(control.pc(cpu))}: run_until a function of the kernel first"
            )
        asleep = self._machine.vcpus[cpu].get_mp_state() == MpState.HALTED
        entered, back = _frame(control, cpu, before, address - (control.pc(cpu) - before.rip), arguments, bits)
        returns = control.pc(cpu)
        control.set_registers(cpu, entered)
        while True:
            stop = self._run(control, returns, deadline)
            now = control.registers(stop.cpu)
            if stop.why is not Why.BREAKPOINT:
                raise Mismatch(f"{self._place(address)} has not returned: {self._why(stop)}")
            if stop.cpu == cpu and now.rsp == back:
                break
            self._step_off(control, returns)  # it has come by there, and not to return
        control.set_registers(cpu, before)
        if asleep and not before.rflags & RFLAGS_IF:  # else it may have missed what it waits for
            self._machine.vcpus[cpu].set_mp_state(MpState.HALTED)
        return now.rax, now.rdx

    # What both need

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout() if timeout is None else timeout)

    def _step_off(self, control: Control, address: int) -> None:
        for vcpu in self._machine.vcpus:
            if control.stop is not None and control.pc(vcpu.id) == address:
                control.step(vcpu.id)

    def _run(self, control: Control, address: int, deadline: float) -> Stop:
        __tracebackhide__ = True
        control.breakpoints.hardware.add(address)
        try:
            return self._resume(control, deadline)
        finally:
            control.breakpoints.hardware.discard(address)

    def _resume(self, control: Control, deadline: float) -> Stop:
        __tracebackhide__ = True
        if control.stop is None:
            raise Mismatch(f"the run has ended: {self._machine.outcome}")
        control.resume()
        try:
            stop = control.wait(max(deadline - time.monotonic(), 0))
        except TimeoutError:
            stop = control.interrupt()
        if stop is None:
            raise Mismatch(f"the run has ended: {self._machine.outcome}")
        return stop

    def _why(self, stop: Stop) -> str:
        if stop.why is Why.INTERRUPTED:
            assert self._control is not None
            return f"the time is up; CPU {stop.cpu} is at {self._place(self._control.pc(stop.cpu))}"
        report = self.explain()
        return f"{stop.why.value}: {stop.text}" + (f": {report.summary}" if report is not None else "")


class Argument(NamedTuple):
    """An argument: a number of `size` bytes, or bytes that are put on the stack and passed by their address."""

    value: int | bytes
    size: int = 0
    """0: as wide as a register."""


def _frame(
    control: Control, cpu: int, before: Registers, function: int, arguments: list[Argument], bits: int
) -> tuple[Registers, int]:
    """Put the arguments and the return address on the stack: the registers at the call, and RSP after the return."""
    word = bits // 8
    content = [argument.value for argument in arguments if isinstance(argument.value, bytes)]
    if sum(map(len, content)) + 8 * len(arguments) > STACK_LIMIT:
        raise ConfigError(f"the arguments are more than {STACK_LIMIT} bytes")
    stack = before.rsp - RED_ZONE
    values: list[tuple[int, int]] = []
    for argument in arguments:
        if isinstance(argument.value, bytes):
            stack = (stack - len(argument.value)) & ~0xF
            control.write(cpu, stack, argument.value)
            values.append((stack, word))
        else:
            values.append((argument.value, max(argument.size, word)))
    made = before.copy(rip=function, rflags=before.rflags & ~DIRECTION)
    if bits == 64:
        for name, (value, _) in zip(IN_REGISTERS, values, strict=False):
            setattr(made, name, value & (1 << 64) - 1)
        values = values[len(IN_REGISTERS) :]
        made.rax = 0  # no vector registers, for functions with "..."
    pushed = b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for value, size in values)
    stack = (stack - len(pushed)) & ~0xF
    back = stack
    control.write(cpu, stack, pushed)
    stack -= word
    control.write(cpu, stack, (before.rip & (1 << bits) - 1).to_bytes(word, "little"))
    made.rsp = stack & (1 << bits) - 1
    return made, back & (1 << bits) - 1
