"""The keyboard controller of a PC, with a keyboard and a mouse (`ps2_keyboard`, `ps2_mouse`), and the fast A20 and
reset port.

Implements: the 8042 as in the IBM PS/2 Hardware Interface Technical Reference ("Keyboard and Auxiliary Device
Controller": status register, command byte, commands 0x20 to 0xFF). Not modelled: the time that bytes take, passwords.
`Port92` is system control port A of the same reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..device import Device, IrqLine, Range, State, bit_names
from ..typed import TYPE_CHECKING
from .ps2_keyboard import TRANSLATION, Keyboard, checked, key_code, strokes

if TYPE_CHECKING:
    from .ps2_mouse import Mouse

DATA, COMMAND = 0, 4

STATUS_OBF, STATUS_SYSTEM, STATUS_COMMAND, STATUS_UNLOCKED, STATUS_AUX = 1, 4, 8, 16, 32
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
_MOUSE_COMMANDS = {
    0xE6: "scaling 1:1", 0xE7: "scaling 2:1", 0xE8: "resolution", 0xE9: "status", 0xEA: "stream mode",
    0xEB: "read data", 0xEC: "end of wrap mode", 0xEE: "wrap mode", 0xF0: "remote mode", 0xF2: "identify",
    0xF3: "sample rate", 0xF4: "enable", 0xF5: "disable", 0xF6: "defaults", 0xFE: "resend", 0xFF: "reset",
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
    """Keyboard controller at ports 0x60 and 0x64, with a keyboard and a mouse.

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
        self._mouse: Mouse | None = None
        self._a20 = True
        self.reset()

    def reset(self) -> None:
        self.keyboard.reset()
        if self._mouse is not None:
            self._mouse.reset()
        self._ram = bytearray(32)
        """The controller's memory; its first byte is the command byte, called the configuration here."""
        self._ram[0] = CONFIG_AFTER_POST
        self._status = STATUS_UNLOCKED
        """OBF, COMMAND, AUX and UNLOCKED; SYSTEM is the configuration's."""
        self._output = 0
        self._reply: int | None = None
        """A byte from the controller itself that waits for the output buffer; AUX lies above, from bit 8."""
        self._argument_of = 0
        """The command whose argument the next byte to port 0x60 is, 0 for none."""
        self._broken_key = False
        """While translating: 0xF0 has come, the next code is a key's let go."""
        self._move_a20(True)
        self._update()

    @property
    def mouse(self) -> Mouse:
        """What is plugged into the second port; made when the guest or the host first uses it, as few do."""
        if self._mouse is None:
            self._mouse = _mouse()
        return self._mouse

    # -- What the host does -------------------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        """Press a key of `ps2_keyboard.KEYS`, for example "a", "enter" or "f1"; ValueError for any other name."""
        self._move_key(key_code(key, released=False))

    def release(self, key: str) -> None:
        """Let go of such a key; ValueError for any other name."""
        self._move_key(key_code(key, released=True))

    def _move_key(self, code: int) -> None:
        self.moved_by_host = True
        self.keyboard.move(code)
        self._update()

    def type_text(self, text: str) -> None:
        """Type on a US keyboard, as fast as the guest reads; control characters are typed with Ctrl.

        ValueError for a character that the keyboard has not, or for too much text; nothing is typed then.
        """
        codes = strokes(text)
        self.moved_by_host = True
        self.keyboard.type(codes)
        self._update()

    def move_mouse(self, right: int, up: int, wheel: int) -> None:
        """Move the mouse by counts, and turn its wheel towards the user; ValueError for too many at a time."""
        self.moved_by_host = True
        self.mouse.move(right, up, wheel)
        self._update()

    def hold_button(self, button: str, down: bool) -> None:
        """Press or let go of a button of `ps2_mouse.BUTTONS`; ValueError for any other name."""
        self.moved_by_host = True
        self.mouse.hold(button, down)
        self._update()

    # -- What the guest does ------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        if offset == COMMAND:
            return self._status | self._ram[0] & CONFIG_SYSTEM
        if self._status & STATUS_OBF:
            self._status &= ~(STATUS_OBF | STATUS_AUX)
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
        by_register = {"command": _COMMAND_NAMES, "keyboard": _KEYBOARD_COMMANDS, "mouse": _MOUSE_COMMANDS}
        names = by_register.get(register, {})
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
                self._reply = 0x00  # clock and data lines are good
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
                self._ram[0] &= ~CONFIG_AUX_OFF
                self.mouse.receive(value)
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
            # A mouse that answers goes before keys, which go before a mouse that moves.
            elif self._mouse is not None and self._mouse.answers and (byte := self._mouse_byte()) is not None:
                self._output = byte
                self._status |= STATUS_OBF | STATUS_AUX
            elif not self._ram[0] & CONFIG_KEYBOARD_OFF and (byte := self._keyboard_byte()) is not None:
                self._output = byte
                self._status |= STATUS_OBF
            elif (byte := self._mouse_byte()) is not None:
                self._output = byte
                self._status |= STATUS_OBF | STATUS_AUX
        self._drive_irqs()

    def _mouse_byte(self) -> int | None:
        return None if self._mouse is None or self._ram[0] & CONFIG_AUX_OFF else self._mouse.next_byte()

    def _keyboard_byte(self) -> int | None:
        """The keyboard's next byte, translated if the configuration says so."""
        while (byte := self.keyboard.next_byte()) is not None:
            if not self._ram[0] & CONFIG_TRANSLATE:
                return byte
            if byte != 0xF0:
                released, self._broken_key = self._broken_key, False
                return TRANSLATION[byte] | (0x80 if released else 0)
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
            "mouse": None if self._mouse is None else self._mouse.save(),
            "ram": bytes(self._ram),
            "status": self._status,
            "output": self._output,
            "reply": self._reply,
            "argument_of": self._argument_of,
            "broken_key": int(self._broken_key),
            "a20": int(self._a20),
        }

    def restore(self, state: State) -> None:
        numbers = checked(state, {"status": 0x7F, "output": 0xFF, "argument_of": 0xFF, "broken_key": 1, "a20": 1})
        ram, reply, keyboard, mouse = (state.get(name) for name in ("ram", "reply", "keyboard", "mouse"))
        if type(ram) is not bytes or len(ram) != 32:
            raise ValueError(f"{self.name}: state field 'ram' is not 32 bytes")
        if reply is not None and (type(reply) is not int or reply < 0 or reply & ~(STATUS_AUX << 8 | 0xFF)):
            raise ValueError(f"{self.name}: state field 'reply' is {reply!r}, not a byte with its flag")
        status = numbers["status"]
        if not status & STATUS_UNLOCKED or status & ~(STATUS_OBF | STATUS_COMMAND | STATUS_UNLOCKED | STATUS_AUX):
            raise ValueError(f"{self.name}: state field 'status' is {status:#x}, which cannot be")
        command = numbers["argument_of"]
        if command and not (0x60 <= command < 0x80 or 0xD1 <= command <= 0xD4):
            raise ValueError(f"{self.name}: state field 'argument_of' is {command:#x}, a command without an argument")
        if type(keyboard) is not dict:
            raise ValueError(f"{self.name}: state field 'keyboard' is not a keyboard's state")
        if mouse is not None and type(mouse) is not dict:
            raise ValueError(f"{self.name}: state field 'mouse' is not a mouse's state")
        restored = None
        if mouse is not None:
            restored = _mouse()
            restored.restore(mouse)
        self.keyboard.restore(keyboard)
        self._mouse = restored
        self._ram[:] = ram
        self._status = status
        self._output = numbers["output"]
        self._reply = reply
        self._argument_of = command
        self._broken_key = bool(numbers["broken_key"])
        self._move_a20(bool(numbers["a20"]))
        self._drive_irqs()
        self.moved_by_host = False


def _mouse() -> Mouse:
    from .ps2_mouse import Mouse

    return Mouse()


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
