"""A command that is forked finds what a command that is started finds: nothing of the process that it is a fork of."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import zygote

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 40.0

PROBE = """
import gc, json, locale, os, resource, signal, subprocess, sys, threading, warnings
status = open("/proc/self/status").read().splitlines()

def file(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return None

def tell(stream):
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return [repr(stream), stream.mode, stream.encoding, stream.errors, stream.newlines, stream.line_buffering,
            stream.write_through, raw.name, raw.mode, raw.closefd, raw.isatty(), stream is getattr(sys, f"__{raw.name[1:-1]}__")]

seen = {
    "argv": sys.argv,
    "path": sys.path,
    "flags": repr(sys.flags), "xoptions": sys._xoptions, "warnings": len(warnings.filters), "filters": sys.warnoptions,
    "name": __name__,
    "cwd": os.getcwd(),
    "env": dict(os.environ), "environment of programs": subprocess.check_output(["env"]).decode("latin-1").splitlines(),
    "parent": os.getppid(), "group": os.getpgid(0) in (os.getpid(), os.getpgid(os.getppid())),
    "session": os.getsid(0) == os.getpid() or os.getsid(0) == os.getsid(os.getppid()),
    "open": {number: file(number) for number in range(64)},
    "inheritable": [os.get_inheritable(number) for number in range(3)],
    "streams": [tell(sys.stdin), tell(sys.stdout), tell(sys.stderr)],
    "signals": [str(signal.getsignal(number)).split(" at ")[0] for number in sorted(signal.valid_signals())],
    "kernel's": [line for line in status if line.startswith(("Umask", "SigB", "SigC", "SigI", "SigP", "Shd", "Threads", "NoNewPrivs", "Cap", "Groups"))],
    "timer": signal.getitimer(signal.ITIMER_REAL),
    "limits": open("/proc/self/limits").read(),
    "threads": [thread.name for thread in threading.enumerate()],
    "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
    "locale": locale.setlocale(locale.LC_ALL), "gc": [gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()],
    "hooks": [sys.excepthook is sys.__excepthook__, sys.gettrace(), sys.getprofile(), sys.getrecursionlimit()],
    "tty": [os.tcgetpgrp(0) == os.getpgid(0)] if os.isatty(0) else None,
    "oom": open("/proc/self/oom_score_adj").read(), "nice": os.nice(0), "name of the thread": open("/proc/self/comm").read(),
}
print(json.dumps(seen))
"""


def started(command: list[str], *, terminal: bool = False, **options: Any) -> subprocess.Popen[Any]:
    """Started for real."""
    take = (lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if terminal else None
    return subprocess.Popen(command, preexec_fn=take, **options)  # noqa: PLW1509  # no other thread runs


@pytest.mark.parametrize("case", ["as it is", "pipes", "null", "elsewhere", "session", "other variables"])
def test_it_finds_what_a_started_process_finds(tmp_path: Path, case: str) -> None:
    options: dict[str, Any] = {
        "as it is": {"cwd": ROOT},
        "pipes": {"cwd": ROOT, "stdin": subprocess.PIPE, "stderr": subprocess.PIPE},
        "null": {"cwd": ROOT, "stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
        "elsewhere": {"cwd": tmp_path},
        "session": {"start_new_session": True},
        "other variables": {"env": {**os.environ, "TERM": "dumb", "NEW": "\udcff é"}},
    }[case]
    options.setdefault("env", dict(os.environ))  # not what GNU readline has set behind Python's back
    found = []
    for start in (started, zygote.Popen):
        with start([sys.executable, "-c", PROBE, "one", "--two"], stdout=subprocess.PIPE, **options) as process:
            output, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0
        found.append(told(output))
    assert differences(*found) == []


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[object]:
    """What only one of them has found."""
    flat = [{f"{name}: {value}" for name in found for value in parts(found[name])} for found in (one, other)]
    return sorted(flat[0] ^ flat[1])


def parts(found: Any) -> list[object]:
    return list(found.items()) if isinstance(found, dict) else found if isinstance(found, list) else [found]


def told(output: bytes) -> dict[str, Any]:
    """What the probe found, with the names of pipes left out, which differ."""
    found: dict[str, Any] = json.loads(output)
    found["open"] = {
        number: name.partition("[")[0] for number, name in found["open"].items() if name and "/proc/" not in name
    }
    return found


def test_it_finds_the_terminal_that_a_started_process_finds() -> None:
    found = []
    for start in (started, zygote.Popen):
        near, far = pty.openpty()
        try:
            with start(
                [sys.executable, "-c", PROBE], cwd=ROOT, stdin=far, stdout=far, stderr=far, start_new_session=True,
                env=dict(os.environ), terminal=True,
            ) as process:  # fmt: skip
                output = b""
                while b"\n" not in output:
                    output += os.read(near, 4096)
                assert process.wait(LIMIT) == 0
        finally:
            os.close(near)
            os.close(far)
        found.append(told(output))
    assert found[0]["tty"] == [True]
    assert differences(*found) == []


ENDS = {
    "import os; os._exit(3)": 3,
    "import sys; sys.exit(4)": 4,
    "raise KeyError('why')": 1,
    "raise SystemExit('why')": 1,
    "raise KeyboardInterrupt": -signal.SIGINT,
    "import os; os.kill(os.getpid(), 9)": -signal.SIGKILL,
    "import os; os.abort()": -signal.SIGABRT,
    "import atexit; atexit.register(print, 'at the end'); print('first', end=' ')": 0,
    "import threading; threading.Thread(target=print, args=('in a thread',)).start()": 0,
    "syntax error": 1,
}


@pytest.mark.parametrize("code", ENDS)
def test_it_ends_as_a_started_process_ends(code: str) -> None:
    command, options = [sys.executable, "-c", code], {"cwd": ROOT, "capture_output": True, "timeout": LIMIT}
    real, forked = subprocess.run(command, check=False, **options), zygote.run(command, **options)
    assert forked.returncode == real.returncode == ENDS[code]
    assert forked.stdout == real.stdout
    assert forked.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_what_one_has_changed_the_next_does_not_find() -> None:
    change = """
import os, random, signal, sys, pykvm
random.seed(1)
os.environ["CHANGED"] = "yes"; os.chdir("/"); os.umask(0o777); signal.signal(signal.SIGTERM, signal.SIG_IGN)
pykvm.changed = sys.changed = True
"""
    look = "import os, random, sys, pykvm; print(hasattr(pykvm, 'changed') or hasattr(sys, 'changed'), random.random())"
    options = {"cwd": ROOT, "capture_output": True, "timeout": LIMIT, "check": True}
    zygote.run([sys.executable, "-c", change], **options)
    seen = [zygote.run([sys.executable, "-c", look], **options).stdout.split() for _ in range(2)]
    assert [words[0] for words in seen] == [b"False", b"False"]
    assert seen[0][1] != seen[1][1]


def test_it_is_a_child_that_can_be_stopped_killed_and_waited_for() -> None:
    with zygote.Popen([sys.executable, "-c", "input()"], cwd=ROOT, stdin=subprocess.PIPE) as process:
        assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        assert os.waitid(os.P_PID, process.pid, os.WSTOPPED) is not None
        process.send_signal(signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.kill()
        assert process.wait(LIMIT) == -signal.SIGKILL


def test_what_only_a_start_can_show_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="started already"):
        zygote.Popen([sys.executable, "-X", "dev", "-c", ""])
    with pytest.raises(AssertionError, match="for real"):
        zygote.Popen([sys.executable, "-c", ""], env={**os.environ, "PYTHONWARNINGS": "error"})
    before = os.umask(0o777)
    try:
        with pytest.raises(AssertionError, match="for real"):
            zygote.Popen([sys.executable, "-c", ""])
    finally:
        os.umask(before)


def test_an_answer_that_was_not_waited_for_is_not_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's time limit strikes in the midst of a request."""
    command = [sys.executable, "-c", "print('this one')"]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "timeout": LIMIT, "check": True}
    assert zygote.run(command, **options).stdout == b"this one\n"
    with monkeypatch.context() as patched:
        patched.setattr(zygote.json, "dumps", lambda _: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            zygote.run(command, **options)
    assert zygote.run(command, **options).stdout == b"this one\n"
