"""How a run ended: exactly one of a few named ways, with what a test wants to assert."""

from __future__ import annotations

from .typed import TYPE_CHECKING, NamedTuple, StrEnum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .crash.report import CrashReport


class Ending(StrEnum):
    """The ways in which a run can end. Each is a string, too: `outcome.ending == "halted"`."""

    HALTED = "halted"
    """Every CPU sleeps with interrupts off, or waits to be started: nothing can wake the machine again."""
    EXITED = "exited"
    """The guest ended the run by itself: an exit port (with a code) or a power-off (code 0)."""
    REBOOTED = "rebooted"
    """The guest reset the machine."""
    CRASHED = "crashed"
    """Triple fault, an exception in real mode that was left to the BIOS, an instruction that KVM cannot emulate, or a
    state that cannot be entered; see `report`."""
    TIMED_OUT = "timed out"
    """The time limit was over."""
    STOPPED = "stopped"
    """The host ended the run."""


EXIT_STATUS = {
    Ending.HALTED: 0,
    Ending.REBOOTED: 120,
    Ending.CRASHED: 122,
    Ending.TIMED_OUT: 124,
    Ending.STOPPED: 0,
}
"""A process's exit status by the way the run ended; EXITED has the guest's own. All are even: `value * 2 + 1` never is.
README's table has these for users, with the statuses of what is no outcome."""

DEVICE_ERROR_STATUS = 126
"""A process's exit status for a run without an outcome: a device failed."""


INTERRUPTED = "interrupted"
"""The reason of a run that Ctrl-C has ended: STOPPED."""


class Outcome(NamedTuple):
    """The end of a run."""

    ending: Ending
    reason: str
    """The same in words."""
    code: int | None = None
    """EXITED: the status. A value written to the exit port gives `value * 2 + 1`, a power-off gives 0."""
    value: int | None = None
    """EXITED: the raw value that was written to the exit port, None for a power-off."""
    report: CrashReport | None = None
    """CRASHED: what happened; HALTED: only if a CPU halted in an exception handler. `run` and `wait` fill it in."""
    elapsed: float = 0.0
    """Wall-clock seconds from the start to the end."""
    exits: int = 0
    """How often a vCPU left the guest for this process."""
    finished: Mapping[str, int] = {}
    """How often which instructions (mnemonics) were finished that KVM could not emulate."""

    @property
    def exit_status(self) -> int:
        """The status with which a process tells of this outcome, 0 to 255."""
        return self.code & 0xFF if self.code is not None else EXIT_STATUS[self.ending]

    @property
    def good(self) -> bool:
        """Whether the run ended as its guest or its host wanted: nothing crashed, reset or ran out of time."""
        return self.ending in (Ending.HALTED, Ending.EXITED, Ending.STOPPED)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields if name != "report")
        return f"Outcome({shown})"  # the report fills a screen

    def __str__(self) -> str:
        return f"{self.ending}: {self.reason}"
