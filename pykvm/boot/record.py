"""Fields of a C struct in a file, read by name, with errors that say where in the file a field is."""

from __future__ import annotations

import struct

from . import ImageError


class Record:
    """A C struct of the file without padding: a code of the struct module for each field, and the fields' names."""

    def __init__(self, codes: str, names: str) -> None:
        self._struct = struct.Struct("<" + codes)
        self.size = self._struct.size
        self._offsets = {name: struct.calcsize("<" + codes[:at]) for at, name in enumerate(names.split())}

    def read(self, image: bytes, at: int) -> dict[str, int]:
        """The fields of the record at the file offset `at`, which must be wholly in the file."""
        return dict(zip(self._offsets, self._struct.unpack_from(image, at), strict=True))

    def error(self, field: str, at: int, text: str) -> ImageError:
        """The error that says what is wrong with `field` of the record at the file offset `at`."""
        return ImageError(f"{field} (file offset {at + self._offsets[field]:#x}): {text}")
