"""The command line: `pykvm`, one file a subcommand, each imported only when it is asked for."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from ..errors import PykvmError
from ..typed import NoReturn
from . import signals, streams, ui

COMMANDS = {
    "run": "Run a guest image and show its serial port.",
    "info": "Show what this machine's KVM can do.",
    "trace": "Run a guest image and show every exit.",
    "coverage": "Run a guest image and tell which source lines it executed.",
    "inspect": "Show CPUs, tables, page tables and devices of a stopped guest.",
    "disasm": "Disassemble a guest image.",
    "screenshot": "Save a picture of a guest's text screen.",
    "snapshot": "Run a guest image up to a moment and save its whole state.",
    "restore": "Go on from a saved state.",
    "snapshots": "List saved states.",
    "disk": "Create, show and convert disk images.",
    "grade": "Run a lab's tests on a kernel, or on those of a class.",
    "qemu": "Run a guest as QEMU's command line asks, with QEMU's monitors.",
    "new": "Write a small kernel to begin with.",
    "completion": "Print a script that has a shell complete all this.",
}


def find_command(name: str) -> ui.Command:
    """The command in the module of its name."""
    command: ui.Command = import_module(f".{name}", __name__).command
    return command


def _version() -> str:
    from .. import __version__

    return f"pykvm, version {__version__}"


def pykvm() -> None:
    """Run tiny guest kernels under KVM, and see what they do."""


def main(first: Sequence[str] = ()) -> NoReturn:
    """The console script: ends the process. The `first` words are put in front of the command line's."""
    streams.open_missing()
    signals.end_in_order()
    # What a start makes lives as long as the process: to look through it for garbage, again and again, finds none.
    gc.set_threshold(100_000)
    status = invoke([*first, *sys.argv[1:]])
    streams.flush()
    # What is left at this point the kernel frees faster than Python would take itself apart.
    os._exit(status)


def invoke(words: Sequence[str]) -> int:
    """Do what a command line says; the exit status. Every user's mistake ends in one line, not in a traceback."""
    try:
        return ui.Group(pykvm, COMMANDS, find_command, _version).main(words, "pykvm")
    except ui.UsageError as error:
        error.show()
        text = str(error)
    except PykvmError as error:
        text = str(error)
        ui.echo(f"{ui.style('pykvm:', fg='red', bold=True)} {text}", err=True)
        if isinstance(error, streams.NobodyReads):
            return streams.NOBODY_READS_STATUS
    except KeyboardInterrupt:
        return 130
    except SystemExit as wanted:  # by a signal
        return wanted.code if isinstance(wanted.code, int) else 1
    except BrokenPipeError:  # the reader has seen enough
        return 1
    except (OSError, MemoryError, RuntimeError) as error:
        from .limits import explain

        limit = explain(error)
        if limit is None:
            raise
        text = limit
        ui.echo(f"{ui.style('pykvm:', fg='red', bold=True)} {text}", err=True)
    _tell_program(words, text)
    return ui.ERROR_STATUS


def _tell_program(words: Sequence[str], error: str) -> None:
    """Print the envelope of a command that has failed, if --json is among its words."""
    command = words[0] if words else ""
    if command not in COMMANDS or "--json" not in words[1:]:
        return
    if any("--json" in option.names for option in find_command(command).options):
        from .envelope import envelope

        with contextlib.suppress(OSError):  # perhaps that it cannot be written was the error
            ui.echo(envelope(command, ui.ERROR_STATUS, {"error": error}))
