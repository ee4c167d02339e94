"""The process that one submission is graded in, and what its parent hears of it: JSON, a line each.

{"built": path}, {"problem": text}, {"begin": number}, {"end": number, "result": {...}}, {"done": true}.
{"fault": text} is of the process itself, and no fault of the submission.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

from ..errors import PykvmError
from .grader import prepare, run_tests
from .lab import Lab
from .submission import Submission

PR_SET_PDEATHSIG = 1


def fork(lab: Lab, submission: Submission, target: str, kernel: str | None, first: int) -> tuple[int, int]:
    """Fork a process that builds the submission in `target`, unless its `kernel` is there already, and runs its tests
    from number `first` on. Its process number, and the descriptor that it is heard by."""
    reads, writes = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(writes)
        return child, reads
    try:
        os.close(reads)
        _work(lab, submission, target, kernel, first, writes, parent)
    finally:
        os._exit(1)


def _work(
    lab: Lab, submission: Submission, target: str, kernel: str | None, first: int, pipe: int, parent: int
) -> NoReturn:
    os.setpgid(0, 0)  # Ctrl-C is the parent's
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:
        os._exit(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)

    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(pipe, data) :]

    try:
        if kernel is None:
            kernel = prepare(lab, submission, target)
            send({"built": kernel})
        run_tests(lab, kernel, target, first, send)
        send({"done": True})
    except PykvmError as error:
        send({"problem": str(error)})
    except Exception as error:  # a fault of pykvm's own: it is told rather than taken for the submission's
        where = traceback.extract_tb(error.__traceback__)[-1]
        send({"fault": f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"})
    os._exit(0)
