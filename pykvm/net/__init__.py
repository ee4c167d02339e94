"""Network backends: where the Ethernet frames of an emulated NIC go to and come from on the host."""

from __future__ import annotations

from collections.abc import Callable

MAX_FRAME = 1514
"""Longest Ethernet frame without its FCS: 14 bytes of header and 1,500 of payload (IEEE 802.3 section 3)."""

POLL_BUDGET = 64
"""The most frames that one `poll` hands over, so that a flood leaves time for everything else."""


class NetBackend:
    """What a NIC asks of its backend. A frame is the bytes from the destination address on, without preamble and FCS.

    Frames go out by `send`. They come in through the function given to `connect`, which is only called from within
    `send` or `poll`. The I/O thread calls `poll` when `fileno` is readable, with the machine's lock held.
    """

    deliver: Callable[[bytes], None] | None = None

    station: str = ""
    """Names this end of the wire, so that the NICs at its two ends are given different addresses."""

    def connect(self, deliver: Callable[[bytes], None]) -> None:
        """Say who is to be told of a frame that arrives."""
        self.deliver = deliver

    def send(self, frame: bytes) -> None:
        """Send one frame or drop it, as a wire would: never wait and never raise for what the far side does."""
        raise NotImplementedError

    def fileno(self) -> int | None:
        """A descriptor that is readable while frames wait, or None if there never is one."""
        return None

    def poll(self) -> None:
        """Deliver what has arrived, at most `POLL_BUDGET` frames, without waiting."""

    def close(self) -> None:
        """Give back the host's resources; may be called twice."""
