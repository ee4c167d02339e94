"""The host's side of a serial port, with a UART that is this test."""

from __future__ import annotations

import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykvm.console.port import INPUT_LIMIT, OUTPUT_LIMIT, ConsolePort, WaitFailed
from pykvm.errors import PykvmError

LIMIT = 30.0


def make() -> ConsolePort:
    return ConsolePort(threading.Condition(), "COM9")


def guest_writes(port: ConsolePort, data: bytes, lock: threading.RLock) -> None:
    with lock:
        port.write(data)


def test_output_as_bytes_and_as_text() -> None:
    port = make()
    port.write("Grüße\r\n".encode())
    port.write(b"\xff\r\n\rend")
    assert port.output == "Grüße\r\n".encode() + b"\xff\r\n\rend"
    assert port.text == "Grüße\n\N{REPLACEMENT CHARACTER}\n\rend"


def test_the_sink_gets_each_piece() -> None:
    port, pieces = make(), list[bytes]()
    port.sink = pieces.append
    port.write(b"a")
    port.write(b"bc")
    assert pieces == [b"a", b"bc"]


def test_of_a_long_output_the_end_is_kept() -> None:
    port = make()
    piece = bytes(range(256)) * 256
    total = bytearray()
    for _ in range(3 * OUTPUT_LIMIT // len(piece)):
        port.write(piece)
        total += piece
        assert len(port._output) <= 2 * OUTPUT_LIMIT
    assert len(port.output) >= OUTPUT_LIMIT
    assert total.endswith(port.output)
    port.write(b"the end")
    assert port.wait_for("the end", 0)[0] == b"the end"


def test_waiting_goes_on_behind_the_last_match_even_where_output_was_dropped() -> None:
    port = make()
    port.write(b"prompt> ")
    port.wait_for("prompt> ", 0)
    port.write(b"x" * (2 * OUTPUT_LIMIT))
    port.write(b"x" * OUTPUT_LIMIT)  # now the beginning is gone, and the cursor with it
    with pytest.raises(WaitFailed):
        port.wait_for("prompt> ", 0)
    port.write(b"prompt> again")
    port.wait_for("prompt> ", 0)
    assert port.wait_for(re.compile(rb"\w+"), 0)[0] == b"again"


def test_a_match_outlives_the_output() -> None:
    port = make()
    port.write(b"value=42;")
    match = port.wait_for(re.compile(rb"value=(\d+);"), 0)
    port.write(b"x" * (3 * OUTPUT_LIMIT))
    assert (match[0], match[1]) == (b"value=42;", b"42")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (rb"(?<=> )\w+", b"wordx"),  # what it looks behind at has been matched before
        (rb"\Bx", b"x"),
        (rb"(?<!a)b", b"b"),
        (rb"^\w+", None),  # the line begins with what has been matched before
        (rb"(?m)^next", b"next"),
        (rb"\Aword", None),
    ],
)
def test_an_expression_sees_what_is_in_front_of_its_match(pattern: bytes, found: bytes | None) -> None:
    port = make()
    port.write(b"> ")
    port.wait_for("> ", 0)
    port.write(b"wordx b\nnext")
    if found is None:
        with pytest.raises(WaitFailed):
            port.wait_for(re.compile(pattern), 0)
    else:
        assert port.wait_for(re.compile(pattern), 0)[0] == found


pieces = st.lists(st.binary(max_size=6).map(lambda raw: bytes(b"ab\n"[byte % 3] for byte in raw)), max_size=8)


@given(pieces=pieces, needle=st.sampled_from([b"a", b"ab", b"aab", b"b\na", b"\n\n", b""]))
def test_a_literal_is_found_like_in_one_string(pieces: list[bytes], needle: bytes) -> None:
    port, model, cursor = make(), b"", 0
    for piece in pieces:
        port.write(piece)
        model += piece
        at = model.find(needle, cursor)
        if at < 0:
            with pytest.raises(WaitFailed):
                port.wait_for(needle, 0)
        else:
            assert port.wait_for(needle, 0)[0] == needle
            cursor = at + len(needle)


