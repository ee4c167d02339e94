"""AML, the bytecode of the DSDT: each function gives the encoding of the ASL term of that name.

Source: ACPI specification 6.5, chapter 20 (AML), 19 (ASL) and 6.4 (resource descriptors).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence


def sized(content: bytes) -> bytes:
    """PkgLength, which counts itself, and what it is the length of (20.2.4)."""
    if len(content) < 0x3F:
        return bytes([len(content) + 1]) + content
    more = 1 if len(content) + 2 < 1 << 12 else 2
    size = len(content) + 1 + more
    if size >= 1 << 20:
        raise ValueError("a package of this size is not made here")
    return bytes([more << 6 | size & 0xF]) + (size >> 4).to_bytes(more, "little") + content


def name(name: bytes, value: bytes) -> bytes:
    return b"\x08" + name + value


def integer(value: int) -> bytes:
    if value < 2:
        return bytes([value])  # ZeroOp, OneOp
    return bytes([0x0A, value]) if value < 1 << 8 else b"\x0c" + value.to_bytes(4, "little")


def package(values: Sequence[int | bytes]) -> bytes:
    """A package of numbers and of terms that are encoded already."""
    terms = [value if isinstance(value, bytes) else integer(value) for value in values]
    return b"\x12" + sized(bytes([len(terms)]) + b"".join(terms))


def device(name: bytes, *terms: bytes) -> bytes:
    return b"\x5b\x82" + sized(name + b"".join(terms))


def hid(text: str) -> bytes:
    """_HID with an EISA ID: three letters of 5 bits each and four digits, most significant byte first (19.3.4)."""
    letters = 0
    for letter in text[:3]:
        letters = letters << 5 | ord(letter) - 0x40
    return name(b"_HID", b"\x0c" + struct.pack(">I", letters << 16 | int(text[3:], 16)))


# Resource descriptors (6.4)


def crs(*descriptors: bytes, called: bytes = b"_CRS") -> bytes:
    """A resource template, under that name."""
    data = b"".join(descriptors) + b"\x79\0"  # the end tag; its checksum of 0 is always right
    return name(called, b"\x11" + sized(b"\x0a" + bytes([len(data)]) + data))


def io(port: int, length: int) -> bytes:
    """Ports that the device itself answers, decoded with 16 bits."""
    return struct.pack("<BBHHBB", 0x47, 1, port, port, 1, length)


def irq(number: int) -> bytes:
    """An edge-triggered ISA interrupt."""
    return struct.pack("<BH", 0x22, 1 << number)


MEMORY_WINDOW, IO_WINDOW, BUS_WINDOW = 0, 1, 2
_FIXED = 0x0C
"""Neither end of a window can be moved."""


def window(kind: int, first: int, last: int) -> bytes:
    """A range that a bridge passes on to its bus."""
    if kind == MEMORY_WINDOW:
        return struct.pack("<BHBBB5I", 0x87, 23, kind, _FIXED, 1, 0, first, last, 0, last - first + 1)
    entire = 3 if kind == IO_WINDOW else 0
    return struct.pack("<BHBBB5H", 0x88, 13, kind, _FIXED, entire, 0, first, last, 0, last - first + 1)


def interrupt(*numbers: int) -> bytes:
    """An extended interrupt descriptor (6.4.3.6): level-triggered, active low, shared, as PCI's are."""
    return struct.pack(f"<BHBB{len(numbers)}I", 0x89, 2 + 4 * len(numbers), 0b1101, len(numbers), *numbers)


# Methods

ARG0 = b"\x68"


def method(name: bytes, arguments: int, *terms: bytes) -> bytes:
    """A method that takes so many arguments and is not entered twice."""
    return b"\x14" + sized(name + bytes([1 << 3 | arguments]) + b"".join(terms))


def store(value: bytes, target: bytes) -> bytes:
    return b"\x70" + value + target


def bit_and(one: bytes, other: bytes) -> bytes:
    """And, whose result is stored nowhere."""
    return b"\x7b" + one + other + b"\0"


def if_(condition: bytes, *terms: bytes) -> bytes:
    return b"\xa0" + sized(condition + b"".join(terms))


def not_(condition: bytes) -> bytes:
    """LNot."""
    return b"\x92" + condition


def return_(value: bytes) -> bytes:
    return b"\xa4" + value


def create_dword_field(buffer: bytes, at: int, name: bytes) -> bytes:
    return b"\x8a" + buffer + integer(at) + name


def bytes_of_config(region: bytes, first: int, names: Sequence[bytes]) -> bytes:
    """An operation region of the device's configuration space, and a field of a byte for each name."""
    area = b"\x5b\x80" + region + b"\x02" + integer(first) + integer(len(names))
    return area + b"\x5b\x81" + sized(region + b"\x01" + b"".join(name + b"\x08" for name in names))
