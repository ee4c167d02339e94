"""QEMU's pc-testdev: what unit tests of hypervisors (kvm-unit-tests) move interrupt lines and try accesses with.

Implements what guests see of QEMU's hw/misc/pc-testdev.c: a register of 32 bits at ports 0xE0 to 0xE3; at 0xE4 to 0xE7
a request to unmap a page for a moment, which has no effect that a guest could see; the levels of the interrupt inputs
at 0x2000 to 0x2017, a byte each; and 64 KiB of memory at 0xFF000000 that are a device's. QEMU's has the register once
more at 0xE8, by bytes, where this machine's debug console is.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..device import Device, IrqLine, Range, State

FLUSH, LINES = 0x04, 0x1F20
"""Offsets."""
INPUTS = 24
MEMORY, MEMORY_SIZE = 0xFF000000, 0x10000


class PcTestdev(Device):
    """The ports; `lines` are those of the inputs 0 to 23."""

    name = "pc-testdev"
    ports = (Range(0xE0, 8), Range(0x2000, INPUTS))

    def __init__(self, lines: Sequence[IrqLine]) -> None:
        self._lines = lines
        self._value = 0

    def read(self, offset: int, size: int) -> int:
        if offset >= FLUSH:
            return super().read(offset, size)
        return self._value >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= LINES:
            if size == 1:
                self._lines[offset - LINES].set(value != 0)
        elif offset < FLUSH:
            shift = 8 * offset
            mask = (1 << 8 * size) - 1 << shift
            self._value = (self._value & ~mask | value << shift) & (1 << 32) - 1

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        if offset >= LINES:
            return f"input {offset - LINES}"
        return "flush page" if offset >= FLUSH else "register"

    def reset(self) -> None:
        self._value = 0
        for line in self._lines:
            line.set(False)

    def save(self) -> State:
        return {"value": self._value, "levels": [line.level for line in self._lines]}

    def restore(self, state: State) -> None:
        value, levels = state.get("value"), state.get("levels")
        if type(value) is not int or not 0 <= value < 1 << 32:
            raise ValueError(f"{self.name}: state field 'value' is {value!r:.20}, no number of 32 bits")
        if not isinstance(levels, list) or len(levels) != INPUTS or any(type(level) is not bool for level in levels):
            raise ValueError(f"{self.name}: state field 'levels' has not the levels of {INPUTS} inputs")
        self._value = value
        for line, level in zip(self._lines, levels, strict=True):
            line.set(level)


class PcTestdevMemory(Device):
    """The memory, which a guest's accesses reach by exits."""

    name = "pc-testdev memory"
    mmio = (Range(MEMORY, MEMORY_SIZE),)
    width = 8

    def __init__(self) -> None:
        self._content = bytearray(MEMORY_SIZE)

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._content[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self._content[offset : offset + size] = value.to_bytes(size, "little")

    def reset(self) -> None:
        self._content = bytearray(MEMORY_SIZE)

    def save(self) -> State:
        return {"content": bytes(self._content).rstrip(b"\0")}

    def restore(self, state: State) -> None:
        content = state.get("content")
        if not isinstance(content, bytes) or len(content) > MEMORY_SIZE:
            raise ValueError(f"{self.name}: state field 'content' is no memory of {MEMORY_SIZE} bytes")
        self._content = bytearray(content.ljust(MEMORY_SIZE, b"\0"))
