"""`--display terminal`: the VGA's screen on this terminal, whose keys go to the guest's keyboard."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..console.terminal import Terminal
from ..display.terminal import TerminalDisplay
from . import ui

if TYPE_CHECKING:
    from ..engine.eventloop import Timer
    from ..machine import Machine

FRAME = 1 / 30
"""Seconds between two pictures."""

KEYS = {
    "[A": "up", "[B": "down", "[C": "right", "[D": "left", "[H": "home", "[F": "end", "[1~": "home", "[2~": "insert",
    "[3~": "delete", "[4~": "end", "[5~": "page_up", "[6~": "page_down", "OP": "f1", "OQ": "f2", "OR": "f3", "OS": "f4",
    "[15~": "f5", "[17~": "f6", "[18~": "f7", "[19~": "f8", "[20~": "f9", "[21~": "f10", "[23~": "f11", "[24~": "f12",
}  # fmt: skip
"""What xterm sends, behind an escape character, for the keys that are no characters."""

_INPUT = re.compile(rb"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])|[\x00-\xff]")
DELETE = 0x7F
"""What terminals send for the backspace key."""


class KeyboardPort:
    """Takes what comes from a terminal, and types it. The terminal's `Port`, with nothing to show."""

    waiting = 0

    def __init__(self, machine: Machine) -> None:
        self._keyboard = machine.pc.keyboard
        self.sink: Callable[[bytes], None] | None = None
        self.drained: Callable[[], None] | None = None

    def set_ready(self, ready: bool) -> None:
        """A screen that is read too slowly misses pictures, and nothing else."""

    def send(self, data: bytes) -> None:
        """Type `data`; what a US keyboard has no key for, or has no room for, is dropped. With the lock held."""
        for match in _INPUT.finditer(data):
            token = match[0]
            key = KEYS.get(token[1:].decode("ascii")) if len(token) > 1 else None
            try:
                if key is not None:
                    self._keyboard.press(key)
                    self._keyboard.release(key)
                elif len(token) == 1:
                    self._keyboard.type_text("\b" if token[0] == DELETE else token.decode("ascii"))
            except ValueError:
                continue


class VgaTerminal:
    """Shows `machine`'s screen on standard output, and types what comes from standard input, from `begin` to `close`.

    Made with the machine's lock held, before the run, as `begin` is called. Ctrl-A X ends the run. Where standard
    output is no terminal, or a dumb one, only the last picture is shown. ConfigError for a machine without a screen.
    """

    def __init__(self, machine: Machine, environ: Mapping[str, str] = os.environ) -> None:
        self._machine = machine
        self._shown = machine.screen
        self._terminal = Terminal(KeyboardPort(machine), machine.engine.loop, machine.request_stop)
        truecolor = self._truecolor = environ.get("COLORTERM") in ("truecolor", "24bit")
        self._display = TerminalDisplay(self._write, truecolor=truecolor, colours=ui.shows_colours(sys.stdout))
        self._timer: Timer | None = None
        self._live = sys.stdout.isatty() and not ui.is_dumb()

    def begin(self) -> None:
        """Take the terminal."""
        self._terminal.begin()
        if self._live:
            self._show()

    def _write(self, text: str) -> None:
        self._terminal.write(text.encode())

    def _show(self) -> None:
        # A reader who is behind gets the newest picture once he has caught up.
        if not self._terminal.behind:
            self._shown = self._machine.screen
            self._display.draw(self._shown)
        self._timer = self._machine.engine.loop.call_at(time.monotonic() + FRAME, self._show)

    def suspend(self) -> None:
        """Give the terminal back: the process is about to be stopped. With the lock held."""
        self._stop_showing()
        self._terminal.suspend()

    def resume(self) -> None:
        """Take the terminal again. With the lock held."""
        self._terminal.resume()
        self.redraw()

    def redraw(self) -> None:
        """Show all of it anew: the terminal's size has changed, or what is on it. With the lock held."""
        if self._live:
            self._stop_showing()
            self._show()

    def _stop_showing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._display.close()

    def close(self, deadline: float | None = None) -> str:
        """Show the last picture, give the terminal back, and return that picture as text with its colours.

        `deadline` is as in `Terminal.close`.
        """
        with self._machine.lock:
            self._stop_showing()
            self._shown = self._machine.screen
        self._terminal.close(deadline)
        if self._shown.graphics:
            return self._last_picture()
        return self._shown.ansi(truecolor=False) if ui.shows_colours(sys.stdout) else self._shown.text + "\n"

    def _last_picture(self) -> str:
        from ..display.blocks import NO_COLOURS, half_blocks

        picture = self._shown.picture
        if picture is None or not ui.shows_colours(sys.stdout):
            return NO_COLOURS + "\n"
        columns, rows = shutil.get_terminal_size()
        lines = half_blocks(picture, columns, max(rows - 1, 1), self._truecolor)
        return "".join(f"{line}\x1b[0m\n" for line in lines)
