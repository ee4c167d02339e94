"""`pykvm disasm`: a guest image's code, with its symbols."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

from ..boot import EntryState, Options, Span, detect
from ..boot.source import file_name, read_image
from ..errors import ConfigError
from ..machine import DEFAULT_MEMORY
from ..memory import GuestMemory
from ..x86.disasm import MAX_INSTRUCTION, Instruction, disassemble
from ..x86.mode import cpu_mode
from . import ui
from .envelope import envelope
from .options import ADDRESS, SIZE

CHUNK = 4096
"""Bytes of code that are disassembled at a time."""


@ui.command("disasm")
@ui.argument("kernel", type=ui.Path(exists=True, dir_okay=False))
@ui.option("-s", "--start", metavar="ADDRESS|SYMBOL", help="Where to begin  [default: all code around the entry]")
@ui.option("-n", "--count", type=ui.IntRange(min=1), help="How many instructions  [default: to the code's end]")
@ui.option("-m", "--memory", type=SIZE, default=DEFAULT_MEMORY, help="RAM that the image is loaded into.")
@ui.option("--format", "image_format", help="Image format, instead of what the image looks like.")
@ui.option("--mode", type=ui.Choice(["16", "32", "64"]), help="Code width, instead of the entry state's.")
@ui.option("--load", type=ADDRESS, help="Address a flat binary is loaded at.")
@ui.option("--json", "as_json", is_flag=True, help="The same for programs: one JSON object a line.")
def command(
    kernel: str,
    start: str | None,
    count: int | None,
    memory: int,
    image_format: str | None,
    mode: str | None,
    load: int | None,
    as_json: bool,
) -> None:
    """Disassemble KERNEL as it is in memory when the guest starts."""
    bits = int(mode) if mode else None
    ram = GuestMemory(memory)
    try:
        image, options = detect.unpacked(read_image(kernel), image_format), Options(mode=bits, load=load)
        image_format = detect.choose(image, options, image_format, file_name(kernel))
        if detect.get(image_format).from_disk:
            image_format = detect.FLAT  # the first sector is code, and where a BIOS puts it
        state = detect.load(image, ram, options, image_format)
        width = bits or cpu_mode(state.system, state.registers.rflags).bits
        entry = state.system.cs.base + state.registers.rip
        span = _span(state, entry if start is None else _address(state, start), start is not None)
        shown = 0
        for instruction in islice(_instructions(ram, span, width), count):
            _show(instruction, _name(state, instruction.address), as_json)
            shown += 1
        if as_json:
            ui.echo(envelope("disasm", 0, {"instructions": shown}))
    finally:
        ram.close()


def _address(state: EntryState, text: str) -> int:
    """The address that a symbol or a number names."""
    found = state.symbols.address(text) if state.symbols else None
    if found is not None:
        return found
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigError(f"{text!r} is neither a symbol of the image nor an address") from None


def _span(state: EntryState, address: int, from_there: bool) -> Span:
    """The part of the image that holds a virtual or physical address, from its beginning or from the address on."""
    for span in state.spans:
        for base in (span.address, span.gpa):
            offset = address - base
            if 0 <= offset < span.size:
                skip = offset if from_there else 0
                return Span(span.address + skip, span.gpa + skip, span.size - skip)
    raise ConfigError(f"{address:#x} is not in the image")


def _instructions(ram: GuestMemory, span: Span, bits: int) -> Iterator[Instruction]:
    """All instructions of the span, a chunk at a time: one that a chunk's end may cut is left to the next chunk."""
    at = 0
    while at < span.size:
        size = min(CHUNK, span.size - at)
        final = at + size == span.size
        for instruction in disassemble(ram.read(span.gpa + at, size), span.address + at, bits):
            done = instruction.address - span.address
            if not final and done + MAX_INSTRUCTION > at + size:
                at = done
                break
            yield instruction
        else:
            return


def _name(state: EntryState, address: int) -> str | None:
    """The symbol that begins at the address."""
    found = state.symbols.lookup(address) if state.symbols else None
    return found[0] if found and not found[1] else None


def _show(instruction: Instruction, name: str | None, as_json: bool) -> None:
    address, code, text = instruction
    if as_json:
        ui.echo(json.dumps({"address": address, "code": code.hex(), "text": text, "symbol": name}))
        return
    if name:
        ui.secho(f"\n{name}:", fg="cyan", bold=True)
    ui.echo(ui.style(f"{address:>10x}  ", fg="yellow") + f"{code.hex(' '):<30}  {text}")
