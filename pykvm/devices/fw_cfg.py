"""QEMU's firmware configuration device: named and numbered items of bytes that a guest's firmware reads.

Implements: QEMU, docs/specs/fw_cfg ("QEMU Firmware Configuration (fw_cfg) Device"), its I/O port form with the DMA
interface. All items are read-only to the guest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from ..device import Device, Range, State
from ..errors import ConfigError
from ..memory import GuestMemoryError

SIGNATURE_KEY, ID_KEY, RAM_SIZE_KEY, NB_CPUS_KEY, MAX_CPUS_KEY = 0x00, 0x01, 0x03, 0x05, 0x0F
DIRECTORY_KEY = 0x19
_KEY_NAMES = {
    SIGNATURE_KEY: "signature", ID_KEY: "id", RAM_SIZE_KEY: "RAM size", NB_CPUS_KEY: "CPUs", MAX_CPUS_KEY: "most CPUs",
    DIRECTORY_KEY: "file directory",
}  # fmt: skip
FIRST_FILE_KEY = 0x20
WRITE_CHANNEL, ARCH_LOCAL = 1 << 14, 1 << 15
"""Bits of a key: the first one means nothing any more, the second one makes a second range of items."""

ID_TRADITIONAL, ID_DMA = 1, 2
DMA_SIGNATURE = b"QEMU CFG"
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4

NAME_SIZE = 56
"""Bytes of a file's name in the directory, the NUL at the end among them."""
FILL_LIMIT = 1 << 20
"""Most zeros in bytes that one DMA read takes after the end of an item; a longer one is an error."""

_SELECTOR, _DATA, _DMA_HIGH, _DMA_LOW = 0, 1, 4, 8
_DESCRIPTOR = struct.Struct(">IIQ")


