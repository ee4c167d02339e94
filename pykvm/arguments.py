"""Slips in a call that Python lets through, or answers with a TypeError far from the place: what to write instead."""

from __future__ import annotations

import os
from collections.abc import Iterable

from .errors import ConfigError
from .typed import Any

LEAST_PLAIN_SIZE = 64 << 10
"""A plain number of bytes of RAM below this one is a slip: somebody counts in MiB, as QEMU does."""


def require_number(name: str, value: Any) -> None:
    """ConfigError unless `value` is a whole number."""
    if not isinstance(value, int):
        raise ConfigError(f"{name}={value!r} is no whole number: write {name}=2, for example")


def require_list(name: str, value: Any) -> None:
    """ConfigError if `value` is one thing where a list of them is wanted: a text would be taken letter by letter."""
    if isinstance(value, (str, bytes, os.PathLike)) or not isinstance(value, Iterable):
        raise ConfigError(f"{name} is a list, even of one: write {name}=[{value!r}]")


def require_size(value: Any) -> None:
    """ConfigError if RAM of `value` bytes must be meant to be something else."""
    if isinstance(value, int) and 0 < value < LEAST_PLAIN_SIZE:
        raise ConfigError(f'memory={value} is {value} bytes: did you mean "{value}M"?')


def require_seconds(name: str, value: Any) -> None:
    """ConfigError unless `value` is a number, or None."""
    if value is not None and not isinstance(value, (int, float)):
        raise ConfigError(f"{name}={value!r} is no number of seconds: write {name}=2.5, for example")


def require_address(decorator: str, given: Any) -> None:
    """ConfigError unless a decorator got a number: without parentheses it gets the function that its result is for."""
    if callable(given):
        raise ConfigError(f"@machine.{decorator} names no address: write @machine.{decorator}(0x100), for example")
    if not isinstance(given, int):
        raise ConfigError(f"@machine.{decorator} takes a number, not {given!r}: write @machine.{decorator}(0x100, 2)")
