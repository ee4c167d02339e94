"""The monitor that people type into: `(qemu) `, a line, its answer.

Source: QEMU's documentation, "QEMU Monitor". A command's text ends with a line's end, or is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..errors import PykvmError, refused_by_host
from ..typed import TYPE_CHECKING, Any
from ..x86.registers import linear_pc
from . import examine, info
from .front import LINE_LIMIT, Front

if TYPE_CHECKING:
    from .system import System

PROMPT = "(qemu) "
_CANCEL, _BACKSPACE, _DELETE, _ERASE = 3, 8, 127, 21
"""Keys: Ctrl-C and Ctrl-U forget the line."""
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
Command = Callable[["Commands", str], str]


class Commands:
    """What the commands act on, and what they remember."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.cpu = 0
        self.format = examine.Format()

    def run(self, line: str) -> str:
        """The answer to a command line. Nothing that can be in one raises."""
        text = line.strip()
        if not text:
            return ""
        end = next((at for at, character in enumerate(text) if character.isspace() or character == "/"), len(text))
        name, arguments = text[:end], text[end:].strip()
        found = COMMANDS.get(_ALIASES.get(name, name))
        if found is None:
            return f"unknown command: '{name}'\n"
        try:
            return found[0](self, arguments)
        except examine.BadExpression as error:
            return f'{error}\nTry "help {name}" for more information\n'
        except PykvmError as error:
            return f"Error: {error}\n"
        except (OSError, MemoryError) as error:
            return f"Error: {refused_by_host(error) or getattr(error, 'strerror', None) or error}\n"

    def register(self, name: str) -> int | None:
        """What $name stands for in an expression."""
        vcpu = self.system.machine.vcpus[self.cpu]
        general, special = vcpu.get_registers(), vcpu.get_system_registers()
        if name in ("pc", "rip", "eip"):
            return linear_pc(general, special)
        if name in ("eflags", "rflags"):
            return general.rflags
        if name in _SEGMENTS:
            value: int = getattr(special, name).selector
            return value
        wide = f"r{name[1:]}" if name[:1] == "e" else name
        if wide in type(general).__slots__:
            value = getattr(general, wide)
            return value & 0xFFFFFFFF if name[0] == "e" else value
        if name in ("cr0", "cr2", "cr3", "cr4"):
            control: int = getattr(special, name)
            return control
        return None


def show_info(monitor: Commands, text: str) -> str:
    """show various information about the system state"""
    name, _, rest = text.partition(" ")
    if not name:
        return "".join(f"info {each}  -- {show.__doc__}\n" for each, show in info.INFO.items())
    show = info.INFO.get(name)
    if show is None:
        return f"unknown command: 'info {name}'\n"
    with monitor.system.still():
        if name == "registers" and rest.strip() == "-a":
            return "".join(show(monitor.system, cpu) for cpu in range(len(monitor.system.machine.vcpus)))
        return show(monitor.system, monitor.cpu)


def _formatted(monitor: Commands, text: str) -> str:
    """The text behind a format, which is remembered."""
    if text.startswith("/"):
        words = text[1:].split(None, 1)
        monitor.format = examine.read_format(words[0] if words else "", monitor.format)
        return words[1] if len(words) > 1 else ""
    monitor.format = monitor.format._replace(items=1)
    return text


def _value(monitor: Commands, text: str) -> int:
    expression = examine.Expression(text, monitor.register)
    value = expression.value()
    if expression.rest():
        raise examine.BadExpression(f"extraneous characters at the end of line: {expression.rest()[:40]}")
    return value


