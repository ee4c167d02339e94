"""The root of every error that is meant for the user: its message says what is wrong and what to do about it."""

from __future__ import annotations


class PykvmError(Exception):
    """Base of all errors that pykvm raises for a reason outside its own code (host, image, guest, command line)."""


class ConfigError(PykvmError, ValueError):
    """The caller asked for a machine that cannot be: a bad size, two devices at one port, an unknown option."""
