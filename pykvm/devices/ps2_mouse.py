"""The mouse at the other end of the keyboard controller's second cable.

Implements: the mouse of the IBM PS/2 Hardware Interface Technical Reference ("Mouse": commands E6h to FFh, stream,
remote and wrap mode, the packet of 3 bytes), with the wheel and the five buttons of Microsoft's IntelliMouse and
IntelliMouse Explorer: the sample rates 200, 100, 80 one after the other make its identifier 3 and its packet 4 bytes
long, 200, 200, 80 after that make it 4. Not modelled: the time between two samples; what the host moves is counts
already, whatever the resolution.
"""

from __future__ import annotations

from collections import deque

from ..device import State
from ..typed import NamedTuple

ACK, RESEND, PASSED, PLAIN, WHEEL, EXPLORER = 0xFA, 0xFE, 0xAA, 0, 3, 4
BUTTONS = {"left": 1, "right": 2, "middle": 4, "side": 8, "extra": 16}
"""By name, with their bits; the last two are told by an `EXPLORER` alone."""

SET_RESOLUTION, SET_RATE = 0xE8, 0xF3
RATES = (10, 20, 40, 60, 80, 100, 200)
STREAM, REMOTE = 0, 1
_KNOCKS = {(200, 100, 80): WHEEL, (200, 200, 80): EXPLORER}
_DOUBLED = (0, 1, 1, 3, 6, 9)
"""Counts that 2:1 scaling makes of 0 to 5; from 6 on it is twice as many."""

QUEUE_LIMIT = 1024
"""Changes that wait for the guest to read the ones before."""
COUNTS_MOST = 1 << 15
"""Counts in a direction that one change can have."""
_WHEEL_MOST = 7


class Change(NamedTuple):
    """What the host did: counts to the right, upwards, of the wheel towards the user; and the buttons from then on."""

    right: int
    up: int
    wheel: int
    buttons: int


