"""The BIOS's services, over real devices: any function with any registers, over memory of any content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from bios_calls import FRAME, GENERAL, Pc

from pykvm.bios.disk import floppy, hard_disk
from pykvm.bios.rom import EXCEPTIONS, SERVICES, TRAP_PORT
from pykvm.disk.memory import MemoryDisk
from pykvm.snapshot import plain

from .devices import STATE_LIMIT, amount
from .state import changed
from .target import Input, Random, Target, number

CALL, TRAP, POKE, KEY, PASS, SAVE, DAMAGE, RESET = range(8)


class Services(Target):
    """(CALL, vector, registers...), (TRAP, size, address), (POKE, address, bytes), and what happens meanwhile."""

    name = "device-bios"
    unit = "operations"
    alone = False

    def draw(self, source: Random) -> list[Input]:
        pool = [self._operation(source) for _ in range(120)]
        return [(POKE, 0x44A, b"\x50\0"), *source.choices(pool, k=120)]

    def _operation(self, source: Random) -> Input:
        match source.randrange(24):
            case 0:
                return TRAP, source.choice((1, 2, 4)), source.choice((FRAME, 0xFFFFF, 0x1FFFF0, number(source, 32)))
            case 1 | 2:
                at = source.choice((0x400 + source.randrange(0x100), source.randrange(0x100000), 0x20000))
                return POKE, at, source.choice((source.randbytes(16), b"\n" * 256, b"\xff\xff", b"\0"))
            case 3:
                return KEY, source.randrange(1, 0x80)
            case 4:
                return PASS, source.choice((0, 1000, 10**7, 10**10))
            case 5:
                return (SAVE,)
            case 6 if not source.randrange(3):
                return DAMAGE, source.getrandbits(64)
            case 7 if not source.randrange(6):
                return (RESET,)
        vector = source.choice(
            (*SERVICES, *EXCEPTIONS, 0x09, 0x10, 0x13, 0x14, 0x15, 0x16, 0x1A, source.randrange(0x100))
        )
        registers = [number(source, 32) & source.choice((0xFFFFFFFF, 0xFFFF, 0xFF)) for _ in GENERAL]
        if source.randrange(4):
            registers[-1] = source.choice(
                (source.randrange(0x20), source.randrange(0x50), source.randrange(0xF0))
            ) << 8 | source.choice((0, 1, 3, 0x13, 0xFF, 0x20))
            registers[-2] &= source.choice((0xFF, 7, 0xFFFF))  # ECX: how often
        segments = (
            source.choice((0, 0xB800, 0x2000, 0xFFFF, number(source, 16))),
            source.choice((0, 0x60, 0xFFFF, number(source, 16))),
        )
        return CALL, vector, source.getrandbits(8), *segments, *registers

    def run(self, inputs: Iterator[Input]) -> None:
        drives = [
            floppy(0, MemoryDisk(bytes(1440 << 10))),
            hard_disk(0, MemoryDisk(bytes(510) + b"\x55\xaa" + bytes(1 << 20))),
        ]
        pc = Pc(drives)
        bios, memory = pc.bios, pc.memory
        try:
            for kind, *given in inputs:
                if kind == CALL:
                    vector, waited, es, ds, *registers = given
                    named = dict(zip(GENERAL, registers, strict=True))
                    pc.call(vector, es=es, ds=ds, waited=waited & 1, **named)
                    pc.resets.clear()
                    pc.exceptions.clear()
                elif kind == TRAP:
                    pc.bus.write(TRAP_PORT, given[0], given[1] & (1 << 8 * given[0]) - 1)
                elif kind == POKE:
                    memory.write(*given)
                elif kind == KEY:
                    pc.key_codes(given[0])
                elif kind == PASS:
                    pc.time += given[0]
                elif kind == RESET:
                    bios.reset()
                else:
                    state = bios.save()
                    assert amount(state) < STATE_LIMIT
                    if kind == DAMAGE:
                        with suppress(ValueError):
                            bios.restore(changed(Random(given[0]), state))
                            state = bios.save()
                    bios.restore(plain.loads(plain.dumps(state)))
                    assert bios.save() == state
        finally:
            memory.close()


def targets() -> list[Target]:
    return [Services()]
