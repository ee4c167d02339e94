"""What type checkers read of `typing`, for the modules that `pykvm run` imports; at run time it is next to nothing.

Annotations are never evaluated here, so that the names of `typing` in them cost nothing. To import `typing`, which
imports `re`, takes a tenth of the time from a start of `pykvm run` to its end, and its NamedTuple as much again.
"""

from __future__ import annotations

from collections import namedtuple

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

    class _NamedTupleType(type):
        """Makes a `collections.namedtuple` of a class's annotations, with the class's defaults and methods."""

        def __new__(mcs, name, bases, body):
            fields = body.pop("__annotations__", {})
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body.pop("__module__"))
            for attribute, value in body.items():
                setattr(made, attribute, value)
            return made

    NamedTuple = type.__new__(_NamedTupleType, "NamedTuple", (), {})
