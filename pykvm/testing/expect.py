"""Expecting what a guest says, on a serial port and on the screen, and what a person is told if something else came."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from ..console.port import ConsolePort, WaitFailed
from ..display import Screen
from ..errors import ConfigError
from ..machine import Machine

Wanted = str | bytes | re.Pattern[str] | re.Pattern[bytes]
"""A literal text, whose "\\n" is any end of a line, or a compiled regular expression."""

SHOWN_LINES = 20
"""Lines of what came that a failure shows, the last ones."""
LINE_LIMIT = 400
"""Characters of a line that are shown and compared: a guest may print for ever without an end of a line."""
ALIKE = 0.5
"""How alike (0 to 1) a line must be to what was expected to be shown beside it."""


class Mismatch(AssertionError):
    """The guest has not done what was expected of it. The message shows what it did instead."""


class Match:
    """What came as expected: groups as of `re.Match`, as text."""

    def __init__(self, match: re.Match[bytes], before: str) -> None:
        self._match = match
        self.before = before
        """What came in front of it, since what was expected last."""

    def group(self, which: int | str = 0) -> str | None:
        """A group; None if it took no part. IndexError if there is none of that number or name."""
        found: bytes | None = self._match.group(which)
        return None if found is None else shown(found)

    def groups(self) -> tuple[str | None, ...]:
        """All groups but the whole."""
        return tuple(self.group(number) for number in range(1, (self._match.re.groups) + 1))

    def groupdict(self) -> dict[str, str | None]:
        """The named groups."""
        return {name: self.group(name) for name in self._match.re.groupindex}

    def __getitem__(self, which: int | str) -> str | None:
        return self.group(which)

    def __str__(self) -> str:
        return self.group() or ""

    def __repr__(self) -> str:
        return f"<Match {self.group()!r}>"


class Serial:
    """A serial port of a guest. `go_on` lets a stopped guest go on; `timeout` tells seconds where none are given."""

    def __init__(self, port: ConsolePort, go_on: Callable[[], None], timeout: Callable[[], float]) -> None:
        self.port = port
        self._go_on, self._timeout = go_on, timeout

    @property
    def text(self) -> str:
        """All that the guest has said, line ends as "\\n"."""
        return self.port.text

    def send(self, data: str | bytes) -> None:
        """Type into the guest, as a terminal does."""
        self.port.send(data)

    def expect(self, wanted: Wanted, timeout: float | None = None) -> Match:
        """Wait until the guest has said `wanted`, behind what was expected last.

        Mismatch, with what it said instead, after `timeout` seconds or when the run ends without it.
        """
        __tracebackhide__ = True  # pytest's: the line of the test is what a reader looks for
        pattern, limit = as_pattern(wanted), self._timeout() if timeout is None else timeout
        self._go_on()
        start = self.port.heard
        try:
            match = self.port.wait_for(pattern, limit)
        except WaitFailed:
            why = self.port.ended or f"{limit:g} s are over"
            instead = shown(self.port.said(start))
            raise Mismatch(difference(self.port.name, wanted, instead, why)) from None
        return Match(match, shown(self.port.said(start, self.port.heard - len(match[0]))))


class ScreenView:
    """A guest's screen."""

    def __init__(self, machine: Machine, go_on: Callable[[], None], timeout: Callable[[], float]) -> None:
        self._machine, self._go_on, self._timeout = machine, go_on, timeout

    @property
    def text(self) -> str:
        """What it shows, row by row."""
        return self._machine.screen_text()

    @property
    def now(self) -> Screen:
        """The screen as it is: `text`, `lines`, `png`, `pixels`."""
        return self._machine.screen

    def expect(self, wanted: str | re.Pattern[str], timeout: float | None = None) -> Screen:
        """Wait until a row of the screen has `wanted` in it. Mismatch, with what it shows instead, as of a serial port.

        What is on the screen is looked at 50 times a second.
        """
        __tracebackhide__ = True
        limit = self._timeout() if timeout is None else timeout
        self._go_on()
        try:
            return self._machine.wait_for_screen(wanted, limit)
        except WaitFailed:
            outcome = self._machine.outcome
            why = f"the run has ended ({outcome})" if outcome else f"{limit:g} s are over"
            raise Mismatch(difference("screen", wanted, self.text, why)) from None


