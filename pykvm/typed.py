"""What type checkers read of `typing`, for the modules that `pykvm run` imports; at run time it is next to nothing.

Annotations are never evaluated here, so that the names of `typing` in them cost nothing. To import `typing`, which
imports `re`, takes a tenth of the time from a start of `pykvm run` to its end, and its NamedTuple as much again.
"""

from __future__ import annotations

from operator import itemgetter

TYPE_CHECKING = False  # for the checkers, who know the name, it is true

if TYPE_CHECKING:
    from typing import Any as Any
    from typing import ClassVar as ClassVar
    from typing import Final as Final
    from typing import NamedTuple as NamedTuple
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TypeAlias as TypeAlias
    from typing import TypeVar as TypeVar
    from typing import dataclass_transform as dataclass_transform
else:
    Any = ClassVar = Final = NoReturn = Self = TypeAlias = object

    class Protocol:
        """Base of classes that say what an object must have."""

    def TypeVar(name, **limits):  # noqa: N802  # the name in typing
        """A placeholder for a type."""
        return object

    def dataclass_transform(**settings):
        """Decorator of what makes classes as a dataclass is made."""
        return lambda made: made

    class _NamedTuple(tuple):
        """What all named tuples share; `collections.namedtuple` writes and compiles these for every class anew."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}  # noqa: RUF012  # read by its name, as that of every named tuple

        def __new__(cls, *values, **named):
            # Reached once for a class: many are declared at a start, and few of them used.
            made = next(kind for kind in cls.__mro__ if "_fields" in kind.__dict__)
            given = ", ".join(made._fields)
            made.__new__ = eval(f"lambda _cls, {given}: _new(_cls, ({given},))", {"_new": tuple.__new__})
            made.__new__.__defaults__ = tuple(made._field_defaults.values())
            made.__new__.__qualname__ = f"{made.__qualname__}.__new__"  # for what a TypeError says
            return made.__new__(cls, *values, **named)

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, /, **named):
            return type(self)(**{**self._asdict(), **named})

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"

        def __getnewargs__(self):
            return tuple(self)

    class _NamedTupleType(type):
        """Makes a named tuple, as `typing.NamedTuple` does, of a class's annotations, defaults and methods."""

        def __new__(mcs, name, bases, body):
            fields = tuple(body.pop("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            names = {field: property(itemgetter(index)) for index, field in enumerate(fields)}
            shared = {"__slots__": (), "_fields": fields, "_field_defaults": defaults, "__match_args__": fields}
            return type(name, (_NamedTuple,), {**body, **names, **shared})

    NamedTuple = type.__new__(_NamedTupleType, "NamedTuple", (), {})
