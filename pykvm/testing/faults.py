"""Faults that a test puts into a guest's hardware and memory, by one call each, and takes out again by `heal`."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

from ..disk import SECTOR, Disk
from ..errors import ConfigError
from ..machine import Machine

IN_KERNEL = {0: "the PIT's, which is in the kernel", 2: "the second PIC's"}
"""Interrupts that do not pass here."""
RETURN_ZERO = bytes.fromhex("31c0 c3")
"""xor eax, eax; ret: the same in 32 and 64 bits."""


class Patient(Protocol):
    """A guest, as far as faults concern it."""

    machine: Machine

    def address(self, place: str | int) -> int:
        """The linear address of a symbol."""

    def read_memory(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes at a linear address."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Write there, to read-only pages as well."""


class Faults:
    """The faults of one guest. With a `count` they end after so many times, without one they last until `heal`."""

    def __init__(self, guest: Patient) -> None:
        self._guest = guest
        self._undo = ExitStack()

    def heal(self) -> None:
        """Take out all faults. What they have done to the guest's state is not undone."""
        self._undo.close()

    def disk_error(self, sector: int, disk: int = 0, count: int | None = None, *, on: str = "both") -> None:
        """Have accesses to that sector fail: uncorrectable data to the guest. `on` is "read", "write" or "both".

        `disk` is its place: 0 for the primary master.
        """
        if on not in ("read", "write", "both"):
            raise ConfigError(f'{on!r} is no kind of access: give "read", "write" or "both"')
        disks = self._guest.machine.disks
        found = disks[disk] if 0 <= disk < len(disks) else None
        if found is None:
            raise ConfigError(f"there is no disk {disk}")
        if not 0 <= sector < found.size // SECTOR:
            raise ConfigError(f"disk {disk} has {found.size // SECTOR} sectors, and none of number {sector}")
        left = Countdown(count)
        at = sector * SECTOR

        def fail(offset: int, length: int) -> None:
            if offset <= at < offset + length and left.strike():
                raise OSError(errno.EIO, f"a test has sector {sector} fail")

        self._stand_before(found, "read_at", fail, on in ("read", "both"))
        self._stand_before(found, "write_at", lambda offset, data: fail(offset, len(data)), on in ("write", "both"))

    def _stand_before(self, disk: Disk, method: str, check: Callable[..., None], wanted: bool) -> None:
        if not wanted:
            return
        inner = getattr(disk, method)

        def checked(*arguments: Any) -> Any:
            check(*arguments)
            return inner(*arguments)

        self._replace(disk, method, checked)

    def lost_interrupt(self, irq: int, count: int | None = 1) -> None:
        """Have interrupt input `irq` stay low at the next `count` edges. ConfigError for those made in the kernel."""
        board = self._guest.machine.engine.board
        if irq in IN_KERNEL:
            raise ConfigError(f"interrupt {irq} is {IN_KERNEL[irq]}: it cannot be lost here")
        if irq not in board.lines:
            there = ", ".join(map(str, sorted(board.lines)))
            raise ConfigError(f"no device is at interrupt {irq}: there are some at {there}")
        inner, left = board.move_input, Countdown(count)

        def move(number: int, level: bool) -> None:
            if number != irq or not level or not left.strike():
                inner(number, level)

        self._replace(board, "move_input", move)

    def nic_drop(self, nic: int = 0, count: int | None = None, *, on: str = "both") -> None:
        """Have the cable of a NIC lose frames. `on` is "send", "receive" or "both", as the guest sees it."""
        if on not in ("send", "receive", "both"):
            raise ConfigError(f'{on!r} is no direction: give "send", "receive" or "both"')
        cables = self._guest.machine.pc.cables
        if not 0 <= nic < len(cables):
            raise ConfigError(f"there is no NIC {nic}: the machine has {len(cables)}")
        cable, left = cables[nic], Countdown(count)
        cable.lose = lambda sends: (on == "both" or (on == "send") is sends) and left.strike()
        self._undo.callback(setattr, cable, "lose", None)

    def out_of_memory(self, allocator: str | int) -> None:
        """Have a function return 0, a null pointer, from now on: its first bytes in memory are replaced.

        To have the Nth call fail, `run_until` it N times first.
        """
        guest = self._guest
        address = guest.address(allocator)
        original = guest.read_memory(address, len(RETURN_ZERO))
        guest.write_memory(address, RETURN_ZERO)
        self._undo.callback(self._put_back, address, original)

    def _put_back(self, address: int, original: bytes) -> None:
        """Unless the guest has code of its own there by now."""
        guest = self._guest
        if not guest.machine.engine.closed and guest.read_memory(address, len(RETURN_ZERO)) == RETURN_ZERO:
            guest.write_memory(address, original)

    def _replace(self, thing: object, name: str, value: object) -> None:
        """Have `thing.name` be `value` until it is healed."""
        if not hasattr(thing, "__dict__"):
            raise ConfigError(f"{type(thing).__name__} has __slots__: no fault can be put in front of it")
        before = thing.__dict__.get(name)
        with self._guest.machine.lock:
            setattr(thing, name, value)

        def undo() -> None:
            with self._guest.machine.lock:
                if before is None:
                    delattr(thing, name)
                else:
                    setattr(thing, name, before)

        self._undo.callback(undo)


class Countdown:
    """Strikes `count` times; always, if that is None."""

    def __init__(self, count: int | None) -> None:
        if count is not None and count < 1:
            raise ConfigError(f"{count} times is no fault: give 1 or more")
        self._left = count

    def strike(self) -> bool:
        """Whether it does this time."""
        if self._left is None:
            return True
        self._left -= 1
        return self._left >= 0
