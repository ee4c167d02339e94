"""Reading a snapshot from its directory, of which nothing is believed; see `format`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from ..boot.rom import MAX_SIZE
from ..console.port import OUTPUT_MOST
from ..device_options import device_options
from ..device_options.option import DeviceOption
from ..disk.overlay import CLUSTER
from ..kvm import System
from ..kvm.saved import SavedState
from ..kvm.structs import as_table
from ..memory import PAGE_SIZE
from ..pc import ATA_CHANNELS
from ..x86.cpuid import CpuidEntry
from . import features, plain
from .contents import Contents, Firmware, Shape
from .disks import SavedDisk
from .errors import SnapshotError
from .fields import file_name, flag, items, number, table, text, texts
from .files import content, extents_of, open_file, read, whole, zeros
from .format import (
    CHECKSUM,
    FIRMWARE,
    FORMAT,
    GENERATIONS,
    MEMORY,
    RAM_LIMIT,
    SCREEN_LIMIT,
    STATE,
    STATE_LIMIT,
    WRITTEN_LIMIT,
)
from .layers import Layer, assemble

SHAPE = ("memory", "cpus", "bios", "firmware", "no_reboot", "finish")
"""In a machine's table, what is no device option."""
ATTEMPTS = 8
"""How often a snapshot is read that is being replaced."""

Read = TypeVar("Read")
Made = TypeVar("Made", bound=Contents)


@dataclass(frozen=True, slots=True)
class Header:
    """What a list of snapshots shows."""

    path: str
    id: str
    parent: str | None
    """The parent's directory, as far as it is known."""
    created: float
    memory: int
    cpus: int
    screen: str
    size: int
    """Bytes that it takes up on the disk."""


def load(path: str, verify: bool, trust_disks: bool, make: type[Made]) -> Made:
    """See `Snapshot.load`; `make` is what it becomes."""
    path = os.path.abspath(path)
    return _tell(path, lambda home: _load_from(home, path, verify, trust_disks, make))


def read_header(path: str) -> Header:
    """What a list shows, without the contents; SnapshotError if `path` is no snapshot that can be read."""
    return _tell(path, lambda home: _header(home, path))


def _ancestors(stack: ExitStack, layer: Layer) -> list[Layer]:
    """The layers under this one, the nearest first."""
    youngest, found = layer.path, [os.path.realpath(layer.path)]
    layers: list[Layer] = []
    replaced: list[str] = []
    while layer.parent is not None:
        parent_id, link = layer.parent
        where = os.path.normpath(os.path.join(os.path.dirname(layer.path), link))
        if os.path.realpath(where) in found:
            raise SnapshotError(f"{layer.path}: its parent {where!r} has it as an ancestor")
        if len(found) > GENERATIONS:
            raise SnapshotError(f"{youngest} has more than {GENERATIONS} ancestors")
        if not os.path.isdir(where):
            raise SnapshotError(f"{layer.path} is incomplete without its parent {where!r}, which is not there")
        above, layer = layer, _tell(where, partial(_open_layer, stack, where))
        found.append(os.path.realpath(where))
        layers.append(layer)
        if layer.id != parent_id:
            replaced.append(f"{above.path}: its parent {where!r} has been replaced by another snapshot")
        elif layer.size != above.size:
            replaced.append(f"{above.path} has {above.size} bytes of RAM, its parent {where!r} has {layer.size}")
    if replaced:
        raise SnapshotError(replaced[0])
    return layers


def _tell(path: str, read_from: Callable[[int], Read]) -> Read:
    """What `read_from` makes of the directory, given its descriptor; SnapshotError, whatever is wrong."""
    try:
        return _read_whole(path, read_from)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise SnapshotError(f"{path} is damaged: {error}") from error


def _read_whole(path: str, read: Callable[[int], Read]) -> Read:
    """Call `read` with a descriptor of the directory, so that all files are of one snapshot, whoever replaces it now.

    It is called anew if it fails because of that.
    """
    for _ in range(ATTEMPTS):
        home = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return read(home)
        except OSError:
            if os.path.samestat(os.fstat(home), os.stat(path)):
                raise
        finally:
            os.close(home)
    raise SnapshotError(f"{path} is replaced again and again while it is read")


