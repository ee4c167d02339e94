"""Ports that exist in emulators only, through which a guest prints a character or ends the machine.

Implements: QEMU's `isa-debug-exit` and `isa-debugcon` devices (hw/misc/debugexit.c, hw/char/debugcon.c); Bochs' port
0xE9 and its shutdown port 0x8900 (iodev/unmapped.cc), which QEMU before 2.4 had too.
"""

from __future__ import annotations

from collections.abc import Callable

from ..device import Device, Range, State, character


class DebugExit(Device):
    """Any write to the `length` ports (1 or more) from `base` on ends the machine: `on_exit` is given the value.

    It is the raw value as wide as the write; QEMU makes the process status value * 2 + 1 of it. QEMU's iosize is
    `length`. Guests expect it at 0xF4 with four ports (Rust kernels, kvm-unit-tests) or at 0x501 with two (Pintos).
    """

    def __init__(self, on_exit: Callable[[int], None], base: int = 0xF4, length: int = 4) -> None:
        self.name = f"exit port {base:#x}"
        self.ports = (Range(base, length),)
        # As in QEMU, a write that is wider than the range is cut at its end.
        self.width = 4 if length >= 4 else 2 if length >= 2 else 1
        self._on_exit = on_exit

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        return "exit"

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return f"status {value * 2 + 1}" if is_write else ""

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._on_exit(value)


class DebugConsole(Device):
    """A port that prints: each byte written goes to `write`. Reading gives 0xE9, by which a guest finds it."""

    name = "debug console"
    width = 1

    def __init__(self, write: Callable[[bytes], None], port: int = 0xE9) -> None:
        self.ports = (Range(port, 1),)
        self._write = write

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        return "output"

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return character(value) if is_write else ""

    def read(self, offset: int, size: int) -> int:
        return 0xE9

    def write(self, offset: int, size: int, value: int) -> None:
        self._write(bytes((value,)))

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        self._write(data)


class ShutdownPort(Device):
    """Writing the bytes of "Shutdown" one after the other calls `on_shutdown`.

    Bochs' rule is taken, the more lenient one: a letter of the word that is not the next one is ignored, any other
    byte makes it start over. (QEMU started over at a letter out of turn, too.)
    """

    name = "shutdown port"
    width = 1
    moved_by_host = False

    WORD = b"Shutdown"

    def __init__(self, on_shutdown: Callable[[], None], port: int = 0x8900) -> None:
        self.ports = (Range(port, 1),)
        self._on_shutdown = on_shutdown
        self._matched = 0

    def write(self, offset: int, size: int, value: int) -> None:
        if value == self.WORD[self._matched]:
            self._matched += 1
            if self._matched == len(self.WORD):
                self._matched = 0
                self._on_shutdown()
        elif value not in self.WORD:
            self._matched = 0

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        return "letter"

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return character(value) if is_write else ""

    def reset(self) -> None:
        self._matched = 0

    def save(self) -> State:
        return {"matched": self._matched}

    def restore(self, state: State) -> None:
        matched = state.get("matched")
        if type(matched) is not int or not 0 <= matched < len(self.WORD):
            raise ValueError(f"{self.name}: state field 'matched' is {matched!r}, not 0..{len(self.WORD) - 1}")
        self._matched = matched
