"""-d and -D: what is logged, on standard error or in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TextIO

from ..errors import ConfigError
from ..machine import Machine
from ..typed import Self

ADDRESSES_MOST = 1000
"""Ports and addresses that nobody answered."""


class Log:
    """Writes the `items` that are wanted. At the end come the accesses of `machine` that nobody answered."""

    def __init__(self, items: Sequence[str], path: str | None, machine: Machine) -> None:
        self._items, self._machine = set(items), machine
        self._file: TextIO = sys.stderr
        self._path = path
        if path is not None:
            try:
                self._file = open(path.replace("%d", str(os.getpid())), "w", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise ConfigError(f"-D {path}: {error.strerror}") from error

    def write(self, item: str, text: Callable[[], str]) -> None:
        """Write `text` if `item` is wanted."""
        if item in self._items:
            print(text(), end="", file=self._file, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._items & {"guest_errors", "unimp"}:
            for bus in (self._machine.ports, self._machine.mmio):
                for address, count in list(bus.unclaimed.items())[:ADDRESSES_MOST]:
                    print(f"{bus.kind} {address:#x}: nobody answered {count} accesses", file=self._file)
        if self._path is not None:
            self._file.close()
