"""A card's own accesses to the guest's RAM, which it makes as a bus master.

Implements: PCI Local Bus Specification 3.0, section 6.2.2 (bit 2 of the command register) and 6.2.3 (the status bits of
a transfer that failed). All of it goes through `GuestMemory`, the one gate, and what is not wholly in RAM is a master
abort: nothing answers there. That a card reaches another card's BAR is not modelled.
"""

from __future__ import annotations

from ...errors import PykvmError
from ...memory import GuestMemory, GuestMemoryError
from .config import BUS_MASTER, COMMAND, RECEIVED_MASTER_ABORT, RECEIVED_TARGET_ABORT, STATUS, ConfigSpace


class DmaError(PykvmError):
    """A transfer that did not take place: bus mastering is off, or something of it is not in RAM.

    It is the guest's error. Where a method that serves the guest's access lets it through, the access ends there; the
    status register has the reason. A device that tells its driver of such things catches it.
    """


class Dma:
    """The transfers of the card with the configuration space `config`."""

    def __init__(self, config: ConfigSpace) -> None:
        self._config = config
        self.memory: GuestMemory | None = None
        """The guest's RAM, while the card is in a slot."""
        self.failing = 0
        """So many of the next transfers end in a target abort."""

    @property
    def is_master(self) -> bool:
        """Whether the driver lets the card be a bus master."""
        return bool(self._config.data[COMMAND] & BUS_MASTER)

    def ready(self) -> GuestMemory:
        """The guest's RAM, for a transfer that begins now; DmaError if it may not be."""
        if self.memory is None:
            raise DmaError("the card is in no slot: machine.add puts it into one")
        if not self.is_master:
            raise DmaError("bus mastering is off: the driver sets bit 2 of the command register")
        if self.failing:
            self.failing -= 1
            self._config.set(STATUS, 2, RECEIVED_TARGET_ABORT, True)
            raise DmaError("the transfer was made to fail")
        return self.memory

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of RAM at guest physical `address`. DmaError if bus mastering is off, or they are not RAM."""
        memory = self.ready()
        try:
            return memory.read(address, size)
        except GuestMemoryError as error:
            raise self.aborted(error) from None

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Put `data` into RAM at guest physical `address`. DmaError as `read`: nothing is written then."""
        memory = self.ready()
        try:
            memory.write(address, data)
        except GuestMemoryError as error:
            raise self.aborted(error) from None

    def aborted(self, error: GuestMemoryError) -> DmaError:
        """What a transfer to where is no RAM ends as; the status register says so from now on."""
        self._config.set(STATUS, 2, RECEIVED_MASTER_ABORT, True)
        return DmaError(str(error))
