"""The keyboard controller of a PC, the keyboard on it, and the fast A20 and reset port.

Implements: the 8042 as in the IBM PS/2 Hardware Interface Technical Reference ("Keyboard and Auxiliary Device
Controller": status register, command byte, commands 0x20 to 0xFF) and the enhanced keyboard ("Keyboard, 101 and 102
keys": commands, scan code sets 1 and 2). Nothing is plugged into the mouse port. Not modelled: the time that bytes
take, typematic repetition, passwords, scan code set 3 (the keyboard answers "resend" when told to use it).
`Port92` is system control port A of the same reference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping

from ..device import Device, IrqLine, Range, State, bit_names

# -- Keys -------------------------------------------------------------------------------------------------------------

_SET_2 = bytes.fromhex(
    "00 76 16 1e 26 25 2e 36 3d 3e 46 45 4e 55 66 0d 15 1d 24 2d 2c 35 3c 43 44 4d 54 5b 5a 14 1c 1b"
    "23 2b 34 33 3b 42 4b 4c 52 0e 12 5d 1a 22 21 2a 32 31 3a 41 49 4a 59 7c 11 29 58 05 06 04 0c 03"
    "0b 83 0a 01 09 77 7e 6c 75 7d 7b 6b 73 74 79 69 72 7a 70 71 84 60 61 78 07 0f 17 1f 27 2f"
)
"""The set 2 code of each set 1 code."""

_TRANSLATION = bytearray(range(256))
"""What the controller makes of a byte from the keyboard while it translates set 2 to set 1."""
for _set_1, _set_2 in enumerate(_SET_2):
    _TRANSLATION[_set_2] = _set_1
_TRANSLATION[0x00] = 0xFF  # the overrun codes of the two sets
_TRANSLATION[0x02] = 0x41

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

_RELEASE = 1 << 16
"""Set in a queued key's code when it is let go."""

KEYBOARD_BUFFER = 16
TYPING_LIMIT = 1 << 16
"""How many key movements may wait for the guest to read the ones before: at least 16,384 characters."""


def _scan_code(event: int, scan_set: int) -> Iterator[int]:
    """The bytes that a keyboard sends when a key moves."""
    code, released = event & 0xFFFF, event & _RELEASE
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


# -- Keyboard ---------------------------------------------------------------------------------------------------------

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
        """A key of `KEYS` is pressed, or let go if `_RELEASE` is set. What there is no room for is lost."""
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
            raise ValueError(f"more than {TYPING_LIMIT} key movements wait for the guest to read its keyboard")
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
        numbers = _numbers(state, {"last_sent": 0xFF, "scan_set": 2, "scanning": 1, "leds": 7, "argument_of": 0xFF})
        buffer, responses, typed = state.get("buffer"), state.get("responses"), state.get("typed")
        if type(buffer) is not bytes or len(buffer) > KEYBOARD_BUFFER + 1:
            raise ValueError(f"keyboard: state field 'buffer' is not at most {KEYBOARD_BUFFER + 1} bytes")
        if type(responses) is not bytes or len(responses) > 3:
            raise ValueError("keyboard: state field 'responses' is not at most 3 bytes")
        if type(typed) is not list or len(typed) > TYPING_LIMIT:
            raise ValueError(f"keyboard: state field 'typed' is not a list of at most {TYPING_LIMIT} key movements")
        for event in typed:
            if type(event) is not int or event & ~_RELEASE not in _KEY_CODES:
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


def _numbers(state: State, limits: dict[str, int]) -> dict[str, int]:
    """The numbers in a saved state that `limits` names, each checked against its largest value; ValueError else."""
    for name, most in limits.items():
        value = state.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise ValueError(f"keyboard controller: state field {name!r} is {value!r}, not a number in 0..{most:#x}")
    return {name: state[name] for name in limits}


# -- Controller -------------------------------------------------------------------------------------------------------

DATA, COMMAND = 0, 4

STATUS_OBF, STATUS_SYSTEM, STATUS_COMMAND, STATUS_UNLOCKED, STATUS_AUX, STATUS_TIMEOUT = 1, 4, 8, 16, 32, 64
CONFIG_KEYBOARD_IRQ, CONFIG_AUX_IRQ, CONFIG_SYSTEM, CONFIG_KEYBOARD_OFF, CONFIG_AUX_OFF, CONFIG_TRANSLATE = (
    1, 2, 4, 16, 32, 64,
)  # fmt: skip
CONFIG_AFTER_POST = CONFIG_TRANSLATE | CONFIG_AUX_OFF | CONFIG_SYSTEM | CONFIG_KEYBOARD_IRQ
"""As a BIOS leaves the command byte, which is what kernels that never touch it count on."""

