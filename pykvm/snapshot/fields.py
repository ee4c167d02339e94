"""Fields of a state that anybody may have written: each has the type that it must have, or ValueError says so."""

from __future__ import annotations

from typing import Any


def number(state: dict[str, Any], name: str, most: int) -> int:
    """A number from 0 to `most`."""
    value = state.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} is {value!r:.40}, not a number from 0 to {most}")
    return value


def flag(state: dict[str, Any], name: str) -> bool:
    """A truth value."""
    value = state.get(name)
    if type(value) is not bool:
        raise ValueError(f"{name} is {value!r:.40}, not a truth value")
    return value


def table(state: dict[str, Any], name: str) -> dict[str, Any]:
    """A table."""
    value = state.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name!r} is not a table")
    return value


def items(state: dict[str, Any], name: str) -> list[Any]:
    """A list."""
    value = state.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name!r} is not a list")
    return value
