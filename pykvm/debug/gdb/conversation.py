"""What one gdb has been told of a machine, and how it is told: what all packets have in common.

Source: "Debugging with GDB", appendix E: E.2 (packets), E.3 (stop reply packets), E.4 (general query packets). Threads
are CPUs: thread N is CPU N - 1. All CPUs stop together (all-stop mode).
"""

from __future__ import annotations

from collections.abc import Callable

from ...outcome import Ending
from ...x86.exceptions import DE, UD
from ..control import Control, Stop, Why
from .arguments import number
from .packets import MAX_PAYLOAD, encode
from .registers import CpuRegisters, Layout, Register, layout

SIGINT, SIGILL, SIGTRAP, SIGABRT, SIGFPE, SIGSEGV, SIGALRM, SIGTERM, SIGSTOP = 2, 4, 5, 6, 8, 11, 14, 15, 17
"""Signals by gdb's numbers, which are no host's."""
SIGNALS = {
    Why.INTERRUPTED: SIGINT,
    Why.STEPPED: SIGTRAP,
    Why.BREAKPOINT: SIGTRAP,
    Why.WATCHPOINT: SIGTRAP,
    Why.CRASHED: SIGSEGV,
    Why.HALTED: SIGSTOP,
}
EXCEPTIONS: dict[int | None, int] = {DE: SIGFPE, UD: SIGILL}
ENDINGS = {Ending.CRASHED: SIGSEGV, Ending.TIMED_OUT: SIGALRM, Ending.STOPPED: SIGTERM}

Handler = Callable[["Conversation", bytes], bytes | None]


class Conversation:
    """A conversation with one client, from its connection to its end.

    `send` takes bytes to the client. `architecture` is what the target description says, whatever the CPU's mode is.
    """

    def __init__(self, control: Control, send: Callable[[bytes], None], architecture: str) -> None:
        self.control = control
        self.finished = False
        """The client is done: its connection is to be closed."""
        self.layout: Layout = layout(architecture)
        self.physical = False
        """Memory is addressed physically (QEMU's Qqemu.PhyMemMode)."""
        self.cpu = 0
        """The CPU that is looked at: what `Hg`, or the last stop, chose."""
        self._send = send
        self.acks = True
        self._last = b""
        self.waiting = False  # gdb has let the machine go, and waits for a stop reply
        self.cpus: dict[int, CpuRegisters] = {}
        self.resumed = 0  # the CPU that `Hc` chose; -1 for all

    def reply(self, payload: bytes) -> None:
        self._last = encode(payload)
        self._send(self._last)

    def report(self) -> None:
        """Tell the client if the machine has stopped, or the run has ended, and the client waits for it."""
        if not self.waiting:
            return
        stop = self.control.stop
        if stop is None and self.control.engine.outcome is None:
            return
        self.waiting = False
        if stop is not None:
            stop = self.control.interrupt()  # it waits until all CPUs are out
        if stop is not None and stop.text:
            self.print(f"pykvm: {stop.text}\n{self.sentence()}")
        elif stop is None and self.control.engine.outcome is not None:
            self.print(f"pykvm: {self.control.engine.outcome}\n")
        self.reply(self.stop_reply(stop))

    def sentence(self) -> str:
        """Why the machine cannot go on, as a line; "" if it can, or that is not known."""
        report = self.control.explain()
        return f"  {report.explanation}.\n" if report is not None and report.explanation else ""

    def print(self, text: str) -> None:
        """Have gdb show text; only while it waits."""
        data = text.encode()
        for at in range(0, len(data), MAX_PAYLOAD // 2 - 1):
            self.reply(b"O" + data[at : at + MAX_PAYLOAD // 2 - 1].hex().encode())

    def stop_reply(self, stop: Stop | None) -> bytes:
        self.cpus.clear()
        outcome = self.control.engine.outcome
        if stop is None:
            if outcome is None:
                return b"X%02x" % SIGTERM
            signal = ENDINGS.get(outcome.ending)
            return b"W%02x" % ((outcome.code or 0) & 0xFF) if signal is None else b"X%02x" % signal
        self.cpu = stop.cpu
        signal = SIGNALS[stop.why]
        if stop.crash is not None:
            signal = SIGILL if stop.crash.code else EXCEPTIONS.get(stop.crash.vector, signal)
        parts = [b"T%02xthread:%x;" % (signal, stop.cpu + 1)]
        if stop.why is Why.BREAKPOINT:
            hardware = stop.address in self.control.breakpoints.hardware
            parts.append(b"hwbreak:;" if hardware else b"swbreak:;")
        elif stop.why is Why.WATCHPOINT and stop.address is not None:
            parts.append((b"awatch:%x;" if stop.access else b"watch:%x;") % stop.address)
        for register in _EXPEDITED[self.layout.architecture]:
            parts.append(b"%02x:%b;" % (register, self.read(self.layout.registers[register])))
        return b"".join(parts)

    # Registers

    def state(self, number: int) -> CpuRegisters:
        """A CPU's registers, as they were read since the last stop."""
        if number not in self.cpus:
            self.control.require_stopped()
            self.cpus[number] = CpuRegisters(self.control, number)
        return self.cpus[number]

    def read(self, register: Register) -> bytes:
        data = register.read(self.state(self.cpu))
        return b"xx" * (register.bits // 8) if data is None else data.hex().encode()

    # Threads

    @property
    def count(self) -> int:
        return len(self.control.engine.board.vcpus)

    def named(self, thread: bytes) -> list[int]:
        """The CPUs that a thread-id names: -1 is all, 0 any."""
        if thread == b"-1":
            return list(range(self.count))
        found = number(thread)
        if found > self.count:
            raise ValueError("no such thread")
        return [found - 1 if found else self.cpu]


_EXPEDITED = {"i386:x86-64": (7, 6, 16), "i386": (4, 5, 8), "i8086": (4, 5, 8)}
"""Numbers of SP, BP and PC: with these, gdb needs no more to see where it is."""