_STATUS_BITS = "OBF IBF system command unlocked AUX timeout parity"
_CONFIG_BITS = "keyboard-IRQ AUX-IRQ system - keyboard-off AUX-off translate"
_COMMAND_NAMES = {
    0x20: "read command byte", 0x60: "write command byte", 0xA4: "test password", 0xA7: "mouse off", 0xA8: "mouse on",
    0xA9: "test mouse port", 0xAA: "self-test", 0xAB: "test keyboard port", 0xAD: "keyboard off", 0xAE: "keyboard on",
    0xC0: "read input port", 0xD0: "read output port", 0xD1: "write output port", 0xD2: "write keyboard output buffer",
    0xD3: "write mouse output buffer", 0xD4: "write to mouse", 0xDD: "A20 off", 0xDF: "A20 on",
    0xFE: "reset the processor",
}  # fmt: skip
_KEYBOARD_COMMANDS = {
    0xED: "set LEDs", 0xEE: "echo", 0xF0: "scan code set", 0xF2: "identify", 0xF3: "typematic", 0xF4: "enable",
    0xF5: "disable", 0xF6: "defaults", 0xFE: "resend", 0xFF: "reset",
}  # fmt: skip
_ARGUMENTS = {
    0x60: "command byte", 0xD1: "output port", 0xD2: "keyboard output buffer", 0xD3: "mouse output buffer",
    0xD4: "mouse",
}  # fmt: skip
"""What a byte to port 0x60 is, by the controller's command before it."""

OUTPUT_NO_RESET, OUTPUT_A20 = 1, 2
OUTPUT_ONES = 0xCC
OUTPUT_KEYBOARD_IRQ, OUTPUT_AUX_IRQ = 16, 32


