"""Boot: the bytes of an image in, segments in guest memory and the CPU's entry state out."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import Data, field
from ..errors import PykvmError
from ..typed import TYPE_CHECKING, NamedTuple
from ..x86.registers import Registers, SystemRegisters

if TYPE_CHECKING:
    from ..x86.symbols import SymbolTable


class ImageError(PykvmError):
    """An image that cannot be loaded: the message names the field, its offset in the file and what is wrong with it."""


class Module(NamedTuple):
    """A file that the boot loader puts into memory beside the kernel, with the text that goes along with it."""

    data: bytes
    command_line: str = ""


class Options(Data):
    """What the user may choose about loading. None means: what is right for the image.

    `mode` is 16, 32 or 64 (bits); `load` and `entry` are guest physical addresses.
    `modules` go along with the kernel; Linux takes the first as its initrd. Which of these a format listens to, it
    says itself (`format.Format.takes`). `cpus` is how many the machine has, which the tables in memory tell the guest.
    `name` is the image's, with which a command line may have to begin; "" for one without.
    """

    mode: int | None = None
    load: int | None = None
    entry: int | None = None
    command_line: str = ""
    modules: Sequence[Module] = ()
    cpus: int = 1
    name: str = ""

    def given(self) -> list[str]:
        """The fields that choose something about the image: a format listens to some of them only."""
        return [
            name
            for name in self.__slots__
            if name not in ("cpus", "name") and getattr(self, name) not in (None, "", (), [])
        ]


class Span(NamedTuple):
    """A run of the image in memory: `size` bytes at guest physical `gpa`, which the program knows as `address`."""

    address: int
    gpa: int
    size: int


class Video(NamedTuple):
    """A mode with a linear frame buffer: pixels a line, lines, bits a pixel."""

    width: int
    height: int
    depth: int


class EntryState(Data):
    """Where the first CPU starts, once the image is in memory.

    `spans` are the image's own parts in memory. `reserved` lists (gpa, size) of what the loader put into RAM
    besides the image itself: page tables, descriptor
    tables, the initial stack. `video` is the mode that the kernel finds the screen in; None: text.
    """

    registers: Registers
    system: SystemRegisters
    format: str
    symbols: SymbolTable | None = None
    reserved: list[tuple[int, int]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    video: Video | None = None
