"""A machine's screen as people and tests look at it: what it shows, and waiting until a text is on it."""

from __future__ import annotations

import time

from .engine.engine import Engine
from .errors import ConfigError
from .memory import GuestMemoryError
from .typed import TYPE_CHECKING

if TYPE_CHECKING:
    import re

    from .display import Screen
    from .pc import Pc

SCREEN_CHECK = 0.02
"""Seconds between two looks at the screen."""


class Screens:
    """The part of a machine that has to do with it."""

    engine: Engine
    pc: Pc

    @property
    def screen(self) -> Screen:
        """What a monitor at the VGA shows now: `text`, `lines`, `find`; `png()`, `save`, `size`, `pixels`; `ansi`.

        ConfigError if the machine's RAM has no room for video memory.
        """
        return self._look(pictures=True)

    def _look(self, pictures: bool) -> Screen:
        from .devices.vga_picture import text_screen

        with self.engine.gate.lock:
            try:
                return text_screen(self.pc.vga, self.engine.board.memory.read, pictures)
            except GuestMemoryError as error:
                have = self.engine.board.memory.size >> 10
                raise ConfigError(f"there is no screen: video memory ends at 768K, RAM at {have}K") from error

    def wait_for_screen(self, text: str | re.Pattern[str], timeout: float | None = None) -> Screen:
        """Wait until a row of the screen has `text`, or a match of a regular expression, in it; returns the screen.

        WaitFailed if it cannot come any more, because the run has ended, or after `timeout` seconds. What is on the
        screen is looked at 50 times a second: writing to it does not leave the guest.
        """
        from .console.port import WaitFailed

        limit = None if timeout is None else time.monotonic() + timeout
        with self.engine.gate.lock:
            while True:
                ended = self.engine.outcome
                screen = self._look(pictures=False)
                if screen.find(text) is not None if isinstance(text, str) else any(map(text.search, screen.lines)):
                    return self.screen
                if ended is not None or (limit is not None and time.monotonic() >= limit):
                    why = f"the run has ended ({ended})" if ended else f"{timeout:g} s are over"
                    what = text if isinstance(text, str) else text.pattern
                    raise WaitFailed(f"{what!r} did not come on the screen: {why}. It shows:\n{screen.text}")
                self.engine.gate.changed.wait(SCREEN_CHECK)

    def screen_text(self) -> str:
        """Its text; none of a machine without a screen."""
        try:
            return self._look(pictures=False).text
        except ConfigError:
            return ""
