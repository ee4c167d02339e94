"""That a CPU cannot go on, as whoever serves its exits tells it; the words for it."""

from __future__ import annotations

import enum

from ..data import Data


class CrashKind(enum.Enum):
    """What ended the run: each is explained in its own way."""

    TRIPLE_FAULT = "triple fault"
    EMULATION = "KVM cannot emulate the instruction"
    ENTRY = "the CPU cannot enter this state"
    HALT = "halted in an exception handler"
    UNHANDLED = "unhandled exception"
    """The program has left it to the BIOS, which has no better idea than to stop."""
    INTERNAL = "KVM internal error"
    EXIT = "KVM gave up with the exit reason"


class Crash(Data):
    """A CPU cannot go on: which, and why."""

    cpu: int
    kind: CrashKind
    code: bytes = b""
    """EMULATION: the instruction's bytes, if KVM told them."""
    vector: int | None = None
    """UNHANDLED: the exception."""
    detail: str = ""
    """What KVM said besides: a hardware reason, a suberror with its data, the name of an exit reason."""

    @property
    def cause(self) -> str:
        """The kind in words, with the detail."""
        return f"{self.kind.value} {self.detail}".rstrip()
