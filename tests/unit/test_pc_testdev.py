"""QEMU's pc-testdev, as its source has it."""

from __future__ import annotations

import pytest
from device_rig import Line

from pykvm.bus import MmioBus, PortBus
from pykvm.devices.pc_testdev import PcTestdev, PcTestdevMemory


def test_register_by_bytes_words_and_whole() -> None:
    bus = PortBus()
    bus.attach(PcTestdev([Line() for _ in range(24)]))
    bus.write(0xE0, 4, 0x12345678)
    assert [bus.read(0xE0 + at, 1) for at in range(4)] == [0x78, 0x56, 0x34, 0x12]
    bus.write(0xE1, 1, 0xAB)
    bus.write(0xE2, 2, 0xCDEF)
    assert bus.read(0xE0, 4) == 0xCDEFAB78
    bus.write(0xE4, 4, 0x1000)
    assert (bus.read(0xE0, 4), bus.read(0xE4, 4)) == (0xCDEFAB78, 0xFFFFFFFF)


def test_inputs_have_the_levels_that_are_written() -> None:
    lines, bus = [Line() for _ in range(24)], PortBus()
    device = PcTestdev(lines)
    bus.attach(device)
    bus.write(0x2000 + 5, 1, 1)
    bus.write(0x2000 + 23, 1, 0x80)
    assert [number for number, line in enumerate(lines) if line.level] == [5, 23]
    other_lines = [Line() for _ in range(24)]
    other = PcTestdev(other_lines)
    state = device.save()
    other.restore(state)
    assert other.save() == state
    assert [line.level for line in other_lines] == [line.level for line in lines]
    bus.write(0x2000 + 5, 1, 0)
    assert lines[5].edges == [True, False]
    device.reset()
    assert not any(line.level for line in lines)
    for change in ({"value": 1 << 32}, {"levels": [False]}, {"levels": [0] * 24}):
        with pytest.raises(ValueError, match="pc-testdev"):
            device.restore({**state, **change})


def test_memory_of_a_device() -> None:
    device, bus = PcTestdevMemory(), MmioBus()
    bus.attach(device)
    bus.write(0xFF000000, 8, 0x0123456789ABCDEF)
    bus.write(0xFF00FFFF, 1, 0x5A)
    assert (bus.read(0xFF000002, 4), bus.read(0xFF00FFFF, 1)) == (0x456789AB, 0x5A)
    assert [bus.read(0xFF000000 + at, 1) for at in (0, 7)] == [0xEF, 0x01]
    other = PcTestdevMemory()
    other.restore(device.save())
    assert other.save() == device.save()
    for content in (b"x" * 0x10001, None):
        with pytest.raises(ValueError, match="memory"):
            device.restore({"content": content})
    device.reset()
    assert device.save() == {"content": b""}