def _header(home: int, path: str) -> Header:
    state = _read_state(home, path)
    shape, link = _shape(table(state, "machine")), _parent(state)
    with os.scandir(home) as entries:
        size = sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    parent = None if link is None else link[1]
    return Header(path, text(state, "id"), parent, _created(state), shape.memory, shape.cpus, _screen(state), size)


def _read_state(home: int, path: str) -> dict[str, Any]:
    with ExitStack() as stack:
        fd = open_file(stack, home, STATE)
        if os.fstat(fd).st_size > STATE_LIMIT:
            raise ValueError(f"{STATE} is longer than {STATE_LIMIT >> 20} MiB")
        raw = read(fd, 0, os.fstat(fd).st_size)
        given = read(open_file(stack, home, CHECKSUM), 0, 64)
    if hashlib.sha256(raw).hexdigest().encode() != given:
        raise ValueError(f"{STATE} has not the checksum that {CHECKSUM} says")
    state = as_table(plain.loads(raw.decode("ascii")), STATE)
    if state.get("format") != FORMAT:
        raise SnapshotError(f"{path} has the format {state.get('format')!r:.20}; this pykvm reads format {FORMAT} only")
    return state


def _layer(stack: ExitStack, home: int, path: str, state: dict[str, Any]) -> Layer:
    size = _shape(table(state, "machine")).memory
    parts, fd = extents_of(state, "memory", size, PAGE_SIZE), open_file(stack, home, MEMORY)
    return Layer(path, text(state, "id"), _parent(state), size, parts, fd)


def _open_layer(stack: ExitStack, path: str, home: int) -> Layer:
    return _layer(stack, home, path, _read_state(home, path))


def _load_from(home: int, path: str, verify: bool, trust_disks: bool, make: type[Made]) -> Made:
    state = _read_state(home, path)
    shape, link = _shape(table(state, "machine")), _parent(state)
    system = System()
    try:
        saved = SavedState.from_plain(table(state, "processors"), system)
    finally:
        system.close()
    if len(saved.vcpus) != shape.cpus:
        raise ValueError(f"there are {len(saved.vcpus)} vCPUs, and {shape.cpus} are named")
    disks = [_disk(home, place, disk, path) for place, disk in enumerate(items(state, "disks"))]
    if not 0 < len(disks) - shape.options["virtio_disks"] <= 2 * len(ATA_CHANNELS) + 1:
        raise ValueError("there are not as many disks as places")
    media = [_medium(medium, path) for medium in (items(state, "media") if "media" in state else [])]
    if len(media) != shape.options["cdrom"]:
        raise ValueError("there are not as many CDs as drives")
    with ExitStack() as stack:
        layer = _layer(stack, home, path, state)
        image = assemble([*reversed(_ancestors(stack, layer)), layer], verify)
    return make(
        shape=shape,
        state=saved,
        cpuid=[_cpuid(entry) for entry in items(state, "cpuid")],
        features=features.from_plain(table(state, "features")),
        devices={name: as_table(device, name) for name, device in table(state, "devices").items()},
        lines={int(irq): _levels(levels) for irq, levels in table(state, "lines").items()},
        consoles=_consoles(home, state, shape),
        disks=disks,
        media=media,
        image=image,
        firmware=_firmware(home, state, shape),
        no_reboot=flag(table(state, "machine"), "no_reboot"),
        finish=flag({"finish": True, **table(state, "machine")}, "finish"),  # it came later
        parent_id=None if link is None else link[0],
        id=text(state, "id"),
        created=_created(state),
        screen=_screen(state),
        exits=number(state, "exits", 1 << 63),
        trusted=False,
        trust_disks=trust_disks,
        disks_in=os.readlink(f"/proc/self/fd/{home}"),
        home=path,
    )


def _image_of(state: Any, path: str) -> SavedDisk:
    """A disk without what was written over its image, which is named from the snapshot's directory on."""
    disk = SavedDisk.from_plain(state)
    disk.in_directory(path)
    return disk


