"""Flat binaries: bytes without a header, put into memory as they are and entered in the mode that the user names.

16 bits (the default) is the PC's boot sector convention: loaded and entered at 0x7C00, the stack below it. 32 and 64
bits are loaded and entered at 1 MiB, flat, with a stack of their own, 64 bits on an identity map of the first 4 GiB.
"""

from __future__ import annotations

from ..memory import GuestMemory
from ..x86 import start
from . import EntryState, ImageError, Options, Span
from .format import Format
from .layout import STACK_SIZE, Layout, enter_long, enter_protected

BOOT_SECTOR = 0x7C00
EXTENDED = 1 << 20


def load(image: bytes, memory: GuestMemory, options: Options) -> EntryState:
    """Load a flat binary at `options.load` and enter it at `options.entry`, by default its first byte.

    ImageError if it is empty, does not fit into RAM or, in 16 bits, into the first MiB, or is entered outside RAM.
    """
    mode = 16 if options.mode is None else options.mode
    if mode not in (16, 32, 64):
        raise ImageError(f"a flat binary has 16, 32 or 64 bits, not {mode}")
    load_address = (BOOT_SECTOR if mode == 16 else EXTENDED) if options.load is None else options.load
    entry = load_address if options.entry is None else options.entry
    size = len(image)
    if size == 0:
        raise ImageError("the image is empty")
    end = load_address + size
    if mode == 16 and (end > start.REAL_MODE_TOP or entry >= start.REAL_MODE_TOP):
        raise ImageError(
            f"a 16-bit image must lie in the first MiB: this one takes {load_address:#x}..{end - 1:#x} "
            f"and is entered at {entry:#x}"
        )
    layout = Layout(memory)
    layout.claim(load_address, size, "the image")
    if not load_address <= entry < end:
        raise ImageError(f"the entry point {entry:#x} is outside the image, {load_address:#x}..{end - 1:#x}")
    match mode:
        case 16:
            registers, system = start.real_mode(entry, _real_stack(layout))
        case 32:
            registers, system = enter_protected(layout, entry)
        case _:
            registers, system = enter_long(layout, entry)
    with memoryview(image) as view:
        memory.write(load_address, view)
    spans = [Span(load_address, load_address, size)]
    return EntryState(registers, system, "flat", reserved=layout.reserved, spans=spans)


def _real_stack(layout: Layout) -> int:
    """The end of the stack: where a boot sector has it, or elsewhere in the first MiB if the image lies there."""
    try:
        layout.claim(BOOT_SECTOR - 0x1000, 0x1000, "stack")
    except ImageError:
        return layout.place(STACK_SIZE, "stack", below=start.REAL_MODE_TOP) + STACK_SIZE
    return BOOT_SECTOR


def _doubt(image: bytes, file_name: str | None) -> str | None:
    from .foreign import foreign
    from .misplaced import misplaced_header

    return foreign(image, file_name) or misplaced_header(image)


FORMATS = (
    Format(
        "flat", "everything else that may be code", lambda image: True, load, ("mode", "load", "entry"), doubt=_doubt
    ),
)
