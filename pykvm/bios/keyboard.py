"""INT 9 and INT 16h: from scan codes to keys in the buffer at 0040:001E, and from there to programs.

Source: IBM PC/AT Technical Reference (section 5, "keyboard": the tables of codes, INT 9 and INT 16h) with its
continuation for 101-key keyboards (functions 10h-12h). A key is a word: scan code above, character below.

A PC's BIOS beeps when the buffer, of 15 keys, is full, and the key is lost: a person waits then. Here the keys wait,
outside the guest's memory, until the program has taken others.
"""

from __future__ import annotations

from collections import deque

from ..bus import PortBus
from ..device import State
from ..memory import GuestMemory
from . import data
from .call import SLEEP, Call
from .redirect import Redirect

WAITING_LIMIT = 1 << 16
"""Keys that may wait until the buffer has room for them; more are lost."""

KEYBOARD_PORT, STATUS_PORT = 0x60, 0x64
STATUS_OBF = 1
RIGHT_SHIFT, LEFT_SHIFT, CTRL, ALT = 1, 2, 4, 8
SCROLL_LOCK, NUM_LOCK, CAPS_LOCK, INSERT = 0x10, 0x20, 0x40, 0x80
_PREFIX_E0, _PREFIX_E1 = 2, 1
"""Bits of the byte at 0040:0096 that remember a prefix."""

_MODIFIERS = {0x1D: CTRL, 0x2A: LEFT_SHIFT, 0x36: RIGHT_SHIFT, 0x38: ALT}
_LOCKS = {0x3A: CAPS_LOCK, 0x45: NUM_LOCK, 0x46: SCROLL_LOCK}
_DELETE_KEY = 0x53

_CHARACTERS = (
    (0x01, ("\x1b1234567890-=\b\tqwertyuiop[]\r", "\x1b!@#$%^&*()_+\b\0QWERTYUIOP{}\r")),
    (0x1E, ("asdfghjkl;'`", 'ASDFGHJKL:"~')),
    (0x2B, ("\\zxcvbnm,./", "|ZXCVBNM<>?")),
    (0x37, ("*", "*")),
    (0x39, (" ", " ")),
    (0x4A, ("-", "-")),
    (0x4E, ("+", "+")),
    (0x56, ("\\", "|")),
)
"""Runs of scan codes, each from its first on: the characters without and with shift."""
_KEYPAD = b"789-456+1230."

_NORMAL: dict[int, int] = {}
_SHIFT: dict[int, int] = {}
for _first, (_plain, _shifted) in _CHARACTERS:
    _NORMAL |= {_first + at: _first + at << 8 | ord(char) for at, char in enumerate(_plain)}
    _SHIFT |= {_first + at: _first + at << 8 | ord(char) for at, char in enumerate(_shifted)}

_CTRL = {
    0x01: 0x011B, 0x03: 0x0300, 0x07: 0x071E, 0x0C: 0x0C1F, 0x0E: 0x0E7F, 0x0F: 0x9400, 0x1A: 0x1A1B, 0x1B: 0x1B1D,
    0x1C: 0x1C0A, 0x2B: 0x2B1C, 0x37: 0x9600, 0x39: 0x3920, 0x47: 0x7700, 0x48: 0x8D00, 0x49: 0x8400, 0x4A: 0x8E00,
    0x4B: 0x7300, 0x4C: 0x8F00, 0x4D: 0x7400, 0x4E: 0x9000, 0x4F: 0x7500, 0x50: 0x9100, 0x51: 0x7600, 0x52: 0x9200,
    0x53: 0x9300,
}  # fmt: skip
_ALT = {code: code << 8 for code in b"\x01\x0e\x1a\x1b\x1c\x27\x28\x29\x2b\x33\x34\x35\x4a\x4e"}
_ALT |= {0x0F: 0xA500, 0x37: 0x3700, 0x39: 0x3920} | {0x02 + at: 0x7800 + (at << 8) for at in range(12)}
for _code, _key in tuple(_NORMAL.items()):
    if 0x61 <= _key & 0xFF <= 0x7A:
        _CTRL[_code] = _key & 0xFF1F
        _ALT[_code] = _key & 0xFF00
for _number in range(10):  # F1 to F10
    _code = 0x3B + _number
    for _table, _base in ((_NORMAL, 0x3B), (_SHIFT, 0x54), (_CTRL, 0x5E), (_ALT, 0x68)):
        _table[_code] = _base + _number << 8
for _number in range(2):  # F11, F12
    for _table, _base in ((_NORMAL, 0x85), (_SHIFT, 0x87), (_CTRL, 0x89), (_ALT, 0x8B)):
        _table[0x57 + _number] = _base + _number << 8
