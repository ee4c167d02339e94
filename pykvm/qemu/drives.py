"""QEMU's drives: -drive, -hda and its like, -device ide-hd, and in which of the PC's places they are.

Source: qemu-system-x86_64(1), `-drive`: the default interface is IDE, whose drives are numbered master and slave of the
first channel (0, 1), then of the second (2, 3); without a number a drive takes the next free one, -cdrom takes 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import ConfigError
from ..typed import TYPE_CHECKING, Any, NamedTuple
from .words import is_on, number, settings

if TYPE_CHECKING:
    from ..disk import Disk

PLACES = 4
CD_PLACE = 2
VIRTIO_DISKS = ("virtio-blk-pci", "virtio-blk-pci-non-transitional")
CD_PLACES = (2, 3, 1, 0)
"""Where the PC puts CD-ROM drives, one after the other, as far as no disk is there."""
_HARMLESS = ("cache", "aio", "werror", "rerror", "discard", "detect-zeroes", "copy-on-read", "serial", "cyls", "heads",
             "secs", "trans", "boot", "locking", "file.locking", "auto-read-only")  # fmt: skip


class Drive(NamedTuple):
    """A drive: the image's file (None: an empty CD-ROM drive) and what was said of it. `slot` None: the next free."""

    file: str | None
    interface: str = "ide"
    """"ide", "virtio", "floppy", or "none" until a -device names it."""
    media: str = "disk"
    slot: int | None = None
    format: str | None = None
    snapshot: bool = False
    readonly: bool = False
    id: str = ""

    @property
    def driver(self) -> str:
        """The format's name, for monitors."""
        return self.format or "raw"

    @property
    def mode(self) -> str:
        """As `disk.image.open_disk` has it."""
        return "discard" if self.snapshot else "ro" if self.readonly else "rw"


def drive(text: str) -> Drive:
    """-drive's. ConfigError for what there is not."""
    found = settings(text, "file", ("snapshot", "readonly", "copy-on-read"))
    interface, media = found.get("if", "ide"), found.get("media", "disk")
    if interface not in ("ide", "virtio", "floppy", "none"):
        raise ConfigError(
            f"there is no if={interface}: drives are if=ide, if=virtio, if=floppy, or if=none for a -device ide-hd"
        )
    if media not in ("disk", "cdrom"):
        raise ConfigError(f"media={media}: give disk or cdrom")
    known = {"file", "if", "media", "index", "bus", "unit", "format", "snapshot", "readonly", "read-only", "id"}
    for name in found.keys() - known - set(_HARMLESS):
        raise ConfigError(f"there is no {name}=")
    if not found.get("file") and media == "disk":
        raise ConfigError("there is no file=")
    index = None
    if "index" in found:
        index = number("index", found["index"], 0, PLACES - 1)
    elif "bus" in found or "unit" in found:
        index = 2 * number("bus", found.get("bus", "0"), 0, 1) + number("unit", found.get("unit", "0"), 0, 1)
    return Drive(
        found.get("file") or None,
        interface,
        media,
        index,
        found.get("format"),
        is_on("snapshot", found.get("snapshot", "off")),
        media == "cdrom" or is_on("readonly", found.get("readonly", found.get("read-only", "off"))),
        found.get("id", ""),
    )


def letter(name: str, file: str) -> Drive:
    """The drive of -hda to -hdd, -fda or -cdrom."""
    if name == "fda":
        return Drive(file, "floppy", slot=0)
    if name == "cdrom":
        return Drive(file, media="cdrom", slot=CD_PLACE, readonly=True)
    return Drive(file, slot="abcd".index(name[-1]))


def device_drives(drives: list[Drive], found: dict[str, str]) -> None:
    """-device ide-hd, ide-cd or virtio-blk-pci: put the drive that it names into its place."""
    name = found.get("drive", "")
    for at, each in enumerate(drives):
        if each.id == name and name and each.interface == "none":
            if found["driver"] in VIRTIO_DISKS:
                drives[at] = each._replace(interface="virtio")
                return
            media = "cdrom" if found["driver"] == "ide-cd" else "disk"
            bus, unit = found.get("bus", ""), number("unit", found.get("unit", "0"), 0, 1)
            if bus not in ("", "ide.0", "ide.1"):
                raise ConfigError(f"-device {found['driver']}: there is no bus {bus!r}: there are ide.0 and ide.1")
            index = each.slot if not bus else 2 * int(bus[-1]) + unit
            drives[at] = each._replace(
                interface="ide", media=media, slot=index, readonly=each.readonly or media == "cdrom"
            )
            return
    raise ConfigError(f"-device {found['driver']}: there is no -drive if=none,id={name or 'ID'} for it")


class Places(NamedTuple):
    """The drives where they are."""

    disks: list[Drive | None]
    cds: list[Drive]
    """In the order in which the PC takes them."""
    floppy: Drive | None
    virtio: list[Drive]

    @property
    def all(self) -> list[tuple[str, Drive]]:
        """With QEMU's names: ide0-hd0, ide1-cd0, virtio0, floppy0."""
        names = [(f"ide{at // 2}-hd{at % 2}", each) for at, each in enumerate(self.disks) if each is not None]
        free = [at for at in CD_PLACES if at >= len(self.disks) or self.disks[at] is None]
        names += [(f"ide{at // 2}-cd{at % 2}", each) for at, each in zip(free, self.cds, strict=False)]
        names += [(f"virtio{at}", each) for at, each in enumerate(self.virtio)]
        return names + ([("floppy0", self.floppy)] if self.floppy is not None else [])


def place(drives: Sequence[Drive], say: Callable[[str], None]) -> Places:
    """Which drive is where. ConfigError if two are in one place, or there are too many."""
    taken: dict[int, Drive] = {}
    floppy: Drive | None = None
    virtio = [each for each in drives if each.interface == "virtio"]
    for each in drives:
        if each.interface == "virtio":
            if each.media != "disk" or each.file is None:
                raise ConfigError("a virtio drive is a disk")
            continue
        if each.interface == "none":
            say(f"-drive id={each.id}: no -device has it")
            continue
        if each.interface == "floppy":
            if each.slot or floppy is not None:
                raise ConfigError("there is one floppy disk")
            floppy = each
            continue
        index = each.slot
        if index is None:
            index = next((at for at in range(PLACES) if at not in taken), PLACES)
        if index >= PLACES:
            raise ConfigError(f"there are more than {PLACES} drives")
        if index in taken:
            raise ConfigError(f"drive with bus={index // 2}, unit={index % 2} (index={index}) exists")
        taken[index] = each
    disks = [taken[at] if at in taken and taken[at].media == "disk" else None for at in range(PLACES)]
    wanted = {at for at, each in taken.items() if each.media == "cdrom"}
    free = [at for at in CD_PLACES if disks[at] is None]
    cds = [taken[at] for at in CD_PLACES if at in wanted]
    if set(free[: len(cds)]) != wanted:
        say("CD-ROM drives are secondary master, secondary slave, primary slave, primary master, where no disk is")
    while disks and disks[-1] is None:
        disks.pop()
    return Places(disks, cds, floppy, virtio)


def open_drive(each: Drive) -> Disk:
    """Its image. ConfigError if it cannot be opened."""
    from ..disk.image import open_disk

    assert each.file is not None
    mode: Any = each.mode
    return open_disk(each.file, mode, each.format)
