"""The two buses against models that need no cleverness: a list of ranges, searched from one end to the other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.bus import PORT_COUNT, UNCLAIMED_LIMIT, Bus, MmioBus, PortBus
from pykvm.device import Device, Range
from pykvm.errors import ConfigError


class Log(Device):
    """Remembers all accesses; a read gives the low bits of `answer`."""

    def __init__(self, name: str, ranges: Sequence[Range], port: bool, width: int = 4, answer: int = 0) -> None:
        self.name, self.width, self.answer = name, width, answer
        if port:
            self.ports = tuple(ranges)
        else:
            self.mmio = tuple(ranges)
        self.seen: list[tuple[int, int, int | None]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size, None))
        return self.answer + offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))


def make(port: bool) -> Bus:
    return PortBus() if port else MmioBus()


both = pytest.mark.parametrize("port", [True, False], ids=["ports", "mmio"])
ranges = st.lists(st.builds(Range, st.integers(0, 120), st.integers(1, 20)), min_size=1, max_size=3)


@both
@given(data=st.data())
def test_the_bus_finds_what_a_linear_search_finds(port: bool, data: st.DataObject) -> None:
    bus, attached = make(port), list[Log]()

    def owner(address: int) -> tuple[Log, int] | None:
        for device in attached:
            spans = device.ports or device.mmio
            if any(span.base <= address < span.end for span in spans):
                return device, address - spans[0].base
        return None

    for number in range(data.draw(st.integers(1, 8))):
        if attached and data.draw(st.booleans()):
            gone = attached.pop(data.draw(st.integers(0, len(attached) - 1)))
            bus.detach(gone)
            continue
        device = Log(f"device {number}", data.draw(ranges), port)
        spans = device.ports or device.mmio
        wanted = [address for span in spans for address in range(span.base, span.end)]
        if len(set(wanted)) < len(wanted):
            continue  # overlaps itself
        if any(owner(address) for address in wanted):
            with pytest.raises(ConfigError, match=device.name):
                bus.attach(device)
        else:
            bus.attach(device)
            attached.append(device)
    assert bus.devices == attached
    for address in range(150):
        claim, expected = bus.find(address), owner(address)
        assert (claim and (claim.device, claim.offset)) == expected


@both
def test_a_device_that_overlaps_itself_is_refused(port: bool) -> None:
    with pytest.raises(ConfigError, match="twice"):
        make(port).attach(Log("twice", [Range(0x10, 4), Range(0x13, 1)], port))


@both
@given(
    size=st.sampled_from([1, 2, 4, 8]),
    width=st.sampled_from([1, 2, 4, 8]),
    at=st.integers(0, 8),
    value=st.integers(0, (1 << 64) - 1),
)
def test_an_access_wider_than_the_device_is_split(port: bool, size: int, width: int, at: int, value: int) -> None:
    bus, device = make(port), Log("wide", [Range(0x100, 16)], port, width, answer=0xA0)
    bus.attach(device)
    value &= (1 << 8 * size) - 1
    bus.write(0x100 + at, size, value)
    part = min(size, width)
    pieces = [(at + n, part, value >> 8 * n & (1 << 8 * part) - 1) for n in range(0, size, part)]
    assert device.seen == pieces
    device.seen.clear()
    raw = b"".join((0xA0 + at + n).to_bytes(part, "little") for n in range(0, size, part))
    assert bus.read(0x100 + at, size) == int.from_bytes(raw, "little")
    assert device.seen == [(offset, piece, None) for offset, piece, _ in pieces]


@both
def test_a_split_access_may_leave_the_device(port: bool) -> None:
    bus, device = make(port), Log("narrow", [Range(0x100, 1)], port, 1, answer=0x12)
    bus.attach(device)
    assert bus.read(0x100, 4) == 0xFFFFFF12
    assert bus.unclaimed == {0x101: 1, 0x102: 1, 0x103: 1}


def test_a_split_access_at_the_last_port_stays_harmless() -> None:
    bus, device = PortBus(), Log("last", [Range(0xFFFF, 1)], True, 1, answer=0x12)
    bus.attach(device)
    assert bus.read(0xFFFF, 4) == 0xFFFFFF12
    bus.write(0xFFFF, 4, 0xAABBCCDD)
    assert device.seen == [(0, 1, None), (0, 1, 0xDD)]


@both
@given(accesses=st.lists(st.tuples(st.integers(0, 20), st.sampled_from([1, 2, 4, 8]), st.booleans()), max_size=50))
def test_nobody_home_reads_ones_and_is_counted(port: bool, accesses: list[tuple[int, int, bool]]) -> None:
    bus, expected = make(port), dict[int, int]()
    for address, size, write in accesses:
        if write:
            bus.write(address, size, 1)
        else:
            assert bus.read(address, size) == (1 << 8 * size) - 1
        expected[address] = expected.get(address, 0) + 1
    assert bus.unclaimed == expected


@both
def test_the_list_of_unclaimed_addresses_is_bounded(port: bool) -> None:
    bus = make(port)
    for address in range(2 * UNCLAIMED_LIMIT):
        bus.read(address, 1)
    bus.write(5, 1, 0)
    bus.write(2 * UNCLAIMED_LIMIT - 1, 1, 0)
    assert len(bus.unclaimed) == UNCLAIMED_LIMIT
    assert bus.unclaimed[5] == 2


@both
@given(
    size=st.sampled_from([1, 2, 4]),
    width=st.sampled_from([1, 2, 4]),
    count=st.integers(0, 20),
    where=st.sampled_from([0x100, 0x200]),
)
def test_blocks_are_the_same_as_single_accesses(port: bool, size: int, width: int, count: int, where: int) -> None:
    block, single = (Log("same", [Range(0x100, 8)], port, width, answer=0x7C) for _ in range(2))
    one, other = make(port), make(port)
    one.attach(block)
    other.attach(single)
    data = bytes(n * 37 & 0xFF for n in range(size * count))
    assert one.read_block(where, size, count) == b"".join(
        other.read(where, size).to_bytes(size, "little") for _ in range(count)
    )
    one.write_block(where, size, data)
    for at in range(0, len(data), size):
        other.write(where, size, int.from_bytes(data[at : at + size], "little"))
    assert block.seen == single.seen
    assert one.unclaimed == other.unclaimed


@pytest.mark.parametrize(
    ("port", "span"),
    [
        (True, Range(PORT_COUNT - 1, 2)),
        (True, Range(PORT_COUNT, 1)),
        (True, Range(-1, 2)),
        (True, Range(0, 0)),
        (True, Range(4, -2)),
        (False, Range(0, 0)),
        (False, Range(-8, 16)),
        (False, Range((1 << 52) - 1, 2)),
    ],
)
def test_ranges_outside_the_address_space_are_refused(port: bool, span: Range) -> None:
    bus = make(port)
    with pytest.raises(ConfigError):
        bus.attach(Log("outside", [Range(0x100, 1), span], port))
    assert bus.find(0x100) is None
    assert bus.devices == []


@both
def test_the_ends_of_the_address_space_can_be_had(port: bool) -> None:
    bus, end = make(port), PORT_COUNT if port else 1 << 52
    device = Log("all", [Range(0, 1), Range(end - 1, 1)], port)
    bus.attach(device)
    assert bus.read(end - 1, 1) == end - 1 & 0xFF
    assert device.seen == [(end - 1, 1, None)]


@both
def test_overlap_names_both(port: bool) -> None:
    bus = make(port)
    bus.attach(Log("first", [Range(0x20, 16)], port))
    with pytest.raises(ConfigError, match=r"second.*0x2f\.\.0x30.*first"):
        bus.attach(Log("second", [Range(0x40, 4), Range(0x2F, 2)], port))
    nameless = Log("", [Range(0x20, 1)], port)
    with pytest.raises(ConfigError, match=r"Log.*first"):
        bus.attach(nameless)


class Bytes(Device):
    """An array of bytes; keeps every access that no device may see."""

    def __init__(self, name: str, span: Range, port: bool, width: int) -> None:
        self.name, self.width, self.span = name, width, span
        if port:
            self.ports = (span,)
        else:
            self.mmio = (span,)
        self.content = bytearray(span.length)
        self.wrong: list[tuple[int, int]] = []
        self.touched: list[int] = []

    def _check(self, offset: int, size: int) -> None:
        if size not in (1, 2, 4, 8) or size > self.width or offset < 0 or offset + size > self.span.length:
            self.wrong.append((offset, size))
        self.touched += range(self.span.base + offset, self.span.base + offset + size)

    def read(self, offset: int, size: int) -> int:
        self._check(offset, size)
        return int.from_bytes(self.content[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self._check(offset, size)
        self.content[offset : offset + size] = value.to_bytes(size, "little")


@both
@given(
    layout=st.lists(st.tuples(st.integers(2, 12), st.sampled_from([1, 2, 4, 8]), st.integers(0, 4)), max_size=6),
    accesses=st.lists(
        st.tuples(
            st.integers(0x100, 0x160), st.integers(1, 8), st.booleans(), st.integers(1, 3), st.binary(min_size=24)
        ),
        max_size=20,
    ),
)
def test_every_byte_of_an_access_goes_to_its_own_device_once(
    port: bool,
    layout: list[tuple[int, int, int]],
    accesses: list[tuple[int, int, bool, int, bytes]],
) -> None:
    """Against a map of bytes: single accesses and blocks of all sizes, over the ends of ranges in both directions."""
    bus, devices, at = make(port), list[Bytes](), 0x104
    for length, width, gap in layout:
        devices.append(Bytes(f"at {at:#x}", Range(at, length), port, width))
        bus.attach(devices[-1])
        at += length + gap
    owned = {address for device in devices for address in range(device.span.base, device.span.end)}
    model = dict.fromkeys(owned, 0)
    for address, size, write, count, content in accesses:
        for device in devices:
            device.touched.clear()
        if write:
            data = content[: size * count]
            if count == 1:
                bus.write(address, size, int.from_bytes(data, "little"))
            else:
                bus.write_block(address, size, data)
            model |= {address + n: data[-size:][n] for n in range(size) if address + n in owned}
        else:
            expected = bytes(model.get(address + n, 0xFF) for n in range(size))
            if count == 1:
                assert bus.read(address, size) == int.from_bytes(expected, "little")
            else:
                assert bus.read_block(address, size, count) == expected * count
        touched = sorted(where for device in devices for where in device.touched)
        assert touched == sorted([where for where in range(address, address + size) if where in owned] * count)
    for device in devices:
        assert not device.wrong
        assert list(device.content) == [model[where] for where in range(device.span.base, device.span.end)]


def test_a_single_port_is_as_wide_as_its_device() -> None:
    """A data port: the next port's number is another register."""
    bus, data, other = PortBus(), Log("data", [Range(0x100, 1)], True), Log("other", [Range(0x101, 1)], True, 1)
    bus.attach(data)
    bus.attach(other)
    bus.write(0x100, 4, 0x11223344)
    assert data.seen == [(0, 4, 0x11223344)]
    assert other.seen == []
    bus.write(0xFF, 2, 0x5566)
    assert data.seen[1:] == [(0, 1, 0x55)], "from nobody's into somebody's"


@both
def test_who_is_free_is_told_to_the_byte(port: bool) -> None:
    bus = make(port)
    bus.attach(Log("somebody", [Range(0x100, 2)], port))
    assert [bus.is_free(address, 2) for address in range(0xFD, 0x104)] == [True, True, False, False, False, True, True]
