"""PCI configuration space, reached by mechanism 1: the chip set of a PC on bus 0, and the cards in its slots.

Implements: PCI Local Bus Specification 3.0, sections 3.2.2.3.2 (configuration mechanism 1) and 6.1 (header type 0). The
chip set's functions are those of `chipset`; a card is a `card.PciDevice`, and has its slot from `slots`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...device import Device, Range, State
from ...errors import ConfigError
from ...typed import TYPE_CHECKING
from .chipset import DISPLAY, ISA_BRIDGE, PC_FUNCTIONS, Function

if TYPE_CHECKING:
    from .card import PciDevice
    from .slots import Carrier, Slots

CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC
ENABLE = 1 << 31
ADDRESS_MASK = 0x80FF_FFFC
"""The bits of CONFIG_ADDRESS that exist: enable, bus (8), device (5), function (3), register (6); the rest read 0."""

_ALL_ONES = 0xFFFF_FFFF
_DWORDS = 64
_DISPLAY = DISPLAY.device << 11 | DISPLAY.function << 8
_ISA_BRIDGE = ISA_BRIDGE.device << 11
_PIRQ = 0x60 // 4
"""The ISA bridge's PIRQRC A to D, a byte each."""


def _at_reset(function: Function) -> list[int]:
    """Its double words."""
    space = [0] * _DWORDS
    for offset, (value, _) in function.registers.items():
        space[offset // 4] = value
    return space


class PciHost(Device):
    """The configuration ports and the configuration space of `functions`; an empty place reads all ones.

    Port 0xCF9, in the middle of CONFIG_ADDRESS, is left to the reset control register.
    """

    name = "PCI host"
    moved_by_host = False
    ports = (Range(CONFIG_ADDRESS, 1), Range(CONFIG_ADDRESS + 2, 6))
    width = 4

    def __init__(
        self,
        functions: Sequence[Function] = PC_FUNCTIONS,
        moved: Callable[[Sequence[int]], None] | None = None,
        carrier: Carrier | None = None,
        *,
        firmware: bool = False,
    ) -> None:
        """`moved` is called with `DISPLAY`'s double words when they may have changed.

        Cards are plugged onto `carrier`. Unless the machine has a `firmware`, which would do it, they have addresses
        and interrupts from the start.
        """
        self._moved = moved
        self._carrier, self._firmware = carrier, firmware
        self._slots: Slots | None = None
        self._cards: dict[int, PciDevice] = {}
        self._functions = {function.device << 11 | function.function << 8: function for function in functions}
        self.reset()

    def reset(self) -> None:
        self._address = 0
        self._spaces = {place: _at_reset(function) for place, function in self._functions.items()}
        if self._slots is not None and not self._firmware:
            self._spaces[_ISA_BRIDGE][_PIRQ] = self._slots.FIRMWARE_ROUTES
        self._tell()

    # Cards

    @property
    def cards(self) -> Sequence[Device]:
        """The cards, by rising slots."""
        return () if self._slots is None else self._slots.cards

    def plug(self, card: Device) -> None:
        """Put a card into its slot, or the first free one; ConfigError if there is none, or it needs more room."""
        if self._slots is None:
            from .slots import Slots

            if self._carrier is None:
                raise ConfigError(f"{card.name}: this machine has no slots for cards")
            taken = {place >> 11 for place in self._functions}
            self._slots = Slots(self._carrier, taken, assign=not self._firmware)
            if not self._firmware:
                self._spaces[_ISA_BRIDGE][_PIRQ] = self._slots.FIRMWARE_ROUTES
        self._slots.plug(card)
        self._plugged()

    def unplug(self, card: Device) -> None:
        """Take a card out of its slot."""
        if self._slots is not None:
            self._slots.unplug(card)
            self._plugged()

    def _plugged(self) -> None:
        assert self._slots is not None
        self._cards = {card.slot << 11: card for card in self._slots.cards if card.slot is not None}
        self._slots.route(self._spaces[_ISA_BRIDGE][_PIRQ])

    # Configuration space

    def read(self, offset: int, size: int) -> int:
        if offset >= 4:
            value = _ALL_ONES
            address = self._address
            if address & ENABLE:
                space = self._spaces.get(address & 0x00FF_FF00)
                if space is not None:
                    value = space[address >> 2 & 0x3F]
                elif (card := self._cards.get(address & 0x00FF_FF00)) is not None:
                    value = card.read_config(address & 0xFC)
            # What reaches past the fourth byte meets no port of this device.
            return (value | _ALL_ONES << 32) >> 8 * (offset - 4) & (1 << 8 * size) - 1
        # Only an access of four bytes is to CONFIG_ADDRESS: others pass it by.
        return self._address if size == 4 and offset == 0 else (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= 4:
            address = self._address
            place = address & 0x00FF_FF00
            space = self._spaces.get(place)
            if address & ENABLE and space is not None:
                at = address >> 2 & 0x3F
                shift = 8 * (offset - 4)
                _, writable = self._functions[place].registers.get(4 * at, (0, 0))
                lanes = ((1 << 8 * size) - 1) << shift & writable
                space[at] = space[at] & ~lanes | value << shift & lanes
                if place in (_DISPLAY, _ISA_BRIDGE):
                    self._tell()
            elif address & ENABLE and (card := self._cards.get(place)) is not None:
                at = offset - 4
                card.write_config((address & 0xFC) + at, min(size, 4 - at), value)
        elif size == 4 and offset == 0:
            self._address = value & ADDRESS_MASK

    def _tell(self) -> None:
        if self._moved is not None and _DISPLAY in self._spaces:
            self._moved(self._spaces[_DISPLAY])
        if self._slots is not None:
            self._slots.route(self._spaces[_ISA_BRIDGE][_PIRQ])

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        if offset < 4:
            return "CONFIG_ADDRESS"
        at = self._address | offset - 4
        card = self._cards.get(at & 0x00FF_FF00) if at & ENABLE else None
        return f"CONFIG_DATA {_place(at)}" + (f" {card.name}" if card is not None else "")

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return _place(value) if register == "CONFIG_ADDRESS" and value & ENABLE else ""

    def save(self) -> State:
        return {"address": self._address, "spaces": [list(space) for space in self._spaces.values()]}

    def restore(self, state: State) -> None:
        address, saved = state.get("address"), state.get("spaces")
        if type(address) is not int or address < 0 or address & ~ADDRESS_MASK:
            raise ValueError(f"{self.name}: state field 'address' is {address!r}, not a configuration address")
        if isinstance(saved, list) and len(saved) == len(self._spaces) - 1 and _DISPLAY in self._spaces:
            saved = [*saved, _at_reset(self._functions[_DISPLAY])]  # a snapshot from before there was one
        if not isinstance(saved, list) or len(saved) != len(self._spaces):
            raise ValueError(f"{self.name}: state field 'spaces' is not that of {len(self._spaces)} functions")
        for place, space in zip(self._functions, saved, strict=True):
            registers = self._functions[place].registers
            if not isinstance(space, list) or len(space) != _DWORDS:
                raise ValueError(f"{self.name}: the space of {place:#x} is not a list of {_DWORDS} double words")
            for at, value in enumerate(space):
                initial, mask = registers.get(4 * at, (0, 0))
                if type(value) is not int or (value ^ initial) & ~mask:
                    raise ValueError(f"{self.name}: the function {place:#x} cannot have {value!r} at {4 * at:#x}")
        self._address = address
        self._spaces = {place: list(space) for place, space in zip(self._functions, saved, strict=True)}
        self._tell()


def _place(address: int) -> str:
    """What a configuration address names, in the usual words: bus:device.function, and the register."""
    return f"{address >> 16 & 0xFF:02x}:{address >> 11 & 0x1F:02x}.{address >> 8 & 7} {address & 0xFF:#04x}"
