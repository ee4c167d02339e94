"""Submissions side by side, each in a process of its own: what one of them does costs its own points only."""

from __future__ import annotations

import json
import os
import select
import selectors
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress

from .lab import Lab
from .results import NOT_RUN, Graded, Result, unearned
from .submission import Submission, SubmissionError
from .worker import fork

GRACE = 30.0
"""Seconds that a process may take for a step beyond what its lab allows."""
ENDING = 5.0
"""Seconds that a process has to end what it has started, before it is ended itself."""
LINE_MOST = 1 << 20
"""Bytes of one message of a process."""

Done = Callable[[str, str], bool]


class _Job:
    """One submission that is being graded."""

    def __init__(self, lab: Lab, submission: Submission, digest: str, scratch: str) -> None:
        self.lab, self.submission, self.digest = lab, submission, digest
        self.began = time.monotonic()
        self.directory = tempfile.mkdtemp(dir=scratch)
        self.target = os.path.join(self.directory, "submission")
        os.mkdir(self.target)
        self.kernel: str | None = None
        self.problem = ""
        self.results: dict[int, Result] = {}
        self.running: int | None = None
        self.done = False
        self._buffer = b""
        self.fork()

    def fork(self) -> None:
        """Start, or go on behind the test that the last process died of."""
        first = max(self.results, default=-1) + 1
        self.pid, self.pipe = fork(self.lab, self.submission, self.target, self.kernel, first)
        self.running = None
        self._buffer = b""
        self._allow(GRACE + self.lab.build_timeout)

    def _allow(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def hear(self) -> bool:
        """Take what the process says; False once it says no more."""
        data = os.read(self.pipe, 1 << 16)
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._note(json.loads(line))
        return bool(data) and len(self._buffer) < LINE_MOST

    def _note(self, message: dict[str, object]) -> None:
        match message:
            case {"built": str(path)}:
                self.kernel = path
            case {"problem": str(text)}:
                self.problem, self.done = text, True
            case {"fault": str(text)}:
                self.problem, self.done = f"a fault of pykvm, not of the submission: {text}", True
            case {"begin": int(number)}:
                self.running = number
                # The first test boots for all, and a crash report may take a replay.
                self._allow(GRACE + self.lab.tests[number].timeout + self.lab.boot_timeout)
            case {"end": int(number), "result": dict(result)}:
                self.results[number] = Result(**result)
                self.running = None
                self._allow(GRACE)
            case {"done": True}:
                self.done = True

    def end(self) -> int:
        """End the process, if it has not ended; the signal that it died of, or 0."""
        os.close(self.pipe)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        pidfd = os.pidfd_open(self.pid)
        try:
            if not select.select([pidfd], [], [], ENDING)[0]:
                os.kill(self.pid, signal.SIGKILL)
        finally:
            os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def ended(self, died_of: int, late: bool) -> Graded | None:
        """The result; None if there are tests left, which a new process has begun."""
        if not self.done:
            why = "took too long" if late else f"died of {signal.Signals(died_of).name}" if died_of else "broke off"
            if self.kernel is None:
                self.problem = f"the process that built it {why}"
            else:
                at = self.running if self.running is not None else max(self.results, default=-1) + 1
                if at < len(self.lab.tests):
                    self.results[at] = unearned(self.lab.tests[at], f"the process that ran it {why}")
                if at + 1 < len(self.lab.tests):
                    self.fork()
                    return None
        tests = [
            self.results.get(number) or unearned(test, self.problem or NOT_RUN)
            for number, test in enumerate(self.lab.tests)
        ]
        seconds = round(time.monotonic() - self.began, 3)
        return Graded(self.submission.name, self.digest, self.problem, tests, seconds)


def _remove(directory: str) -> None:
    """Remove it with all that is in it, though a build may have made directories that their owner cannot change."""
    for root, directories, _ in os.walk(directory):
        for name in directories:
            path = os.path.join(root, name)
            if not os.path.islink(path):
                with suppress(OSError):
                    os.chmod(path, 0o700)
    shutil.rmtree(directory, ignore_errors=True)


def grade(
    lab: Lab, submissions: Sequence[Submission], jobs: int, done: Done | None = None
) -> Generator[Graded, None, None]:
    """Grade the submissions, at most `jobs` at a time, each as soon as it is done.

    `done(name, digest)` says of a submission with that content that its result is there already. Whoever closes the
    iterator, or interrupts it, ends what runs.
    """
    waiting = sift(lab, submissions, done)
    active: dict[int, _Job] = {}
    # Whatever an interrupt finds half-done is in this directory, and is removed with it.
    scratch = tempfile.mkdtemp(prefix="pykvm-grade-")
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                while len(active) < jobs:
                    job = yield from _begin(lab, waiting, scratch)
                    if job is None:
                        break
                    active[job.pipe] = job
                    selector.register(job.pipe, selectors.EVENT_READ)
                if not active:
                    return
                first = min(job.deadline for job in active.values())
                heard = {key.fd for key, _ in selector.select(max(first - time.monotonic(), 0))}
                for pipe, job in list(active.items()):
                    says_more = job.hear() if pipe in heard else True
                    late = time.monotonic() >= job.deadline
                    if says_more and not late:
                        continue
                    selector.unregister(pipe)
                    graded = job.ended(job.end(), late)
                    if graded is None:
                        active.pop(pipe)
                        active[job.pipe] = job
                        selector.register(job.pipe, selectors.EVENT_READ)
                    else:
                        active.pop(pipe)
                        _remove(job.directory)
                        yield graded
        finally:
            for job in active.values():
                job.end()
            _remove(scratch)


def sift(
    lab: Lab, submissions: Sequence[Submission], done: Done | None
) -> Iterator[tuple[Submission, str, Graded | None]]:
    """What is left to do: the submission, and its content's digest; or, where it cannot be read, the result."""
    for submission in submissions:
        try:
            digest = submission.digest()
        except (OSError, SubmissionError) as error:
            tests = [unearned(test, str(error)) for test in lab.tests]
            yield submission, "", Graded(submission.name, "", str(error), tests)
            continue
        if done is None or not done(submission.name, digest):
            yield submission, digest, None


def _begin(
    lab: Lab, waiting: Iterator[tuple[Submission, str, Graded | None]], scratch: str
) -> Generator[Graded, None, _Job | None]:
    """The next job; None if there is none left."""
    for submission, digest, refused in waiting:
        if refused is None:
            return _Job(lab, submission, digest, scratch)
        yield refused
    return None
