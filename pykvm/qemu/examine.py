"""The monitor's expressions, and `x`, `xp` and `p`, which print memory and values in a format.

Source: QEMU's documentation, "QEMU Monitor": "Integer expressions"; `x/fmt`, `xp/fmt`, `p/fmt`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import PykvmError
from ..typed import NamedTuple

COUNT_MOST = 1 << 16
"""Items that are printed at a time."""
DEPTH_MOST = 32
"""Brackets and signs within one another in an expression."""
_64 = (1 << 64) - 1
SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
FORMATS = "xduoci"
_SUM, _LOGIC, _PRODUCT = ("+", "-"), ("&", "|", "^"), ("*", "/", "%")
"""What binds least, more and most."""


class BadExpression(PykvmError):
    """An expression or a format that makes no sense."""


class Format(NamedTuple):
    """What stands behind a slash: how many, how shown, and how large (bytes)."""

    items: int = 1
    letter: str = "x"
    size: int = 4


def read_format(text: str, before: Format) -> Format:
    """The format of `/COUNT LETTER SIZE` without its slash; what is not said is as it was before."""
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    count = int(digits[:9]) if digits else 1
    letter, size = before.letter, before.size
    for character in text[len(digits) :]:
        if character in SIZES:
            size = SIZES[character]
        elif character in FORMATS:
            letter = character
        else:
            raise BadExpression(f"invalid char in format: '{character}'")
    return Format(min(count, COUNT_MOST), letter, size)


class Expression:
    """Evaluates text; `register` gives a register's value, None if there is none of that name."""

    def __init__(self, text: str, register: Callable[[str], int | None]) -> None:
        self._text, self._at, self._register, self._depth = text, 0, register, 0
        self._skip()

    def value(self) -> int:
        """The next expression's value, unsigned with 64 bits. BadExpression if there is none."""
        return self._level(0)

    def rest(self) -> str:
        """What stands behind the expressions that were evaluated."""
        return self._text[self._at :]

    def _skip(self) -> None:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        character = self._peek()
        self._at += 1
        self._skip()
        return character

    def _level(self, level: int) -> int:
        levels = (_SUM, _LOGIC, _PRODUCT)
        if level == len(levels):
            return self._unary()
        value = self._level(level + 1)
        while self._peek() and self._peek() in levels[level]:
            operator = self._take()
            value = _apply(operator, value, self._level(level + 1)) & _64
        return value

    def _unary(self) -> int:
        self._depth += 1
        if self._depth > DEPTH_MOST:
            raise BadExpression("expression is too deep")
        try:
            return self._operand() & _64
        finally:
            self._depth -= 1

    def _operand(self) -> int:
        character = self._peek()
        if character and character in "+-~":
            self._take()
            value = self._unary()
            return value if character == "+" else -value if character == "-" else ~value
        if character == "(":
            self._take()
            value = self._level(0)
            if self._peek() != ")":
                raise BadExpression("')' expected")
            self._take()
            return value
        if character == "'":
            quoted = self._text[self._at : self._at + 3]
            if len(quoted) < 3 or quoted[2] != "'":
                raise BadExpression("missing terminating ' character")
            self._at += 3
            self._skip()
            return ord(quoted[1])
        if character == "$":
            start = self._at = self._at + 1
            while self._peek().isalnum() or self._peek() == "_":
                self._at += 1
            found = self._register(self._text[start : self._at])
            if found is None:
                raise BadExpression("unknown register")
            self._skip()
            return found
        return self._number()

    def _number(self) -> int:
        start = self._at
        while self._peek().isascii() and self._peek().isalnum():
            self._at += 1
        word = self._text[start : self._at]
        if not word:
            character = self._peek()
            raise BadExpression(
                f"invalid char '{character}' in expression" if character else "unexpected end of expression"
            )
        if word[:2].lower() == "0x":
            base, digits = 16, word[2:]
        elif word[0] == "0" and len(word) > 1:
            base, digits = 8, word[1:]
        else:
            base, digits = 10, word
        try:
            value = int(digits[:64], base)
        except ValueError:
            raise BadExpression(f"invalid char '{word[0]}' in expression") from None
        if value > _64:
            raise BadExpression("number too large")
        self._skip()
        return value


def _apply(operator: str, left: int, right: int) -> int:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "&":
            return left & right
        case "|":
            return left | right
        case "^":
            return left ^ right
        case "*":
            return left * right
    if right == 0:
        raise BadExpression("division by zero")
    left, right = signed(left), signed(right)
    quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    return quotient if operator == "/" else left - quotient * right


def signed(value: int) -> int:
    """A 64-bit number as C's int64_t."""
    return value - (1 << 64) if value >> 63 & 1 else value


def shown(value: int, letter: str) -> str:
    """`p`'s answer."""
    match letter:
        case "o":
            return f"0{value:o}" if value else "0"
        case "x":
            return f"{value:#x}" if value else "0"
        case "u":
            return str(value)
        case "c":
            return character_shown(value & 0xFF)
    return str(signed(value))


def character_shown(code: int) -> str:
    """A character as the monitor quotes it."""
    named = {ord("'"): "\\'", ord("\\"): "\\\\", 10: "\\n", 13: "\\r"}
    inner = named.get(code) or (chr(code) if 32 <= code <= 126 else f"\\x{code:02x}")
    return f"'{inner}'"


def dump(form: Format, address: int, read: Callable[[int, int], bytes]) -> list[str]:
    """Lines of memory from `address` on; `read` gives fewer bytes where there is no more."""
    size = form.size
    total = min(size * form.items, COUNT_MOST * 8)
    each = 1 if form.letter == "c" else size
    per_line = 8 if size == 1 else 16
    width = {"o": -(-size * 8 // 3), "x": size * 2, "u": -(-size * 80 // 33), "d": -(-size * 80 // 33)}.get(
        form.letter, 0
    )
    lines = []
    while total > 0:
        length = min(total, per_line)
        data = read(address, length)
        if len(data) < length:
            lines.append(f"{address:016x}: Cannot access memory")
            break
        values = [int.from_bytes(data[at : at + each], "little") for at in range(0, length, each)]
        lines.append(f"{address:016x}:" + "".join(f" {_item(item, form.letter, width, each)}" for item in values))
        address = address + length & _64
        total -= length
    return lines


def _item(value: int, letter: str, width: int, size: int) -> str:
    match letter:
        case "o":
            return f"{'0' + oct(value)[2:] if value else '0':>{width}}"
        case "x":
            return f"0x{value:0{width}x}"
        case "c":
            return character_shown(value)
        case "u":
            return f"{value:>{width}}"
    return f"{signed(value) if size == 8 else value:>{width}}"
