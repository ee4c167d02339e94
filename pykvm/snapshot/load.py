"""Reading a snapshot from its directory, of which nothing is believed; see `format`."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from isal.isal_zlib import crc32

from ..boot.rom import MAX_SIZE
from ..device_options.nics import NE2000_CARDS
from ..device_options.serial_ports import COM_PORTS
from ..disk.overlay import CLUSTER
from ..kvm import System
from ..kvm.saved import SavedState
from ..memory import PAGE_SIZE
from ..pc import ATA_CHANNELS
from ..x86.cpuid import CpuidEntry
from . import features, plain
from .disks import SavedDisk
from .errors import SnapshotError
from .fields import flag, items, number, table
from .format import (
    CHECKSUM,
    CHUNK,
    FIRMWARE,
    FORMAT,
    GENERATIONS,
    MEMORY,
    RAM_LIMIT,
    STATE,
    STATE_LIMIT,
    WRITTEN_LIMIT,
    Extent,
    chunks,
)
from .image import Image, Root, pages_in, runs
from .snapshot import Firmware, Shape, Snapshot

ATTEMPTS = 8
"""How often a snapshot is read that is being replaced."""

Read = TypeVar("Read")


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


def load(path: str, verify: bool) -> Snapshot:
    """See `Snapshot.load`."""
    return _load(os.path.abspath(path), verify, ())


def _load(path: str, verify: bool, descendants: tuple[str, ...]) -> Snapshot:
    if len(descendants) > GENERATIONS:
        raise SnapshotError(f"{descendants[0]} has more than {GENERATIONS} ancestors")
    try:
        return _read_whole(path, lambda home: _load_from(home, path, verify, descendants))
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


def _load_from(home: int, path: str, verify: bool, descendants: tuple[str, ...]) -> Snapshot:
    state = _read_state(home, path)
    link = _parent(state)
    parent = None
    if link is not None:
        parent_id, where = link[0], os.path.normpath(os.path.join(os.path.dirname(path), link[1]))
        if os.path.realpath(where) in map(os.path.realpath, (path, *descendants)):
            raise SnapshotError(f"{path}: its parent {where!r} has it as an ancestor")
        if not os.path.isdir(where):
            raise SnapshotError(f"{path} is incomplete without its parent {where!r}, which is not there")
        parent = _load(where, verify, (*descendants, path))
        if parent.id != parent_id:
            raise SnapshotError(f"{path}: its parent {where!r} has been replaced by another snapshot")
    return _build(home, path, state, parent, verify)


def read_header(path: str) -> Header:
    """What a list shows, without the contents; SnapshotError if `path` is no snapshot that can be read."""
    try:
        return _read_whole(path, lambda home: _header(home, path))
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:
        raise SnapshotError(f"{path} is damaged: {error}") from error


def _header(home: int, path: str) -> Header:
    state = _read_state(home, path)
    shape, link, screen = _shape(table(state, "machine")), _parent(state), items(state, "screen")
    if type(state.get("id")) is not str or not all(type(line) is str for line in screen):
        raise ValueError("the id or the screen is not text")
    with os.scandir(home) as entries:
        size = sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    parent = None if link is None else link[1]
    return Header(path, state["id"], parent, _created(state), shape.memory, shape.cpus, "\n".join(screen), size)


def _read_state(home: int, path: str) -> dict[str, Any]:
    with ExitStack() as stack:
        fd = _open(stack, home, STATE)
        if os.fstat(fd).st_size > STATE_LIMIT:
            raise ValueError(f"{STATE} is longer than {STATE_LIMIT >> 20} MiB")
        raw = _read(fd, 0, os.fstat(fd).st_size)
        given = _read(_open(stack, home, CHECKSUM), 0, 64)
    if hashlib.sha256(raw).hexdigest().encode() != given:
        raise ValueError(f"{STATE} has not the checksum that {CHECKSUM} says")
    state = plain.loads(raw.decode("ascii"))
    if not isinstance(state, dict):
        raise ValueError(f"{STATE} is not a table")
    if state.get("format") != FORMAT:
        raise SnapshotError(f"{path} has the format {state.get('format')!r:.20}; this pykvm reads format {FORMAT} only")
    return state


def _build(home: int, path: str, state: dict[str, Any], parent: Snapshot | None, verify: bool) -> Snapshot:
    shape = _shape(table(state, "machine"))
    system = System()
    try:
        saved = SavedState.from_plain(table(state, "processors"), system)
    finally:
        system.close()
    if len(saved.vcpus) != shape.cpus:
        raise ValueError(f"there are {len(saved.vcpus)} vCPUs, and {shape.cpus} are named")
    consoles, screen = items(state, "consoles"), items(state, "screen")
    if len(consoles) != shape.serial_ports + 1 or not all(isinstance(console, dict) for console in consoles):
        raise ValueError("there are not as many consoles as ports")
    devices = table(state, "devices")
    if not all(isinstance(device, dict) for device in devices.values()):
        raise ValueError("a device's state is not a table")
    if type(state.get("id")) is not str or not all(type(line) is str for line in screen):
        raise ValueError("the id or the screen is not text")
    disks = [_disk(home, place, disk) for place, disk in enumerate(items(state, "disks"))]
    if not 0 < len(disks) <= 2 * len(ATA_CHANNELS) + 1:
        raise ValueError("there are not as many disks as places")
    image = _image(home, shape.memory, _extents(items(state, "memory"), shape.memory, PAGE_SIZE), parent, verify)
    return Snapshot(
        shape=shape,
        state=saved,
        cpuid=[_cpuid(entry) for entry in items(state, "cpuid")],
        features=features.from_plain(table(state, "features")),
        devices=devices,
        lines={int(irq): _levels(levels) for irq, levels in table(state, "lines").items()},
        consoles=consoles,
        disks=disks,
        image=image,
        firmware=_firmware(home, state, shape),
        no_reboot=flag(table(state, "machine"), "no_reboot"),
        parent_id=parent.id if parent is not None else None,
        id=state["id"],
        created=_created(state),
        screen="\n".join(screen),
        exits=number(state, "exits", 1 << 63),
        trusted=False,
        home=path,
    )


def _image(home: int, size: int, parts: list[Extent], parent: Snapshot | None, verify: bool) -> Image:
    with ExitStack() as stack:
        fd = _open(stack, home, MEMORY)
        if os.fstat(fd).st_size != size:
            raise ValueError(f"{MEMORY} has {os.fstat(fd).st_size} bytes, the machine {size}")
        if parent is None:
            image = Image(Root(os.dup(fd), size))
            if verify:
                _verify(image, parts)
            return image
        if parent.shape.memory != size:
            raise ValueError(f"the parent has {parent.shape.memory} bytes of RAM, this has {size}")
        image = Image(parent.image.root, parent.image.changed, parent.image.map)
        for part in parts:
            image.map[part.offset : part.offset + part.length] = _content(fd, part, MEMORY)
        image.changed |= pages_in(((part.offset, part.length) for part in parts), size)
        return image


def _verify(image: Image, parts: list[Extent]) -> None:
    """Every part has its checksum, and outside of them there are only zeros."""
    size = image.root.size
    outside = pages_in(image.root.data(), size) & ~pages_in(((part.offset, part.length) for part in parts), size)
    with memoryview(image.map) as view:
        for part in parts:
            if crc32(view[part.offset : part.offset + part.length]) != part.crc:
                raise ValueError(f"{MEMORY} has other content at {part.offset:#x} than was saved")
        for offset, length in chunks(runs(outside)):
            if view[offset : offset + length] != bytes(length):
                raise ValueError(f"{MEMORY} has content at {offset:#x} where none was saved")


def _disk(home: int, place: int, state: Any) -> SavedDisk | None:
    if state is None:
        return None
    disk = SavedDisk.from_plain(state)
    if disk.written is not None:
        parts = _extents(items(state, "extents"), disk.size, CLUSTER)
        if sum(part.length for part in parts) > WRITTEN_LIMIT:
            raise ValueError(f"more than {WRITTEN_LIMIT >> 30} GiB were written to disk {place}")
        with ExitStack() as stack:
            fd = _open(stack, home, f"disk{place}")
            if os.fstat(fd).st_size != disk.size:
                raise ValueError(f"disk{place} has {os.fstat(fd).st_size} bytes, the disk {disk.size}")
            for part in parts:
                content = _content(fd, part, f"disk{place}")
                for at in range(0, part.length, CLUSTER):
                    disk.put_cluster(part.offset + at, content[at : at + CLUSTER])
    return disk


def _firmware(home: int, state: dict[str, Any], shape: Shape) -> Firmware | None:
    images: list[bytes | None] = []
    for name in FIRMWARE:
        if state.get(name) is None:
            images.append(None)
            continue
        parts = _extents(items(state, name), MAX_SIZE, 1)
        with ExitStack() as stack:
            fd = _open(stack, home, name)
            images.append(b"".join(_content(fd, part, name) for part in parts))
    rom, vga_bios = images
    if shape.firmware != ("" if rom is None else hashlib.sha256(rom).hexdigest()):
        raise ValueError("the firmware has not the checksum that is told of it")
    return None if rom is None else Firmware(rom, vga_bios)


def _content(fd: int, part: Extent, name: str) -> bytes:
    content = _read(fd, part.offset, part.length)
    if crc32(content) != part.crc:
        raise ValueError(f"{name} has other content at {part.offset:#x} than was saved")
    return content


def _extents(given: list[Any], size: int, unit: int) -> list[Extent]:
    """Extents of a file of `size` bytes: in rising order, apart, whole units but for the file's end."""
    made, end = [], 0
    for entry in given:
        if not isinstance(entry, list) or len(entry) != 3 or not all(type(part) is int for part in entry):
            raise ValueError("an extent is not three numbers")
        part = Extent(*entry)
        after = part.offset + part.length
        if part.offset < end or part.offset % unit or not 0 < part.length <= CHUNK or after > size:
            raise ValueError(f"the extent {part.offset:#x}+{part.length:#x} is not within the file, or not in order")
        if after % unit and after != size:
            raise ValueError(f"the extent {part.offset:#x}+{part.length:#x} is not made of units of {unit}")
        made.append(part)
        end = after
    return made


