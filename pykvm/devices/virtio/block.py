"""virtio block device on a disk (virtio 1.2, section 5.2): read, write, flush, write zeroes, get ID, several queues.

A request is done in the thread of the vCPU that notifies; a flush, which may take long on the host, aside.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from ...device import Aside, Outside, State, at_once
from ...disk import SECTOR, Disk
from ..pci.dma import DmaError
from .queue import MOST, Chain, QueueError, Segment, split, total
from .transport import VirtioDevice

IN, OUT, FLUSH, GET_ID, WRITE_ZEROES = 0, 1, 4, 8, 13
"""Types of requests."""
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2
SEG_MAX, READ_ONLY, BLK_SIZE, F_FLUSH, MQ, F_WRITE_ZEROES = 1 << 2, 1 << 5, 1 << 6, 1 << 9, 1 << 12, 1 << 14
MOST_SEGMENTS = 126
MOST_BYTES = 16 << 20
"""Of one request: more are an I/O error."""
MOST_ZEROES = 4096
"""Sectors of one request that writes zeroes."""
_PIECE = 1 << 20
_HEADER = struct.Struct("<IIQ")
_RANGE = struct.Struct("<QII")
ID_SIZE = 20


class VirtioBlock(VirtioDevice):
    """The device, with `disk` and as many queues as are asked for."""

    kind = 2
    class_code = 0x010000

    def __init__(self, name: str, disk: Disk, aside: Aside = at_once, queues: int = 1) -> None:
        self.name, self._disk = name, disk
        self.queue_count = queues
        self.features = SEG_MAX | BLK_SIZE | F_FLUSH | (MQ if queues > 1 else 0)
        self.features |= READ_ONLY if disk.read_only else F_WRITE_ZEROES
        self._flushes: list[tuple[int, int, int]] = []
        """(queue, head, address of the status) of the flushes that are not over. The first of them is under way."""
        self._outside = Outside(aside, lambda: None)
        super().__init__()

    def device_config(self) -> bytes:
        config = struct.pack("<QIIHBBI", self._disk.size // SECTOR, 0, MOST_SEGMENTS, 0, 0, 0, SECTOR)
        config += bytes(8) + struct.pack("<BBH", 1, 0, self.queue_count)  # topology; write-back
        return config + struct.pack("<IIIIIB3x", 0, 0, 0, MOST_ZEROES, 1, 0)

    def serve(self, number: int, chain: Chain) -> int | None:
        head, readable, writable = chain
        room = total(writable) - 1
        of_header, given = split(readable, _HEADER.size)
        header = b"".join([self.dma.read(gpa, size) for gpa, size in of_header])
        if len(header) < _HEADER.size or room < 0:
            raise QueueError("a request has no header, or no room for its status")
        wanted, of_status = split(writable, room)
        status_at = next(gpa for gpa, size in of_status if size)
        kind, _, sector = _HEADER.unpack(header)
        if kind == FLUSH:
            self._flushes.append((number, head, status_at))
            if len(self._flushes) == 1:
                self._flush()
            return None
        try:
            status, written = self._do(kind, sector * SECTOR, given, wanted, room)
        except OSError:
            status, written = IO_ERROR, 0
        self.dma.write(status_at, bytes([status]))
        return written + 1

    def _do(self, kind: int, at: int, given: list[Segment], wanted: list[Segment], room: int) -> tuple[int, int]:
        """(status, bytes written to buffers) of a request at byte `at`, with `room` bytes of `wanted` buffers."""
        disk = self._disk
        if kind == IN:
            if not self._fits(at, room):
                return IO_ERROR, 0
            for gpa, size in _in_pieces(wanted):
                self.dma.write(gpa, disk.read_at(at, size))
                at += size
            return OK, room
        if kind == OUT:
            if disk.read_only or not self._fits(at, total(given)):
                return IO_ERROR, 0
            for gpa, size in _in_pieces(given):
                disk.write_at(at, self.dma.read(gpa, size))
                at += size
            return OK, 0
        if kind == GET_ID:
            text = self.name.encode()[:ID_SIZE].ljust(ID_SIZE, b"\0")
            for gpa, size in split(wanted, ID_SIZE)[0]:
                self.dma.write(gpa, text[:size])
                text = text[size:]
            return OK, min(room, ID_SIZE)
        if kind == WRITE_ZEROES and not disk.read_only and total(given) == _RANGE.size:
            first, count, flags = _RANGE.unpack(b"".join([self.dma.read(gpa, size) for gpa, size in given]))
            if flags & ~1:
                return UNSUPPORTED, 0
            at, size = first * SECTOR, count * SECTOR
            if count > MOST_ZEROES or not self._fits(at, size):
                return IO_ERROR, 0
            disk.write_at(at, bytes(size))
            return OK, 0
        return UNSUPPORTED, 0

    def _fits(self, at: int, size: int) -> bool:
        return size % SECTOR == 0 and size <= MOST_BYTES and at + size <= self._disk.size

    # Flushes

    def _flush(self) -> None:
        self._outside.begin(self._flushed, self._came_back)

    def _flushed(self) -> int:
        """Without the machine's lock."""
        try:
            self._disk.flush()
        except OSError:
            return IO_ERROR
        return OK

    def _came_back(self, status: int) -> None:
        number, head, status_at = self._flushes.pop(0)
        try:
            self.dma.write(status_at, bytes([status]))
            self.finish(number, head, 1)
        except (DmaError, QueueError):
            self.fail()
            return
        if self._flushes:
            self._flush()

    def reset_device(self) -> None:
        self._outside.forget()
        self._flushes.clear()
        super().reset_device()

    def save(self) -> State:
        return {**super().save(), "flushes": [list(each) for each in self._flushes]}

    def restore(self, state: State) -> None:
        flushes = state.get("flushes")
        if not isinstance(flushes, list) or len(flushes) > MOST * self.queue_count:
            raise ValueError(f"{self.name}: 'flushes' is no list, or too long")
        for each in flushes:
            fits = isinstance(each, list) and len(each) == 3 and all(type(number) is int for number in each)
            if not fits or each[0] not in range(self.queue_count) or each[1] not in range(MOST) or each[2] < 0:
                raise ValueError(f"{self.name}: {each!r:.60} is no flush")
        super().restore(state)
        self._outside.forget()
        self._flushes = [(number, head, at) for number, head, at in flushes]
        if self._flushes:
            self._flush()


def _in_pieces(segments: Iterable[Segment]) -> Iterator[Segment]:
    """The segments in pieces of which a copy is no burden."""
    for gpa, size in segments:
        for at in range(0, size, _PIECE):
            yield gpa + at, min(_PIECE, size - at)
