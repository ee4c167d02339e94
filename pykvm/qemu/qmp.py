"""QMP: the monitor for programs, JSON objects in both directions.

Source: QEMU's documentation, "QEMU Machine Protocol Specification" and "QEMU QMP Reference Manual". There is no
out-of-band execution. An input that never ends, or nests without end, is an error, and forgotten.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import PykvmError, refused_by_host
from .front import LINE_LIMIT, Front
from .info import NO_UUID, VERSION
from .system import RUNNING

if TYPE_CHECKING:
    from .system import System

DEPTH_MOST = 64
"""Objects and lists within one another."""
Arguments = dict[str, Any]


class QmpError(PykvmError):
    """An answer that is an error: its class, and its description as the message."""

    def __init__(self, text: str, kind: str = "GenericError") -> None:
        super().__init__(text)
        self.kind = kind


def _take(arguments: Arguments, **known: type) -> list[Any]:
    """The values of the arguments, None where one is missing. QmpError for a wrong type or an unknown name."""
    values = []
    for name in arguments:
        if name.replace("-", "_") not in known:
            raise QmpError(f"Parameter '{name}' is unexpected")
    names = {int: "integer", str: "string", bool: "boolean", list: "array"}
    for name, kind in known.items():
        value = arguments.get(name.replace("_", "-"))
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            shown = name.replace("_", "-")
            raise QmpError(f"Invalid parameter type for '{shown}', expected: {names[kind]}")
        values.append(value)
    return values


def _required(name: str, value: Any) -> Any:
    if value is None:
        raise QmpError(f"Parameter '{name}' is missing")
    return value


def version() -> dict[str, Any]:
    """As in the greeting."""
    major, minor, micro = VERSION
    return {"qemu": {"micro": micro, "minor": minor, "major": major}, "package": f"pykvm {__version__}"}


def query_status(system: System, arguments: Arguments) -> Any:
    """Whether the guest runs."""
    _take(arguments)
    return {"status": system.state, "singlestep": False, "running": system.state == RUNNING}


def stop(system: System, arguments: Arguments) -> Any:
    """Have the guest stand still."""
    _take(arguments)
    system.stop()
    return {}


def cont(system: System, arguments: Arguments) -> Any:
    """Have the guest go on."""
    _take(arguments)
    system.cont()
    return {}


def system_reset(system: System, arguments: Arguments) -> Any:
    """The reset button."""
    _take(arguments)
    system.reset()
    return {}


def system_powerdown(system: System, arguments: Arguments) -> Any:
    """The power button."""
    _take(arguments)
    system.powerdown()
    return {}


def quit_(system: System, arguments: Arguments) -> Any:
    """End the process."""
    _take(arguments)
    system.quit()
    return {}


def screendump(system: System, arguments: Arguments) -> Any:
    """The screen as a file."""
    from .picture import save

    path, device, _, form = _take(arguments, filename=str, device=str, head=int, format=str)
    if device is not None:
        raise QmpError(f"Device '{device}' not found", "DeviceNotFound")
    save(system.machine, _required("filename", path), form or "ppm")
    return {}


def human_monitor_command(system: System, arguments: Arguments) -> Any:
    """A command of the monitor for people."""
    from .monitor import Commands

    line, cpu = _take(arguments, command_line=str, cpu_index=int)
    commands = Commands(system)
    if cpu is not None:
        if not 0 <= cpu < len(system.machine.vcpus):
            raise QmpError("Parameter 'cpu-index' expects a CPU number")
        commands.cpu = cpu
    return commands.run(_required("command-line", line)[:LINE_LIMIT]).replace("\n", "\r\n")


def send_key(system: System, arguments: Arguments) -> Any:
    """Press keys together."""
    from .keys import UnknownKey, press

    keys, _ = _take(arguments, keys=list, hold_time=int)
    names = []
    for key in _required("keys", keys):
        if not isinstance(key, dict) or key.get("type") != "qcode" or not isinstance(key.get("data"), str):
            raise QmpError("Parameter 'keys' takes objects with type qcode")
        names.append(key["data"])
    try:
        press(system.machine, names)
    except UnknownKey as error:
        raise QmpError(f"Parameter 'data' does not accept value '{error}'") from None
    return {}


def inject_nmi(system: System, arguments: Arguments) -> Any:
    """An NMI on all CPUs."""
    _take(arguments)
    with system.still():
        for vcpu in system.machine.vcpus:
            vcpu.nmi()
    return {}


def query_version(system: System, arguments: Arguments) -> Any:
    """The version."""
    _take(arguments)
    return version()


def query_name(system: System, arguments: Arguments) -> Any:
    """-name's."""
    _take(arguments)
    return {"name": system.settings.name} if system.settings.name else {}


def query_uuid(system: System, arguments: Arguments) -> Any:
    """-uuid's."""
    _take(arguments)
    return {"UUID": system.settings.uuid or NO_UUID}


def query_kvm(system: System, arguments: Arguments) -> Any:
    """Whether KVM is used."""
    _take(arguments)
    return {"enabled": True, "present": True}


def query_cpus(system: System, arguments: Arguments) -> Any:
    """The CPUs."""
    import os

    _take(arguments)
    return [
        {
            "thread-id": os.getpid(),
            "props": {"core-id": 0, "thread-id": 0, "socket-id": number},
            "qom-path": f"/machine/unattached/device[{number}]",
            "cpu-index": number,
            "target": "x86_64",
        }
        for number in range(len(system.machine.vcpus))
    ]


