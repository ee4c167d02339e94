"""One gdb's conversation with a machine: each packet's meaning. It knows neither sockets nor threads.

Source: "Debugging with GDB", appendix E: E.2 (packets), E.3 (stop reply packets), E.4 (general query packets). Threads
are CPUs: thread N is CPU N - 1. All CPUs stop together (all-stop mode).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from ...errors import PykvmError
from ...memory import GuestMemoryError
from ...outcome import Ending
from ...x86.exceptions import DE, UD
from ...x86.mode import cpu_mode
from ...x86.registers import CR0_PE, EFER_LMA
from ..breakpoints import MAX_CODE, Watch
from ..control import Control, DebugError, Stop, Why
from ..probes import data_breakpoints_work
from ..stepper import Step
from . import monitor, target
from .packets import MAX_PAYLOAD, Decoder, Mark, Packet, encode
from .registers import Cpu, Layout, Register, layout

if TYPE_CHECKING:
    from ...engine.engine import Engine

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

EFAULT, EINVAL = b"E0e", b"E16"
SSTEP_ENABLE, SSTEP_NOIRQ = 1, 2
"""QEMU's bits for how to step (its documentation, "GDB usage")."""

MAX_WATCH = 32
"""Bytes of the largest watchpoint: what four debug registers can cover."""

Handler = Callable[["Session", bytes], bytes | None]
Item = TypeVar("Item", int, Watch)


def architecture(engine: Engine) -> str:
    """The architecture that gdb should see now: a 64-bit kernel's all the time, else that of the first CPU's mode."""
    system = engine.board.vcpus[0].get_system_registers()
    if system.efer & EFER_LMA or (engine.entry is not None and engine.entry.format == "elf64"):
        return "i386:x86-64"
    return "i386" if system.cr0 & CR0_PE else "i8086"


