"""The help page of a command: its usage, what it does, its options in two columns; as wide as the terminal or less."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator, Sequence
from textwrap import fill, wrap

from .ui import Command, Group, Number, Option

WIDTH_LIMITS = 50, 78
COLUMN_LIMIT = 30
"""Characters of the first column: what is wider has a line of its own."""
VERBATIM = "\b"
"""A line of this alone begins a paragraph of a docstring whose lines are left as they are."""


def page(command: Command) -> str:
    """The whole page, without the last line's end."""
    least, most = WIDTH_LIMITS
    width = max(min(shutil.get_terminal_size().columns - 2, most), least)
    text = inspect.getdoc(command.function) or ""
    parts = [command.usage(), *(_paragraph(each, width) for each in text.split("\n\n"))]
    parts.append(_section("Options", [_describe(option) for option in command.options], width))
    if isinstance(command, Group):
        parts.append(_section("Commands", list(command.commands.items()), width))
    return "\n\n".join(parts)


def _paragraph(text: str, width: int) -> str:
    if text.startswith(VERBATIM):
        return "\n".join(f"  {line}" for line in text.splitlines()[1:])
    return fill(" ".join(text.split()), width, initial_indent="  ", subsequent_indent="  ")


def _describe(option: Option) -> tuple[str, str]:
    """An option's names with its value's, and its help."""
    names = ", ".join(option.names)
    if option.off:
        names += f" / {option.off}"
    elif not option.is_flag:
        names += f" {option.metavar or option.kind.shown}"
    extra = "; ".join(_extra(option))
    return names, f"{option.help}  [{extra}]" if extra else option.help


def _extra(option: Option) -> Iterator[str]:
    if option.show_default:
        own = option.names[-1] if option.default else option.off or ""
        yield f"default: {own.lstrip('-') if option.is_flag else option.default}"
    if isinstance(option.kind, Number) and option.kind.range:
        yield option.kind.range
    if option.required:
        yield "required"


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
