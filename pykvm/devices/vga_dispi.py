"""The registers of the Bochs display interface, as far as a guest uses them.

Implements: Bochs, iodev/display/vga.h ("VBE_DISPI"); QEMU, docs/specs/standard-vga.rst. Writes that cannot be are
ignored, as there: a size or depth while the interface is enabled, a mode that does not fit the memory.
"""

from __future__ import annotations

from .vga import (
    Vga,
)
from .vga_registers import (
    BANK,
    DISPI_8_BIT_DAC,
    DISPI_BANK,
    DISPI_BPP,
    DISPI_CAPS,
    DISPI_DEPTHS,
    DISPI_ENABLE,
    DISPI_ENABLED,
    DISPI_HEIGHT,
    DISPI_ID,
    DISPI_KEEP,
    DISPI_LEFT,
    DISPI_LFB,
    DISPI_MOST,
    DISPI_NEWEST,
    DISPI_OLDEST,
    DISPI_TOP,
    DISPI_WIDTH,
    DISPI_X,
    DISPI_Y,
    MEMORY_SIZE,
)


def write(vga: Vga, index: int, value: int) -> None:
    """Register `index` of the display interface; one that does not exist, or a value that cannot be, is ignored."""
    dispi = vga.dispi
    enabled = dispi[DISPI_ENABLE] & DISPI_ENABLED
    if index == DISPI_ID:
        if DISPI_OLDEST <= value <= DISPI_NEWEST:
            dispi[DISPI_ID] = value
    elif index in (DISPI_X, DISPI_Y):
        if not enabled and value <= DISPI_MOST[index] and not (index == DISPI_X and value & 7):
            dispi[index] = value
    elif index == DISPI_BPP:
        if not enabled and value in (0, *DISPI_DEPTHS):
            dispi[DISPI_BPP] = value or 8
    elif index == DISPI_ENABLE:
        _enable(vga, value)
    elif index == DISPI_BANK:
        if value < MEMORY_SIZE // BANK:
            dispi[DISPI_BANK] = value
            vga.update()
    elif index == DISPI_WIDTH and enabled:
        if dispi[DISPI_X] <= value <= 0x4000 and vga.pitch_of(value) * dispi[DISPI_Y] <= MEMORY_SIZE:
            dispi[DISPI_WIDTH] = value
            dispi[DISPI_HEIGHT] = min(MEMORY_SIZE // vga.pitch_of(value), 0xFFFF)
    elif index in (DISPI_LEFT, DISPI_TOP) and enabled:
        dispi[index] = value


def _enable(vga: Vga, value: int) -> None:
    dispi = vga.dispi
    width, height = dispi[DISPI_X], dispi[DISPI_Y]
    value &= DISPI_ENABLED | DISPI_CAPS | DISPI_8_BIT_DAC | DISPI_LFB | DISPI_KEEP
    if value & DISPI_ENABLED and not dispi[DISPI_ENABLE] & DISPI_ENABLED:
        dispi[DISPI_BPP] = dispi[DISPI_BPP] or 8
        if not width or not height or vga.pitch_of(width) * height > MEMORY_SIZE:
            return
        dispi[DISPI_WIDTH] = width
        dispi[DISPI_HEIGHT] = min(MEMORY_SIZE // vga.pitch_of(width), 0xFFFF)
        dispi[DISPI_LEFT] = dispi[DISPI_TOP] = dispi[DISPI_BANK] = 0
    if not value & DISPI_8_BIT_DAC and dispi[DISPI_ENABLE] & DISPI_8_BIT_DAC:
        vga.dac[:] = bytes(part >> 2 for part in vga.dac)
    elif value & DISPI_8_BIT_DAC and not dispi[DISPI_ENABLE] & DISPI_8_BIT_DAC:
        vga.dac[:] = bytes(part << 2 | part >> 4 for part in vga.dac)
    dispi[DISPI_ENABLE] = value
    vga.update()
    memory = vga.need_memory()
    if memory is not None:
        if value & DISPI_ENABLED and not value & DISPI_KEEP:
            memory.clear(vga.mirror, vga.pitch_of(dispi[DISPI_WIDTH]) * height)
        vga.place_frame_buffer()
