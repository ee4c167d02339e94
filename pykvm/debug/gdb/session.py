"""One gdb's session with a machine: packets in, answers out. It knows neither sockets nor threads; what packets mean,
contents.py, running.py and queries.py say.

Source: "Debugging with GDB", appendix E: E.2 (packets), E.3 (stop reply packets), E.4 (general query packets).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import PykvmError
from ...memory import GuestMemoryError
from ...x86.registers import CR0_PE, EFER_LMA
from ..control import Control
from . import contents, queries, running
from .arguments import EFAULT, EINVAL
from .conversation import Conversation, Handler
from .packets import Decoder, Mark, Packet

if TYPE_CHECKING:
    from ...engine.engine import Engine


def architecture(engine: Engine) -> str:
    """The architecture that gdb should see now: a 64-bit kernel's all the time, else that of the first CPU's mode."""
    system = engine.board.vcpus[0].get_system_registers()
    if system.efer & EFER_LMA or (engine.entry is not None and engine.entry.format == "elf64"):
        return "i386:x86-64"
    return "i386" if system.cr0 & CR0_PE else "i8086"


class Session(Conversation):
    """Serves one client."""

    def __init__(self, control: Control, send: Callable[[bytes], None], architecture: str) -> None:
        super().__init__(control, send, architecture)
        self._decoder = Decoder()

    def receive(self, data: bytes) -> None:
        """Serve what the client has sent. No input raises."""
        for item in self._decoder.feed(data):
            if self.finished:
                return
            if item is Mark.INTERRUPT:
                if self.waiting:
                    self.control.interrupt()
                    self.report()
            elif item is Mark.NAK and self.acks:
                self._send(self._last)
            elif isinstance(item, Packet):
                self._packet(item)

    def _packet(self, packet: Packet) -> None:
        if self.acks:
            self._send(b"+" if packet.good else b"-")
        if not packet.good:
            if not self.acks:
                self.reply(EINVAL)
            return
        try:
            answer = self._serve(packet.payload)
        except GuestMemoryError:
            answer = EFAULT
        except (PykvmError, ValueError):
            answer = EINVAL
        if answer is not None:
            self.reply(answer)

    def _serve(self, payload: bytes) -> bytes | None:
        if self.waiting and payload[:1] not in (b"?", b"k"):  # nothing else may come while the machine runs
            return None
        name = _NAME.match(payload)
        key = name[0] if name is not None else payload[:1]
        handler = _HANDLERS.get(key)
        return b"" if handler is None else handler(self, payload[len(key) :])


_HANDLERS: dict[bytes, Handler] = {**contents.HANDLERS, **running.HANDLERS, **queries.HANDLERS}
"""By the packet's name, with the delimiter behind it if it has one."""
_NAME = re.compile(rb"[qQv][\w.]*[^\w.]?|H[gc]", re.DOTALL)
"""The names that are longer than a letter."""