def as_pattern(wanted: Wanted) -> re.Pattern[bytes]:
    """What to look for in the output, which is bytes. ConfigError for what cannot be looked for."""
    if isinstance(wanted, re.Pattern):
        if isinstance(wanted.pattern, bytes):
            return wanted
        return re.compile(wanted.pattern.encode(), wanted.flags & ~re.UNICODE)
    if not isinstance(wanted, (str, bytes)) or not wanted:
        raise ConfigError(f"{wanted!r} cannot be expected: give text, or a regular expression by re.compile")
    literal = wanted.encode() if isinstance(wanted, str) else wanted
    return re.compile(re.escape(literal).replace(b"\\\n", b"\r?\n"))


def shown(raw: bytes) -> str:
    """What the guest said as text, with line ends as "\\n"."""
    return raw.decode("utf-8", "replace").replace("\r\n", "\n")


# What came instead


def difference(who: str, wanted: Wanted, instead: str, why: str) -> str:
    """A message for people: what was expected, what came, and how the line that is most like it differs."""
    regular = isinstance(wanted, re.Pattern)
    text = wanted.pattern if isinstance(wanted, re.Pattern) else wanted
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    lines = [f"{who}: {'a match of ' if regular else ''}{text!r} did not come: {why}."]
    said = [printable(line[-LINE_LIMIT:]) for line in instead.rstrip("\n").split("\n")]
    if not instead.strip():
        return f"{lines[0]} Nothing came."
    lines[0] += " Instead:"
    if len(said) > SHOWN_LINES:
        lines.append(f"  ({len(said) - SHOWN_LINES} lines before)")
        said = said[-SHOWN_LINES:]
    near = None if regular else _nearest(text, said)
    for number, line in enumerate(said):
        if number == near:
            lines += _beside(text, line)
        else:
            lines.append(f"    {line}".rstrip())
    if isinstance(wanted, re.Pattern):
        lines += _as_far_as(text, wanted.flags, instead)
    return "\n".join(lines)


def printable(line: str) -> str:
    """A line that may be printed on a terminal: control characters as escapes."""
    return "".join(char if char.isprintable() or char == "\t" else ascii(char)[1:-1] for char in line)


def _wanted_line(wanted: str) -> str:
    """The first line of it with anything in it."""
    return printable(next((line for line in wanted.split("\n") if line.strip()), ""))[:LINE_LIMIT]


def _nearest(wanted: str, said: list[str]) -> int | None:
    line = _wanted_line(wanted)
    alike = [difflib.SequenceMatcher(None, line, other, autojunk=False).ratio() for other in said]
    best = max(range(len(said)), key=alike.__getitem__)
    return best if alike[best] >= ALIKE else None


def _beside(wanted: str, line: str) -> list[str]:
    marks = difflib.ndiff([_wanted_line(wanted)], [line])
    return [f"  {mark}".rstrip() for mark in marks if not mark.startswith("?") or mark[1:].strip()]


def _as_far_as(pattern: str, flags: int, instead: str) -> list[str]:
    """How much of a regular expression, from its beginning, does match, and what stood in the way of the rest."""
    for length in range(min(len(pattern), LINE_LIMIT) - 1, 2, -1):
        try:
            found = re.search(pattern[:length], instead, flags & ~re.DEBUG | re.UNICODE)
        except re.error:
            continue
        if found is not None and found[0]:
            rest = instead[found.end() :].split("\n", 1)[0][:LINE_LIMIT]
            return [f"  {pattern[:length]!r} matches {found[0]!r}, then comes {printable(rest)!r}"]
    return []
