"""virtio over PCI, modern: what all virtio devices share.

Implements: virtio 1.2, sections 2.1 (status), 2.2 (features), 3.1 (initialization), 4.1 (PCI: 4.1.3 registers by width,
4.1.4 capabilities, 4.1.5 interrupts, 4.1.4.9 access through configuration space). There is no legacy interface.

A notification is served in the thread of the vCPU that made it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...device import State
from ...typed import Any
from ..pci.card import PciDevice
from ..pci.config import VENDOR, Bar, Capability
from ..pci.dma import DmaError
from ..pci.registers import RC, RO, WO, Register
from .queue import NO_VECTOR, Chain, Queue, QueueError, total

ISR, DEVICE, NOTIFY = 0x1000, 0x2000, 0x3000
"""Where in BAR 0 the structures are; the common one is at its beginning."""
_BAR_SIZE, _NOTIFY_STEP = 0x4000, 4
_COMMON_TYPE, _NOTIFY_TYPE, _ISR_TYPE, _DEVICE_TYPE, _ACCESS_TYPE = 1, 2, 3, 4, 5

DRIVER_OK, FEATURES_OK, NEEDS_RESET = 4, 8, 64
"""Bits of the device status."""
BUDGET, LEAST = 4 << 20, 4096
"""Bytes that are served at one go, and what a request counts at least: the machine's lock is held meanwhile."""
INDIRECT_DESC, EVENT_IDX, VERSION_1 = 1 << 28, 1 << 29, 1 << 32
_QUEUE_INTERRUPT, _CONFIG_INTERRUPT = 1, 2
_COMMON = (
    Register("DEVICE_FEATURE_SELECT", 0x00),
    Register("DEVICE_FEATURE", 0x04, access=RO),
    Register("DRIVER_FEATURE_SELECT", 0x08),
    Register("DRIVER_FEATURE", 0x0C),
    Register("CONFIG_MSIX_VECTOR", 0x10, 2, reset=NO_VECTOR),
    Register("NUM_QUEUES", 0x12, 2, RO),
    Register("DEVICE_STATUS", 0x14, 1, bits="ACKNOWLEDGE DRIVER DRIVER_OK FEATURES_OK - - NEEDS_RESET FAILED"),
    Register("CONFIG_GENERATION", 0x15, 1, RO),
    Register("QUEUE_SELECT", 0x16, 2),
    Register("QUEUE_SIZE", 0x18, 2),
    Register("QUEUE_MSIX_VECTOR", 0x1A, 2),
    Register("QUEUE_ENABLE", 0x1C, 2),
    Register("QUEUE_NOTIFY_OFF", 0x1E, 2, RO),
    Register("QUEUE_DESC", 0x20, 8),
    Register("QUEUE_DRIVER", 0x28, 8),
    Register("QUEUE_DEVICE", 0x30, 8),
    Register("ISR", ISR, 1, RC, bits="queue config"),
)


_ACCESS_HEAD = bytes([20, _ACCESS_TYPE])
"""Length and kind of the capability for access through configuration space."""


def _structure(kind: int, offset: int, length: int, more: bytes = b"") -> Capability:
    """struct virtio_pci_cap, without its first two bytes (4.1.4)."""
    body = bytes([16 + len(more), kind, 0, 0, 0, 0]) + offset.to_bytes(4, "little") + length.to_bytes(4, "little")
    # What a driver reaches through configuration space, it chooses itself.
    writable = b"\0\0\xff\0\0\0" + b"\xff" * 12 if kind == _ACCESS_TYPE else b""
    return Capability(VENDOR, body + more, writable)


