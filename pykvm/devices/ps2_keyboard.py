"""The keyboard at the other end of the keyboard controller's cable.

Implements: the enhanced keyboard of the IBM PS/2 Hardware Interface Technical Reference ("Keyboard, 101 and 102 keys":
commands, scan code sets 1 and 2). Not modelled: typematic repetition, scan code set 3 (the keyboard answers "resend"
when told to use it).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ..device import State

_SET_2 = bytes.fromhex(
    "00 76 16 1e 26 25 2e 36 3d 3e 46 45 4e 55 66 0d 15 1d 24 2d 2c 35 3c 43 44 4d 54 5b 5a 14 1c 1b"
    "23 2b 34 33 3b 42 4b 4c 52 0e 12 5d 1a 22 21 2a 32 31 3a 41 49 4a 59 7c 11 29 58 05 06 04 0c 03"
    "0b 83 0a 01 09 77 7e 6c 75 7d 7b 6b 73 74 79 69 72 7a 70 71 84 60 61 78 07 0f 17 1f 27 2f"
)
"""The set 2 code of each set 1 code."""

TRANSLATION = bytearray(range(256))
"""What the controller makes of a byte from the keyboard while it translates set 2 to set 1."""
for _set_1, _set_2 in enumerate(_SET_2):
    TRANSLATION[_set_2] = _set_1
TRANSLATION[0x00] = 0xFF  # the overrun codes of the two sets
TRANSLATION[0x02] = 0x41

_EXTENDED = 0xE000
_PRINT_SCREEN = 0xE037
_PAUSE = 0xE11D

KEYS: dict[str, int] = {
    name: code
    for first, names in (
        (0x01, "esc 1 2 3 4 5 6 7 8 9 0 - = backspace tab q w e r t y u i o p [ ] enter ctrl"),
        (0x1E, "a s d f g h j k l ; ' ` shift \\ z x c v b n m , . / right_shift kp_* alt space caps_lock"),
        (0x3B, "f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 num_lock scroll_lock"),
        (0x47, "kp_7 kp_8 kp_9 kp_- kp_4 kp_5 kp_6 kp_+ kp_1 kp_2 kp_3 kp_0 kp_."),
        (0x56, "iso f11 f12"),
        (0xE01C, "kp_enter right_ctrl"),
        (0xE035, "kp_/"),
        (_PRINT_SCREEN, "print_screen right_alt"),
        (0xE047, "home up page_up"),
        (0xE04B, "left"),
        (0xE04D, "right"),
        (0xE04F, "end down page_down insert delete"),
        (0xE05B, "meta right_meta menu"),
        (_PAUSE, "pause"),
    )
    for code, name in enumerate(names.split(), first)
}
"""Keys by name with their set 1 codes, 0xE0 in front of the extended ones. A US keyboard's; `iso` is the 102nd key."""

_KEY_CODES = frozenset(KEYS.values())

_STROKES: dict[str, tuple[str, ...]] = {
    **{chr(0x40 | code): ("shift", chr(0x60 | code)) for code in range(1, 27)},
    **{chr(code): ("ctrl", chr(0x60 | code)) for code in range(1, 27)},
    **{name: (name,) for name in KEYS if len(name) == 1},
    **{shifted: ("shift", key) for shifted, key in zip('!@#$%^&*()_+{}:"~|<>?', "1234567890-=[];'`\\,./", strict=True)},
    " ": ("space",),
    "\n": ("enter",),
    "\r": ("enter",),
    "\t": ("tab",),
    "\b": ("backspace",),
    "\x1b": ("esc",),
}
"""The keys to press, and let go in reverse order, for a character."""

RELEASED = 1 << 16
"""Set in a queued key's code when it is let go."""

KEYBOARD_BUFFER = 16
TYPING_LIMIT = 1 << 16
"""How many key movements may wait for the guest to read the ones before: at least 16,384 characters."""


def _too_much() -> ValueError:
    return ValueError(f"more than {TYPING_LIMIT} key movements wait for the guest to read its keyboard")


