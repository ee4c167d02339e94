"""A snapshot as data: what there is to take, to save and to load. `Snapshot` has what can be done with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..kvm.saved import SavedState
from ..x86.cpuid import CpuidEntry
from .disks import SavedDisk
from .features import Features
from .image import RamImage

if TYPE_CHECKING:
    from ..boot import EntryState


def _new_id() -> str:
    """A random UUID of the kernel's: the module `uuid` takes long to import."""
    with open("/proc/sys/kernel/random/uuid") as source:
        return source.read().strip()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a machine must be made as, to have a snapshot put back."""

    memory: int
    cpus: int
    options: dict[str, Any]
    """The device options by name, as `DeviceOption.build` returned them."""
    bios: bool
    """Whether pykvm's own BIOS serves the guest."""
    firmware: str
    """SHA-256 of the firmware in its place, or nothing."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """A firmware's image, which the guest cannot write, and the VGA BIOS that goes with it."""

    rom: bytes
    vga_bios: bytes | None = None


@dataclass(eq=False, repr=False, slots=True)
class Contents:
    """The whole state of a machine at one moment."""

    shape: Shape
    state: SavedState
    """What KVM keeps: vCPUs, interrupt chips, timer, clock."""
    cpuid: list[CpuidEntry]
    features: Features
    """What the CPU must have."""
    devices: dict[str, dict[str, Any]]
    """Each device's state, by its name and its first address."""
    lines: dict[int, list[bool]]
    """The levels of all interrupt lines, by interrupt."""
    consoles: list[dict[str, Any]]
    """What has been said on the debug console and on COM1 onwards, and the input that still waits."""
    disks: list[SavedDisk | None]
    """The hard disks, those on virtio cards, then the floppy disk."""
    image: RamImage
    media: list[SavedDisk | None] = field(default_factory=list)
    """What lies on the trays of the CD-ROM drives."""
    firmware: Firmware | None = None
    no_reboot: bool = False
    """Whether a reset by the guest ends the run."""
    finish: bool = True
    """Whether instructions are finished that KVM cannot emulate."""
    parent_id: str | None = None
    """The `id` of the snapshot that the machine was put back to, or had taken, before this one."""
    id: str = field(default_factory=_new_id)
    created: float = field(default_factory=time.time)
    """Seconds since 1970."""
    screen: str = ""
    """What the text screen showed."""
    exits: int = 0
    """How often the machine had left the guest in that run."""
    trusted: bool = True
    """Whether it was taken in this process; a loaded one may be anything."""
    trust_disks: bool = False
    """Whether the disk images that it names may be opened though it is not trusted."""
    disks_in: str | None = None
    """The directory whose files may be opened as its disks if neither is so, without symbolic links in its name."""
    entry: EntryState | None = None
    """How the image was loaded, with its symbols: not part of a saved snapshot."""
    home: str | None = None
    """The directory that it was saved to or loaded from."""

    @property
    def within(self) -> str | None:
        """The directory outside which no file is opened for it; None if any may be."""
        return None if self.trusted or self.trust_disks else self.disks_in

    def __repr__(self) -> str:
        taken = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.created))
        changed = self.image.changed.bit_count()
        parts = (
            f"{type(self).__name__} {self.id[:8]!r}",
            f"{self.shape.memory >> 10} KiB" if self.shape.memory % (1 << 20) else f"{self.shape.memory >> 20} MiB",
            f"{self.shape.cpus} CPU{'' if self.shape.cpus == 1 else 's'}",
            f"{changed} page{'' if changed == 1 else 's'} changed",
            f"taken {taken}",
            f"in {self.home!r}" if self.home is not None else "not saved",
        )
        return f"<{', '.join(parts)}>"
