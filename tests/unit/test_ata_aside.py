"""An ATA disk whose backend takes its time: ATA/ATAPI-6 6.x and 8.11 (FLUSH CACHE), BSY, resets and snapshots meanwhile."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from device_rig import Line, Rig
from hypothesis import given
from hypothesis import strategies as st

from pykvm.device import State
from pykvm.devices.ata import PRIMARY, AtaChannel
from pykvm.devices.ata_drive import VERIFY_AT_ONCE
from pykvm.disk.memory import MemoryDisk

SECTOR = 512
DATA, ERROR, FEATURES, COUNT, LOW, MID, HIGH, DEVICE, STATUS, COMMAND = 0, 1, 1, 2, 3, 4, 5, 6, 7, 7
CONTROL = ALTERNATE = PRIMARY[1] - PRIMARY[0]
BSY, READY, READY_ERR, DRQ, SRST = 0x80, 0x50, 0x51, 0x58, 0x04
ABRT, IDNF = 0x04, 0x10
FLUSH, FLUSH_EXT, SET_FEATURES, WRITE, IDENTIFY, VERIFY_EXT, DIAGNOSE = 0xE7, 0xEA, 0xEF, 0x30, 0xEC, 0x42, 0x90


class SlowDisk(MemoryDisk):
    """Counts flushes, which fail while `broken`, and keeps the largest read."""

    def __init__(self, sectors: int) -> None:
        super().__init__(bytes(sectors * SECTOR))
        self.flushes = 0
        self.broken = False
        self.read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        self.read += length // SECTOR
        return super().read_at(offset, length)

    def flush(self) -> None:
        self.flushes += 1
        if self.broken:
            raise OSError(errno.EIO, "worn out")


class Pc(Rig[AtaChannel]):
    """A channel whose work is done aside when the test says so: `host` does one thing and reports it back."""

    def __init__(self, disk: SlowDisk | None = None, slave: SlowDisk | None = None) -> None:
        self.disk = disk or SlowDisk(64)
        irq = Line()
        self.aside: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        channel = AtaChannel(
            "ide0", *PRIMARY, irq, self.disk, slave, lambda work, done: self.aside.append((work, done))
        )
        super().__init__(channel, irq, base=PRIMARY[0])

    def host(self) -> None:
        (work, done), *_ = self.aside
        del self.aside[0]
        done(work())

    def command(self, code: int, features: int = 0, count: int = 1, lba: int = 0) -> int:
        """Give a command with an address, for either kind of them: the alternate status right after it."""
        self.outb(DEVICE, 0x40)
        for register, value in ((FEATURES, features), (COUNT, count), (LOW, lba), (MID, 0), (HIGH, 0)):
            self.outb(register, value >> 8)
            self.outb(register, value & 0xFF)
        self.outb(COMMAND, code)
        return self.inb(ALTERNATE)

    def status(self) -> int:
        return self.inb(STATUS)


@pytest.mark.parametrize("code", [FLUSH, FLUSH_EXT])
def test_a_disk_is_busy_while_the_host_flushes(code: int) -> None:
    pc = Pc()
    assert pc.command(code) == BSY
    assert (pc.status(), pc.irq.level, pc.disk.flushes) == (BSY, False, 0)
    pc.host()
    assert (pc.disk.flushes, pc.irq.level) == (1, True)
    assert (pc.status(), pc.irq.level) == (READY, False)


def test_a_flush_that_fails_is_an_abort() -> None:
    pc = Pc()
    pc.disk.broken = True
    pc.command(FLUSH)
    pc.host()
    assert pc.irq.level
    assert (pc.status(), pc.inb(ERROR)) == (READY_ERR, ABRT)


def test_what_is_written_to_a_busy_disk_is_ignored() -> None:
    pc = Pc(slave=SlowDisk(8))
    before = [pc.inb(register) for register in range(COUNT, STATUS)]
    pc.outb(COMMAND, FLUSH)
    for register in range(1, 8):
        pc.outb(register, 0xB0 if register == DEVICE else IDENTIFY if register == COMMAND else 0x33)
    pc.outb(COMMAND, DIAGNOSE)
    assert pc.status() == BSY
    assert pc.ins(DATA, 4, 2) == bytes(8)
    pc.outs(DATA, b"12345678", 2)
    pc.host()
    assert pc.status() == READY
    assert [pc.inb(register) for register in range(COUNT, STATUS)] == before
    assert not pc.aside


def test_a_reset_ends_a_flush_and_the_next_waits_for_it() -> None:
    pc = Pc()
    pc.command(FLUSH)
    pc.outb(CONTROL, SRST)
    assert pc.status() == BSY, "while SRST is set"
    pc.outb(CONTROL, 0)
    assert (pc.status(), pc.inb(ERROR)) == (READY, 1)
    assert pc.command(FLUSH) == BSY
    assert len(pc.aside) == 1, "the host does one thing at a time for a disk, however often a guest asks"
    pc.host()
    assert (pc.status(), pc.disk.flushes, pc.irq.level) == (BSY, 1, False)
    pc.host()
    assert (pc.irq.level, pc.status(), pc.disk.flushes) == (True, READY, 2)
    assert not pc.aside


def test_a_reset_alone_hears_nothing_of_the_flush_that_it_ended() -> None:
    pc = Pc()
    pc.command(FLUSH)
    pc.device.reset()
    pc.host()
    assert (pc.status(), pc.irq.level, pc.device.moved_by_host) == (READY, False, False)


@pytest.mark.parametrize("broken", [False, True])
def test_a_write_without_the_cache_is_over_when_it_is_flushed(broken: bool) -> None:
    pc = Pc()
    assert pc.command(SET_FEATURES, features=0x82) == BSY
    pc.host()
    assert pc.status() == READY
    pc.disk.broken = broken
    assert pc.command(WRITE, count=2, lba=5) == DRQ
    pc.outs(DATA, b"a" * SECTOR, 2)
    assert pc.status() == DRQ
    pc.outs(DATA, b"b" * SECTOR, 2)
    assert (pc.inb(ALTERNATE), pc.irq.level) == (BSY, False)
    pc.host()
    assert pc.irq.level
    assert pc.disk.read_at(5 * SECTOR, 2 * SECTOR) == b"a" * SECTOR + b"b" * SECTOR
    if broken:
        assert pc.status() == READY_ERR | 0x20
        assert (pc.inb(ERROR), pc.inb(LOW)) == (ABRT, 6)
    else:
        assert pc.status() == READY


@pytest.mark.parametrize(("count", "status"), [(0, READY_ERR), (0x1F00, READY), (0x2001, READY_ERR)])
def test_a_long_range_is_verified_in_parts(count: int, status: int) -> None:
    """65,536 sectors are more than the disk has: it fails at its end, as at once."""
    pc = Pc(SlowDisk(0x2000))
    parts = 1
    pc.command(VERIFY_EXT, count=count)
    while pc.aside:
        assert pc.disk.read <= parts * VERIFY_AT_ONCE
        assert (pc.status(), pc.irq.level) == (BSY, False)
        parts += 1
        pc.host()
    assert (pc.irq.level, pc.status()) == (True, status)
    if status == READY_ERR:
        assert (pc.inb(ERROR), pc.inb(MID)) == (IDNF, 0x20)
    assert parts == -(-min(count or 0x10000, 0x2000) // VERIFY_AT_ONCE)


@pytest.mark.parametrize("start", ["flush", "write", "verify"])
def test_a_snapshot_while_a_disk_is_busy_goes_on_where_it_was(start: str) -> None:
    def begin(pc: Pc) -> None:
        if start == "flush":
            pc.command(FLUSH)
        elif start == "write":
            pc.command(SET_FEATURES, features=0x82)
            pc.host()
            pc.command(WRITE)
            pc.outs(DATA, b"x" * SECTOR, 2)
        else:
            pc.command(VERIFY_EXT, count=0x1000)

    pc, other = Pc(SlowDisk(0x2000)), Pc(SlowDisk(0x2000))
    begin(pc)
    state = pc.device.save()
    other.device.restore(state)
    assert other.device.save() == state
    for each in (pc, other, pc):
        assert each.inb(ALTERNATE) == BSY
        while each.aside:
            each.host()
        assert each.device.moved_by_host
        assert (each.irq.level, each.status()) == (True, READY)
        each.device.restore(state)  # back to when it was busy: it is done again
        assert not each.device.moved_by_host
        assert (each.irq.level, each.device.save()) == (False, state)


def test_going_back_while_the_host_is_busy_does_not_mix_two_lives() -> None:
    pc = Pc()
    idle = pc.device.save()
    pc.command(FLUSH)
    busy = pc.device.save()
    pc.device.restore(idle)
    pc.device.restore(busy)
    assert len(pc.aside) == 1
    pc.host()
    assert pc.device.save() == busy, "that was the old life's flush"
    pc.host()
    assert pc.status() == READY


HOSTILE: list[State] = [
    {"task": 4},
    {"task": -1},
    {"task": True},
    {"task": 1},
    {"status": BSY},
    {"task": 1, "status": BSY, "pending": 1},
    {"task": 3, "status": BSY, "reading": bytes(SECTOR)},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_a_hostile_state_is_refused(change: State) -> None:
    pc = Pc()
    state = pc.device.save()
    pc.refuses({**state, "drives": [{**state["drives"][0], **change}, None]}, "ATA state")


ACCESSES = st.one_of(
    st.tuples(st.just("write"), st.sampled_from([*range(1, 8), CONTROL]), st.integers(0, 0xFF)),
    st.tuples(
        st.just("write"), st.just(COMMAND), st.sampled_from([FLUSH, FLUSH_EXT, WRITE, IDENTIFY, VERIFY_EXT, 0x20, 0xC4])
    ),
    st.tuples(st.just("write"), st.just(FEATURES), st.sampled_from([0x02, 0x82])),
    st.tuples(st.just("in"), st.just(DATA), st.integers(1, 600)),
    st.tuples(st.just("out"), st.just(DATA), st.integers(1, 600)),
    st.tuples(st.sampled_from(["host", "back", "break"]), st.just(0), st.just(0)),
)


@given(st.lists(ACCESSES, max_size=60))
def test_any_accesses_while_the_host_is_slow(accesses: list[tuple[str, int, int]]) -> None:
    """At most one thing a disk is set aside, every state comes back, and a reset always brings the disks to idle."""
    pc = Pc(SlowDisk(0x3000), SlowDisk(16))
    for kind, register, value in accesses:
        if kind == "write":
            pc.outb(register, value)
        elif kind == "in":
            pc.ins(DATA, value, 2)
        elif kind == "out":
            pc.outs(DATA, bytes(2 * value), 2)
        elif kind == "break":
            pc.disk.broken = not pc.disk.broken
        elif kind == "back":
            state = pc.device.save()
            pc.device.restore(state)
            assert pc.device.save() == state
        elif pc.aside:
            pc.host()
        assert len(pc.aside) <= 2
    for control in (SRST, 0):
        pc.outb(CONTROL, control)
    assert pc.status() == READY
    while pc.aside:
        pc.host()
    assert (pc.status(), pc.irq.level) == (READY, False)
