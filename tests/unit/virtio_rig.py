"""A driver of one virtio card, after the specification: it finds the structures, negotiates, and fills queues in RAM."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pci_rig import COMMAND, MASTER, MEMORY, Board

from pykvm.devices.virtio.queue import INDIRECT, NEXT, WRITE
from pykvm.devices.virtio.transport import DRIVER_OK, FEATURES_OK, VERSION_1, VirtioDevice

SLOT = 2
RINGS, DATA = 0x10000, 0x40000
"""Where the driver has its rings (0x4000 for each queue), and its buffers."""
NO_VECTOR = 0xFFFF

Buffer = tuple[int, int, bool]
"""(address, size, whether the device writes it)."""


class Driver:
    """Of `card`, in a PC with MSI-X: vector N + 1 is queue N's."""

    def __init__(self, card: VirtioDevice, *, size: int = 8, features: int | None = None, msix: bool = True) -> None:
        self.card, self.size = card, size
        self.board = board = Board(card)
        self.memory = board.carrier.memory
        board.configure(SLOT, COMMAND, MEMORY | MASTER, 2)
        self.structures = self._structures()
        self.common, self.isr = self.structures[1], self.structures[3]
        if msix:
            at = board.capability(SLOT, 0x11)
            table = board.bar(SLOT, board.config(SLOT, at + 4) & 7)
            for vector in range(card.msix):
                for word, value in enumerate((0xFEE00000, 0, vector, 0)):
                    board.write(table + 16 * vector + 4 * word, value)
            board.configure(SLOT, at + 2, 1 << 15, 2)
        self.negotiate(features, msix=msix)

    def _structures(self) -> dict[int, int]:
        """Addresses by kind (virtio 1.2, 4.1.4)."""
        board, found = self.board, {}
        at = board.config(SLOT, 0x34, 1)
        while at:
            if board.config(SLOT, at, 1) == 0x09:
                kind, bar = board.config(SLOT, at + 3, 1), board.config(SLOT, at + 4, 1)
                found[kind] = board.bar(SLOT, bar) + board.config(SLOT, at + 8)
                if kind == 2:
                    self.step = board.config(SLOT, at + 16)
                elif kind == 5:
                    self.access = at
            at = board.config(SLOT, at + 1, 1)
        return found

    def get(self, offset: int, size: int) -> int:
        return self.board.read(self.common + offset, size)

    def set(self, offset: int, size: int, value: int) -> None:
        if size == 8:  # 64-bit fields are two of 32 bits (4.1.3.1)
            self.board.write(self.common + offset, value & 0xFFFF_FFFF)
            self.board.write(self.common + offset + 4, value >> 32)
        else:
            self.board.write(self.common + offset, value, size)

    @property
    def status(self) -> int:
        return self.get(0x14, 1)

    def offered(self) -> int:
        words = []
        for select in (0, 1):
            self.set(0x00, 4, select)
            words.append(self.get(0x04, 4))
        return words[0] | words[1] << 32

    def negotiate(self, features: int | None = None, *, msix: bool = True) -> None:
        """3.1.1, with all features or those that are given."""
        self.set(0x14, 1, 0)
        self.set(0x14, 1, 3)
        self.features = features if features is not None else self.offered()
        for select in (0, 1):
            self.set(0x08, 4, select)
            self.set(0x0C, 4, self.features >> 32 * select & 0xFFFF_FFFF)
        self.set(0x14, 1, 3 | FEATURES_OK)
        if not self.status & FEATURES_OK:
            return
        if msix:
            self.set(0x10, 2, 0)
        self.offers = [0] * self.get(0x12, 2)
        self.seen = list(self.offers)
        for number in range(len(self.offers)):
            self.set(0x16, 2, number)
            self.set(0x18, 2, self.size)
            if msix:
                self.set(0x1A, 2, number + 1)
            for field, where in ((0x20, self.table(number)), (0x28, self.avail(number)), (0x30, self.used(number))):
                self.set(field, 8, where)
            self.memory.zero(self.table(number), 0x4000)
            self.set(0x1C, 2, 1)
        self.set(0x14, 1, 3 | FEATURES_OK | DRIVER_OK)

    def table(self, queue: int = 0) -> int:
        return RINGS + 0x4000 * queue

    def avail(self, queue: int = 0) -> int:
        return self.table(queue) + 0x2000

    def used(self, queue: int = 0) -> int:
        return self.table(queue) + 0x3000

    def describe(self, at: int, gpa: int, size: int, flags: int, following: int = 0, queue: int = 0) -> None:
        self.memory.write(self.table(queue) + 16 * at, struct.pack("<QIHH", gpa, size, flags, following))

    def offer(self, buffers: Sequence[Buffer], *, first: int = 0, indirect: bool = False, queue: int = 0) -> None:
        """Put a chain into descriptors from `first` on, and make it available."""
        last = len(buffers) - 1
        entries = [
            (gpa, size, (WRITE if write else 0) | (NEXT if number < last else 0))
            for number, (gpa, size, write) in enumerate(buffers)
        ]
        if indirect:
            where = self.table(queue) + 0x1000
            packed = [struct.pack("<QIHH", *entry, number + 1) for number, entry in enumerate(entries)]
            self.memory.write(where, b"".join(packed))
            self.describe(first, where, 16 * len(entries), INDIRECT, queue=queue)
        else:
            for number, (gpa, size, flags) in enumerate(entries, first):
                self.describe(number, gpa, size, flags, number + 1, queue)
        self.available(first, queue)

    def available(self, head: int, queue: int = 0) -> None:
        at = self.offers[queue]
        self.memory.write_int(self.avail(queue) + 4 + 2 * (at % self.size), 2, head)
        self.offers[queue] = at + 1 & 0xFFFF
        self.memory.write_int(self.avail(queue) + 2, 2, self.offers[queue])

    def notify(self, queue: int = 0) -> None:
        self.board.write(self.structures[2] + self.step * queue, queue, 2)

    def given(self, queue: int = 0) -> list[tuple[int, int]]:
        """(head, bytes written) of the chains that came back since the last call."""
        index, found = self.memory.read_int(self.used(queue) + 2, 2), []
        while self.seen[queue] != index:
            at = self.used(queue) + 4 + 8 * (self.seen[queue] % self.size)
            found.append((self.memory.read_int(at, 4), self.memory.read_int(at + 4, 4)))
            self.seen[queue] = self.seen[queue] + 1 & 0xFFFF
        return found

    def messages(self) -> list[int]:
        """The vectors of the interrupts since the last call."""
        found = [data for _, data in self.board.carrier.messages]
        self.board.carrier.messages.clear()
        return found

    def close(self) -> None:
        self.board.close()


ONLY_VERSION_1 = VERSION_1
