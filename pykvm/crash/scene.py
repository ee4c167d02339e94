"""Where a crash happened and what is known about it: what a report is made of."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..x86.cpu import Cpu
from ..x86.symbols import SymbolTable
from .report import Interrupted, Place
from .source import source_lines


class Kind(enum.Enum):
    """What ended the run: each is explained in its own way."""

    TRIPLE_FAULT = enum.auto()
    EMULATION = enum.auto()
    ENTRY = enum.auto()
    HALT = enum.auto()
    UNHANDLED = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a crash happened, and what is known about it besides the CPU's state."""

    cpu: Cpu
    kind: Kind
    cause: str
    vcpu: int = 0
    code: bytes = b""
    """The instruction's bytes, if KVM told them."""
    symbols: SymbolTable | None = None
    in_service: Sequence[int] = ()
    """Interrupt vectors that were handed to the CPU and are not finished."""
    is_ram: Callable[[int], bool] = lambda gpa: True
    seen: str = "directly"
    last: Sequence[tuple[int, bytes, int]] = ()
    """Linear address, bytes and width (bits) of the instructions before this one."""
    notes: Sequence[str] = ()
    interrupted: Interrupted | None = None
    vector: int | None = None
    """UNHANDLED: the exception."""


class Places:
    """What the image says about addresses: symbols, and lines of source."""

    def __init__(self, symbols: SymbolTable | None) -> None:
        self._symbols = symbols
        self._lines = source_lines(symbols) if symbols is not None else None

    def function(self, address: int) -> tuple[str, int] | None:
        """The name of the symbol and the offset in it."""
        return self._symbols.lookup(address) if self._symbols is not None else None

    def symbol(self, address: int) -> str:
        """ "main+0x12", "" if there is none."""
        found = self.function(address)
        return "" if found is None else found[0] + (f"+{found[1]:#x}" if found[1] else "")

    def place(self, address: int) -> Place:
        """All that is known."""
        symbol = self.symbol(address)
        # Functions that the linker left out are still in the debug information, at addresses that are others' now.
        return Place(address, symbol, self._lines.lookup(address) if symbol and self._lines is not None else "")

    @property
    def problems(self) -> list[str]:
        """Why something is not known, in words."""
        return [self._lines.problem] if self._lines is not None and self._lines.problem else []
