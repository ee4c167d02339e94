"""Which format an image has, by its content, and the way to that format's loader."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module

from ..errors import ConfigError
from ..memory import GuestMemory
from ..typed import NamedTuple
from . import EntryState, ImageError, Options, firmware
from .format import Format

CD, DISK, FLAT = "cd", "disk", "flat"


class Entry(NamedTuple):
    """The module in here that declares a format, and the sign without which no image can have it.

    The sign must be quick to see: only then is the module, which decides, imported.
    """

    module: str
    sign: Callable[[bytes], bool]


def _is_elf(image: bytes) -> bool:
    return image[:4] == b"\x7fELF"


def is_cd(image: bytes) -> bool:
    """Whether the image, of which the first 64 KiB are enough, is of a CD to start from."""
    return FORMATS[CD].sign(image) and get(CD).matches(image)


def has_boot_sector(image: bytes) -> bool:
    """Whether the first sector ends as a boot sector does."""
    return image[0x1FE:0x200] == b"\x55\xaa"


FORMATS: dict[str, Entry] = {
    CD: Entry("cd", lambda image: image[0x8001:0x8006] == b"CD001"),
    "floppy": Entry("bios", has_boot_sector),
    DISK: Entry("bios", has_boot_sector),
    "multiboot2": Entry("multiboot2", lambda image: b"\xd6\x50\x52\xe8" in image[:32768]),
    "multiboot": Entry("multiboot1", lambda image: b"\x02\xb0\xad\x1b" in image[:8192]),
    "pvh": Entry("pvh", lambda image: _is_elf(image) and b"Xen\0" in image),
    "linux": Entry("linux", lambda image: image[0x202:0x206] == b"HdrS" or (_is_elf(image) and b"Linux\0" in image)),
    "elf32": Entry("elf", _is_elf),
    "elf64": Entry("elf", _is_elf),
    FLAT: Entry("flat", lambda image: True),
}
"""Every format by its name. The first that matches wins; the last one always does."""

_PACKED = (b"\x1f\x8b", b"\xfd7", b"\x28\xb5")
"""The first bytes of compressed images."""
_WHAT = {"command_line": "a command line", "modules": "an initrd or modules"}
"""Options that have another name for the user than for us."""


@cache
def get(name: str) -> Format:
    """The format of that name; ConfigError if there is none."""
    if name not in FORMATS:
        lines = "".join(f"\n  {other:<11} {get(other).help}" for other in FORMATS)
        raise ConfigError(f"there is no image format {name!r}. There are:{lines}")
    declared: tuple[Format, ...] = import_module(f".{FORMATS[name].module}", __package__).FORMATS
    return next(entry for entry in declared if entry.name == name)


def recognise(image: bytes, file_name: str | None = None) -> str:
    """The name of the image's format: a key of `FORMATS`. What has no header of its own is "flat".

    ImageError if it would be started as what it is probably not meant to be; `file_name` is a help to tell.
    """
    name = next(name for name, entry in FORMATS.items() if entry.sign(image) and get(name).matches(image))
    return _believed(name, image, file_name)


def unpacked(image: bytes, format_name: str | None = None) -> bytes:
    """The image itself where it is packed (see `packed`) and has a mark of its own; ImageError if unpacking fails.

    What has none, and so may be anything, stays packed, and `recognise` refuses it.
    """
    if image[:2] not in _PACKED or format_name in (FLAT, DISK, "floppy", CD):
        return image
    from .packed import unpacked

    content = unpacked(image)
    if format_name is not None:
        return content
    name = next(name for name, entry in FORMATS.items() if entry.sign(content) and get(name).matches(content))
    return image if name == FLAT else content


def _believed(name: str, image: bytes, file_name: str | None) -> str:
    doubt = get(name).doubt(image, file_name)
    if doubt is not None:
        raise ImageError(f"{doubt}. To have it run as it is, name the format: {name}")
    return name


def choose(image: bytes, options: Options, format_name: str | None = None, file_name: str | None = None) -> str:
    """The format to load `image` as: `format_name`, flat if an option is for that alone, else what it looks like.

    ConfigError if there is no such format, or if the options are not for it; ImageError as `recognise`.
    """
    given = options.given()
    if format_name is not None:
        chosen = format_name
    elif not _is_elf(image) and any(name in get(FLAT).takes for name in given):
        chosen = _believed(FLAT, image, file_name)
    else:
        chosen = recognise(image, file_name)
    takes = get(chosen).takes
    for name in given:
        if name not in takes:
            takers = ", ".join(other for other in FORMATS if name in get(other).takes)
            raise ConfigError(f"the image is {chosen!r}, which has no place for {_WHAT.get(name, name)}: only {takers}")
    return chosen


def load(image: bytes, memory: GuestMemory, options: Options, format_name: str | None = None) -> EntryState:
    """Load `image` into `memory` as what `choose` says.

    The machine's tables (see `firmware`) are put into the first MiB before, where any image may overwrite them.

    ImageError if the image is malformed or does not fit; ConfigError as `choose`.
    """
    chosen = get(choose(image, options, format_name))
    firmware.install(memory, options.cpus)
    return chosen.load(image, memory, options)
