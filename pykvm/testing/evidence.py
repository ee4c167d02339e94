"""What is left of a guest when a test has failed: for the report, and for a directory that outlives the run."""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

from ..crash.source import source_lines
from ..debug.contents import pc_of
from ..errors import PykvmError
from ..machine import Machine
from .expect import printable
from .recorder import Recorder
from .stops import Stops

SERIAL_LINES, EXIT_LINES = 30, 20
"""Lines of a serial port's output, and of exits, that a report shows."""


class Evidence(NamedTuple):
    """A guest as it was, in words; "" for what there is nothing to say about."""

    state: str
    """Whether it runs, has ended, and how; where its CPUs are."""
    serial: str
    """All that COM1 has said."""
    screen: str
    crash: str
    exits: str
    """The last exits of each CPU, the last one last."""

    def sections(self) -> list[tuple[str, str]]:
        """(title, text) of what a report shows."""
        serial = _end([printable(line) for line in self.serial.rstrip("\n").split("\n")], SERIAL_LINES)
        screen = "\n".join(printable(line.rstrip()) for line in self.screen.rstrip().split("\n"))
        named = [("guest", self.state), ("serial port, the end", serial), ("screen", screen), ("crash", self.crash),
                 ("last exits", _end(self.exits.split("\n"), EXIT_LINES))]  # fmt: skip
        return [(title, text) for title, text in named if text.strip()]


def _end(lines: list[str], most: int) -> str:
    left_out = [f"({len(lines) - most} lines before)"] if len(lines) > most else []
    return "\n".join([*left_out, *lines[-most:]])


def evidence_of(machine: Machine, stops: Stops, recorders: list[Recorder]) -> Evidence:
    """What there is to say of a guest that holds still."""
    state, crash = _state(machine, stops)
    exits = []
    for number, recorder in enumerate(recorders):
        lines = recorder.lines(machine.engine.board)
        if len(recorders) > 1 and lines:
            lines.insert(0, f"CPU {number}:")
        exits += lines
    serial = machine.pc.consoles[0].text if machine.pc.consoles else ""
    return Evidence(state, serial, machine.screen_text(), crash, "\n".join(exits))


def _state(machine: Machine, stops: Stops) -> tuple[str, str]:
    if machine.engine.closed:
        return "closed", ""
    crash = ""
    lines = []
    if machine.outcome is not None:
        try:
            outcome = machine.wait()
        except PykvmError as error:
            return f"{error}", ""
        lines.append(f"the run has ended: {outcome}")
        crash = str(outcome.report or "")
    else:
        stop = stops.stop
        lines.append("running" if stop is None else f"stopped: {stop.why.value} {stop.text}".rstrip())
        report = stops.explain()
        crash = str(report or "")
    for vcpu in machine.vcpus:
        lines.append(f"CPU {vcpu.id}: at {place(machine, pc_of(vcpu))}")
    return "\n".join(lines), crash


def place(machine: Machine, address: int) -> str:
    """An address as its symbol and source line, as far as the image tells."""
    symbols = machine.symbols
    if symbols is None:
        return f"{address:#x}"
    found, source = symbols.lookup(address), source_lines(symbols).lookup(address)
    name = "" if found is None else f" <{found[0]}+{found[1]:#x}>"
    return f"{address:#x}{name} {source}".rstrip()


def save(machine: Machine, evidence: Evidence, directory: str) -> list[str]:
    """Write the evidence, a picture of the screen and a snapshot to `directory`, which is made.

    Returns what to tell of it, a line each: the command that opens the snapshot, and what could not be kept.
    """
    os.makedirs(directory, exist_ok=True)
    told = []
    if machine.pc.consoles:
        with open(os.path.join(directory, "serial.log"), "wb") as file:
            file.write(machine.pc.consoles[0].output)
    for name, text in (
        ("guest.txt", evidence.state),
        ("screen.txt", evidence.screen),
        ("crash.txt", evidence.crash),
        ("exits.txt", evidence.exits),
    ):
        path = os.path.join(directory, name)
        if text.strip():
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"{text}\n")
        elif os.path.exists(path):  # of the run before
            os.unlink(path)
    try:
        machine.screen.save(os.path.join(directory, "screen.png"))
    except (PykvmError, OSError) as error:
        told.append(f"no picture of the screen: {error}")
    path = os.path.join(directory, "snapshot")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of disks that are written through: the snapshot is to be looked at
            machine.snapshot(written_disks="warn").save(path)
        told.insert(0, f"pykvm restore {path} --gdb")
    except PykvmError as error:
        told.append(f"no snapshot: {error}")
    return told