for _code in range(0x47, 0x54):
    _NORMAL.setdefault(_code, _code << 8)
    _SHIFT.setdefault(_code, _code << 8 | _KEYPAD[_code - 0x47])

_GREY_ALT = 0x50
"""What Alt adds to the scan code of a cursor key."""
_LAST_OLD = 0x84
"""Keys with a higher scan code came with the 101-key keyboard: functions 00h and 01h do not see them."""

_TYPED = {
    key & 0xFF: key for table in (_CTRL, _SHIFT, _NORMAL) for key in sorted(table.values(), reverse=True) if key & 0xFF
}
"""The key for a character that was typed at a terminal: that of the lowest scan code, and with as few others held."""
_TYPED |= {0x0D: 0x1C0D, 0x0A: 0x1C0D, 0x7F: 0x0E08, 0x08: 0x0E08, 0x09: 0x0F09, 0x1B: 0x011B}
_TYPED |= {
    0x100 | ord(letter): code << 8 | 0xE0
    for letter, code in (("A", 0x48), ("B", 0x50), ("C", 0x4D), ("D", 0x4B), ("H", 0x47), ("F", 0x4F))
}


def waiting_keys(state: State) -> deque[int]:
    """What a saved state has for `Keys.waiting`; ValueError if that cannot be."""
    keys = state.get("keys")
    if type(keys) is not list or len(keys) > WAITING_LIMIT:
        raise ValueError(f"BIOS: state field 'keys' is not a list of at most {WAITING_LIMIT} keys")
    for key in keys:
        if type(key) is not int or not 0 <= key <= 0xFFFF:
            raise ValueError(f"BIOS: state field 'keys' holds {key!r}, not 0..0xffff")
    return deque(keys)


