"""Where guests under test come from: a kernel is booted once to a named point, and each test begins there.

shell = rig.boot("kernel.elf", until="$ ")
root = shell.then(lambda guest: (guest.send("login root\\n"), guest.serial.expect("# ")))
with root.fork() as guest: ...
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from ..disk.image import open_disk
from ..engine.board import open_system
from ..errors import ConfigError, PykvmError
from ..machine import Machine
from ..snapshot import Snapshot
from .expect import Wanted
from .guest import Guest

TIMEOUT, LIMIT = 10.0, 60.0
"""Seconds: for a guest to do what is expected of it, and for all of its run."""

Until = Wanted | Callable[[Guest], object] | None
"""What brings a guest to a point: a text or regular expression on COM1, a function that is called with the guest, which
is stopped until it waits for something, or None for where it is."""


class Rig:
    """Boots kernels and gives out guests, which it closes at its end.

    `timeout` is how many seconds a guest may take to do what is expected of it, where nobody says anything else;
    `limit` ends each run after so many, None never. Raises kvm.KvmUnavailable without KVM.
    """

    def __init__(self, *, timeout: float = TIMEOUT, limit: float | None = LIMIT) -> None:
        open_system()
        self.timeout, self.limit = timeout, limit
        self.points: list[Point] = []
        """Those that there are."""
        self.guests: list[Guest] = []
        """The guests in use, and those that an exception has left, until `begin`."""
        self._kept: list[Guest] = []

    def boot(
        self,
        kernel: str | os.PathLike[str] | bytes | None,
        until: Until = None,
        *,
        prepare: Callable[[Machine], object] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Point:
        """Boot a kernel, or what `options` of `Machine` say, to a point. Mismatch if it does not come there.

        Disks that are given as paths have their writes discarded. An option that is a function is called for each
        machine: for NICs' back ends and others that are one machine's. `prepare(machine)` adds, to each machine as
        well, devices and handlers of your own.
        """
        __tracebackhide__ = True  # pytest's: the line of the test is what a reader looks for
        if isinstance(options.get("disks"), (list, tuple)):
            options["disks"] = [_discarding(disk) for disk in options["disks"]]
        if "floppy" in options:
            options["floppy"] = _discarding(options["floppy"])
        each = {name: value for name, value in options.items() if callable(value)}
        machine = Machine(kernel, **{name: value() if callable(value) else value for name, value in options.items()})
        try:
            if prepare is not None:
                prepare(machine)
            guest = self._lend(machine, None)
        except BaseException:
            machine.close()
            raise
        return self._reach(guest, until, each, prepare, timeout)

    def _reach(
        self,
        guest: Guest,
        until: Until,
        each: dict[str, Callable[[], Any]],
        prepare: Callable[[Machine], object] | None,
        timeout: float | None,
    ) -> Point:
        """Bring `guest` there and make a point of it; the guest is closed."""
        __tracebackhide__ = True
        try:
            if callable(until):
                guest.stops.here()
                guest.start()
                until(guest)
            elif until is not None:
                guest.start()
                guest.serial.expect(until, timeout)
            guest.faults.heal()
            snapshot = guest.machine.snapshot()
        except BaseException:
            self.keep(guest)
            raise
        guest.close()
        point = Point(self, snapshot, each, prepare)
        self.points.append(point)
        return point

    def _lend(self, machine: Machine, point: Point | None) -> Guest:
        snapshot = None if point is None else point.snapshot
        guest = Guest(machine, snapshot, self.timeout, self.limit, partial(self._done, point))
        self.guests.append(guest)
        return guest

    def _done(self, point: Point | None, guest: Guest, failed: bool) -> None:
        if failed:
            self.keep(guest)
            return
        if guest in self.guests:
            self.guests.remove(guest)
        if guest in self._kept:
            self._kept.remove(guest)
        if point is None or not point.take_back(guest):
            guest.stops.go_on()
            guest.machine.close()

    def keep(self, guest: Guest) -> None:
        """An exception has come: leave the guest as it is until `begin`."""
        guest.freeze()
        if guest not in self._kept:
            self._kept.append(guest)

    def begin(self) -> None:
        """Another test begins: nobody looks any more at what the one before has left."""
        for guest in self._kept[:]:
            guest.close()

    def close(self) -> None:
        """Close all guests and forget all points. May be called twice."""
        for guest in self.guests[:]:
            guest.close()
        for point in self.points[:]:
            point.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Point:
    """A point that a guest was brought to, to begin from as often as one likes. `Rig.boot` and `then` make them."""

    def __init__(
        self,
        rig: Rig,
        snapshot: Snapshot,
        each: dict[str, Callable[[], Any]],
        prepare: Callable[[Machine], object] | None,
    ) -> None:
        self.rig, self.snapshot = rig, snapshot
        self._each, self._prepare = each, prepare
        self._own: Guest | None = None  # what `again` puts back
        self._in_use = False

    def fork(self, *, timeout: float | None = None, limit: float | None = None) -> Guest:
        """A guest of its own that goes on from here, for a `with` block; what it does reaches no other.

        `timeout` and `limit` are in seconds, in place of the rig's.
        """
        guest = self._make()
        self._bound(guest, timeout, limit)
        self._start(guest)
        return guest

    def again(self, *, timeout: float | None = None, limit: float | None = None) -> Guest:
        """The guest of this point, put back to it: cheaper than a fork, and one at a time. Otherwise as `fork`.

        Nothing is left of what was done to it before; one that was closed or given other devices is replaced.
        """
        if self._in_use and self._own in self.rig._kept:
            self.rig.begin()
        if self._in_use:
            raise ConfigError("the guest of this point is in use: end its `with` block before the next, or fork")
        guest = self._own
        if guest is not None:
            self._bound(guest, timeout, limit)
            try:
                guest.rewind()
            except PykvmError:
                self._drop()
                guest = None
        if guest is None:
            guest = self._own = self.fork(timeout=timeout, limit=limit)
        else:
            self.rig.guests.append(guest)
        self._in_use = True
        return guest

    def then(self, until: Until, *, timeout: float | None = None) -> Point:
        """A point further on, on top of this one."""
        __tracebackhide__ = True
        return self.rig._reach(self._make(), until, self._each, self._prepare, timeout)

    def _bound(self, guest: Guest, timeout: float | None, limit: float | None) -> None:
        guest.timeout = self.rig.timeout if timeout is None else timeout
        guest.limit = self.rig.limit if limit is None else limit

    def take_back(self, guest: Guest) -> bool:
        """Whether the guest is this point's own, which then rests."""
        if guest is not self._own:
            return False
        self._in_use = False
        if guest.machine.engine.closed:
            self._own = None
            return False
        guest.settle()
        return True

    def close(self) -> None:
        """Forget it: no more guests come from here."""
        if self in self.rig.points:
            self.rig.points.remove(self)
        self._drop()

    def _drop(self) -> None:
        guest, self._own, self._in_use = self._own, None, False
        if guest is not None:
            guest.close()

    def _make(self) -> Guest:
        given = {name: make() for name, make in self._each.items()}
        machine = self.snapshot.fork(prepare=self._prepare, **given)
        try:
            return self.rig._lend(machine, self)
        except BaseException:
            machine.close()
            raise

    def _start(self, guest: Guest) -> None:
        try:
            guest.start()
        except BaseException:
            guest.close()
            raise


def _discarding(disk: Any) -> Any:
    return open_disk(disk, "discard") if isinstance(disk, (str, os.PathLike)) else disk
