"""Fields of a state that anybody may have written: each has the type that it must have, or ValueError says so."""

from __future__ import annotations

from typing import Any

from ..kvm.structs import as_table


def number(state: dict[str, Any], name: str, most: int, least: int = 0) -> int:
    """A number from `least` to `most`."""
    value = state.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {value!r:.40}, not a number from {least} to {most}")
    return value


def flag(state: dict[str, Any], name: str) -> bool:
    """A truth value."""
    value = state.get(name)
    if type(value) is not bool:
        raise ValueError(f"{name} is {value!r:.40}, not a truth value")
    return value


def text(state: dict[str, Any], name: str) -> str:
    """A text."""
    value = state.get(name)
    if type(value) is not str:
        raise ValueError(f"{name} is {value!r:.40}, not a text")
    return value


def file_name(state: dict[str, Any], name: str) -> str:
    """A text that the system takes as the path of a file."""
    value = text(state, name)
    if not value or "\0" in value:
        raise ValueError(f"{name} is {value!r:.40}, not a path")
    return value


def table(state: dict[str, Any], name: str) -> dict[str, Any]:
    """A table."""
    return as_table(state.get(name), name)


def items(state: dict[str, Any], name: str) -> list[Any]:
    """A list."""
    value = state.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r:.40}, not a list")
    return value


def texts(state: dict[str, Any], name: str) -> list[str]:
    """A list of texts."""
    values = items(state, name)
    if not all(type(value) is str for value in values):
        raise ValueError(f"{name} is not a list of texts")
    return values
