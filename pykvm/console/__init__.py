"""Character backends: where the bytes of a serial port go to and come from on the host."""

from __future__ import annotations

from collections.abc import Callable

from ..typed import Protocol


class CharBackend(Protocol):
    """What a UART asks of its backend. Input is pulled by the device as its FIFO has room, so none is ever overrun."""

    ready: bool
    """False while the far side cannot take more output: the UART then leaves "transmitter empty" clear."""

    def write(self, data: bytes) -> None:
        """Take bytes that the guest sent. Never waits; what is written while not `ready` may be dropped."""

    def read(self, limit: int) -> bytes:
        """Take at most `limit` bytes (0 or more) of waiting input."""

    def connect(self, on_input: Callable[[], None], on_ready: Callable[[], None]) -> None:
        """Say whom to tell, under the machine's lock, that input has come or that `ready` has become true again."""
