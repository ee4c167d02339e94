"""A PCI card: the base class of devices that a driver finds by their identity, wherever the guest puts them.

Implements: PCI Local Bus Specification 3.0, 2.2.6 and 6.2.4 (interrupt pins), 6.2.5 (base addresses), 6.8 (messages),
4.3.2 (RST#). The parts are in `config`, `registers`, `messages` and `dma`; docs/pci.md goes through an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ...device import Aside, Device, Range, State, bit_names
from ...errors import ConfigError
from ...memory import GuestMemory
from ...typed import Protocol
from .config import INTERRUPT, MAX_BARS, NO_INTX, STATUS, Bar, Capability, ConfigSpace, Identity
from .dma import Dma, DmaError
from .messages import Msi, MsiX, bar_size, msix_capability
from .registers import RegisterFile

MESSAGES = range(0xFEE0_0000, 0xFEF0_0000)
"""Where a memory write is a message to local APICs (Intel SDM volume 3A, 11.11.1); elsewhere it is one to RAM."""
MOST_VECTORS = 2048


class Slot(Protocol):
    """What a card has of the board that it stands on. With the machine's lock held."""

    @property
    def memory(self) -> GuestMemory:
        """RAM."""

    @property
    def aside(self) -> Aside:
        """Who does what takes long, or is to go on once others have had the lock."""

    def decode(self) -> None:
        """Where the card's BARs are decoded may have changed."""

    def interrupt(self) -> None:
        """The level of the card's pin may have changed."""

    def message(self, address: int, data: int) -> None:
        """A message to the local APICs."""


