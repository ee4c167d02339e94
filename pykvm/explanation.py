"""An outcome, complete: with a crash report, or with where the CPUs were."""

from __future__ import annotations

from functools import partial

from .crash.event import Crash
from .crash.post_mortem import PostMortem
from .crash.stack_scan import may_have_frames
from .outcome import INTERRUPTED, Ending, Outcome
from .typed import TYPE_CHECKING

if TYPE_CHECKING:
    from .crash.report import CrashReport
    from .replay import Checkpoint


def explain_stop(
    crash: Crash | None, end: PostMortem, checkpoint: Checkpoint | None, replay_limit: float
) -> CrashReport | None:
    """The report of a guest that cannot go on, by a `crash` or a halt; None of a halt that is no exception's.

    No CPU is in the guest.
    """
    from .crash.explain import explain_crash, explain_halt

    if crash is None:
        return explain_halt(end)
    run_again = None
    if checkpoint is not None:
        from .replay import replay

        run_again = partial(replay, checkpoint, replay_limit)
    return explain_crash(end, crash, 0, run_again)


def explained(
    outcome: Outcome,
    crash: Crash | None,
    end: PostMortem,
    keep_instructions: int,
    checkpoint: Checkpoint | None,
    replay_limit: float,
) -> Outcome:
    """`outcome` with what `end`, and for a `crash` perhaps a replay from `checkpoint`, tell of it.

    All threads have ended. What it takes is imported here: most runs need none of it.
    """
    report: CrashReport | None = None
    reason = outcome.reason
    if crash is not None:
        from .crash.explain import explain_crash

        run_again = None
        if checkpoint is not None:
            from .replay import replay

            run_again = partial(replay, checkpoint, replay_limit)
        report = explain_crash(end, crash, keep_instructions, run_again)
        reason = report.summary
    elif outcome.ending in (Ending.HALTED, Ending.CRASHED) and may_have_frames(end):
        from .crash.explain import explain_halt

        report = explain_halt(end)
        reason = reason if report is None else f"{reason}; {report.summary}"
    elif outcome.ending is Ending.TIMED_OUT or (outcome.ending is Ending.STOPPED and outcome.reason == INTERRUPTED):
        from .crash.location import cpu_locations

        reason = f"{reason}; {cpu_locations(end)}"
    return outcome._replace(reason=reason, report=report)
