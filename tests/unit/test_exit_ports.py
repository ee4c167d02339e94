"""The debug exit, debug console and shutdown ports, through the bus as a guest meets them."""

from __future__ import annotations

from typing import Any

import pytest
from device_rig import Rig, bus_with
from hypothesis import given, settings
from hypothesis import strategies as st

from pykvm.devices.exit_ports import DebugConsole, DebugExit, ShutdownPort


@pytest.mark.parametrize(("port", "size", "value"), [(0xF4, 1, 0x10), (0xF4, 4, 0xDEADBEEF), (0xF6, 2, 0x1234)])
def test_debug_exit_gives_the_value_of_any_write(port: int, size: int, value: int) -> None:
    exits: list[int] = []
    bus_with(DebugExit(exits.append)).write(port, size, value)
    assert exits == [value]


def test_debug_exit_reads_zero_and_does_not_exit() -> None:
    exits: list[int] = []
    assert bus_with(DebugExit(exits.append)).read(0xF4, 4) == 0
    assert exits == []


def test_debug_exit_where_pintos_has_it() -> None:
    exits: list[int] = []
    bus = bus_with(DebugExit(exits.append, base=0x501, length=2))
    bus.write(0x501, 1, 0x31)
    assert exits == [0x31]
    assert bus.find(0x503) is None


def test_debug_exit_of_one_port_takes_the_low_byte() -> None:
    exits: list[int] = []
    bus = bus_with(DebugExit(exits.append, length=1))
    bus.write(0xF4, 4, 0x11223344)
    assert exits == [0x44]


def test_two_debug_exits_in_one_machine() -> None:
    exits: list[int] = []
    bus = bus_with(DebugExit(exits.append), DebugExit(exits.append, base=0x501, length=2))
    bus.write(0xF4, 1, 1)
    bus.write(0x501, 1, 2)
    assert exits == [1, 2]


def test_debug_console_is_found_and_prints() -> None:
    printed: list[bytes] = []
    bus = bus_with(DebugConsole(printed.append))
    assert bus.read(0xE9, 1) == 0xE9
    bus.write(0xE9, 1, ord("a"))
    bus.write_block(0xE9, 1, b"hello\n")
    assert printed == [b"a", b"hello\n"]


def test_debug_console_at_another_port_still_reads_e9() -> None:
    bus = bus_with(DebugConsole(lambda data: None, port=0x402))
    assert bus.read(0x402, 1) == 0xE9


@pytest.mark.parametrize(
    ("written", "times"),
    [
        (b"Shutdown", 1),
        (b"ShutdownShutdown", 2),
        (b"xxShutdown", 1),
        (b"ShutShutdown", 1),
        (b"SShutdown", 1),
        (b"Shut down", 0),
        (b"Shutdow", 0),
        (b"shutdown", 0),
        (b"hutdownS", 0),
        (b"Shutdow\x00n", 0),
    ],
)
def test_shutdown_port_wants_the_word(written: bytes, times: int) -> None:
    calls: list[bool] = []
    bus = bus_with(ShutdownPort(lambda: calls.append(True)))
    for byte in written:
        bus.write(0x8900, 1, byte)
    assert len(calls) == times


def test_reset_forgets_a_word_begun() -> None:
    calls: list[bool] = []
    port = ShutdownPort(lambda: calls.append(True))
    port.write_block(0, 1, b"Shutdo")
    port.reset()
    port.write_block(0, 1, b"wn")
    assert calls == []


@settings(max_examples=100)
@given(st.lists(st.sampled_from(b"Shutdownx\x00"), max_size=30), st.lists(st.sampled_from(b"Shutdownx"), max_size=30))
def test_a_restored_shutdown_port_goes_on_where_it_was(before: list[int], after: list[int]) -> None:
    counts = [0, 0]

    def count(which: int) -> None:
        counts[which] += 1

    one = ShutdownPort(lambda: count(0))
    two = ShutdownPort(lambda: count(1))
    one.write_block(0, 1, bytes(before))
    counts[:] = 0, 0
    two.restore(one.save())
    for byte in after:
        one.write(0, 1, byte)
        two.write(0, 1, byte)
        assert counts[0] == counts[1]
    if b"Shutdown" in bytes(after):
        assert counts[0] >= 1


@pytest.mark.parametrize("state", [{}, {"matched": 8}, {"matched": -1}, {"matched": "1"}, {"matched": True}])
def test_shutdown_port_refuses_a_state_that_cannot_be(state: dict[str, Any]) -> None:
    Rig(ShutdownPort(lambda: None)).refuses(state, "matched")


@settings(max_examples=100)
@given(
    st.sampled_from([0xE9, 0xF4, 0xF7, 0x501, 0x502, 0x8900]),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 0xFFFFFFFF),
)
def test_no_access_raises(port: int, size: int, value: int) -> None:
    bus = bus_with(
        DebugExit(lambda value: None),
        DebugExit(lambda value: None, base=0x501, length=2),
        DebugConsole(lambda data: None),
        ShutdownPort(lambda: None),
    )
    bus.write(port, size, value & (1 << 8 * size) - 1)
    assert 0 <= bus.read(port, size) < 1 << 8 * size
