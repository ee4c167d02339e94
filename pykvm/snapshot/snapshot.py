"""A snapshot as data, and what one can be made into: another machine, or a directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..kvm.saved import SavedState
from ..x86.cpuid import CpuidEntry
from .disks import SavedDisk
from .features import Features
from .image import Image

if TYPE_CHECKING:
    from ..boot import EntryState
    from ..disk import Disk
    from ..machine import Machine
    from ..net import NetBackend
    from ..pc import Nic


def _new_id() -> str:
    """A random UUID of the kernel's: the module `uuid` takes long to import."""
    with open("/proc/sys/kernel/random/uuid") as source:
        return source.read().strip()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a machine must be made as, to have a snapshot put back."""

    memory: int
    cpus: int
    serial_ports: int
    nics: tuple[bytes, ...]
    """The station addresses of the NICs."""
    bios: bool
    """Whether pykvm's own BIOS serves the guest."""
    firmware: str
    """SHA-256 of the firmware in its place, or nothing."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """A firmware's image, which the guest cannot write, and the VGA BIOS that goes with it."""

    rom: bytes
    vga_bios: bytes | None = None


@dataclass(eq=False, slots=True)
class Snapshot:
    """The whole state of a machine at one moment. It never changes, and outlives the machine.

    Made by `Machine.snapshot` and `Snapshot.load`.
    """

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
    """The hard disks, then the floppy disk."""
    image: Image
    firmware: Firmware | None = None
    no_reboot: bool = False
    """Whether a reset by the guest ends the run."""
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
    entry: EntryState | None = None
    """How the image was loaded, with its symbols: not part of a saved snapshot."""
    home: str | None = None
    """The directory that it was saved to or loaded from."""

    def fork(
        self,
        *,
        disks: Sequence[Disk | str | os.PathLike[str] | None] | None = None,
        floppy: Disk | str | os.PathLike[str] | None = None,
        nics: Sequence[Nic | NetBackend] | None = None,
        prepare: Callable[[Machine], object] | None = None,
    ) -> Machine:
        """Another machine that goes on from here; its RAM is shared with the snapshot until it is written.

        The disks' image files are opened anew with their writes discarded, unless `disks` and `floppy` give others;
        what had been written to a copy-on-write disk is put onto it. The NICs have no cable unless `nics` gives them
        one. `prepare(machine)` adds what the first machine had besides: devices and handlers of your own. The machine
        has not been started. Raises SnapshotError if the snapshot does not fit this host or that machine.
        """
        from ..boot import detect
        from ..machine import Machine

        shape, firmware = self.shape, self.firmware
        *hard_disks, floppy_disk = self._open_disks(disks is None, floppy is None)
        machine = Machine(
            memory=self.image.memory(),
            cpus=shape.cpus,
            serial_ports=shape.serial_ports,
            disks=hard_disks if disks is None else disks,
            floppy=floppy_disk if floppy is None else floppy,
            nics=self._nics() if nics is None else nics,
            format=detect.DISK if shape.bios else None,
            firmware=None if firmware is None else firmware.rom,
            no_reboot=self.no_reboot,
        )
        try:
            if firmware is not None and firmware.vga_bios is not None:
                machine.pc.vga_bios = firmware.vga_bios
            if prepare is not None:
                prepare(machine)
            machine.timeline.begin(self)
        except BaseException:
            machine.close()
            raise
        return machine

    def _open_disks(self, hard_disks: bool, floppy: bool) -> list[Disk | None]:
        """Those that are asked for, in the order of `disks`; None in place of the others."""
        opened: list[Disk | None] = []
        try:
            for number, disk in enumerate(self.disks):
                wanted = floppy if number == len(self.disks) - 1 else hard_disks
                opened.append(disk.open() if wanted and disk is not None else None)
        except BaseException:
            for made in opened:
                if made is not None:
                    made.close()
            raise
        return opened

    def _nics(self) -> list[Nic]:
        from ..net.loopback import NoNet
        from ..pc import Nic

        return [Nic(NoNet(), mac) for mac in self.shape.nics]

    def save(self, path: str | os.PathLike[str], *, parent: Snapshot | None = None) -> None:
        """Write it to the directory `path`, which is replaced if it is a snapshot.

        `parent` is a snapshot that has been saved or loaded, and an ancestor: only the pages that are not as in it are
        written, and loading needs its directory, which is named relative to `path`. The new directory is made beside
        `path` and renamed at the end: if anything fails, what was at `path` is still there, whole. SnapshotError says
        what failed.
        """
        from .save import save

        save(self, os.fspath(path), parent)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Snapshot:
        """Read it from a directory. Its RAM is mapped, not read, and must stay as it is while it is in use.

        `verify` has the checksum of every page compared, for which the pages are read. SnapshotError says what is wrong
        with the file, or what this host lacks for it.
        """
        from .load import load

        return load(os.fspath(path), verify)
