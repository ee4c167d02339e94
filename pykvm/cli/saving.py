"""The options --snapshot-at and --snapshot-to, and what becomes of them in a run."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ..errors import ConfigError, PykvmError
from ..snapshot.trigger import Moment, snapshot_at
from . import ui

if TYPE_CHECKING:
    from ..machine import Machine
    from ..snapshot import Snapshot


class Saver:
    """Saves a snapshot to `to` at the moment `at` (a text on the serial port, or exits:N), and ends the run if `stop`.

    With `parent` only the pages that are not as in it are written. ConfigError for a moment or place that cannot be.
    """

    def __init__(self, at: str | None, to: str | None, *, stop: bool = False, parent: Snapshot | None = None) -> None:
        if (at is None) != (to is None):
            raise ConfigError("--snapshot-at and --snapshot-to go together: when, and to which directory")
        self._moment = None if at is None else Moment.parse(at)
        self._at, self._to = at, to or ""
        self._stop, self._parent = stop, parent
        self._error: PykvmError | None = None
        self._saved = False

    def arm(self, machine: Machine) -> None:
        """Before the start."""
        self._machine = machine
        if self._moment is not None:
            with machine.lock:
                snapshot_at(machine, self._moment, self._save)

    def _save(self, snapshot: Snapshot) -> None:
        try:
            snapshot.save(self._to, parent=self._parent)
            self._saved = True
        except PykvmError as error:
            self._error = error
        if self._stop or self._error is not None:
            self._machine.request_stop("the snapshot is saved" if self._saved else "the snapshot could not be saved")

    def report(self) -> None:
        """After the run: say on standard error what became of it; raises what kept the snapshot from being saved."""
        if self._error is not None:
            raise self._error
        if self._saved:
            ui.echo(f"pykvm: snapshot saved to {self._to}", err=True)
        elif self._moment is not None:
            raise PykvmError(f"no snapshot was saved: {self._at!r} did not come before the end of the run")


def warn_in_words() -> None:
    """Show warnings as lines of this program, not as Python's."""
    warnings.showwarning = lambda message, *_: ui.echo(f"pykvm: warning: {message}", err=True)
