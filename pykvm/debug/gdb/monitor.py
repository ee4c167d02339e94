"""What gdb's `monitor` can ask for: what the protocol has no packets for. Names are QEMU's where it has the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import PykvmError
from ...memory import parse_size
from ...x86.disasm import MAX_INSTRUCTION, disassemble
from ...x86.mode import cpu_mode
from ...x86.registers import Segment

if TYPE_CHECKING:
    from .conversation import Conversation

MAX_COUNT = 256
"""Bytes, words or instructions shown at a time."""
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")
_GENERAL = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
)

Command = Callable[["Conversation", list[str]], str]


def run(session: Conversation, line: str) -> str:
    """The answer to a command line, in lines of text. Whatever is wrong with the command is said in it."""
    words = line.split()
    for name, (command, most, _) in COMMANDS.items():
        parts = name.split()
        if words[: len(parts)] == parts:
            arguments = words[len(parts) :]
            if len(arguments) > most:
                return f"{name} takes at most {most} arguments: see monitor help\n"
            try:
                return command(session, arguments) + "\n"
            except PykvmError as error:
                return f"{name}: {error}\n"
    return f"there is no command {line.strip()[:60]!r}: see monitor help\n" if words else show_help(session, []) + "\n"


def show_help(_session: Conversation, _arguments: list[str]) -> str:
    """This list."""
    width = max(len(f"{name} {usage}") for name, (_, _, usage) in COMMANDS.items())
    return "\n".join(
        f"{f'{name} {usage}':<{width}}  {command.__doc__}" for name, (command, _, usage) in COMMANDS.items()
    )


def show_registers(session: Conversation, _arguments: list[str]) -> str:
    """The chosen CPU's registers, hidden parts of segments included."""
    state = session.state(session.cpu)
    r, s = state.general, state.system
    mode = cpu_mode(s, r.rflags)
    lines = [f"CPU {state.number}, {mode.words}, ring {mode.ring}"]
    lines += ["  ".join(f"{name:<3} {getattr(r, name):016x}" for name in row) for row in _GENERAL]
    lines.append(f"rip {r.rip:016x}  rflags {r.rflags:08x}")
    for name in _SEGMENTS:
        segment: Segment = getattr(s, name)
        lines.append(
            f"{name:<3} {segment.selector:04x}  base {segment.base:016x}  limit {segment.limit:08x}  "
            f"type {segment.type:x}  dpl {segment.dpl}" + ("  unusable" if segment.unusable else "")
        )
    lines.append(f"gdt {s.gdt.base:016x}+{s.gdt.limit:04x}  idt {s.idt.base:016x}+{s.idt.limit:04x}")
    lines.append(f"cr0 {s.cr0:x}  cr2 {s.cr2:x}  cr3 {s.cr3:x}  cr4 {s.cr4:x}  cr8 {s.cr8:x}  efer {s.efer:x}")
    return "\n".join(lines)


def show_cpus(session: Conversation, _arguments: list[str]) -> str:
    """Every CPU's activity, mode and place."""
    lines = []
    for number, vcpu in enumerate(session.control.engine.board.vcpus):
        state = session.state(number)
        marker = "*" if number == session.cpu else " "
        activity = vcpu.get_mp_state().name.lower().replace("_", " ")
        mode = cpu_mode(state.system, state.general.rflags)
        lines.append(
            f"{marker} CPU {number}: {activity}, {mode.words}, ring {mode.ring}, at {session.control.pc(number):#x}"
        )
    return "\n".join(lines)


def show_devices(session: Conversation, _arguments: list[str]) -> str:
    """The devices on the buses, with their addresses."""
    board = session.control.engine.board
    rows = [("port", span, device) for device in board.devices for span in device.ports]
    rows += [("mmio", span, device) for device in board.devices for span in device.mmio]
    return "\n".join(
        f"{kind} {span.base:#06x}-{span.end - 1:#06x}  {device.display_name}"
        for kind, span, device in sorted(rows, key=lambda row: (row[0], row[1].base))
    )


def show_exits(session: Conversation, _arguments: list[str]) -> str:
    """How often each CPU has left the guest, and which addresses nobody answered."""
    engine = session.control.engine
    lines = [f"CPU {number}: {runner.exits} exits" for number, runner in enumerate(engine.runners)]
    for bus in (engine.board.ports, engine.board.mmio):
        most = sorted(bus.unclaimed.items(), key=lambda item: -item[1])[:16]
        lines += [f"unclaimed {bus.kind} {address:#x}: {count} accesses" for address, count in most]
    return "\n".join(lines)


def show_crash(session: Conversation, _arguments: list[str]) -> str:
    """The crash report, if the machine cannot go on."""
    report = session.control.explain()
    return str(report) if report is not None else "no CPU has crashed or halted in an exception handler"


def walk(session: Conversation, arguments: list[str]) -> str:
    """How the chosen CPU translates a linear address, level by level."""
    return str(session.control.walk(session.cpu, _address(session, arguments)))


def show_physical(session: Conversation, arguments: list[str]) -> str:
    """COUNT bytes of RAM at a guest physical address."""
    address, count = _number(arguments, 0, 0), _number(arguments, 1, 64)
    data = session.control.read_physical(address, min(count, MAX_COUNT))
    if not data:
        return f"guest physical {address:#x} is not in RAM"
    return "\n".join(
        f"{address + at:#010x}: {data[at : at + 16].hex(' '):<47}  {_printable(data[at : at + 16])}"
        for at in range(0, len(data), 16)
    )


def _printable(data: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)


def disassemble_at(session: Conversation, arguments: list[str]) -> str:
    """COUNT instructions at ADDRESS or where the CPU is, in the CPU's own mode."""
    state = session.state(session.cpu)
    address, count = _address(session, arguments), min(_number(arguments, 1, 8), MAX_COUNT)
    code = session.control.read(session.cpu, address, count * MAX_INSTRUCTION)
    bits = cpu_mode(state.system, state.general.rflags).bits
    found = disassemble(code, address, bits, count)
    return "\n".join(map(str, found)) if found else f"linear {address:#x} is not mapped to RAM"


def _address(session: Conversation, arguments: list[str]) -> int:
    return _number(arguments, 0, session.control.pc(session.cpu)) & (1 << 64) - 1


def _number(arguments: list[str], at: int, otherwise: int) -> int:
    return parse_size(arguments[at]) if at < len(arguments) else otherwise


COMMANDS: dict[str, tuple[Command, int, str]] = {
    "help": (show_help, 0, ""),
    "info registers": (show_registers, 0, ""),
    "info cpus": (show_cpus, 0, ""),
    "info devices": (show_devices, 0, ""),
    "info exits": (show_exits, 0, ""),
    "crash": (show_crash, 0, ""),
    "info tlb": (walk, 1, "[ADDRESS]"),
    "walk": (walk, 1, "[ADDRESS]"),
    "xp": (show_physical, 2, "ADDRESS [COUNT]"),
    "disas": (disassemble_at, 2, "[ADDRESS [COUNT]]"),
}
"""Every command with the number of its arguments and their names; its docstring is its help."""
