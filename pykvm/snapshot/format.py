"""The directory that a snapshot is saved to. docs/snapshots.md describes it for people.

    state.json          everything but contents, as named plain data (`plain` has how bytes are written)
    state.json.sha256   its checksum, as sha256sum writes and checks it
    memory              RAM at its own offsets, sparse; with a parent only the pages that differ from the parent's
    disk0 ... disk4     what was written to a copy-on-write disk, at its own offsets, sparse
    firmware, vga_bios  the images, if the machine has them

Everything in there may be hostile: each number is checked before it is used, sizes are limited, and what is wrong is
told by one SnapshotError. A directory is written beside its place and renamed into it when all of it is on the disk.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ..boot.rom import MAX_SIZE
from ..disk.overlay import CLUSTER
from ..kvm import System
from ..kvm.saved import SavedState
from ..memory import PAGE_SIZE
from ..pc import ATA_CHANNELS, COM_PORTS, NE2000_CARDS
from ..x86.cpuid import CpuidEntry
from . import features, plain
from .disks import SavedDisk
from .errors import SnapshotError
from .image import Image, Root, pages_in, pages_of, runs
from .snapshot import Firmware, Shape, Snapshot

FORMAT = 1
STATE, CHECKSUM, MEMORY = "state.json", "state.json.sha256", "memory"
FIRMWARE = {"firmware": "rom", "vga_bios": "vga_bios"}
"""Files with the parts of a `Firmware`."""
STATE_LIMIT = 64 << 20
"""Bytes of the longest state.json that is read."""
CHUNK = 1 << 20
"""Bytes at most that share a checksum."""
WRITTEN_LIMIT = 4 << 30
"""Bytes at most that were written to one copy-on-write disk."""
RAM_LIMIT = 1 << 40
"""Bytes of the largest machine that is saved: a set of its pages takes up 32 MiB."""
GENERATIONS = 64
"""Parents of parents at most."""


class Extent(NamedTuple):
    """A part of a file that has content, with its CRC-32 (as zlib computes it)."""

    offset: int
    length: int
    crc: int


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


# Saving


def save(snapshot: Snapshot, path: str, parent: Snapshot | None) -> None:
    """See `Snapshot.save`."""
    path = os.path.abspath(path)
    home, name = os.path.split(path)
    try:
        replaces = _is_replaceable(path)
        link = None
        if parent is not None:
            link = _parent_link(parent, path)
        work = tempfile.mkdtemp(prefix=f".{name}.", dir=home)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be written: {error.strerror}") from error
    try:
        _write(snapshot, work, parent, link)
        _sync(work)
        if replaces:
            _exchange(work, path)
        else:
            os.rename(work, path)
        _sync(home)
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)  # what was replaced, or what was not finished
    snapshot.home = path


def _is_replaceable(path: str) -> bool:
    """Whether there is a snapshot at `path` already; SnapshotError if there is something else."""
    if not os.path.lexists(path):
        return False
    if os.path.isdir(path) and not os.path.islink(path) and os.path.exists(os.path.join(path, STATE)):
        return True
    raise SnapshotError(f"{path} exists and is no snapshot: it is not replaced")


def _parent_link(parent: Snapshot, path: str) -> dict[str, str]:
    if parent.home is None:
        raise SnapshotError("a parent must have been saved or loaded before")
    if os.path.realpath(parent.home) == os.path.realpath(path):
        raise SnapshotError(f"{path} is the parent itself: save it elsewhere")
    if read_header(parent.home).id != parent.id:
        raise SnapshotError(f"the parent {parent.home} has been replaced by another snapshot: save the parent again")
    return {"id": parent.id, "path": os.path.relpath(parent.home, os.path.dirname(path))}


def _write(snapshot: Snapshot, work: str, parent: Snapshot | None, link: dict[str, str] | None) -> None:
    shape = snapshot.shape
    if shape.memory > RAM_LIMIT:
        raise ValueError(f"the machine has more RAM than {RAM_LIMIT >> 40} TiB")
    disks: list[dict[str, Any] | None] = []
    for number, disk in enumerate(snapshot.disks):
        if disk is None:
            disks.append(None)
            continue
        state = disk.as_plain()
        if disk.written is not None:
            if len(disk.written) * CLUSTER > WRITTEN_LIMIT:
                raise ValueError(f"more than {WRITTEN_LIMIT >> 30} GiB were written to disk {number}")
            state["extents"] = _write_extents(os.path.join(work, f"disk{number}"), disk.size, disk.written.items())
        disks.append(state)
    image = snapshot.image
    parts = image.data() if parent is None else runs(_difference(parent.image, image))
    contents = ((at, image.map[at : at + length]) for at, length in _chunks(parts))
    state = {
        "format": FORMAT,
        "id": snapshot.id,
        "parent": link,
        "created": snapshot.created,
        "machine": {**asdict(shape), "nics": list(shape.nics), "no_reboot": snapshot.no_reboot},
        "screen": snapshot.screen.split("\n"),
        "exits": snapshot.exits,
        "memory": _write_extents(os.path.join(work, MEMORY), shape.memory, contents),
        "disks": disks,
        **_write_firmware(work, snapshot.firmware),
        "cpuid": [asdict(entry) for entry in snapshot.cpuid],
        "features": features.as_plain(snapshot.features),
        "processors": snapshot.state.as_plain(),
        "devices": snapshot.devices,
        "lines": {str(number): levels for number, levels in snapshot.lines.items()},
        "consoles": snapshot.consoles,
    }
    raw = plain.dumps(state).encode()
    if len(raw) > STATE_LIMIT:
        raise ValueError(f"the state is longer than {STATE_LIMIT >> 20} MiB")
    _write_file(os.path.join(work, STATE), raw)
    _write_file(os.path.join(work, CHECKSUM), f"{hashlib.sha256(raw).hexdigest()}  {STATE}\n".encode())


def _write_firmware(work: str, firmware: Firmware | None) -> dict[str, list[list[int]] | None]:
    extents = {}
    for name in FIRMWARE:
        image: bytes | None = None if firmware is None else getattr(firmware, FIRMWARE[name])
        parts = () if image is None else ((at, image[at : at + length]) for at, length in _chunks([(0, len(image))]))
        extents[name] = None if image is None else _write_extents(os.path.join(work, name), len(image), parts)
    return extents


def _difference(old: Image, new: Image) -> int:
    """The pages whose content is not the same."""
    if old.root is new.root:
        candidates = old.changed | new.changed
    else:
        candidates = pages_in(old.data(), old.root.size) | pages_in(new.data(), new.root.size)
    different = []
    with memoryview(old.map) as before, memoryview(new.map) as after:
        for offset, length in runs(candidates):
            for at in range(offset, offset + length, PAGE_SIZE):
                if before[at : at + PAGE_SIZE] != after[at : at + PAGE_SIZE]:
                    different.append(at // PAGE_SIZE)
    return pages_of(different)


def _chunks(parts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for offset, length in parts:
        for at in range(offset, offset + length, CHUNK):
            yield at, min(CHUNK, offset + length - at)


def _write_extents(path: str, size: int, parts: Iterable[tuple[int, bytes]]) -> list[list[int]]:
    """Write a sparse file of `size` bytes with these parts (offset, content), and return its extents."""
    made: list[list[int]] = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(fd, size)
        for offset, content in parts:
            done = 0
            while done < len(content):
                done += os.pwrite(fd, memoryview(content)[done:], offset + done)
            last = made[-1] if made else None
            if last is not None and last[0] + last[1] == offset and last[1] + len(content) <= CHUNK:
                last[1:] = last[1] + len(content), zlib.crc32(content, last[2])
            else:
                made.append([offset, len(content), zlib.crc32(content)])
        os.fsync(fd)
    finally:
        os.close(fd)
    return made


def _write_file(path: str, raw: bytes) -> None:
    with open(path, "xb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _exchange(one: str, other: str) -> None:
    """Swap two directories in one step (renameat2 with RENAME_EXCHANGE), or in two where the file system cannot."""
    libc, here, exchange = ctypes.CDLL(None, use_errno=True), -100, 2  # AT_FDCWD
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), other)
    aside = f"{one}.old"
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(aside, other)
        raise
    os.rename(aside, one)


# Loading


def load(path: str, verify: bool) -> Snapshot:
    """See `Snapshot.load`."""
    return _load(os.path.abspath(path), verify, ())


def _load(path: str, verify: bool, descendants: tuple[str, ...]) -> Snapshot:
    if len(descendants) > GENERATIONS:
        raise SnapshotError(f"{descendants[0]} has more than {GENERATIONS} ancestors")
    try:
        state = _read_state(path)
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
        return _build(path, state, parent, verify)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise SnapshotError(f"{path} is damaged: {error}") from error


def read_header(path: str) -> Header:
    """What a list shows, without the contents; SnapshotError if `path` is no snapshot that can be read."""
    try:
        state = _read_state(path)
        shape, link, screen = _shape(_table(state, "machine")), _parent(state), _list(state, "screen")
        if type(state.get("id")) is not str or not all(type(line) is str for line in screen):
            raise ValueError("the id or the screen is not text")
        with os.scandir(path) as entries:
            size = sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
        parent = None if link is None else link[1]
        created, text = _created(state), "\n".join(screen)
        return Header(path, state["id"], parent, created, shape.memory, shape.cpus, text, size)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:
        raise SnapshotError(f"{path} is damaged: {error}") from error


def _read_state(path: str) -> dict[str, Any]:
    with ExitStack() as stack:
        fd = _open(stack, os.path.join(path, STATE))
        if os.fstat(fd).st_size > STATE_LIMIT:
            raise ValueError(f"{STATE} is longer than {STATE_LIMIT >> 20} MiB")
        raw = _read(fd, 0, os.fstat(fd).st_size)
        given = _read(_open(stack, os.path.join(path, CHECKSUM)), 0, 64)
    if hashlib.sha256(raw).hexdigest().encode() != given:
        raise ValueError(f"{STATE} has not the checksum that {CHECKSUM} says")
    state = plain.loads(raw.decode("ascii"))
    if not isinstance(state, dict):
        raise ValueError(f"{STATE} is not a table")
    if state.get("format") != FORMAT:
        raise SnapshotError(f"{path} has the format {state.get('format')!r:.20}; this pykvm reads format {FORMAT} only")
    return state


def _build(path: str, state: dict[str, Any], parent: Snapshot | None, verify: bool) -> Snapshot:
    shape = _shape(_table(state, "machine"))
    system = System()
    try:
        saved = SavedState.from_plain(_table(state, "processors"), system)
    finally:
        system.close()
    if len(saved.vcpus) != shape.cpus:
        raise ValueError(f"there are {len(saved.vcpus)} vCPUs, and {shape.cpus} are named")
    consoles, screen = _list(state, "consoles"), _list(state, "screen")
    if len(consoles) != shape.serial_ports + 1 or not all(isinstance(console, dict) for console in consoles):
        raise ValueError("there are not as many consoles as ports")
    devices = _table(state, "devices")
    if not all(isinstance(device, dict) for device in devices.values()):
        raise ValueError("a device's state is not a table")
    if type(state.get("id")) is not str or not all(type(line) is str for line in screen):
        raise ValueError("the id or the screen is not text")
    disks = [_disk(path, number, disk) for number, disk in enumerate(_list(state, "disks"))]
    if not 0 < len(disks) <= 2 * len(ATA_CHANNELS) + 1:
        raise ValueError("there are not as many disks as places")
    image = _image(path, shape.memory, _extents(_list(state, "memory"), shape.memory, PAGE_SIZE), parent, verify)
    return Snapshot(
        shape=shape,
        state=saved,
        cpuid=[_cpuid(entry) for entry in _list(state, "cpuid")],
        features=features.from_plain(_table(state, "features")),
        devices=devices,
        lines={int(number): _levels(levels) for number, levels in _table(state, "lines").items()},
        consoles=consoles,
        disks=disks,
        image=image,
        firmware=_firmware(path, state, shape),
        no_reboot=_flag(_table(state, "machine"), "no_reboot"),
        parent_id=parent.id if parent is not None else None,
        id=state["id"],
        created=_created(state),
        screen="\n".join(screen),
        exits=_number(state, "exits", 1 << 63),
        trusted=False,
        home=path,
    )


def _image(path: str, size: int, parts: list[Extent], parent: Snapshot | None, verify: bool) -> Image:
    with ExitStack() as stack:
        fd = _open(stack, os.path.join(path, MEMORY))
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
            if zlib.crc32(view[part.offset : part.offset + part.length]) != part.crc:
                raise ValueError(f"{MEMORY} has other content at {part.offset:#x} than was saved")
        for offset, length in _chunks(runs(outside)):
            if view[offset : offset + length] != bytes(length):
                raise ValueError(f"{MEMORY} has content at {offset:#x} where none was saved")


def _disk(path: str, number: int, state: Any) -> SavedDisk | None:
    if state is None:
        return None
    disk = SavedDisk.from_plain(state)
    if disk.written is not None:
        parts = _extents(_list(state, "extents"), disk.size, CLUSTER)
        if sum(part.length for part in parts) > WRITTEN_LIMIT:
            raise ValueError(f"more than {WRITTEN_LIMIT >> 30} GiB were written to disk {number}")
        with ExitStack() as stack:
            fd = _open(stack, os.path.join(path, f"disk{number}"))
            if os.fstat(fd).st_size != disk.size:
                raise ValueError(f"disk{number} has {os.fstat(fd).st_size} bytes, the disk {disk.size}")
            for part in parts:
                content = _content(fd, part, f"disk{number}")
                for at in range(0, part.length, CLUSTER):
                    disk.put_cluster(part.offset + at, content[at : at + CLUSTER])
    return disk


def _firmware(path: str, state: dict[str, Any], shape: Shape) -> Firmware | None:
    images: list[bytes | None] = []
    for name in FIRMWARE:
        if state.get(name) is None:
            images.append(None)
            continue
        parts = _extents(_list(state, name), MAX_SIZE, 1)
        with ExitStack() as stack:
            fd = _open(stack, os.path.join(path, name))
            images.append(b"".join(_content(fd, part, name) for part in parts))
    rom, vga_bios = images
    if shape.firmware != ("" if rom is None else hashlib.sha256(rom).hexdigest()):
        raise ValueError("the firmware has not the checksum that is told of it")
    return None if rom is None else Firmware(rom, vga_bios)


def _content(fd: int, part: Extent, name: str) -> bytes:
    content = _read(fd, part.offset, part.length)
    if zlib.crc32(content) != part.crc:
        raise ValueError(f"{name} has other content at {part.offset:#x} than was saved")
    return content


def _extents(given: list[Any], size: int, unit: int) -> list[Extent]:
    """Extents of a file of `size` bytes: in rising order, apart, whole units but for the file's end."""
    made, end = [], 0
    for entry in given:
        if not isinstance(entry, list) or len(entry) != 3 or not all(type(number) is int for number in entry):
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


