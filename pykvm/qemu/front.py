"""What a person or a program speaks to at a character device, other than the guest: the base of both monitors."""

from __future__ import annotations

from collections.abc import Callable

LINE_LIMIT = 1 << 16
"""Characters of a line: what is longer is no command."""


class Front:
    """A `Port`: bytes that come are given to `send`, with the machine's lock held; `say` sends text."""

    waiting = 0

    def __init__(self) -> None:
        self.sink: Callable[[bytes], None] | None = None
        self.drained: Callable[[], None] | None = None

    def set_ready(self, ready: bool) -> None:
        """A reader who is slow has its answers later, as far as they are kept."""

    def opened(self) -> None:
        """Somebody has come."""

    def send(self, data: bytes) -> None:
        """Take input."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        """Send text."""
        if self.sink is not None:
            self.sink(text.encode("utf-8", "replace"))
