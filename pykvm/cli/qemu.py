"""`pykvm qemu`: QEMU's command line, in QEMU's place. See docs/qemu.md."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from ..errors import PykvmError
from ..machine import DeviceError, Machine
from ..qemu.door import FAILED, Screen, run
from ..qemu.flags import listed
from ..qemu.reading import read
from ..qemu.settings import LOG_ITEMS, Settings
from ..typed import TYPE_CHECKING
from . import signals, ui
from .run import paint, show_device_error

if TYPE_CHECKING:
    from ..crash.report import CrashReport

NAME = "pykvm qemu"


class Terminal:
    """This process, as `qemu.door` needs it."""

    def __init__(self, ready: Callable[[], None] = lambda: None) -> None:
        self.ready = ready

    def say(self, text: str) -> None:
        """Say a word on standard error."""
        ui.echo(f"{NAME}: {text}", err=True)

    def show(self, text: str) -> None:
        """Print a line on standard output."""
        ui.echo(text)

    def screen(self, machine: Machine) -> Screen:
        """The VGA's screen on this terminal."""
        from .vga_terminal import VgaTerminal

        return VgaTerminal(machine)

    def job_control(
        self, machine: Machine, suspend: Callable[[], None], resume: Callable[[], None]
    ) -> AbstractContextManager[object]:
        """Has these called around a stop of the process."""
        return signals.job_control(machine.lock, suspend, resume)

    def report(self, report: CrashReport) -> None:
        """Show a crash report on standard error."""
        from ..crash.text import render

        ui.echo(f"{NAME}: the guest crashed\n{render(report, paint)}", err=True)


def command_line(words: Sequence[str]) -> int:
    """Run a guest as QEMU's command line asks, with QEMU's monitors.

    `pykvm qemu -help` lists QEMU's options that there are here; docs/qemu.md says what becomes of the others.
    """
    try:
        settings = read(words)
        if settings.show is not None:
            return _show(settings.show)
        if settings.daemonize:
            return _daemonized(settings)
        if not (settings.display or settings.uses_stdio) and sys.stdin.isatty() and sys.stdout.isatty():
            settings.display = "curses"  # in place of QEMU's window
        return run(settings, Terminal())
    except DeviceError as error:
        show_device_error(error)
    except PykvmError as error:
        ui.echo(f"{NAME}: {error}", err=True)
    except (OSError, MemoryError, RuntimeError) as error:
        from .limits import explain

        text = explain(error)
        if text is None:
            raise
        ui.echo(f"{NAME}: {text}", err=True)
    return FAILED


def _show(what: str) -> int:
    if what == "help":
        ui.echo(f"usage: {NAME} [options] [disk_image]\n\n'disk_image' is a raw hard disk image for IDE hard disk 0\n")
        ui.echo(listed())
    elif what == "version":
        from .. import __version__
        from ..qemu.info import VERSION

        ui.echo(f"QEMU emulator version {'.'.join(map(str, VERSION))} (pykvm {__version__})")
    else:
        ui.echo("Log items (comma separated):")
        for name, words in LOG_ITEMS.items():
            ui.echo(f"{name:<15} {words}")
    return 0


def _daemonized(settings: Settings) -> int:
    """Run in the background; the status is 0 once that is ready, or the background's own if it ends before.

    A virtual machine belongs to the process that made it: so the fork comes first.
    """
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        ready = os.read(told, 1)
        return 0 if ready else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def ready_now() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        os.write(tell, b"+")
        os.close(tell)

    os.close(told)
    os.setsid()
    return run(settings, Terminal(ready_now))


class QemuCommand(ui.Command):
    """A command whose words are QEMU's options: none of them is read here."""

    summary = "[QEMU'S OPTIONS] [DISK_IMAGE]"

    def main(self, words: Sequence[str], path: str) -> int:
        status: int = self.function(words=words)
        return status


command = QemuCommand("qemu", command_line)
