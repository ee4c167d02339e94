"""`pykvm new`: a kernel to begin with."""

from __future__ import annotations

from shlex import quote

from .. import scaffold
from . import ui


@ui.command("new")
@ui.argument("directory", type=ui.Path(file_okay=False))
@ui.option(
    "--language",
    type=ui.Choice(list(scaffold.IMAGES)),
    help="c: a Multiboot 2 kernel; asm: a boot sector. By default c.",
)
def command(directory: str, language: str | None) -> None:
    """Write a small kernel into DIRECTORY, which must be empty or not there: its source, a Makefile, tests for pytest,
    and settings for an editor's debugger and for continuous integration."""
    image = scaffold.make(directory, language)
    ui.echo(f"{directory} has a kernel. What to try next:\n")
    for command, meaning in (
        (f"cd {quote(directory)} && make", "builds it"),
        (f"pykvm run {image}", "runs it; Ctrl-A X leaves"),
        ("python3 -m pytest", 'tests it; it takes pip install "pykvm-vmm[pytest]"'),
    ):
        ui.echo(f"  {ui.style(f'{command:<28}', bold=True)}  {meaning}")
