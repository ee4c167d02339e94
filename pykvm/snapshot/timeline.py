"""The snapshots of one machine: taking one, going back to one, and knowing which pages lie between.

Invariant: `_base` is a snapshot from which the RAM differs at most in the pages that were written since; who wrote them
is told by KVM's dirty log (the guest), GuestMemory (the host), or, as long as nobody has asked for the log, by the page
tables (RAM that began as an image). Everything here but `snapshot` and `restore` is called with the machine's lock held
and no vCPU in the guest.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from functools import cached_property
from typing import Literal

from ..engine.run import DeviceError
from ..errors import PykvmError
from ..kvm.dirty import DirtyLog, LoggedSlot
from ..kvm.saved import SavedState, copy_pages, state_msrs
from .disks import check_disks, check_media, save_disk, save_medium, written_through
from .errors import SnapshotError
from .features import Features, both, check, features
from .image import RamImage, bitmap, fill, freeze, pages_of
from .parts import Parts
from .restore import Restore
from .snapshot import Snapshot

WrittenDisks = Literal["refuse", "warn"]
"""What becomes of a snapshot of a machine with a disk that is written through."""


class Timeline:
    """The snapshots of the machine that is made of `parts`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._board, self._engine = parts.board, parts.engine
        self._base: Snapshot | None = None
        self._log: DirtyLog | None = None
        self._layout = 0  # of the slots that `_log` is of
        self._msrs: list[int] | None = None
        self._restore: Restore | None = None  # to `_base`, once the machine has been put back to it

    # What users ask for, without the lock; not from a device or handler that serves an access

    def snapshot(self, written_disks: WrittenDisks) -> Snapshot:
        """See `Machine.snapshot`."""
        with self._engine.gate.lock:
            self._require_no_access()
            with self._engine.gate.held():
                self._engine.require_open()
                return self.take(written_disks)

    def restore(self, snapshot: Snapshot) -> None:
        """See `Machine.restore`."""
        engine = self._engine
        while True:
            if engine.outcome is not None and engine.loop.running:
                with suppress(DeviceError):
                    engine.wait()
            with engine.gate.lock:
                self._require_no_access()
                with engine.gate.held():
                    engine.require_open()
                    if engine.outcome is None or not engine.loop.running:
                        self.go_back(snapshot)
                        if engine.outcome is not None:
                            engine.forget_run()
                        return

    def _require_no_access(self) -> None:
        """PykvmError in a device or handler that serves an access, which nobody can wait for."""
        if self._engine.is_serving():
            raise PykvmError("a device or handler takes and restores snapshots in a function given to machine.at_rest")

    # Taking one

    def take(self, written_disks: WrittenDisks) -> Snapshot:
        """A snapshot of the machine as it is."""
        if names := written_through(self.parts.disks):
            text = f"{' and '.join(names)}: writes go to the image, and going back would not undo them"
            if written_disks != "warn":
                raise SnapshotError(f"{text}; attach it with its writes discarded, or choose written_disks='warn'")
            warnings.warn(text, stacklevel=4)  # who called Machine.snapshot
        return self._take()

    @property
    def base(self) -> Snapshot | None:
        """The snapshot that was taken, or gone back to, last."""
        return self._base

    def take_aside(self) -> Snapshot:
        """A snapshot for forks alone: the machine does not prepare to go back to it, and runs on as before."""
        return self._make(RamImage(freeze(self._board.memory)))

    def _take(self) -> Snapshot:
        snapshot = self._make(self._image())
        self._base, self._restore = snapshot, None
        return snapshot

    def _make(self, image: RamImage) -> Snapshot:
        board, parts, engine = self._board, self.parts, self._engine
        board.commit_cpuid()
        return Snapshot(
            shape=parts.shape,
            state=SavedState.capture(board.vm, board.vcpus, self._state_msrs()),
            cpuid=list(board.cpuid_in_use),
            features=both(features(board.cpuid_in_use), self._host_features),
            devices={key: device.save() for key, device in parts.devices().items()},
            lines={number: [line.level for line in lines] for number, lines in board.lines.items()},
            consoles=[console.save() for console in parts.consoles],
            disks=[save_disk(disk) for disk in parts.disks],
            media=[save_medium(tray) for tray in parts.trays],
            image=image,
            firmware=parts.firmware,
            no_reboot=engine.no_reboot,
            finish=board.finish,
            parent_id=self._base.id if self._base is not None else None,
            screen=parts.screen(),
            exits=engine.exits,
            entry=engine.entry,
        )

    def _state_msrs(self) -> list[int]:
        if self._msrs is None:
            self._msrs = state_msrs(self._board.system, self._board.vcpus[0])
        return self._msrs

    @cached_property
    def _host_features(self) -> Features:
        return features(self._board.system.supported_cpuid())

    def _image(self) -> RamImage:
        memory = self._board.memory
        written = self._written()
        if written is None or self._base is None:
            return RamImage(freeze(memory))
        base = self._base.image
        return RamImage(base.root, base.changed | written, memory.map)

    def _written(self) -> int | None:
        """The pages written since `_base`; None if all may have been. Begins anew, with the log turned on."""
        memory, written = self._board.memory, None
        if self._log is not None and memory.written is not None:
            written = int.from_bytes(self._current_log().fetch(), "little")
            if memory.written:
                written |= pages_of(memory.written)
                memory.written.clear()
            return written
        if self._base is not None and memory.private:
            written = pages_of(memory.own_pages())
        self._turn_log_on()
        return written

    def _turn_log_on(self) -> None:
        vm, memory = self._board.vm, self._board.memory
        for slot, gpa, size, offset in self._board.ram_slots:
            vm.set_memory(slot, gpa, size, memory.map, offset, log=True)
        self._log = self._open_log()
        memory.written = set()

    def _open_log(self) -> DirtyLog:
        board = self._board
        self._layout = board.ram_layout
        return DirtyLog(board.vm, [LoggedSlot(slot, offset, size) for slot, _, size, offset in board.ram_slots])

    def _current_log(self) -> DirtyLog:
        """The log of the slots that there are now: what those had that have gone, is in `GuestMemory.written`."""
        if self._log is None or self._layout != self._board.ram_layout:
            self._log = self._open_log()
        return self._log

    # Going back

    def begin(self, snapshot: Snapshot) -> None:
        """Start from `snapshot`: for a new machine whose RAM is its image already. SnapshotError if that cannot be."""
        check(snapshot.features, self._host_features)
        self._check(snapshot)
        try:
            if self._board.cpuid_in_use != snapshot.cpuid:
                self._board.set_cpuid(snapshot.cpuid)
            Restore(self.parts, snapshot, lambda _: None)()
        except Exception as error:  # a device of somebody's own may raise anything for a state that is none
            raise _refused(error) from error
        self._engine.entry = snapshot.entry
        self._base = snapshot

    def go_back(self, snapshot: Snapshot) -> None:
        """Put the machine back to `snapshot`; SnapshotError, and no change, if that does not fit this machine."""
        restore = self._restore
        if restore is not None and snapshot is self._base and self._log is not None and restore.still_fits():
            restore(self._current_log)
            return
        self._check(snapshot)
        if self._board.cpuid_in_use != snapshot.cpuid:
            raise SnapshotError("the snapshot is of a machine with another CPUID: fork it instead")
        before = None if snapshot.trusted else self._take()
        try:
            self._put_back(snapshot)
        except Exception as error:
            if before is not None:
                self._put_back(before)
            raise _refused(error) from error

    def _check(self, snapshot: Snapshot) -> None:
        self._board.commit_cpuid()
        if snapshot.shape != self.parts.shape:
            raise SnapshotError(f"the snapshot is of another machine: {snapshot.shape}, this one is {self.parts.shape}")
        check_disks(snapshot.disks, self.parts.disks)
        check_media(snapshot.media, self.parts.trays, snapshot.within)
        if difference := snapshot.devices.keys() ^ self.parts.devices().keys():
            raise SnapshotError(
                f"the snapshot is of a machine with other devices: {', '.join(sorted(difference))}; "
                "add, by `prepare` of a fork, what the machine had besides"
            )
        if {number: len(levels) for number, levels in snapshot.lines.items()} != {
            number: len(lines) for number, lines in self._board.lines.items()
        }:
            raise SnapshotError("the snapshot is of a machine with other interrupt lines")

    def _put_back(self, snapshot: Snapshot) -> None:
        restore = Restore(self.parts, snapshot, self._put_memory)
        restore()
        self._restore = restore

    def _put_memory(self, snapshot: Snapshot) -> None:
        memory, base, image = self._board.memory, self._base, snapshot.image
        written = self._written()
        if written is not None and base is not None and base.image.root is image.root:
            if image is not base.image:
                written |= base.image.changed | image.changed
            copy_pages(memory.map, image.map, bitmap(written, memory.size))
        else:
            fill(memory, image)
            memory.written = set()
        self._base, self._restore = snapshot, None


def _refused(error: Exception) -> SnapshotError:
    return SnapshotError(f"the snapshot cannot be put back: {type(error).__name__}: {error}")
