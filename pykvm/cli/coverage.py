"""`pykvm coverage`: run an image, and tell which source lines it executed, for lcov's tools."""

from __future__ import annotations

import os
import re

from ..boot import detect
from ..boot.source import read_image
from ..errors import ConfigError
from ..machine import DeviceError, Machine
from ..outcome import DEVICE_ERROR_STATUS
from ..trace.coverage import Counts, SourceFile, cover, line_rows, write_lcov
from ..trace.instructions import InstructionTracer
from ..x86.symbols import SymbolTable
from . import streams, ui
from .envelope import envelope
from .options import Limit, MachineSpec, limit_option, machine_options
from .replacing import LCOV, force_option, require_replaceable
from .run import run_on_terminal, show_device_error, show_outcome
from .tables import show_table


@ui.command("coverage")
@machine_options(kernel_required=False)
@limit_option
@ui.option("-o", "--out", type=ui.Path(dir_okay=False), metavar="FILE.info", help="Write an lcov tracefile.")
@force_option
@ui.option(
    "--elf", type=ui.Path(exists=True, dir_okay=False), metavar="FILE",
    help="The ELF file with debug information, where KERNEL is not it: the kernel on a boot disk, for example.",
)  # fmt: skip
@ui.option(
    "--source", type=ui.Path(exists=True, file_okay=False), default=".", show_default=True,
    help="Directory that relative paths of source files begin at.",
)  # fmt: skip
@ui.option("--terminal", is_flag=True, help="Have the serial port on this terminal, as `run` does.")
@ui.option("--json", "as_json", is_flag=True, help="The table for programs, nothing else.")
def command(
    spec: MachineSpec,
    timeout: Limit,
    out: str | None,
    elf: str | None,
    source: str,
    terminal: bool,
    as_json: bool,
    force: bool,
) -> int:
    """Run KERNEL, without a terminal, one instruction at a time, and count how often each source line is executed.

    The kernel must be an ELF file with debug information (gcc -g). `genhtml FILE.info -o DIRECTORY` makes a report.
    The exit status is that of `pykvm run`.
    """
    if out is not None:
        require_replaceable(out, LCOV, "tracefile", force)
    path = elf or spec.kernel
    if path is None:
        raise ConfigError("give the ELF file of the kernel, by --elf where it starts from a disk")
    rows = [row._replace(path=os.path.abspath(os.path.join(source, row.path))) for row in line_rows(path)]
    counts = Counts()
    deadline = timeout.deadline()
    with spec.make() as machine:
        InstructionTracer(machine, counts.count)
        try:
            outcome = (run_on_terminal if terminal else Machine.run)(machine, timeout.seconds)
        except DeviceError as error:
            show_device_error(error)
            return DEVICE_ERROR_STATUS
        entry = machine.entry
        if elf is None and entry is not None:
            executed = counts.relocated(entry.spans, entry.symbols.bias if entry.symbols is not None else 0)
        else:
            executed = counts.relocated((), 0)
        functions = [(symbol.name, symbol.address) for symbol in SymbolTable(detect.unpacked(read_image(path)))]
        files = cover(rows, executed, functions)
        if out is not None:
            _write(out, files, os.path.basename(path))
        with streams.bounded(deadline):
            if as_json:
                part = {"files": {name: _plain(found) for name, found in files.items()}}
                ui.echo(envelope("coverage", outcome.exit_status, part))
            else:
                _show(files)
        if not as_json:
            show_outcome(machine, outcome)
        return outcome.exit_status


def _write(out: str, files: dict[str, SourceFile], name: str) -> None:
    missing = sum(not os.path.exists(path) for path in files)
    if missing:
        ui.echo(f"pykvm: {missing} of {len(files)} source files are not there: give --source", err=True)
    try:
        with open(out, "w", encoding="utf-8") as file:
            write_lcov(file, files, re.sub(r"\W", "_", name, flags=re.ASCII))
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}") from error


def _plain(file: SourceFile) -> dict[str, object]:
    return {
        "lines": file.lines,
        "functions": {name: {"line": line, "calls": calls} for name, (line, calls) in file.functions.items()},
    }


def _show(files: dict[str, SourceFile]) -> None:
    counts = {os.path.relpath(path): _counts(file) for path, file in sorted(files.items())}
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    show_table(
        "Lines executed",
        ["file", "lines", "of", "%", "functions", "of"],
        [[path, hit, lines, 100 * hit / lines, *functions] for path, (hit, lines, *functions) in counts.items()],
    )


def _counts(file: SourceFile) -> list[int]:
    """Lines executed, lines, functions called, functions."""
    hit = sum(count > 0 for count in file.lines.values())
    called = sum(calls > 0 for _, calls in file.functions.values())
    return [hit, len(file.lines), called, len(file.functions)]
