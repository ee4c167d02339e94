"""The command line: `pykvm`, one file a subcommand, each imported only when it is asked for."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from ..errors import PykvmError

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
}

ERROR_STATUS = 2
"""Exit status of everything that is wrong before the guest runs: usage, image, host."""


class Commands(click.Group):
    """Finds a subcommand in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f".{cmd_name}", __name__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="pykvm-vmm", prog_name="pykvm")
def cli() -> None:
    """Run tiny guest kernels under KVM, and see what they do."""


def main() -> None:
    """The console script: every user's mistake ends in one line, not in a traceback."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(ERROR_STATUS)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except PykvmError as error:
        click.echo(f"{click.style('pykvm:', fg='red', bold=True)} {error}", err=True)
        sys.exit(ERROR_STATUS)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
