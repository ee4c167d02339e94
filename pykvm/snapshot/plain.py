"""Plain data (numbers, texts, bytes, lists, tables, None) as JSON that people can read, and back without loss.

JSON has neither bytes nor keys that are no texts. Bytes become `{"ascii": "..."}` where they are text, else
`{"hex": "..."}`, and so do long ones; a table that JSON cannot hold, or that looks like one of these, becomes
`{"pairs": [[key, value], ...]}`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

DEPTH = 32
"""No state is nested deeper."""

VALUES = 1 << 19
"""Punctuation in the JSON of a state at most, which bounds the values, and so the memory that they take. A CPU needs
some 600, an extent 4."""
SHORT = 1024
"""Bytes that are written as text at most: what the guest chooses does not count as punctuation."""

_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]+")
_MARKS = ("ascii", "hex", "pairs")


def dumps(state: Any) -> str:
    """The JSON of `state`; ValueError if it is not plain data, or more of it than `loads` takes."""
    text = json.dumps(_encode(state, DEPTH), indent=1, allow_nan=False) + "\n"
    _check_size(text)
    return text


def loads(text: str) -> Any:
    """What `dumps` was given; ValueError if the text is none of its."""
    _check_size(text)
    try:
        return _decode(json.loads(text), DEPTH)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _check_size(text: str) -> None:
    """Before any value is made: many small ones are what takes up memory, not long ones."""
    if sum(map(text.count, ",:[{")) > VALUES:
        raise ValueError(f"it has more than {VALUES} values")


def _encode(value: Any, depth: int) -> Any:
    if depth == 0:
        raise ValueError("the state is nested too deep")
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (bytes, bytearray)):
        raw = bytes(value)
        return {"ascii": raw.decode("ascii")} if len(raw) <= SHORT and _TEXT.fullmatch(raw) else {"hex": raw.hex()}
    if isinstance(value, (list, tuple)):
        return [_encode(item, depth - 1) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and not (len(value) == 1 and next(iter(value)) in _MARKS):
            return {key: _encode(item, depth - 1) for key, item in value.items()}
        return {"pairs": [[_encode(key, depth - 1), _encode(item, depth - 1)] for key, item in value.items()]}
    raise ValueError(f"the state holds a {type(value).__name__}, which is not plain data")


def _decode(value: Any, depth: int) -> Any:
    if depth == 0:
        raise ValueError("it is nested too deep")
    if isinstance(value, list):  # changed in place: there is no second copy of it all
        for number, item in enumerate(value):
            value[number] = _decode(item, depth - 1)
    elif isinstance(value, dict):
        if len(value) == 1 and (mark := next(iter(value))) in _MARKS:
            return _decode_marked(mark, value[mark], depth - 1)
        for key, item in value.items():
            value[key] = _decode(item, depth - 1)
    return value


def _decode_marked(mark: str, value: Any, depth: int) -> Any:
    if mark == "pairs":
        pairs = _decode(value, depth)
        if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise ValueError("'pairs' is not a list of pairs")
        try:
            return dict(pairs)
        except TypeError:
            raise ValueError("a key is a list or a table") from None
    if not isinstance(value, str):
        raise ValueError(f"{mark!r} is not a text")
    return value.encode("ascii") if mark == "ascii" else bytes.fromhex(value)
