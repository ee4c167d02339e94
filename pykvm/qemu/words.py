"""The values of QEMU's options: `name=value,...`, where `,,` is a comma in a value.

Source: qemu-system-x86_64(1), `-drive` and `-m`; QEMU's documentation, "Deprecated features"
(a name alone is on, or off behind `no`).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ConfigError

LONGEST = 1 << 16
"""Characters of a value: more is nobody's."""
UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def split(text: str) -> list[str]:
    """What single commas separate; double ones are one comma of the text."""
    parts, start, at = [""], 0, 0
    while (at := text.find(",", start)) >= 0:
        parts[-1] += text[start:at]
        if text[at + 1 : at + 2] == ",":
            parts[-1] += ","
            start = at + 2
        else:
            parts.append("")
            start = at + 1
    parts[-1] += text[start:]
    return parts


def settings(text: str, implied: str, flags: Iterable[str] = ()) -> dict[str, str]:
    """The settings in an option's value: what stands first without a name is the `implied` one's.

    One of `flags` without a value is "on", with `no` in front "off". ConfigError for a name without a value.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"a value of {len(text)} characters is too long")
    known = set(flags)
    found: dict[str, str] = {}
    for number, part in enumerate(split(text)):
        name, equals, value = part.partition("=")
        if equals:
            found[name] = value
        elif number == 0 and part not in known:
            found[implied] = part
        elif name in known:
            found[name] = "on"
        elif name.startswith("no") and name[2:] in known:
            found[name[2:]] = "off"
        else:
            raise ConfigError(f"{part!r} has no value: write {part or 'name'}=...")
    return found


def is_on(name: str, value: str) -> bool:
    """Whether a switch is on. ConfigError if it is neither on nor off."""
    if value in ("on", "yes", "true", "y"):
        return True
    if value in ("off", "no", "false", "n"):
        return False
    raise ConfigError(f"{name}={value}: give on or off")


def number(name: str, text: str, least: int, most: int) -> int:
    """A number in decimal, hexadecimal (0x) or octal (0), as C reads it, in its range; ConfigError otherwise."""
    digits, base = text, 10
    if text[:2].lower() == "0x":
        digits, base = text[2:], 16
    elif len(text) > 1 and text[0] == "0":
        digits, base = text[1:], 8
    try:
        value = int(digits, base) if digits.isascii() and digits.isalnum() and len(digits) < 32 else None
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        raise ConfigError(f"{name}={text[:40]}: give a number from {least} to {most}")
    return value


def size(name: str, text: str, unit: str) -> int:
    """Bytes from a number, with a fraction if it has one, and its unit's letter, without which it counts in `unit`."""
    letter = text[-1:].upper()
    digits = text[:-1] if letter in UNITS else text
    whole, dot, fraction = digits.partition(".")
    if not (whole.isascii() and whole.isdecimal() and len(digits) < 20 and (fraction.isdecimal() or not dot)):
        raise ConfigError(f"{name}={text[:40]}: give a number, with K, M or G behind it if you like")
    each = UNITS[letter if letter in UNITS else unit]
    return int(whole) * each + (int(fraction) * each // 10 ** len(fraction) if fraction else 0)
