"""What a person is told when a guest says something else: without a guest."""

from __future__ import annotations

import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm import ConfigError
from pykvm.console.port import ConsolePort
from pykvm.testing.expect import LINE_LIMIT, SHOWN_LINES, Mismatch, Serial, as_pattern, difference


def said(text: bytes) -> Serial:
    port = ConsolePort(threading.Condition(), "COM1")
    port.write(text)
    return Serial(port, lambda: None, lambda: 0)


def test_a_literal_may_have_any_end_of_a_line() -> None:
    serial = said(b"one\r\ntwo\nthree")
    assert str(serial.expect("one\ntwo\n")) == "one\ntwo\n"
    assert serial.expect("three").before == ""


def test_text_and_regular_expressions_of_both_kinds() -> None:
    serial = said("grüße 12, 13 und 14".encode())
    assert serial.expect("grüße").group() == "grüße"
    assert serial.expect(re.compile(r"(\d+), (\d+)")).groups() == ("12", "13")
    assert serial.expect(re.compile(rb"(?P<n>\d+)", re.IGNORECASE)).groupdict() == {"n": "14"}


@pytest.mark.parametrize("wanted", ["", b"", 5, None])
def test_what_cannot_be_expected(wanted: object) -> None:
    with pytest.raises(ConfigError, match="cannot be expected"):
        as_pattern(wanted)  # type: ignore[arg-type]


def test_the_line_that_is_most_like_it_is_beside_it() -> None:
    told = difference("COM1", "init: starting sh", "boot\ninit: startnig sh\n$ ", "1 s are over").splitlines()
    assert told[0] == "COM1: 'init: starting sh' did not come: 1 s are over. Instead:"
    assert told[1] == "    boot"
    assert told[2] == "  - init: starting sh"
    assert told[4] == "  + init: startnig sh"
    assert told[-1] == "    $"


def test_what_is_like_nothing_is_beside_nothing() -> None:
    told = difference("COM1", "login: ", "kernel panic\n", "why")
    assert told.splitlines()[1:] == ["    kernel panic"]


def test_how_far_a_regular_expression_came() -> None:
    told = difference("COM1", re.compile(r"pid (\d+) stopped"), "pid 12 started\n", "why")
    assert told.splitlines()[-1] == r"  'pid (\\d+) st' matches 'pid 12 st', then comes 'arted'"


def test_nothing_came() -> None:
    assert difference("COM1", "a", " \n", "why") == "COM1: 'a' did not come: why. Nothing came."


def test_it_is_short_and_harmless_to_a_terminal() -> None:
    flood = "\x1b]0;gotcha\x07" + "x" * 100_000 + "\n" + "y\n" * 1000
    told = difference("COM1", "z", flood, "why")
    assert len(told.splitlines()) == SHOWN_LINES + 2
    told = difference("COM1", "z", flood[:100_000], "why")
    assert len(told) < LINE_LIMIT + 200
    assert "\x1b" not in difference("COM1", "z", flood[:20], "why")


@given(st.text(min_size=1), st.text())
def test_any_text_is_told(wanted: str, instead: str) -> None:
    told = difference("COM1", wanted, instead, "why")
    assert repr(wanted) in told.splitlines()[0]
    assert told.replace("\n", "").replace("\t", "").isprintable()


@given(st.binary(), st.text(min_size=1, max_size=5))
def test_any_output_is_matched_or_told(output: bytes, wanted: str) -> None:
    pattern, serial = as_pattern(wanted), said(output)
    if pattern.search(output):
        assert serial.expect(wanted, 0).group() is not None
    else:
        with pytest.raises(Mismatch, match="did not come"):
            serial.expect(wanted, 0)
