"""Console redirection: what INT 10h prints also goes to a terminal, and what is typed there reaches INT 16h.

As in the BIOS of a server without a screen, with the terminal on COM1. Output goes straight to the terminal's port,
input is taken from the UART, but only when the guest asks for a key. Both end when the guest turns to COM1 by itself
(INT 14h, or the UART's interrupts): it would print twice, and lose what was typed.
"""

from __future__ import annotations

from collections.abc import Callable

from ..bus import PortBus
from ..device import State

COM1 = 0x3F8
IER, LSR = COM1 + 1, COM1 + 5
LSR_DATA_READY = 1
INPUT_AT_ONCE = 8
"""Bytes: the keyboard buffer has room for 15 keys."""

_ESCAPE, _DELETE = 0x1B, 0x7F


class Redirect:
    """Follows the screen's cursor on a terminal that has no more than backspace, carriage return and line feed."""

    def __init__(self, ports: PortBus, output: Callable[[bytes], None]) -> None:
        self._ports = ports
        self._output = output
        self._row = self._column = 0
        self._escape = b""
        self.on = True

    def print(self, row: int, column: int, character: int) -> None:
        """A character, in the screen's code page 437, has been put at a place of the screen."""
        if not self.on:
            return
        if row != self._row:
            self._output(b"\r\n")
            self._row, self._column = row, 0
        if column != self._column:
            self._output(b" " * (column - self._column) or b"\b" * (self._column - column))
        # Codes below 0x20 are pictures on a screen, but commands to a terminal.
        self._output(bytes((character,)).decode("cp437").encode() if 0x20 <= character != _DELETE else b".")
        self._column = column + 1

    def control(self, character: int, row: int, column: int) -> None:
        """BEL, BS, LF or CR was written with the cursor at a place of the screen."""
        if not self.on:
            return
        if row != self._row:
            self._output(b"\r\n")
            self._column = 0
        self._output(bytes((character,)))
        if character == 0x0D:
            self._column = 0
        elif character == 0x08:
            self._column = max(self._column - 1, 0)
        self._row = row + (character == 0x0A)

    def scrolled(self, lines: int = 1) -> None:
        """What is on the screen has moved up."""
        self._row = max(self._row - lines, 0)

    def cleared(self) -> None:
        """The screen is empty, the cursor at its top left."""
        if self.on and (self._row or self._column):
            self._output(b"\r\n")
        self._row = self._column = 0

    def keys(self) -> list[int]:
        """What was typed at the terminal since the last call: bytes, or 0x100 and a letter for ESC [ letter."""
        keys: list[int] = []
        read = self._ports.read
        if not self.on or self._ports.find(COM1) is None or read(IER, 1) & 0x0F:
            return keys
        for _ in range(INPUT_AT_ONCE):
            if not read(LSR, 1) & LSR_DATA_READY:
                break
            keys += self._key(read(COM1, 1))
        if self._escape == b"\x1b":  # nothing follows: it was the key itself
            keys.append(_ESCAPE)
            self._escape = b""
        return keys

    def _key(self, byte: int) -> list[int]:
        held, self._escape = self._escape, b""
        if held == b"\x1b" and byte in b"[O":
            self._escape = b"\x1b["
        elif held == b"\x1b[":
            if byte not in b"0123456789;":
                return [0x100 | byte]
            self._escape = held
        elif byte == _ESCAPE:
            self._escape = b"\x1b"
            return [_ESCAPE] if held else []
        else:
            return [*held, byte]
        return []

    def save(self) -> State:
        """Whether it is on, where the terminal's cursor is, and what has come of a key."""
        return {"redirect": self.on, "row": self._row, "column": self._column, "escape": self._escape}

    def restore(self, state: State) -> None:
        """Take back what `save` returned; ValueError if it is anything else."""
        on, row, column, escape = (state.get(name) for name in ("redirect", "row", "column", "escape"))
        if type(on) is not bool:
            raise ValueError(f"BIOS: state field 'redirect' is {on!r}, not a truth value")
        if type(row) is not int or type(column) is not int or not (0 <= row <= 0x100 and 0 <= column <= 0x100):
            raise ValueError(f"BIOS: state fields 'row' and 'column' are {row!r} and {column!r}, not 0..0x100")
        if escape not in (b"", b"\x1b", b"\x1b["):
            raise ValueError(f"BIOS: state field 'escape' is {escape!r}, not the beginning of a key's code")
        self.on, self._row, self._column, self._escape = on, row, column, escape
