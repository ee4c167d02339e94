"""A guest's variables as values of Python, by their C types."""

from __future__ import annotations

import difflib
import re
import struct
from typing import Any, Protocol

from ..errors import ConfigError
from ..x86.symbols import SymbolTable
from .dwarf import Array, DebugInfo, Enum, Field, Pointer, Scalar, Signature, Struct, Type, debug_info

READ_LIMIT = 1 << 20
"""Bytes that are read or written at once."""
STRING_LIMIT = 4096
"""Bytes of a string whose end is looked for."""

_STEP = re.compile(r"\s*(?:(?:\.|->)\s*(?P<field>\w+)|\[\s*(?P<index>-?(?:0[xX][0-9a-fA-F]+|\d+))\s*\])")
_NAME = re.compile(r"\s*(?P<stars>[*\s]*)(?P<name>[A-Za-z_$][\w.$@]*?)(?=\s*(?:\.|->|\[|$))")


class Memory(Protocol):
    """A guest's memory by linear addresses."""

    def read_memory(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes; ConfigError where nothing is mapped."""

    def write_memory(self, address: int, data: bytes) -> None:
        """All of `data`; ConfigError where nothing is mapped."""


class Enumerator(int):
    """A value of an enumeration, with its name; "" if it is none of them."""

    name: str

    def __new__(cls, value: int, name: str) -> Enumerator:
        made = super().__new__(cls, value)
        made.name = name
        return made

    def __repr__(self) -> str:
        return f"{self.name or '?'} ({int(self)})"


class Variable:
    """A value in a guest's memory, at a linear `address`; `name` is how it was asked for.

    `[name]` is a field, `[number]` an element, of what a pointer points to as well.
    """

    def __init__(
        self, memory: Memory, name: str, address: int, kind: Type, bits: tuple[int, int] | None = None
    ) -> None:
        self.name, self.address, self.type = name, address, kind
        self._memory, self._bits = memory, bits

    @property
    def size(self) -> int:
        """In bytes."""
        return (sum(self._bits) + 7) // 8 if self._bits else self.type.size

    @property
    def value(self) -> Any:
        """It, as a value of Python.

        Numbers, pointers and enumerations are int (the last an `Enumerator`), _Bool is bool, float is float. Arrays of
        char are str, up to the first NUL, those of unsigned char bytes, others list; structures are dict.
        """
        raw = self._memory.read_memory(self.address, self._bounded())
        if self._bits:
            first, size = self._bits
            number = int.from_bytes(raw, "little") >> first & (1 << size) - 1
            return _number(self.type, number, size)
        return value_of(self.type, raw)

    @value.setter
    def value(self, value: Any) -> None:
        if self._bits:
            first, size = self._bits
            mask = (1 << size) - 1
            whole = int.from_bytes(self._memory.read_memory(self.address, self.size), "little")
            whole = whole & ~(mask << first) | _checked(self.name, value, size) << first
            self._memory.write_memory(self.address, whole.to_bytes(self.size, "little"))
        elif isinstance(self.type, Struct):
            if not isinstance(value, dict):
                raise ConfigError(f"{self.name} is a structure: give a dict of those fields that are to change")
            for field, content in value.items():
                self[field].value = content
        else:
            self._memory.write_memory(self.address, raw_of(self.name, self.type, value, self._bounded()))

    @property
    def string(self) -> str:
        """The text that a pointer points to, or an array holds, up to its NUL."""
        if isinstance(self.type, Array):
            return str(self.value) if _is_text(self.type) else bytes(self.value).split(b"\0")[0].decode()
        address, raw = self.value, b""
        while len(raw) < STRING_LIMIT:
            raw += self._memory.read_memory(address + len(raw), 16 - (address + len(raw)) % 16)
            if b"\0" in raw:
                return raw[: raw.index(0)].decode("utf-8", "backslashreplace")
        raise ConfigError(f"{self.name}: no end within {STRING_LIMIT} bytes")

    @property
    def target(self) -> Variable:
        """What a pointer points to. ConfigError if it is none, or one to void."""
        if not isinstance(self.type, Pointer) or self.type.target is None:
            raise ConfigError(f"{self.name} is no pointer to a value")
        return Variable(self._memory, f"*{self.name}", self.value, self.type.target)

    def __getitem__(self, which: str | int) -> Variable:
        kind = self.type
        if isinstance(which, int):
            if isinstance(kind, Pointer):
                first = self.target
                return Variable(self._memory, f"{self.name}[{which}]", first.address + which * first.size, first.type)
            if not isinstance(kind, Array):
                raise ConfigError(f"{self.name} has no elements: it is {describe(kind)}")
            if not 0 <= which < max(kind.count, 1):
                raise ConfigError(f"{self.name} has {kind.count} elements, and none of number {which}")
            at = self.address + which * kind.element.size
            return Variable(self._memory, f"{self.name}[{which}]", at, kind.element)
        if isinstance(kind, Pointer):
            return self.target[which]._named(f"{self.name}->{which}")
        if not isinstance(kind, Struct):
            raise ConfigError(f"{self.name} has no fields: it is {describe(kind)}")
        field = kind.fields.get(which)
        if field is None:
            raise ConfigError(f"{self.name} (struct {kind.name}) has no field {which!r}{_close(which, kind.fields)}")
        return Variable(self._memory, f"{self.name}.{which}", self.address + field.offset, field.type, field.bits)

    def _named(self, name: str) -> Variable:
        self.name = name
        return self

    def _bounded(self) -> int:
        if self.size > READ_LIMIT:
            raise ConfigError(f"{self.name} has {self.size} bytes, and {READ_LIMIT >> 20} MiB is the most at once")
        return self.size

    def __repr__(self) -> str:
        return f"<Variable {self.name} at {self.address:#x}: {describe(self.type)}>"


class Names:
    """What the names of an image stand for. ConfigError, with names that are like it, for one that is not there."""

    def __init__(self, memory: Memory, symbols: SymbolTable | None) -> None:
        self._memory, self._symbols = memory, symbols

    def address(self, what: str | int) -> int:
        """The linear address of a symbol; a number stands for itself."""
        if isinstance(what, int):
            return what
        found = self._table.address(what)
        if found is None:
            problem = f" ({self._table.problem})" if self._table.problem else ""
            near = _close(what, (symbol.name for symbol in self._table))
            raise ConfigError(f"the image has no symbol {what!r}{problem}{near}")
        return found

    @property
    def _table(self) -> SymbolTable:
        if self._symbols is None:
            raise ConfigError("the image has no symbols: give an address, or build an ELF file with a symbol table")
        return self._symbols

    @property
    def _debug(self) -> DebugInfo:
        return debug_info(self._table)

    def variable(self, expression: str) -> Variable:
        """A variable, or a part of one: `ticks`, `processes[2].name`, `current->parent->pid`, `*current`."""
        match = _NAME.match(expression)
        if match is None:
            raise ConfigError(f"{expression!r} is no variable: write name, name.field, name->field or name[number]")
        found = self._start(match["name"])
        at = match.end()
        while at < len(expression.rstrip()):
            step = _STEP.match(expression, at)
            if step is None:
                raise ConfigError(f"{expression!r}: {expression[at:]!r} is no .field, ->field or [number]")
            found = found[step["field"]] if step["field"] else found[int(step["index"], 0)]
            at = step.end()
        for _ in range(match["stars"].count("*")):
            found = found.target
        return found._named(expression)

    def _start(self, name: str) -> Variable:
        known = self._debug.variable(name)
        if known is not None:
            return Variable(self._memory, name, *known)
        address = self.address(name)
        size = next((symbol.size for symbol in self._table if symbol.address == address and symbol.name == name), 0)
        kind: Type = Scalar(size) if size in (1, 2, 4, 8) else Array(Scalar(1), size)
        if not size:
            raise ConfigError(f"nothing is known of {name!r} but its address {address:#x}: build it with -g")
        return Variable(self._memory, name, address, kind)

    def signature(self, function: str | int) -> Signature | None:
        """A function's, if the debug information has it."""
        return self._debug.function(function) if isinstance(function, str) else None


def describe(kind: Type | None) -> str:
    """A type in words."""
    match kind:
        case Scalar(size, what, char):
            return "a char" if char else f"a number ({what}, {size} bytes)"
        case Enum(size):
            return f"an enumeration of {size} bytes"
        case Pointer():
            return f"a pointer to {describe(kind.target)}"
        case Array(element, count):
            return f"an array of {count}, each {describe(element)}"
        case Struct(name, size):
            return f"struct {name} of {size} bytes"
    return "void"


def value_of(kind: Type, raw: bytes) -> Any:
    """The value of Python for the bytes of a type; see `Variable.value`."""
    return _Decoder().value(kind, raw)


class _Decoder:
    """Takes one value apart. What a type says may be anything: the number of parts is bounded."""

    def __init__(self) -> None:
        self._left = READ_LIMIT

    def value(self, kind: Type, raw: bytes) -> Any:
        self._left -= 1
        if self._left < 0 or len(raw) != kind.size:
            raise ConfigError(
                f"the debug information is wrong: {describe(kind)} does not fit into what it is a part of"
            )
        match kind:
            case Scalar(size, "float") if size in (4, 8):
                return struct.unpack("<f" if size == 4 else "<d", raw)[0]
            case Scalar() | Enum() | Pointer():
                return _number(kind, int.from_bytes(raw, "little"), 8 * len(raw))
            case Array(element, count):
                if _is_text(kind):
                    return raw.split(b"\0")[0].decode("utf-8", "backslashreplace")
                if element == Scalar(1):
                    return raw
                each = element.size
                return [self.value(element, raw[at * each : (at + 1) * each]) for at in range(count)]
            case Struct():
                return {name: self.field(field, raw) for name, field in kind.fields.items()}

    def field(self, field: Field, raw: bytes) -> Any:
        kind, offset, bits = field
        if not bits:
            return self.value(kind, raw[offset : offset + kind.size])
        first, size = bits
        number = int.from_bytes(raw[offset : offset + (first + size + 7) // 8], "little")
        return _number(kind, number >> first & (1 << size) - 1, size)


def _number(kind: Type, number: int, bits: int) -> int | bool:
    signed = (isinstance(kind, Scalar) and kind.kind == "signed") or (isinstance(kind, Enum) and kind.signed)
    if signed and bits and number >> bits - 1:
        number -= 1 << bits
    if isinstance(kind, Enum):
        return Enumerator(number, kind.names.get(number, ""))
    return bool(number) if isinstance(kind, Scalar) and kind.kind == "bool" else number


def raw_of(name: str, kind: Type, value: Any, size: int) -> bytes:
    """The bytes for a value; ConfigError if it does not fit."""
    if isinstance(kind, Array):
        if isinstance(value, str):
            value = value.encode() + b"\0" if len(value.encode()) < size else value.encode()
        if isinstance(value, (bytes, bytearray)) and kind.element.size == 1:
            if len(value) > size:
                raise ConfigError(f"{name} has room for {size} bytes, not for {len(value)}")
            return bytes(value)
        if not isinstance(value, (list, tuple)) or len(value) > kind.count:
            raise ConfigError(f"{name} is {describe(kind)}: {value!r} does not fit")
        return b"".join(raw_of(name, kind.element, each, kind.element.size) for each in value)
    if isinstance(kind, Scalar) and kind.kind == "float" and isinstance(value, (int, float)) and size in (4, 8):
        return struct.pack("<f" if size == 4 else "<d", value)
    return _checked(name, value, 8 * size).to_bytes(size, "little")


def _checked(name: str, value: Any, bits: int) -> int:
    if not isinstance(value, int) or not -1 << bits - 1 <= value < 1 << bits:
        raise ConfigError(f"{name}: {value!r} is no number of {bits} bits")
    return value & (1 << bits) - 1


def _is_text(kind: Array) -> bool:
    return isinstance(kind.element, Scalar) and kind.element.char


def _close(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, 3)
    return f": did you mean {' or '.join(map(repr, near))}?" if near else ""
