"""A table of a TOML file, read key by key: what is missing, misspelt or of the wrong type is told by its key's name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeVar

from ..errors import ConfigError

Value = TypeVar("Value")

_TYPES = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a table"
}  # fmt: skip


class TomlTable:
    """The keys of one table; `done` says whether all of them were asked for."""

    def __init__(self, where: str, values: dict[str, Any]) -> None:
        self.where = where
        """What an error calls it: the file and the way to the table."""
        self._values = dict(values)
        self._asked: set[str] = set()

    def error(self, key: str, message: str) -> ConfigError:
        """What to raise for the value of `key`."""
        return ConfigError(f"{self.where}: {key} {message}")

    def has(self, key: str) -> bool:
        """Whether it was given."""
        return key in self._values

    def get(self, key: str, kind: type[Value], default: Value | None = None) -> Value:
        """The value of `key`, of that type. Without a default it must be there."""
        self._asked.add(key)
        if key not in self._values:
            if default is None:
                raise ConfigError(f"{self.where}: {key} is missing")
            return default
        value = self._values[key]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.error(key, f"is {value!r}, not {_TYPES[kind]}")
        return value

    def number(self, key: str, default: float, most: float) -> float:
        """A number above 0, and at most `most`."""
        value = self.get(key, float, float(default))
        if not 0 < value <= most:
            raise self.error(key, f"is {value:g}, not above 0 and at most {most:g}")
        return value

    def pattern(self, key: str) -> re.Pattern[bytes] | None:
        """A regular expression for the guest's output; None if it is not given."""
        text = self.get(key, str, "")
        return self._compiled(key, text) if text else None

    def patterns(self, key: str) -> tuple[re.Pattern[bytes], ...]:
        """One regular expression, or a list of them."""
        texts = self.texts(key)
        return tuple(self._compiled(key, text) for text in texts)

    def texts(self, key: str) -> tuple[str, ...]:
        """One text, or a list of them."""
        if isinstance(self._values.get(key), str):
            return (self.get(key, str),)
        texts = self.get(key, list, [])
        if not all(isinstance(text, str) for text in texts):
            raise self.error(key, "is not a list of texts")
        return tuple(texts)

    def _compiled(self, key: str, text: str) -> re.Pattern[bytes]:
        try:
            return re.compile(text.encode(), re.MULTILINE)
        except re.error as error:
            raise self.error(key, f"is no regular expression: {text!r}: {error}") from None

    def table(self, key: str) -> TomlTable:
        """The table of that name; an empty one if there is none."""
        return TomlTable(f"{self.where}, [{key}]", self.get(key, dict, {}))

    def tables(self, key: str, name: str) -> Iterator[TomlTable]:
        """The tables of a list, each called `name` and its number."""
        for number, values in enumerate(self.get(key, list, []), 1):
            if not isinstance(values, dict):
                raise self.error(key, f"has {values!r}, which is no table")
            yield TomlTable(f"{self.where}, {name} {number}", values)

    def named(self, key: str) -> Iterator[tuple[str, TomlTable]]:
        """The tables in the table of that name, by their own names."""
        for name, values in self.get(key, dict, {}).items():
            if not isinstance(values, dict):
                raise self.error(key, f"has {name!r}, which is no table")
            yield name, TomlTable(f"{self.where}, [{key}.{name}]", values)

    def done(self) -> None:
        """ConfigError if there is a key that nobody has asked for."""
        for key in self._values:
            if key not in self._asked:
                raise ConfigError(f"{self.where}: there is no {key!r} here, but: {', '.join(sorted(self._asked))}")
