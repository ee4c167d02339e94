"""Clauses that tell how a CPU came to where it is, where that is no place for one: astray in zeros, on its own stack,
with a stack in the code or where there is no RAM.

Sources: Intel SDM volume 3A, 8.4.3 (where a SIPI starts a CPU); volume 2B, SYSCALL (RCX).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..x86.cpu import Cpu
from ..x86.disasm import MAX_INSTRUCTION
from ..x86.exceptions import Event
from ..x86.faults import fetch

AROUND = 32
"""Bytes that are looked at before the instruction: so many zeros are no code."""
ALIGNED = 16
VECTORS = 0x400
"""Bytes of real mode's interrupt table."""
STACK = 4096
"""Bytes around the stack pointer that are likely the stack's."""

Image = Callable[[int, int], bytes]


def is_astray(cpu: Cpu, *, code: bool = True) -> bool:
    """Whether nothing but zeros is where the CPU has come from, and it executes them, or has come to their end.

    `code` is whether the image has code where the CPU is, or nothing is known of it.
    """
    zeros = bytes(AROUND)
    before = cpu.peek(cpu.pc - AROUND & cpu.width_mask, AROUND) == zeros
    strange = not code and cpu.pc % ALIGNED  # code that was copied there begins at some boundary
    return before and bool(strange or not any(cpu.peek(cpu.pc, MAX_INSTRUCTION)))


def stray(cpu: Cpu, number: int, image: Image | None, is_memory: Callable[[int], bool]) -> str:
    """What is wrong with the place of CPU `number` or its stack, as a clause; "" if nothing is.

    `image` tells what the image has at an address; None if there is no telling.
    """
    code = image is None or bool(image(cpu.pc, 1))
    if not cpu.protected and number and not any(cpu.peek(cpu.system.cs.base, AROUND)):
        start = cpu.system.cs.base
        return f"CPU {number} was started at {start:#x} (SIPI vector {start >> 12:#x}), where there are only zeros"
    if is_astray(cpu, code=code):
        return "the memory before it is all zeros: the CPU had gone astray"
    if not cpu.protected and cpu.pc < VECTORS:
        return "that is in the interrupt table: the CPU had gone astray"
    fetched = fetch(cpu)
    if isinstance(fetched, Event) and cpu.mode.bits == 64 and cpu.peek(cpu.registers.rcx - 2, 2) == b"\x0f\x05":
        return f"the `syscall` at {cpu.registers.rcx - 2:#x} leads there: MSR 0xc0000082 (LSTAR) is {cpu.pc:#x}"
    if image is not None and not code and abs(cpu.pc - cpu.stack) < STACK and not isinstance(fetched, Event):
        return "that is on the stack: the CPU executes it, as after a `ret` that took a wrong word"
    return _stack(cpu, image, is_memory)


def _stack(cpu: Cpu, image: Image | None, is_memory: Callable[[int], bool]) -> str:
    at = [cpu.stack, cpu.stack - 8 & cpu.width_mask]
    physical = [cpu.walk(address).physical for address in at]
    if not any(address is None or is_memory(address) for address in physical):
        return f"the stack pointer is {cpu.stack:#x}, where there is no RAM"
    loaded = image(cpu.stack, STACK // 64) if image is not None else b""
    now = cpu.peek(cpu.stack, len(loaded))
    if any(loaded) and loaded[: len(now)] != now:
        return f"the stack pointer is {cpu.stack:#x}, where the image has code: the stack has run over it"
    return ""


def stray_before(
    cpu: Cpu, rip: int, rsp: int, number: int, image: Image | None, is_memory: Callable[[int], bool]
) -> str:
    """The same for the moment at which a handler interrupted that CPU."""
    return stray(replace(cpu, registers=replace(cpu.registers, rip=rip, rsp=rsp)), number, image, is_memory)