class PciDevice(Device):
    """Base class of PCI cards. A subclass says what it is by these attributes, and has methods for its registers.

    `on_read_NAME()` gives what a guest's read of the register NAME yields, and `on_write_NAME(value)` is told of a
    write; without them a register is storage, in `self.registers`. `read_bar` and `write_bar` serve what is no
    register. `raise_interrupt`, `lower_interrupt` and `dma` are what a card can do by itself. All are called, and to be
    called, with the machine's lock held.

    ConfigError for a card that cannot be.
    """

    moved_by_host = True
    is_card = True

    vendor_id = 0x1234
    device_id = 0
    class_code = 0xFF0000
    """Base class, subclass, programming interface; 0xFF0000 is a device of no class."""
    revision = 0
    subsystem_vendor_id = 0
    subsystem_id = 0
    bars: Sequence[Bar] = ()
    interrupt_pin = 1
    """1 to 4 for INTA to INTD; 0 for a card without."""
    msi = 0
    """Number of MSI vectors: a power of 2 up to 32."""
    msix = 0
    """Number of MSI-X vectors, up to 2048. Their table has a BAR of its own, behind `bars`."""
    capabilities: Sequence[Capability] = ()
    slot: int | None = None
    """The device number on bus 0, 3 to 31; None: the first that is free."""

    def __init__(self) -> None:
        self.name = self.name or type(self).__name__
        bars, capabilities = list(self.bars), list(self.capabilities)
        self._msix_bar = -1
        if self.msix:
            if not 0 < self.msix <= MOST_VECTORS:
                raise ConfigError(f"{self.name}: {self.msix} MSI-X vectors are not possible: give 1 to {MOST_VECTORS}")
            self._msix_bar = len(bars)
            place = sum(2 if bar.wide else 1 for bar in bars)
            capabilities.append(msix_capability(self.msix, min(place, MAX_BARS)))
            bars.append(Bar(bar_size(self.msix)))
        if self.interrupt_pin not in range(5):
            raise ConfigError(f"{self.name}: interrupt pin {self.interrupt_pin!r} is not possible: give 0 to 4")
        identity = Identity(
            self.vendor_id,
            self.device_id,
            self.class_code,
            self.revision,
            self.subsystem_vendor_id,
            self.subsystem_id,
        )
        self.config = ConfigSpace(identity, bars, self.interrupt_pin, self.msi, capabilities)
        self.dma = Dma(self.config)
        self.windows = [Window(self, number, bar) for number, bar in enumerate(bars)]
        """The BARs, each as a device that is on a bus while it is decoded."""
        self._file = RegisterFile(self, [bar.registers for bar in bars])
        self._msi = Msi(self.config, self._send) if self.msi else None
        self._msix = MsiX(self.config, self.msix, self._send) if self.msix else None
        self._slot: Slot | None = None
        self._level = False
        self._lose = 0

    @property
    def has_msix(self) -> bool:
        """Whether the driver has turned MSI-X on."""
        return self._msix is not None and self._msix.enabled

    @property
    def registers(self) -> dict[str, int]:
        """The registers' values by name."""
        return self._file.values

    # What a card does by itself

    def raise_interrupt(self, vector: int = 0) -> None:
        """Interrupt: by a message if the driver has turned MSI-X or MSI on, else by the pin, which stays up."""
        if self._lose:
            self._lose -= 1
            return
        if self._msix is not None and self.has_msix:
            self._msix.raise_(vector)
        elif self._msi is not None and self._msi.enabled:
            self._msi.raise_(vector)
        elif not self._level:
            self._set_level(True)

    def lower_interrupt(self) -> None:
        """Take the pin back: what it asked for has been seen to."""
        if self._level:
            self._set_level(False)

    def _set_level(self, level: bool) -> None:
        self._level = level
        self.config.set(STATUS, 2, INTERRUPT, level)
        if self._slot is not None:
            self._slot.interrupt()

    @property
    def pin_level(self) -> bool:
        """Whether the card pulls its interrupt pin."""
        return (
            self._level
            and not self.config.command & NO_INTX
            and not self.has_msix
            and not (self._msi is not None and self._msi.enabled)
        )

    def _send(self, address: int, data: int) -> None:
        if address in MESSAGES:
            if self.dma.is_master and self._slot is not None:
                self._slot.message(address, data)
            return
        with suppress(DmaError):  # a memory write like any other, and lost like any other
            self.dma.write(address, data.to_bytes(4, "little"))

    # Faults, for those who write drivers

    def hot_reset(self) -> None:
        """Pull RST# at this slot alone: registers and configuration space, addresses included, are as at power-on."""
        self._reset(assigned=False)

    def fail_dma(self, count: int = 1) -> None:
        """Have the next `count` transfers end in a target abort."""
        self.dma.failing = count

    def lose_interrupts(self, count: int = 1) -> None:
        """Have the next `count` interrupts get lost."""
        self._lose = count

    # What a card serves

    def read_bar(self, bar: int, offset: int, size: int) -> int:
        """What the guest reads at `offset` of a BAR, by its index in `bars`."""
        return self._file.read(bar, offset, size)

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> None:
        """Take what the guest writes there."""
        self._file.write(bar, offset, size, value)

    def read_config(self, at: int) -> int:
        """What the guest reads in configuration space: the double word at `at`."""
        return self.config.read(at)

    def write_config(self, at: int, size: int, value: int) -> None:
        """Take what the guest writes to the configuration space."""
        self.config.write(at, size, value)
        if self._msi is not None:
            self._msi.written()
        if self._msix is not None:
            self._msix.written()
        self._moved()

    def reset_registers(self) -> None:
        """Put all registers to their values after a reset: for a driver that resets the device by one of them."""
        self._file.reset()

    def reset_device(self) -> None:
        """Put what a subclass has beside its registers to its state after a reset."""

    # The machine's side

    def plugged(self, slot: Slot | None, number: int | None) -> None:
        """The card has come into a slot of the board, or out of it (None)."""
        self._slot, self.slot = slot, number
        self.show_spans()
        self.dma.memory = None if slot is None else slot.memory

    def show_spans(self) -> None:
        """Say in `ports` and `mmio` where the BARs are now."""
        self.ports = [span for window in self.windows for span in window.ports]
        self.mmio = [span for window in self.windows for span in window.mmio]

    def read_window(self, bar: int, offset: int, size: int) -> int:
        """A guest's read of a BAR."""
        if bar == self._msix_bar and self._msix is not None:
            return self._msix.read(offset, size)
        try:
            return self.read_bar(bar, offset, size)
        except DmaError:
            return (1 << 8 * size) - 1

    def write_window(self, bar: int, offset: int, size: int, value: int) -> None:
        """A guest's write to a BAR."""
        if bar == self._msix_bar and self._msix is not None:
            self._msix.write(offset, size, value)
            return
        with suppress(DmaError):  # as far as it came: the bus has no way to tell the CPU
            self.write_bar(bar, offset, size, value)

    def window_register(self, bar: int, offset: int) -> str:
        """What traces call a place in a BAR."""
        if bar == self._msix_bar and self._msix is not None:
            return "MSI-X pending" if offset >= self._msix.pba else f"MSI-X vector {offset // 16}"
        register = self._file.at(bar, offset)
        if register is None:
            return f"BAR{bar} +{offset:#x}"
        return register.name if offset == register.offset else f"{register.name} +{offset - register.offset}"

    def meaning(self, register: str, value: int) -> str:
        """The names of a register's bits that are set in `value`."""
        found = self._file.registers.get(register)
        return bit_names(value, found.bits) if found is not None and found.bits else ""

    @property
    def place(self) -> str:
        return f"00:{self.slot or 0:02x}.0"

    def reset(self) -> None:
        self._reset(assigned=True)

    def _reset(self, *, assigned: bool) -> None:
        self.config.reset()
        if assigned and self.config.assigned:
            self.config.assign()
        self._file.reset()
        if self._msix is not None:
            self._msix.reset()
        self._level = False
        self.dma.failing = self._lose = 0
        self.reset_device()
        self._moved()

    def _moved(self) -> None:
        if self._slot is not None:
            self._slot.decode()
            self._slot.interrupt()

    def save(self) -> State:
        state: State = {
            "config": bytes(self.config.data),
            "registers": dict(self.registers),
            "interrupt": self._level,
            "lose": self._lose,
            "fail": self.dma.failing,
        }
        if self._msix is not None:
            state["msix"] = self._msix.save()
        return state

    def restore(self, state: State) -> None:
        """Take back what `save` returned. A subclass checks what is its own first, and then has this do the rest."""
        try:
            config = self.config.check(state.get("config"))
            registers = self._file.check(state.get("registers"))
            msix = self._msix.check(state.get("msix")) if self._msix is not None else None
            level, lose, fail = state.get("interrupt"), state.get("lose"), state.get("fail")
            if type(level) is not bool or bool(config[STATUS] & INTERRUPT) != level:
                raise ValueError(f"'interrupt' cannot be {level!r:.20}")
            for name, count in (("lose", lose), ("fail", fail)):
                if type(count) is not int or count < 0:
                    raise ValueError(f"{name!r} is {count!r:.20}, not a number of times")
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self.config.data[:] = config
        self.registers.update(registers)
        if self._msix is not None and msix is not None:
            self._msix.table[:], self._msix.pending = msix
        assert type(lose) is int
        assert type(fail) is int
        self._level, self._lose, self.dma.failing = level, lose, fail
        self._moved()


class Window(Device):
    """A BAR of a card while it is decoded: what stands on the bus, at the place that the guest has chosen."""

    has_state = False

    def __init__(self, card: PciDevice, number: int, bar: Bar) -> None:
        self.name = card.name
        self.width = 4 if bar.is_io else 8
        self.card, self._number, self._bar = card, number, bar

    def move(self, base: int | None) -> None:
        """Be at `base`, or nowhere. Not while it is on a bus."""
        spans = () if base is None else (Range(base, self._bar.size),)
        if self._bar.is_io:
            self.ports = spans
        else:
            self.mmio = spans

    def read(self, offset: int, size: int) -> int:
        return self.card.read_window(self._number, offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.card.write_window(self._number, offset, size, value)

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        return self.card.window_register(self._number, offset)

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return self.card.meaning(register, value)
