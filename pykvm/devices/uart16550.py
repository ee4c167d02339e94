"""The 16550A UART of a PC's COM port.

Implements: National Semiconductor / Texas Instruments PC16550D data sheet, section 8 (registers, FIFO and interrupt
operation); the gate by OUT2 is the IBM PC/AT Technical Reference's (serial adapter). What is simpler than the chip:
characters take no time on the line, are 8 bits whatever LCR says of their length, and never have parity or framing
errors; a transmitter that cannot send (the backend is not `ready`) is a line that has stopped.
"""

from __future__ import annotations

from collections import deque

from ..console import CharBackend
from ..device import Device, IrqLine, Range, State, bit_names, character

FIFO_SIZE = 16

# Register offsets. 0 and 1 are the divisor latch while LCR.DLAB is set.
RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR = 3
MCR = 4
LSR = 5
MSR = 6
SCR = 7

IER_RECEIVED, IER_THRE, IER_LINE, IER_MODEM = 1, 2, 4, 8

IIR_MODEM, IIR_NONE, IIR_THRE, IIR_RECEIVED, IIR_LINE, IIR_TIMEOUT = 0x0, 0x1, 0x2, 0x4, 0x6, 0xC
IIR_FIFO = 0xC0

FCR_ENABLE, FCR_CLEAR_RECEIVER, FCR_CLEAR_TRANSMITTER = 1, 2, 4
TRIGGERS = (1, 4, 8, 14)
"""Characters in the receiver FIFO that raise the received data interrupt, by FCR bits 7:6."""

LCR_DLAB = 0x80

MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 16

LSR_DR, LSR_OE, LSR_PE, LSR_FE, LSR_BI, LSR_THRE, LSR_TEMT, LSR_FIFO_ERROR = 1, 2, 4, 8, 16, 32, 64, 128
LSR_EMPTY = LSR_THRE | LSR_TEMT
LSR_CHAR_ERRORS = LSR_PE | LSR_FE | LSR_BI
LSR_ERRORS = LSR_OE | LSR_CHAR_ERRORS

MSR_DELTAS, MSR_TERI = 0x0F, 0x04
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 16, 32, 64, 128
MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD
"""The modem lines as a peer that is present and listening drives them."""

_READ_NAMES = ("RBR", "IER", "IIR", "LCR", "MCR", "LSR", "MSR", "SCR")
_WRITE_NAMES = ("THR", "IER", "FCR", "LCR", "MCR", "LSR", "MSR", "SCR")
_BITS = {
    "IER": "received THRE line modem",
    "FCR": "enable clear-rx clear-tx - - - trigger0 trigger1",
    "MCR": "DTR RTS OUT1 OUT2 loop",
    "LSR": "DR OE PE FE BI THRE TEMT FIFO-error",
    "MSR": "DCTS DDSR TERI DDCD CTS DSR RI DCD",
}
_IIR_WORDS = {
    IIR_MODEM: "modem", IIR_NONE: "no interrupt", IIR_THRE: "THRE", IIR_RECEIVED: "received", IIR_LINE: "line status",
    IIR_TIMEOUT: "timeout",
}  # fmt: skip

_BYTE = [bytes((value,)) for value in range(256)]

_STATE_LIMITS = {
    "ier": 0x0F, "fcr": 0xC1, "lcr": 0xFF, "mcr": 0x1F, "msr": 0xFF, "scr": 0xFF, "divisor": 0xFFFF,
    "errors": LSR_ERRORS, "thre_pending": 1,
}  # fmt: skip
"""The registers in a saved state and the largest value of each."""