def key_code(key: str, *, released: bool) -> int:
    """The movement of a key of `KEYS`, for `Keyboard.move`; ValueError for any other name."""
    code = KEYS.get(key)
    if code is None:
        raise ValueError(f"there is no key {key!r}: the keys are {' '.join(KEYS)}")
    return code | RELEASED if released else code


def strokes(text: str) -> list[int]:
    """The movements of the keys that type `text` on a US keyboard.

    ValueError for a character that it has not, or for more of them than can wait.
    """
    if 2 * len(text) > TYPING_LIMIT:  # a key is pressed and let go: no need to look up a long one
        raise _too_much()
    codes: list[int] = []
    for character in text:
        stroke = _STROKES.get(character)
        if stroke is None:
            raise ValueError(f"there is no {character!r} on a US keyboard")
        codes += [KEYS[name] for name in stroke]
        codes += [KEYS[name] | RELEASED for name in reversed(stroke)]
    return codes


def _scan_code(event: int, scan_set: int) -> Iterator[int]:
    """The bytes that a keyboard sends when a key moves."""
    code, released = event & 0xFFFF, event & RELEASED
    if code == _PAUSE:  # sends all at the press
        if not released:
            yield from b"\xe1\x1d\x45\xe1\x9d\xc5" if scan_set == 1 else b"\xe1\x14\x77\xe1\xf0\x14\xf0\x77"
        return
    parts = [_EXTENDED | 0x2A, code] if code == _PRINT_SCREEN else [code]
    for part in reversed(parts) if released else parts:
        if part & _EXTENDED:
            yield 0xE0
        if scan_set == 1:
            yield part & 0xFF | (0x80 if released else 0)
        else:
            if released:
                yield 0xF0
            yield _SET_2[part & 0xFF]


ACK, RESEND, ECHO, BAT_PASSED = 0xFA, 0xFE, 0xEE, 0xAA
KEYBOARD_ID = (0xAB, 0x83)
SET_LEDS, SCAN_SET, TYPEMATIC = 0xED, 0xF0, 0xF3