class FwCfg(Device):
    """The device at ports 0x510 to 0x51B.

    `read_memory(gpa, size)` and `write_memory(gpa, data)` are the DMA interface's way to guest RAM; they raise
    GuestMemoryError for what is outside.
    """

    name = "fw_cfg"
    ports = (Range(0x510, 1), Range(0x511, 1), Range(0x514, 8))
    width = 4
    moved_by_host = False

    def __init__(self, read_memory: Callable[[int, int], bytes], write_memory: Callable[[int, bytes], None]) -> None:
        self._read_memory = read_memory
        self._write_memory = write_memory
        self._files: list[tuple[str, bytes]] = []
        self._items = {
            SIGNATURE_KEY: b"QEMU",
            ID_KEY: struct.pack("<I", ID_TRADITIONAL | ID_DMA),
            DIRECTORY_KEY: struct.pack(">I", 0),
        }
        self.reset()

    def add_item(self, key: int, data: bytes) -> None:
        """Add a numbered item: `key` 0x02 to 0x1F, or 0x8000 to 0xBFFF for what only x86 has.

        ConfigError if the key is taken, or is not one of these.
        """
        if not (SIGNATURE_KEY <= key < FIRST_FILE_KEY or ARCH_LOCAL <= key < ARCH_LOCAL | WRITE_CHANNEL):
            raise ConfigError(f"fw_cfg item {key:#x}: a key is 0x2..0x1f or 0x8000..0xbfff")
        if key in self._items:
            raise ConfigError(f"fw_cfg item {key:#x} is there already")
        self._items[key] = data

    def add_file(self, name: str, data: bytes) -> None:
        """Add a named item, such as "etc/e820"; `name` is 1 to 55 printable ASCII characters.

        ConfigError if the name is taken or is none.
        """
        if not 1 <= len(name) < NAME_SIZE or not name.isascii() or not name.isprintable():
            raise ConfigError(f"fw_cfg file {name!r}: a name is 1 to {NAME_SIZE - 1} printable ASCII characters")
        if any(name == other for other, _ in self._files):
            raise ConfigError(f"fw_cfg file {name!r} is there already")
        key = FIRST_FILE_KEY + len(self._files)
        if key >= WRITE_CHANNEL:
            raise ConfigError(f"fw_cfg file {name!r} is one too many")
        self._files.append((name, data))
        self._items[key] = data
        self._items[DIRECTORY_KEY] = struct.pack(">I", len(self._files)) + b"".join(
            struct.pack(f">IHH{NAME_SIZE}s", len(content), FIRST_FILE_KEY + at, 0, title.encode("ascii"))
            for at, (title, content) in enumerate(self._files)
        )

    def reset(self) -> None:
        self._select(SIGNATURE_KEY)
        self._dma_high = 0

    def _select(self, key: int) -> None:
        self._key = key
        self._item = self._items.get(key & ~WRITE_CHANNEL, b"")
        self._offset = 0

    def _take(self, count: int) -> bytes:
        """The next `count` bytes of the item, with zeros after its end."""
        data = self._item[self._offset : self._offset + count]
        self._offset += len(data)
        return data.ljust(count, b"\0")

    def read(self, offset: int, size: int) -> int:
        if offset == _DATA:
            return int.from_bytes(self._take(size), "little")
        if offset >= _DMA_HIGH:
            at = offset - _DMA_HIGH
            return int.from_bytes(DMA_SIGNATURE[at : at + size].ljust(size, b"\xff"), "little")
        return (1 << 8 * size) - 1

    register_names: Mapping[int, str] = {
        _SELECTOR: "selector", _DATA: "data", _DMA_HIGH: "DMA address high", _DMA_LOW: "DMA address low",
    }  # fmt: skip

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return _KEY_NAMES.get(value, "") if register == "selector" else ""

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        if offset == _DATA:
            return self._take(size * count)
        return super().read_block(offset, size, count)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == _SELECTOR and size == 2:
            self._select(value)
        elif offset == _DMA_HIGH and size == 4:
            self._dma_high = _swap(value)
        elif offset == _DMA_LOW and size == 4:
            address = self._dma_high << 32 | _swap(value)
            self._dma_high = 0
            self._dma(address)

    def _dma(self, address: int) -> None:
        """Carry out the operation that the descriptor at `address` describes, and tell the result there.

        A descriptor outside RAM is ignored: there is no place for an error.
        """
        try:
            control, length, target = _DESCRIPTOR.unpack(self._read_memory(address, _DESCRIPTOR.size))
            self._write_memory(address, struct.pack(">I", 0 if self._transfer(control, length, target) else DMA_ERROR))
        except GuestMemoryError:
            return

    def _transfer(self, control: int, length: int, target: int) -> bool:
        """Whether the operation succeeded."""
        if control & DMA_SELECT:
            self._select(control >> 16)
        left = len(self._item) - self._offset
        if control & DMA_READ:
            if length > left + FILL_LIMIT:
                return False
            try:
                self._write_memory(target, self._take(length))
            except GuestMemoryError:
                return False
        elif control & DMA_WRITE:
            return length == 0
        elif control & DMA_SKIP:
            self._offset += min(length, left)
        return True

    def save(self) -> State:
        return {"key": self._key, "offset": self._offset, "dma_high": self._dma_high}

    def restore(self, state: State) -> None:
        key, offset, dma_high = (state.get(name) for name in ("key", "offset", "dma_high"))
        if type(key) is not int or not 0 <= key <= 0xFFFF:
            raise ValueError(f"{self.name}: state field 'key' is {key!r}, not 0..0xffff")
        size = len(self._items.get(key & ~WRITE_CHANNEL, b""))
        if type(offset) is not int or not 0 <= offset <= size:
            raise ValueError(f"{self.name}: state field 'offset' is {offset!r}, not 0..{size}")
        if type(dma_high) is not int or not 0 <= dma_high <= 0xFFFF_FFFF:
            raise ValueError(f"{self.name}: state field 'dma_high' is {dma_high!r}, not 0..0xffffffff")
        self._select(key)
        self._offset = offset
        self._dma_high = dma_high


def _swap(value: int) -> int:
    """The DMA address register is big-endian, the ports are little-endian."""
    return int.from_bytes(value.to_bytes(4, "little"), "big")
