"""Variables, functions and their types, out of the DWARF debug information of an ELF file, through pyelftools.

Source: DWARF 5, chapters 4 (data objects), 5 (types) and 3.3 (subroutines); DW_AT_bit_offset of bit fields is that of
DWARF 3, 5.6.6. The file may be anything: what it says is looked up as it is needed, in bounded time and depth.
"""

from __future__ import annotations

import io
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

from ..crash.source import MAX_IMAGE
from ..errors import ConfigError
from ..x86.symbols import SymbolTable

BUDGET = 20.0
"""Seconds for the list of all variables and functions: some kernels have very many."""
MAX_DEPTH = 32
"""Types within types."""
MAX_FIELDS = 4096
MAX_BITS = 128
"""Of one bit field."""
_ADDR = 0x03
_PLUS_UCONST = 0x23
_QUALIFIERS = (
    "DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_restrict_type", "DW_TAG_atomic_type",
)  # fmt: skip
_STRUCTURES = ("DW_TAG_structure_type", "DW_TAG_union_type", "DW_TAG_class_type")
_KINDS = {0x02: "bool", 0x04: "float", 0x05: "signed", 0x06: "signed", 0x07: "unsigned", 0x08: "unsigned",
          0x10: "unsigned"}  # fmt: skip
"""Table 7.11: boolean, float, signed, signed_char, unsigned, unsigned_char, UTF."""


@dataclass(frozen=True)
class Scalar:
    """A number. `kind` is "signed", "unsigned", "bool" or "float"; `char` says that it is C's char."""

    size: int
    kind: str = "unsigned"
    char: bool = False


@dataclass(frozen=True)
class Enum:
    """A number with names."""

    size: int
    names: dict[int, str]
    signed: bool


@dataclass(frozen=True, eq=False)
class Pointer:
    """The address of a `target`, which is None for void and functions."""

    size: int
    find_target: Callable[[], Type | None]

    @cached_property
    def target(self) -> Type | None:
        """What it points to."""
        return self.find_target()


@dataclass(frozen=True)
class Array:
    """`count` elements one behind the other."""

    element: Type
    count: int

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self.element.size * self.count


class Field(NamedTuple):
    """A field: its type, its offset in bytes, and for a bit field (offset, size) in bits from there."""

    type: Type
    offset: int
    bits: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Struct:
    """A structure or union."""

    name: str
    size: int
    find_fields: Callable[[], dict[str, Field]]

    @cached_property
    def fields(self) -> dict[str, Field]:
        """By name, those of nameless structures within it included."""
        return self.find_fields()


Type = Scalar | Enum | Pointer | Array | Struct


class Signature(NamedTuple):
    """A function: what it returns (None for void) and takes."""

    result: Type | None
    parameters: list[Type]