class Keys:
    """Serves INT 9 and INT 16h."""

    def __init__(self, memory: GuestMemory, ports: PortBus, redirect: Redirect) -> None:
        self._memory = memory
        self._ports = ports
        self._redirect = redirect
        self.waiting: deque[int] = deque()
        """Keys that the buffer had no room for."""

    def start(self) -> None:
        """What POST does: take what was typed before the interrupt controller knew of the keyboard.

        Its line would stay up for ever.
        """
        self.waiting.clear()
        if self._ports.read(STATUS_PORT, 1) & STATUS_OBF:
            self.interrupt()

    # INT 9

    def interrupt(self) -> bool:
        """Take a scan code from the keyboard; True if Ctrl-Alt-Del is down now.

        A program that has read the code itself before it passes the interrupt on leaves it in the controller's latch.
        """
        code = self._ports.read(KEYBOARD_PORT, 1)
        memory = self._memory
        prefixes = memory.read_int(data.KEY_FLAGS_3, 1)
        if code in (0xE0, 0xE1):
            memory.write_int(data.KEY_FLAGS_3, 1, prefixes | (_PREFIX_E0 if code == 0xE0 else _PREFIX_E1))
            return False
        # Pause sends E1 1D 45 and E1 9D C5: the prefix holds until the second byte.
        keep = _PREFIX_E1 if prefixes & _PREFIX_E1 and code & 0x7F == 0x1D else 0
        memory.write_int(data.KEY_FLAGS_3, 1, prefixes & ~(_PREFIX_E0 | _PREFIX_E1) | keep)
        if prefixes & _PREFIX_E1 or code in (0x00, 0xFF, 0xFA, 0xFE, 0xEE):
            return False
        return self._key_moved(code & 0x7F, bool(prefixes & _PREFIX_E0), pressed=code < 0x80)

    def _key_moved(self, code: int, grey: bool, *, pressed: bool) -> bool:
        memory = self._memory
        flags = memory.read_int(data.SHIFT_FLAGS, 1)
        if code in _MODIFIERS:
            if not (grey and code in (0x2A, 0x36)):  # a grey key's own shifts, which are none
                mask = _MODIFIERS[code]
                memory.write_int(data.SHIFT_FLAGS, 1, flags | mask if pressed else flags & ~mask)
            return False
        if code in _LOCKS and not grey:
            if pressed:
                memory.write_int(data.SHIFT_FLAGS, 1, flags ^ _LOCKS[code])
            return False
        if not pressed:
            return False
        if code == _DELETE_KEY and flags & CTRL and flags & ALT:
            return True
        if code == 0x52 and not flags & (CTRL | ALT):
            memory.write_int(data.SHIFT_FLAGS, 1, flags ^ INSERT)
        key = self._grey_key(code, flags) if grey else self._key(code, flags)
        if key is not None:
            self.waiting.append(key)
            self._fill()
            if len(self.waiting) > WAITING_LIMIT:
                self.waiting.pop()
        return False

    def _key(self, code: int, flags: int) -> int | None:
        if flags & ALT:
            return _ALT.get(code)
        if flags & CTRL:
            return _CTRL.get(code)
        shift = bool(flags & (LEFT_SHIFT | RIGHT_SHIFT))
        key = _NORMAL.get(code)
        if key is None:
            return None
        if 0x47 <= code <= _DELETE_KEY:
            shift ^= bool(flags & NUM_LOCK)
        elif 0x61 <= key & 0xFF <= 0x7A:
            shift ^= bool(flags & CAPS_LOCK)
        return _SHIFT.get(code) if shift else key

    def _grey_key(self, code: int, flags: int) -> int | None:
        if code == 0x1C:
            return 0xA600 if flags & ALT else 0xE00A if flags & CTRL else 0xE00D
        if code == 0x35:
            return 0xA400 if flags & ALT else 0x9500 if flags & CTRL else 0xE02F
        if not 0x47 <= code <= _DELETE_KEY:
            return None
        if flags & ALT:
            return code + _GREY_ALT << 8
        if flags & CTRL:
            return _CTRL[code] & 0xFF00 | 0xE0
        return code << 8 | 0xE0

    # The buffer, a ring of words; its offsets are the guest's to spoil

    def _bounds(self) -> tuple[int, int]:
        start, end = (self._memory.read_int(at, 2) for at in (data.KEY_BUFFER_START, data.KEY_BUFFER_END))
        return (start, end) if start < end else (0x1E, 0x3E)

    def _next(self, place: int) -> int:
        start, end = self._bounds()
        return place + 2 if start <= place and place + 2 < end else start

    def _fill(self) -> None:
        """Put keys that wait into the buffer, as many as there is room for."""
        while self.waiting and self.put(self.waiting[0]):
            self.waiting.popleft()

    def put(self, key: int) -> bool:
        """Put a key into the buffer; False if that is full."""
        memory = self._memory
        head, tail = memory.read_int(data.KEY_HEAD, 2), memory.read_int(data.KEY_TAIL, 2)
        after = self._next(tail)
        if after == head:
            return False
        memory.write_int(data.BDA + tail, 2, key)
        memory.write_int(data.KEY_TAIL, 2, after)
        return True

    def _peek(self, *, enhanced: bool) -> int | None:
        """The first key in the buffer as the caller may see it; what it may not see is dropped."""
        memory = self._memory
        self._fill()  # the program may have emptied the buffer by itself
        for _ in range(data.KEY_BUFFER_SIZE):
            head = memory.read_int(data.KEY_HEAD, 2)
            if head == memory.read_int(data.KEY_TAIL, 2):
                typed = self._redirect.keys()
                if not typed:
                    return None
                for character in typed:
                    if (typed_key := _TYPED.get(character)) is not None:
                        self.put(typed_key)
                continue
            key = memory.read_int(data.BDA + head, 2)
            if enhanced:
                return key
            if key >> 8 == 0xE0:
                return (0x3500 if key & 0xFF == 0x2F else 0x1C00) | key & 0xFF
            if key >> 8 <= _LAST_OLD:
                return key & 0xFF00 if key & 0xFF == 0xE0 and key >> 8 else key
            self._drop()
        return None

    def _drop(self) -> None:
        memory = self._memory
        memory.write_int(data.KEY_HEAD, 2, self._next(memory.read_int(data.KEY_HEAD, 2)))
        self._fill()

    # INT 16h

    def serve(self, call: Call) -> None:
        match call.ah:
            case 0x00 | 0x10 | 0x20:
                key = self._peek(enhanced=call.ah != 0x00)
                if key is None:
                    call.wait = SLEEP
                else:
                    self._drop()
                    call.ax = key
            case 0x01 | 0x11 | 0x21:
                key = self._peek(enhanced=call.ah != 0x01)
                call.zero = key is None
                call.ax = call.ax if key is None else key
            case 0x02:
                call.al = self._memory.read_int(data.SHIFT_FLAGS, 1)
            case 0x12 | 0x22:
                call.ax = self._memory.read_int(data.SHIFT_FLAGS, 2)
            case 0x05:
                call.al = 0 if self.put(call.cx) else 1
            case 0x09:
                call.al = 0x20  # functions 10h-12h are there
            case 0x03:
                pass  # the typematic rate: nothing repeats
