"""BIOS calls in words, one line each: what was asked, and what the answer was.

Formatting happens here and only while somebody listens. Numbers are hexadecimal, as in every description of a BIOS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..memory import GuestMemoryError
from .call import Call, linear
from .disk import STATUS
from .rom import POST_CALL, RESET_CALL

Words = Callable[[Call], str]
"""Reads the registers before or after the call."""

LINE_FEED = 0x0A
LINE = 72
"""Characters printed one by one share a line up to this length."""


def _text(character: int) -> str:
    return bytes((character,)).decode("cp437") if 0x20 <= character != 0x7F else f"\\x{character:02x}"


def _chs(call: Call) -> str:
    cylinder = call.ch | (call.cl & 0xC0) << 2
    return f"{call.al} sectors at C/H/S {cylinder}/{call.dh}/{call.cl & 63}, drive {call.dl:02X}h, {_es_bx(call)}"


def _es_bx(call: Call) -> str:
    return f"buffer {call.es:04X}:{call.bx:04X}"


def _packet(call: Call) -> str:
    packet = call.memory.read(linear(call.ds, call.si), 16)
    count, offset, segment = (int.from_bytes(packet[at : at + 2], "little") for at in (2, 4, 6))
    block = int.from_bytes(packet[8:], "little")
    return f"{count} sectors at {block}, drive {call.dl:02X}h, buffer {segment:04X}:{offset:04X}"


def _drive(call: Call) -> str:
    return f"drive {call.dl:02X}h"


def _key(call: Call) -> str:
    return f"scan code {call.ah:02X}h, character {_text(call.al)!r}"


def _at_cursor(call: Call) -> str:
    return f"{_text(call.al)!r} x {call.cx}, attribute {call.bl:02X}h, page {call.bh}"


def _window(call: Call) -> str:
    return f"{call.al} lines in rows {call.ch}-{call.dh}, columns {call.cl}-{call.dl}"


def _place(call: Call) -> str:
    return f"row {call.dh}, column {call.dl}, page {call.bh}"


def _kib(call: Call) -> str:
    return f"{call.ax} KiB"


def _e820(call: Call) -> str:
    if call.carry:
        return "no such range"
    entry = call.memory.read(linear(call.es, call.di), 20)
    base, size, kind = (int.from_bytes(entry[at:end], "little") for at, end in ((0, 8), (8, 16), (16, 20)))
    return f"{base:#x}+{size:#x} type {kind}, next {call.ebx}"


def _nothing(call: Call) -> str:
    return ""


def _registers(call: Call) -> str:
    return f"AX={call.ax:04X} BX={call.bx:04X} CX={call.cx:04X} DX={call.dx:04X}"


_NAMES = {POST_CALL: "POST", RESET_CALL: "reset"}


_CALLS: dict[tuple[int, int | None], tuple[str, Words, Words]] = {
    (0x10, 0x00): ("set mode", lambda call: f"{call.al:02X}h", _nothing),
    (0x10, 0x01): ("cursor shape", lambda call: f"lines {call.ch}-{call.cl}", _nothing),
    (0x10, 0x02): ("set cursor", _place, _nothing),
    (0x10, 0x03): ("get cursor", lambda call: f"page {call.bh}", lambda call: f"row {call.dh}, column {call.dl}"),
    (0x10, 0x05): ("show page", lambda call: f"{call.al}", _nothing),
    (0x10, 0x06): ("scroll up", _window, _nothing),
    (0x10, 0x07): ("scroll down", _window, _nothing),
    (0x10, 0x08): ("read cell", lambda call: f"page {call.bh}", lambda call: f"{_text(call.al)!r} {call.ah:02X}h"),
    (0x10, 0x09): ("write cells", _at_cursor, _nothing),
    (0x10, 0x0A): ("write characters", lambda call: f"{_text(call.al)!r} x {call.cx}, page {call.bh}", _nothing),
    (0x10, 0x0C): ("write dot", lambda call: f"{call.cx}, {call.dx} in colour {call.al}", _nothing),
    (0x10, 0x0D): ("read dot", lambda call: f"{call.cx}, {call.dx}", lambda call: f"colour {call.al}"),
    (0x10, 0x0E): ("print", lambda call: _text(call.al), _nothing),
    (0x10, 0x0F): ("get mode", _nothing, lambda call: f"{call.al:02X}h, {call.ah} columns, page {call.bh}"),
    (0x10, 0x13): ("print string", lambda call: f"{call.cx} characters, {_place(call)}", _nothing),
    (0x11, None): ("equipment", _nothing, lambda call: f"{call.ax:04X}h"),
    (0x12, None): ("conventional memory", _nothing, _kib),
    (0x13, 0x00): ("reset", _drive, _nothing),
    (0x13, 0x01): ("last status", _drive, _nothing),
    (0x13, 0x02): ("read", _chs, _nothing),
    (0x13, 0x03): ("write", _chs, _nothing),
    (0x13, 0x04): ("verify", _chs, _nothing),
    (0x13, 0x08): (
        "geometry",
        _drive,
        lambda call: f"last C/H/S {call.ch | (call.cl & 0xC0) << 2}/{call.dh}/{call.cl & 63}, {call.dl} drives",
    ),
    (0x13, 0x15): ("kind of drive", _drive, lambda call: f"{call.ah}"),
    (0x13, 0x41): ("extensions?", _drive, lambda call: f"version {call.ah:02X}h, {call.cx:04X}h"),
    (0x13, 0x42): ("extended read", _packet, _nothing),
    (0x13, 0x43): ("extended write", _packet, _nothing),
    (0x13, 0x44): ("extended verify", _packet, _nothing),
    (0x13, 0x48): ("extended geometry", _drive, _nothing),
    (0x13, 0x4B): ("CD emulation", lambda call: f"{'end' if call.al == 0 else 'what?'}, {_drive(call)}", _nothing),
    (0x14, 0x00): ("set up COM", lambda call: f"{call.dx + 1}", _nothing),
    (0x14, 0x01): ("send", lambda call: f"{_text(call.al)!r} on COM{call.dx + 1}", _nothing),
    (0x14, 0x02): ("receive", lambda call: f"from COM{call.dx + 1}", lambda call: f"{_text(call.al)!r}"),
    (0x15, 0x24): ("A20", lambda call: f"function {call.al}", lambda call: f"AL={call.al}"),
    (0x15, 0x53): ("APM", lambda call: f"function {call.al:02X}h, device {call.bx:04X}h, CX={call.cx:04X}", _nothing),
    (0x15, 0x86): ("wait", lambda call: f"{call.cx << 16 | call.dx} us", _nothing),
    (0x15, 0x87): ("move memory", lambda call: f"{2 * call.cx} bytes", _nothing),
    (0x15, 0x88): ("extended memory", _nothing, _kib),
    (0x16, 0x00): ("wait for a key", _nothing, _key),
    (0x16, 0x10): ("wait for a key", _nothing, _key),
    (0x16, 0x01): ("key waiting?", _nothing, lambda call: "no" if call.zero else _key(call)),
    (0x16, 0x11): ("key waiting?", _nothing, lambda call: "no" if call.zero else _key(call)),
    (0x16, 0x02): ("shift keys", _nothing, lambda call: f"{call.al:02X}h"),
    (0x18, None): ("no disk to start", _nothing, _nothing),
    (0x19, None): ("start from disk", _nothing, _drive),
    (0x1A, 0x00): ("ticks", _nothing, lambda call: f"{call.cx << 16 | call.dx}"),
    (0x1A, 0x02): ("time", _nothing, lambda call: f"{call.ch:02X}:{call.cl:02X}:{call.dh:02X}"),
    (0x1A, 0x04): ("date", _nothing, lambda call: f"{call.ch:02X}{call.cl:02X}-{call.dh:02X}-{call.dl:02X}"),
    (0x09, None): ("keyboard interrupt", _nothing, _nothing),
    (POST_CALL, None): ("", _nothing, _drive),
    (RESET_CALL, None): ("", _nothing, _nothing),
}
_WHOLE: dict[tuple[int, int], tuple[str, Words, Words]] = {
    (0x15, 0xE820): ("memory map", lambda call: f"entry {call.ebx}", _e820),
    (0x15, 0xE801): ("memory size", _nothing, lambda call: f"{call.ax} KiB + {call.bx} x 64 KiB"),
}
"""Functions whose number is all of AX."""


_TELLS_BY_CARRY = (0x13, 0x15, 0x1A)
"""The services that set the carry flag where they fail."""


class Asked(NamedTuple):
    """The half of a line that is known before the call is served."""

    text: str
    answer: Words
    printed: str
    """What it prints, if it is a single character."""


def question(call: Call) -> Asked:
    """What the registers before a call ask for."""
    whole, key = (call.vector, call.ax), (call.vector, call.ah)
    title, words, answer = (
        _WHOLE.get(whole) or _CALLS.get(key) or _CALLS.get((call.vector, None)) or ("", _registers, _registers)
    )
    printed = _text(call.al) if key == (0x10, 0x0E) else ""
    number = _NAMES.get(call.vector, f"INT {call.vector:02X}h")
    function = f"AX={call.ax:04X}" if whole in _WHOLE else f"AH={call.ah:02X}" if key in _CALLS else ""
    return Asked(" ".join(f"{number} {function} {title} {_say(words, call)}".split()), answer, printed)


class Log:
    """Makes lines of calls and gives them to `emit`, while there is one.

    Characters printed one after the other share a line, and a call that is made again and again, with the same answer,
    is counted.
    """

    def __init__(self) -> None:
        self.emit: Callable[[str], None] | None = None
        self._printed = ""
        self._last = ""
        self._repeated = 0

    def asked(self, call: Call) -> Asked:
        """To be called before the call is served."""
        asked = question(call)
        if not asked.printed:
            self._end_text()
        return asked

    def answered(self, asked: Asked, call: Call) -> None:
        """To be called when the call has been served."""
        if asked.printed:
            self._printed += asked.printed
            if len(self._printed) >= LINE or call.al == LINE_FEED:
                self._end_text()
            return
        if call.carry and call.vector in _TELLS_BY_CARRY:
            result = f"error {call.ah:02X}h {STATUS.get(call.ah, '') if call.vector == 0x13 else ''}".strip()
        elif call.unanswered:
            result = "no such function here, and nothing done"
        else:
            result = _say(asked.answer, call) or "ok"
        self._line(f"{asked.text} -> {result}")

    def flush(self) -> None:
        """Emit what is left: what has been printed since the last line, and how often that was repeated."""
        self._end_text()
        self._end_repetition()

    def _end_text(self) -> None:
        if self._printed:
            printed, self._printed = self._printed, ""
            self._line(f"INT 10h AH=0E print {printed}")

    def _line(self, line: str) -> None:
        if self.emit is None:
            return
        if line == self._last:
            self._repeated += 1
            return
        self._end_repetition()
        self._last = line
        self.emit(line)

    def _end_repetition(self) -> None:
        if self._repeated and self.emit is not None:
            self.emit(f"{self._last} ({self._repeated} more)")
            self._repeated = 0


def _say(words: Words, call: Call) -> str:
    try:
        return words(call)
    except GuestMemoryError as error:
        return str(error)
