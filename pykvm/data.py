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


MANY = 16
"""A class of which so many objects have been made gets a constructor of its own: to write one takes as long as making a
dozen with the one that all share."""


def _fast_init(kind: type[Data]) -> Callable[..., None]:
    """The constructor that a dataclass of these fields would have; what it refuses, the shared one explains."""
    fields, shared = kind.__slots__, Data.__init__
    scope: dict[str, Any] = {"shared": shared, "missing": object()}
    given, lines, required = [], [], []
    for name in fields:
        if name not in kind._defaults:
            given.append(f"{name}=missing")
            required.append(f"{name} is missing")
            lines.append(f"    self.{name} = {name}")
            continue
        default = kind._defaults[name]
        scope[f"default_{name}"] = default.make if isinstance(default, _Factory) else default
        given.append(f"{name}=default_{name}" if not isinstance(default, _Factory) else f"{name}=missing")
        made = f"default_{name}() if {name} is missing else {name}" if isinstance(default, _Factory) else name
        lines.append(f"    self.{name} = {made}")
    refuse = f"    if {' or '.join(required)}:\n        raise TypeError\n" if required else ""
    exec(f"def fill({', '.join(('self', *given))}):\n{refuse}" + "\n".join(lines or ["    pass"]), scope)
    fill = scope["fill"]

    def init(self: Any, *values: Any, **named: Any) -> None:
        try:
            fill(self, *values, **named)
        except TypeError:
            shared(self, *values, **named)

    return init


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
        _made: ClassVar[int]

    _made = 0  # objects of the class that there have been, as far as `MANY`

    __dataclass_fields__ = _Fields()

    __hash__ = None  # type: ignore[assignment]  # what can be changed is no key of a dict

    def __init__(self, *values: Any, **named: Any) -> None:
        kind = type(self)
        fields = kind.__slots__
        given = dict(zip(fields, values, strict=False))
        if len(given) < len(values) or not given.keys().isdisjoint(named):
            raise TypeError(f"{kind.__name__} has no more fields than {', '.join(fields)}")
        given |= named
        for name, default in kind._defaults.items():
            if name not in given:
                given[name] = default.make() if isinstance(default, _Factory) else default
        wrong = given.keys() ^ set(fields)
        if wrong:
            raise TypeError(f"{kind.__name__}: missing or unknown: {', '.join(sorted(wrong))}")
        for name, value in given.items():
            setattr(self, name, value)
        kind._made += 1
        if kind._made >= MANY:
            kind.__init__ = _fast_init(kind)  # type: ignore[method-assign]

    def copy(self, **changes: Any) -> Self:
        """Another one with the same values, except for those given. Values that can be changed are shared."""
        if changes.keys() <= set(self.__slots__):
            return type(self)(*[changes.get(name, getattr(self, name)) for name in self.__slots__])
        return type(self)(**changes)  # it says which are unknown

    __replace__ = copy  # for copy.replace, since Python 3.13

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"
