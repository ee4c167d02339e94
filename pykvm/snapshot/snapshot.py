"""What a snapshot can be made into: another machine, or a directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..disk.tray import Tray
from .contents import Contents
from .errors import SnapshotError

if TYPE_CHECKING:
    from ..disk import Disk
    from ..machine import Machine

VIRTIO_DISKS = "virtio_disks"
"""The device option whose disks are among the snapshot's."""


class Snapshot(Contents):
    """The whole state of a machine at one moment. It never changes, and outlives the machine.

    Made by `Machine.snapshot` and `Snapshot.load`.
    """

    __slots__ = ()

    def fork(
        self,
        *,
        disks: Sequence[Disk | str | os.PathLike[str] | None] | None = None,
        floppy: Disk | str | os.PathLike[str] | None = None,
        prepare: Callable[[Machine], object] | None = None,
        **device_options: Any,
    ) -> Machine:
        """Another machine that goes on from here; its RAM is shared with the snapshot until it is written.

        The disks' image files are opened anew with their writes discarded, unless `disks` and `floppy` give others;
        what had been written to a copy-on-write disk is put onto it. The CD-ROM drives have the media that they had,
        or those that `cdrom` gives. NICs have no cable unless `nics` gives them one;
        so do other `device_options` for theirs. `prepare(machine)` adds what the first machine had besides: devices and
        handlers of your own. The machine has not been started. Raises SnapshotError if the snapshot does not fit this
        host or that machine, and if a loaded one names a disk image outside its directory that nobody has confirmed
        (see `load`).
        """
        from ..boot import detect
        from ..device_options import device_options as all_device_options
        from ..machine import Machine

        shape, firmware = self.shape, self.firmware
        for option in all_device_options():
            if option.name not in device_options and option.name != VIRTIO_DISKS:
                plain = shape.options[option.name]
                device_options[option.name] = self._open_trays() if option.has_media else option.from_snapshot(plain)
        *hard_disks, floppy_disk = self._open_disks(disks is None, VIRTIO_DISKS not in device_options, floppy is None)
        first = len(hard_disks) - shape.options[VIRTIO_DISKS]
        hard_disks, virtio_disks = hard_disks[:first], hard_disks[first:]
        device_options.setdefault(VIRTIO_DISKS, virtio_disks)
        machine = Machine(
            memory=self.image.memory(),
            cpus=shape.cpus,
            disks=hard_disks if disks is None else disks,
            floppy=floppy_disk if floppy is None else floppy,
            format=detect.DISK if shape.bios else None,
            firmware=None if firmware is None else firmware.rom,
            no_reboot=self.no_reboot,
            finish=self.finish,
            **device_options,
        )
        try:
            if firmware is not None and firmware.vga_bios is not None:
                machine.pc.vga_bios = firmware.vga_bios
            for tray, saved in zip(machine.pc.trays, self.media, strict=False):
                tray.stands_for = saved
            if prepare is not None:
                prepare(machine)
            machine.timeline.begin(self)
        except BaseException:
            machine.close()
            raise
        return machine

    def _open_trays(self) -> list[Tray]:
        trays: list[Tray] = []
        try:
            for place, medium in enumerate(self.media):
                if medium is not None and medium.path is None:
                    raise SnapshotError(f"the CD in drive {place} has no file of its own: give the CDs by `cdrom`")
                trays.append(Tray(None if medium is None else medium.open(self.within)))
        except BaseException:
            for tray in trays:
                tray.close()
            raise
        return trays

    def _open_disks(self, hard_disks: bool, virtio_disks: bool, floppy: bool) -> list[Disk | None]:
        """Those that are asked for, in the order of `disks`; None in place of the others."""
        opened: list[Disk | None] = []
        try:
            for number, disk in enumerate(self.disks):
                behind = len(self.disks) - 1 - number
                on_virtio = behind <= self.shape.options[VIRTIO_DISKS]
                wanted = floppy if not behind else virtio_disks if on_virtio else hard_disks
                opened.append(disk.open(self.within) if wanted and disk is not None else None)
        except BaseException:
            for made in opened:
                if made is not None:
                    made.close()
            raise
        return opened

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
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True, trust_disks: bool = False) -> Snapshot:
        """Read it from a directory; what happens to the files afterwards does not matter.

        `verify` has the checksum of RAM compared. `trust_disks` lets forks open the disk images that the snapshot
        names, whatever files they are: say so of a snapshot only if you know who made it. Those in the directory itself
        may be opened without. SnapshotError says what is wrong with the files, or what this host lacks for them.
        """
        from .load import load

        return load(os.fspath(path), verify, trust_disks, cls)
