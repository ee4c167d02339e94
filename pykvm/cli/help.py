"""The help page of a command: its usage, what it does, its options in two columns; as wide as the terminal or less."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterable, Sequence
from textwrap import fill, wrap

WIDTH_LIMITS = 50, 78
COLUMN_LIMIT = 30
"""Characters of the first column: what is wider has a line of its own."""
VERBATIM = "\b"
"""A line of this alone begins a paragraph of a docstring whose lines are left as they are."""


def page(usage: str, function: Callable[..., object], sections: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """The whole page, without the last line's end: usage, the function's docstring, and `sections` of two columns."""
    least, most = WIDTH_LIMITS
    width = max(min(shutil.get_terminal_size().columns - 2, most), least)
    text = inspect.getdoc(function) or ""
    parts = [usage, *(_paragraph(each, width) for each in text.split("\n\n"))]
    parts += [_section(title, rows, width) for title, rows in sections]
    return "\n\n".join(parts)


def _paragraph(text: str, width: int) -> str:
    if text.startswith(VERBATIM):
        return "\n".join(f"  {line}" for line in text.splitlines()[1:])
    return fill(" ".join(text.split()), width, initial_indent="  ", subsequent_indent="  ")


def _section(title: str, rows: Sequence[tuple[str, str]], width: int) -> str:
    column = min(max(len(name) for name, _ in rows), COLUMN_LIMIT) + 2
    lines = [f"{title}:"]
    for name, text in rows:
        beside = wrap(text, max(width - column - 2, 10))
        if len(name) > COLUMN_LIMIT or not beside:
            beside.insert(0, "")
        lines.append(f"  {name:<{column}}{beside[0]}".rstrip())
        lines += [" " * (column + 2) + line for line in beside[1:]]
    return "\n".join(lines)
