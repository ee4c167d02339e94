"""One character device for a serial port and a monitor, `mon:` in front of its name: Ctrl-A C changes between them.

Source: qemu-system-x86_64(1), "Keys in the character backend multiplexer".
"""

from __future__ import annotations

from collections.abc import Callable

from ..console.terminal import Port
from ..typed import TYPE_CHECKING

if TYPE_CHECKING:
    from .front import Front

HELP = (
    ("h", "print this help"),
    ("x", "exit"),
    ("c", "switch between console and monitor"),
    ("", "sends the key itself"),
)
"""What may follow the escape key."""


class Mux:
    """A `Port` whose input goes to `console`, or to the monitor that `make_monitor` makes when it is first wanted.

    What either of them says is shown, whoever has the keys. `leave` is called by Ctrl-A X.
    """

    def __init__(
        self, console: Port, make_monitor: Callable[[], Front], leave: Callable[[], None], escape: int = 1
    ) -> None:
        self._console, self._make_monitor, self._leave, self._escape = console, make_monitor, leave, escape
        self._monitor: Front | None = None
        self._to_monitor = self._escaped = False
        self._sink: Callable[[bytes], None] | None = None
        self.drained: Callable[[], None] | None = None
        console.drained = self._console_drained

    @property
    def sink(self) -> Callable[[bytes], None] | None:
        """Where output goes."""
        return self._sink

    @sink.setter
    def sink(self, sink: Callable[[bytes], None] | None) -> None:
        self._sink = self._console.sink = sink
        if self._monitor is not None:
            self._monitor.sink = sink

    @property
    def waiting(self) -> int:
        """Bytes of input that the guest has not taken: of no matter while the monitor has the keys."""
        return 0 if self._to_monitor else self._console.waiting

    def set_ready(self, ready: bool) -> None:
        """Whether output should go on."""
        self._console.set_ready(ready)

    def _console_drained(self) -> None:
        if self.drained is not None:
            self.drained()

    def _show(self, text: str) -> None:
        if self._sink is not None:
            self._sink(text.encode())

    def send(self, data: bytes) -> None:
        """Take input."""
        keys = bytearray()
        for key in data:
            if self._escaped:
                self._escaped = False
                if key == self._escape:
                    keys.append(key)
                else:
                    self._give(keys)
                    self._command(chr(key).lower())
            elif key == self._escape:
                self._escaped = True
            else:
                keys.append(key)
        self._give(keys)

    def _give(self, keys: bytearray) -> None:
        if keys:
            target = self._monitor if self._to_monitor and self._monitor is not None else self._console
            target.send(bytes(keys))
            keys.clear()

    def _command(self, key: str) -> None:
        if key == "x":
            self._show("QEMU: Terminated\r\n")
            self._leave()
        elif key == "c":
            self._to_monitor = not self._to_monitor
            if self._monitor is None:
                self._monitor = self._make_monitor()
                self._monitor.sink = self._sink
            if self._to_monitor:
                self._monitor.opened()
            else:
                self._console_drained()  # its input may have waited
        elif key in "h?":
            name = f"C-{chr(self._escape + 0x60)}" if self._escape < 27 else repr(chr(self._escape))
            self._show("\r\n" + "".join(f"{name} {letter or name:<6}{words}\r\n" for letter, words in HELP))
