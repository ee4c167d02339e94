"""What a device is to the rest of the machine: the ranges it answers, one IRQ line, and its state as plain data.

A device knows its registers, its IRQ line and its backend. It knows neither KVM nor threads nor other devices, so it
can be driven by a test with nothing but calls. Every method here is called with the machine's lock held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .typed import Any, NamedTuple

State = dict[str, Any]
"""A device's state: nothing but numbers, strings, bytes, booleans, None, and lists and dicts of these."""


Aside = Callable[[Callable[[], Any], Callable[[Any], None]], None]
"""`aside(work, done)`: has `work()` run while others go on, then `done` called with what it returned. A device is given
one for what may take long on the host; only `done` is called with the machine's lock held, and it may never be called.
"""


def at_once(work: Callable[[], Any], done: Callable[[Any], None]) -> None:
    """An `Aside` for where nobody waits meanwhile: both are over when it returns."""
    done(work())


class Outside:
    """What a device has done through `aside`, one thing at a time.

    `finished` is called after the `back` of something that came back by itself, and not within a call of the device.
    """

    __slots__ = ("_aside", "_finished", "_in_call", "_turn", "_under_way", "_wanted")

    def __init__(self, aside: Aside, finished: Callable[[], None]) -> None:
        self._aside, self._finished = aside, finished
        self._wanted: tuple[Callable[[], Any], Callable[[Any], None]] | None = None
        self._turn = 0
        self._under_way = self._in_call = False

    def begin(self, work: Callable[[], Any], back: Callable[[Any], None]) -> None:
        """Have `work` done, and then `back`; as soon as what is under way has come back, even if it is forgotten."""
        self._wanted = work, back
        if self._under_way:
            return
        self._under_way, turn = True, self._turn
        outer, self._in_call = self._in_call, True
        self._aside(work, lambda result: self._came_back(turn, result))
        self._in_call = outer

    def forget(self) -> None:
        """Nothing comes back of what was begun."""
        self._wanted = None
        self._turn += 1

    def _came_back(self, turn: int, result: Any) -> None:
        self._under_way = False
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        work, back = wanted
        if turn != self._turn:
            self.begin(work, back)
            return
        back(result)
        if not self._in_call:
            self._finished()


class Range(NamedTuple):
    """`length` consecutive port numbers or physical addresses from `base` on."""

    base: int
    length: int

    @property
    def end(self) -> int:
        """One past the last address."""
        return self.base + self.length


class IrqLine:
    """One interrupt request line. The device moves it and does not know which chip is behind it.

    `sink` is called with the new level at each change of level, and at no other time.
    """

    __slots__ = ("_sink", "level")

    def __init__(self, sink: Callable[[bool], None]) -> None:
        self._sink = sink
        self.level = False

    def set(self, level: bool) -> None:
        """Drive the line to `level`; nothing happens if it is there already."""
        if level != self.level:
            self.level = level
            self._sink(level)

    def pulse(self) -> None:
        """Make one rising edge (low first if the line was high) and leave the line low."""
        self.set(False)
        self.set(True)
        self.set(False)