def test_a_text_that_comes_in_pieces_wakes_who_waits() -> None:
    lock = threading.RLock()
    port = ConsolePort(threading.Condition(lock))
    found: list[bytes] = []
    waiter = threading.Thread(target=lambda: found.append(port.wait_for("login: ", LIMIT)[0]))
    waiter.start()
    for piece in (b"lo", b"gin", b": "):
        guest_writes(port, piece, lock)
    waiter.join(LIMIT)
    assert found == [b"login: "]


def test_several_may_wait() -> None:
    lock = threading.RLock()
    port = ConsolePort(threading.Condition(lock))
    found: list[bytes] = []
    waiters = [threading.Thread(target=lambda: found.append(port.wait_for(b"x", LIMIT)[0])) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    guest_writes(port, b"xxx", lock)
    for waiter in waiters:
        waiter.join(LIMIT)
    assert found == [b"x"] * 3


def test_the_end_wakes_who_waits_and_says_why() -> None:
    lock = threading.RLock()
    port = ConsolePort(threading.Condition(lock), "COM9")
    failures: list[str] = []

    def wait() -> None:
        try:
            port.wait_for("never")
        except WaitFailed as error:
            failures.append(str(error))

    guest_writes(port, b"the last words", lock)
    waiter = threading.Thread(target=wait)
    waiter.start()
    with lock:
        port.end("the run has ended (crashed: triple fault)")
    waiter.join(LIMIT)
    (told,) = failures
    for words in ("COM9", "never", "crashed: triple fault", "the last words"):
        assert words in told


def test_the_error_shows_the_end_of_a_long_output_only() -> None:
    port = make()
    port.write(b"begin " + b"." * 10_000 + b" end")
    with pytest.raises(WaitFailed) as caught:
        port.wait_for("x", 0)
    assert "end" in str(caught.value)
    assert "begin" not in str(caught.value)
    assert len(str(caught.value)) < 1000


# Input


class Uart:
    """Takes input when it is told that there is some."""

    def __init__(self, port: ConsolePort) -> None:
        self.told = self.readied = 0
        port.connect(self.on_input, self.on_ready)

    def on_input(self) -> None:
        self.told += 1

    def on_ready(self) -> None:
        self.readied += 1


@given(st.lists(st.one_of(st.binary(max_size=20), st.integers(0, 20)), max_size=20))
def test_input_comes_in_order_and_as_much_as_is_asked_for(actions: list[bytes | int]) -> None:
    port, model = make(), b""
    uart = Uart(port)
    for action in actions:
        if isinstance(action, bytes):
            before = uart.told
            port.send(action)
            model += action
            assert uart.told == before + 1
        else:
            assert port.read(action) == model[:action]
            model = model[action:]
        assert port.waiting == len(model)


def test_text_is_sent_as_utf_8() -> None:
    port = make()
    port.send("é\n")
    assert port.read(10) == b"\xc3\xa9\n"


def test_too_much_input_is_refused_whole() -> None:
    port = make()
    port.send(b"x" * (INPUT_LIMIT - 1))
    with pytest.raises(PykvmError, match=r"COM9.*2 bytes"):
        port.send(b"yy")
    port.send(b"z")
    assert port.waiting == INPUT_LIMIT
    assert port.read(INPUT_LIMIT)[-2:] == b"xz"


def test_who_fills_it_is_told_when_it_is_empty() -> None:
    port, calls = make(), list[int]()
    port.drained = lambda: calls.append(port.waiting)
    port.send(b"abc")
    port.read(2)
    assert calls == []
    port.read(2)
    assert calls == [0]
    port.read(2)
    assert calls == [0]


def test_ready_is_told_once_each_time_it_comes_back() -> None:
    port = make()
    uart = Uart(port)
    assert port.ready
    for ready in (True, False, False, True, True, False, True):
        port.set_ready(ready)
        assert port.ready is ready
    assert uart.readied == 2


def test_a_port_that_nobody_is_connected_to_takes_everything() -> None:
    lock = threading.RLock()
    port = ConsolePort(threading.Condition(lock))
    port.send(b"x")
    with lock:
        port.set_ready(False)
        port.set_ready(True)
        port.end("over")
    assert (port.ready, port.waiting) == (True, 1)
