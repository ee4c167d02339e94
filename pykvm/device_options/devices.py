"""Devices of users: PCI cards and others, as objects, or named by `MODULE:CLASS` or `FILE.py:CLASS` with options."""

from __future__ import annotations

import os

from ..arguments import require_list
from ..device import Device
from ..errors import ConfigError
from ..typed import Any, NamedTuple
from .option import Bench, DeviceOption

MOST = 64
"""Devices that a snapshot may name."""
OWN = ("pykvm.devices.teaching:Teaching", "pykvm.devices.virtio.rng:VirtioRng")
"""What a snapshot gets by its mere name: classes of pykvm's that take no options but their slot."""


class Remembered(NamedTuple):
    """A device that a snapshot has, by what `plain_name` called it."""

    name: str


_made: dict[str, str] = {}
"""What this process has made by a `spec`, by the device's plain name: its forks have the like."""


class Devices(DeviceOption):
    """Devices: each an object of a class that comes from `pykvm.Device`, such as a `pykvm.PciDevice`, or a text as the
    command line has it."""

    name = "devices"
    default = ()
    absent: list[str] = []  # noqa: RUF012  # never changed
    flags = ("--device",)
    multiple = True
    metavar = "MODULE:CLASS|FILE.py:CLASS[,OPTION=VALUE]"
    help = "A device of your own, of a class that comes from pykvm.PciDevice or pykvm.Device; slot= chooses its slot."

    def parse(self, text: str) -> Device:
        return make(text)

    def opened(self, value: Any) -> list[Device]:
        if not value and not isinstance(value, str):
            return []
        require_list(self.name, value)
        return [_opened(each) for each in value]

    def build(self, value: Any, bench: Bench) -> list[str]:
        bench.devices += value
        return [plain_name(device) for device in value]

    def from_snapshot(self, plain: Any) -> list[Remembered]:
        if not isinstance(plain, list) or len(plain) > MOST or not all(isinstance(name, str) for name in plain):
            raise ValueError("the devices are no list of names, or too many")
        return [Remembered(name) for name in plain]


def plain_name(device: Device) -> str:
    """What a snapshot calls a device that a machine must have been made with: as a `spec`, without directories."""
    return getattr(device, "_spec", None) or f"{type(device).__module__}:{type(device).__qualname__}"


def _opened(value: Any) -> Device:
    if isinstance(value, str):
        return make(value)
    if isinstance(value, Remembered):
        name = value.name
        if name in _made:
            return make(_made[name])
        if name.partition(",")[0] in OWN:
            return make(name)
        raise ConfigError(
            f"the snapshot's machine has the device {name}, whose code is not the snapshot's: "
            "give it by --device, or by devices= of fork"
        )
    if not isinstance(value, Device):
        raise ConfigError(f"{value!r:.60} is no device: its class must come from pykvm.PciDevice or pykvm.Device")
    return value


def make(spec: str) -> Device:
    """A device from `MODULE:CLASS` or `FILE.py:CLASS`, and `,OPTION=VALUE` for what its class is made with.

    ConfigError, in one sentence, for anything that is wrong with it, the user's file included.
    """
    place, *settings = spec.split(",")
    where, _, name = place.rpartition(":")
    if not where or not name:
        raise ConfigError(f"--device {spec}: give MODULE:CLASS or FILE.py:CLASS, such as dice.py:Dice")
    made = getattr(_module(spec, where), name, None)
    if not isinstance(made, type) or not issubclass(made, Device):
        raise ConfigError(f"--device {spec}: {name} in {where} is no class that comes from pykvm.PciDevice")
    options = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--device {spec}: {setting!r} is no OPTION=VALUE")
        options[option] = value
    slot = _number(spec, "slot", options.pop("slot")) if "slot" in options and made.is_card else None
    arguments = _arguments(spec, made, options)
    try:
        device: Device = made(**arguments)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"--device {spec}: {_fault(error)}") from error
    if slot is not None:
        device.slot = slot  # type: ignore[attr-defined]
    base = os.path.basename(where) if where.endswith(".py") else where
    plain = ",".join([f"{base}:{name}", *settings])
    device._spec = plain  # type: ignore[attr-defined]
    _made[plain] = spec
    return device


def _module(spec: str, where: str) -> Any:
    from importlib import import_module, util

    try:
        if not where.endswith(".py"):
            return import_module(where)
        found = util.spec_from_file_location(os.path.basename(where)[:-3], where)
        assert found is not None
        assert found.loader is not None
        module = util.module_from_spec(found)
        found.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"--device {spec}: {_fault(error)}") from error
    return module


def _fault(error: Exception) -> str:
    """What went wrong in the user's file, and in which line."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, (SyntaxError, OSError)):  # they name file and line themselves
        return what
    trace, where = error.__traceback__, ""
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith("<frozen"):
            where = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}: "
        trace = trace.tb_next
    return f"{where}{what}"


def _arguments(spec: str, made: type, options: dict[str, str]) -> dict[str, Any]:
    """The options as the class wants them: text, unless it says int, float or bool."""
    from inspect import Parameter, signature

    known = {
        name: parameter
        for name, parameter in signature(made).parameters.items()
        if parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    }
    values: dict[str, Any] = {}
    for name, text in options.items():
        if name not in known:
            there = ", ".join([*known, *(["slot"] if getattr(made, "is_card", False) else [])]) or "none"
            raise ConfigError(f"--device {spec}: there is no option {name!r}: {made.__name__} has {there}")
        wanted = known[name].annotation
        kind = wanted if isinstance(wanted, str) else getattr(wanted, "__name__", "")
        if kind == "bool":
            if text not in ("on", "off"):
                raise ConfigError(f"--device {spec}: {name} is on or off, not {text!r}")
            values[name] = text == "on"
        elif kind in ("int", "float"):
            values[name] = _number(spec, name, text, float if kind == "float" else _integer)
        else:
            values[name] = text
    for name, parameter in known.items():
        if parameter.default is Parameter.empty and name not in values:
            raise ConfigError(f"--device {spec}: {made.__name__} needs {name}=VALUE")
    return values


def _integer(text: str) -> int:
    return int(text, 0)


def _number(spec: str, name: str, text: str, convert: Any = _integer) -> Any:
    try:
        return convert(text)
    except ValueError:
        raise ConfigError(f"--device {spec}: {name} is a number, not {text!r}") from None


OPTION = Devices()
