"""How the remote protocol writes numbers and lists, and the errors that it is answered with."""

from __future__ import annotations

import re
from collections.abc import Iterator

EFAULT, EINVAL = b"E0e", b"E16"


def number(text: bytes) -> int:
    """A number as the protocol writes it: hexadecimal digits and nothing else."""
    text = text.removeprefix(b"0x")
    if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", text):
        raise ValueError("no number")
    return int(text, 16)


def parts(text: bytes, separator: bytes, count: int) -> Iterator[bytes]:
    found = text.split(separator)
    if len(found) != count:
        raise ValueError(f"{count} parts are wanted")
    return iter(found)
