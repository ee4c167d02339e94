"""What grading came to, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .lab import Lab, Test

NOT_RUN = "was not run"


@dataclass(frozen=True, slots=True)
class Result:
    """Of one test on one submission. `message` may quote the test; `crash` and `output` are the submission's own."""

    name: str
    points: float
    earned: float
    group: str = ""
    hidden: bool = False
    message: str = ""
    crash: str = ""
    output: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no point is missing."""
        return self.earned >= self.points

    @property
    def feedback(self) -> str:
        """What a student may read: of a hidden test nothing that it does or expects."""
        return self.crash if self.hidden else self.message


@dataclass(frozen=True, slots=True)
class Graded:
    """Of one submission."""

    name: str
    digest: str
    problem: str = ""
    """Why no test was run; "" if they were."""
    tests: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Graded:
        """What `as_dict` gave; TypeError if it is anything else."""
        tests = [Result(**test) for test in values["tests"]]
        return cls(**{**values, "tests": tests})

    def score(self, lab: Lab) -> float:
        """The points, with the groups' weights."""
        return _weighted(lab, {test.name: test.earned for test in self.tests})


def possible(lab: Lab) -> float:
    """The most points that there are."""
    return _weighted(lab, {test.name: test.points for test in lab.tests})


def _weighted(lab: Lab, earned: dict[str, float]) -> float:
    total = 0.0
    for group in {test.group: None for test in lab.tests}:
        tests = [test for test in lab.tests if test.group == group]
        points = sum(earned.get(test.name, 0.0) for test in tests)
        most = sum(test.points for test in tests)
        weight = lab.weights.get(group)
        total += points if weight is None else weight * points / most if most else 0.0
    return round(total, 6)


def unearned(test: Test, message: str) -> Result:
    """Of a test that could not be judged."""
    return Result(test.name, test.points, 0.0, test.group, test.hidden, message)