def query_block(system: System, arguments: Arguments) -> Any:
    """The drives."""
    _take(arguments)
    found = []
    for name, drive in system.places.all:
        entry: dict[str, Any] = {
            "device": name, "locked": False, "removable": drive.media == "cdrom" or drive.interface == "floppy",
            "type": "unknown",
        }  # fmt: skip
        if drive.file is not None:
            inserted = {"file": drive.file, "drv": drive.driver, "ro": drive.readonly}
            entry["inserted"] = {**inserted, "encrypted": False, "backing_file_depth": 0}
        found.append(entry)
    return found


def query_commands(system: System, arguments: Arguments) -> Any:
    """What there is."""
    _take(arguments)
    return [{"name": name} for name in ("qmp_capabilities", *COMMANDS)]


COMMANDS: dict[str, Callable[[System, Arguments], Any]] = {
    "query-status": query_status, "stop": stop, "cont": cont, "system_reset": system_reset,
    "system_powerdown": system_powerdown, "quit": quit_, "screendump": screendump,
    "human-monitor-command": human_monitor_command, "send-key": send_key, "inject-nmi": inject_nmi,
    "query-version": query_version, "query-name": query_name, "query-uuid": query_uuid, "query-kvm": query_kvm,
    "query-cpus-fast": query_cpus, "query-block": query_block, "query-commands": query_commands,
}  # fmt: skip
"""Every command but `qmp_capabilities`, which is each conversation's own."""


class Splitter:
    """Takes a stream apart into JSON texts. ValueError if one is too long, or nests too deep."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._depth = 0
        self._quoted = self._escaped = False

    def feed(self, data: bytes) -> list[bytes]:
        """The texts that are whole now: an object or list, or a line that is neither."""
        whole = []
        for byte in data:
            if not self._text and byte in b" \t\r\n":
                continue
            self._text.append(byte)
            if len(self._text) > LINE_LIMIT:
                raise ValueError("it is too long")
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif byte == 0x5C:
                    self._escaped = True
                elif byte == 0x22:
                    self._quoted = False
            elif byte == 0x22:
                self._quoted = True
            elif byte in b"{[":
                self._depth += 1
                if self._depth > DEPTH_MOST:
                    raise ValueError("it nests too deep")
            elif byte in b"}]":
                self._depth -= 1
            ends = byte in b"}]" or byte == 0x0A
            if ends and self._depth <= 0 and not self._quoted:
                whole.append(bytes(self._text))
                self._start()
        return whole

    def _start(self) -> None:
        self._text.clear()
        self._depth, self._quoted, self._escaped = 0, False, False


class Qmp(Front):
    """A conversation with a program. `pretty` has its answers in many lines."""

    def __init__(self, system: System, *, pretty: bool = False) -> None:
        super().__init__()
        self._system, self._pretty = system, pretty
        self._ready = False
        self._splitter = Splitter()
        system.listeners.append(self._event)

    def opened(self) -> None:
        """Greet."""
        self._ready = False
        self._splitter = Splitter()
        self._tell({"QMP": {"version": version(), "capabilities": []}})

    def _tell(self, message: dict[str, Any]) -> None:
        self.say(json.dumps(message, indent=4 if self._pretty else None) + "\r\n")

    def _event(self, name: str, data: dict[str, Any]) -> None:
        if self._ready:
            seconds, rest = divmod(time.time_ns(), 1_000_000_000)
            stamp = {"seconds": seconds, "microseconds": rest // 1000}
            self._tell({"timestamp": stamp, "event": name, **({"data": data} if data else {})})

    def send(self, data: bytes) -> None:
        """Take input; each whole text is answered."""
        try:
            texts = self._splitter.feed(data)
        except ValueError as error:
            self._splitter = Splitter()  # what else has come with it is lost
            self._tell(_error(QmpError(f"JSON parse error, {error}")))
            return
        for text in texts:
            self._tell(self._answer(text))

    def _answer(self, text: bytes) -> dict[str, Any]:
        identity: dict[str, Any] = {}
        try:
            request = _parsed(text)
            if not isinstance(request, dict):
                raise QmpError("QMP input must be a JSON object")
            if "id" in request:
                identity = {"id": request["id"]}
            return {"return": self._do(request), **identity}
        except QmpError as error:
            return {**_error(error), **identity}
        except PykvmError as error:
            return {**_error(QmpError(str(error))), **identity}
        except (OSError, MemoryError) as error:
            return {**_error(QmpError(str(refused_by_host(error) or error))), **identity}

    def _do(self, request: dict[str, Any]) -> Any:
        for name in request:
            if name not in ("execute", "arguments", "id"):
                raise QmpError(f"QMP input member '{name[:200]}' is unexpected")
        if "execute" not in request:
            raise QmpError("QMP input lacks member 'execute'")
        name, arguments = request["execute"], request.get("arguments", {})
        if not isinstance(name, str):
            raise QmpError("QMP input member 'execute' must be a string")
        if not isinstance(arguments, dict):
            raise QmpError("QMP input member 'arguments' must be an object")
        if name == "qmp_capabilities":
            return self._negotiate(arguments)
        if not self._ready:
            raise QmpError("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")
        command = COMMANDS.get(name)
        if command is None:
            raise QmpError(f"The command {name[:200]} has not been found", "CommandNotFound")
        return command(self._system, arguments)

    def _negotiate(self, arguments: Arguments) -> Any:
        if self._ready:
            raise QmpError("Capabilities negotiation is already complete, command ignored", "CommandNotFound")
        (wanted,) = _take(arguments, enable=list)
        if wanted:
            raise QmpError(f"Capability {str(wanted[0])[:40]} not available")
        self._ready = True
        return {}


def _not_json(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    """A number that can be sent back."""
    value = float(text)
    return value if abs(value) <= sys.float_info.max else _not_json(text)


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text.decode(), parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError):
        raise QmpError("JSON parse error, expecting value") from None


def _error(error: QmpError) -> dict[str, Any]:
    return {"error": {"class": error.kind, "desc": str(error)}}
