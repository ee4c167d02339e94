"""Which format an image has, by its content, and the way to that format's loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import ConfigError
from ..memory import GuestMemory
from . import EntryState, Options
from .layout import Image


def _load_elf(image: Image, memory: GuestMemory, options: Options) -> EntryState:
    from . import elf

    return elf.load(image, memory, options)


def _load_flat(image: Image, memory: GuestMemory, options: Options) -> EntryState:
    from . import flat

    return flat.load(image, memory, options)


class Format(NamedTuple):
    """`matches` sees the whole image but must be quick; `load` imports its loader only when it is called."""

    matches: Callable[[Image], bool]
    load: Callable[[Image, GuestMemory, Options], EntryState]


FORMATS: dict[str, Format] = {
    "elf32": Format(lambda image: image[:5] == b"\x7fELF\x01", _load_elf),
    "elf64": Format(lambda image: image[:4] == b"\x7fELF", _load_elf),
    "flat": Format(lambda image: True, _load_flat),
}
"""Every format, the first that matches wins. An ELF file of no known class is left to the ELF loader to explain."""


def recognise(image: Image) -> str:
    """The name of the image's format: a key of `FORMATS`. What has no header of its own is "flat"."""
    return next(name for name, entry in FORMATS.items() if entry.matches(image))


def load(image: Image, memory: GuestMemory, options: Options, format_name: str | None = None) -> EntryState:
    """Load `image` into `memory` as `format_name` (a key of `FORMATS`), or as what it looks like.

    ImageError if the image is malformed or does not fit; ConfigError if there is no such format.
    """
    entry = FORMATS.get(recognise(image) if format_name is None else format_name)
    if entry is None:
        raise ConfigError(f"there is no image format {format_name!r}: choose one of {', '.join(FORMATS)}")
    return entry.load(image, memory, options)
