"""Which format an image has, by its content, and the way to that format's loader."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ..errors import ConfigError
from ..memory import GuestMemory
from ..typed import Any, NamedTuple
from . import EntryState, Options, firmware
from .layout import Image

FLOPPY, DISK = "floppy", "disk"
FROM_DISK = (FLOPPY, DISK)
"""The formats whose image is not loaded, but attached for a BIOS to start it from."""
WITH_COMMAND_LINE = ("multiboot2", "multiboot", "pvh", "linux")
"""The formats whose boot protocol has a place for a command line and modules."""


class Format(NamedTuple):
    """A format by the name of the module in here that knows it. `matches` sees the whole image but must be quick."""

    module: str
    matches: Callable[[Image], bool]

    def load(self, image: Image, memory: GuestMemory, options: Options) -> EntryState:
        """Load with that module, which is imported only now."""
        loader: Callable[[Image, GuestMemory, Options], EntryState] = _import(self.module).load
        return loader(image, memory, options)


def _import(module: str) -> Any:
    return import_module(f".{module}", __package__)


def _is_elf(image: Image) -> bool:
    return image[:4] == b"\x7fELF"


def _has_note(image: Image, name: bytes, note_type: int | None = None) -> bool:
    return _is_elf(image) and _import("elf").find_note(image, name, note_type) is not None


def _is_multiboot(module: str, magic: bytes, limit: int) -> Callable[[Image], bool]:
    """Whether there is a valid header; its magic number alone, looked for first, may be anywhere by chance."""
    return lambda image: magic in image[:limit] and _import(module).find_header(image) is not None


def _is_pvh(image: Image) -> bool:
    return _has_note(image, b"Xen", 18)


def _is_linux(image: Image) -> bool:
    """A bzImage by its setup header, a 64-bit vmlinux by a note that only Linux has (since 4.20)."""
    is_bzimage = image[0x1FE:0x200] == b"\x55\xaa" and image[0x202:0x206] == b"HdrS"
    return is_bzimage or (image[4:5] == b"\2" and _has_note(image, b"Linux"))


def _is_disk(image: Image) -> bool:
    """Quick to see that it is none, for the loader is not small."""
    return image[0x1FE:0x200] == b"\x55\xaa" and bool(_import("bios").is_disk(image))


FORMATS: dict[str, Format] = {
    FLOPPY: Format("bios", lambda image: _is_disk(image) and bool(_import("bios").is_floppy(image))),
    DISK: Format("bios", _is_disk),
    "multiboot2": Format("multiboot2", _is_multiboot("multiboot2", b"\xd6\x50\x52\xe8", 32768)),
    "multiboot": Format("multiboot1", _is_multiboot("multiboot1", b"\x02\xb0\xad\x1b", 8192)),
    "pvh": Format("pvh", _is_pvh),
    "linux": Format("linux", _is_linux),
    "elf32": Format("elf", lambda image: image[:5] == b"\x7fELF\x01"),
    "elf64": Format("elf", _is_elf),
    "flat": Format("flat", lambda image: True),
}
"""Every format, the first that matches wins. An ELF file of no known class is left to the ELF loader to explain."""


def recognise(image: Image) -> str:
    """The name of the image's format: a key of `FORMATS`. What has no header of its own is "flat"."""
    return next(name for name, entry in FORMATS.items() if entry.matches(image))


def choose(image: Image, options: Options, format_name: str | None = None) -> str:
    """The format to load `image` as: `format_name`, flat if an option is for that alone, else what it looks like.

    ConfigError if there is no such format, or if the options are not for it.
    """
    is_flat = (options.mode, options.load, options.entry) != (None, None, None)
    name = format_name or ("flat" if is_flat and not _is_elf(image) else recognise(image))
    if name not in FORMATS:
        raise ConfigError(f"there is no image format {name!r}: choose one of {', '.join(FORMATS)}")
    if is_flat and name != "flat":
        raise ConfigError(f"mode, load and entry are for flat binaries, and the image is {name!r}: see format")
    if (options.command_line or options.modules) and name not in WITH_COMMAND_LINE:
        raise ConfigError(f"the image is {name!r}, which has no place for a command line, an initrd or modules")
    return name


def load(image: Image, memory: GuestMemory, options: Options, format_name: str | None = None) -> EntryState:
    """Load `image` into `memory` as what `choose` says.

    The machine's tables (see `firmware`) are put into the first MiB before, where any image may overwrite them.

    ImageError if the image is malformed or does not fit; ConfigError as `choose`.
    """
    entry = FORMATS[choose(image, options, format_name)]
    firmware.install(memory, options.cpus)
    return entry.load(image, memory, options)
