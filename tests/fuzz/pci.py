"""PCI cards: any configuration and any access; and virtio cards, whose queues a driver fills with anything.

What must hold is what must hold for every device (see `devices`), and: nothing but the bytes of a buffer that the driver
has offered is written, which the guest memory's own check stands for. RAM may change at every check, as it does under a
driver on another CPU.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

from pci_rig import RAM, Board
from virtio_rig import DATA, RINGS, SLOT, Driver

from pykvm.devices.pci.card import PciDevice
from pykvm.devices.teaching import Teaching
from pykvm.devices.virtio.block import VirtioBlock
from pykvm.devices.virtio.rng import VirtioRng
from pykvm.devices.virtio.transport import VirtioDevice
from pykvm.disk.memory import MemoryDisk
from pykvm.snapshot import plain

from .devices import STATE_LIMIT, amount
from .state import changed
from .target import Input, Random, Target, number

CONFIG, WRITE, READ, DESCRIBE, OFFER, POKE, NOTIFY, RESET, SAVE, DAMAGE, RACE = range(11)
_SIZES = (1, 2, 4, 4, 8)


def _check_state(card: PciDevice, damage: int | None = None) -> None:
    state = plain.loads(plain.dumps(card.save()))
    assert amount(state) < STATE_LIMIT
    if damage is None:
        card.restore(state)
        assert card.save() == state
        return
    with suppress(ValueError):
        card.restore(changed(state, Random(damage)))


class Cards(Target):
    """(CONFIG, register, size, value), (WRITE or READ, BAR, offset, size, value), and what happens from outside."""

    name = "pci-teaching"
    unit = "operations"
    alone = False

    def draw(self, source: Random) -> list[Input]:
        return [self._operation(source) for _ in range(400)]

    def _operation(self, source: Random) -> Input:
        match source.randrange(12):
            case 0 | 1:
                at = source.choice((4, 4, 0x10, 0x14, 0x18, source.randrange(64) * 4))
                return CONFIG, at, source.choice((1, 2, 4)), source.choice((6, 7, number(source, 32)))
            case 2:
                return source.choice(((RESET,), (SAVE,), (DAMAGE, source.getrandbits(64))))
        kind = source.choice((WRITE, WRITE, READ))
        offset = source.choice((source.randrange(0x60), source.randrange(0x1000)))
        return kind, source.randrange(3), offset, source.choice(_SIZES), number(source, 64)

    def run(self, inputs: Iterator[Input]) -> None:
        card = Teaching()
        board = Board(card)
        try:
            for kind, *given in inputs:
                if kind == CONFIG:
                    at, size, value = given
                    board.configure(SLOT, at, value & (1 << 8 * size) - 1, size)
                elif kind in (WRITE, READ):
                    bar, offset, size, value = given
                    if bar < len(card.mmio):
                        address = card.mmio[bar].base + offset % card.mmio[bar].length
                        if kind == READ:
                            assert 0 <= board.read(address, size) < 1 << 8 * size
                        else:
                            board.write(address, value & (1 << 8 * size) - 1, size)
                elif kind == RESET:
                    card.reset()
                else:
                    _check_state(card, *given)
        finally:
            board.close()


class Virtio(Target):
    """(DESCRIBE, at, gpa, size, flags, next), (OFFER, head), (POKE, address, bytes), (NOTIFY, queue), accesses to BAR 0,
    and what happens from outside; (RACE, address, bytes) is put into RAM at each check until the next one."""

    unit = "operations"
    alone = False

    def __init__(self, name: str, make: Callable[[], VirtioDevice]) -> None:
        self.name, self._make = f"virtio-{name}", make

    def draw(self, source: Random) -> list[Input]:
        return [self._operation(source) for _ in range(300)]

    def _operation(self, source: Random) -> Input:
        address = source.choice((DATA + source.randrange(0x1000), RAM - source.randrange(64), number(source, 64)))
        match source.randrange(16):
            case 0 | 1 | 2 | 3:
                where = source.choice((DATA, DATA + 0x100, address, RINGS + 0x1000))
                size = source.choice((1, 16, 16, 32, 512, 4096, number(source, 32)))
                flags = source.choice((0, 1, 1, 2, 3, 4, source.getrandbits(16)))
                return DESCRIBE, source.randrange(8), where, size, flags, source.choice((1, 2, source.randrange(9)))
            case 4 | 5 | 6:
                return OFFER, source.choice((0, 0, source.randrange(9)))
            case 7:
                kind = source.choice((0, 1, 4, 8, 13, source.randrange(20)))
                header = struct.pack("<IIQ", kind, 0, source.choice((0, 1, number(source, 64))))
                return POKE, source.choice((DATA, DATA, RINGS + 0x1000)), header
            case 8:
                return POKE, RINGS + source.choice((0x1000, 0x2000, 0x3000)) + source.randrange(64), source.randbytes(4)
            case 9 | 10 | 11:
                return NOTIFY, source.randrange(3)
            case 12:
                offset = source.choice((source.randrange(0x40), 0x1000, 0x2000 + source.randrange(64)))
                return source.choice((READ, WRITE)), offset, source.choice(_SIZES), number(source, 64)
            case 13:
                at = RINGS + source.choice((0, 0x1000, 0x2000)) + source.randrange(0x80)
                return RACE, at, source.choice((b"", source.randbytes(16), b"\xff" * 16))
            case 14 if not source.randrange(4):
                return source.choice(((RESET,), (SAVE,), (DAMAGE, source.getrandbits(64))))
        return (SAVE,)

    def run(self, inputs: Iterator[Input]) -> None:
        card = self._make()
        driver = Driver(card)
        memory, inner = driver.memory, driver.memory.offset
        race: list[tuple[int, bytes]] = []

        def offset(gpa: int, size: int) -> int:
            at = inner(gpa, size)
            for where, data in race:
                memory.map[where : where + len(data)] = data
            return at

        memory.offset = offset  # type: ignore[method-assign]
        try:
            for kind, *given in inputs:
                if kind == DESCRIBE:
                    at, gpa, size, flags, following = given
                    driver.describe(at, gpa, size, flags, following)
                elif kind == OFFER:
                    driver.available(given[0])
                elif kind == POKE:
                    memory.write(*given)
                elif kind == RACE:
                    race[:] = [(given[0], given[1])]
                elif kind == NOTIFY:
                    driver.notify(given[0])
                elif kind == READ:
                    assert 0 <= driver.board.read(driver.common + given[0], given[1]) < 1 << 8 * given[1]
                elif kind == WRITE:
                    at, size, value = given
                    driver.board.write(driver.common + at, value & (1 << 8 * size) - 1, size)
                elif kind == RESET:
                    driver.negotiate()
                else:
                    _check_state(card, *given)
        finally:
            driver.close()


def targets() -> list[Target]:
    return [
        Cards(),
        Virtio("rng", VirtioRng),
        Virtio("block", lambda: VirtioBlock("disk", MemoryDisk(bytes(64 << 10)), queues=2)),
    ]
