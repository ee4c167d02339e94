"""Guest RAM: one memfd, mapped once, and the one gate through which everything on the host reaches it.

Layout of a PC (Intel 440FX data sheet, section 4.1; also what every E820 map since shows): RAM fills guest physical
addresses from 0 up to at most 3 GiB, the gigabyte below 4 GiB belongs to devices, and what is left continues at 4 GiB.
The memfd has no hole: its offset N is the N-th byte of RAM. Pages are committed when first touched. RAM may also begin
as an image in a file, copy-on-write: its pages are the file's until they are written.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

from .errors import ConfigError, HostError, PykvmError, refused_by_host
from .typed import NamedTuple

PAGE_SIZE = 4096
LOW_LIMIT = 3 << 30
"""RAM below 4 GiB ends here at the latest: 3 GiB."""
HIGH_BASE = 4 << 30
"""Where the rest of RAM continues: 4 GiB."""
MAX_RAM = 1 << 46
"""Largest RAM in bytes: what a 4-level page table of the host can map, with room for the host itself."""

_ZEROS = 1 << 20
_NORESERVE = 0x4000
"""MAP_NORESERVE (asm-generic/mman.h), which Python's mmap does not name."""
_ENTRIES = 1 << 15
"""Entries of a page table that are looked at together."""

HEX_DIGITS = "0123456789abcdefABCDEF"

_UNITS = {
    letter + suffix: 1 << 10 * power
    for power, letter in enumerate(("", "K", "M", "G", "T"))
    for suffix in ("", "B", "IB")
}


class GuestMemoryError(PykvmError):
    """An access that is not wholly inside one region of guest RAM. `gpa` and `size` say which."""

    def __init__(self, gpa: int, size: int) -> None:
        super().__init__(f"guest physical {gpa:#x}+{size:#x} is not in RAM")
        self.gpa = gpa
        self.size = size


def parse_size(text: str | int) -> int:
    """A size in bytes from `64M`, `8G`, `0x100000` or a plain number; K, M, G and T are powers of 1024.

    Raises ConfigError for anything else.
    """
    if isinstance(text, int):
        return text
    if not isinstance(text, str):
        raise ConfigError(f'{text!r} is not a size: give a number of bytes, or text such as "64M"')
    # No regular expression: compiling one would take as long as making the virtual machine.
    words = text.strip()
    prefix, base, digits = (2, 16, HEX_DIGITS) if words[:2] in ("0x", "0X") else (0, 10, HEX_DIGITS[:10])
    number = words[prefix:]
    unit = number.lstrip(digits)
    number = number.removesuffix(unit)
    scale = _UNITS.get(unit.strip().upper())
    if scale is None or not 0 < len(number) <= 20:
        raise ConfigError(f"{text!r} is not a size: give a number with K, M, G or T behind it, such as 64M")
    return int(number, base) * scale


def map_copy(fd: int, size: int) -> mmap.mmap:
    """Map `size` bytes of a file copy-on-write. Only pages that are written take up memory, and none is set aside."""
    return mmap.mmap(fd, size, mmap.MAP_PRIVATE | _NORESERVE)


class Region(NamedTuple):
    """A run of RAM: `size` bytes at guest physical `gpa`, from `offset` of the memfd on."""

    gpa: int
    size: int
    offset: int


