"""A split virtqueue, the device's side: takes chains of buffers that the driver offers, and gives them back.

Implements: virtio 1.2, section 2.7, with indirect descriptors (2.7.5.3) and event indices (2.7.7.2, 2.7.10). Whatever
the driver writes there, each number is read once, and checked before it is used; the rings are checked against RAM when
the queue is turned on, and each buffer when it is met.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ...memory import GuestMemory, GuestMemoryError
from ...typed import Any, NamedTuple

NEXT, WRITE, INDIRECT = 1, 2, 4
"""Flags of a descriptor."""
NO_INTERRUPT = 1
"""Flag of the available ring, where there are no event indices."""
NO_VECTOR = 0xFFFF
MOST = 256
"""Descriptors at most."""
_DESCRIPTOR = struct.Struct("<QIHH")
_INDEX = struct.Struct("<H")
_USED = struct.Struct("<II")


class QueueError(Exception):
    """What the driver has put into the queue cannot be: the device stops until it is reset."""


class Segment(NamedTuple):
    """`size` bytes of guest RAM at the guest physical address `gpa`, which have been found to be RAM."""

    gpa: int
    size: int


class Chain(NamedTuple):
    """A request: buffers to read from, buffers to write to. `head` is what it is given back by."""

    head: int
    readable: list[Segment]
    writable: list[Segment]


def pieces(segments: list[Segment], skip: int, size: int) -> Iterator[Segment]:
    """The parts of the segments that have the `size` bytes behind the first `skip`."""
    for gpa, length in segments:
        if skip >= length:
            skip -= length
            continue
        part = min(length - skip, size)
        if part:
            yield Segment(gpa + skip, part)
        size -= part
        skip = 0
        if not size:
            return


def total(segments: list[Segment]) -> int:
    """Bytes in all of them."""
    return sum(size for _, size in segments)


class Queue:
    """One queue, of at most `most` descriptors."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.reset()

    def reset(self) -> None:
        """Off, and with its greatest size."""
        self.size = self.most
        self.enabled = False
        self.vector = NO_VECTOR
        self.descriptors = self.available = self.used = 0
        """Guest physical addresses of the three areas."""
        self.taken = self.given = 0
        """How many chains were taken and given back, modulo 65536."""
        self._memory: GuestMemory | None = None

    def start(self, memory: GuestMemory, *, events: bool) -> None:
        """Use the rings where they are now, with event indices or without. QueueError if they are not in RAM."""
        size = self.size
        try:
            self._table = memory.offset(self.descriptors, 16 * size)
            self._avail = memory.offset(self.available, 6 + 2 * size)
            self._ring = memory.offset(self.used, 6 + 8 * size)
        except GuestMemoryError as error:
            raise QueueError(f"a ring is not in RAM: {error}") from None
        self._memory, self._events = memory, events

    @property
    def is_started(self) -> bool:
        """Whether `take` may be called."""
        return self._memory is not None

    def take(self) -> Chain | None:
        """The next chain, or None. QueueError if it cannot be."""
        memory = self._memory
        assert memory is not None
        ram, taken = memory.map, self.taken
        (offered,) = _INDEX.unpack_from(ram, self._avail + 2)
        if offered == taken:
            return None
        if (offered - taken) & 0xFFFF > self.size:
            raise QueueError(f"{(offered - taken) & 0xFFFF} chains are offered in a queue of {self.size}")
        (head,) = _INDEX.unpack_from(ram, self._avail + 4 + 2 * (taken & self.size - 1))
        if head >= self.size:
            raise QueueError(f"a chain begins with descriptor {head} of {self.size}")
        self.taken = taken + 1 & 0xFFFF
        return self._chain(memory, head)

    def _chain(self, memory: GuestMemory, head: int) -> Chain:
        table: Any = memory.map
        base, count, at, seen, is_indirect = self._table, self.size, head, 0, False
        readable: list[Segment] = []
        writable: list[Segment] = []
        try:
            while True:
                gpa, length, flags, following = _DESCRIPTOR.unpack_from(table, base + 16 * at)
                if flags & INDIRECT:
                    if is_indirect or flags & NEXT or not length or length % 16:
                        raise QueueError("an indirect descriptor is within a table, goes on, or has no whole table")
                    count = min(length // 16, self.size + 1)
                    table, base, at, is_indirect = memory.read(gpa, 16 * count), 0, 0, True
                    continue
                seen += 1
                if seen > self.size:
                    raise QueueError(f"a chain is longer than the queue's {self.size} descriptors, or a loop")
                memory.offset(gpa, length)
                if flags & WRITE:
                    writable.append(Segment(gpa, length))
                elif writable:
                    raise QueueError("a buffer to be read is behind one to be written")
                else:
                    readable.append(Segment(gpa, length))
                if not flags & NEXT:
                    return Chain(head, readable, writable)
                at = following
                if at >= count:
                    raise QueueError(f"a chain goes on with descriptor {at} of {count}")
        except GuestMemoryError as error:
            raise QueueError(f"a buffer is not in RAM: {error}") from None

    def give(self, head: int, written: int) -> bool:
        """Give a chain back, of whose buffers the first `written` bytes were written; whether to interrupt the driver.

        With event indices, the driver says at which chain it wants to be told.
        """
        memory, given = self._memory, self.given
        assert memory is not None
        ram, mask = memory.map, self.size - 1
        _USED.pack_into(ram, self._ring + 4 + 8 * (given & mask), head, written)
        self.given = new = given + 1 & 0xFFFF
        _INDEX.pack_into(ram, self._ring + 2, new)
        memory.note(self.used, 6 + 8 * self.size)
        if self._events:
            (event,) = _INDEX.unpack_from(ram, self._avail + 4 + 2 * self.size)
            return bool((new - event - 1) & 0xFFFF == 0)
        return not _INDEX.unpack_from(ram, self._avail)[0] & NO_INTERRUPT

    def want_notification(self) -> bool:
        """Have the driver tell of the next chain that it offers; False if it has offered one since."""
        memory = self._memory
        assert memory is not None
        if self._events:
            _INDEX.pack_into(memory.map, self._ring + 4 + 8 * self.size, self.taken)
            memory.note(self.used, 6 + 8 * self.size)
        return bool(_INDEX.unpack_from(memory.map, self._avail + 2)[0] == self.taken)

    def save(self) -> dict[str, Any]:
        """Everything but what is in RAM."""
        return {
            "size": self.size, "enabled": self.enabled, "vector": self.vector, "descriptors": self.descriptors,
            "available": self.available, "used": self.used, "taken": self.taken, "given": self.given,
        }  # fmt: skip

    def check(self, saved: Any) -> dict[str, Any]:
        """A saved state; ValueError if it cannot be."""
        if not isinstance(saved, dict) or saved.keys() != self.save().keys():
            raise ValueError("a queue's state has other fields")
        if type(saved["enabled"]) is not bool:
            raise ValueError("a queue's 'enabled' is neither true nor false")
        for name, most in (("size", self.most), ("vector", 0xFFFF), ("taken", 0xFFFF), ("given", 0xFFFF)):
            if type(saved[name]) is not int or not 0 <= saved[name] <= most:
                raise ValueError(f"a queue's {name!r} cannot be {saved[name]!r:.20}")
        if not saved["size"] or saved["size"] & saved["size"] - 1:
            raise ValueError(f"a queue's size cannot be {saved['size']}")
        for name in ("descriptors", "available", "used"):
            if type(saved[name]) is not int or not 0 <= saved[name] < 1 << 64:
                raise ValueError(f"a queue's {name!r} is no address")
        return saved

    def restore(self, saved: dict[str, Any]) -> None:
        """Take back a state that `check` has let pass. The queue is to be started if it is enabled."""
        for name, value in saved.items():
            setattr(self, name, value)
        self._memory = None
