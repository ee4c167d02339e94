"""What the ATA tests share: disks whose sectors tell their numbers, and a PC's primary channel."""

from __future__ import annotations

import errno

from device_rig import Line, Rig

from pykvm.devices.ata import PRIMARY, AtaChannel

SECTOR = 512
DATA, ERROR, FEATURES, COUNT, LOW, MID, HIGH, DEVICE, STATUS, COMMAND = (
    0x1F0, 0x1F1, 0x1F1, 0x1F2, 0x1F3, 0x1F4, 0x1F5, 0x1F6, 0x1F7, 0x1F7,
)  # fmt: skip
CONTROL = ALTERNATE = 0x3F6
NIEN, SRST, HOB = 0x02, 0x04, 0x80


def pattern(sector: int) -> bytes:
    """512 bytes that tell which sector they are."""
    return sector.to_bytes(8, "little") * 64


class MemoryDisk:
    """A backend in memory: what is not in `sectors` holds `pattern`, sectors in `bad` fail, `log` has all calls."""

    def __init__(self, count: int, read_only: bool = False) -> None:
        self.size = count * SECTOR
        self.read_only = read_only
        self.sectors: dict[int, bytes] = {}
        self.bad: set[int] = set()
        self.flush_fails = False
        self.log: list[tuple[str, int, int]] = []

    def _span(self, offset: int, length: int) -> range:
        assert offset % SECTOR == 0
        assert length % SECTOR == 0
        assert 0 <= offset <= offset + length <= self.size
        span = range(offset // SECTOR, (offset + length) // SECTOR)
        if any(sector in self.bad for sector in span):
            raise OSError(errno.EIO, "bad sector")
        return span

    def read_at(self, offset: int, length: int) -> bytes:
        self.log.append(("read", offset // SECTOR, length // SECTOR))
        return b"".join(self.sectors.get(sector, pattern(sector)) for sector in self._span(offset, length))

    def write_at(self, offset: int, data: bytes) -> None:
        self.log.append(("write", offset // SECTOR, len(data) // SECTOR))
        assert not self.read_only
        for at, sector in enumerate(self._span(offset, len(data))):
            self.sectors[sector] = data[at * SECTOR : (at + 1) * SECTOR]

    def flush(self) -> None:
        self.log.append(("flush", 0, 0))
        if self.flush_fails:
            raise OSError(errno.ENOSPC, "full")

    def close(self) -> None:
        pass


class Pc(Rig[AtaChannel]):
    """A bus with the primary channel on it."""

    def __init__(self, master: MemoryDisk | None, slave: MemoryDisk | None = None) -> None:
        irq = Line()
        super().__init__(AtaChannel("ide0", *PRIMARY, irq, master, slave), irq)

    def insw(self, words: int) -> bytes:
        return self.ins(DATA, words, 2)

    def outsw(self, data: bytes) -> None:
        self.outs(DATA, data, 2)

    def address28(self, lba: int, count: int, unit: int = 0) -> None:
        self.outb(DEVICE, 0xE0 | unit << 4 | lba >> 24)
        self.outb(COUNT, count & 0xFF)
        self.outb(LOW, lba & 0xFF)
        self.outb(MID, lba >> 8 & 0xFF)
        self.outb(HIGH, lba >> 16 & 0xFF)

    def address48(self, lba: int, count: int, unit: int = 0) -> None:
        self.outb(DEVICE, 0x40 | unit << 4)
        for shift in (True, False):  # the high halves first, then the low ones
            self.outb(COUNT, count >> 8 * shift & 0xFF)
            self.outb(LOW, lba >> 24 * shift & 0xFF)
            self.outb(MID, lba >> 24 * shift + 8 & 0xFF)
            self.outb(HIGH, lba >> 24 * shift + 16 & 0xFF)

    def chs(self, cylinder: int, head: int, sector: int, count: int) -> None:
        self.outb(DEVICE, 0xA0 | head)
        self.outb(COUNT, count & 0xFF)
        self.outb(LOW, sector)
        self.outb(MID, cylinder & 0xFF)
        self.outb(HIGH, cylinder >> 8)

    def run(self, command: int, features: int | None = None, count: int | None = None) -> int:
        """Give a command and return the Status register, which takes the interrupt back."""
        if features is not None:
            self.outb(FEATURES, features)
        if count is not None:
            self.outb(COUNT, count)
        self.outb(COMMAND, command)
        return self.inb(STATUS)

    def registers(self) -> tuple[int, ...]:
        """Count, LBA low, mid, high."""
        return tuple(self.inb(port) for port in (COUNT, LOW, MID, HIGH))

    def identify(self) -> list[int]:
        assert self.run(0xEC) == 0x58
        data = self.insw(256)
        assert self.inb(STATUS) == 0x50
        return [int.from_bytes(data[at : at + 2], "little") for at in range(0, 512, 2)]


IMPLEMENTED = {
    0x20, 0x21, 0x24, 0x27, 0x29, 0x30, 0x31, 0x34, 0x39, 0x40, 0x41, 0x42, 0x70, 0x90, 0x91, 0xC4, 0xC5, 0xC6, 0xE5,
    0xE7, 0xEA, 0xEC, 0xEF, 0xF8, *range(0x10, 0x20), *range(0xE0, 0xE4), 0xE6, *range(0x94, 0x9A),
}  # fmt: skip