class Mouse:
    """What is at the other end of the cable: takes command bytes, gives response bytes and packets."""

    def __init__(self) -> None:
        self._responses: deque[int] = deque()
        """Answers to the last command, sent before any packet."""
        self._packet: deque[int] = deque()
        """What of a packet has not been sent."""
        self._changes: deque[Change] = deque()
        """What has not been told."""
        self._held = 0
        """The buttons, as the host holds them."""
        self.reset()

    def reset(self) -> None:
        """As after power-on; the buttons stay as they are held."""
        self._responses.clear()
        self._packet.clear()
        self._changes.clear()
        self._last_sent = 0
        self._wrapping = False
        self._identifier = PLAIN
        self._rates = (0, 0, 0)
        self._set_defaults()

    def _set_defaults(self) -> None:
        self._mode = STREAM
        self._reporting = False
        self._scaling = 1
        self._resolution = 2
        self._rate = 100
        self._argument_of = 0
        """The command whose argument comes next, 0 for none."""

    # -- What the host does -------------------------------------------------------------------------------------------

    def move(self, right: int, up: int, wheel: int) -> None:
        """Move it, and turn its wheel. ValueError beyond `COUNTS_MOST` counts."""
        if max(abs(right), abs(up), abs(wheel)) > COUNTS_MOST:
            raise ValueError(f"a mouse is moved by at most {COUNTS_MOST} counts at a time")
        self._note(right, up, wheel)

    def hold(self, button: str, down: bool) -> None:
        """Press or let go of one of `BUTTONS`; ValueError for any other name."""
        bit = BUTTONS.get(button)
        if bit is None:
            raise ValueError(f"there is no mouse button {button!r}: the buttons are {' '.join(BUTTONS)}")
        self._held = self._held | bit if down else self._held & ~bit
        self._note(0, 0, 0)

    def _note(self, right: int, up: int, wheel: int) -> None:
        """Queue a change. Movements with the same buttons become one where nobody has been told of the first."""
        last = self._changes[-1] if self._changes else None
        if last is not None and (last.buttons == self._held or len(self._changes) >= QUEUE_LIMIT):
            self._changes.pop()
            right, up, wheel = (
                max(-COUNTS_MOST, min(COUNTS_MOST, counts))
                for counts in (last.right + right, last.up + up, last.wheel + wheel)
            )
        self._changes.append(Change(right, up, wheel, self._held))

    # -- What the controller does -------------------------------------------------------------------------------------

    @property
    def answers(self) -> bool:
        """Whether an answer waits to be sent."""
        return bool(self._responses)

    def next_byte(self) -> int | None:
        """Send a byte to the controller, or None if there is nothing to say."""
        if self._responses:
            byte = self._responses.popleft()
        else:
            if not self._packet and self._changes and self._reporting and self._mode == STREAM and not self._wrapping:
                self._packet += self._next_packet()
            if not self._packet:
                return None
            byte = self._packet.popleft()
        self._last_sent = byte
        return byte

    def _next_packet(self) -> tuple[int, ...]:
        """What has changed first, as far as a packet holds it; the rest stays."""
        change = self._changes.popleft() if self._changes else Change(0, 0, 0, self._held)
        right, up = (max(-255, min(255, counts)) for counts in (change.right, change.up))
        wheel = max(-_WHEEL_MOST - 1, min(_WHEEL_MOST, change.wheel)) if self._identifier else 0
        left = Change(change.right - right, change.up - up, change.wheel - wheel if self._identifier else 0, 0)
        if left.right or left.up or left.wheel:
            self._changes.appendleft(left._replace(buttons=change.buttons))
        if self._scaling == 2 and self._mode == STREAM:
            right, up = _doubled(right), _doubled(up)
        flags = 8 | change.buttons & 7
        flags |= (0x10 if right < 0 else 0) | (0x20 if up < 0 else 0)
        flags |= (0x40 if abs(right) > 255 else 0) | (0x80 if abs(up) > 255 else 0)
        packet = (flags, right & 0xFF, up & 0xFF)
        if self._identifier == WHEEL:
            return (*packet, wheel & 0xFF)
        if self._identifier == EXPLORER:
            return (*packet, wheel & 0xF | (change.buttons & 0x18) << 1)
        return packet

    def receive(self, byte: int) -> None:
        """Take a byte from the controller: a command or its argument. Unsent answers and packets are dropped."""
        self._responses.clear()
        self._packet.clear()
        if self._wrapping and byte not in (0xEC, 0xFF):
            self._responses.append(byte)
            return
        command, self._argument_of = self._argument_of, 0
        if command and byte not in (0xFE, 0xFF):
            self._responses += self._take_argument(command, byte)
        else:
            self._responses += self._obey(byte)

    def _take_argument(self, command: int, byte: int) -> tuple[int, ...]:
        if command == SET_RATE and byte in RATES:
            self._rate = byte
            self._rates = (*self._rates[1:], byte)
            self._identifier = max(self._identifier, _KNOCKS.get(self._rates, PLAIN))
        elif command == SET_RESOLUTION and byte < 4:
            self._resolution = byte
        else:
            self._argument_of = command
            return (RESEND,)
        return (ACK,)

    def _obey(self, command: int) -> tuple[int, ...]:
        match command:
            case 0xE6 | 0xE7:
                self._scaling = command - 0xE5
            case 0xE8 | 0xF3:
                self._argument_of = command
            case 0xE9:
                return (ACK, self._status(), self._resolution, self._rate)
            case 0xEA:
                self._mode = STREAM
            case 0xEB:
                return (ACK, *self._next_packet())
            case 0xEC | 0xEE:
                self._wrapping = command == 0xEE
            case 0xF0:
                self._mode = REMOTE
            case 0xF2:
                return (ACK, self._identifier)
            case 0xF4 | 0xF5:
                self._reporting = command == 0xF4
            case 0xF6:
                self._changes.clear()
                self._set_defaults()
            case 0xFE:
                return (self._last_sent,)
            case 0xFF:
                self.reset()
                return (ACK, PASSED, 0)
            case _:
                return (RESEND,)
        return (ACK,)

    def _status(self) -> int:
        left, right, middle = (self._held >> bit & 1 for bit in range(3))
        mode = (0x40 if self._mode == REMOTE else 0) | (0x20 if self._reporting else 0)
        return mode | (0x10 if self._scaling == 2 else 0) | left << 2 | middle << 1 | right

    # -- State --------------------------------------------------------------------------------------------------------

    def save(self) -> State:
        return {
            "responses": bytes(self._responses),
            "packet": bytes(self._packet),
            "changes": [list(change) for change in self._changes],
            "held": self._held,
            "last_sent": self._last_sent,
            "wrapping": int(self._wrapping),
            "identifier": self._identifier,
            "rates": bytes(self._rates),
            "mode": self._mode,
            "reporting": int(self._reporting),
            "scaling": self._scaling,
            "resolution": self._resolution,
            "rate": self._rate,
            "argument_of": self._argument_of,
        }

    def restore(self, state: State) -> None:
        limits = {
            "held": 31, "last_sent": 0xFF, "wrapping": 1, "identifier": EXPLORER, "mode": REMOTE, "reporting": 1,
            "scaling": 2, "resolution": 3, "rate": 200, "argument_of": 0xFF,
        }  # fmt: skip
        for name, most in limits.items():
            value = state.get(name)
            if type(value) is not int or not 0 <= value <= most:
                raise ValueError(f"mouse: state field {name!r} is {value!r}, not a number in 0..{most}")
        for name, length in (("responses", 5), ("packet", 4), ("rates", 3)):
            value = state.get(name)
            if type(value) is not bytes or len(value) > length:
                raise ValueError(f"mouse: state field {name!r} is not at most {length} bytes")
        if (
            len(state["rates"]) != 3
            or state["identifier"] not in (PLAIN, WHEEL, EXPLORER)
            or state["rate"] not in RATES
            or state["argument_of"] not in (0, SET_RESOLUTION, SET_RATE)
            or not state["scaling"]
        ):
            raise ValueError("mouse: the state's fields say what cannot be")
        changes = state.get("changes")
        if type(changes) is not list or len(changes) > QUEUE_LIMIT or not all(map(_is_change, changes)):
            raise ValueError(f"mouse: state field 'changes' is not a list of at most {QUEUE_LIMIT} changes")
        self._responses, self._packet = deque(state["responses"]), deque(state["packet"])
        self._changes = deque(Change(*change) for change in changes)
        self._held = state["held"]
        self._last_sent, self._wrapping = state["last_sent"], bool(state["wrapping"])
        self._identifier, self._rates = state["identifier"], tuple(state["rates"])
        self._mode, self._reporting, self._scaling = state["mode"], bool(state["reporting"]), state["scaling"]
        self._resolution, self._rate = state["resolution"], state["rate"]
        self._argument_of = state["argument_of"]


def _doubled(counts: int) -> int:
    scaled = _DOUBLED[abs(counts)] if abs(counts) < len(_DOUBLED) else 2 * abs(counts)
    return -scaled if counts < 0 else scaled


def _is_change(change: object) -> bool:
    return (
        type(change) is list
        and len(change) == 4
        and all(type(counts) is int and abs(counts) <= COUNTS_MOST for counts in change)
        and 0 <= change[3] <= 31
    )