class Keyboard:
    """What is at the other end of the cable: takes command bytes, gives response bytes and scan codes."""

    def __init__(self) -> None:
        self._buffer: deque[int] = deque()
        """Scan codes not yet sent: at most 16 bytes and one overrun code."""
        self._responses: deque[int] = deque()
        """Answers to the last command, sent before any scan code."""
        self._typed: deque[int] = deque()
        """Key movements that wait until the buffer is empty."""
        self.reset()

    def reset(self) -> None:
        self._buffer.clear()
        self._responses.clear()
        self._typed.clear()
        self._last_sent = 0
        self._set_defaults()

    def _set_defaults(self) -> None:
        self._scan_set = 2
        self._scanning = True
        self._leds = 0
        self._argument_of = 0
        """The command whose argument comes next, 0 for none."""

    @property
    def leds(self) -> int:
        """Bit 0: scroll lock, bit 1: num lock, bit 2: caps lock."""
        return self._leds

    def move(self, code: int) -> None:
        """A key of `KEYS` is pressed, or let go if `RELEASED` is set. What there is no room for is lost."""
        if self._typed:
            if len(self._typed) < TYPING_LIMIT:
                self._typed.append(code)
        elif self._scanning:
            scan_code = tuple(_scan_code(code, self._scan_set))
            overrun = 0xFF if self._scan_set == 1 else 0x00
            if len(self._buffer) + len(scan_code) <= KEYBOARD_BUFFER:
                self._buffer += scan_code
            elif self._buffer[-1] != overrun:
                self._buffer.append(overrun)

    def type(self, codes: list[int]) -> None:
        """Queue key movements that none may be lost of. ValueError if there are too many."""
        if len(self._typed) + len(codes) > TYPING_LIMIT:
            raise _too_much()
        self._typed += codes

    def next_byte(self) -> int | None:
        """Send a byte to the controller, or None if there is nothing to say."""
        if self._responses:
            byte = self._responses.popleft()
        else:
            while self._typed and self._scanning and not self._buffer:
                self._buffer += _scan_code(self._typed.popleft(), self._scan_set)
            if not self._buffer:
                return None
            byte = self._buffer.popleft()
        self._last_sent = byte
        return byte

    def receive(self, byte: int) -> None:
        """Take a byte from the controller: a command, or its argument if bit 7 is clear. Unsent answers are dropped."""
        self._responses.clear()
        command, self._argument_of = self._argument_of, 0
        if command and byte < 0x80:
            self._responses += self._take_argument(command, byte)
        else:
            self._responses += self._obey(byte)

    def _take_argument(self, command: int, byte: int) -> tuple[int, ...]:
        if command == SET_LEDS:
            self._leds = byte & 7
        elif command == SCAN_SET:
            if byte == 0:
                return (ACK, self._scan_set)
            if byte > 2:
                return (RESEND,)
            self._scan_set = byte
            self._buffer.clear()
        return (ACK,)

    def _obey(self, command: int) -> tuple[int, ...]:
        match command:
            case 0xED | 0xF0 | 0xF3:
                self._argument_of = command
            case 0xEE:
                return (ECHO,)
            case 0xF2:
                return (ACK, *KEYBOARD_ID)
            case 0xF4:
                self._buffer.clear()
                self._scanning = True
            case 0xF5 | 0xF6:
                self._buffer.clear()
                self._set_defaults()
                self._scanning = command == 0xF6
            case 0xF7 | 0xF8 | 0xF9 | 0xFA:
                pass  # how keys repeat in scan code set 3
            case 0xFE:
                return (self._last_sent,)
            case 0xFF:
                self._buffer.clear()
                self._set_defaults()
                return (ACK, BAT_PASSED)
            case _:
                return (RESEND,)
        return (ACK,)

    def save(self) -> State:
        return {
            "buffer": bytes(self._buffer),
            "responses": bytes(self._responses),
            "typed": list(self._typed),
            "last_sent": self._last_sent,
            "scan_set": self._scan_set,
            "scanning": int(self._scanning),
            "leds": self._leds,
            "argument_of": self._argument_of,
        }

    def restore(self, state: State) -> None:
        numbers = checked(state, {"last_sent": 0xFF, "scan_set": 2, "scanning": 1, "leds": 7, "argument_of": 0xFF})
        buffer, responses, typed = state.get("buffer"), state.get("responses"), state.get("typed")
        if type(buffer) is not bytes or len(buffer) > KEYBOARD_BUFFER + 1:
            raise ValueError(f"keyboard: state field 'buffer' is not at most {KEYBOARD_BUFFER + 1} bytes")
        if type(responses) is not bytes or len(responses) > 3:
            raise ValueError("keyboard: state field 'responses' is not at most 3 bytes")
        if type(typed) is not list or len(typed) > TYPING_LIMIT:
            raise ValueError(f"keyboard: state field 'typed' is not a list of at most {TYPING_LIMIT} key movements")
        for event in typed:
            if type(event) is not int or event & ~RELEASED not in _KEY_CODES:
                raise ValueError(f"keyboard: state field 'typed' holds {event!r}, which is no key")
        if numbers["scan_set"] == 0 or numbers["argument_of"] not in (0, SET_LEDS, SCAN_SET, TYPEMATIC):
            raise ValueError("keyboard: state fields 'scan_set' and 'argument_of' say what cannot be")
        self._buffer = deque(buffer)
        self._responses = deque(responses)
        self._typed = deque(typed)
        self._last_sent = numbers["last_sent"]
        self._scan_set = numbers["scan_set"]
        self._scanning = bool(numbers["scanning"])
        self._leds = numbers["leds"]
        self._argument_of = numbers["argument_of"]


def checked(state: State, limits: dict[str, int]) -> dict[str, int]:
    """The numbers in a saved state that `limits` names, each checked against its largest value; ValueError else."""
    for name, most in limits.items():
        value = state.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise ValueError(f"keyboard controller: state field {name!r} is {value!r}, not a number in 0..{most:#x}")
    return {name: state[name] for name in limits}
