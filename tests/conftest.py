"""What every test gets: features by name, the test guests, a time limit, and an honest count of the KVM tests.

- `@pytest.mark.needs("paging32", ...)` skips a test by name where the machine lacks a feature; the names are in
  features.py. Everything in tests/kvm needs "kvm" without saying so.
- The fixture `guest` gives the path of a built test guest.
- Each of a test's phases (set-up, call, tear-down) must end within `PYKVM_TEST_TIMEOUT` seconds.
- A run whose KVM tests were all skipped fails on a machine that has /dev/kvm.
- A property test does not fail because the machine is slow.
- `--part 2/3` runs every third test, from the second on: three such runs side by side make the whole.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType

import pytest
from features import FEATURES
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
KVM_TESTS = ROOT / "tests" / "kvm"

settings.register_profile("pykvm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pykvm")

TIME_LIMIT = int(os.environ.get("PYKVM_TEST_TIMEOUT", "60"))
"""Seconds for a phase of a test."""
TIME_LIMIT_REPEAT = 5
"""Seconds between the alarms after the first: one that strikes inside a destructor or a C callback gets lost there."""
LAST_RESORT = 2 * TIME_LIMIT
"""Seconds after which a phase that no alarm could end ends the whole run, with the tracebacks of all threads."""


class TimeLimitExceeded(BaseException):
    """A test took too long. No Exception, so that neither a test's `except` nor hypothesis takes it for a finding."""


def _on_alarm(_number: int, _frame: FrameType | None) -> None:
    raise TimeLimitExceeded(f"not done after {TIME_LIMIT} s (PYKVM_TEST_TIMEOUT)")


class TimeLimits:
    """A SIGALRM in the main thread, which also ends a KVM_RUN or a wait there; behind it, faulthandler's watchdog."""

    def __init__(self) -> None:
        # Output is not captured yet when this is made: the copy leads to the run's own stderr.
        self._stderr = os.fdopen(os.dup(2), "w")
        signal.signal(signal.SIGALRM, _on_alarm)

    def _limit(self) -> Generator[None, object, object]:
        faulthandler.dump_traceback_later(LAST_RESORT, file=self._stderr, exit=True)
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT, TIME_LIMIT_REPEAT)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        return (yield from self._limit())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        return (yield from self._limit())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        return (yield from self._limit())

    def pytest_unconfigure(self) -> None:
        # A thread that a test left behind would keep the interpreter from ending.
        faulthandler.dump_traceback_later(LAST_RESORT, file=self._stderr, exit=True)


class KvmTally:
    """How many tests that need KVM ran, and why the others did not."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.ran: set[str] = set()
        self.skipped: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names = {item.nodeid for item in session.items if "kvm" in needs(item)}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid not in self.names:
            return
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped[report.nodeid] = reason.removeprefix("Skipped: ")
        elif report.when == "call":
            self.ran.add(report.nodeid)

    @property
    def fooled(self) -> bool:
        """True if this machine offers KVM and yet no test has used it."""
        return bool(self.skipped) and not self.ran and os.path.exists("/dev/kvm")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.fooled and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.names:
            return
        line = f"KVM tests: {len(self.ran)} ran, {len(self.skipped)} skipped"
        terminalreporter.section("KVM")
        terminalreporter.line(line, red=self.fooled)
        for reason, count in Counter(self.skipped.values()).most_common():
            terminalreporter.line(f"  {count} skipped: {reason}")
        if self.fooled:
            terminalreporter.line("FAILED: this machine has /dev/kvm, yet every KVM test was skipped", red=True)


def needs(item: pytest.Item) -> list[str]:
    """The features that a test needs, in the order in which they are probed."""
    named = [name for marker in item.iter_markers("needs") for name in marker.args]
    return list(dict.fromkeys(["kvm", *named] if KVM_TESTS in item.path.parents else named))


def part_of_the_tests(text: str) -> tuple[int, int]:
    """`2/3` is (2, 3)."""
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part, as 2/3 is")
    return int(number), int(parts)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part", type=part_of_the_tests, default=(1, 1), metavar="I/N", help="every Nth test, from the Ith"
    )


def as_at_a_terminal() -> None:
    """Signals as a shell's foreground job has them: what a background job or nohup has ignored, its children ignore."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*features): skip where the machine lacks one; names in tests/features.py")
    as_at_a_terminal()
    config.pluginmanager.register(TimeLimits(), "pykvm-time-limits")
    config.pluginmanager.register(KvmTally(), "pykvm-kvm-tally")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number, parts = config.getoption("part")
    config.hook.pytest_deselected(
        items=[item for index, item in enumerate(items, 1) if index % parts != number % parts]
    )
    items[:] = items[number - 1 :: parts]
    for item in items:
        if unknown := [name for name in needs(item) if name not in FEATURES]:
            raise pytest.UsageError(f"{item.nodeid} needs {unknown[0]!r}, which tests/features.py does not know")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in needs(item):
        if reason := FEATURES[name]():
            pytest.skip(f"needs {name}: {reason}")


@pytest.fixture(scope="session")
def guest() -> Callable[[str], Path]:
    """`guest("hello64")` is the path of guests/build/hello64.elf or, if the guest is a flat binary, hello64.bin.

    ./build_guests.sh, run once a session, builds what is missing or older than its source.
    """
    script = ROOT / "build_guests.sh"
    done = subprocess.run([script], check=False, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"./build_guests.sh failed:\n{done.stdout}{done.stderr}", pytrace=False)

    def path_of(name: str) -> Path:
        for suffix in (".elf", ".bin"):
            if (path := ROOT / "guests" / "build" / (name + suffix)).exists():
                return path
        raise LookupError(f"./build_guests.sh builds no guest {name!r}")

    return path_of


@pytest.fixture
def int3_seen() -> None:
    """Skip where KVM neither reports INT3 nor fails to emulate it."""
    reason = FEATURES["sw-breakpoints"]()
    if reason and FEATURES["pvm"]():
        pytest.skip(f"needs sw-breakpoints: {reason}")
