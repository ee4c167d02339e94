"""Which device answers an address: one table for port numbers, one for guest physical addresses outside RAM.

An address that no device claims reads all ones and swallows writes, as an undriven PC bus does, and is counted.

A guest's access may have any size from 1 to 8 bytes (KVM cuts one at the end of a page) and run over the end of a range
into another's or nobody's. A device only ever sees 1, 2, 4 or 8 bytes, at most its width, and none that are not its
own: what is more is split, at rising offsets and each byte once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise

from .device import Device, Range
from .errors import ConfigError
from .typed import NamedTuple

PORT_COUNT = 0x10000

UNCLAIMED_LIMIT = 4096
"""How many unclaimed addresses are remembered one by one: a guest that scans must not fill the host's memory."""
LAST = 4
"""Of these, how many a report shows."""


class Claim(NamedTuple):
    """A device's answer at one address: bound methods, so that an access costs one look-up and one call."""

    read: Callable[[int, int], int]
    write: Callable[[int, int, int], None]
    offset: int
    width: int
    """The largest access in bytes that the device takes here: 1, 2, 4 or 8."""
    device: Device


class Bus:
    """One address space. The two kinds differ only in how a claim is found; see `PortBus` and `MmioBus`."""

    kind = "address"

    def __init__(self) -> None:
        self.devices: list[Device] = []
        self.unclaimed: dict[int, int] = {}
        """Number of accesses by address that no device answered, for the first `UNCLAIMED_LIMIT` addresses met, in the
        order of the last access."""
        self.asked: set[Device] = set()
        """The devices that `find` has found. Whoever empties it, and has nobody remember claims, learns who is used."""

    def find(self, address: int) -> Claim | None:
        """The claim at `address`, or None where nobody is home."""
        raise NotImplementedError

    def is_free(self, address: int, size: int) -> bool:
        """Whether no device answers any of the `size` bytes from `address` on."""
        raise NotImplementedError

    def _ranges(self, device: Device) -> Sequence[Range]:
        raise NotImplementedError

    def _claim(self, device: Device, span: Range, base: int) -> None:
        raise NotImplementedError

    def _release(self, device: Device) -> None:
        raise NotImplementedError

    def _owners(self, span: Range) -> Iterator[Device]:
        raise NotImplementedError

    def place(self, device: Device) -> None:
        """Give `device` the ranges it names; ConfigError if one is empty, out of the address space or taken."""
        ranges = self._ranges(device)
        for one, other in pairwise(sorted(ranges)) if len(ranges) > 1 else ():
            if other.base < one.end:
                raise ConfigError(f"{device.display_name} wants {self.kind} {other.base:#x} twice")
        for span in ranges:
            for owner in self._owners(span):
                raise ConfigError(
                    f"{device.display_name} wants {self.kind} {span.base:#x}..{span.end - 1:#x}, "
                    f"which {owner.display_name} already answers"
                )
        for span in ranges:
            self._claim(device, span, ranges[0].base)

    def attach(self, device: Device) -> None:
        """`place`, for a device that is one of the machine's."""
        self.place(device)
        self.devices.append(device)

    def displace(self, device: Device) -> None:
        """Take the device's ranges away again."""
        self._release(device)

    def detach(self, device: Device) -> None:
        """Undo `attach`."""
        self.devices.remove(device)
        self.displace(device)

    def read(self, address: int, size: int) -> int:
        """What the guest reads at `address`, as an unsigned integer of `size` bytes (1 to 8)."""
        claim = self.find(address)
        if claim is not None:
            read, _, offset, width, _ = claim
            if size <= width and not size & size - 1:
                return read(offset, size)
        elif size == 1 or self.is_free(address, size):
            return self.read_unclaimed(address, size)
        value = 0
        for at, part in self._parts(address, size):
            value |= self.read(address + at, part) << 8 * at
        return value

    def write(self, address: int, size: int, value: int) -> None:
        """Deliver a write of `size` bytes (1 to 8)."""
        claim = self.find(address)
        if claim is not None:
            _, write, offset, width, _ = claim
            if size <= width and not size & size - 1:
                write(offset, size, value)
                return
        elif size == 1 or self.is_free(address, size):
            self.write_unclaimed(address, size, value)
            return
        for at, part in self._parts(address, size):
            self.write(address + at, part, value >> 8 * at & (1 << 8 * part) - 1)

    def _parts(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """What an access is split into: the place and the size of each part, as large as its device takes it."""
        at = 0
        while at < size:
            claim = self.find(address + at)
            part = 1 if claim is None else min(claim.width, _power_of_2(size - at))
            yield at, part
            at += part

    def read_block(self, address: int, size: int, count: int) -> bytes:
        """Serve `count` reads of `size` bytes at the one `address`."""
        claim = self.find(address)
        if claim is not None and size <= claim.width and not size & size - 1:
            return claim.device.read_block(claim.offset, size, count)
        return b"".join(self.read(address, size).to_bytes(size, "little") for _ in range(count))

    def write_block(self, address: int, size: int, data: bytes) -> None:
        """Serve `len(data) // size` writes of `size` bytes at the one `address`."""
        claim = self.find(address)
        if claim is not None and size <= claim.width and not size & size - 1:
            claim.device.write_block(claim.offset, size, data)
            return
        for at in range(0, len(data), size):
            self.write(address, size, int.from_bytes(data[at : at + size], "little"))

    def read_unclaimed(self, address: int, size: int) -> int:
        """`read` where `find` finds nobody: counts the access."""
        count = self.unclaimed.pop(address, 0)
        if count or len(self.unclaimed) < UNCLAIMED_LIMIT:
            self.unclaimed[address] = count + 1
        return (1 << 8 * size) - 1

    def last_unclaimed(self) -> list[tuple[str, int, int]]:
        """(kind of bus, address, count) of the last accesses that no device answered, the last first."""
        return [(self.kind, address, count) for address, count in islice(reversed(self.unclaimed.items()), LAST)]

    def write_unclaimed(self, address: int, size: int, value: int) -> None:
        """`write` where `find` finds nobody: counts the access."""
        self.read_unclaimed(address, size)


def _power_of_2(most: int) -> int:
    """The largest power of 2 that is not above `most`."""
    return 1 << most.bit_length() - 1


class PortBus(Bus):
    """The 65,536 I/O ports: by number, the range that each is in, and the claims that were asked for.

    A range of one port is as wide as its device, whatever is at the ports behind it: port numbers do not count bytes,
    and a PC has data ports, and PCI's 0xCF8, of 4 bytes. In a longer range each port is a byte.
    """

    kind = "port"

    def __init__(self) -> None:
        super().__init__()
        self._spans: dict[int, tuple[Device, Range, int]] = {}
        self._claims: dict[int, Claim] = {}

    def find(self, address: int) -> Claim | None:
        claim = self._claims.get(address)
        if claim is None:
            found = self._spans.get(address)
            if found is None:
                return None
            device, span, base = found
            width = device.width if span.length == 1 else min(device.width, _power_of_2(span.end - address))
            claim = self._claims[address] = Claim(device.read, device.write, address - base, width, device)
        self.asked.add(claim.device)
        return claim

    def is_free(self, address: int, size: int) -> bool:
        return not any(port in self._spans for port in range(address, address + size))

    def _ranges(self, device: Device) -> Sequence[Range]:
        return device.ports

    def _owners(self, span: Range) -> Iterator[Device]:
        if span.length < 1 or span.base < 0 or span.end > PORT_COUNT:
            raise ConfigError(f"ports {span.base:#x}..{span.end - 1:#x} are not within 0..0xffff")
        ports = range(span.base, span.end)
        if self._spans.keys().isdisjoint(ports):
            return iter(())
        return (self._spans[port][0] for port in ports if port in self._spans)

    def _claim(self, device: Device, span: Range, base: int) -> None:
        self._spans |= dict.fromkeys(range(span.base, span.end), (device, span, base))

    def _release(self, device: Device) -> None:
        for port in [port for port, (owner, _, _) in self._spans.items() if owner is device]:
            del self._spans[port]
            self._claims.pop(port, None)


class MmioBus(Bus):
    """Guest physical addresses outside RAM: sorted ranges, found by bisection."""

    kind = "address"

    def __init__(self) -> None:
        super().__init__()
        self._bases: list[int] = []
        self._spans: list[tuple[Range, int, Device]] = []

    def find(self, address: int) -> Claim | None:
        at = bisect_right(self._bases, address) - 1
        if at < 0:
            return None
        span, base, device = self._spans[at]
        if address >= span.end:
            return None
        self.asked.add(device)
        width, left = device.width, span.end - address
        if left < width:
            width = _power_of_2(left)
        return Claim(device.read, device.write, address - base, width, device)

    def is_free(self, address: int, size: int) -> bool:
        at = bisect_right(self._bases, address)
        if at and self._spans[at - 1][0].end > address:
            return False
        return at == len(self._bases) or self._bases[at] >= address + size

    def _ranges(self, device: Device) -> Sequence[Range]:
        return device.mmio

    def _owners(self, span: Range) -> Iterator[Device]:
        if span.length < 1 or span.base < 0 or span.end > 1 << 52:
            raise ConfigError(f"addresses {span.base:#x}..{span.end - 1:#x} are not within the physical address space")
        return (owner for other, _, owner in self._spans if other.base < span.end and span.base < other.end)

    def _claim(self, device: Device, span: Range, base: int) -> None:
        at = bisect_right(self._bases, span.base)
        self._bases.insert(at, span.base)
        self._spans.insert(at, (span, base, device))

    def _release(self, device: Device) -> None:
        self._spans = [entry for entry in self._spans if entry[2] is not device]
        self._bases = [span.base for span, _, _ in self._spans]
