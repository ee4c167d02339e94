"""Options that commands share: the machine's own, and values that are more than a word (sizes, disks, NICs)."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import wraps

from ..arguments import LEAST_PLAIN_SIZE
from ..boot import Module, detect
from ..boot.source import read_image
from ..device_options import device_options
from ..errors import ConfigError
from ..machine import DEFAULT_MEMORY, Machine
from ..memory import parse_size
from ..typed import TYPE_CHECKING, Any, NamedTuple
from . import ui

if TYPE_CHECKING:
    from ..disk import Disk
    from ..disk.image import Mode

Function = Callable[..., Any]


class Number(ui.ValueKind):
    """A number in decimal or, with 0x before it, hexadecimal; K, M and G behind it are units."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, text: str) -> int:
        try:
            return parse_size(text)
        except ConfigError as error:
            if self.name == "address":
                raise ValueError(f"{text!r} is not an address: give a number, such as 0x100000.") from None
            raise ValueError(str(error)) from None


class Memory(Number):
    """A size of RAM. A plain number so small that it must be QEMU's, which counts in MiB, is refused."""

    def convert(self, text: str) -> int:
        if text.isdecimal() and 0 < int(text[:9]) < LEAST_PLAIN_SIZE:
            raise ValueError(f"{text} is {text} bytes: did you mean {text}M?")
        return super().convert(text)


SIZE = Number("size")
ADDRESS = Number("address")


DISK_METAVAR = "FILE[,ro|,discard][,format=F][,backing][,on-error=stop]"
_MODES: dict[str, Mode] = {"rw": "rw", "ro": "ro", "discard": "discard", "snapshot": "discard"}
"""`snapshot` is QEMU's word for it."""


def open_disk(spec: str) -> Disk | None:
    """A disk from a path or a URI and what follows it (see DISK_METAVAR); `none` leaves the place empty.

    What is there under the whole text, or under as much of its beginning as possible, is the file: its name may have
    commas.
    """
    from ..disk import image

    if spec == "none":
        return None
    given: dict[str, Any] = {}
    path, mode = spec, ""
    while "," in path and not os.path.exists(path):
        path, _, word = path.rpartition(",")
        name, _, value = word.partition("=")
        if word in _MODES and not mode:
            mode = word
        elif name in ("format", "on-error") and value and name not in given:
            given[name] = value
        elif word == "backing" and name not in given:
            given[name] = "yes"
        else:
            raise ConfigError(
                f"--disk {spec}: behind the comma there may be one of rw, ro and discard, format=FORMAT, backing, and "
                "on-error=report or stop"
            )
    return image.open_disk(
        path,
        _MODES[mode or "rw"],
        given.get("format"),
        backing="backing" in given,
        on_error=given.get("on-error", "report"),
    )


ON_VIRTIO = ",bus=virtio"


