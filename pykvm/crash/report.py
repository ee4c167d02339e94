"""A crash report: the findings, and their text."""

from __future__ import annotations

from dataclasses import dataclass

from .findings import Findings
from .text import render


@dataclass(frozen=True, slots=True)
class CrashReport(Findings):
    """A crash as data; `str()` of it is what people read."""

    def __str__(self) -> str:
        return render(self)
