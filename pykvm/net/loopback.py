"""The two shortest cables: one that leads nowhere and one that leads back."""

from __future__ import annotations

from . import NetBackend


class NoNet(NetBackend):
    """A NIC with nothing plugged in: what it sends is gone."""

    def send(self, frame: bytes) -> None:
        pass


class Loopback(NetBackend):
    """Each frame sent comes straight back, from within `send`."""

    def send(self, frame: bytes) -> None:
        if self.deliver is not None:
            self.deliver(frame)
