"""Which source lines a run has executed, as an lcov tracefile.

Sources: DWARF 2 to 5 (line number program), read by pyelftools; geninfo(1), "FILES", for the tracefile's records.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ..errors import PykvmError

if TYPE_CHECKING:
    from ..boot import Span
    from ..kvm import VCPU
    from ..kvm.vcpu import Position

SHF_EXECINSTR = 4
"""gABI, figure 4-11: the section holds code."""
DEBUG_LIMIT = 1 << 29
"""Bytes of debug information, which may be compressed in the file."""
ROWS_LIMIT = 1 << 22
"""Rows of a file's line tables that are read."""
PLACES_LIMIT = 1 << 22
"""Addresses that are counted; instructions at further ones are not."""


class CoverageError(PykvmError):
    """An ELF file without line tables, or with malformed ones."""


class Row(NamedTuple):
    """The code from `start` up to before `end` belongs to that line."""

    start: int
    end: int
    path: str
    line: int


@dataclass(slots=True)
class SourceFile:
    """A source file's lines that have code, with how often each was executed; functions as name to (line, calls)."""

    lines: dict[int, int] = field(default_factory=dict)
    functions: dict[str, tuple[int, int]] = field(default_factory=dict)


class Counts:
    """How often the instruction at each linear address was executed: give `count` to `InstructionTracer`."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def count(self, vcpu: VCPU, position: Position) -> None:
        """One more."""
        linear = position.linear
        if linear in self.counts or len(self.counts) < PLACES_LIMIT:
            self.counts[linear] += 1

    def relocated(self, spans: Sequence[Span], bias: int) -> Counter[int]:
        """The counts by the addresses that the program was linked for.

        `spans` say where its parts are. A kernel of the upper half begins at its physical addresses: what is executed
        there counts for the same code. What is elsewhere stays where it is.
        """
        result: Counter[int] = Counter()
        for address, count in self.counts.items():
            result[_linked(address, spans) - bias] += count
        return result


def _linked(address: int, spans: Sequence[Span]) -> int:
    for span in spans:
        if 0 <= address - span.address < span.size:
            return address
    for span in spans:
        if 0 <= address - span.gpa < span.size:
            return address - span.gpa + span.address
    return address


def line_rows(path: str) -> list[Row]:
    """The line tables of an ELF file, the rows of one address in their own order. Raises CoverageError."""
    from elftools.elf.elffile import ELFFile

    rows: list[Row] = []
    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            if not elf.has_dwarf_info(strict=True):
                raise CoverageError("no debug information: compile with -g, and do not strip the file")
            code = [
                (section["sh_addr"], section["sh_addr"] + section["sh_size"])
                for section in elf.iter_sections()
                if section["sh_flags"] & SHF_EXECINSTR
            ]
            if sum(section.data_size for section in elf.iter_sections() if ".debug" in section.name) > DEBUG_LIMIT:
                raise CoverageError(f"more than {DEBUG_LIMIT >> 20} MiB of debug information")
            dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False, follow_links=False)
            for unit in dwarf.iter_CUs():
                program = dwarf.line_program_for_CU(unit)
                if program is not None:
                    _add_rows(rows, code, program, _text(unit.get_top_DIE().attributes.get("DW_AT_comp_dir")))
    except CoverageError as error:
        raise CoverageError(f"{path}: {error}") from error
    except OSError:
        raise
    except Exception as error:  # the reader raises whatever a malformed file leads it to
        raise CoverageError(f"{path}: the line tables cannot be read: {type(error).__name__}: {error}") from error
    if not rows:
        raise CoverageError(f"{path}: no line tables: compile with -g, and do not strip the file")
    return rows


def _text(attribute: Any) -> str:
    return attribute.value.decode("utf-8", "replace") if attribute is not None else ""


def _add_rows(rows: list[Row], code: Sequence[tuple[int, int]], program: Any, directory: str) -> None:
    """Add the rows of a unit that are in `code`, which lists (start, end); what the linker dropped is elsewhere.

    Several lines may begin at one address: that of a call and that of the function inlined there. All of them get the
    code up to the next address.
    """
    paths = _paths(program, directory)
    starting: list[Any] = []
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        if starting and starting[-1].address != state.address:
            start = starting[0].address
            if any(low <= start < high for low, high in code):
                lines = dict.fromkeys((row.file, row.line) for row in starting if row.line and row.file < len(paths))
                rows += (Row(start, state.address, paths[file], line) for file, line in lines)
            starting.clear()
        if len(rows) + len(starting) > ROWS_LIMIT:
            raise CoverageError(f"more than {ROWS_LIMIT} rows in the line tables")
        if state.end_sequence:
            starting.clear()
        else:
            starting.append(state)


def _paths(program: Any, directory: str) -> list[str]:
    """The paths by file number: from 1 up to DWARF 4, from 0 since DWARF 5, where directory 0 is the compiler's."""
    header = program.header
    five = header.version >= 5
    directories = [entry.decode("utf-8", "replace") for entry in header.include_directory]
    if not five:
        directories.insert(0, directory)
    names = [] if five else [""]
    for entry in header.file_entry:
        where = directories[entry.dir_index] if entry.dir_index < len(directories) else ""
        names.append(os.path.normpath(os.path.join(directory, where, entry.name.decode("utf-8", "replace"))))
    return names


def cover(rows: Sequence[Row], counts: Counter[int], functions: Sequence[tuple[str, int]]) -> dict[str, SourceFile]:
    """The source files with their lines' counts: a line was executed as often as its most executed instruction.

    `counts` are by address, `functions` are names with addresses: a name where no line begins does not count.
    """
    executed = sorted(counts)
    files: dict[str, SourceFile] = {}
    for row in rows:
        first, last = bisect_left(executed, row.start), bisect_left(executed, row.end)
        hits = max((counts[executed[at]] for at in range(first, last)), default=0)
        lines = files.setdefault(row.path, SourceFile()).lines
        lines[row.line] = max(lines.get(row.line, 0), hits)
    heads: dict[int, Row] = {}
    for row in rows:
        heads.setdefault(row.start, row)
    for name, address in functions:
        if head := heads.get(address):
            files[head.path].functions[name] = head.line, counts[address]
    return files


def write_lcov(file: IO[str], files: dict[str, SourceFile], name: str = "") -> None:
    """Write an lcov tracefile for the test `name`."""
    for path in sorted(files):
        source = files[path]
        file.write("".join(f"{line}\n" for line in _records(path, source, name)))


def _records(path: str, source: SourceFile, name: str) -> Iterator[str]:
    yield f"TN:{name}"
    yield f"SF:{path}"
    for function, (line, _) in sorted(source.functions.items(), key=lambda item: (item[1][0], item[0])):
        yield f"FN:{line},{function}"
    for function, (_, calls) in sorted(source.functions.items()):
        yield f"FNDA:{calls},{function}"
    yield f"FNF:{len(source.functions)}"
    yield f"FNH:{sum(calls > 0 for _, calls in source.functions.values())}"
    for line, hits in sorted(source.lines.items()):
        yield f"DA:{line},{hits}"
    yield f"LF:{len(source.lines)}"
    yield f"LH:{sum(hits > 0 for hits in source.lines.values())}"
    yield "end_of_record"
