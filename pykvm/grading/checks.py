"""One test on one machine: its steps are done, and what they and the run's end left behind is compared."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from ..console.port import WaitFailed
from ..crash.report import CrashReport
from ..errors import PykvmError
from ..machine import DeviceError, Machine
from ..outcome import Ending, Outcome
from ..testing.expect import difference, printable, shown
from .lab import DiskCheck, Step, Test

TAIL_LINES = 8
"""Lines of output that are shown where something else was expected."""
LINE_MOST = 200
"""Characters of a line that are shown."""
SEARCHED = 4 << 20
"""Bytes at a disk's beginning, or behind a check's offset, that a pattern is looked for in."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a test came to."""

    earned: float
    message: str
    """Why points are missing; "" if none are. It may quote the test."""
    crash: str
    """Why the guest crashed, and where; "" if it did not."""
    output: str
    """The end of the serial output."""


class _Wrong(Exception):
    """Something is not as the test wants it, and the message says what."""


def run_test(machine: Machine, test: Test) -> Verdict:
    """Start the machine, do what the test says, and judge. The machine's run has ended afterwards."""
    message = ""
    earned = 0.0
    outcome: Outcome | None = None
    try:
        machine.start(test.timeout)
        do_steps(machine, test.steps)
        outcome = machine.wait() if test.to_the_end else machine.stop()
        _judge(machine, test, outcome)
        earned, message = _points(machine, test)
    except _Wrong as wrong:
        message = str(wrong)
    except DeviceError as error:
        message = f"a device of the machine failed: {error}"
    except PykvmError as error:
        message = str(error)
    outcome = outcome or _ended(machine)
    crash = crash_sentence(outcome)
    if earned < test.points and crash and crash not in message:
        message = f"{message}; {crash}" if message else crash
    return Verdict(earned, message, crash, tail(machine.serial.text))


def _ended(machine: Machine) -> Outcome | None:
    try:
        return machine.stop()
    except PykvmError:
        return None


def do_steps(machine: Machine, steps: tuple[Step, ...]) -> None:
    """Do the steps one by one, until one fails: WaitFailed says what came instead."""
    serial = machine.serial
    for number, step in enumerate(steps, 1):
        start = serial.heard
        try:
            _do(machine, step)
        except WaitFailed:
            outcome = machine.outcome
            why = "the time was over" if outcome is None or outcome.ending == Ending.TIMED_OUT else f"{outcome}"
            if step.pattern is None:
                told = difference("screen", step.text, machine.screen_text(), why)
            else:
                told = difference(serial.name, step.pattern, shown(serial.said(start)), why)
            raise WaitFailed(f"step {number}: {told}") from None
        except ValueError as error:
            raise WaitFailed(f"step {number}: {step.text!r} cannot be typed: {error}") from None


def _do(machine: Machine, step: Step) -> None:
    match step.action:
        case "expect":
            assert step.pattern is not None
            machine.serial.wait_for(step.pattern)
        case "send":
            machine.serial.send(step.text)
        case "type":
            machine.keyboard.type(step.text)
        case "screen":
            machine.wait_for_screen(step.text)
        case "power-button":
            machine.power_button()


def _judge(machine: Machine, test: Test, outcome: Outcome) -> None:
    """_Wrong if the end, the output or a disk is not as the test wants it."""
    if test.ending is not None and outcome.ending != test.ending:
        raise _Wrong(f"the run was to end as {str(test.ending)!r}, and ended as: {outcome}")
    if test.exit_code is not None and outcome.exit_status != test.exit_code:
        raise _Wrong(f"the exit status was to be {test.exit_code}, and is {outcome.exit_status}: {outcome}")
    output = machine.serial.output.replace(b"\r\n", b"\n")
    for pattern in test.reject:
        found = pattern.search(output)
        if found is not None:
            raise _Wrong(f"the output has {_cut(found[0].decode('utf-8', 'replace'))!r}, and must not have it")
    if test.output is not None:
        different = first_difference(test.output, machine.serial.text)
        if different:
            raise _Wrong(different)
    for check in test.disk_checks:
        _check_disk(machine, test.settings.disks.index(check.disk), check)


def _points(machine: Machine, test: Test) -> tuple[float, str]:
    """The points that the matches of an otherwise right test bring, and what is missing for more."""
    output = machine.serial.output.replace(b"\r\n", b"\n")
    matched: set[str] = set()
    for pattern in test.match:
        found = pattern.search(output)
        if found is not None:
            matched |= {name for name, value in found.groupdict().items() if value is not None}
        elif not test.credit:
            return 0.0, f"{pattern.pattern.decode()!r} is not in the output, which ends:\n{tail(machine.serial.text)}"
    if not test.credit:
        return test.points, ""
    missing = [name for name in test.credit if name not in matched]
    earned = sum(points for name, points in test.credit.items() if name in matched)
    return earned, f"without {', '.join(missing)}. The output ends:\n{tail(machine.serial.text)}" if missing else ""


def _check_disk(machine: Machine, place: int, check: DiskCheck) -> None:
    disk = machine.disks[place]
    assert disk is not None
    length = len(check.content) or SEARCHED
    data = disk.read_at(check.offset, max(min(length, disk.size - check.offset), 0))
    if check.match is not None:
        if check.match.search(data) is None:
            raise _Wrong(f"{check.match.pattern.decode()!r} is not on the disk {check.disk!r}")
    elif data != check.content:
        raise _Wrong(
            f"the disk {check.disk!r} has {_cut(repr(data))} at byte {check.offset}, "
            f"and should have {_cut(repr(check.content))}"
        )


def first_difference(wanted: str, got: str) -> str:
    """The first line of `got` that is wrong, in words; "" if there is none. Blanks at line ends do not count."""
    lines = [[line.rstrip() for line in text.replace("\r", "").rstrip().split("\n")] for text in (wanted, got)]
    for number, (want, have) in enumerate(zip_longest(*lines), 1):
        if want == have:
            continue
        if have is None:
            return f"the output ends after line {number - 1}; line {number} should be {_cut(want)!r}"
        if want is None:
            return f"the output should end after line {number - 1}, and goes on with {_cut(have)!r}"
        return f"line {number} of the output is {_cut(have)!r}, and should be {_cut(want)!r}"
    return ""


def crash_sentence(outcome: Outcome | None) -> str:
    """Why the guest crashed and where, with the source line if it is known; "" if it did not."""
    report = None if outcome is None else outcome.report
    if not isinstance(report, CrashReport):
        return ""
    source = f" ({report.place.source})" if report.place.source else ""
    why = f": {report.explanation}" if report.explanation else ""
    return f"{report.summary}{source}{why}"


def tail(text: str) -> str:
    """The last lines of a text, as a terminal may have them."""
    lines = text.rstrip().split("\n")
    last = [_cut(printable(line)) for line in lines[-TAIL_LINES:]]
    return "\n".join((["..."] if len(lines) > TAIL_LINES else []) + last) if text.strip() else "(nothing)"


def _cut(text: str) -> str:
    return text if len(text) <= LINE_MOST else f"{text[:LINE_MOST]}..."