class Device:
    """Base class of all devices, pykvm's own and its users'.

    A subclass names the ranges it answers in `ports` (port numbers, 0..0xFFFF) or in `mmio` (guest physical addresses
    outside RAM), one of the two and not both, and overrides `read` and `write`. `offset` is always the accessed
    address minus the base of the device's first range, so a device with the ranges 0x1F0+8 and 0x3F6+1 sees an access
    to 0x3F6 at the offset 0x206.
    """

    name: str = ""
    """What traces and errors call the device, for example "COM1"."""

    @property
    def display_name(self) -> str:
        """The name, or that of the class where it has none."""
        return self.name or type(self).__name__

    ports: Sequence[Range] = ()
    mmio: Sequence[Range] = ()

    width: int = 4
    """The widest access in bytes (1, 2, 4 or 8) that `read` and `write` take.

    The bus splits a wider one, one of 3, 5, 6 or 7 bytes, and one that runs over the end of a range at rising offsets,
    as the byte lanes of an ISA bus do. A range of a single port takes accesses of this width, too.
    """

    moved_by_host: bool = True
    """Whether anything but the guest's accesses can have changed the state since the last `restore`: time, a cable, a
    person. Where it is False, a machine that goes back leaves out a device that the guest has not accessed."""

    is_card: bool = False
    """Whether it is for a slot of the PCI bus (`devices.pci.card.PciDevice`), and answers where the guest wants it."""

    has_state: bool = True
    """Whether `save` has anything: False for ports of another device, whose state has all of it."""

    @property
    def spans(self) -> Sequence[Range]:
        """What it answers now, ports or addresses."""
        return [*self.ports, *self.mmio]

    @property
    def place(self) -> str:
        """What tells it from others of its name: its first port or address."""
        return f"{self.spans[0].base:#x}"

    def read(self, offset: int, size: int) -> int:
        """Return what the guest reads: an unsigned integer of `size` bytes (1, 2, 4 or 8, at most `width`)."""
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Take what the guest writes: `value` is unsigned and fits `size` bytes."""

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        """Serve a string input (`rep ins`) of `count` items of `size` bytes at one offset.

        Override it where a slice copy can serve the whole block.
        """
        return b"".join(self.read(offset, size).to_bytes(size, "little") for _ in range(count))

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        """Serve a string output (`rep outs`) of `len(data) // size` items of `size` bytes at one offset."""
        for at in range(0, len(data), size):
            self.write(offset, size, int.from_bytes(data[at : at + size], "little"))

    register_names: Mapping[int, str] = {}
    """The registers' names in the data sheet, by offset: what traces call them."""

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        """What the data sheet calls the register that an access goes to, as the device is now.

        Called before the access, and only while somebody traces; `value` is None for a read. Override it where a name
        depends on more than the offset.
        """
        return self.register_names.get(offset) or f"+{offset:#x}"

    def explain(self, register: str, value: int, is_write: bool) -> str:
        """What `value` means in the register that `register_name` named, in a few words, or ""; a number is not needed.

        Depends on nothing but its arguments.
        """
        return ""

    def reset(self) -> None:
        """Put every register to its state after power-on; the backend and its data stay."""

    def save(self) -> State:
        """Everything that the guest could notice, as plain data."""
        return {}

    def restore(self, state: State) -> None:
        """Take back what `save` returned, the IRQ line's level included; ValueError if it does not fit this device."""


class OnDemand(Device):
    """Stands on a bus for a device that few guests use: `make` makes it at the first access."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Device],
        *,
        ports: Sequence[Range] = (),
        mmio: Sequence[Range] = (),
        width: int,
    ) -> None:
        self.name, self.ports, self.mmio, self.width = name, ports, mmio, width
        self._make = make
        self._made: Device | None = None
        self._fresh: State = {}

    @property
    def device(self) -> Any:
        """The device itself, of whatever class `make` returns."""
        return self._wake()

    def _wake(self) -> Device:
        if self._made is None:
            self._made = self._make()
            self._fresh = self._made.save()
        return self._made

    def read(self, offset: int, size: int) -> int:
        return self._wake().read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self._wake().write(offset, size, value)

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        return self._wake().read_block(offset, size, count)

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        self._wake().write_block(offset, size, data)

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        return self._wake().register_name(offset, size, value)

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return self._wake().explain(register, value, is_write)

    def reset(self) -> None:
        if self._made is not None:
            self._made.reset()
            self._made.restore(self._fresh)

    def save(self) -> State:
        """Nothing before the first access."""
        return {} if self._made is None else self._made.save()

    def restore(self, state: State) -> None:
        if state or self._made is not None:
            self._wake().restore(state or self._fresh)


def bit_names(value: int, names: str) -> str:
    """The names of the bits that are set in `value`; `names` has them from bit 0 up, "-" for one without a name."""
    return " ".join(name if name != "-" else f"bit{bit}" for bit, name in enumerate(names.split()) if value >> bit & 1)


def character(value: int) -> str:
    """A byte as the character that it stands for, quoted, such as 'a' or '\\n'."""
    return ascii(chr(value & 0xFF))


class Access(NamedTuple):
    """One access of the guest to a `FunctionDevice`. `value` is None for a read."""

    offset: int
    size: int
    value: int | None

    @property
    def is_write(self) -> bool:
        """Whether the guest writes."""
        return self.value is not None


class FunctionDevice(Device):
    """A device made of one function: called with each `Access`, it returns what a read yields (None: all ones)."""

    def __init__(
        self, function: Callable[[Access], int | None], *, ports: Sequence[Range] = (), mmio: Sequence[Range] = ()
    ) -> None:
        self.name = function.__name__
        self.ports, self.mmio = ports, mmio
        self.width = 8 if mmio else 4
        self._function = function

    def read(self, offset: int, size: int) -> int:
        value = self._function(Access(offset, size, None))
        mask = (1 << 8 * size) - 1
        return mask if value is None else value & mask

    def write(self, offset: int, size: int, value: int) -> None:
        self._function(Access(offset, size, value))
