"""Columns of text for people."""

from __future__ import annotations

from collections.abc import Sequence

from . import ui


def show_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> None:
    """Print a table, its numbers to the right; floats have one decimal. Nothing without rows."""
    if not rows:
        return
    texts = [[f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *texts, strict=True)]
    to_right = [not isinstance(cell, str) for cell in rows[0]]

    def line(cells: Sequence[str]) -> str:
        parts = zip(cells, widths, to_right, strict=True)
        return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in parts).rstrip()

    ui.secho(f"\n{title}", bold=True)
    ui.secho(f"  {line(headings)}", dim=True)
    for row in texts:
        ui.echo(f"  {line(row)}")
