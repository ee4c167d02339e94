"""`pykvm grade`: a lab's tests on one kernel, or on those of a class."""

from __future__ import annotations

import os
import sys

from ..engine.board import open_system
from ..errors import ConfigError
from ..grading import reports
from ..grading.journal import Journal
from ..grading.lab import Lab, read_lab
from ..grading.pool import grade
from ..grading.results import Graded, possible
from ..grading.submission import Submission, submissions_in
from ..testing.expect import printable
from . import ui
from .envelope import envelope
from .tables import show_table

SHOWN_LINES = 12
"""Lines of feedback on one test."""
BAR = 24


@ui.command("grade")
@ui.argument("lab", type=ui.Path(exists=True, dir_okay=False))
@ui.argument("submission", type=ui.Path(exists=True), required=False)
@ui.option(
    "--submissions", type=ui.Path(exists=True, file_okay=False), metavar="DIR",
    help="Grade each directory, archive or kernel in DIR.",
)  # fmt: skip
@ui.option("-j", "--jobs", type=ui.IntRange(1, 256), metavar="N", help="So many at a time; by default one a CPU.")
@ui.option(
    "--results", type=ui.Path(dir_okay=False), metavar="FILE",
    help="Note each result here at once, and go on from it: what is in it and has not changed is not graded again.",
)  # fmt: skip
@ui.option("--fresh", is_flag=True, help="Forget what --results has, and grade all.")
@ui.option(
    "--scheduler", metavar="ADDRESS", help="Have the workers of this Dask scheduler do it, such as tcp://host:8786."
)
@ui.option("--junit", type=ui.Path(dir_okay=False), metavar="FILE", help="Write JUnit's XML.")
@ui.option("--csv", type=ui.Path(dir_okay=False), metavar="FILE", help="Write a table of all submissions.")
@ui.option(
    "--gradescope", metavar="PATH",
    help="Write the JSON that Gradescope reads: a file; with --submissions one for each in this directory.",
)  # fmt: skip
@ui.option("--json", "as_json", is_flag=True, help="All results for programs, hidden tests included.")
def command(
    lab: str,
    submission: str | None,
    submissions: str | None,
    jobs: int | None,
    results: str | None,
    fresh: bool,
    scheduler: str | None,
    junit: str | None,
    csv: str | None,
    gradescope: str | None,
    as_json: bool,
) -> int:
    """Build the SUBMISSION (by default the current directory), run the tests of LAB on its kernel, and show the points.

    The exit status is 0 if all tests passed, 1 if points are missing, and with --submissions 0 once all are graded.
    docs/grading.md has what LAB may say.
    """
    read = read_lab(lab)
    if submission is not None and submissions is not None:
        raise ConfigError("give a submission, or --submissions, not both")
    if fresh and results is None:
        raise ConfigError("--fresh is for the file of --results, and there is none")
    if scheduler is None:
        open_system()  # without KVM nobody would have points
    if submissions is not None:
        all_submissions = submissions_in(submissions)
    else:
        path = os.path.abspath(submission or ".")
        all_submissions = [Submission(os.path.basename(path), path)]
    journal = Journal(results, read, fresh) if results is not None else None
    try:
        graded = _grade(read, all_submissions, jobs or os.cpu_count() or 1, scheduler, journal)
    finally:
        if journal is not None:
            journal.close()
    _write(junit, reports.junit(read, graded))
    _write(csv, reports.table(read, graded))
    if gradescope is not None:
        _write_gradescope(read, graded, gradescope, many=submissions is not None)
    good = all(test.passed for each in graded for test in each.tests)
    status = 0 if good or submissions is not None else 1
    if as_json:
        plain = [{"score": each.score(read), **each.as_dict()} for each in graded]
        ui.echo(envelope("grade", status, {"lab": read.name, "possible": possible(read), "submissions": plain}))
    elif submissions is not None:
        _show_class(read, graded)
    else:
        _show_one(read, graded[0])
    return status


def _grade(
    lab: Lab, submissions: list[Submission], jobs: int, scheduler: str | None, journal: Journal | None
) -> list[Graded]:
    """The results, by the order of the submissions."""
    found: dict[str, Graded] = {}

    def is_done(name: str, digest: str) -> bool:
        if journal is None or not journal.has(name, digest):
            return False
        found[name] = journal.graded[name]
        return True

    progress = _Progress(len(submissions), found)
    if scheduler is None:
        running = grade(lab, submissions, jobs, is_done)
    else:
        from ..grading.distributed import grade_by

        running = grade_by(scheduler, lab, submissions, is_done)
    try:
        for graded in running:
            found[graded.name] = graded
            if journal is not None:
                journal.add(graded)
            progress.show(graded.name)
    except (KeyboardInterrupt, SystemExit):
        progress.clear()
        rest = "the same command goes on from here" if journal else "with --results FILE it could be gone on from here"
        ui.echo(f"pykvm: stopped with {len(found)} of {len(submissions)} graded; {rest}", err=True)
        raise
    finally:
        running.close()
    progress.clear()
    return [found[submission.name] for submission in submissions]


class _Progress:
    """A bar on standard error, if that is a terminal and there is more than one to wait for."""

    def __init__(self, total: int, found: dict[str, Graded]) -> None:
        self._total, self._found = total, found
        self._on = total > 1 and sys.stderr.isatty() and not ui.is_dumb()

    def show(self, name: str) -> None:
        """One more is done."""
        if self._on:
            done = len(self._found)
            filled = BAR * done // self._total
            ui.echo(
                f"\r[{'#' * filled}{'.' * (BAR - filled)}] {done}/{self._total} {name[:30]:<30}", err=True, nl=False
            )

    def clear(self) -> None:
        """Take it away."""
        if self._on:
            ui.echo(f"\r{'':<{BAR + 45}}\r", err=True, nl=False)


def _write(path: str | None, text: str) -> None:
    if path is None:
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _write_gradescope(lab: Lab, graded: list[Graded], path: str, *, many: bool) -> None:
    if not many:
        _write(path, reports.gradescope(lab, graded[0]))
        return
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    for each in graded:
        _write(os.path.join(path, f"{each.name}.json"), reports.gradescope(lab, each))


def _show_class(lab: Lab, graded: list[Graded]) -> None:
    rows: list[list[str | int | float]] = []
    for each in graded:
        missing = each.problem.replace("\n", " ") or ", ".join(test.name for test in each.tests if not test.passed)
        rows.append(
            [printable(each.name), each.score(lab), sum(test.passed for test in each.tests), printable(missing)[:70]]
        )
    show_table(f"{lab.name}: {possible(lab):g} points", ["submission", "score", "passed", "not passed"], rows)


def _show_one(lab: Lab, graded: Graded) -> None:
    if graded.problem:
        for line in graded.problem.split("\n"):
            ui.secho(printable(line), fg="red")
    for test in graded.tests:
        mark = ui.style("pass", fg="green") if test.passed else ui.style("part" if test.earned else "FAIL", fg="red")
        ui.echo(f"{mark}  {test.earned:g}/{test.points:g}  {test.name}")
        if not test.passed and not graded.problem:
            for line in test.message.split("\n")[:SHOWN_LINES]:
                ui.echo(f"      {printable(line)}")
    score, most = graded.score(lab), possible(lab)
    ui.secho(f"\n{lab.name}: {score:g} of {most:g} points", bold=True)
