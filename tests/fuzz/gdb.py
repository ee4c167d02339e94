"""gdb's remote protocol: the packet decoder, and a session with a machine that is made of plain data."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from x86_machine import long_cpu, protected_cpu, real_cpu

from pykvm.debug.breakpoints import Breakpoints
from pykvm.debug.contents import DebugError
from pykvm.debug.control import Stop, Why
from pykvm.debug.gdb import running
from pykvm.debug.gdb.monitor import COMMANDS
from pykvm.debug.gdb.packets import MAX_PAYLOAD, Decoder, Packet, encode
from pykvm.debug.gdb.session import Session
from pykvm.errors import PykvmError
from pykvm.kvm.state import MpState
from pykvm.memory import GuestMemory
from pykvm.x86.cpu import Cpu
from pykvm.x86.paging import Walk
from pykvm.x86.registers import Registers, SystemRegisters, linear_pc

from .target import Input, Random, Target, mutate, number

RAM = 1 << 20
PAYLOADS = (
    b"?", b"g", b"p0", b"p10", b"P10=0011223344556677", b"P0=00", b"m8000,10", b"M8000,2:9090", b"X8000,2:ab", b"Z0,8000,1",
    b"z0,8000,1", b"Z1,8000,1", b"Z2,9000,4", b"Z4,9000,8", b"c", b"s", b"C05", b"S05;8000", b"c8000", b"vCont?", b"vCont;c",
    b"vCont;s:1;c", b"vCont;r8000,8010:1", b"vKill;1", b"D", b"k", b"Hg1", b"Hc-1", b"Hg0", b"T2", b"qC", b"qCRC:8000,100",
    b"qSupported:multiprocess+;swbreak+", b"qXfer:features:read:target.xml:0,ffb", b"qXfer:auxv:read::0,10",
    b"QStartNoAckMode", b"qfThreadInfo", b"qsThreadInfo", b"qThreadExtraInfo,1", b"qAttached", b"qSymbol::",
    b"Qqemu.PhyMemMode:1", b"qqemu.PhyMemMode", b"Qqemu.sstep=7", b"qqemu.sstep", b"qqemu.sstepbits", b"G00", b"R", b"!",
    *(b"qRcmd," + f"{name} {arguments}".encode().hex().encode() for name in COMMANDS for arguments in ("", "0x8000", "0x8000 4")),
)  # fmt: skip
WORDS = (
    b"$",
    b"#",
    b"}",
    b"*",
    b"+",
    b"-",
    b"\x03",
    b"#00",
    b",",
    b":",
    b";",
    b"-1",
    b"ffffffffffffffff",
    b"10000000000000000",
)
DATA, HAPPENS = range(2)
CPUS = 2


class Chunks(Target):
    """`Decoder` on a stream in pieces: nothing raises, and it keeps no more than a packet."""

    name = "gdb-packets"
    share = 2.0
    alone = False

    def draw(self, source: Random) -> list[Input]:
        pool = []
        for _ in range(200):
            payload = source.choice(PAYLOADS)
            packet = encode(payload) if source.randrange(3) else b"$%b#%02x" % (payload, source.getrandbits(8))
            pool.append(packet if source.randrange(3) else mutate(source, packet, WORDS))
        pool += [encode(source.randbytes(300)), b"$" + b"a" * 3000]
        return source.choices(pool, k=4000)

    def run(self, inputs: Iterator[Input]) -> None:
        decoder = Decoder()
        longest = 2 * MAX_PAYLOAD + 1
        for data in inputs:
            for item in decoder.feed(data):
                if isinstance(item, Packet):
                    assert len(item.payload) <= longest
            assert len(decoder._raw) <= longest


class _Vcpu:
    """What a session asks a vCPU itself."""

    def __init__(self, system: SystemRegisters) -> None:
        self.system = system
        self.mp_state = MpState.RUNNABLE

    def get_mp_state(self) -> MpState:
        return self.mp_state

    def get_system_registers(self) -> SystemRegisters:
        return self.system


class FakeControl:
    """A stopped machine of two CPUs; it runs when it is let go, until something happens."""

    def __init__(self, kind: int, memory: GuestMemory) -> None:
        made, ram = (long_cpu, protected_cpu, real_cpu)[kind]()
        self.memory = memory
        memory.write(0, bytes(ram.data))
        self.general = [made.registers.copy() for _ in range(CPUS)]
        self.system = [made.system.copy() for _ in range(CPUS)]
        self.area = [bytes(576) for _ in range(CPUS)]
        self.stop: Stop | None = Stop(Why.INTERRUPTED)
        self.breakpoints = Breakpoints()
        self.block_interrupts = True
        vcpus = [_Vcpu(system) for system in self.system]
        buses = {name: SimpleNamespace(unclaimed={1: 2}, kind="port") for name in ("ports", "mmio")}
        board = SimpleNamespace(vcpus=vcpus, memory=memory, devices=[], **buses)
        runners = [SimpleNamespace(exits=number) for number in range(CPUS)]
        self.engine = SimpleNamespace(
            board=board, outcome=None, entry=None, runners=runners, request_stop=lambda why: None
        )

    def interrupt(self) -> Stop | None:
        self.stop = self.stop or Stop(Why.INTERRUPTED)
        return self.stop

    def explain(self) -> None:
        """The guest can go on."""

    def require_stopped(self) -> Stop:
        if self.stop is None:
            raise DebugError("the machine runs: interrupt it first")
        return self.stop

    def resume(self, actions: Any) -> None:
        self.require_stopped()
        self.stop = None

    def detach(self) -> None:
        self.breakpoints.clear()

    def check_breakpoints(self) -> None:
        if any(address & 1 for address in self.breakpoints.software):
            raise DebugError("it cannot be placed")

    def _cpu(self, cpu: int) -> Cpu:
        self.require_stopped()
        return Cpu(self.general[cpu], self.system[cpu], self.memory.read)

    def registers(self, cpu: int) -> Registers:
        return self._cpu(cpu).registers

    def set_registers(self, cpu: int, registers: Registers) -> None:
        self.general[cpu] = registers

    def system_registers(self, cpu: int) -> SystemRegisters:
        return self._cpu(cpu).system

    def set_system_registers(self, cpu: int, system: SystemRegisters) -> None:
        self.system[cpu] = system

    def xsave(self, cpu: int) -> bytes:
        return self.area[cpu]

    def set_xsave(self, cpu: int, area: bytes) -> None:
        assert len(area) == len(self.area[cpu])
        self.area[cpu] = area

    def msr(self, cpu: int, index: int) -> int | None:
        return index if index & 1 else None

    def set_msr(self, cpu: int, index: int, value: int) -> None:
        if value >> 63:
            raise PykvmError("no such value")

    def pc(self, cpu: int) -> int:
        return linear_pc(self.registers(cpu), self.system_registers(cpu))

    def walk(self, cpu: int, linear: int) -> Walk:
        return self._cpu(cpu).walk(linear)

    def read(self, cpu: int, linear: int, size: int) -> bytes:
        return self.memory.read_linear(linear, size, lambda at: self._cpu(cpu).walk(at).physical)

    def write(self, cpu: int, linear: int, data: bytes) -> None:
        if linear + len(data) > RAM:
            raise DebugError("it is not mapped")
        self.memory.write(linear, data)

    def read_physical(self, gpa: int, size: int) -> bytes:
        return self.memory.read(gpa, min(size, RAM - gpa)) if gpa < RAM else b""

    def write_physical(self, gpa: int, data: bytes) -> None:
        self.memory.write(gpa, data)


class Conversation(Target):
    """(DATA, what the client sends) and (HAPPENS, a number: a stop, of which kind). The first input is the CPUs' mode."""

    name = "gdb-session"
    share = 1.5
    alone = False

    def draw(self, source: Random) -> list[Input]:
        inputs: list[Input] = [(HAPPENS, source.randrange(3))]
        for _ in range(700):
            if not source.randrange(6):
                inputs.append((HAPPENS, number(source, 32)))
                continue
            payload = source.choice(PAYLOADS)
            match source.randrange(4):
                case 0:
                    payload = mutate(source, payload, WORDS)
                case 1:  # the same with other numbers
                    head = payload[:1]
                    payload = (
                        head + b"%x,%x" % (number(source, 64), number(source, 12)) + payload[-source.randrange(1, 4) :]
                    )
            if payload[:1] in b"kD" and source.randrange(20):
                continue
            packet = encode(payload)
            if not source.randrange(12):
                packet = mutate(source, packet, WORDS)
            inputs.append((DATA, packet))
        return inputs

    def run(self, inputs: Iterator[Input]) -> None:
        running.data_breakpoints_work = lambda: True  # the host's KVM has no part in this
        memory = GuestMemory(RAM)
        try:
            session: Session | None = None
            for kind, given in inputs:
                if session is None or session.finished:
                    control = FakeControl(given % 3 if kind == HAPPENS else 0, memory)
                    names = ("i386:x86-64", "i386", "i8086")
                    session = Session(cast("Any", control), _check, names[given % 3 if kind == HAPPENS else 0])
                elif kind == HAPPENS:
                    if control.stop is None:
                        why = list(Why)[given % len(Why)]
                        control.stop = Stop(why, given >> 4 & 1, given >> 8, "" if given & 8 else "text")
                    session.report()
                else:
                    session.receive(given)
                assert len(control.breakpoints.software) < 2000
        finally:
            memory.close()


def _check(data: bytes) -> None:
    assert len(data) <= 4 * MAX_PAYLOAD, len(data)


def targets() -> list[Target]:
    return [Chunks(), Conversation()]