class I8042(Device):
    """Keyboard controller at ports 0x60 and 0x64, with a keyboard.

    `on_reset` is called when the guest pulls the processor's reset line, `set_a20` when it moves the A20 gate, which
    is open at the start.
    """

    name = "i8042"
    ports = (Range(0x60, 1), Range(0x64, 1))
    width = 1

    def __init__(
        self,
        keyboard_irq: IrqLine,
        mouse_irq: IrqLine,
        on_reset: Callable[[], None],
        set_a20: Callable[[bool], None],
    ) -> None:
        self._keyboard_irq = keyboard_irq
        self._mouse_irq = mouse_irq
        self._on_reset = on_reset
        self._set_a20 = set_a20
        self.keyboard = Keyboard()
        self._a20 = True
        self.reset()

    def reset(self) -> None:
        self.keyboard.reset()
        self._ram = bytearray(32)
        """The controller's memory; its first byte is the command byte, called the configuration here."""
        self._ram[0] = CONFIG_AFTER_POST
        self._status = STATUS_UNLOCKED
        """OBF, COMMAND, AUX, TIMEOUT and UNLOCKED; SYSTEM is the configuration's."""
        self._output = 0
        self._reply: int | None = None
        """A byte from the controller itself that waits for the output buffer; AUX and TIMEOUT lie above, from bit 8."""
        self._argument_of = 0
        """The command whose argument the next byte to port 0x60 is, 0 for none."""
        self._broken_key = False
        """While translating: 0xF0 has come, the next code is a key's let go."""
        self._move_a20(True)
        self._update()

    # -- What the host does -------------------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        """Press a key of `KEYS`, for example "a", "enter" or "f1"; ValueError for any other name."""
        self._move_key(key, 0)

    def release(self, key: str) -> None:
        """Let go of a key of `KEYS`; ValueError for any other name."""
        self._move_key(key, _RELEASE)

    def type_text(self, text: str) -> None:
        """Type on a US keyboard, as fast as the guest reads; control characters are typed with Ctrl.

        ValueError for a character that the keyboard has not, or for too much text; nothing is typed then.
        """
        codes: list[int] = []
        for character in text:
            stroke = _STROKES.get(character)
            if stroke is None:
                raise ValueError(f"there is no {character!r} on a US keyboard")
            codes += [KEYS[name] for name in stroke]
            codes += [KEYS[name] | _RELEASE for name in reversed(stroke)]
        self.moved_by_host = True
        self.keyboard.type(codes)
        self._update()

    def _move_key(self, key: str, release: int) -> None:
        code = KEYS.get(key)
        if code is None:
            raise ValueError(f"there is no key {key!r}: the keys are {' '.join(KEYS)}")
        self.moved_by_host = True
        self.keyboard.move(code | release)
        self._update()

    # -- What the guest does ------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        if offset == COMMAND:
            return self._status | self._ram[0] & CONFIG_SYSTEM
        if self._status & STATUS_OBF:
            self._status &= ~(STATUS_OBF | STATUS_AUX | STATUS_TIMEOUT)
            value = self._output
            self._drive_irqs()  # a byte that follows makes a new edge
            self._update()
            return value
        return self._output

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == COMMAND:
            self._status |= STATUS_COMMAND
            self._argument_of = 0
            self._obey(value)
        else:
            self._status &= ~STATUS_COMMAND
            command, self._argument_of = self._argument_of, 0
            self._take_data(command, value)
        self._update()

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        if offset == COMMAND:
            return "status" if value is None else "command"
        if value is None:
            return "output buffer"
        command = self._argument_of
        return _ARGUMENTS.get(command) or (f"RAM {command & 0x1F:#x}" if command else "keyboard")

    def explain(self, register: str, value: int, is_write: bool) -> str:
        if register == "status":
            return bit_names(value, _STATUS_BITS)
        if register == "command byte":
            return bit_names(value, _CONFIG_BITS)
        if register == "output port":
            return bit_names(value, "no-reset A20 mouse-data mouse-clock keyboard-IRQ mouse-IRQ clock data")
        names = {"command": _COMMAND_NAMES, "keyboard": _KEYBOARD_COMMANDS}.get(register, {})
        return names.get(value, "")

    def _obey(self, command: int) -> None:
        match command:
            case 0xA7:
                self._ram[0] |= CONFIG_AUX_OFF
            case 0xA8:
                self._ram[0] &= ~CONFIG_AUX_OFF
            case 0xA4:
                self._reply = 0xF1  # no password is set
            case 0xA9 | 0xAB:
                self._reply = 0x00  # clock and data lines are good; an empty mouse port's are, too
            case 0xAA:
                self._ram[0] |= CONFIG_SYSTEM
                self._reply = 0x55
            case 0xAD:
                self._ram[0] |= CONFIG_KEYBOARD_OFF
            case 0xAE:
                self._ram[0] &= ~CONFIG_KEYBOARD_OFF
            case 0xC0:
                self._reply = 0x80  # input port: the keyboard is not locked
            case 0xD0:
                self._reply = self._output_port()
            case 0xD1 | 0xD2 | 0xD3 | 0xD4:
                self._argument_of = command
            case 0xDD | 0xDF:
                self._move_a20(command == 0xDF)
            case _ if 0x20 <= command < 0x40:
                self._reply = self._ram[command & 0x1F]
            case _ if 0x60 <= command < 0x80:
                self._argument_of = command
            case _ if command >= 0xF0 and not command & OUTPUT_NO_RESET:
                self._on_reset()  # the low four bits name the output port's lines that are not pulsed low

    def _take_data(self, command: int, value: int) -> None:
        match command:
            case 0:
                self._ram[0] &= ~CONFIG_KEYBOARD_OFF
                self.keyboard.receive(value)
            case 0xD1:
                self._move_a20(bool(value & OUTPUT_A20))
                if not value & OUTPUT_NO_RESET:
                    self._on_reset()
            case 0xD2:
                self._reply = value
            case 0xD3:
                self._reply = value | STATUS_AUX << 8
            case 0xD4:
                self._reply = RESEND | (STATUS_AUX | STATUS_TIMEOUT) << 8  # nobody is there
            case _:
                self._ram[command & 0x1F] = value

    def _output_port(self) -> int:
        return (
            OUTPUT_ONES
            | OUTPUT_NO_RESET
            | (OUTPUT_A20 if self._a20 else 0)
            | (OUTPUT_KEYBOARD_IRQ if self._keyboard_irq.level else 0)
            | (OUTPUT_AUX_IRQ if self._mouse_irq.level else 0)
        )

    def _move_a20(self, on: bool) -> None:
        if on != self._a20:
            self._a20 = on
            self._set_a20(on)

    # -- Output buffer ------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Fill the output buffer if it is empty, the controller's own bytes first, and drive the IRQ lines."""
        if not self._status & STATUS_OBF:
            if self._reply is not None:
                self._output = self._reply & 0xFF
                self._status |= STATUS_OBF | self._reply >> 8
                self._reply = None
            elif not self._ram[0] & CONFIG_KEYBOARD_OFF and (byte := self._keyboard_byte()) is not None:
                self._output = byte
                self._status |= STATUS_OBF
        self._drive_irqs()

    def _keyboard_byte(self) -> int | None:
        """The keyboard's next byte, translated if the configuration says so."""
        while (byte := self.keyboard.next_byte()) is not None:
            if not self._ram[0] & CONFIG_TRANSLATE:
                return byte
            if byte != 0xF0:
                released, self._broken_key = self._broken_key, False
                return _TRANSLATION[byte] | (0x80 if released else 0)
            self._broken_key = True
        return None

    def _drive_irqs(self) -> None:
        config, full = self._ram[0], self._status & (STATUS_OBF | STATUS_AUX)
        self._keyboard_irq.set(
            full == STATUS_OBF and config & (CONFIG_KEYBOARD_IRQ | CONFIG_KEYBOARD_OFF) == CONFIG_KEYBOARD_IRQ
        )
        self._mouse_irq.set(full == STATUS_OBF | STATUS_AUX and bool(config & CONFIG_AUX_IRQ))

    # -- State --------------------------------------------------------------------------------------------------------

    def save(self) -> State:
        return {
            "keyboard": self.keyboard.save(),
            "ram": bytes(self._ram),
            "status": self._status,
            "output": self._output,
            "reply": self._reply,
            "argument_of": self._argument_of,
            "broken_key": int(self._broken_key),
            "a20": int(self._a20),
        }

    def restore(self, state: State) -> None:
        numbers = _numbers(state, {"status": 0x7F, "output": 0xFF, "argument_of": 0xFF, "broken_key": 1, "a20": 1})
        ram, reply, keyboard = state.get("ram"), state.get("reply"), state.get("keyboard")
        flags = STATUS_AUX | STATUS_TIMEOUT
        if type(ram) is not bytes or len(ram) != 32:
            raise ValueError(f"{self.name}: state field 'ram' is not 32 bytes")
        if reply is not None and (type(reply) is not int or reply < 0 or reply & ~(flags << 8 | 0xFF)):
            raise ValueError(f"{self.name}: state field 'reply' is {reply!r}, not a byte with its flags")
        status = numbers["status"]
        if not status & STATUS_UNLOCKED or status & ~(STATUS_OBF | STATUS_COMMAND | STATUS_UNLOCKED | flags):
            raise ValueError(f"{self.name}: state field 'status' is {status:#x}, which cannot be")
        command = numbers["argument_of"]
        if command and not (0x60 <= command < 0x80 or 0xD1 <= command <= 0xD4):
            raise ValueError(f"{self.name}: state field 'argument_of' is {command:#x}, a command without an argument")
        if type(keyboard) is not dict:
            raise ValueError(f"{self.name}: state field 'keyboard' is not a keyboard's state")
        self.keyboard.restore(keyboard)
        self._ram[:] = ram
        self._status = status
        self._output = numbers["output"]
        self._reply = reply
        self._argument_of = command
        self._broken_key = bool(numbers["broken_key"])
        self._move_a20(bool(numbers["a20"]))
        self._drive_irqs()
        self.moved_by_host = False


class Port92(Device):
    """System control port A: bit 1 is a second A20 gate, a rising bit 0 resets the processor."""

    name = "port 92"
    moved_by_host = False
    ports = (Range(0x92, 1),)
    width = 1
    register_names: Mapping[int, str] = {0: "system control A"}

    def __init__(self, on_reset: Callable[[], None], set_a20: Callable[[bool], None]) -> None:
        self._on_reset = on_reset
        self._set_a20 = set_a20
        self._value = OUTPUT_A20

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return bit_names(value & 3, "reset A20")

    def read(self, offset: int, size: int) -> int:
        return self._value

    def write(self, offset: int, size: int, value: int) -> None:
        old, self._value = self._value, value & 3
        if (old ^ value) & 2:
            self._set_a20(bool(value & 2))
        if value & ~old & 1:
            self._on_reset()

    def reset(self) -> None:
        self.write(0, 1, 2)

    def save(self) -> State:
        return {"value": self._value}

    def restore(self, state: State) -> None:
        value = state.get("value")
        if type(value) is not int or not 0 <= value <= 3:
            raise ValueError(f"{self.name}: state field 'value' is {value!r}, not 0..3")
        if (value ^ self._value) & 2:
            self._set_a20(bool(value & 2))
        self._value = value