def _open(stack: ExitStack, home: int, name: str) -> int:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=home)
    stack.callback(os.close, fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ValueError(f"{name} is not a regular file")
    return fd


def _read(fd: int, offset: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.pread(fd, length, offset)
        if not part:
            raise ValueError("a file is shorter than it was")
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)


def _shape(state: dict[str, Any]) -> Shape:
    memory, cpus, nics = number(state, "memory", RAM_LIMIT), number(state, "cpus", 4096), items(state, "nics")
    if not memory or memory % PAGE_SIZE or not cpus:
        raise ValueError("the machine has no CPU, or RAM of a size that cannot be")
    if len(nics) > len(NE2000_CARDS) or not all(type(mac) is bytes and len(mac) == 6 for mac in nics):
        raise ValueError("the machine has too many NICs, or one without an address")
    firmware = state.get("firmware")
    if type(firmware) is not str:
        raise ValueError("the firmware's checksum is not a text")
    ports = number(state, "serial_ports", len(COM_PORTS))
    return Shape(memory, cpus, ports, tuple(nics), flag(state, "bios"), firmware)


def _parent(state: dict[str, Any]) -> tuple[str, str] | None:
    link = state.get("parent")
    if link is None:
        return None
    if not isinstance(link, dict) or type(link.get("id")) is not str or type(link.get("path")) is not str:
        raise ValueError("the parent is not named by id and path")
    if "\0" in link["path"]:
        raise ValueError("the parent's path is none")
    return link["id"], link["path"]


def _cpuid(entry: Any) -> CpuidEntry:
    names = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")
    if not isinstance(entry, dict) or entry.keys() != set(names):
        raise ValueError("a CPUID leaf has not the seven fields")
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
