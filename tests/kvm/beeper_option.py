"""The one file of a new device with an option of its own: a beeper, which hums the tone that it was made with."""

from __future__ import annotations

from typing import Any

from pykvm import ConfigError, Device, Range
from pykvm.device_options.option import Bench, DeviceOption
from pykvm.memory import parse_size

TONES = range(1, 0x10000)


class Beeper(Device):
    """Port 0x260: the tone in hertz."""

    name = "beeper"
    ports = (Range(0x260, 1),)
    width = 2

    def __init__(self, tone: int) -> None:
        self._tone = tone

    def read(self, offset: int, size: int) -> int:
        return self._tone & (1 << 8 * size) - 1


class BeeperOption(DeviceOption):
    """A tone in hertz; None for no beeper."""

    name = "beeper"
    default = None
    flags = ("--beeper",)
    metavar = "HERTZ"
    help = "A beeper that hums so."

    def parse(self, text: str) -> int:
        return parse_size(text)

    def build(self, value: Any, bench: Bench) -> int | None:
        if value is None:
            return None
        if value not in TONES:
            raise ConfigError(f"a beeper does not hum at {value!r} Hz")
        bench.board.add(Beeper(value))
        return int(value)

    def from_snapshot(self, plain: Any) -> int | None:
        if plain is not None and (type(plain) is not int or plain not in TONES):
            raise ValueError(f"the beeper's tone is {plain!r:.20}")
        return plain


OPTION = BeeperOption()