class Session:
    """Serves one client from its connection to its end.

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
        self._decoder = Decoder()
        self._acks = True
        self._last = b""
        self._waiting = False  # gdb has let the machine go, and waits for a stop reply
        self._cpus: dict[int, Cpu] = {}
        self._resumed = 0  # the CPU that `Hc` chose; -1 for all

    # In and out

    def receive(self, data: bytes) -> None:
        """Serve what the client has sent. No input raises."""
        for item in self._decoder.feed(data):
            if self.finished:
                return
            if item is Mark.INTERRUPT:
                if self._waiting:
                    self.control.interrupt()
                    self.report()
            elif item is Mark.NAK and self._acks:
                self._send(self._last)
            elif isinstance(item, Packet):
                self._packet(item)

    def _packet(self, packet: Packet) -> None:
        if self._acks:
            self._send(b"+" if packet.good else b"-")
        if not packet.good:
            if not self._acks:
                self._reply(EINVAL)
            return
        try:
            answer = self._serve(packet.payload)
        except GuestMemoryError:
            answer = EFAULT
        except (PykvmError, ValueError):
            answer = EINVAL
        if answer is not None:
            self._reply(answer)

    def _reply(self, payload: bytes) -> None:
        self._last = encode(payload)
        self._send(self._last)

    def _serve(self, payload: bytes) -> bytes | None:
        if self._waiting and payload[:1] not in (b"?", b"k"):  # nothing else may come while the machine runs
            return None
        for prefix, handler in _HANDLERS:
            if payload.startswith(prefix):
                return handler(self, payload[len(prefix) :])
        return b""

    def report(self) -> None:
        """Tell the client if the machine has stopped, or the run has ended, and the client waits for it."""
        if not self._waiting:
            return
        stop = self.control.stop
        if stop is None and self.control.engine.outcome is None:
            return
        self._waiting = False
        if stop is not None:
            stop = self.control.interrupt()  # it waits until all CPUs are out
        if stop is not None and stop.text:
            self._print(f"pykvm: {stop.text}\n")
        elif stop is None and self.control.engine.outcome is not None:
            self._print(f"pykvm: {self.control.engine.outcome}\n")
        self._reply(self._stop_reply(stop))

    def _print(self, text: str) -> None:
        """Have gdb show text; only while it waits."""
        data = text.encode()
        for at in range(0, len(data), MAX_PAYLOAD // 2 - 1):
            self._reply(b"O" + data[at : at + MAX_PAYLOAD // 2 - 1].hex().encode())

    def _stop_reply(self, stop: Stop | None) -> bytes:
        self._cpus.clear()
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
        for number in _EXPEDITED[self.layout.architecture]:
            parts.append(b"%02x:%b;" % (number, self._read(self.layout.registers[number])))
        return b"".join(parts)

    # Registers

    def state(self, number: int) -> Cpu:
        """A CPU's registers, as they were read since the last stop."""
        if number not in self._cpus:
            self.control.require_stopped()
            self._cpus[number] = Cpu(self.control, number)
        return self._cpus[number]

    def _read(self, register: Register) -> bytes:
        data = register.read(self.state(self.cpu))
        return b"xx" * (register.bits // 8) if data is None else data.hex().encode()

    def read_registers(self, _arguments: bytes) -> bytes:
        """`g`"""
        return b"".join(self._read(register) for register in self.layout.registers if register.in_block)

    def write_registers(self, arguments: bytes) -> bytes:
        """`G XX...`"""
        data, at = bytes.fromhex(arguments.decode("ascii")), 0
        for register in self.layout.registers:
            if register.in_block and at < len(data):
                register.write(self.state(self.cpu), data[at : at + register.bits // 8])
                at += register.bits // 8
        return b"OK"

    def read_register(self, arguments: bytes) -> bytes:
        """`p n`"""
        return self._read(self._register(arguments))

    def write_register(self, arguments: bytes) -> bytes:
        """`P n=r`"""
        number, _, value = arguments.partition(b"=")
        self._register(number).write(self.state(self.cpu), bytes.fromhex(value.decode("ascii")))
        return b"OK"

    def _register(self, number: bytes) -> Register:
        at = _hex(number)
        if at >= len(self.layout.registers):
            raise ValueError("no such register")
        return self.layout.registers[at]

    # Memory

    def read_memory(self, arguments: bytes) -> bytes:
        """`m addr,length`"""
        address, size = map(_hex, _split(arguments, b",", 2))
        size = min(size, MAX_PAYLOAD // 2)
        control = self.control
        data = control.read_physical(address, size) if self.physical else control.read(self.cpu, address, size)
        return data.hex().encode() if data or not size else EFAULT

    def write_memory(self, arguments: bytes) -> bytes:
        """`M addr,length:XX...`"""
        place, _, data = arguments.partition(b":")
        return self._write_memory(place, bytes.fromhex(data.decode("ascii")))

    def write_memory_binary(self, arguments: bytes) -> bytes:
        """`X addr,length:data`"""
        place, _, data = arguments.partition(b":")
        return self._write_memory(place, data)

    def _write_memory(self, place: bytes, data: bytes) -> bytes:
        address, size = map(_hex, _split(place, b",", 2))
        if size != len(data):
            return EINVAL
        try:
            if self.physical:
                self.control.write_physical(address, data)
            else:
                self.control.write(self.cpu, address, data)
        except DebugError:
            return EFAULT
        self._cpus.clear()
        return b"OK"

    def physical_mode(self, arguments: bytes) -> bytes:
        """`Qqemu.PhyMemMode:1` and `:0`"""
        self.physical = bool(_hex(arguments))
        return b"OK"

    # Breakpoints

    def insert(self, arguments: bytes) -> bytes:
        """`Z type,addr,kind`"""
        return self._change(arguments, wanted=True)

    def remove(self, arguments: bytes) -> bytes:
        """`z type,addr,kind`"""
        return self._change(arguments, wanted=False)

    def _change(self, arguments: bytes, wanted: bool) -> bytes:
        kind, address, size = map(_hex, _split(arguments.partition(b";")[0], b",", 3))
        breakpoints = self.control.breakpoints
        self.control.require_stopped()
        if kind > 4 or kind == 3:  # no x86 CPU has watchpoints for reads alone; gdb then takes one for accesses
            return b""
        if kind == 4 and not data_breakpoints_work():
            return b""
        if address >> 64 or (kind > 1 and not 0 < size <= MAX_WATCH):
            return EINVAL
        if kind > 1:
            return self._update(breakpoints.watches, Watch(address, size, kind == 4), wanted)
        return self._update(breakpoints.hardware if kind else breakpoints.software, address, wanted)

    def _update(self, items: set[Item], item: Item, wanted: bool) -> bytes:
        if not wanted:
            items.discard(item)
        elif item not in items:
            if len(items) >= MAX_CODE:
                return EINVAL
            items.add(item)
            try:
                self.control.check_breakpoints()
            except PykvmError:
                items.discard(item)
                return EFAULT
        return b"OK"

    # Going on

    def continue_at(self, arguments: bytes) -> bytes | None:
        """`c [addr]`"""
        return self._go_at(arguments, None)

    def step_at(self, arguments: bytes) -> bytes | None:
        """`s [addr]`"""
        return self._go_at(arguments, Step())

    def signal_continue_at(self, arguments: bytes) -> bytes | None:
        """`C sig[;addr]`: a machine takes no signals."""
        return self._go_at(arguments.partition(b";")[2], None)

    def signal_step_at(self, arguments: bytes) -> bytes | None:
        """`S sig[;addr]`"""
        return self._go_at(arguments.partition(b";")[2], Step())

    def _go_at(self, address: bytes, action: Step | None) -> bytes | None:
        if address:
            registers = {register.name: register for register in self.layout.registers}
            pc = registers.get("rip") or registers["eip"]
            pc.set(self.state(self.cpu), _hex(address))
        if action is not None:
            return self._go({self.cpu if self._resumed < 0 else self._resumed: action})
        return self._go(dict.fromkeys(range(self._count), action))

    def vcont(self, arguments: bytes) -> bytes | None:
        """`vCont;action[:thread]...`: the leftmost that fits a CPU counts."""
        actions: dict[int, Step | None] = {}
        for part in arguments.split(b";"):
            what, _, thread = part.partition(b":")
            action = _action(what)
            for cpu in self._named(thread) if thread else range(self._count):
                actions.setdefault(cpu, action)
        if not actions:
            return EINVAL
        return self._go(actions)

    def _go(self, actions: dict[int, Step | None]) -> bytes | None:
        self._cpus.clear()
        if self.control.stop is None:
            return self._stop_reply(None)
        self.control.resume(actions)
        self._waiting = True
        self.report()  # another CPU's stop may have waited
        return None

    def why(self, _arguments: bytes) -> bytes:
        """`?`"""
        self._waiting = False
        return self._stop_reply(self.control.interrupt())

    def detach(self, _arguments: bytes) -> bytes:
        """`D`"""
        self.control.detach()
        self.finished = True
        return b"OK"

    def kill(self, _arguments: bytes) -> None:
        """`k`"""
        self.control.engine.request_stop("killed by gdb")
        self.finished = True

    def kill_process(self, _arguments: bytes) -> bytes:
        """`vKill;pid`"""
        self.control.engine.request_stop("killed by gdb")
        return b"OK"

    # Threads

    @property
    def _count(self) -> int:
        return len(self.control.engine.board.vcpus)

    def _named(self, thread: bytes) -> list[int]:
        """The CPUs that a thread-id names: -1 is all, 0 any."""
        if thread == b"-1":
            return list(range(self._count))
        number = _hex(thread)
        if number > self._count:
            raise ValueError("no such thread")
        return [number - 1 if number else self.cpu]

    def choose(self, arguments: bytes) -> bytes:
        """`Hg thread`"""
        self.cpu = self._named(arguments)[0]
        return b"OK"

    def choose_resumed(self, arguments: bytes) -> bytes:
        """`Hc thread`"""
        cpus = self._named(arguments)
        self._resumed = cpus[0] if arguments not in (b"-1", b"0") else -1
        return b"OK"

    def is_alive(self, arguments: bytes) -> bytes:
        """`T thread`"""
        self._named(arguments)
        return b"OK"

    def current(self, _arguments: bytes) -> bytes:
        """`qC`"""
        return b"QC%x" % (self.cpu + 1)

    def first_threads(self, _arguments: bytes) -> bytes:
        """`qfThreadInfo`"""
        return b"m" + b",".join(b"%x" % number for number in range(1, self._count + 1))

    def more_threads(self, _arguments: bytes) -> bytes:
        """`qsThreadInfo`"""
        return b"l"

    def describe_thread(self, arguments: bytes) -> bytes:
        """`qThreadExtraInfo,thread`"""
        cpu = self._named(arguments)[0]
        state = self.state(cpu)
        activity = self.control.engine.board.vcpus[cpu].get_mp_state().name.lower().replace("_", " ")
        mode = cpu_mode(state.system, state.general.rflags)
        return f"CPU {cpu}: {activity}, {mode.words}, ring {mode.ring}".encode().hex().encode()

    # Queries

    def supported(self, _arguments: bytes) -> bytes:
        """`qSupported`"""
        return (
            b"PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+;"
            b"multiprocess-;QNonStop-" % MAX_PAYLOAD
        )

    def no_acks(self, _arguments: bytes) -> None:
        """`QStartNoAckMode`: its own answer is the last that is acknowledged."""
        self._reply(b"OK")
        self._acks = False

    def features(self, arguments: bytes) -> bytes:
        """`qXfer:features:read:annex:offset,length`"""
        annex, place = _split(arguments, b":", 2)
        offset, size = map(_hex, _split(place, b",", 2))
        if annex != b"target.xml":
            return b"E00"
        text = target.description(self.layout.architecture)
        part = text[offset : offset + min(size, MAX_PAYLOAD // 2)]
        return (b"m" if offset + len(part) < len(text) else b"l") + part

    def vcont_kinds(self, _arguments: bytes) -> bytes:
        """`vCont?`"""
        return b"vCont;c;C;s;S;r"

    def attached(self, _arguments: bytes) -> bytes:
        """`qAttached`: when gdb quits, the machine goes on without it."""
        return b"1"

    def symbols(self, _arguments: bytes) -> bytes:
        """`qSymbol::`: no symbol is needed."""
        return b"OK"

    def command(self, arguments: bytes) -> bytes:
        """`qRcmd,command`: what the user gave gdb's `monitor`."""
        text = monitor.run(self, bytes.fromhex(arguments.decode("ascii")).decode("utf-8", "replace"))
        if text:
            self._print(text)
        return b"OK"

    def step_mode(self, arguments: bytes) -> bytes:
        """`Qqemu.sstep=bits`"""
        self.control.block_interrupts = bool(_hex(arguments) & SSTEP_NOIRQ)
        return b"OK"

    def show_step_mode(self, _arguments: bytes) -> bytes:
        """`qqemu.sstep`"""
        return b"0x%x" % (SSTEP_ENABLE | (SSTEP_NOIRQ if self.control.block_interrupts else 0))


_EXPEDITED = {"i386:x86-64": (7, 6, 16), "i386": (4, 5, 8), "i8086": (4, 5, 8)}
"""Numbers of SP, BP and PC: with these, gdb needs no more to see where it is."""

_HANDLERS: tuple[tuple[bytes, Handler], ...] = (
    (b"g", Session.read_registers),
    (b"G", Session.write_registers),
    (b"p", Session.read_register),
    (b"P", Session.write_register),
    (b"m", Session.read_memory),
    (b"M", Session.write_memory),
    (b"X", Session.write_memory_binary),
    (b"Z", Session.insert),
    (b"z", Session.remove),
    (b"vCont?", Session.vcont_kinds),
    (b"vCont;", Session.vcont),
    (b"vKill;", Session.kill_process),
    (b"c", Session.continue_at),
    (b"s", Session.step_at),
    (b"C", Session.signal_continue_at),
    (b"S", Session.signal_step_at),
    (b"?", Session.why),
    (b"Hg", Session.choose),
    (b"Hc", Session.choose_resumed),
    (b"T", Session.is_alive),
    (b"D", Session.detach),
    (b"k", Session.kill),
    (b"qSupported", Session.supported),
    (b"qXfer:features:read:", Session.features),
    (b"QStartNoAckMode", Session.no_acks),
    (b"qfThreadInfo", Session.first_threads),
    (b"qsThreadInfo", Session.more_threads),
    (b"qThreadExtraInfo,", Session.describe_thread),
    (b"qAttached", Session.attached),
    (b"qSymbol:", Session.symbols),
    (b"qRcmd,", Session.command),
    (b"Qqemu.PhyMemMode:", Session.physical_mode),
    (b"Qqemu.sstep=", Session.step_mode),
    (b"qqemu.PhyMemMode", lambda session, _: b"%d" % session.physical),
    (b"qqemu.sstepbits", lambda *_: b"ENABLE=1,NOIRQ=2"),
    (b"qqemu.sstep", Session.show_step_mode),
    (b"qC", Session.current),
)
"""Packets by how they begin; the first that fits counts."""


def _hex(text: bytes) -> int:
    """A number as the protocol writes it: hexadecimal digits and nothing else."""
    text = text.removeprefix(b"0x")
    if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", text):
        raise ValueError("no number")
    return int(text, 16)


def _split(text: bytes, separator: bytes, count: int) -> Iterator[bytes]:
    parts = text.split(separator)
    if len(parts) != count:
        raise ValueError(f"{count} parts are wanted")
    return iter(parts)


def _action(what: bytes) -> Step | None:
    """One of vCont's actions; signals are of no use to a machine."""
    if what[:1] in (b"c", b"C"):
        return None
    if what[:1] in (b"s", b"S"):
        return Step()
    if what[:1] == b"r":
        low, high = _split(what[1:], b",", 2)
        return Step(_hex(low), _hex(high))
    raise ValueError("no such action")
