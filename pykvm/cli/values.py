"""What a value on the command line may be: numbers in a range, words, paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from ..typed import Any


class ValueKind:
    """What a value on the command line may be. `name` stands for it in the help."""

    name = "text"

    def convert(self, text: str) -> Any:
        """The value that `text` means; ValueError, with words for the user, if it means none."""
        return text

    @property
    def shown(self) -> str:
        """How the help shows a place for such a value."""
        return self.name.upper()


class Number(ValueKind):
    """An integer or, as `of` says, a float; at least `min`, or more than it if `min_open`."""

    def __init__(
        self, of: type[int] | type[float], min: float | None = None, max: float | None = None, min_open: bool = False
    ) -> None:
        self.of, self.min, self.max, self.min_open = of, min, max, min_open
        self.name = ("integer" if of is int else "float") + ("" if min is None and max is None else " range")

    def convert(self, text: str) -> int | float:
        try:
            value = self.of(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a valid {self.name}.") from None
        low = self.min is None or (value > self.min if self.min_open else value >= self.min)
        if low and (self.max is None or value <= self.max):
            return value
        raise ValueError(f"{value} is not in the range {self.range}.")

    @property
    def range(self) -> str:
        """The limits in words, empty if there are none."""
        if self.max is None:
            return "" if self.min is None else f"x>{self.min}" if self.min_open else f"x>={self.min}"
        return f"x<={self.max}" if self.min is None else f"{self.min}<{'' if self.min_open else '='}x<={self.max}"


def IntRange(min: int | None = None, max: int | None = None) -> Number:  # noqa: N802  # a kind, as the others are
    """An integer between limits."""
    return Number(int, min, max)


def FloatRange(  # noqa: N802
    min: float | None = None, max: float | None = None, *, min_open: bool = False
) -> Number:
    """A number between limits."""
    return Number(float, min, max, min_open)


class Choice(ValueKind):
    """One of a few words."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)

    def convert(self, text: str) -> str:
        if text not in self.words:
            raise ValueError(f"{text!r} is not one of {', '.join(map(repr, self.words))}.")
        return text

    @property
    def shown(self) -> str:
        return f"[{'|'.join(self.words)}]"


class Path(ValueKind):
    """A path of something that can be read, or with `writable` be written, if it is there; with `exists` it must be.

    `allow_dash` allows "-", too. `path_type` makes the value from the text.
    """

    def __init__(
        self,
        exists: bool = False,
        file_okay: bool = True,
        dir_okay: bool = True,
        writable: bool = False,
        allow_dash: bool = False,
        path_type: Callable[[str], Any] = str,
    ) -> None:
        self.exists, self.file_okay, self.dir_okay, self.path_type = exists, file_okay, dir_okay, path_type
        self.writable, self.allow_dash = writable, allow_dash
        self.name = "directory" if not file_okay else "file" if not dir_okay else "path"

    def convert(self, text: str) -> Any:
        what = self.name.capitalize()
        if text == "-" and self.allow_dash:
            return text
        if not os.path.exists(text):
            if self.exists:
                raise ValueError(f"{what} {text!r} does not exist.")
        elif not self.dir_okay and os.path.isdir(text):
            raise ValueError(f"{what} {text!r} is a directory.")
        elif not self.file_okay and not os.path.isdir(text):
            raise ValueError(f"{what} {text!r} is a file.")
        elif not os.access(text, os.R_OK):
            raise ValueError(f"{what} {text!r} is not readable.")
        elif self.writable and not os.access(text, os.W_OK):
            raise ValueError(f"{what} {text!r} is not writable.")
        return self.path_type(text)


def kind_of(given: Any) -> ValueKind:
    """The ValueKind that `given` is or, as int, float or str, stands for."""
    if isinstance(given, ValueKind):
        return given
    return Number(given) if given in (int, float) else ValueKind()
