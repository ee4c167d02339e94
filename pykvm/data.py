"""Plain data: classes of named fields, declared as a dataclass is.

What `dataclasses` offers, less: importing that, and having it write and compile the methods of every class, would take
a quarter of the time that `pykvm run` needs to its first instruction. Here all classes share their methods.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from .typed import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform


class _Factory:
    """Makes a field's default value, anew for every object."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], Any]) -> Any:
    """In place of a default value: a function that makes it, for what can be changed."""
    return _Factory(default_factory)


@cache
def _dataclass_fields(kind: type[Data]) -> dict[str, Any]:
    from dataclasses import fields, make_dataclass

    return {field.name: field for field in fields(make_dataclass(kind.__name__, kind.__slots__))}


class _Fields:
    """What the functions of `dataclasses` look for: `replace`, `asdict` and `fields` work on Data, too."""

    def __get__(self, instance: object, owner: type[Data]) -> dict[str, Any]:
        return _dataclass_fields(owner)


@dataclass_transform(field_specifiers=(field,))
class _DataType(type):
    """Makes slots of a class's annotations, and keeps their defaults apart."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _DataType:
        fields = tuple(body.get("__annotations__", ()))
        defaults = {field: body.pop(field) for field in fields if field in body}
        return super().__new__(
            mcs, name, bases, body | {"__slots__": fields, "__match_args__": fields, "_defaults": defaults}
        )


class Data(metaclass=_DataType):
    """Base of plain data. A subclass's annotations are its fields, with their defaults; it has no subclasses itself.

    Fields are given in order or by name, and can be changed. Two objects are equal if they are of one class and all
    their fields are.
    """

    if TYPE_CHECKING:
        __slots__: ClassVar[tuple[str, ...]]
        _defaults: ClassVar[dict[str, Any]]

    __dataclass_fields__ = _Fields()

    __hash__ = None  # type: ignore[assignment]  # what can be changed is no key of a dict

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = self.__slots__
        given = dict(zip(fields, values, strict=False))
        if len(given) < len(values) or not given.keys().isdisjoint(named):
            raise TypeError(f"{type(self).__name__} has no more fields than {', '.join(fields)}")
        given |= named
        for name, default in self._defaults.items():
            if name not in given:
                given[name] = default.make() if isinstance(default, _Factory) else default
        wrong = given.keys() ^ set(fields)
        if wrong:
            raise TypeError(f"{type(self).__name__}: missing or unknown: {', '.join(sorted(wrong))}")
        for name, value in given.items():
            setattr(self, name, value)

    def copy(self, **changes: Any) -> Self:
        """Another one with the same values, except for those given. Values that can be changed are shared."""
        return type(self)(**{name: getattr(self, name) for name in self.__slots__} | changes)

    __replace__ = copy  # for copy.replace, since Python 3.13

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"
