"""Chips of the PC that come to life when a guest uses them: how they go along with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import LIMIT

from pykvm import Ending, Machine, Snapshot
from pykvm.snapshot.trigger import Moment, snapshot_at

Guest = Callable[[str], Path]


@pytest.mark.parametrize(("text", "configuration"), [(b"kHz", 0), (b"than periods", 3)])
def test_hpet_in_place_of_the_pit_goes_along_in_a_snapshot(guest: Guest, text: bytes, configuration: int) -> None:
    taken: list[Snapshot] = []
    with Machine(guest("hpet")) as machine:
        with machine.lock:
            snapshot_at(machine, Moment(text), taken.append)
        assert machine.run(LIMIT).ending is Ending.EXITED
        whole = machine.serial.output
        (snapshot,) = taken
        assert snapshot.devices["HPET at 0xfed00000"]["configuration"] == configuration
        machine.restore(snapshot)
        assert machine.run(LIMIT).ending is Ending.EXITED
        assert machine.serial.output == whole
    with snapshot.fork() as fork:
        assert fork.run(LIMIT).ending is Ending.EXITED
        assert fork.serial.output == whole
    assert whole.endswith(b"hpet: the PIT is back\n")


def test_who_does_not_use_the_hpet_has_none(guest: Guest) -> None:
    with Machine(guest("hello64")) as machine:
        machine.run(LIMIT)
        state = machine.snapshot()
    assert [state.devices[name] for name in state.devices if name.startswith(("HPET", "BIOS"))] == [{}, {}]
