"""The cable between a NIC and its back end, which may lose frames."""

from __future__ import annotations

from collections.abc import Callable

from . import NetBackend


class Cable(NetBackend):
    """Leads to `far_end`. Who closes, polls and names that, goes there: this end is the NIC's alone."""

    lose: Callable[[bool], bool] | None = None
    """Where it is a function, it is asked of each frame, with whether the NIC sends it, and says whether it is lost."""

    def __init__(self, far_end: NetBackend) -> None:
        self._far_end = far_end

    def connect(self, deliver: Callable[[bytes], None]) -> None:
        self.deliver = deliver
        self._far_end.connect(self._arrive)

    def send(self, frame: bytes) -> None:
        if self.lose is None or not self.lose(True):
            self._far_end.send(frame)

    def _arrive(self, frame: bytes) -> None:
        if self.deliver is not None and (self.lose is None or not self.lose(False)):
            self.deliver(frame)
