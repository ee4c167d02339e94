"""The base of all devices, the interrupt line, and the device that is one function."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.device import Access, Device, FunctionDevice, IrqLine, Range


@given(st.lists(st.booleans()))
def test_a_line_tells_changes_and_nothing_else(levels: list[bool]) -> None:
    heard: list[bool] = []
    line = IrqLine(heard.append)
    for level in levels:
        line.set(level)
    expected = [now for before, now in zip([False, *levels], levels, strict=False) if now != before]
    assert heard == expected
    assert line.level == (levels[-1] if levels else False)


@pytest.mark.parametrize(("before", "heard"), [(False, [True, False]), (True, [False, True, False])])
def test_a_pulse_is_one_rising_edge(before: bool, heard: list[bool]) -> None:
    moves: list[bool] = []
    line = IrqLine(moves.append)
    line.set(before)
    moves.clear()
    line.pulse()
    assert moves == heard
    assert not line.level


def test_a_range_has_an_end() -> None:
    assert Range(0x1F0, 8).end == 0x1F8


def test_a_device_that_overrides_nothing_is_an_empty_slot() -> None:
    device = Device()
    assert [device.read(0, size) for size in (1, 2, 4, 8)] == [0xFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF]
    device.write(0, 1, 1)
    device.reset()
    device.restore(device.save())
    assert device.read_block(0, 2, 3) == b"\xff" * 6


class Counter(Device):
    """Gives 1, 2, 3 and so on."""

    def __init__(self) -> None:
        self.count = 0
        self.written: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.count += 1
        return self.count

    def write(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


def test_blocks_are_served_item_by_item() -> None:
    device = Counter()
    assert device.read_block(3, 2, 3) == b"\1\0\2\0\3\0"
    assert device.read_block(3, 4, 0) == b""
    device.write_block(3, 2, b"\x34\x12\x78\x56")
    assert device.written == [(3, 2, 0x1234), (3, 2, 0x5678)]


def test_a_function_is_given_each_access() -> None:
    seen: list[Access] = []

    def answers(access: Access) -> int | None:
        seen.append(access)
        return {0: 0x1234, 1: None, 2: -1}[access.offset]

    device = FunctionDevice(answers, ports=(Range(0xD0, 3),))
    assert device.name == "answers"
    assert device.read(0, 1) == 0x34
    assert device.read(0, 2) == 0x1234
    assert device.read(1, 4) == 0xFFFFFFFF
    assert device.read(2, 2) == 0xFFFF
    device.write(1, 1, 0)
    assert [access.is_write for access in seen] == [False, False, False, False, True]
    assert seen[-1] == Access(1, 1, 0)


def test_functions_take_the_widest_access_that_there_is() -> None:
    assert FunctionDevice(lambda access: None, ports=(Range(0, 1),)).width == 4
    assert FunctionDevice(lambda access: None, mmio=(Range(0, 1),)).width == 8