class DebugInfo:
    """The debug information of the ELF file that `symbols` are from. ConfigError says what it cannot tell, and why."""

    def __init__(self, symbols: SymbolTable) -> None:
        self._image, self._bias = symbols.image, symbols.bias
        self._units: dict[int, Any] = {}

    def variable(self, name: str) -> tuple[int, Type] | None:
        """The linear address and the type of a variable with a fixed place; None if none of that name is known."""
        for die in self._named.get(name, ()):
            if die.tag == "DW_TAG_variable":
                place, kind = self._place(die), self._told(partial(self._type_of, _whole(die)))
                if place is not None and kind is not None:
                    return place + self._bias, kind
        return None

    def function(self, name: str) -> Signature | None:
        """A function's signature; None if none of that name is known."""
        for die in self._named.get(name, ()):
            if die.tag == "DW_TAG_subprogram":
                signature: Signature = self._told(partial(self._signature, die))
                return signature
        return None

    def _told(self, find: Callable[[], Any]) -> Any:
        try:
            return find()
        except ConfigError:
            raise
        except Exception as error:  # pyelftools, on a malformed file, raises almost anything
            raise ConfigError(f"the debug information cannot be read: {type(error).__name__}: {error}"[:300]) from error

    @cached_property
    def _named(self) -> dict[str, list[Any]]:
        """The variables and functions at the top of each compilation unit, those with a place first."""
        return self._told(self._read_names)  # type: ignore[no-any-return]

    def _read_names(self) -> dict[str, list[Any]]:
        from elftools.elf.elffile import ELFFile

        named: dict[str, list[Any]] = {}
        image = bytes(self._image)
        if image[:4] != b"\x7fELF" or len(image) > MAX_IMAGE:
            return named
        elf = ELFFile(io.BytesIO(image))
        sections = [section for section in elf.iter_sections() if section.name.startswith((".debug", ".zdebug"))]
        if any(section["sh_flags"] & 0x800 or section.name[1] == "z" for section in sections):
            raise ConfigError("the debug information is compressed, which is not read here: link without -gz")
        if sum(section["sh_size"] for section in sections) > len(image) or not elf.has_dwarf_info(strict=True):
            return named
        deadline = time.monotonic() + BUDGET
        for unit in elf.get_dwarf_info(relocate_dwarf_sections=False, follow_links=False).iter_CUs():
            for die in unit.iter_DIE_children(unit.get_top_DIE()):
                if die.tag not in ("DW_TAG_variable", "DW_TAG_subprogram") or "DW_AT_declaration" in die.attributes:
                    continue
                if name := _name(_whole(die)):
                    named.setdefault(name, []).append(die)
            if time.monotonic() > deadline:
                raise ConfigError(f"to list the variables in the debug information takes longer than {BUDGET:g} s")
        return named

    def _place(self, die: Any) -> int | None:
        location = die.attributes.get("DW_AT_location")
        if location is None or not isinstance(location.value, list) or location.value[:1] != [_ADDR]:
            return None
        return int.from_bytes(bytes(location.value[1:]), "little")

    def _signature(self, die: Any) -> Signature:
        whole = _whole(die)
        parameters = [
            self._type_of(_whole(child)) for child in _children(die) if child.tag == "DW_TAG_formal_parameter"
        ]
        return Signature(self._type_of(whole), [kind for kind in parameters if kind is not None])

    # Types

    def _type_of(self, die: Any, depth: int = 0) -> Type | None:
        """The type that a DIE refers to; None for void and functions."""
        for _ in range(MAX_DEPTH):
            if "DW_AT_type" not in die.attributes:
                return None
            die = die.get_DIE_from_attribute("DW_AT_type")
            if die.tag not in _QUALIFIERS:
                return self._type(die, depth)
        raise ConfigError("the debug information has a type that is made of itself")

    def _type(self, die: Any, depth: int) -> Type | None:
        if depth > MAX_DEPTH:
            raise ConfigError("the debug information has a type that contains itself")
        size = _size(die)
        if die.tag == "DW_TAG_base_type":
            kind = _KINDS.get(_number(die, "DW_AT_encoding"), "unsigned")
            return Scalar(size, kind, char=size == 1 and _name(die) == "char")
        if die.tag == "DW_TAG_pointer_type":
            size = size or die.cu["address_size"]
            return Pointer(size, lambda: self._told(lambda: self._type_of(die)))
        if die.tag == "DW_TAG_enumeration_type":
            values = {_number(child, "DW_AT_const_value"): _name(child) for child in _children(die)}
            base = self._type_of(die, depth + 1)
            signed = base.kind == "signed" if isinstance(base, Scalar) else any(value < 0 for value in values)
            return Enum(size, values, signed)
        if die.tag == "DW_TAG_array_type":
            return self._array(die, depth)
        if die.tag in _STRUCTURES:
            return Struct(_name(die), size, lambda: self._told(lambda: dict(self._fields(die, depth + 1))))
        return None

    def _array(self, die: Any, depth: int) -> Type:
        element = self._type_of(die, depth + 1)
        if element is None:
            raise ConfigError("the debug information has an array of nothing")
        counts = []
        for child in _children(die):
            if child.tag == "DW_TAG_subrange_type":
                bound = _number(child, "DW_AT_upper_bound", -1)
                counts.append(max(_number(child, "DW_AT_count", bound + 1), 0))
        for count in reversed(counts):
            element = Array(element, count)
        return element

    def _fields(self, die: Any, depth: int, base: int = 0) -> Iterator[tuple[str, Field]]:
        if depth > MAX_DEPTH:
            raise ConfigError("the debug information has a structure that contains itself")
        for number, child in enumerate(_children(die)):
            if child.tag != "DW_TAG_member":
                continue
            if number >= MAX_FIELDS:
                raise ConfigError(f"the structure {_name(die)} has more than {MAX_FIELDS} fields")
            kind = self._type_of(child, depth)
            if kind is None:
                continue
            offset, name = base + _member_offset(child), _name(child)
            if name:
                yield name, _field(child, kind, offset)
            elif isinstance(kind, Struct):
                for inner, field in kind.fields.items():
                    yield inner, field._replace(offset=offset + field.offset)


def _children(die: Any) -> Iterator[Any]:
    return die.cu.iter_DIE_children(die)  # type: ignore[no-any-return]


def _whole(die: Any) -> Any:
    """The DIE with name and type: what is defined outside a declaration, or out of line, refers to that."""
    for _ in range(MAX_DEPTH):
        for reference in ("DW_AT_specification", "DW_AT_abstract_origin"):
            if reference in die.attributes:
                die = die.get_DIE_from_attribute(reference)
                break
        else:
            return die
    return die


def _name(die: Any) -> str:
    attribute = die.attributes.get("DW_AT_name")
    return attribute.value.decode("utf-8", "replace") if attribute is not None else ""


def _number(die: Any, name: str, default: int = 0) -> int:
    attribute = die.attributes.get(name)
    return attribute.value if attribute is not None and isinstance(attribute.value, int) else default


def _size(die: Any) -> int:
    return max(_number(die, "DW_AT_byte_size"), 0)


def _member_offset(die: Any) -> int:
    attribute = die.attributes.get("DW_AT_data_member_location")
    if attribute is None:
        return 0
    if isinstance(attribute.value, int):
        return max(attribute.value, 0)
    value = shift = 0
    if attribute.value[:1] == [_PLUS_UCONST]:
        for byte in attribute.value[1:]:
            value |= (byte & 0x7F) << shift
            shift += 7
    return value


def _field(die: Any, kind: Type, offset: int) -> Field:
    size = _number(die, "DW_AT_bit_size")
    if not size:
        return Field(kind, offset)
    if size > MAX_BITS:
        raise ConfigError(f"the debug information has a bit field of {size} bits")
    if "DW_AT_data_bit_offset" in die.attributes:
        first = _number(die, "DW_AT_data_bit_offset")
    else:  # from the other end of the storage unit
        unit = _number(die, "DW_AT_byte_size", kind.size)
        first = 8 * unit - _number(die, "DW_AT_bit_offset") - size
    return Field(kind, max(offset + first // 8, 0), (first % 8, size))


_known: weakref.WeakKeyDictionary[SymbolTable, DebugInfo] = weakref.WeakKeyDictionary()


def debug_info(symbols: SymbolTable) -> DebugInfo:
    """The debug information of the file that the symbols are from, kept as long as they are."""
    if symbols not in _known:
        _known[symbols] = DebugInfo(symbols)
    return _known[symbols]
