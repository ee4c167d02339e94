"""What wraps a vCPU's way into the guest: single steps, counting of exits, tracing.

The vCPU itself is the innermost; each link of the chain goes around those of lower `Rank`, whoever came first. A link
is pushed and removed while the vCPU is out of the guest, or before its thread starts. Without links, the chain is the
vCPU.
"""

from __future__ import annotations

from collections.abc import Callable

from ..typed import Protocol


class Entry(Protocol):
    """What a vCPU's thread enters the guest with."""

    @property
    def enter(self) -> Callable[[], int]:
        """As `VCPU.enter`."""

    @property
    def enter_answering(self) -> Callable[[int], int]:
        """As `VCPU.enter_answering`."""


class Rank:
    """The order of links, from the vCPU outwards: what is told of an exit is told of those that a step makes, too."""

    STEP, TRACE, COUNT = range(3)


class Link:
    """Base of links. `inner` is what it wraps: the chain sets it."""

    rank: int
    """One of `Rank`."""
    inner: Entry

    def enter(self) -> int:
        """Enter the guest; the result is as of `VCPU.enter`."""
        return self.inner.enter()

    def enter_answering(self, value: int) -> int:
        """The same, with what a port input yields."""
        return self.inner.enter_answering(value)


class EntryChain:
    """The links around one vCPU."""

    def __init__(self, vcpu: Entry) -> None:
        self._vcpu = vcpu
        self._links: list[Link] = []  # the innermost first
        self.outermost: Entry = vcpu
        """What the vCPU's thread enters the guest with."""

    def push(self, link: Link) -> None:
        """Put `link` around those of lower rank, and around those of its own."""
        at = sum(other.rank <= link.rank for other in self._links)
        self._links.insert(at, link)
        self._join()

    def remove(self, link: Link) -> None:
        """Take `link` out; nothing happens if it is out already."""
        if link in self._links:
            self._links.remove(link)
            self._join()

    def _join(self) -> None:
        entry = self._vcpu
        for link in self._links:
            link.inner = entry
            entry = link
        self.outermost = entry