class GuestMemory:
    """RAM of `size` bytes (int, or text such as "64M"), a positive multiple of 4 KiB.

    It starts as zeros, or as the content of the descriptor `image`, which is mapped copy-on-write and stays the
    caller's: what is written is this RAM's alone, and nothing is read before it is used. The file must have `size`
    bytes, and its content must not change, as long as the RAM is in use.
    """

    def __init__(self, size: str | int, image: int | None = None) -> None:
        self.size = parse_size(size)
        if self.size <= 0 or self.size % PAGE_SIZE or self.size > MAX_RAM:
            raise ConfigError(f"RAM of {size} is not possible: give a multiple of 4K between 4K and {MAX_RAM >> 40}T")
        low = min(self.size, LOW_LIMIT)
        self.regions = [Region(0, low, 0)]
        if self.size > low:
            self.regions.append(Region(HIGH_BASE, self.size - low, low))
        self._low = low
        self._high_end = HIGH_BASE + self.size - low if self.size > low else 0
        self.private = image is not None
        """Whether the RAM began as an image."""
        self.written: set[int] | None = None
        """Where it is a set, the numbers of the pages that the host writes are added to it: page N is at offset
        N * 4096. What the guest writes, KVM's dirty log has."""
        self.fd = -1
        """The memfd; -1 for RAM that began as an image, whose mapping is all there is of it."""
        try:
            if image is None:
                self.fd = os.memfd_create("pykvm-ram", os.MFD_CLOEXEC)
                os.ftruncate(self.fd, self.size)
                self.map = mmap.mmap(self.fd, self.size)
            else:
                self.map = map_copy(image, self.size)
        except (OSError, ValueError, OverflowError) as error:
            self._close_fd()
            refused = refused_by_host(error)
            if refused is not None:
                raise HostError(f"the host cannot map {self.size >> 20} MiB of RAM for the guest: {refused}") from error
            why = "its file is smaller" if isinstance(error, ValueError) else getattr(error, "strerror", None) or error
            raise ConfigError(f"the host cannot map {self.size >> 20} MiB of RAM for the guest: {why}") from error

    def offset(self, gpa: int, size: int) -> int:
        """The offset in the memfd of `size` bytes at `gpa`; GuestMemoryError unless all of them are in one region.

        The only bounds check there is: every other method goes through it.
        """
        if size >= 0:
            if gpa >= 0 and gpa + size <= self._low:
                return gpa
            if gpa >= HIGH_BASE and gpa + size <= self._high_end:
                return gpa - HIGH_BASE + self._low
        raise GuestMemoryError(gpa, size)

    def read(self, gpa: int, size: int) -> bytes:
        """Copy `size` bytes out."""
        at = self.offset(gpa, size)
        return self.map[at : at + size]

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` in."""
        size = len(data)
        at = self.offset(gpa, size)
        self.map[at : at + size] = data
        if self.written is not None:
            self._note(at, size)

    def _note(self, at: int, size: int) -> None:
        if self.written is not None and size:
            self.written.update(range(at // PAGE_SIZE, (at + size - 1) // PAGE_SIZE + 1))

    def note(self, gpa: int, size: int) -> None:
        """Somebody has written there through `map`."""
        self._note(self.offset(gpa, size), size)

    def read_linear(self, address: int, size: int, translate: Callable[[int], int | None]) -> bytes:
        """At most `size` bytes at a linear address; fewer where the mapping, or RAM, ends.

        `translate` gives the guest physical address of a linear one, or None.
        """
        data = b""
        while len(data) < size:
            at = address + len(data) & (1 << 64) - 1
            if 1 << 47 <= at < (1 << 64) - (1 << 47):  # not canonical: KVM would look only at the low bits
                break
            physical = translate(at)
            if physical is None:
                break
            try:
                data += self.read(physical, min(size - len(data), PAGE_SIZE - at % PAGE_SIZE))
            except GuestMemoryError:
                break
        return data

    def zero(self, gpa: int, size: int) -> None:
        """Fill with zeros. Whole pages are given back to the host, so that untouched ones are not committed."""
        at = self.offset(gpa, size)
        self._note(at, size)
        end = at + size
        if self.private:  # to give a page back would bring the image's again
            for start in range(at, end, _ZEROS):
                self.map[start : min(start + _ZEROS, end)] = bytes(min(_ZEROS, end - start))
            return
        first, last = -(-at // PAGE_SIZE) * PAGE_SIZE, end // PAGE_SIZE * PAGE_SIZE
        if first >= last:
            self.map[at:end] = bytes(size)
            return
        self.map[at:first] = bytes(first - at)
        self.map.madvise(mmap.MADV_REMOVE, first, last - first)
        self.map[last:end] = bytes(end - last)

    def read_int(self, gpa: int, size: int) -> int:
        """An unsigned little-endian integer of `size` bytes."""
        return int.from_bytes(self.read(gpa, size), "little")

    def write_int(self, gpa: int, size: int, value: int) -> None:
        """Store the low `size` bytes of `value`, little-endian."""
        self.write(gpa, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def committed(self) -> int:
        """Bytes of host memory that the RAM takes up now; without the image that it began as."""
        if self.private:
            return len(self.own_pages()) * PAGE_SIZE
        return os.fstat(self.fd).st_blocks * 512

    def own_pages(self) -> list[int]:
        """The numbers of the pages that RAM which began as an image has of its own, because they were written."""
        import ctypes  # slow to import, and few ask

        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        pages = []
        untouched = bytes(8 * _ENTRIES)
        with open("/proc/self/pagemap", "rb", buffering=0) as table:
            for first in range(0, self.size // PAGE_SIZE, _ENTRIES):
                count = min(_ENTRIES, self.size // PAGE_SIZE - first)
                raw = os.pread(table.fileno(), 8 * count, (address // PAGE_SIZE + first) * 8)
                if raw != untouched:
                    # Documentation/admin-guide/mm/pagemap.rst: bit 63 present, 62 swapped, 61 the page is a file's.
                    entries = enumerate(memoryview(raw).cast("Q"), first)
                    pages += [page for page, entry in entries if entry >> 62 and not entry >> 61 & 1]
        return pages

    def close(self) -> None:
        """Unmap and free the RAM. BufferError if a view of it is still held."""
        if not self.map.closed:
            self.map.close()
            self._close_fd()

    def _close_fd(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
