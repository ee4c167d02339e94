"""Novell NE2000, the 16-bit ISA Ethernet board: a DP8390D, 16 KiB of packet RAM and a station address PROM.

There is no data sheet of the board. What it does is known from its clones' (Realtek RTL8019AS, section 5; Winbond
W89C902) and from the drivers that probe for it. Of its 32 ports 0x00-0x0F are the chip's registers, 0x10-0x17 the
data port, through which the host does the chip's "remote DMA" by hand, and 0x18-0x1F the reset port. The chip's
64 KiB of address space hold the PROM at 0 and RAM at 0x4000-0x7FFF. Elsewhere there is nothing, which reads all ones:
that is how drivers tell an NE2000 from an NE1000, whose RAM is at 0x2000.

The chip's wire takes no time, but string output takes none either: of one block only `FRAMES_AT_ONCE` frames are sent,
as if the transmitter were still busy when the others are asked for. To set TXP again does nothing then.
"""

from __future__ import annotations

from ..device import Device, IrqLine, Range, State
from ..errors import ConfigError
from ..net import NetBackend
from .dp8390 import Dp8390
from .dp8390_registers import CR_TXP, explain, register_name

RAM = Range(0x4000, 0x4000)
"""Packet RAM in the chip's address space."""

FRAMES_AT_ONCE = 64
"""More than fit on a wire of 10 Mbit/s while an ISA bus takes the largest block of string output, 4096 items."""

COMMAND = 0
DATA_PORT = 0x10
RESET_PORT = 0x18
PORTS = 0x20


class Ne2000(Device):
    """One board at 32 ports from `base` on, with the station address `mac` (six bytes) in its PROM."""

    width = 4

    def __init__(self, name: str, base: int = 0x300, *, irq: IrqLine, backend: NetBackend, mac: bytes) -> None:
        if len(mac) != 6:
            raise ConfigError(f"{name}: a station address has 6 bytes, not {len(mac)}")
        self.name = name
        self.ports = [Range(base, PORTS)]
        self._memory = bytearray(b"\xff") * 0x10000
        self._memory[RAM.base : RAM.end] = bytes(RAM.length)
        self.mac = bytes(mac)
        self._burn_prom()
        self.chip = Dp8390(irq, backend.send, self._memory, RAM)
        backend.connect(self.chip.receive)

    def _burn_prom(self) -> None:
        """16 bytes, each seen twice since the PROM ignores address line 0; "WW" at the end marks a 16-bit slot."""
        prom = self.mac + bytes(8) + b"WW"
        self._memory[:32] = bytes(byte for byte in prom for _ in range(2))

    def reset(self) -> None:
        self._memory[RAM.base : RAM.end] = bytes(RAM.length)
        self.chip.power_on()

    def read(self, offset: int, size: int) -> int:
        if DATA_PORT <= offset < RESET_PORT:
            if size == 2 and self.chip.word_wide:
                return int.from_bytes(self.chip.remote_read(2), "little")
            return int.from_bytes(self.read_block(offset, size, 1), "little")
        if size > 1:
            # Only the data port is 16 bits wide: the bus makes byte accesses of anything else.
            return sum(self.read(offset + lane, 1) << 8 * lane for lane in range(size))
        if offset < DATA_PORT:
            return self.chip.read(offset)
        self._touch_reset()
        return 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        if DATA_PORT <= offset < RESET_PORT:
            self.write_block(offset, size, value.to_bytes(size, "little"))
        elif size > 1:
            for lane in range(size):
                self.write(offset + lane, 1, value >> 8 * lane & 0xFF)
        elif offset < DATA_PORT:
            self.chip.write(offset, value)
        else:
            self._touch_reset()

    def _touch_reset(self) -> None:
        """Novell's board enters reset with a read and leaves it with a write; clones take either for the whole pulse.

        A second reset right after the first changes nothing, so resetting at both suits the drivers of all of them.
        """
        self.chip.reset()

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        if offset < DATA_PORT:
            return register_name(self.chip.command, offset, value is not None)
        return "data port" if offset < RESET_PORT else "reset port"

    def explain(self, register: str, value: int, is_write: bool) -> str:
        return explain(register, value)

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        if not DATA_PORT <= offset < RESET_PORT:
            return super().read_block(offset, size, count)
        if self.chip.word_wide:
            if size > 1:
                return self.chip.remote_read(size * count)
            return self.chip.remote_read(2 * count)[::2]
        if size == 1:
            return self.chip.remote_read(count)
        # The chip moves one byte a bus cycle, on the low lane; nobody drives the high one.
        lanes = bytearray(b"\xff") * (size * count)
        lanes[::2] = self.chip.remote_read(size * count // 2)
        return bytes(lanes)

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        if not DATA_PORT <= offset < RESET_PORT:
            super().write_block(offset, size, _with_few_frames(size, data) if offset == COMMAND else data)
        elif (size > 1) == self.chip.word_wide:
            self.chip.remote_write(data)
        elif size > 1:
            self.chip.remote_write(data[::2])
        else:
            words = bytearray(2 * len(data))
            words[::2] = data
            self.chip.remote_write(words)

    def save(self) -> State:
        ram = bytes(self._memory[RAM.base : RAM.end])
        return {"mac": self.mac, "ram": ram, "chip": self.chip.save()}

    def restore(self, state: State) -> None:
        if not isinstance(state, dict) or state.keys() != {"mac", "ram", "chip"}:
            raise ValueError(f"{self.name}: not the state of an NE2000")
        for key, length in (("mac", len(self.mac)), ("ram", RAM.length)):
            if type(state[key]) is not bytes or len(state[key]) != length:
                raise ValueError(f"{self.name}: {key} must be {length} bytes")
        try:
            self.chip.restore(state["chip"])
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self.mac = state["mac"]
        self._burn_prom()
        self._memory[RAM.base : RAM.end] = state["ram"]


def _with_few_frames(size: int, data: bytes) -> bytes:
    """Writes of `size` bytes to the command register of which not too many ask for a transmission."""
    asking = [at for at in range(0, len(data), size) if data[at] & CR_TXP]
    if len(asking) <= FRAMES_AT_ONCE:
        return data
    fewer = bytearray(data)
    for at in asking[FRAMES_AT_ONCE:]:
        fewer[at] &= ~CR_TXP
    return bytes(fewer)