class VirtioDevice(PciDevice):
    """Base class: `kind` is the device ID of chapter 5, `queue_count` the number of queues, `features` are its own."""

    kind = 0
    queue_count = 1
    features = 0

    def __init__(self) -> None:
        self.vendor_id, self.device_id, self.revision = 0x1AF4, 0x1040 + self.kind, 1
        self.subsystem_vendor_id, self.subsystem_id = 0x1AF4, 0x1100
        self.msix = self.queue_count + 1
        self.queues = [Queue() for _ in range(self.queue_count)]
        self.accepted = 0
        """The features that the driver has accepted."""
        self._late: set[int] = set()
        """The queues whose budget was used up: they go on aside."""
        notify = tuple(
            Register(f"NOTIFY{number}", NOTIFY + _NOTIFY_STEP * number, 2, WO) for number in range(self.queue_count)
        )
        self.bars = (Bar(_BAR_SIZE, (*_COMMON, *notify)),)
        self.capabilities = (
            _structure(_COMMON_TYPE, 0, 0x38),
            _structure(_ISR_TYPE, ISR, 1),
            _structure(_DEVICE_TYPE, DEVICE, 0x1000),
            _structure(_NOTIFY_TYPE, NOTIFY, _NOTIFY_STEP * self.queue_count, _NOTIFY_STEP.to_bytes(4, "little")),
            _structure(_ACCESS_TYPE, 0, 0, bytes(4)),
        )
        super().__init__()
        self._access = self.config.data.index(_ACCESS_HEAD) - 2
        self.registers["NUM_QUEUES"] = self.queue_count
        self._show_queue()

    # What a device is

    def device_config(self) -> bytes:
        """The device's own configuration structure."""
        return b""

    def serve(self, number: int, chain: Chain) -> int | None:
        """Do a request of queue `number`: the number of bytes written, or None if it is given back later, by `finish`.

        QueueError for what the driver may not ask for.
        """
        raise NotImplementedError

    # Queues

    def finish(self, number: int, head: int, written: int) -> None:
        """Give a chain back that `serve` has kept."""
        queue = self.queues[number]
        if self._start(queue) and queue.give(head, written):
            self._interrupt(queue.vector)

    def _start(self, queue: Queue) -> bool:
        """Whether the queue is on, with rings in RAM. QueueError if they are elsewhere."""
        if queue.enabled and not queue.is_started and self.dma.memory is not None:
            queue.start(self.dma.memory, events=bool(self.accepted & EVENT_IDX))
        return queue.is_started

    def run_queue(self, number: int) -> None:
        """Serve what is offered in a queue."""
        queue = self.queues[number]
        self._late.discard(number)
        if not self.registers["DEVICE_STATUS"] & DRIVER_OK or self.registers["DEVICE_STATUS"] & NEEDS_RESET:
            return
        if not self.dma.is_master:
            return
        try:
            if not self._start(queue):
                return
            interrupt = False
            left = BUDGET
            while True:
                chain = queue.take()
                if chain is None:
                    if queue.want_notification():
                        break
                    continue
                written = self.serve(number, chain)
                if written is not None:
                    interrupt |= queue.give(chain[0], written)
                left -= max(LEAST, total(chain[1]) + total(chain[2]))
                if left <= 0:
                    self._go_on(number)
                    break
        except (QueueError, DmaError):
            self.fail()
            return
        if interrupt:
            self._interrupt(queue.vector)

    def _go_on(self, number: int) -> None:
        """Serve the rest of a queue once others have had the lock."""
        self._late.add(number)
        if self._slot is not None:
            self._slot.aside(lambda: None, lambda _: self.run_queue(number) if number in self._late else None)

    def fail(self) -> None:
        """Stop until the driver resets the device, and tell it so (2.1.2)."""
        self.registers["DEVICE_STATUS"] |= NEEDS_RESET
        self._interrupt(self.registers["CONFIG_MSIX_VECTOR"], _CONFIG_INTERRUPT)

    def _interrupt(self, vector: int, cause: int = _QUEUE_INTERRUPT) -> None:
        if self.has_msix:
            if vector != NO_VECTOR:
                self.raise_interrupt(vector)
            return
        self.registers["ISR"] |= cause
        self.raise_interrupt()

    # Registers

    def on_read_isr(self) -> int:
        """Reading it is the acknowledgement."""
        self.lower_interrupt()
        return self.registers["ISR"]

    def on_read_device_feature(self) -> int:
        """The word of the features that the selector says."""
        select = self.registers["DEVICE_FEATURE_SELECT"]
        return self._offered >> 32 * select & 0xFFFF_FFFF if select < 2 else 0

    @property
    def _offered(self) -> int:
        return self.features | VERSION_1 | INDIRECT_DESC | EVENT_IDX

    def on_write_driver_feature(self, value: int) -> None:
        """Bits that were not offered are seen when FEATURES_OK is."""
        select = self.registers["DRIVER_FEATURE_SELECT"]
        if select < 2 and not self.registers["DEVICE_STATUS"] & FEATURES_OK:
            self.accepted = self.accepted & ~(0xFFFF_FFFF << 32 * select) | value << 32 * select

    def on_write_driver_feature_select(self, select: int) -> None:
        """Show what was accepted."""
        self.registers["DRIVER_FEATURE"] = self.accepted >> 32 * select & 0xFFFF_FFFF if select < 2 else 0

    def on_write_device_status(self, value: int) -> None:
        """0 resets; FEATURES_OK stays only if the features are ones that can be."""
        if not value:
            self.reset_device()
        elif value & FEATURES_OK and (self.accepted & ~self._offered or not self.accepted & VERSION_1):
            self.registers["DEVICE_STATUS"] &= ~FEATURES_OK

    def on_write_config_msix_vector(self, value: int) -> None:
        """A vector that there is not reads back as none."""
        if value >= self.msix:
            self.registers["CONFIG_MSIX_VECTOR"] = NO_VECTOR

    def on_write_queue_select(self, _: int) -> None:
        """Show that queue."""
        self._show_queue()

    def _selected(self) -> Queue | None:
        number = self.registers["QUEUE_SELECT"]
        return self.queues[number] if number < len(self.queues) else None

    def _show_queue(self) -> None:
        queue, number, registers = self._selected(), self.registers["QUEUE_SELECT"], self.registers
        registers["QUEUE_SIZE"] = queue.size if queue else 0
        registers["QUEUE_MSIX_VECTOR"] = queue.vector if queue else NO_VECTOR
        registers["QUEUE_ENABLE"] = int(queue.enabled) if queue else 0
        registers["QUEUE_NOTIFY_OFF"] = number if queue else 0
        registers["QUEUE_DESC"] = queue.descriptors if queue else 0
        registers["QUEUE_DRIVER"] = queue.available if queue else 0
        registers["QUEUE_DEVICE"] = queue.used if queue else 0

    def _change_queue(self, name: str, value: int) -> None:
        queue = self._selected()
        if queue is not None and not queue.enabled:
            setattr(queue, name, value)
        self._show_queue()

    def on_write_queue_size(self, value: int) -> None:
        """A power of 2, up to what it was."""
        queue = self._selected()
        if queue is not None and 0 < value <= queue.most and not value & value - 1:
            self._change_queue("size", value)
        else:
            self._show_queue()

    def on_write_queue_msix_vector(self, value: int) -> None:
        """A vector that there is not reads back as none. It may change while the queue is on."""
        queue = self._selected()
        if queue is not None:
            queue.vector = value if value < self.msix else NO_VECTOR
        self._show_queue()

    def on_write_queue_desc(self, value: int) -> None:
        """The descriptor area."""
        self._change_queue("descriptors", value)

    def on_write_queue_driver(self, value: int) -> None:
        """The available ring."""
        self._change_queue("available", value)

    def on_write_queue_device(self, value: int) -> None:
        """The used ring."""
        self._change_queue("used", value)

    def on_write_queue_enable(self, value: int) -> None:
        """1 turns the queue on; only a reset turns it off."""
        if value == 1:
            self._change_queue("enabled", True)
        self._show_queue()

    # What a transport serves

    def read_bar(self, bar: int, offset: int, size: int) -> int:
        if DEVICE <= offset < NOTIFY:
            return int.from_bytes(self.device_config()[offset - DEVICE : offset - DEVICE + size], "little")
        return super().read_bar(bar, offset, size)

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> None:
        if offset >= NOTIFY:
            number = (offset - NOTIFY) // _NOTIFY_STEP
            if number < self.queue_count:
                self.run_queue(number)
        else:
            super().write_bar(bar, offset, size, value)

    def read_config(self, at: int) -> int:
        if at == self._access + 16 and (place := self._accessed()) is not None:
            return self.read_window(0, *place)
        return super().read_config(at)

    def write_config(self, at: int, size: int, value: int) -> None:
        super().write_config(at, size, value)
        if self._access + 16 <= at < self._access + 20 and (place := self._accessed()) is not None:
            self.write_window(0, *place, value & (1 << 8 * place[1]) - 1)

    def _accessed(self) -> tuple[int, int] | None:
        """(offset, size) in BAR 0 of what the driver reaches through configuration space; None if it is nothing."""
        data, at = self.config.data, self._access
        offset, length = self.config.read(at + 8), self.config.read(at + 12)
        good = data[at + 4] == 0 and length in (1, 2, 4) and offset % length == 0 and offset + length <= _BAR_SIZE
        return (offset, length) if good else None

    # State

    def reset_device(self) -> None:
        for queue in self.queues:
            queue.reset()
        self.accepted = 0
        self._late.clear()
        self.reset_registers()
        self.registers["NUM_QUEUES"] = self.queue_count
        self._show_queue()
        self.lower_interrupt()

    def save(self) -> State:
        queues = [queue.save() for queue in self.queues]
        return {**super().save(), "accepted": self.accepted, "queues": queues, "late": sorted(self._late)}

    def restore(self, state: State) -> None:
        accepted, queues, late = state.get("accepted"), state.get("queues"), state.get("late")
        if type(accepted) is not int or not 0 <= accepted < 1 << 64:
            raise ValueError(f"{self.name}: 'accepted' cannot be {accepted!r:.40}")
        if not isinstance(queues, Sequence) or len(queues) != len(self.queues):
            raise ValueError(f"{self.name}: 'queues' is not of {len(self.queues)} queues")
        if not isinstance(late, list) or not all(number in range(len(self.queues)) for number in late):
            raise ValueError(f"{self.name}: 'late' is no list of queues")
        checked: list[dict[str, Any]] = [queue.check(saved) for queue, saved in zip(self.queues, queues, strict=True)]
        super().restore(state)
        self.accepted = accepted
        for queue, saved in zip(self.queues, checked, strict=True):
            queue.restore(saved)
        self._late.clear()
        for number in late:
            self._go_on(number)
