"""What an image says about addresses in its code: symbols, and lines of source."""

from __future__ import annotations

from functools import cached_property

from ..x86.symbols import SymbolTable
from .findings import Place
from .source import image_code, source_lines


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

    def code(self, address: int, size: int) -> bytes:
        """What the image has at an address, whatever is there now; b"" if it has nothing."""
        for start, content in self._code:
            if 0 <= address - start < len(content):
                return content[address - start : address - start + size]
        return b""

    @cached_property
    def _code(self) -> list[tuple[int, bytes]]:
        return image_code(self._symbols) if self._symbols is not None else []

    def place(self, address: int) -> Place:
        """All that is known."""
        symbol = self.symbol(address)
        # Functions that the linker left out are still in the debug information, at addresses that are others' now.
        return Place(address, symbol, self._lines.lookup(address) if symbol and self._lines is not None else "")

    @property
    def problems(self) -> list[str]:
        """Why something is not known, in words."""
        return [self._lines.problem] if self._lines is not None and self._lines.problem else []