def examine_memory(monitor: Commands, text: str, *, physical: bool) -> str:
    """print memory from an address on, as /COUNT x|d|u|o|c|i b|h|w|g"""
    from ..x86.cpu import Cpu

    with monitor.system.still():
        rest = _formatted(monitor, text)
        address = _value(monitor, rest)
        machine = monitor.system.machine
        vcpu = machine.vcpus[monitor.cpu]
        seen = Cpu(vcpu.get_registers(), vcpu.get_system_registers(), machine.memory.read)

        def read(at: int, size: int) -> bytes:
            try:
                return machine.memory.read(at, size) if physical else seen.peek(at, size)
            except PykvmError:
                return b""

        if monitor.format.letter == "i":
            lines = _instructions(read, address, seen.mode.bits, monitor.format.items)
        else:
            lines = examine.dump(monitor.format, address, read)
    return "".join(f"{line}\n" for line in lines)


def _instructions(read: Callable[[int, int], bytes], address: int, bits: int, count: int) -> list[str]:
    from ..x86.disasm import MAX_INSTRUCTION, disassemble

    code = bytearray()
    for at in range(min(count, examine.COUNT_MOST // MAX_INSTRUCTION) * MAX_INSTRUCTION):
        byte = read(address + at & (1 << 64) - 1, 1)
        if not byte:
            break
        code += byte
    if not code:
        return [f"{address:016x}: Cannot access memory"]
    lines = []
    for each in disassemble(bytes(code), address, bits, count):
        name, _, operands = each.text.partition(" ")
        lines.append(f"0x{each.address:08x}:  {each.code.hex(' '):<24} {f'{name:<8} {operands}'.rstrip()}")
    return lines


def print_value(monitor: Commands, text: str) -> str:
    """print an expression's value, as /x, /d, /u, /o or /c"""
    with monitor.system.still():
        rest = _formatted(monitor, text)
        return examine.shown(_value(monitor, rest), monitor.format.letter) + "\n"


def choose_cpu(monitor: Commands, text: str) -> str:
    """set the CPU that other commands look at"""
    with monitor.system.still():
        number = _value(monitor, text)
    if number >= len(monitor.system.machine.vcpus):
        return "invalid CPU index\n"
    monitor.cpu = number
    return ""


def stop(monitor: Commands, text: str) -> str:
    """stop emulation"""
    monitor.system.stop()
    return ""


def cont(monitor: Commands, text: str) -> str:
    """resume emulation"""
    monitor.system.cont()
    return ""


def system_reset(monitor: Commands, text: str) -> str:
    """reset the system"""
    monitor.system.reset()
    return ""


def system_powerdown(monitor: Commands, text: str) -> str:
    """send system power down event"""
    monitor.system.powerdown()
    return ""


def quit_(monitor: Commands, text: str) -> str:
    """quit the emulator"""
    monitor.system.quit()
    return ""


def nmi(monitor: Commands, text: str) -> str:
    """inject an NMI on all CPUs"""
    with monitor.system.still():
        for vcpu in monitor.system.machine.vcpus:
            vcpu.nmi()
    return ""


def sendkey(monitor: Commands, text: str) -> str:
    """press keys together, such as ctrl-alt-f1"""
    from .keys import UnknownKey, press

    words = text.split()
    if not words:
        raise examine.BadExpression("sendkey: string expected")
    try:
        press(monitor.system.machine, words[0].replace("--", "-minus").strip("-").split("-"))
    except UnknownKey as error:
        return f"invalid parameter: {error}\n"
    return ""


def screendump(monitor: Commands, text: str) -> str:
    """save the screen into a PPM picture, or with -f png into a PNG one"""
    from .picture import save

    words = text.split()
    form = "ppm"
    if "-f" in words[:-1]:
        at = words.index("-f")
        form = words[at + 1]
        del words[at : at + 2]
    if not words:
        raise examine.BadExpression("screendump: filename expected")
    save(monitor.system.machine, words[0], form)
    return ""


def savevm(monitor: Commands, text: str) -> str:
    """keep the machine's state under a tag, as long as this process lives"""
    monitor.system.save(text or f"vm-{len(monitor.system.snapshots) + 1}")
    return ""


def loadvm(monitor: Commands, text: str) -> str:
    """go back to the state of a tag"""
    monitor.system.load(text)
    return ""


def delvm(monitor: Commands, text: str) -> str:
    """forget the state of a tag"""
    if monitor.system.snapshots.pop(text, None) is None:
        raise PykvmError(f"there is no snapshot {text!r}: see info snapshots")
    return ""


def device(monitor: Commands, text: str) -> str:
    """list the devices"""
    if text not in ("", "list"):
        return f"unknown command: 'device {text}'\n"
    return info.qtree(monitor.system, monitor.cpu)


def show_help(monitor: Commands, text: str) -> str:
    """show the help"""
    if text.startswith("info"):
        wanted = text[4:].strip()
        return "".join(f"info {each}  -- {show.__doc__}\n" for each, show in info.INFO.items() if wanted in ("", each))
    lines = []
    for name, (_, usage, words) in COMMANDS.items():
        names = "|".join([name, *(short for short, full in _ALIASES.items() if full == name)])
        if not text or text in names.split("|"):
            lines.append(f"{names} {usage} -- {words}\n")
    return "".join(lines)


_CALLS: dict[str, tuple[Callable[..., str], str]] = {
    "help": (show_help, "[cmd]"),
    "info": (show_info, "[subcommand]"),
    "x": (partial(examine_memory, physical=False), "/fmt addr"),
    "xp": (partial(examine_memory, physical=True), "/fmt addr"),
    "print": (print_value, "/fmt expr"),
    "cpu": (choose_cpu, "index"),
    "stop": (stop, ""),
    "cont": (cont, ""),
    "system_reset": (system_reset, ""),
    "system_powerdown": (system_powerdown, ""),
    "quit": (quit_, ""),
    "nmi": (nmi, ""),
    "sendkey": (sendkey, "keys"),
    "screendump": (screendump, "filename [-f format]"),
    "savevm": (savevm, "tag"),
    "loadvm": (loadvm, "tag"),
    "delvm": (delvm, "tag"),
    "device": (device, "[list]"),
}
_ALIASES = {"?": "help", "p": "print", "s": "stop", "c": "cont", "q": "quit"}


def _words(call: Callable[..., Any]) -> str:
    return (call.func if isinstance(call, partial) else call).__doc__ or ""


COMMANDS: dict[str, tuple[Command, str, str]] = {
    name: (call, usage, _words(call)) for name, (call, usage) in _CALLS.items()
}
"""Every command by its name, with what may stand behind it and its help."""


class Monitor(Front):
    """Commands typed at a character device, with an echo and a prompt."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self._commands = Commands(system)
        self._line = bytearray()
        self._escape = b""  # the beginning of a cursor key's sequence
        self._greeted = False
        self._last = 0

    def opened(self) -> None:
        """Say what this is, and prompt."""
        if not self._greeted:
            self.say("QEMU 7.2.0 monitor of pykvm - type 'help' for more information\r\n")
        self._greeted = True
        self._line.clear()
        self.say(PROMPT)

    def send(self, data: bytes) -> None:
        """Take keys; a whole line is done."""
        for key in data:
            if self._escape:
                self._escape += bytes((key,))
                ends = key not in b"[O" if len(self._escape) == 2 else chr(key).isalpha() or key == 126
                if ends or len(self._escape) > 8:
                    self._escape = b""
            elif key == 27:
                self._escape = b"\x1b"
            elif key in b"\r\n":
                if key == 10 and self._last == 13:
                    self._last = key
                    continue
                self._enter()
            elif key in (_BACKSPACE, _DELETE):
                if self._line:
                    self._line.pop()
                    self.say("\b \b")
            elif key in (_CANCEL, _ERASE):
                self.say("\b \b" * len(self._line))
                self._line.clear()
            elif key >= 32 and len(self._line) < LINE_LIMIT:
                self._line.append(key)
                if self.sink is not None:
                    self.sink(bytes((key,)))
            self._last = key

    def _enter(self) -> None:
        self.say("\r\n")
        line = self._line.decode("utf-8", "replace")
        self._line.clear()
        answer = self._commands.run(line)
        self.say(answer.replace("\n", "\r\n"))
        if self._commands.system.engine.outcome is None:
            self.say(PROMPT)
