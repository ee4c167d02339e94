"""Which line of source an address comes from, by the DWARF debug information of an ELF file, through pyelftools.

Source: DWARF 5, section 6.2 (line number information). The file may be anything: sizes and time are limited, and a
malformed one has no lines.
"""

from __future__ import annotations

import io
import time
import weakref
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..x86.symbols import SymbolTable

MAX_IMAGE = 128 << 20
"""Bytes of the largest file that is looked into."""
MAX_PROGRAM = 1 << 20
"""Bytes of the largest line number program of one compilation unit."""
MAX_PATH = 200
BUDGET = 2.0
"""Seconds for all look-ups in one file together."""
SHF_COMPRESSED = 0x800


class _Row(NamedTuple):
    address: int
    end: int
    line: int
    file: int


class SourceLines:
    """The line table of the ELF file `image`, read as far as look-ups need it. Addresses have `bias` added."""

    def __init__(self, image: bytes, bias: int = 0) -> None:
        self._image: bytes | None = image
        self._bias = bias
        self._dwarf: Any = None
        self._units: dict[int, tuple[list[_Row], Any]] = {}
        self._spent = 0.0
        self.problem = ""
        """Why there are no lines, or not all."""

    def lookup(self, address: int) -> str:
        """ "file.c:12" for an address in code, "" if the file does not say."""
        if self.problem:
            return ""
        started = time.monotonic()
        try:
            return self._lookup(address - self._bias)
        except Exception as error:  # pyelftools, on a malformed file, raises almost anything
            self.problem = f"the debug information cannot be read: {type(error).__name__}: {error}"[:MAX_PATH]
            return ""
        finally:
            self._spent += time.monotonic() - started
            if self._spent > BUDGET:
                self.problem = self.problem or f"reading the debug information took longer than {BUDGET:g} s"

    def _lookup(self, address: int) -> str:
        if self._image is not None:
            image, self._image = self._image, None
            self._open(image)
        if self._dwarf is None:
            return ""
        unit = self._unit_at(address)
        if unit is None:
            return ""
        if unit.cu_offset not in self._units:
            self._units[unit.cu_offset] = self._read_rows(unit)
        rows, program = self._units[unit.cu_offset]
        at = bisect_right(rows, address, key=lambda row: row.address) - 1
        if at < 0 or address >= rows[at].end or not rows[at].line:
            return ""
        return f"{_path(program, rows[at].file)}:{rows[at].line}"

    def _open(self, image: bytes) -> None:
        from elftools.elf.elffile import ELFFile

        if image[:4] != b"\x7fELF" or len(image) > MAX_IMAGE:
            return
        elf = ELFFile(io.BytesIO(image))
        debug = [section for section in elf.iter_sections() if section.name.startswith((".debug", ".zdebug"))]
        if any(section["sh_flags"] & SHF_COMPRESSED or section.name[1] == "z" for section in debug):
            self.problem = "the debug information is compressed, which is not read here"
            return
        if sum(section["sh_size"] for section in debug) > len(image):
            self.problem = "the debug information is larger than the file that it is in"
            return
        if elf.has_dwarf_info(strict=True):
            self._dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False, follow_links=False)

    def _unit_at(self, address: int) -> Any | None:
        """The compilation unit that the code at an address comes from."""
        ranges = self._dwarf.get_aranges()
        if ranges is not None:
            offset = ranges.cu_offset_at_addr(address)
            if offset is not None:
                return self._dwarf.get_CU_at(offset)
        deadline = time.monotonic() + BUDGET
        for unit in self._dwarf.iter_CUs():
            if time.monotonic() > deadline:
                break
            if unit.cu_offset not in self._units:
                self._units[unit.cu_offset] = self._read_rows(unit)
            if any(row.address <= address < row.end for row in self._units[unit.cu_offset][0]):
                return unit
        return None

    def _read_rows(self, unit: Any) -> tuple[list[_Row], Any]:
        program = self._dwarf.line_program_for_CU(unit)
        if program is None or program.program_end_offset - program.program_start_offset > MAX_PROGRAM:
            return [], program
        rows = []
        before = None
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if before is not None and before.address < state.address:
                rows.append(_Row(before.address, state.address, before.line, before.file))
            before = None if state.end_sequence else state
        rows.sort()
        return rows, program


def image_code(symbols: SymbolTable) -> list[tuple[int, bytes]]:
    """(address, bytes) of what the ELF file that the symbols are from has to be loaded; [] if there is no telling."""
    from elftools.elf.elffile import ELFFile

    try:
        image = bytes(symbols.image)
        if image[:4] != b"\x7fELF" or len(image) > MAX_IMAGE:
            return []
        return [
            (segment["p_vaddr"] + symbols.bias, image[segment["p_offset"] : segment["p_offset"] + segment["p_filesz"]])
            for segment in ELFFile(io.BytesIO(image)).iter_segments("PT_LOAD")
        ]
    except Exception:  # pyelftools, on a malformed file, raises almost anything
        return []


def _path(program: Any, number: int) -> str:
    """The name of a file of the line number program, relative to its compilation's directory where it is below it."""
    version = program["version"]
    entry = program["file_entry"][number if version >= 5 else number - 1]
    name = entry.name.decode("utf-8", "replace")
    directory = entry.dir_index
    if directory > 0 and not name.startswith("/"):
        parent = program["include_directory"][directory if version >= 5 else directory - 1]
        name = f"{parent.decode('utf-8', 'replace')}/{name}"
    name = name.removeprefix("./")
    return (name if name.isprintable() else ascii(name)[1:-1])[-MAX_PATH:]


_lines: weakref.WeakKeyDictionary[SymbolTable, SourceLines] = weakref.WeakKeyDictionary()


def source_lines(symbols: SymbolTable) -> SourceLines:
    """The lines of the file that the symbols are from, kept as long as they are: reading them takes a while."""
    if symbols not in _lines:
        try:
            image = bytes(symbols.image)
        except ValueError:  # a mapping that was closed
            image = b""
        _lines[symbols] = SourceLines(image, symbols.bias)
    return _lines[symbols]