def _disk(home: int, place: int, state: Any, path: str) -> SavedDisk | None:
    if state is None:
        return None
    disk = _image_of(state, path)
    if disk.written is not None:
        parts = extents_of(state, "extents", disk.size, CLUSTER)
        if sum(part.length for part in parts) > WRITTEN_LIMIT:
            raise ValueError(f"more than {WRITTEN_LIMIT >> 30} GiB were written to disk {place}")
        with ExitStack() as stack:
            fd = open_file(stack, home, f"disk{place}")
            if os.fstat(fd).st_size != disk.size:
                raise ValueError(f"disk{place} has {os.fstat(fd).st_size} bytes, the disk {disk.size}")
            written = {part.offset: content(fd, part, f"disk{place}") for part in parts}
            if disk.path is None:  # under it are zeros already
                written = {offset: data for offset, data in written.items() if data != zeros(len(data))}
            disk.written = written
    return disk


def _medium(state: Any, path: str) -> SavedDisk | None:
    if state is None:
        return None
    medium = _image_of(state, path)
    if medium.written is not None:
        raise ValueError("a CD is said to have been written")
    medium.read_only = True  # it is never opened in any other way
    return medium


def _consoles(home: int, state: dict[str, Any], shape: Shape) -> list[dict[str, Any]]:
    consoles = [as_table(console, "a console") for console in items(state, "consoles")]
    if len(consoles) != shape.options["serial_ports"] + 1:
        raise ValueError("there are not as many consoles as ports")
    for place, console in enumerate(consoles):
        console["output"] = whole(home, f"console{place}", console, "output", OUTPUT_MOST)
    return consoles


def _firmware(home: int, state: dict[str, Any], shape: Shape) -> Firmware | None:
    rom, vga_bios = (None if state.get(name) is None else whole(home, name, state, name, MAX_SIZE) for name in FIRMWARE)
    if shape.firmware != ("" if rom is None else hashlib.sha256(rom).hexdigest()):
        raise ValueError("the firmware has not the checksum that is told of it")
    return None if rom is None else Firmware(rom, vga_bios)


def _shape(state: dict[str, Any]) -> Shape:
    memory, cpus = number(state, "memory", RAM_LIMIT, 1), number(state, "cpus", 4096, 1)
    if memory % PAGE_SIZE:
        raise ValueError("the machine has RAM of a size that cannot be")
    options = {name: value for name, value in state.items() if name not in SHAPE}
    known = {option.name: option for option in device_options()}
    if unknown := options.keys() - known.keys():
        raise ValueError(f"the machine has what this pykvm does not know: {', '.join(sorted(unknown))}"[:200])
    for name, option in known.items():
        if name not in options:
            options[name] = _without(option)
        option.from_snapshot(options[name])
    return Shape(memory, cpus, options, flag(state, "bios"), text(state, "firmware"))


def _without(option: DeviceOption) -> Any:
    """What a snapshot has that is older than the option: a machine without such devices."""
    if option.default:
        raise ValueError(f"{option.name} is missing")
    return option.absent


def _parent(state: dict[str, Any]) -> tuple[str, str] | None:
    if state.get("parent") is None:
        return None
    link = table(state, "parent")
    return text(link, "id"), file_name(link, "path")


def _screen(state: dict[str, Any]) -> str:
    screen = "\n".join(texts(state, "screen"))
    if len(screen) > SCREEN_LIMIT:
        raise ValueError(f"the screen has more than {SCREEN_LIMIT} characters")
    return screen


def _cpuid(entry: Any) -> CpuidEntry:
    names = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")
    entry = as_table(entry, "a CPUID leaf")
    return CpuidEntry(**{name: number(entry, name, (1 << 32) - 1) for name in names})


def _levels(levels: Any) -> list[bool]:
    if not isinstance(levels, list) or not all(type(level) is bool for level in levels):
        raise ValueError("the levels of an interrupt are not truth values")
    return levels


def _created(state: dict[str, Any]) -> float:
    created = state.get("created")
    if not isinstance(created, (int, float)) or not 0 <= created < 1 << 40:
        raise ValueError(f"the time {created!r:.40} cannot be")
    return float(created)
