"""`typing`, `enum` and `signal` for the modules that `pykvm run` imports: checkers read those, Python next to nothing.

Annotations are never evaluated here, so that the names of `typing` in them cost nothing. To import `typing`, which
imports `re`, takes a tenth of the time from a start of `pykvm run` to its end, and its NamedTuple as much again; `enum`
and `signal`, which makes enumerations of its numbers, take a fifteenth, and our own three enumerations a fiftieth.
"""

from __future__ import annotations

from operator import itemgetter

TYPE_CHECKING = False  # for the checkers, who know the name, it is true

if TYPE_CHECKING:
    import signal as signal
    from enum import IntEnum as IntEnum
    from enum import StrEnum as StrEnum
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
    import _signal as signal  # noqa: F401  # what `signal` wraps

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

    class _EnumType(type):
        """Makes a class's numbers or strings its members, as `enum` does."""

        def __new__(mcs, name, bases, body):
            made = super().__new__(mcs, name, bases, body)
            base = made.__mro__[-2]  # int or str
            made._members = {}
            for key, value in body.items():
                if type(value) is base and key[0] != "_":
                    member = made._members.get(value)
                    if member is None:
                        member = made._members[value] = base.__new__(made, value)
                        member.__dict__.update(name=key, value=value)
                    type.__setattr__(made, key, member)
            return made

        def __call__(cls, value):
            try:
                return cls._members[value]
            except (KeyError, TypeError):
                raise ValueError(f"{value!r} is not a valid {cls.__qualname__}") from None

        def __getitem__(cls, name):
            member = cls.__dict__.get(name)
            if not isinstance(member, cls):
                raise KeyError(name)
            return member

        def __iter__(cls):
            return iter(cls._members.values())

        def __len__(cls):
            return len(cls._members)

        def __contains__(cls, value):
            return value in cls._members

        def __setattr__(cls, name, value):
            if isinstance(cls.__dict__.get(name), cls):
                raise AttributeError(f"cannot reassign member {name!r}")
            super().__setattr__(name, value)

    class _Member:
        """What all members share."""

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

        def __setattr__(self, name, value):
            raise AttributeError(f"{self!r} cannot be changed")

        def __reduce_ex__(self, protocol):
            return type(self), (self.value,)

    class IntEnum(_Member, int, metaclass=_EnumType):
        __str__ = int.__repr__

    class StrEnum(_Member, str, metaclass=_EnumType):
        __str__ = str.__str__
