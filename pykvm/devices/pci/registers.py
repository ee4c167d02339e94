"""A card's registers as data, and what an access to some of their bytes does.

Source of the kinds of access: the notation that data sheets of PCI chips share (RO, RW, WO, RW1C, RC).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...errors import ConfigError
from ...typed import Any, NamedTuple

RW, RO, WO, W1C, RC = "rw", "ro", "wo", "w1c", "rc"
"""Read and write; read only; write only, reads 0; a write of 1 clears the bit; a read clears the register."""
_KINDS = (RW, RO, WO, W1C, RC)


class Register(NamedTuple):
    """A register at `offset` of its BAR, of `width` bytes (1, 2, 4 or 8; `offset` is a multiple of it).

    `access` is "rw", "ro", "wo", "w1c" (a write of 1 clears the bit) or "rc" (a read clears it). `reset` is its value
    after a reset, `mask` the bits that a write can change (None: all). `bits` names the bits from bit 0 up, with blanks
    between and "-" for one without a name: traces show them.
    """

    name: str
    offset: int
    width: int = 4
    access: str = RW
    reset: int = 0
    mask: int | None = None
    bits: str = ""

    @property
    def all_bits(self) -> int:
        """As many ones as the register has bits."""
        return (1 << 8 * self.width) - 1

    def check(self, size: int) -> None:
        """ConfigError for a register that cannot be, in a BAR of `size` bytes."""
        if self.width not in (1, 2, 4, 8) or not 0 <= self.offset <= size - self.width or self.offset % self.width:
            raise ConfigError(
                f"register {self.name}: a width of {self.width} at offset {self.offset:#x} is not possible in a BAR of "
                f"{size:#x} bytes: give a width of 1, 2, 4 or 8 bytes, and an offset that is a multiple of it"
            )
        if self.access not in _KINDS:
            raise ConfigError(f"register {self.name}: access {self.access!r} is none of {', '.join(_KINDS)}")
        for what, value in (("reset value", self.reset), ("mask", self.mask or 0)):
            if not 0 <= value <= self.all_bits:
                raise ConfigError(f"register {self.name}: the {what} {value:#x} does not fit {self.width} bytes")


class Part(NamedTuple):
    """What an access has of one register: `size` bytes from the register's byte `at` on, the access's byte `first`."""

    register: Register
    at: int
    first: int
    size: int


def parts(table: Mapping[int, Register], offset: int, size: int) -> list[Part]:
    """The registers that an access of `size` bytes at `offset` meets. `table` has each under all of its bytes."""
    exact = table.get(offset)
    if exact is not None and exact.offset == offset and exact.width == size:
        return [Part(exact, 0, 0, size)]
    found = []
    first = 0
    while first < size:
        register = table.get(offset + first)
        if register is None:
            first += 1
            continue
        at = offset + first - register.offset
        length = min(register.width - at, size - first)
        found.append(Part(register, at, first, length))
        first += length
    return found


def by_byte(registers: Sequence[Register]) -> dict[int, Register]:
    """The registers under all of their offsets; ConfigError if two share one."""
    table: dict[int, Register] = {}
    for register in registers:
        for at in range(register.offset, register.offset + register.width):
            if at in table:
                raise ConfigError(f"registers {table[at].name} and {register.name} are both at offset {at:#x}")
            table[at] = register
    return table


class RegisterFile:
    """The registers of a card's BARs: `values` by name, and the `owner`'s methods that are called for them.

    `on_read_NAME()` gives what a read of the register NAME yields, in place of its value; `on_write_NAME(value)` is
    told of a write once the register has its new value. NAME is in lower case.
    """

    def __init__(self, owner: Any, bars: Sequence[Sequence[Register]]) -> None:
        self._tables = [by_byte(registers) for registers in bars]
        self.registers = {register.name: register for registers in bars for register in registers}
        if len(self.registers) != sum(map(len, bars)):
            raise ConfigError(f"{owner.name}: two registers have the same name")
        self._readers: dict[str, Callable[[], int]] = {}
        self._writers: dict[str, Callable[[int], None]] = {}
        names = {name.lower(): name for name in self.registers}
        for attribute in dir(owner):
            for prefix, table in (("on_read_", self._readers), ("on_write_", self._writers)):
                if attribute.startswith(prefix):
                    name = names.get(attribute.removeprefix(prefix))
                    if name is None:
                        raise ConfigError(f"{owner.name}: {attribute} is there, but no such register")
                    table[name] = getattr(owner, attribute)
        self.values: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """All registers as after a reset."""
        self.values.update({name: register.reset for name, register in self.registers.items()})

    def read(self, bar: int, offset: int, size: int) -> int:
        """What the guest reads; bytes that are no register's are 0."""
        result = 0
        for register, at, first, length in parts(self._tables[bar], offset, size):
            name = register.name
            if register.access == WO:
                continue
            reader = self._readers.get(name)
            value = (self.values[name] if reader is None else reader()) & register.all_bits
            if register.access == RC:
                self.values[name] = 0
            result |= (value >> 8 * at & (1 << 8 * length) - 1) << 8 * first
        return result

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Take what the guest writes; bytes that are no register's, or a read-only one's, are swallowed."""
        for register, at, first, length in parts(self._tables[bar], offset, size):
            lanes = (1 << 8 * length) - 1 << 8 * at
            written = value >> 8 * first << 8 * at & lanes
            name, access = register.name, register.access
            if access in (RO, RC):
                continue
            old = self.values[name]
            changes = lanes & (register.all_bits if register.mask is None else register.mask)
            if access == RW:
                written = self.values[name] = old & ~changes | written & changes
            elif access == W1C:
                self.values[name] = old & ~(written & changes)
            writer = self._writers.get(name)
            if writer is not None:
                writer(written)

    def at(self, bar: int, offset: int) -> Register | None:
        """The register that the byte at `offset` is in."""
        return self._tables[bar].get(offset)

    def check(self, saved: Any) -> dict[str, int]:
        """Registers' values out of a saved state; ValueError if they cannot be."""
        if not isinstance(saved, dict) or saved.keys() != self.registers.keys():
            raise ValueError("the registers are not those of this device")
        for name, value in saved.items():
            if type(value) is not int or not 0 <= value <= self.registers[name].all_bits:
                raise ValueError(f"the register {name} cannot be {value!r:.40}")
        return dict(saved)
