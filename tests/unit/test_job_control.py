"""SIGTSTP and SIGCONT that come in the midst of each other: the terminal is taken in the end.

In a process of their own, in a session of its own: its group is orphaned, and the kernel stops none such at SIGTSTP.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMIT = 20
SCRIPT = """
import os, signal, threading
from pykvm.cli import signals

told = []

def suspend():
    told.append("suspend")
    if {when!r} == "in suspend":
        os.kill(os.getpid(), signal.SIGCONT)

def kill(pid, number, real=os.kill):
    if {when!r} == "before the stop":
        signals.os.kill = real
        real(pid, signal.SIGCONT)
    real(pid, number)

with signals.job_control(threading.RLock(), suspend, lambda: told.append("resume")):
    handler = signal.getsignal(signal.SIGTSTP)
    if {when!r} == "before the stop":
        signals.os.kill = kill
    signal.raise_signal(signal.SIGTSTP)
    print(told[-1], told.count("suspend"), signal.getsignal(signal.SIGTSTP) is handler)
"""


@pytest.mark.parametrize("when", ["in suspend", "before the stop"])
def test_sigcont_in_the_midst_of_a_stop(when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(when=when)],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        start_new_session=True,
    )
    assert (done.stdout, done.stderr) == ("resume 1 True\n", "")
