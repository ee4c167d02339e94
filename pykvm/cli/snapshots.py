"""`pykvm snapshots`: which saved states there are, with size, age, parent and a picture of the text screen."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ..errors import PykvmError
from ..snapshot.format import STATE
from ..snapshot.load import Header, read_header
from ..snapshot.unfinished import tidy
from . import ui
from .envelope import envelope

UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def find(where: Path) -> Iterator[Path]:
    """`where` if it is a snapshot, else the snapshots in it."""
    if (where / STATE).exists():
        yield where
        return
    with os.scandir(where) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]  # a dot: it is being saved
    yield from (where / name for name in sorted(names) if (where / name / STATE).exists())


def age(seconds: float) -> str:
    """A time in words, such as "3 hours"; "0 seconds" if it lies in the future."""
    for unit, name in UNITS:
        if seconds >= unit or unit == 1:
            count = max(0, int(seconds // unit))
            return f"{count} {name}{'' if count == 1 else 's'}"
    raise AssertionError


@ui.command("snapshots")
@ui.argument("where", type=ui.Path(exists=True, file_okay=False, path_type=Path), default=".")
@ui.option("--json", "as_json", is_flag=True, help="The same for programs.")
def command(where: Path, as_json: bool) -> int:
    """List the snapshots in the directory WHERE, or the one that it is: size on the disk, age, parent, text screen.

    What saves have left in WHERE that were killed is removed.
    """
    headers: list[Header] = []
    bad = 0
    tidy(str(where))
    for path in find(where):
        try:
            headers.append(read_header(str(path)))
        except PykvmError as error:
            bad += 1
            ui.echo(f"pykvm: {error}", err=True)
    if as_json:
        ui.echo(envelope("snapshots", 1 if bad else 0, {"snapshots": [asdict(header) for header in headers]}))
    else:
        for header in headers:
            _show(header)
        if not headers and not bad:
            ui.echo(f"there are no snapshots in {where}", err=True)
    return 1 if bad else 0


def _show(header: Header) -> None:
    parent = f", on {_printable(header.parent)}" if header.parent is not None else ""
    ui.echo(
        f"{ui.style(_printable(header.path), bold=True)}: "
        f"{header.size / 1024:.0f} KiB of {header.memory >> 20} MiB, "
        f"{header.cpus} CPU{'' if header.cpus == 1 else 's'}, {age(time.time() - header.created)} old{parent}"
    )
    lines = [_printable(line) for line in header.screen.split("\n")]
    if any(lines):
        width = max(map(len, lines))
        ui.echo(f"  ┌{'─' * width}┐")
        for line in lines:
            ui.echo(f"  │{line:<{width}}│")
        ui.echo(f"  └{'─' * width}┘")


def _printable(text: str) -> str:
    """A snapshot may be anybody's: its texts must not steer the terminal."""
    return "".join(character if character.isprintable() else "." for character in text)
