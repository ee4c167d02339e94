"""The state of an ATA channel: saved in the middle of things, and hostile."""

from __future__ import annotations

import pytest
from ata_rig import COMMAND, CONTROL, HOB, IMPLEMENTED, NIEN, STATUS, MemoryDisk, Pc, pattern
from hypothesis import given, settings
from hypothesis import strategies as st


def test_save_and_restore_in_the_middle_of_a_read() -> None:
    first = Pc(MemoryDisk(5000), MemoryDisk(100))
    first.run(0xC6, count=4)
    first.address48(1000, 6)
    first.outb(COMMAND, 0x29)
    first.insw(3)
    second = Pc(MemoryDisk(5000), MemoryDisk(100))
    first.save_into(second)
    assert second.irq.level
    assert second.inb(STATUS) == 0x58
    assert second.insw(6 * 256) == b"".join(map(pattern, range(1000, 1006)))[6:] + bytes(6)
    assert second.inb(STATUS) == 0x50


def test_save_and_restore_in_the_middle_of_a_write() -> None:
    first = Pc(None, MemoryDisk(5000))
    first.address28(7, 2, unit=1)
    first.run(0x30)
    first.outsw(b"a" * 700)
    first.outb(CONTROL, NIEN | HOB)
    disk = MemoryDisk(5000)
    second = Pc(None, disk)
    second.device.restore(first.device.save())
    first.outsw(b"c" * 512)
    second.outsw(b"b" * 324)
    assert disk.sectors == {8: b"a" * 188 + b"b" * 324}
    assert second.edges == [], "nIEN is part of the state"
    assert second.inb(STATUS) == 0x50


def test_restore_refuses_another_channels_state() -> None:
    one, two = Pc(MemoryDisk(10)), Pc(MemoryDisk(10), MemoryDisk(10))
    for target, state in ((one, two.device.save()), (two, one.device.save()), (one, {})):
        target.refuses(state, "ide0")
    one.refuses(Pc(MemoryDisk(11)).device.save(), "11 sectors")


@pytest.mark.parametrize(
    "change",
    [
        {"reading": b""}, {"reading": bytes(511)}, {"reading": bytes(17 * 512)}, {"reading": bytearray(512)},
        {"writing": bytes(512)}, {"writing": None}, {"current": bytes(6)}, {"previous": [0] * 7}, {"position": 512},
        {"status": 0x50}, {"status": 0xD0}, {"lba": 5001}, {"limit": 5001}, {"limit": 100}, {"remaining": 65537},
        {"block": 0}, {"block": 17}, {"multiple": 3}, {"multiple": 32}, {"heads": 0}, {"sectors": 0}, {"cylinders": 5},
        {"power": 7}, {"pending": 2}, {"pending": True}, {"error": 256}, {"extended": -1}, {"total": 4999},
        {"reading": b"", "writing": bytes(512), "lba": 0}, {"reading": b"", "position": 1, "status": 0x50},
    ],
)  # fmt: skip
def test_restore_refuses_contradictions(change: dict[str, object]) -> None:
    pc = Pc(MemoryDisk(5000))  # 4 cylinders of 16 heads and 63 sectors
    pc.address28(100, 3)
    pc.outb(COMMAND, 0x20)
    state = pc.device.save()
    state["drives"][0].update(change)
    pc.refuses(state, "ATA")


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 1 << 64),
    st.sampled_from([0, 1, 16, 255, 256, 511, 512, 0x50, 0x51, 0x58, 0x71, 4999, 5000]),
    st.binary(max_size=8),
    st.sampled_from([b"", bytes(7), bytes(512), bytes(1024), bytes(8192)]),
    st.lists(st.integers(), max_size=2),
)
ACCESSES = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(st.sampled_from([*range(0x1F0, 0x1F8), 0x3F6]), st.just(0x1F7)),
        st.sampled_from([1, 2, 4, 8]),
        st.one_of(st.integers(0, 255), st.sampled_from(sorted(IMPLEMENTED)), st.integers(0, (1 << 64) - 1)),
        st.sampled_from([0, 0, 0, 1, 300, 5000]),
    ),
    max_size=40,
)


def exercise(pc: Pc, accesses: list[tuple[bool, int, int, int, int]]) -> None:
    """Do whatever accesses; a block where `count` is not 0. All values must fit their width."""
    for write, port, size, number, count in accesses:
        value = number & (1 << 8 * size) - 1
        if write and count:
            pc.bus.write_block(port, size, value.to_bytes(size, "little") * count)
        elif write:
            pc.bus.write(port, size, value)
        elif count:
            assert len(pc.bus.read_block(port, size, count)) == size * count
        else:
            assert 0 <= pc.bus.read(port, size) < 1 << 8 * size
    state = pc.device.save()
    level = pc.irq.level
    pc.device.restore(state)
    assert pc.device.save() == state
    assert pc.irq.level == level


@given(ACCESSES, st.sampled_from([(5000, None), (5000, 3), (None, 5000), (None, None)]), st.booleans())
@settings(max_examples=150)
def test_no_sequence_of_accesses_raises(
    accesses: list[tuple[bool, int, int, int, int]], sizes: tuple[int | None, int | None], read_only: bool
) -> None:
    disks = [None if size is None else MemoryDisk(size, read_only) for size in sizes]
    for disk in disks:
        if disk is not None:
            disk.bad = {2, 77}
    exercise(Pc(*disks), accesses)


@given(
    st.dictionaries(st.sampled_from(sorted(Pc(MemoryDisk(1)).device.save()["drives"][0])), JUNK, max_size=3), ACCESSES
)
@settings(max_examples=150)
def test_restore_of_a_hostile_state_raises_value_error_or_is_harmless(
    junk: dict[str, object], accesses: list[tuple[bool, int, int, int, int]]
) -> None:
    for command in (0x20, 0x30):
        pc = Pc(MemoryDisk(5000))
        pc.address28(100, 3)
        pc.outb(COMMAND, command)
        state = pc.device.save()
        state["drives"][0].update(junk)
        if pc.takes(state):
            exercise(pc, accesses)


@pytest.mark.parametrize("junk", [None, -1, 2, 0x08, "0", [], [None, None], [{}], [{}, {}], [{}, None]])
@pytest.mark.parametrize("field", ["control", "unit", "drives"])
def test_restore_of_a_hostile_channel_state(field: str, junk: object) -> None:
    pc = Pc(MemoryDisk(10))
    state = pc.device.save()
    state[field] = junk
    if (field, junk) == ("control", 2):
        pc.device.restore(state)  # nIEN
        return
    pc.refuses(state, r"ide0|ATA state")
