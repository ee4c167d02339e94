"""States of a machine that come from a file: the JSON of plain data, and what KVM keeps."""

from __future__ import annotations

import sys
from typing import Any

from pykvm.kvm.saved import SavedVcpu, SavedVm
from pykvm.snapshot import plain

from .target import EXTREMES, Input, Parser, Random, Target, mutate, number

sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000))

MSRS = (0x10, 0x174, 0x1B, 0x277, 0xC0000080, 0xC0000081, 0xC0000102)
XSAVE = 4096


def changed(source: Random, state: Any) -> Any:
    """A copy of a state with one to three places changed. It is a table still: who reads it looks at that."""
    state = plain.loads(plain.dumps(state))
    for _ in range(source.choice((1, 1, 2, 3))):
        new = _change(source, state)
        state = new if isinstance(new, dict) else state
    return state


def _change(source: Random, value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if keys and source.randrange(12):
        key = source.choice(keys)
        match source.randrange(16):
            case 0:
                del value[key]
            case 1 if isinstance(value, dict):
                value["other"] = value[key]
            case 1:
                value.insert(key, value[key])
            case _:
                value[key] = _change(source, value[key])
        return value
    match source.randrange(8):
        case 0 | 1 | 2 if isinstance(value, int):
            return source.choice((value + source.choice((-1, 1, 256)), number(source, 64), -1, not value))
        case 0 | 1 | 2 if isinstance(value, (bytes, str)) and len(value) > 0:
            at = source.randrange(len(value))
            return source.choice((value[:at], value + value[:1], value[:at] + value[:1] + value[at + 1 :]))
        case 3 | 4:
            return source.choice(EXTREMES)
        case _:
            return source.choice((None, True, -1, 1.5, 1e300, "", "text", b"", b"\xff" * 20, [], [0] * 40, {}, {1: 2}))


WORDS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\u", b"\\ud800", b"1e999", b"-", b"NaN", b"Infinity", b"null", b"[" * 40,
    b'{"hex": "00"}', b'{"hex": "0"}', b'{"ascii": "\\u00ff"}', b'{"pairs": [[1, 2]]}', b'{"pairs": [[[], 2]]}',
    b"9" * 400, b"9" * 5000, b"\xff", b"true",
)  # fmt: skip


class PlainText(Parser):
    """`plain.loads` on damaged JSON; what it takes, `dumps` writes."""

    name = "plain"
    share = 1.5
    errors = (ValueError,)
    count = 1500

    def __init__(self) -> None:
        states = (
            {
                "name": b"COM1 ready\n",
                "fifo": b"\x00\xff",
                "level": True,
                "none": None,
                "real": 0.5,
                "list": [1, [2, []]],
            },
            {1: 2, "a": {"hex": "x"}, "b": [{"pairs": 1}]},
        )
        self._seeds = [plain.dumps(state).encode() for state in states]

    def one(self, source: Random) -> Input:
        return mutate(source, source.choice(self._seeds), WORDS).decode("utf-8", "surrogateescape")

    def feed(self, given: Input) -> None:
        state = plain.loads(given)
        text = plain.dumps(state)
        assert plain.dumps(plain.loads(text)) == text


class SavedStates(Parser):
    """KVM's state of a VM and of a vCPU, with places changed. An input is a number that the changes come from."""

    name = "saved"
    share = 0.5
    errors = (ValueError,)
    count = 150

    def __init__(self) -> None:
        self._vm = plain.dumps(SavedVm().as_plain())
        self._vcpu = plain.dumps(SavedVcpu(MSRS, XSAVE).as_plain())

    def one(self, source: Random) -> Input:
        return source.getrandbits(64)

    def feed(self, given: Input) -> None:
        source = Random(given)
        if given & 1:
            saved: Any = SavedVm.from_plain(changed(source, plain.loads(self._vm)))
            again: Any = SavedVm.from_plain(saved.as_plain())
        else:
            saved = SavedVcpu.from_plain(changed(source, plain.loads(self._vcpu)), MSRS, XSAVE)
            again = SavedVcpu.from_plain(saved.as_plain(), MSRS, XSAVE)
        assert again.as_plain() == saved.as_plain()


def targets() -> list[Target]:
    return [PlainText(), SavedStates()]