def split_disks(specs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The specs of disks on the ATA channels, and of those on virtio cards, which end with `,bus=virtio`."""
    virtio = [spec for spec in specs if spec.endswith(ON_VIRTIO) and not os.path.exists(spec)]
    return [spec for spec in specs if spec not in virtio], [spec.removesuffix(ON_VIRTIO) for spec in virtio]


def open_all(
    stack: ExitStack,
    specs: Sequence[str],
    open_one: Callable[[str], Any],
    owned: Callable[[list[Any]], Iterable[Any]] = list,
) -> list[Any]:
    """Back ends for the specs; the ones already open are closed if a later one, or the machine, cannot be made."""
    opened = []
    for spec in specs:
        made = open_one(spec)
        opened.append(made)
        for backend in owned([made]):
            if backend is not None:
                stack.callback(backend.close)
    return opened


def parse_device_options(stack: ExitStack, given: dict[str, Any]) -> dict[str, Any]:
    """The values for Machine; `stack` closes their back ends if a later one, or the machine, cannot be made."""
    values: dict[str, Any] = {}
    for option in device_options():
        if not given.get(option.name):
            continue
        if option.multiple:
            values[option.name] = open_all(stack, given[option.name], option.parse, option.owned)
        else:
            values[option.name] = option.parse(given[option.name])
            for backend in option.owned(values[option.name]):
                stack.callback(backend.close)
    return values


def device_flags(command: Function) -> Function:
    """Decorator: the command line's part of `pykvm.device_options`; the command gets them as one `device_options`."""
    named = [option for option in device_options() if option.flags]

    @wraps(command)
    def with_devices(**values: Any) -> Any:
        return command(device_options={option.name: values.pop(option.name) for option in named}, **values)

    decorated: Function = with_devices
    for option in reversed(named):
        metavar = option.metavar or None
        declared = ui.option(*option.flags, option.name, multiple=option.multiple, metavar=metavar, help=option.help)
        decorated = declared(decorated)
    return decorated


class MachineSpec(NamedTuple):
    """What `machine_options` asks for."""

    kernel: str | None
    memory: int
    cpus: int
    disks: tuple[str, ...]
    device_options: dict[str, Any]
    """What was given of `pykvm.device_options`, as text."""
    image_format: str | None
    mode: str | None
    load: int | None
    entry: int | None
    command_line: str
    modules: tuple[str, ...]
    floppy: str | None
    firmware: str | None
    no_reboot: bool
    no_finish: bool

    def make(self) -> Machine:
        """The machine, with the image loaded. Raises what Machine raises, and ConfigError for a bad disk or NIC."""
        image_format = self.image_format
        if self.kernel is None and self.firmware is None and image_format is None:
            if not (self.disks or self.floppy is not None or self.device_options.get("cdrom")):
                raise ConfigError("nothing to run: give a KERNEL, or what to start from by --disk, --floppy or --cdrom")
            image_format = detect.DISK
        if self.kernel is not None and stat.S_ISFIFO(os.stat(self.kernel).st_mode):
            ui.echo(f"pykvm: {self.kernel} is a pipe: waiting for who writes the image into it", err=True)
        with ExitStack() as stack:
            floppy = open_all(stack, () if self.floppy is None else (self.floppy,), open_disk)
            disks, virtio_disks = split_disks(self.disks)
            machine = Machine(
                self.kernel,
                memory=self.memory,
                cpus=self.cpus,
                disks=open_all(stack, disks, open_disk),
                virtio_disks=open_all(stack, virtio_disks, open_disk),
                format=image_format,
                mode=int(self.mode) if self.mode else None,
                load=self.load,
                entry=self.entry,
                command_line=self.command_line,
                modules=[make_module(module) for module in self.modules],
                floppy=floppy[0] if floppy else None,
                firmware=self.firmware,
                no_reboot=self.no_reboot,
                finish=not self.no_finish,
                **parse_device_options(stack, self.device_options),
            )
            stack.pop_all()
            return machine


def make_module(text: str) -> Module:
    """A module from `FILE` or `FILE TEXT`; the file's name is the beginning of its text, as GRUB has it.

    The name may have blanks: the longest beginning of the text, up to a blank, under which there is a file is the name.
    """
    path = text
    while not os.path.isfile(path) and " " in path:
        path = path.rpartition(" ")[0]
    return Module(read_image(path), text)


_MACHINE_OPTIONS = (
    ui.option(
        "-m", "--memory", type=Memory("size"), default=DEFAULT_MEMORY, show_default=True, help="RAM, such as 64M or 8G."
    ),
    ui.option("-c", "--cpus", type=int, default=1, show_default=True, help="Number of CPUs."),
    ui.option(
        "-d", "--disk", "disks", multiple=True, metavar=f"{DISK_METAVAR}[,bus=virtio]",
        help="Disk image or nbd:// URI: read-write, read-only, or with its writes forgotten; with backing it may name "
        "others under it. Up to 4, without those on virtio cards; 'none' skips a place.",
    ),
    ui.option(
        "--format", "image_format",
        help=f"Image format, instead of what the image looks like: {', '.join(detect.FORMATS)}.",
    ),
    ui.option("--mode", type=ui.Choice(["16", "32", "64"]), help="CPU mode a flat binary starts in."),
    ui.option("--load", type=ADDRESS, help="Address a flat binary is loaded at."),
    ui.option("--entry", type=ADDRESS, help="Address a flat binary is entered at."),
    ui.option(
        "-a", "--append", "command_line", default="", metavar="TEXT", help="Command line for a kernel that takes one."
    ),
    ui.option(
        "-i", "--initrd", "--module", "modules", multiple=True, metavar="FILE[ TEXT]",
        help="Linux's initrd; a module with its text for a Multiboot or PVH kernel, as often as wanted.",
    ),
    ui.option(
        "--floppy", metavar=DISK_METAVAR, help="Floppy disk, for guests that the BIOS starts."
    ),
    ui.option(
        "--firmware", type=ui.Path(exists=True, dir_okay=False),
        help="Run this BIOS (SeaBIOS's bios.bin), and not pykvm's own.",
    ),
    ui.option("--no-reboot", is_flag=True, help="End the run where the guest resets the machine."),
    ui.option("--no-finish", is_flag=True, help="Have an instruction that KVM cannot emulate be a crash."),
)  # fmt: skip


DISKS = 3
"""So many of them, RAM, CPUs and disks, are in front of the other devices in the help."""


def machine_options(*, kernel_required: bool = True, directory: bool = False) -> Callable[[Function], Function]:
    """Decorator: the argument KERNEL and all options that make a machine; the command gets them as one `MachineSpec`.

    KERNEL may be left out, where it is not required, by those who start from a disk. It may be a `directory` for a
    command that knows what to do with one.
    """

    def decorate(command: Function) -> Function:
        @wraps(command)
        def with_spec(**values: Any) -> Any:
            return command(MachineSpec(**{name: values.pop(name) for name in MachineSpec._fields}), **values)

        decorated: Function = with_spec
        for option in reversed(_MACHINE_OPTIONS[DISKS:]):
            decorated = option(decorated)
        decorated = device_flags(decorated)
        for option in reversed(_MACHINE_OPTIONS[:DISKS]):
            decorated = option(decorated)
        kernel = ui.argument("kernel", type=ui.Path(exists=True, dir_okay=directory), required=kernel_required)
        return kernel(decorated)

    return decorate


DEFAULT_TIMEOUT = 10.0


class Limit(NamedTuple):
    """A time limit in seconds, or None for as long as it takes."""

    seconds: float | None
    given: bool = True
    """By the user: then whoever reads the output is not waited for beyond it either."""

    def deadline(self) -> float | None:
        """When (of time.monotonic) the output is given up, if the run begins now."""
        return time.monotonic() + self.seconds if self.given and self.seconds is not None else None

    def __str__(self) -> str:
        return f"{self.seconds:g}"


class _Limit(ui.ValueKind):
    """Seconds, or 0 for as long as it takes."""

    name = "seconds"

    def convert(self, text: str) -> Limit:
        return Limit(SECONDS.convert(text) or None)


SECONDS = ui.FloatRange(min=0)

limit_option = ui.option(
    "-t", "--timeout", type=_Limit(), default=Limit(DEFAULT_TIMEOUT, given=False), show_default=True,
    help="End the run after so many seconds; 0 lets it take as long as it does.",
)  # fmt: skip
"""The time limit of commands that nobody sits in front of."""

timeout_option = ui.option(
    "-t", "--timeout", type=ui.FloatRange(min=0, min_open=True), help="End the run after so many seconds."
)

trust_disks_option = ui.option(
    "--trust-disks", is_flag=True,
    help="Let the guest read the disk images that the snapshot names, whatever files of this host they are.",
)  # fmt: skip