def _open(stack: ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    stack.callback(os.close, fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ValueError(f"{os.path.basename(path)} is not a regular file")
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
    memory, cpus, nics = _number(state, "memory", RAM_LIMIT), _number(state, "cpus", 4096), _list(state, "nics")
    if not memory or memory % PAGE_SIZE or not cpus:
        raise ValueError("the machine has no CPU, or RAM of a size that cannot be")
    if len(nics) > len(NE2000_CARDS) or not all(type(mac) is bytes and len(mac) == 6 for mac in nics):
        raise ValueError("the machine has too many NICs, or one without an address")
    firmware = state.get("firmware")
    if type(firmware) is not str:
        raise ValueError("the firmware's checksum is not a text")
    ports = _number(state, "serial_ports", len(COM_PORTS))
    return Shape(memory, cpus, ports, tuple(nics), _flag(state, "bios"), firmware)


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
    return CpuidEntry(**{name: _number(entry, name, (1 << 32) - 1) for name in names})


def _levels(levels: Any) -> list[bool]:
    if not isinstance(levels, list) or not all(type(level) is bool for level in levels):
        raise ValueError("the levels of an interrupt are not truth values")
    return levels


def _created(state: dict[str, Any]) -> float:
    created = state.get("created")
    if not isinstance(created, (int, float)) or not 0 <= created < 1 << 40:
        raise ValueError(f"the time {created!r:.40} cannot be")
    return float(created)


def _number(state: dict[str, Any], name: str, most: int) -> int:
    value = state.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} is {value!r:.40}, not a number from 0 to {most}")
    return value


def _flag(state: dict[str, Any], name: str) -> bool:
    value = state.get(name)
    if type(value) is not bool:
        raise ValueError(f"{name} is {value!r:.40}, not a truth value")
    return value


def _table(state: dict[str, Any], name: str) -> dict[str, Any]:
    value = state.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name!r} is not a table")
    return value


def _list(state: dict[str, Any], name: str) -> list[Any]:
    value = state.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name!r} is not a list")
    return value