class Uart16550(Device):
    """A 16550A at the eight ports from `base` on.

    The interrupt request goes out through `irq` while MCR.OUT2 is set. Input is pulled from `backend` when there is
    room for it, so only loopback can overrun the receiver; and, unless its interrupt is enabled, at the moment when
    the guest looks for it (in LSR, RBR or IIR): what is typed or piped in early would else be lost when the guest sets
    the chip up, which clears the FIFOs.
    """

    width = 1

    def __init__(self, name: str, base: int, irq: IrqLine, backend: CharBackend) -> None:
        self.name = name
        self.ports = (Range(base, 8),)
        self._irq = irq
        self._backend = backend
        self._rx: deque[int] = deque()
        """Received characters, each with its LSR error bits shifted left by 8: at most 16, or 1 with FIFOs off."""
        self._tx = bytearray()
        """What waits for the backend to become ready: at most 16 characters, or 1 with FIFOs off."""
        self.reset()
        backend.connect(self._on_input, self._on_ready)
        self._on_input()

    def reset(self) -> None:
        self._ier = 0
        self._fcr = 0
        self._lcr = 0
        self._mcr = 0
        self._msr = MSR_CONNECTED
        self._scr = 0
        self._divisor = 12
        self._errors = 0
        self._thre_pending = 0
        self._rx.clear()
        self._tx.clear()
        self._pull()
        self._update()

    # -- What the guest does ------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        if offset == LSR:
            if self._input_waits:
                self._take_input()
            lsr = self._lsr
            if lsr & LSR_ERRORS:
                self._errors = 0
                self._update()
            return lsr | LSR_EMPTY if self._backend.ready else lsr
        if offset == RBR:
            if self._lcr & LCR_DLAB:
                return self._divisor & 0xFF
            return self._read_rbr()
        if offset == IIR:
            if self._input_waits:
                self._take_input()
            iir = self._iir
            if iir == IIR_THRE:
                self._thre_pending = 0
                self._update()
            return iir | IIR_FIFO if self._fcr else iir
        if offset == MSR:
            msr = self._msr
            if msr & MSR_DELTAS:
                self._msr = msr & ~MSR_DELTAS
                self._update()
            return msr
        if offset == IER:
            return self._divisor >> 8 if self._lcr & LCR_DLAB else self._ier
        if offset == LCR:
            return self._lcr
        if offset == MCR:
            return self._mcr
        return self._scr

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == THR:
            if self._plain_output and self._backend.ready:
                self._backend.write(_BYTE[value])
            elif self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            else:
                self._transmit(_BYTE[value])
        elif offset == IER:
            if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0xFF | value << 8
            else:
                self._write_ier(value & 0x0F)
        elif offset == FCR:
            self._write_fcr(value)
        elif offset == LCR:
            self._lcr = value
            self._update()
        elif offset == MCR:
            self._write_mcr(value & 0x1F)
        elif offset == SCR:
            self._scr = value
        # LSR and MSR are read-only: writing them is the factory's test mode.

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        if offset != THR or self._lcr & LCR_DLAB:
            super().write_block(offset, size, data)
        elif self._plain_output and self._backend.ready:
            self._backend.write(data)
        else:
            self._transmit(data)

    def register_name(self, offset: int, size: int, value: int | None) -> str:
        if offset <= IER and self._lcr & LCR_DLAB:
            return ("DLL", "DLM")[offset]
        return (_READ_NAMES if value is None else _WRITE_NAMES)[offset]

    def explain(self, register: str, value: int, is_write: bool) -> str:
        if register in ("RBR", "THR"):
            return character(value)
        if register == "IIR":
            return _IIR_WORDS.get(value & 0xF, "") + (", FIFOs" if value & IIR_FIFO else "")
        if register == "LCR":
            parity = "N" if not value & 8 else "OEMS"[value >> 4 & 3]  # odd, even, mark, space
            words = f"{(value & 3) + 5}{parity}{2 if value & 4 else 1}"
            return words + (" break" if value & 0x40 else "") + (" DLAB" if value & LCR_DLAB else "")
        return bit_names(value, _BITS.get(register, ""))

    def _read_rbr(self) -> int:
        if self._input_waits and not self._rx:
            self._take_input()
        if not self._rx:
            return 0
        character = self._rx.popleft() & 0xFF
        self._pull()
        self._update()
        return character

    def _write_ier(self, value: int) -> None:
        rising = value & ~self._ier
        self._ier = value
        self._pull()
        if rising & IER_THRE:
            # The data sheet is silent on an interrupt that was masked or taken before, but the chip asks again each
            # time it is enabled with THR empty, and drivers start their output this way.
            self._thre_pending = int(self._can_send())
        elif not value & IER_THRE:
            self._thre_pending = 0
        self._update()

    def _write_fcr(self, value: int) -> None:
        enable = value & FCR_ENABLE
        changed = enable != self._fcr & FCR_ENABLE
        if changed or value & (FCR_ENABLE | FCR_CLEAR_RECEIVER) == FCR_ENABLE | FCR_CLEAR_RECEIVER:
            self._rx.clear()
            self._errors &= ~LSR_CHAR_ERRORS
        if changed or value & (FCR_ENABLE | FCR_CLEAR_TRANSMITTER) == FCR_ENABLE | FCR_CLEAR_TRANSMITTER:
            self._tx.clear()
        self._fcr = value & 0xC1 if enable else 0
        self._update()
        self._pull()

    def _write_mcr(self, value: int) -> None:
        self._mcr = value
        if value & MCR_LOOP:
            lines = (
                (MSR_DSR if value & MCR_DTR else 0)
                | (MSR_CTS if value & MCR_RTS else 0)
                | (MSR_RI if value & MCR_OUT1 else 0)
                | (MSR_DCD if value & MCR_OUT2 else 0)
            )
        else:
            lines = MSR_CONNECTED
        # Each line's delta bit lies four below it; RI's tells of its trailing edge only.
        changed = (self._msr ^ lines) >> 4
        if lines & MSR_RI:
            changed &= ~MSR_TERI
        self._msr = lines | self._msr & MSR_DELTAS | changed
        self._pull()
        self._update()

    # -- The line -----------------------------------------------------------------------------------------------------

    def receive_break(self) -> None:
        """The peer holds the line in the break state: one null character with LSR.BI set; lost where there is no room.

        Linux answers a break on its console with the magic SysRq key.
        """
        if self._input_waits:
            self._take_input()
        if not self._mcr & MCR_LOOP and self._room():
            self.moved_by_host = True
            self._rx.append(LSR_BI << 8)
            self._update()

    def _can_send(self) -> bool:
        return self._backend.ready or bool(self._mcr & MCR_LOOP)

    def _room(self) -> int:
        return (FIFO_SIZE if self._fcr else 1) - len(self._rx)

    def _transmit(self, data: bytes) -> None:
        """Characters written to THR: out to the backend, held for it, or round to the receiver."""
        self._thre_pending = 0
        self._update()
        if self._mcr & MCR_LOOP:
            for character in data:
                self._loop_back(character)
        elif self._backend.ready:
            self._send(data)
        elif self._fcr:
            self._tx += data[: FIFO_SIZE - len(self._tx)]
        else:
            self._tx[:] = data[-1:]
        if self._ier & IER_THRE and self._can_send():
            self._thre_pending = 1
        self._update()

    def _send(self, data: bytes = b"") -> None:
        held = bytes(self._tx)
        self._tx.clear()
        self._backend.write(held + data)

    def _loop_back(self, character: int) -> None:
        if self._room():
            self._rx.append(character)
            return
        self._errors |= LSR_OE
        if not self._fcr:
            self._rx[0] = character

    def _pull(self) -> None:
        """Input may have come, or there is room for more: take it, or leave it until the guest looks."""
        self._input_waits = True
        if self._ier & IER_RECEIVED:
            self._take_input()

    def _take_input(self) -> bool:
        """Take as much input as there is room for: whether any came. The serial input is cut off in loopback mode."""
        self._input_waits = False
        if self._mcr & MCR_LOOP or not (room := self._room()):
            return False
        data = self._backend.read(room)[:room]
        self._rx.extend(data)
        self._update()
        return bool(data)

    def _on_input(self) -> None:
        self.moved_by_host = True
        self._pull()
        self._update()

    def _on_ready(self) -> None:
        self.moved_by_host = True
        if self._tx and self._backend.ready:
            self._send()
        if self._ier & IER_THRE and self._can_send():
            self._thre_pending = 1
        self._update()

    # -- What follows from the registers ------------------------------------------------------------------------------

    def _update(self) -> None:
        """Recompute what is derived: LSR (less the transmitter's bits), the interrupt identification, the IRQ line."""
        rx = self._rx
        if rx and rx[0] > 0xFF:  # a character's errors show when it comes to the top of the FIFO
            self._errors |= rx[0] >> 8
            rx[0] &= 0xFF
        lsr = self._errors
        if rx:
            lsr |= LSR_DR
        if self._fcr and (lsr & LSR_CHAR_ERRORS or any(entry > 0xFF for entry in rx)):
            lsr |= LSR_FIFO_ERROR
        if self._mcr & MCR_LOOP:
            lsr |= LSR_EMPTY
        self._lsr = lsr

        ier = self._ier
        if ier & IER_LINE and lsr & LSR_ERRORS:
            iir = IIR_LINE
        elif ier & IER_RECEIVED and rx:
            # Four character times pass at once: characters below the trigger level have timed out already.
            iir = IIR_TIMEOUT if self._fcr and len(rx) < TRIGGERS[self._fcr >> 6] else IIR_RECEIVED
        elif self._thre_pending:
            iir = IIR_THRE
        elif ier & IER_MODEM and self._msr & MSR_DELTAS:
            iir = IIR_MODEM
        else:
            iir = IIR_NONE
        self._iir = iir
        self._irq.set(iir != IIR_NONE and bool(self._mcr & MCR_OUT2))

        # True when a character written to THR goes to a ready backend and has no other effect.
        self._plain_output = not (self._lcr & LCR_DLAB or self._mcr & MCR_LOOP or ier & IER_THRE or self._tx)

    # -- State --------------------------------------------------------------------------------------------------------

    def save(self) -> State:
        state: State = {name: getattr(self, f"_{name}") for name in _STATE_LIMITS}
        return {**state, "rx": list(self._rx), "tx": bytes(self._tx), "stalled": not self._backend.ready}

    def restore(self, state: State) -> None:
        values = {}
        for name, most in _STATE_LIMITS.items():
            value = state.get(name)
            if type(value) is not int or not 0 <= value <= most:
                raise ValueError(f"{self.name}: state field {name!r} is {value!r}, not a number in 0..{most:#x}")
            values[name] = value
        rx, tx = state.get("rx"), state.get("tx")
        fcr = values["fcr"]
        room = FIFO_SIZE if fcr else 1
        if (
            not isinstance(rx, list)
            or len(rx) > room
            or not all(type(entry) is int and entry >= 0 and not entry & ~(LSR_CHAR_ERRORS << 8 | 0xFF) for entry in rx)
        ):
            raise ValueError(f"{self.name}: state field 'rx' is not a list of at most {room} received characters")
        if not isinstance(tx, bytes) or len(tx) > room:
            raise ValueError(f"{self.name}: state field 'tx' is not at most {room} bytes")
        stalled = state.get("stalled")
        if type(stalled) is not bool:
            raise ValueError(f"{self.name}: state field 'stalled' is not a truth value")
        if (fcr and not fcr & FCR_ENABLE) or (values["thre_pending"] and not values["ier"] & IER_THRE):
            raise ValueError(f"{self.name}: the registers of this state contradict each other")
        for name, value in values.items():
            setattr(self, f"_{name}", value)
        self._rx = deque(rx)
        self._tx = bytearray(tx)
        self._update()
        self._input_waits = True
        self.moved_by_host = bool(self._ier & IER_RECEIVED) and self._take_input()
        if stalled and self._backend.ready:  # nobody else will say that it has become ready
            self._on_ready()
